/* The three random-weight checkpoints of the assets' oracle folder (float masters; packed, scale
 * multiplies; packed, scale divides) against transformers: 32 rows of logits and 16 greedy tokens,
 * on every kernel level.
 *
 * Their tokens were not chosen as those of tests/golden/models were, so an activation may lie so
 * near to a rounding boundary of int8 that float32 sums in another order round it the other way.
 * tools/find_flips.py, with a float64 forward pass, tells which and whose; FLIPS lists them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden.h"

static const double ALLOWED = 1e-3; /* of a row's largest |logit| */
static const double ALLOWED_FLIPPED = 3e-2;
enum { N_PROMPT = 8 }; /* ids of input_ids that begin the greedy tokens */

#define FLIP_26                                                                                    \
    "transformers rounds input 156 of o_proj in layer 0 of row 26, -83.500007 int8 steps, to "     \
    "-83; "                                                                                        \
    "the rows after it attend to that, and in row 31 ours rounds one of -33.499998 to -34"

/* Rows that a flip changes. */
static const struct flip {
    const char *name;
    size_t first, last;
    const char *why;
} FLIPS[] = {
    {"oracle/bitnet-online-f32", 24, 24,
     "transformers rounds input 44 of gate_proj in layer 1, -62.50002 int8 steps, to -62"},
    {"oracle/bitnet-online-f32", 26, 31, FLIP_26},
    {"oracle/bitnet-offline-f32", 26, 31, FLIP_26},
};

/* Why a row may be off, or NULL when it may not. */
static const char *flip_of(const char *name, size_t row) {
    for (size_t i = 0; i < sizeof FLIPS / sizeof FLIPS[0]; i++)
        if (FLIPS[i].first <= row && row <= FLIPS[i].last && strcmp(FLIPS[i].name, name) == 0)
            return FLIPS[i].why;
    return NULL;
}

/* Compares row by row; false when a row is off by more than it may be. */
static bool rows_agree(const char *name, const float *logits, const float *expected, size_t n,
                       size_t vocab) {
    double most = 0;
    bool agree = true;
    for (size_t i = 0; i < n; i++) {
        double deviation = golden_deviation(logits + i * vocab, expected + i * vocab, vocab);
        const char *why = flip_of(name, i);
        if (!(deviation <= ALLOWED))
            print_message("%s: row %zu deviates by %.1e: %s\n", name, i, deviation,
                          why ? why : "not explained");
        else
            most = fmax(most, deviation);
        agree &= deviation <= (why ? ALLOWED_FLIPPED : ALLOWED);
    }
    print_message("%s: all other rows of %zu deviate by at most %.1e\n", name, n, most);
    return agree;
}

static void test_model(void **state) {
    const char *name = *state;
    char path[128];
    golden_figures figures;
    snprintf(path, sizeof path, "%s/expected.safetensors", name);
    golden_open(require_asset(path), &figures);
    bl_model *model = golden_convert(require_asset(name), NULL);

    size_t n = 0, n_logits = 0, n_greedy = 0, vocab = bl_model_get_info(model)->vocab;
    const bl_token *ids = golden_ids(&figures, "input_ids", &n);
    const float *expected = golden_floats(&figures, "logits", &n_logits);
    const bl_token *greedy = golden_ids(&figures, "greedy", &n_greedy);
    assert_int_equal(n_logits, n * vocab);
    float *logits = golden_logits(model, 2, ids, n, n);
    assert_true(rows_agree(name, logits, expected, n, vocab));
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++)
        golden_greedy(model, n_threads, greedy, N_PROMPT, n_greedy);
    free(logits);
    bl_model_close(model);
    golden_close(&figures);
}

static int run(void) {
    static char online[] = "oracle/bitnet-online-f32", offline[] = "oracle/bitnet-offline-f32",
                divides[] = "oracle/llama-bitlinear-f32";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_model, online),
        cmocka_unit_test_prestate(test_model, offline),
        cmocka_unit_test_prestate(test_model, divides),
    };
    return cmocka_run_group_tests_name("oracle", tests, NULL, NULL);
}

int main(int argc, char **argv) {
    (void)argc;
    return golden_on_every_level(argv[0], run);
}
