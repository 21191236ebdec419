/* Several texts in one session: whatever is evaluated together, each text has the bits that it has
 * alone; copies, truncation and shifts of one leave the others as they are; nothing is allocated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/model.h"
#include "tiny_model.h"

enum { VOCAB = 50, N_CTX = 24, MAX_TEXTS = 6, MAX_ITEMS = 40 };

static char path[256];

static bl_model *open_model(const tiny_model *m) {
    bl_model *model = NULL;
    bl_error err = {0};
    tiny_model_write(m, 7, path);
    if (bl_model_open(path, &(bl_model_params){.n_threads = 2}, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static bl_session *open_session(const bl_model *model, bl_session_params params) {
    bl_session *session = NULL;
    bl_error err = {0};
    if (bl_session_create(model, &params, &session, &err))
        fail_msg("%s", err.message);
    return session;
}

/* A text and the logits after each of its tokens, computed alone, one token at a time. */
typedef struct alone {
    bl_token tokens[N_CTX];
    float logits[N_CTX][VOCAB];
} alone;

static void evaluate_alone(const bl_model *model, alone *text, size_t n) {
    bl_session *s = open_session(model, (bl_session_params){.n_ctx = N_CTX, .n_threads = 1});
    for (size_t t = 0; t < n; t++) {
        assert_int_equal(bl_session_eval(s, &text->tokens[t], 1, NULL, NULL), BL_OK);
        memcpy(text->logits[t], bl_session_logits(s), sizeof text->logits[t]);
    }
    bl_session_free(s);
}

/* Random batches of items of random texts until all are evaluated, some positions twice. */
static void interleave(bl_session *s, const alone *texts, uint32_t n_texts, bl__random *random) {
    static float logits[MAX_ITEMS][VOCAB];
    const float *want[MAX_ITEMS];
    bl_batch_item items[MAX_ITEMS];
    bl_error err = {0};
    for (int round = 0; round < 60; round++) {
        size_t n = 0, n_wanted = 0, n_most = 1 + bl__random_below(random, MAX_ITEMS);
        size_t past[MAX_TEXTS];
        for (uint32_t q = 0; q < n_texts; q++) {
            if (bl__random_below(random, 8) == 0)
                bl_sequence_truncate(s, q, bl__random_below(random, bl_sequence_n_past(s, q) + 1));
            past[q] = bl_sequence_n_past(s, q);
        }
        while (n < n_most) {
            uint32_t q = (uint32_t)bl__random_below(random, n_texts);
            size_t n_run = 1 + bl__random_below(random, 4);
            if (past[q] == N_CTX && bl__random_below(random, 4) == 0)
                break;
            for (; n_run > 0 && n < n_most && past[q] < N_CTX; n_run--, past[q]++, n++) {
                items[n] =
                    (bl_batch_item){q, texts[q].tokens[past[q]], bl__random_below(random, 3) == 0};
                if (items[n].wants_logits)
                    want[n_wanted++] = texts[q].logits[past[q]];
            }
        }
        if (n == 0)
            continue;
        if (bl_session_eval_batch(s, items, n, n_wanted ? logits[0] : NULL, &err))
            fail_msg("%s", err.message);
        for (size_t i = 0; i < n_wanted; i++)
            assert_memory_equal(logits[i], want[i], sizeof logits[i]);
        for (uint32_t q = 0; q < n_texts; q++)
            assert_int_equal(bl_sequence_n_past(s, q), past[q]);
    }
}

