/* Holds the trainer to PyTorch without assets: logits, every gradient, four updates of a tiny
 * network with float, ternary and binary weights, whole and in two groups, and of these also with
 * quantization that has come in by half. tools/make_train_golden.py chose its numbers so that
 * nothing that is rounded comes near a boundary, so quantized runs must agree as float ones do.
 * Binary runs have SiLU, the others ReLU^2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "train/network.h"
#include "train/optimizer.h"
#include "train_compare.h"

enum { VOCAB = 16, ROWS = 2, TOKENS = 8, STEPS = 4 };

static const float *mode_floats(const bl__tensor_set *set, const char *mode, const char *what,
                                size_t n) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", mode, what);
    return floats_of(set, name, n);
}

static bl__network *make_network(const bl__tensor_set *set, bl__weight_mode weights,
                                 uint32_t n_groups, float lambda, bool layer_norm) {
    bl__network_config config = {.n_layers = 2,
                                 .dim = 8,
                                 .ffn_dim = 12,
                                 .n_heads = 2,
                                 .n_kv_heads = n_groups,
                                 .head_dim = 4,
                                 .vocab = VOCAB,
                                 .context = TOKENS,
                                 .rope_base = 10000.0f,
                                 .norm_eps = 1e-5f,
                                 .weights = weights,
                                 .precision = BL_PRECISION_FLOAT32,
                                 .relu2 = weights != BL_WEIGHTS_BINARY,
                                 .sub_norms = true,
                                 .n_groups = n_groups,
                                 .layer_norm = layer_norm,
                                 .blends = lambda < 1};
    bl__network *net = NULL;
    assert_int_equal(bl__network_create(&config, ROWS, TOKENS, NULL, &net, NULL), BL_OK);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    for (size_t i = 0; i < n; i++) {
        size_t count = params[i].rows * params[i].cols;
        if (count) /* LayerNorms have no weights */
            memcpy(params[i].value, mode_floats(set, "init", params[i].name, count),
                   count * sizeof(float));
    }
    bl__network_set_lambda(net, lambda);
    return net;
}

static void check_file(const char *path, const char *mode, bl__weight_mode weights,
                       uint32_t n_groups, float lambda) {
    bl__tensor_set *set = NULL;
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    int32_t inputs[ROWS * TOKENS], targets[ROWS * TOKENS];
    float logits[TOKENS * VOCAB], losses[STEPS], norms[STEPS];
    double bound = lambda < 1 ? 3e-5 : 1e-5; /* float products round, integer ones do not */
    bl_error err;
    if (bl__tensor_set_open(path, &set, &err) != BL_OK)
        fail_msg("%s", err.message);
    const bl__safetensor *batches = bl__tensor_set_find(set, "batches");
    assert_true(batches && batches->dtype == BL_DTYPE_I32 &&
                batches->n_elements == STEPS * ROWS * (TOKENS + 1));
    bl__network *net = make_network(set, weights, n_groups, lambda, strncmp(mode, "layer", 5) == 0);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    assert_int_equal(bl__optimizer_create(&adamw, params, n, NULL, &optimizer, NULL), BL_OK);
    for (size_t step = 0; step < STEPS; step++) {
        split_batch((const int32_t *)(const void *)batches->data + step * ROWS * (TOKENS + 1), ROWS,
                    TOKENS, inputs, targets);
        bl__network_quantize(net);
        losses[step] =
            (float)bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, logits);
        if (step == 0)
            compare("logits", logits, mode_floats(set, mode, "logits", TOKENS * VOCAB),
                    TOKENS * VOCAB, bound);
        for (size_t i = 0; step == 0 && i < n; i++) {
            size_t count = params[i].rows * params[i].cols;
            if (count)
                compare(params[i].name, params[i].grad,
                        mode_floats(set, mode, params[i].name, count), count, bound);
        }
        norms[step] = (float)bl__optimizer_step(optimizer, 1e-2, 0.1, 1.0);
    }
    compare("losses", losses, mode_floats(set, mode, "losses", STEPS), STEPS, bound);
    compare("gradient norms", norms, mode_floats(set, mode, "norms", STEPS), STEPS, 1e-4);
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__tensor_set_close(set);
}

static void check_mode(const char *mode, bl__weight_mode weights) {
    check_file(BITLOOM_TEST_DATA "/train_tiny.safetensors", mode, weights, 1, 1);
    check_file(BITLOOM_TEST_DATA "/train_groups.safetensors", mode, weights, 2, 1);
}

static void float_weights_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("float", BL_WEIGHTS_FLOAT);
}

static void ternary_weights_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("ternary", BL_WEIGHTS_TERNARY);
}

static void binary_weights_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("binary", BL_WEIGHTS_BINARY);
}

static void half_quantized_weights_train_as_in_pytorch(void **state) {
    (void)state;
    check_file(BITLOOM_TEST_DATA "/train_blend.safetensors", "half-ternary", BL_WEIGHTS_TERNARY, 2,
               0.5f);
    check_file(BITLOOM_TEST_DATA "/train_blend.safetensors", "half-binary", BL_WEIGHTS_BINARY, 2,
               0.5f);
}

static void networks_with_layer_norms_train_as_in_pytorch(void **state) {
    (void)state;
    static const char path[] = BITLOOM_TEST_DATA "/train_layer.safetensors";
    check_file(path, "layer-ternary", BL_WEIGHTS_TERNARY, 1, 1);
    check_file(path, "layer-binary", BL_WEIGHTS_BINARY, 1, 1);
    check_file(path, "layer-float", BL_WEIGHTS_FLOAT, 1, 1);
}

int main(int argc, char **argv) {
    verbose = argc > 1 && strcmp(argv[1], "--verbose") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_weights_train_as_in_pytorch),
        cmocka_unit_test(ternary_weights_train_as_in_pytorch),
        cmocka_unit_test(binary_weights_train_as_in_pytorch),
        cmocka_unit_test(half_quantized_weights_train_as_in_pytorch),
        cmocka_unit_test(networks_with_layer_norms_train_as_in_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
