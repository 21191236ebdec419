/* Holds OneBit and distillation to PyTorch without assets: the vectors that SVID finds, logits,
 * both losses, every gradient and four updates of a tiny network, alone and as the student of a
 * teacher. tools/make_train_golden.py chose its numbers so that no sign and nothing that is rounded
 * comes near a boundary. */
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
static const bl__distillation LOSSES[] = {
    {.hard = 0.25f, .temperature = 1, .hidden = 0.5f},
    {.hard = 0.25f,
     .temperature = 2,
     .hidden = 0.5f,
     .relations = 3,
     .relation_layer = 1,
     .relation_heads = 2,
     .relation_temperature = 0.5f},
};
static const double BOUND = 5e-5;

static const float *named(const bl__tensor_set *set, const char *mode, const char *what, size_t n) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", mode, what);
    return floats_of(set, name, n);
}

/* A network with the weights of one mode; what it finds vectors for gets its own. */
static bl__network *make_network(const bl__tensor_set *set, const char *mode,
                                 bl__weight_mode weights, bool frozen) {
    bl__network_config config = {.n_layers = 2,
                                 .dim = 8,
                                 .ffn_dim = 12,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .head_dim = 4,
                                 .vocab = VOCAB,
                                 .context = TOKENS,
                                 .rope_base = 10000.0f,
                                 .norm_eps = 1e-5f,
                                 .weights = weights,
                                 .precision = BL_PRECISION_FLOAT32,
                                 .relu2 = true,
                                 .sub_norms = true,
                                 .frozen = frozen};
    bl__network *net = NULL;
    assert_int_equal(bl__network_create(&config, ROWS, TOKENS, NULL, &net, NULL), BL_OK);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    for (size_t i = 0; i < n; i++)
        if (!params[i].vector)
            memcpy(params[i].value,
                   named(set, mode, params[i].name, params[i].rows * params[i].cols),
                   params[i].rows * params[i].cols * sizeof(float));
    bl__network_factorize(net);
    for (size_t i = 0; i < n; i++)
        if (params[i].vector && params[i].rows)
            compare(params[i].name, params[i].value,
                    named(set, mode, params[i].name, params[i].cols), params[i].cols, 1e-6);
    bl__network_quantize(net);
    return net;
}

static void compare_gradients(const bl__tensor_set *set, const char *mode, const bl__param *params,
                              size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t count = params[i].rows * params[i].cols;
        if (count)
            compare(params[i].name, params[i].grad, named(set, mode, params[i].name, count), count,
                    BOUND);
    }
}

static void check_mode(const char *mode, bl__weight_mode weights) {
    bl__tensor_set *set = NULL;
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    int32_t inputs[ROWS * TOKENS], targets[ROWS * TOKENS];
    float logits[TOKENS * VOCAB], losses[STEPS], norms[STEPS], hidden[STEPS], relations[STEPS];
    bool distills = strncmp(mode, "distill", 7) == 0, relates = strstr(mode, "-bitdistill");
    bl_error err;
    if (bl__tensor_set_open(BITLOOM_TEST_DATA "/train_distill.safetensors", &set, &err) != BL_OK)
        fail_msg("%s", err.message);
    const bl__safetensor *batches = bl__tensor_set_find(set, "batches");
    assert_true(batches && batches->dtype == BL_DTYPE_I32 &&
                batches->n_elements == STEPS * ROWS * (TOKENS + 1));
    bl__network *net = make_network(set, "init", weights, false);
    bl__network *teacher = make_network(set, "teacher", BL_WEIGHTS_FLOAT, true);
    if (distills)
        assert_int_equal(bl__network_set_teacher(net, teacher, &LOSSES[relates], &err), BL_OK);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    assert_int_equal(bl__optimizer_create(&adamw, params, n, NULL, &optimizer, NULL), BL_OK);
    for (size_t step = 0; step < STEPS; step++) {
        split_batch((const int32_t *)(const void *)batches->data + step * ROWS * (TOKENS + 1), ROWS,
                    TOKENS, inputs, targets);
        bl__network_quantize(net);
        losses[step] =
            (float)bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, logits);
        hidden[step] = (float)bl__network_hidden_loss(net);
        relations[step] = (float)bl__network_relation_loss(net);
        bl__network_finish_gradients(net);
        if (step == 0) {
            compare("logits", logits, named(set, mode, "logits", TOKENS * VOCAB), TOKENS * VOCAB,
                    BOUND);
            compare_gradients(set, mode, params, n);
        }
        norms[step] = (float)bl__optimizer_step(optimizer, 1e-2, 0.1, 1.0);
    }
    compare("losses", losses, named(set, mode, "losses", STEPS), STEPS, BOUND);
    compare("gradient norms", norms, named(set, mode, "norms", STEPS), STEPS, 1e-4);
    if (distills)
        compare("hidden losses", hidden, named(set, mode, "hidden", STEPS), STEPS, BOUND);
    if (relates)
        compare("relation losses", relations, named(set, mode, "relations", STEPS), STEPS, BOUND);
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__network_free(teacher);
    bl__tensor_set_close(set);
}

static void onebit_weights_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("onebit", BL_WEIGHTS_ONEBIT);
}

static void onebit_students_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("distill-onebit", BL_WEIGHTS_ONEBIT);
}

static void ternary_students_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("distill-ternary", BL_WEIGHTS_TERNARY);
}

/* BitDistill's losses, temperatures and all, in the first layer of a ternary student. */
static void relations_train_as_in_pytorch(void **state) {
    (void)state;
    check_mode("distill-bitdistill-ternary", BL_WEIGHTS_TERNARY);
}

int main(int argc, char **argv) {
    verbose = argc > 1 && strcmp(argv[1], "--verbose") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(onebit_weights_train_as_in_pytorch),
        cmocka_unit_test(onebit_students_train_as_in_pytorch),
        cmocka_unit_test(ternary_students_train_as_in_pytorch),
        cmocka_unit_test(relations_train_as_in_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
