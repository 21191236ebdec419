/* What is left out changes no bit: the default model with rows and columns skipped against the same
 * file with none, on every kernel level; over 10,000 sampled tokens on the best one. Batches,
 * threads, the file as convert lays it out, and scales that are no numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/convert.h"
#include "bitloom/sampler.h"
#include "golden.h"
#include "model/model.h"

static const char model_path[] = BITLOOM_MODELS "/novels-6m.gguf";

static char converted[64];

enum { TEXT_TOKENS = 250, MANY_TOKENS = 10000, FEW_TOKENS = 250 };

static bl_model *open_model(const char *path, bl_sparsity sparsity) {
    const bl_model_params params = {.n_threads = 2, .sparsity = sparsity};
    bl_model *model = NULL;
    bl_error err = {0};
    if (bl_model_open(path, &params, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

/* The same bits, NaN being equal to NaN: which one an operation on two gives is the compiler's. */
static void expect_same(const float *a, const float *b, size_t n, const char *what) {
    if (memcmp(a, b, n * sizeof *a) == 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s: logit %zu is %.9g, without skipping %.9g", what, i, (double)a[i],
                     (double)b[i]);
}

/* The others get less to do: ref takes its time. */
static bool is_best_level(void) {
    const char *levels = bl_kernel_levels(), *last = strrchr(levels, ' ');
    return strcmp(bl_kernel_level(), last ? last + 1 : levels) == 0;
}

/* Texts of 250 sampled tokens, evaluated one after the other by both. */
static void test_tokens(void **state) {
    (void)state;
    size_t n = is_best_level() ? MANY_TOKENS : FEW_TOKENS;
    bl_model *plain = open_model(model_path, BL_SPARSITY_OFF);
    bl_model *sparse = open_model(model_path, BL_SPARSITY_ON);
    bl_session *a = golden_session(plain, 2, 0), *b = golden_session(sparse, 2, 0);
    size_t vocab = bl_model_get_info(plain)->vocab;
    bl_sampler_params params = bl_sampler_default_params();
    bl_sampler *sampler = NULL;
    params.seed = 5;
    assert_int_equal(bl_sampler_create(&params, (uint32_t)vocab, &sampler, NULL), BL_OK);
    for (size_t done = 0; done < n; done += TEXT_TOKENS) {
        bl_token token = 0;
        bl_session_truncate(a, 0);
        bl_session_truncate(b, 0);
        for (size_t i = 0; i < TEXT_TOKENS; i++) {
            golden_eval(a, &token, 1, NULL);
            golden_eval(b, &token, 1, NULL);
            expect_same(bl_session_logits(b), bl_session_logits(a), vocab, "a token");
            token = bl_sampler_sample(sampler, bl_session_logits(a));
            bl_sampler_accept(sampler, token);
        }
    }
    bl_skipped none = bl_session_skipped(a), some = bl_session_skipped(b);
    assert_int_equal(none.rows + none.columns, 0); /* bl_t2 stays as it is */
    assert_int_equal(some.rows, (n + TEXT_TOKENS - 1) / TEXT_TOKENS * TEXT_TOKENS * 6 * 768);
    assert_int_equal(some.columns, some.rows);
    print_message("%zu tokens: %.1f %% of rows and %.1f %% of columns skipped\n", n,
                  100.0 * (double)some.rows_skipped / (double)some.rows,
                  100.0 * (double)some.columns_skipped / (double)some.columns);
    assert_true(some.rows_skipped > some.rows / 2 && some.columns_skipped > some.columns * 7 / 10);
    bl_sampler_free(sampler);
    bl_session_free(a);
    bl_session_free(b);
    bl_model_close(plain);
    bl_model_close(sparse);
}

enum { N_IDS = 64, HOSTILE_IDS = 8 };

/* Tokens that have something of a text: the ids do not matter much. */
static void make_ids(bl_token ids[N_IDS]) {
    for (size_t i = 0; i < N_IDS; i++)
        ids[i] = (bl_token)(i * i * 31 % 4000);
}

/* Evaluates ids in batches of every kind and compares all logits. */
static void expect_batches(const bl_model *model, const float *want, const char *what) {
    static const size_t sizes[] = {5, 1, N_IDS, 2, 4, 7, 8, 9, 33};
    size_t n_sizes = is_best_level() ? sizeof sizes / sizeof *sizes : 3;
    uint32_t most_threads = is_best_level() ? 3 : 1;
    bl_token ids[N_IDS];
    size_t vocab = bl_model_get_info(model)->vocab;
    make_ids(ids);
    for (uint32_t n_threads = 1; n_threads <= most_threads; n_threads++)
        for (size_t i = 0; i < n_sizes; i++) {
            float *logits = golden_logits(model, n_threads, ids, N_IDS, sizes[i]);
            expect_same(logits, want, N_IDS * vocab, what);
            free(logits);
        }
}