static void test_interleaved_as_alone(void **state) {
    (void)state;
    static alone texts[MAX_TEXTS];
    bl__random random;
    bl__random_seed(&random, 11);
    for (int kind = 0; kind < 4; kind++) {
        tiny_model m = tiny_model_default();
        if (kind == 1)
            m.architecture = "llama", m.sub_norms = false, m.layout = BL_LAYOUT_F32;
        if (kind == 2)
            m.architecture = "bitnet", m.n_kv_heads = 4;
        if (kind == 3)
            m.n_groups = 2;
        bl_model *model = open_model(&m);
        for (size_t q = 0; q < MAX_TEXTS; q++) {
            for (size_t t = 0; t < N_CTX; t++)
                texts[q].tokens[t] = (bl_token)bl__random_below(&random, VOCAB);
            evaluate_alone(model, &texts[q], N_CTX);
        }
        for (uint32_t n_texts = 1; n_texts <= MAX_TEXTS; n_texts++)
            for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
                uint32_t n_batch = 1 + (uint32_t)bl__random_below(&random, 33);
                bl_session_params p = {.n_ctx = N_CTX,
                                       .n_batch = n_batch,
                                       .n_threads = n_threads,
                                       .n_sequences = n_texts};
                bl_session *s = open_session(model, p);
                assert_int_equal(bl_session_n_sequences(s), n_texts);
                interleave(s, texts, n_texts, &random);
                bl_session_free(s);
            }
        bl_model_close(model);
    }
}

static void append(bl_session *s, uint32_t sequence, const bl_token *tokens, size_t n,
                   float *last) {
    bl_batch_item items[N_CTX];
    for (size_t i = 0; i < n; i++)
        items[i] = (bl_batch_item){sequence, tokens[i], last && i + 1 == n};
    assert_int_equal(bl_session_eval_batch(s, items, n, last, NULL), BL_OK);
}

