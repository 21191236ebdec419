/* Perplexity: sums against others made here, token by token in double precision from sessions of
 * their own; which tokens each protocol scores; texts that are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/perplexity.h"

enum { CTX = 24, VOCAB = 4096 };

static const char TEXT[] =
    "Squire Trelawney, Dr. Livesey, and the rest of these gentlemen having asked me to write down "
    "the whole particulars about Treasure Island, from the beginning to the end, keeping nothing "
    "back but the bearings of the island, and that only because there is still treasure not yet "
    "lifted, I take up my pen in the year of grace 17-- and go back to the time when my father "
    "kept the Admiral Benbow inn \xe2\x80\x94 and the brown old seaman with the sabre cut first "
    "took up his lodging under our roof.";

typedef struct fixture {
    bl_model *model;
    bl_tokenizer *tokenizer;
} fixture;

static int set_up(void **state) {
    static fixture f;
    static const char path[] = BITLOOM_MODELS "/novels-6m.gguf";
    bl_error err;
    if (bl_model_open(path, NULL, &f.model, &err) || bl_tokenizer_open(path, &f.tokenizer, &err))
        fail_msg("%s", err.message);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    bl_tokenizer_close(f->tokenizer);
    bl_model_close(f->model);
    return 0;
}

/* -ln p of tokens[at] after the tokens before it, one at a time. */
static double loss_at(const fixture *f, const bl_token *tokens, size_t at) {
    bl_session *session;
    bl_error err;
    double sum = 0;
    assert_int_equal(bl_session_create(f->model, &(bl_session_params){.n_ctx = CTX, .n_threads = 1},
                                       &session, &err),
                     BL_OK);
    assert_int_equal(bl_session_eval(session, tokens, at, NULL, &err), BL_OK);
    const float *logits = bl_session_logits(session);
    for (size_t i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - (double)logits[tokens[at]]);
    bl_session_free(session);
    return log(sum);
}

typedef struct expected {
    double sum, squares;
    size_t n, bytes;
} expected;

static expected expect(const fixture *f, bool half, bool bos) {
    bl_token *ids;
    size_t n, len;
    bl_error err;
    expected e = {0};
    assert_int_equal(bl_tokenizer_encode(f->tokenizer, TEXT, strlen(TEXT),
                                         bos ? BL_TOKENIZE_EXTRA : 0, &ids, &n, &err),
                     BL_OK);
    assert_true(n >= 4 * CTX);
    assert_true((ids[0] == bl_tokenizer_bos(f->tokenizer)) == bos);
    for (size_t w = 0; w < n / CTX; w++) {
        bl_token window[CTX];
        memcpy(window, ids + w * CTX, sizeof window);
        if (half && bos)
            window[0] = bl_tokenizer_bos(f->tokenizer);
        for (size_t at = half ? CTX / 2 + 1 : 1; at < CTX; at++) {
            double loss = loss_at(f, window, at);
            e.sum += loss;
            e.squares += loss * loss;
            e.n++;
            (void)bl_tokenizer_piece(f->tokenizer, window[at], 0, &len);
            e.bytes += len;
        }
    }
    bl_free(ids);
    return e;
}

static void check(const fixture *f, bool half, bool bos) {
    const bl_perplexity_params params = {.protocol =
                                             half ? BL_PERPLEXITY_HALF : BL_PERPLEXITY_WHOLE,
                                         .bos = bos ? BL_PERPLEXITY_BOS_ON : BL_PERPLEXITY_BOS_OFF,
                                         .n_ctx = CTX,
                                         .session = {.n_threads = 2, .n_batch = half ? 0 : 7}};
    expected e = expect(f, half, bos);
    bl_perplexity_result r;
    bl_error err;
    if (bl_perplexity_run(f->model, f->tokenizer, TEXT, strlen(TEXT), &params, NULL, NULL, &r,
                          &err))
        fail_msg("%s", err.message);
    double n = (double)e.n, mean = e.sum / n;
    assert_int_equal(r.n_scored, e.n);
    assert_int_equal(r.n_bytes, e.bytes);
    assert_int_equal(r.n_scored, r.n_windows * (half ? CTX - CTX / 2 - 1 : CTX - 1));
    assert_true(fabs(r.nats / mean - 1) < 1e-6);
    assert_true(fabs(r.perplexity / exp(mean) - 1) < 1e-5);
    assert_true(fabs(r.nats_error / sqrt((e.squares / n - mean * mean) / (n - 1)) - 1) < 1e-5);
    assert_true(fabs(r.perplexity_error / (r.perplexity * r.nats_error) - 1) < 1e-12);
    assert_true(fabs(r.bits_per_byte / (e.sum / log(2.0) / (double)e.bytes) - 1) < 1e-6);
}

static void test_protocols(void **state) {
    for (int i = 0; i < 4; i++)
        check(*state, i & 1, i & 2);
}

static bool stop_after_two(void *user, const bl_perplexity_result *so_far, uint64_t n_windows) {
    uint64_t *calls = user;
    assert_int_equal(so_far->n_windows, ++*calls);
    assert_true(so_far->n_windows <= n_windows);
    return *calls < 2;
}

static void test_windows(void **state) {
    const fixture *f = *state;
    bl_perplexity_params params = {.n_ctx = CTX, .max_windows = 3, .session = {.n_threads = 1}};
    bl_perplexity_result r = {.n_windows = 99};
    bl_error err;
    uint64_t calls = 0;
    assert_int_equal(bl_perplexity_run(f->model, f->tokenizer, TEXT, strlen(TEXT), &params,
                                       stop_after_two, &calls, &r, &err),
                     BL_ERR_CANCELLED);
    assert_int_equal(r.n_windows, 99); /* written on success only */
    assert_int_equal(bl_perplexity_run(f->model, f->tokenizer, TEXT, strlen(TEXT), &params, NULL,
                                       NULL, &r, &err),
                     BL_OK);
    assert_int_equal(r.n_windows, 3);
}

static void refuse(const fixture *f, const char *text, size_t len, uint32_t n_ctx,
                   const char *words) {
    const bl_perplexity_params params = {.n_ctx = n_ctx, .session = {.n_threads = 1}};
    bl_perplexity_result r;
    bl_error err;
    assert_int_equal(
        bl_perplexity_run(f->model, f->tokenizer, text, len, &params, NULL, NULL, &r, &err),
        BL_ERR_ARGUMENT);
    if (!strstr(err.message, words))
        fail_msg("said %s, expected %s", err.message, words);
}

static void test_refusals(void **state) {
    const fixture *f = *state;
    refuse(f, "", 0, CTX, "the text is empty");
    refuse(f, "abc\xff", 4, CTX, "byte 3 is 0xff");
    refuse(f, "one word", 8, CTX, "expected at least 48 for two windows of 24");
    refuse(f, TEXT, strlen(TEXT), 3, "a window of 3 tokens");
    refuse(f, TEXT, strlen(TEXT), UINT32_MAX, "a window of 4294967295 tokens");
}

static void test_memory(void **state) {
    const fixture *f = *state;
    const bl_perplexity_params params = {
        .n_ctx = CTX, .bos = BL_PERPLEXITY_BOS_ON, .max_windows = 1, .session = {.n_threads = 1}};
    bl_perplexity_result r;
    bl_error err;
    bl_status status = BL_ERR_MEMORY;
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        assert_true(nth < 1000);
        bl__alloc_fail_at(nth);
        status = bl_perplexity_run(f->model, f->tokenizer, TEXT, strlen(TEXT), &params, NULL, NULL,
                                   &r, &err);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
