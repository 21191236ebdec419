/* The tiny checkpoints of tests/golden/models, each of which pins switches of the architecture,
 * against what transformers computes with them (tools/make_golden_models.py): every recorded row of
 * logits, the greedy tokens, and the same bits however tokens are split over batches and threads,
 * on every kernel level. The figures are chosen so that no int8 rounding is in doubt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden.h"

/* Of a row's largest |logit|, with a cache of float32 and of float16. With float16 the greedy
 * tokens of random weights, whose best logits are close, are not held to the figures. */
static const double ALLOWED = 1e-3, ALLOWED_F16 = 5e-2, ALLOWED_SUMS = 1e-5;
enum { N_PROMPT = 8 }; /* of the greedy figures, as the script says */

typedef struct checkpoint {
    const char *name;
    const char *activation;
    bool int8_activations;
} checkpoint;

static void check_info(const bl_model *model, const checkpoint *c) {
    const bl_model_info *info = bl_model_get_info(model);
    assert_string_equal(info->activation, c->activation);
    assert_int_equal(info->int8_activations, c->int8_activations);
}

static void check_rows(const checkpoint *c, const golden_figures *figures, const float *logits,
                       size_t vocab, double allowed) {
    size_t n_rows = 0, n = 0;
    const int32_t *rows = golden_ids(figures, "rows", &n_rows);
    const float *expected = golden_floats(figures, "logits", &n);
    double most = 0;
    assert_int_equal(n, n_rows * vocab);
    for (size_t i = 0; i < n_rows; i++) {
        double deviation =
            golden_deviation(logits + (size_t)rows[i] * vocab, expected + i * vocab, vocab);
        if (!(deviation <= allowed))
            print_error("%s: row %d deviates by %.1e of its largest logit\n", c->name, rows[i],
                        deviation);
        most = fmax(most, deviation);
    }
    print_message("%s: %zu rows deviate by at most %.1e\n", c->name, n_rows, most);
    assert_true(most <= allowed);
}

static void test_checkpoint(void **state) {
    const checkpoint *c = *state;
    char path[1024];
    golden_figures figures;
    snprintf(path, sizeof path, BITLOOM_TEST_DATA "/models/%s/figures.safetensors", c->name);
    golden_open(path, &figures);
    snprintf(path, sizeof path, BITLOOM_TEST_DATA "/models/%s", c->name);
    bl_model *model = golden_convert(path, NULL);
    check_info(model, c);

    size_t n = 0, n_greedy = 0, vocab = bl_model_get_info(model)->vocab;
    const bl_token *ids = golden_ids(&figures, "input_ids", &n);
    const bl_token *greedy = golden_ids(&figures, "greedy", &n_greedy);
    golden_cache = BL_CACHE_F16;
    float *halves = golden_logits(model, 1, ids, n, n);
    check_rows(c, &figures, halves, vocab, ALLOWED_F16);
    free(halves);
    golden_cache = BL_CACHE_F32;
    float *logits = golden_logits(model, 1, ids, n, n);
    check_rows(c, &figures, logits, vocab, ALLOWED);
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++) {
        static const size_t chunks[] = {1, 3, SIZE_MAX};
        for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
            float *again = golden_logits(model, n_threads, ids, n, chunks[i] < n ? chunks[i] : n);
            assert_memory_equal(again, logits, n * vocab * sizeof *logits);
            free(again);
        }
        golden_greedy(model, n_threads, greedy, N_PROMPT, n_greedy);
    }
    bl_model_close(model);

    /* Weights written out as float32 are the same weights. Where they were ternary and activations
     * are floats, sums of digits became sums of floats. */
    model = golden_convert(path, "f32");
    float *again = golden_logits(model, 1, ids, n, n);
    for (size_t row = 0; row < n; row++)
        assert_true(golden_deviation(again + row * vocab, logits + row * vocab, vocab) <=
                    (c->int8_activations ? 0.0 : ALLOWED_SUMS));
    free(again);
    free(logits);
    bl_model_close(model);
    golden_close(&figures);
}

static int run(void) {
    static checkpoint checkpoints[] = {
        {"bitnet-1bitllm", "silu", true},           {"bitnet-relu2-packed", "relu2", true},
        {"bitnet-silu-masters", "silu", true},      {"llama-bitlinear-packed", "silu", true},
        {"llama-bitlinear-rms", "silu", true},      {"llama-float-linear-rope", "silu", false},
        {"llama-float-llama3-rope", "silu", false}, {"llama-trilm", "silu", false},
    };
    enum { N = sizeof checkpoints / sizeof checkpoints[0] };
    struct CMUnitTest tests[N];
    for (size_t i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){.name = checkpoints[i].name,
                                       .test_func = test_checkpoint,
                                       .initial_state = &checkpoints[i]};
    return cmocka_run_group_tests_name("models", tests, NULL, NULL);
}

int main(int argc, char **argv) {
    (void)argc;
    return golden_on_every_level(argv[0], run);
}