static void test_copies_and_shifts(void **state) {
    (void)state;
    static alone text, shifted;
    float got[VOCAB];
    bl_error err;
    bl__random random;
    bl__random_seed(&random, 5);
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    for (size_t t = 0; t < N_CTX; t++)
        text.tokens[t] = (bl_token)bl__random_below(&random, VOCAB);
    memcpy(shifted.tokens, text.tokens, 2 * sizeof *text.tokens);
    memcpy(shifted.tokens + 2, text.tokens + 7, (N_CTX - 7) * sizeof *text.tokens);
    evaluate_alone(model, &text, N_CTX);
    evaluate_alone(model, &shifted, N_CTX - 5);
    bl_session_params p = {.n_ctx = N_CTX, .n_batch = 5, .n_threads = 2, .n_sequences = 3};
    bl_session *s = open_session(model, p);
    append(s, 2, text.tokens, 16, NULL);
    append(s, 1, text.tokens + 5, 9, NULL);

    /* A beginning that two share, and that both go on from. */
    assert_int_equal(bl_sequence_copy(s, 2, 1, 12, &err), BL_OK);
    assert_int_equal(bl_sequence_n_past(s, 1), 12);
    append(s, 1, text.tokens + 12, 3, got);
    assert_memory_equal(got, text.logits[14], sizeof got);
    append(s, 2, text.tokens + 16, 1, got);
    assert_memory_equal(got, text.logits[16], sizeof got);
    assert_int_equal(bl_sequence_copy(s, 1, 1, 4, &err), BL_OK);
    assert_int_equal(bl_sequence_n_past(s, 1), 4);
    assert_int_equal(bl_sequence_copy(s, 1, 2, 5, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_sequence_copy(s, 1, 3, 1, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "sequence 3, expected 0 to 2");

    /* Drops 5 tokens after the first 2; a copy of what was moved goes on too. */
    assert_int_equal(bl_sequence_shift(s, 2, 2, 5, got, &err), BL_OK);
    assert_int_equal(bl_sequence_n_past(s, 2), 12);
    assert_memory_equal(got, shifted.logits[11], sizeof got);
    assert_int_equal(bl_sequence_copy(s, 2, 0, 12, &err), BL_OK);
    append(s, 0, shifted.tokens + 12, 2, got);
    assert_memory_equal(got, shifted.logits[13], sizeof got);
    assert_int_equal(bl_sequence_shift(s, 0, 2, 3, NULL, &err), BL_OK);
    append(s, 1, text.tokens + 4, 3, got);
    assert_memory_equal(got, text.logits[6], sizeof got);
    assert_int_equal(bl_sequence_shift(s, 1, 4, 4, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_sequence_shift(s, 9, 0, 0, NULL, &err), BL_ERR_ARGUMENT);

    /* Sequence 0 is the one that the plain calls mean. */
    bl_session_truncate(s, 0);
    assert_int_equal(bl_session_eval(s, text.tokens, 8, NULL, &err), BL_OK);
    assert_memory_equal(bl_session_logits(s), text.logits[7], sizeof got);
    append(s, 0, text.tokens + 8, 1, got);
    assert_memory_equal(got, text.logits[8], sizeof got);
    assert_memory_equal(bl_session_logits(s), text.logits[7], sizeof got);
    assert_int_equal(bl_session_n_past(s), 9);
    assert_int_equal(bl_sequence_n_past(s, 2), 12);
    bl_session_free(s);
    bl_model_close(model);
}

static void test_refusals(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    bl_session_params p = {.n_ctx = 4, .n_batch = 3, .n_threads = 1, .n_sequences = 2};
    bl_session *s = open_session(model, p);
    float logits[VOCAB];
    bl_error err;
    const bl_batch_item beyond[] = {{1, 3, false}, {2, 3, false}};
    const bl_batch_item token[] = {{1, 3, false}, {0, VOCAB, false}};
    const bl_batch_item wants[] = {{1, 3, false}, {0, 4, true}};
    const bl_batch_item full[] = {{1, 1, false}, {0, 1, false}, {1, 2, false},
                                  {1, 3, false}, {1, 4, false}, {1, 5, false}};
    assert_int_equal(bl_session_eval_batch(s, beyond, 0, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_session_eval_batch(s, beyond, 2, NULL, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "sequence 2, expected 0 to 1");
    assert_int_equal(bl_session_eval_batch(s, token, 2, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_session_eval_batch(s, wants, 2, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_session_eval_batch(s, full, 6, NULL, &err), BL_ERR_CONTEXT_FULL);
    for (uint32_t q = 0; q < 3; q++)
        assert_int_equal(bl_sequence_n_past(s, q), 0);
    assert_int_equal(bl_session_eval_batch(s, full, 5, NULL, &err), BL_OK);
    assert_int_equal(bl_session_eval_batch(s, wants, 2, logits, &err), BL_ERR_CONTEXT_FULL);
    bl_sequence_truncate(s, 2, 0); /* there is none */
    bl_session_free(s);
    p.n_sequences = BL_MAX_SEQUENCES + 1;
    assert_int_equal(bl_session_create(model, &p, &s, &err), BL_ERR_ARGUMENT);
    bl_model_close(model);
}

static void test_no_allocation(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    bl_session_params p = {.n_ctx = N_CTX, .n_batch = 8, .n_threads = 2, .n_sequences = 4};
    bl_session *s = open_session(model, p);
    static float logits[8][VOCAB];
    bl_batch_item items[8];
    long before = bl__alloc_count();
    for (bl_token round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 8; i++)
            items[i] = (bl_batch_item){i % 4, round, i > 3};
        for (uint32_t q = 0; q < 4; q++)
            if (bl_sequence_n_past(s, q) > N_CTX - 4)
                assert_int_equal(bl_sequence_shift(s, q, 1, 6, logits[0], NULL), BL_OK);
        assert_int_equal(bl_session_eval_batch(s, items, 8, logits[0], NULL), BL_OK);
        assert_int_equal(bl_sequence_copy(s, 0, 3, 2, NULL), BL_OK);
    }
    assert_int_equal(bl__alloc_count(), before);
    bl_session_free(s);
    bl_model_close(model);
}

static int set_up(void **state) {
    (void)state;
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bitloom-test-sequences-%ld.gguf", folder ? folder : "/tmp",
             (long)getpid());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interleaved_as_alone),
        cmocka_unit_test(test_copies_and_shifts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_allocation),
    };
    return cmocka_run_group_tests_name("sequences", tests, set_up, tear_down);
}
