/* Models and sessions on small random weights: what is refused and how, that batches, threads,
 * layouts, shifting and truncating change no bit, and that evaluating allocates nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/model.h"
#include "tiny_model.h"

static char path[256];
static const bl_token text[] = {1, 7, 3, 44, 12, 9, 30, 2, 21, 5, 17, 48, 0, 11, 26, 33};
enum { N_TEXT = sizeof text / sizeof text[0] };

static bl_model *open_model(const tiny_model *m) {
    bl_model *model = NULL;
    bl_error err = {0};
    tiny_model_write(m, 7, path);
    if (bl_model_open(path, &(bl_model_params){.n_threads = 2}, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static bl_session *open_session(const bl_model *model, uint32_t n_ctx, uint32_t n_batch,
                                uint32_t n_threads) {
    bl_session *session = NULL;
    bl_error err = {0};
    bl_session_params params = {.n_ctx = n_ctx, .n_batch = n_batch, .n_threads = n_threads};
    if (bl_session_create(model, &params, &session, &err))
        fail_msg("%s", err.message);
    return session;
}

static void eval(bl_session *s, const bl_token *tokens, size_t n, float *logits) {
    bl_error err = {0};
    if (bl_session_eval(s, tokens, n, logits, &err))
        fail_msg("%s", err.message);
}

/* The logits after every token of `text`, in one batch on one thread. */
static float *all_logits(const bl_model *model) {
    float *logits = malloc(N_TEXT * bl_model_get_info(model)->vocab * sizeof *logits);
    bl_session *s = open_session(model, 0, 0, 1);
    eval(s, text, N_TEXT, logits);
    bl_session_free(s);
    return logits;
}

static void test_batches_and_threads(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++) {
        tiny_model m = tiny_model_default();
        if (kind == 1)
            m.architecture = "llama", m.sub_norms = false, m.layout = BL_LAYOUT_F32;
        if (kind == 2)
            m.architecture = "bitnet", m.n_kv_heads = 4;
        if (kind == 3)
            m.n_groups = 2;
        if (kind == 4)
            m.architecture = "llama", m.n_groups = 2, m.layout = BL_LAYOUT_F32;
        bl_model *model = open_model(&m);
        float *want = all_logits(model);
        for (uint32_t n_batch = 1; n_batch <= N_TEXT; n_batch += 5)
            for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
                float got[N_TEXT * 50];
                bl_session *s = open_session(model, 0, n_batch, n_threads);
                eval(s, text, N_TEXT, got);
                assert_memory_equal(got, want, sizeof got);
                assert_memory_equal(bl_session_logits(s), want + (N_TEXT - 1) * 50, 50 * 4);
                bl_session_free(s);
            }
        free(want);
        bl_model_close(model);
    }
}

/* The same ternary weights in every layout give the same bits. */
static void check_layouts(uint32_t n_groups) {
    const bl__layout layouts[] = {BL_LAYOUT_F32,  BL_LAYOUT_F16,    BL_LAYOUT_BF16,
                                  BL_LAYOUT_I2_S, BL_LAYOUT_TQ1_0,  BL_LAYOUT_TQ2_0,
                                  BL_LAYOUT_Q2_0, BL_LAYOUT_IQ1_BN, BL_LAYOUT_IQ2_BN};
    tiny_model m = tiny_model_default();
    m.dim = m.ffn_dim = 256 * n_groups;
    m.head_dim = 64 * n_groups;
    m.n_groups = n_groups;
    bl_model *model = open_model(&m);
    assert_int_equal(bl_model_get_info(model)->n_groups, n_groups);
    assert_string_equal(bl_model_get_info(model)->weights, "bl_t2");
    assert_int_equal(bl_model_get_info(model)->repacked_bytes, 0);
    float *want = all_logits(model);
    bl_model_close(model);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        m.layout = layouts[i];
        model = open_model(&m);
        float *got = all_logits(model);
        assert_memory_equal(got, want, N_TEXT * 50 * sizeof *got);
        assert_true(bl_model_get_info(model)->repacked_bytes > 0);
        free(got);
        bl_model_close(model);
    }
    m.layout = BL_LAYOUT_T5; /* where it lies, token by token and all at once */
    model = open_model(&m);
    assert_string_equal(bl_model_get_info(model)->weights, "bl_t5");
    assert_int_equal(bl_model_get_info(model)->repacked_bytes, 0);
    for (uint32_t n_batch = 1; n_batch <= N_TEXT; n_batch++) {
        float got[N_TEXT * 50];
        bl_session *s = open_session(model, 0, n_batch, 2);
        eval(s, text, N_TEXT, got);
        assert_memory_equal(got, want, sizeof got);
        bl_session_free(s);
    }
    bl_model_close(model);
    free(want);
}

