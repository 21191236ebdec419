/* The default model of models/ against what transformers computes with the checkpoint that it was
 * converted from (tools/make_golden_default.py): rows of logits and greedy tokens on every kernel
 * level. Needs no assets, so every `make test` proves that what `make run` shows is the model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden.h"

static const char model_path[] = BITLOOM_MODELS "/novels-6m.gguf";

/* Rows of logits with a type of cache, within a share of the largest logit. */
static void check_logits(bl_model *model, bl_cache_type type, double allowed) {
    golden_figures figures;
    golden_open(BITLOOM_TEST_DATA "/default/figures.safetensors", &figures);
    size_t n = 0, n_rows = 0, n_logits = 0, vocab = bl_model_get_info(model)->vocab;
    const bl_token *ids = golden_ids(&figures, "input_ids", &n);
    const int32_t *rows = golden_ids(&figures, "rows", &n_rows);
    const float *expected = golden_floats(&figures, "logits", &n_logits);
    assert_int_equal(n_logits, n_rows * vocab);
    golden_cache = type;
    float *logits = golden_logits(model, 2, ids, n, n);
    double most = 0;
    for (size_t i = 0; i < n_rows; i++)
        most = fmax(
            most, golden_deviation(logits + (size_t)rows[i] * vocab, expected + i * vocab, vocab));
    print_message("%zu rows deviate by at most %.1e\n", n_rows, most);
    assert_true(most <= allowed);
    free(logits);
    golden_close(&figures);
}

static void test_logits(void **state) {
    check_logits(*state, BL_CACHE_F16, 5e-2);
    check_logits(*state, BL_CACHE_F32, 1e-3);
}

static void test_greedy(void **state) {
    golden_figures figures;
    golden_open(BITLOOM_TEST_DATA "/default/figures.safetensors", &figures);
    size_t n_prompt = 0, n_greedy = 0;
    const bl_token *prompt = golden_ids(&figures, "prompt", &n_prompt);
    const bl_token *greedy = golden_ids(&figures, "greedy", &n_greedy);
    bl_token ids[128];
    assert_true(n_prompt + n_greedy <= sizeof ids / sizeof ids[0]);
    memcpy(ids, prompt, n_prompt * sizeof *ids);
    memcpy(ids + n_prompt, greedy, n_greedy * sizeof *ids);
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++) {
        golden_cache = n_threads == 1 ? BL_CACHE_F32 : BL_CACHE_F16;
        golden_greedy(*state, n_threads, ids, n_prompt, n_prompt + n_greedy);
    }
    golden_close(&figures);
}

static int open_model(void **state) {
    bl_model *model = NULL;
    bl_error err = {0};
    if (bl_model_open(model_path, NULL, &model, &err)) {
        print_error("%s\n", err.message);
        return -1;
    }
    *state = model;
    return 0;
}

static int close_model(void **state) {
    bl_model_close(*state);
    return 0;
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_greedy),
    };
    return cmocka_run_group_tests_name("novels", tests, open_model, close_model);
}

int main(int argc, char **argv) {
    (void)argc;
    return golden_on_every_level(argv[0], run);
}
