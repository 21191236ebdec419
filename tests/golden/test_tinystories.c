/* A really trained ternary model, tinystories-3m-hf of the assets, from its Hugging Face directory:
 * the 150 greedy tokens that transformers writes, on every kernel level with 1 and 2 threads, and
 * its perplexity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "golden.h"

static const char model_name[] = "models/tinystories-3m-hf";
static const char figures_name[] = "models/tinystories-3m-hf/expected.safetensors";
enum { N_PROMPT = 16 }; /* tokens of the greedy figures that are the prompt */

static void test_greedy(void **state) {
    bl_model *model = *state;
    golden_figures figures;
    size_t n = 0;
    golden_open(require_asset(figures_name), &figures);
    const bl_token *greedy = golden_ids(&figures, "greedy", &n);
    assert_int_equal(n, N_PROMPT + 150);
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++)
        golden_greedy(model, n_threads, greedy, N_PROMPT, n);
    golden_close(&figures);
}

/* Eight layers and 128 tokens leave some int8 rounding to the last bit of a float, and one flip
 * moves all later rows a little (tools/find_flips.py names them); a wrong graph moves them far. */
static void test_logits(void **state) {
    bl_model *model = *state;
    golden_figures figures;
    size_t n = 0, n_logits = 0, n_far = 0, vocab = bl_model_get_info(model)->vocab;
    golden_open(require_asset(figures_name), &figures);
    const bl_token *ids = golden_ids(&figures, "input_ids", &n);
    const float *expected = golden_floats(&figures, "logits", &n_logits);
    float *logits = golden_logits(model, 2, ids, n, n);
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double deviation = golden_deviation(logits + i * vocab, expected + i * vocab, vocab);
        most = fmax(most, deviation);
        n_far += deviation > 1e-3;
    }
    print_message("%zu of %zu rows deviate by more than 1e-3, at most by %.1e\n", n_far, n, most);
    assert_true(most < 5e-2);
    free(logits);
    golden_close(&figures);
}

/* What convert writes in other layouts holds the same weights: the logits have the same bits as
 * those of the first layout with as many bits in its scale, and the greedy tokens are the same for
 * all. */
static void test_layouts(void **state) {
    static const char *const types[2][4] = {{"native", "f32", "i2_s", "iq2_bn"},
                                            {"f16", "tq1_0", "tq2_0", "iq1_bn"}};
    (void)state;
    golden_figures figures;
    size_t n = 0, n_greedy = 0;
    golden_open(require_asset(figures_name), &figures);
    const bl_token *ids = golden_ids(&figures, "input_ids", &n);
    const bl_token *greedy = golden_ids(&figures, "greedy", &n_greedy);
    for (size_t i = 0; i < 2; i++) {
        float *first = NULL;
        for (size_t k = 0; k < 4; k++) {
            bl_model *model = golden_convert(require_asset(model_name), types[i][k]);
            float *logits = golden_logits(model, 2, ids, n, n);
            if (first)
                assert_memory_equal(logits, first,
                                    n * bl_model_get_info(model)->vocab * sizeof *logits);
            golden_greedy(model, 2, greedy, N_PROMPT, n_greedy);
            if (first)
                free(logits);
            else
                first = logits;
            bl_model_close(model);
        }
        free(first);
    }
    golden_close(&figures);
}

/* 40 windows of BOS and 255 tokens from the first 60,000 characters of the sample; every token but
 * BOS is scored. Levels give the same bits, so one is enough. */
static void test_perplexity(void **state) {
    enum { N_WINDOWS = 40, N_TOKENS = 256, N_CHARACTERS = 60000 };
    bl_model *model = *state;
    const char *best = strrchr(bl_kernel_levels(), ' ');
    if (strcmp(bl_kernel_level(), best ? best + 1 : bl_kernel_levels()) != 0) {
        print_message("perplexity: measured on the best kernel level only\n");
        return;
    }
    size_t vocab = bl_model_get_info(model)->vocab, len = 0, end = 0, n_ids = 0;
    char *text = golden_text(require_asset("corpus/tinystories-sample.txt"), &len);
    for (size_t n = 0; end < len; end++) {
        n += ((unsigned char)text[end] & 0xc0) != 0x80; /* characters begun */
        if (n > N_CHARACTERS)
            break;
    }
    bl_tokenizer *tokenizer = NULL;
    bl_token *ids = NULL;
    bl_error err = {0};
    if (bl_tokenizer_open(require_asset(model_name), &tokenizer, &err) ||
        bl_tokenizer_encode(tokenizer, text, end, 0, &ids, &n_ids, &err))
        fail_msg("%s", err.message);
    assert_true(n_ids >= (size_t)N_WINDOWS * (N_TOKENS - 1));

    bl_session *session = golden_session(model, 2, 0);
    double nll = 0;
    for (size_t i = 0; i < N_WINDOWS; i++) {
        bl_token window[N_TOKENS] = {bl_tokenizer_bos(tokenizer)};
        memcpy(window + 1, ids + i * (N_TOKENS - 1), (N_TOKENS - 1) * sizeof *ids);
        bl_session_truncate(session, 0);
        nll += golden_nll(session, vocab, window, N_TOKENS);
    }
    double perplexity = exp(nll / (N_WINDOWS * (N_TOKENS - 1)));
    print_message("perplexity %.4f\n", perplexity);
    assert_true(fabs(perplexity / 4.075 - 1) < 0.005);
    bl_session_free(session);
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
    bl__free(text);
}

static int open_model(void **state) {
    *state = golden_convert(require_asset(model_name), NULL);
    return 0;
}

static int close_model(void **state) {
    bl_model_close(*state);
    return 0;
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_perplexity),
    };
    return cmocka_run_group_tests_name("tinystories", tests, open_model, close_model);
}

int main(int argc, char **argv) {
    (void)argc;
    return golden_on_every_level(argv[0], run);
}