static void test_batches(void **state) {
    (void)state;
    bl_token ids[N_IDS];
    make_ids(ids);
    bl_model *plain = open_model(model_path, BL_SPARSITY_OFF);
    float *want = golden_logits(plain, 1, ids, N_IDS, N_IDS);
    bl_model_close(plain);
    const struct {
        const char *path, *what;
        bl_sparsity sparsity;
        bool repacks;
    } cases[] = {{model_path, "repacked", BL_SPARSITY_ON, true},
                 {model_path, "as it is", BL_SPARSITY_AUTO, false},
                 {converted, "converted", BL_SPARSITY_AUTO, false},
                 {converted, "converted, all of it", BL_SPARSITY_OFF, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_model *model = open_model(cases[i].path, cases[i].sparsity);
        if (model->layers[0].can_skip)
            assert_true((bl_model_get_info(model)->repacked_bytes > 0) == cases[i].repacks);
        expect_batches(model, want, cases[i].what);
        bl_model_close(model);
    }
    free(want);
}

/* The model's bytes with another value where the scales of some rows, or some elements of a norm,
 * of blk.1.NAME.weight are. */
static char *patch(const char *path, const char *name, float value, size_t every, size_t *len) {
    char tensor[64], *data = golden_text(path, len);
    bl__gguf *gguf = NULL;
    snprintf(tensor, sizeof tensor, "blk.1.%s.weight", name);
    assert_int_equal(bl__gguf_parse((const uint8_t *)data, *len, &gguf, NULL), BL_OK);
    const bl__gguf_tensor *t = bl__gguf_find_tensor(gguf, tensor);
    assert_non_null(t);
    bool tiles = t->layout == BL_LAYOUT_T2; /* others have all scales in front */
    size_t n = t->rows == 1 ? t->cols : t->rows, first = (size_t)((const char *)t->data - data);
    size_t stride = t->bytes / ((t->rows + 15) / 16);
    for (size_t r = 0; r < n; r += every)
        memcpy(data + first + (tiles ? r / 16 * stride + r % 16 * 4 : r * 4), &value, sizeof value);
    bl__gguf_free(gguf);
    return data;
}

static float *hostile_logits(const char *data, size_t len, bl_sparsity sparsity, size_t chunk,
                             bl_skipped *skipped) {
    bl_token ids[N_IDS];
    bl_model *model = NULL;
    bl_error err = {0};
    make_ids(ids);
    if (bl__model_from_bytes((const uint8_t *)data, len, sparsity, NULL, &model, &err))
        fail_msg("%s", err.message);
    size_t vocab = bl_model_get_info(model)->vocab;
    float *logits = malloc(HOSTILE_IDS * vocab * sizeof *logits);
    bl_session *session = golden_session(model, 2, 0);
    for (size_t i = 0; i < HOSTILE_IDS; i += chunk)
        golden_eval(session, ids + i, chunk, logits + i * vocab);
    *skipped = bl_session_skipped(session);
    bl_session_free(session);
    bl_model_close(model);
    return logits;
}

/* Scales that make rows infinite or NaN: 0 * up is NaN then, and must be so when it is skipped. */
static void test_hostile(void **state) {
    (void)state;
    static const char *const names[] = {"ffn_up", "ffn_gate", "ffn_down", "ffn_norm",
                                        "ffn_sub_norm"};
    static const float values[] = {INFINITY, -INFINITY, NAN, 3e38f, 1e35f, -0.0f, -2.0f, 1e-42f};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (size_t v = 0; v < (is_best_level() ? sizeof values / sizeof *values : 3); v++) {
            size_t len, every = v % 2 ? 5 : 700;
            char what[80], *data = patch(model_path, names[n], values[v], every, &len);
            bl_skipped none, some;
            snprintf(what, sizeof what, "%s of %g", names[n], (double)values[v]);
            float *want = hostile_logits(data, len, BL_SPARSITY_OFF, HOSTILE_IDS, &none);
            bl__free(data);
            data = patch(converted, names[n], values[v], every, &len);
            for (size_t chunk = 1; chunk <= HOSTILE_IDS; chunk *= 8) {
                float *got = hostile_logits(data, len, BL_SPARSITY_AUTO, chunk, &some);
                expect_same(got, want, HOSTILE_IDS * 4096, what);
                assert_true(some.columns > 0);
                free(got);
            }
            free(want);
            bl__free(data);
        }
}

static int convert_model(void **state) {
    (void)state;
    bl_error err = {0};
    snprintf(converted, sizeof converted, "/tmp/bitloom-sparsity-%ld.gguf", (long)getpid());
    if (bl_convert(model_path, converted, NULL, NULL, &err) == BL_OK)
        return 0;
    print_error("%s\n", err.message);
    return -1;
}

static int remove_model(void **state) {
    (void)state;
    return unlink(converted);
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests_name("sparsity", tests, convert_model, remove_model);
}

int main(int argc, char **argv) {
    (void)argc;
    return golden_on_every_level(argv[0], run);
}
