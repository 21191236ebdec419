/* Token files of what a model writes: each document is what the model alone would draw, whatever is
 * drawn beside it; their order, the held-out tail, what is refused, failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/random.h"
#include "bitloom/bitloom.h"
#include "tiny_model.h"

enum { DOC_TOKENS = 40, N_TOKENS = 400, SEED = 5 };

static char path[64];
static bl_model *model;
static bl_tokenizer *tokenizer;

static bl_data_generate_params make_params(void) {
    return (bl_data_generate_params){
        .n_tokens = N_TOKENS,
        .doc_tokens = DOC_TOKENS,
        .n_threads = 1,
        .sampler = {.temperature = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = SEED}};
}

static bl_data *generate(const bl_data_generate_params *params) {
    bl_data_info info;
    bl_data *data = NULL;
    bl_error err;
    if (bl_data_generate(model, tokenizer, params, path, &info, &err) != BL_OK ||
        bl_data_open(path, &data, &err) != BL_OK || bl_data_check(data, &err) != BL_OK ||
        bl_data_match(data, tokenizer, &err) != BL_OK)
        fail_msg("%s", err.message);
    bl_data_info found = bl_data_get_info(data);
    assert_memory_equal(&found, &info, sizeof info);
    assert_true(info.n_tokens >= params->n_tokens && info.text_bytes > info.n_tokens);
    return data;
}

/* Document number doc, by a session and a sampler of its own. */
static size_t draw_alone(size_t doc, bl_token ids[DOC_TOKENS]) {
    bl_data_generate_params params = make_params();
    bl__random seeds;
    bl_session *session = NULL;
    bl_sampler *sampler = NULL;
    size_t n = 1;
    bl__random_seed(&seeds, SEED);
    for (size_t i = 0; i <= doc; i++)
        params.sampler.seed = bl__random_u64(&seeds);
    assert_int_equal(bl_session_create(model, &(bl_session_params){.n_threads = 1}, &session, NULL),
                     BL_OK);
    assert_int_equal(
        bl_sampler_create(&params.sampler, bl_model_get_info(model)->vocab, &sampler, NULL), BL_OK);
    for (ids[0] = bl_tokenizer_bos(tokenizer); n < DOC_TOKENS; n++) {
        assert_int_equal(bl_session_eval(session, &ids[n - 1], 1, NULL, NULL), BL_OK);
        ids[n] = bl_sampler_sample(sampler, bl_session_logits(session));
        if (ids[n] == bl_tokenizer_eos(tokenizer)) {
            n++;
            break;
        }
    }
    bl_sampler_free(sampler);
    bl_session_free(session);
    return n;
}

static void documents_are_drawn_as_alone(void **state) {
    (void)state;
    for (uint32_t n_parallel = 1; n_parallel < 8; n_parallel += 3) {
        bl_data_generate_params params = make_params();
        params.n_parallel = n_parallel;
        params.valid_share = 0.25;
        bl_data *data = generate(&params);
        bl_data_info info = bl_data_get_info(data);
        assert_true(info.n_docs >= N_TOKENS / DOC_TOKENS);
        assert_true(info.n_train_tokens < info.n_tokens && info.n_train_tokens > N_TOKENS / 2);
        for (size_t doc = 0; doc < info.n_docs; doc++) {
            bl_token alone[DOC_TOKENS], ids[DOC_TOKENS];
            uint64_t first, n;
            assert_int_equal(bl_data_document(data, doc, &first, &n, NULL), BL_OK);
            assert_int_equal(n, draw_alone(doc, alone));
            assert_int_equal(bl_data_read(data, first, (size_t)n, ids, NULL), BL_OK);
            assert_memory_equal(ids, alone, n * sizeof *ids);
        }
        bl_data_close(data);
    }
}

static bool cancel_late(void *user, uint64_t n_done, uint64_t n) {
    uint64_t *last = user;
    assert_true(n == N_TOKENS && n_done >= *last && n_done <= n);
    *last = n_done;
    return n_done < N_TOKENS / 2;
}

static void what_is_wrong_is_refused(void **state) {
    (void)state;
    uint32_t context = bl_model_get_info(model)->context_length;
    bl_data_generate_params bad[6];
    uint64_t last = 0;
    bl_error err;
    for (size_t i = 0; i < 6; i++)
        bad[i] = make_params();
    bad[0].n_tokens = 0;
    bad[1].doc_tokens = context + 1;
    bad[2].n_parallel = BL_MAX_SEQUENCES + 1;
    bad[3].valid_share = 0.6;
    bad[4].sampler.top_p = 0;
    bad[5].progress = cancel_late;
    bad[5].user = &last;
    for (size_t i = 0; i < 6; i++) {
        remove(path);
        assert_int_equal(bl_data_generate(model, tokenizer, &bad[i], path, NULL, &err),
                         i < 5 ? BL_ERR_ARGUMENT : BL_ERR_CANCELLED);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_true(last >= N_TOKENS / 2);
    tiny_model tiny = tiny_model_default(); /* has no room for a token behind BOS */
    bl_model *narrow = NULL;
    tiny.context = 1;
    tiny.vocab = (uint32_t)bl_tokenizer_vocab_size(tokenizer);
    tiny_model_write(&tiny, 1, path);
    assert_int_equal(bl_model_open(path, NULL, &narrow, NULL), BL_OK);
    for (uint32_t doc_tokens = 0; doc_tokens < 3; doc_tokens++) {
        bl_data_generate_params one = make_params();
        one.doc_tokens = doc_tokens;
        assert_int_equal(bl_data_generate(narrow, tokenizer, &one, path, NULL, &err),
                         BL_ERR_ARGUMENT);
    }
    bl_model_close(narrow);
    bl_data_generate_params params = make_params();
    assert_int_equal(bl_data_generate(model, tokenizer, &params, "/nowhere/own.bin", NULL, &err),
                     BL_ERR_NOT_FOUND);
}

static void failing_memory_is_reported(void **state) {
    (void)state;
    bl_data_generate_params params = make_params();
    params.n_tokens = 30;
    params.n_parallel = 2;
    bl_status status = BL_ERR_MEMORY;
    long n = 0;
    while (status) {
        bl__alloc_fail_at(++n);
        status = bl_data_generate(model, tokenizer, &params, path, NULL, NULL);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        assert_true(n < 1000);
    }
    assert_true(n > 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_drawn_as_alone),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(failing_memory_is_reported),
    };
    bl_error err;
    snprintf(path, sizeof path, "/tmp/bitloom-own-%d.bin", (int)getpid());
    if (bl_model_open(BITLOOM_MODELS "/novels-6m.gguf", &(bl_model_params){.n_threads = 1}, &model,
                      &err) != BL_OK ||
        bl_tokenizer_open(BITLOOM_MODELS "/novels-6m.gguf", &tokenizer, &err) != BL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    remove(path);
    return failed;
}