static void test_layouts(void **state) {
    (void)state;
    check_layouts(1);
    check_layouts(2);
}

/* One layer of the 3B model's shape, whose sizes are multiples of no block but 64 and whose heads
 * have 100 elements. */
static void test_odd_shape(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    m.dim = 3200, m.ffn_dim = 8640, m.n_layers = 1;
    m.n_heads = m.n_kv_heads = 32, m.head_dim = 100;
    bl_model *model = open_model(&m);
    float batch[2 * 50];
    bl_session *a = open_session(model, 4, 2, 2), *b = open_session(model, 4, 1, 1);
    eval(a, text, 2, batch);
    eval(b, text, 2, NULL);
    assert_memory_equal(bl_session_logits(b), batch + 50, 50 * sizeof *batch);
    for (size_t i = 0; i < 100; i++)
        assert_true(isfinite(batch[i]) && batch[i] != 0.0f);
    bl_session_free(a);
    bl_session_free(b);
    bl_model_close(model);
}

static void test_truncate_and_shift(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    bl_session *a = open_session(model, 32, 4, 1), *b = open_session(model, 32, 4, 1);
    bl_error err;
    float want[50];
    eval(a, text, 8, NULL);
    memcpy(want, bl_session_logits(a), sizeof want);
    eval(a, text + 8, 8, NULL);
    bl_session_truncate(a, 7);
    assert_int_equal(bl_session_n_past(a), 7);
    eval(a, text + 7, 1, NULL);
    assert_memory_equal(bl_session_logits(a), want, sizeof want);

    eval(a, text + 8, 8, NULL); /* all 16; drop 5 after the first 2 */
    assert_int_equal(bl_session_shift(a, 2, 5, &err), BL_OK);
    assert_int_equal(bl_session_n_past(a), 11);
    eval(b, text, 2, NULL);
    eval(b, text + 7, 9, NULL);
    assert_memory_equal(bl_session_logits(a), bl_session_logits(b), sizeof want);
    assert_int_equal(bl_session_shift(a, 8, 4, &err), BL_ERR_ARGUMENT);
    bl_session_free(a);
    bl_session_free(b);
    bl_model_close(model);
}

static void test_bad_calls(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    bl_session *s = open_session(model, 10, 4, 2);
    bl_error err;
    const bl_token bad[] = {3, 50}, negative[] = {-1};
    assert_int_equal(bl_session_eval(s, text, 11, NULL, &err), BL_ERR_CONTEXT_FULL);
    assert_int_equal(bl_session_eval(s, bad, 2, NULL, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "token 50, expected 0 to 49");
    assert_int_equal(bl_session_eval(s, negative, 1, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_session_eval(s, text, 0, NULL, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_session_n_past(s), 0);
    eval(s, text, 10, NULL);
    assert_int_equal(bl_session_eval(s, text, 1, NULL, &err), BL_ERR_CONTEXT_FULL);
    bl_session_free(s);
    bl_session_params huge = {.n_ctx = 0xffffffffu, .n_batch = 1, .n_threads = 1};
    assert_int_not_equal(bl_session_create(model, &huge, &s, NULL), BL_OK);
    bl_model_close(model);
    bl_session_free(NULL);
    bl_model_close(NULL);
}

static void test_no_allocation_per_token(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    bl_model *model = open_model(&m);
    bl_session *s = open_session(model, 64, 8, 2);
    long before = bl__alloc_count();
    for (size_t i = 0; i < 3; i++)
        eval(s, text, N_TEXT, NULL);
    for (size_t i = 0; i < N_TEXT; i++)
        eval(s, text + i, 1, NULL);
    assert_int_equal(bl__alloc_count(), before);
    bl_session_free(s);
    bl_model_close(model);
}

static void expect_refused(const tiny_model *m, bl_status status, const char *words) {
    bl_model *model = NULL;
    bl_error err = {0};
    tiny_model_write(m, 7, path);
    assert_int_equal(bl_model_open(path, NULL, &model, &err), status);
    if (!strstr(err.message, words))
        fail_msg("message \"%s\" lacks \"%s\"", err.message, words);
    assert_null(model);
}

static void test_refusals(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    m.skip_tensor = "blk.1.ffn_up.weight";
    expect_refused(&m, BL_ERR_NOT_FOUND, "tensor blk.1.ffn_up.weight is missing");
    m = tiny_model_default();
    m.wrong_tensor = "blk.1.ffn_up.weight";
    expect_refused(&m, BL_ERR_FORMAT, "blk.1.ffn_up.weight: shape [57,40], expected [56,40]");
    m = tiny_model_default();
    m.architecture = "gpt2";
    expect_refused(&m, BL_ERR_UNSUPPORTED, "general.architecture: \"gpt2\"");
    m = tiny_model_default();
    m.activation = "gelu";
    expect_refused(&m, BL_ERR_UNSUPPORTED, "hidden_act: \"gelu\"");
    m = tiny_model_default();
    m.quantization = "int4";
    expect_refused(&m, BL_ERR_UNSUPPORTED, "activation_quantization: \"int4\"");
    m = tiny_model_default();
    m.norm = "batch";
    expect_refused(&m, BL_ERR_UNSUPPORTED, "bitloom.norm: \"batch\", expected rms or layer");
    m.norm = "layer";
    expect_refused(&m, BL_ERR_UNSUPPORTED, "output_norm.weight: LayerNorm with weights");
    m = tiny_model_default();
    m.n_kv_heads = 3;
    expect_refused(&m, BL_ERR_FORMAT, "3 does not divide 4 heads");
    m = tiny_model_default();
    m.n_layers = 0;
    expect_refused(&m, BL_ERR_FORMAT, "block_count: 0");
    static const uint32_t impossible[] = {0, 3, 4, 1 << 20, UINT32_MAX};
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        char words[80];
        m = tiny_model_default();
        m.wrong_groups = &impossible[i];
        snprintf(words, sizeof words, "bitloom.groups: %u, expected a divisor of", impossible[i]);
        expect_refused(&m, BL_ERR_FORMAT, words);
    }
    m = tiny_model_default();
    m.ffn_dim = 57;
    m.wrong_groups = &(uint32_t){2};
    expect_refused(&m, BL_ERR_FORMAT, "feed_forward_length, 57");
    m.ffn_dim = 56;
    expect_refused(&m, BL_ERR_NOT_FOUND, "tensor blk.0.attn_output.0.weight is missing");
    m.n_groups = 2;
    m.skip_tensor = "blk.1.ffn_down.1.weight";
    expect_refused(&m, BL_ERR_NOT_FOUND, "tensor blk.1.ffn_down.1.weight is missing");
    m.skip_tensor = NULL;
    m.wrong_tensor = "blk.0.attn_output.1.weight";
    expect_refused(&m, BL_ERR_FORMAT,
                   "blk.0.attn_output.1.weight: shape [41,20], expected [40,20]");
    m = tiny_model_default();
    m.layout = BL_LAYOUT_I2_S;
    m.dim = m.ffn_dim = 128;
    m.head_dim = 32;
    m.bad_code = true;
    expect_refused(&m, BL_ERR_FORMAT, "blk.0.attn_q.weight: a code or scale");
    bl_error err;
    bl_model *model;
    assert_int_equal(bl_model_open("/nonexistent/model.gguf", NULL, &model, &err),
                     BL_ERR_NOT_FOUND);
    assert_int_equal(bl_model_open("/", NULL, &model, &err), BL_ERR_IO);
}

/* Every allocation of opening and of creating a session fails once. */
static void test_allocation_failures(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    m.layout = BL_LAYOUT_F32; /* repacks */
    m.n_groups = 2;
    tiny_model_write(&m, 7, path);
    for (long n = 1;; n++) {
        bl_model *model = NULL;
        bl_session *session = NULL;
        bl_session_params params = {.n_ctx = 16, .n_batch = 4, .n_threads = 2};
        bl__alloc_fail_at(n);
        bl_status status = bl_model_open(path, &(bl_model_params){.n_threads = 2}, &model, NULL);
        if (!status)
            status = bl_session_create(model, &params, &session, NULL);
        bl__alloc_fail_at(0);
        bl_session_free(session);
        bl_model_close(model);
        if (status == BL_OK) {
            assert_true(n > 10);
            break;
        }
        assert_int_equal(status, BL_ERR_MEMORY);
    }
}

static int set_up(void **state) {
    (void)state;
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bitloom-test-model-%ld.gguf", folder ? folder : "/tmp",
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
        cmocka_unit_test(test_batches_and_threads),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_odd_shape),
        cmocka_unit_test(test_truncate_and_shift),
        cmocka_unit_test(test_bad_calls),
        cmocka_unit_test(test_no_allocation_per_token),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests_name("model", tests, set_up, tear_down);
}
