/* Checks the trainer's network: finite differences of every gradient, the same bits on any number
 * of threads, bfloat16 beside float32, no allocation in a step, failing memory, refused sizes.
 * `unit_network --bench [THREADS [STEPS [novels-3m|25m|gpt2]]]` measures full steps and says where
 * the time goes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "train/network.h"
#include "train/optimizer.h"

/* Nothing here is a multiple of anything that kernels like. */
static bl__network_config odd_config(void) {
    return (bl__network_config){.n_layers = 2,
                                .dim = 23,
                                .ffn_dim = 37,
                                .n_heads = 6,
                                .n_kv_heads = 2,
                                .head_dim = 10,
                                .vocab = 71,
                                .context = 80,
                                .rope_base = 10000.0f,
                                .norm_eps = 1e-5f,
                                .weights = BL_WEIGHTS_FLOAT,
                                .precision = BL_PRECISION_FLOAT32,
                                .relu2 = true,
                                .sub_norms = true};
}

/* Two groups of 30 and 19 columns, and of 30, 10 and 19 rows. */
static bl__network_config group_config(void) {
    bl__network_config config = odd_config();
    config.ffn_dim = 38;
    config.n_groups = 2;
    return config;
}

static const bl__precision precisions[] = {BL_PRECISION_FLOAT32, BL_PRECISION_BF16,
                                           BL_PRECISION_INT8};
enum { N_PRECISIONS = sizeof precisions / sizeof *precisions };

static bool verbose;

enum { ROWS = 3, TOKENS = 69, MAX_IDS = 16 * 256 };
static int32_t inputs[MAX_IDS], targets[MAX_IDS], firsts[MAX_IDS];

static void fill_ids(size_t n, uint32_t vocab, uint64_t seed) {
    bl__random random;
    bl__random_seed(&random, seed);
    for (size_t i = 0; i < n; i++) {
        inputs[i] = (int32_t)bl__random_below(&random, vocab);
        targets[i] = (int32_t)bl__random_below(&random, vocab);
        if (i % 7 == 3)
            targets[i] = -1;
    }
}

/* A network with weights of a size that makes every part matter, norms off one. */
static bl__network *make_network(const bl__network_config *config, size_t rows, size_t tokens,
                                 bl__pool *pool) {
    bl__network *net = NULL;
    bl_error err;
    if (bl__network_create(config, rows, tokens, pool, &net, &err) != BL_OK)
        fail_msg("%s", err.message);
    bl__network_initialize(net, 0.3f, 11);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    bl__random random;
    bl__random_seed(&random, 12);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; !params[i].decays && j < params[i].rows * params[i].cols; j++)
            params[i].value[j] += (float)(0.4 * (bl__random_f64(&random) - 0.5));
    bl__network_quantize(net);
    return net;
}

static double loss_of(bl__network *net, size_t rows, size_t tokens) {
    bl__network_quantize(net);
    return bl__network_step(net, inputs, targets, rows, tokens, false, 1.0f, NULL);
}

/* Along a random direction in one tensor the loss must change as the gradient says. */
static void check_direction(bl__network *net, bl__param *p, const float *grad, size_t rows,
                            size_t tokens, bl__random *random) {
    size_t n = p->rows * p->cols;
    float *kept = bl__malloc_array(n, sizeof *kept);
    memcpy(kept, p->value, n * sizeof *kept);
    double expected = 0, difference[2], step = 2e-3, length = 0;
    signed char *signs = bl__malloc(n);
    for (size_t i = 0; i < n; i++) {
        signs[i] = bl__random_f64(random) < 0.5 ? -1 : 1;
        /* half of the elements along the gradient, so that the slope is not lost in rounding */
        if (i % 2)
            signs[i] = grad[i] < 0 ? -1 : 1;
        length += fabs((double)grad[i]);
        expected += (double)grad[i] * signs[i];
    }
    step = fmin(step, 1e-2 / (length + 1e-9));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            p->value[i] = kept[i] + (float)(side ? step : -step) * (float)signs[i];
        difference[side] = loss_of(net, rows, tokens);
    }
    double found = (difference[1] - difference[0]) / (2 * step);
    memcpy(p->value, kept, n * sizeof *kept);
    bl__free(kept);
    bl__free(signs);
    if (!(fabs(found - expected) < 0.01 * fabs(expected) + 1e-4))
        fail_msg("%s: slope %.6g, gradient says %.6g", p->name, found, expected);
}

static void check_gradients(const bl__network_config *config, bool packed) {
    bl__network *net = make_network(config, ROWS, TOKENS, NULL);
    bl__network_set_firsts(net, packed ? firsts : NULL);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    bl__random random;
    bl__random_seed(&random, 5);
    fill_ids(ROWS * TOKENS, config->vocab, 3);
    bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    for (size_t i = 0; i < n; i++)
        for (int repeat = 0; repeat < 2 && params[i].rows; repeat++)
            check_direction(net, &params[i], params[i].grad, ROWS, TOKENS, &random);
    bl__network_free(net);
}

static void gradients_are_slopes(void **state) {
    (void)state;
    for (int variant = 0; variant < 16; variant++) {
        bl__network_config config = variant & 4 ? group_config() : odd_config();
        config.relu2 = variant & 1;
        config.sub_norms = variant & 2;
        config.layer_norm = variant & 8;
        check_gradients(&config, false);
    }
}

/* ---- rows of several documents ---- */

/* Lengths of the documents in each row; the second row is one. */
static const size_t DOCUMENTS[ROWS][5] = {{1, 5, 34, 1, 28}, {69}, {66, 3}};

static void fill_firsts(void) {
    for (size_t row = 0; row < ROWS; row++)
        for (size_t doc = 0, at = 0; doc < 5; at += DOCUMENTS[row][doc++])
            for (size_t i = at; i < at + DOCUMENTS[row][doc]; i++)
                firsts[row * TOKENS + i] = (int32_t)at;
}

static void gradients_of_packed_rows_are_slopes(void **state) {
    (void)state;
    bl__network_config config = odd_config();
    fill_firsts();
    check_gradients(&config, true);
}

static void copy_gradients(const bl__param *params, size_t n, float *out) {
    for (size_t i = 0; i < n; out += params[i].rows * params[i].cols, i++)
        memcpy(out, params[i].grad, params[i].rows * params[i].cols * sizeof *out);
}

/* The gradients of all documents, each a row of its own; row 0's logits must be these, bit for bit.
 */
static void check_documents_alone(bl__network *net, const float *logits, size_t vocab) {
    size_t n_counted = 0;
    float *alone = bl__malloc_array(TOKENS * vocab, sizeof *alone);
    for (size_t i = 0; i < ROWS * TOKENS; i++)
        n_counted += targets[i] >= 0;
    bl__network_set_firsts(net, NULL);
    bl__network_zero_gradients(net);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t doc = 0, at = 0; doc < 5 && DOCUMENTS[row][doc]; at += DOCUMENTS[row][doc++]) {
            const int32_t *x = inputs + row * TOKENS + at, *y = targets + row * TOKENS + at;
            size_t n = DOCUMENTS[row][doc], here = 0;
            for (size_t i = 0; i < n; i++)
                here += y[i] >= 0;
            bl__network_step(net, x, y, 1, n, true, (float)here / (float)n_counted, alone);
            if (row == 0)
                assert_memory_equal(alone, logits + at * vocab, n * vocab * sizeof *alone);
        }
    bl__free(alone);
}

/* A document in a packed row gets what it gets alone. */
static void packed_documents_are_as_alone(void **state) {
    (void)state;
    fill_firsts();
    for (int mode = 0; mode < 3; mode++) {
        bl__network_config config = odd_config();
        config.weights = (bl__weight_mode)mode;
        bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
        size_t n, n_values = 0;
        bl__param *params = bl__network_params(net, &n);
        for (size_t i = 0; i < n; i++)
            n_values += params[i].rows * params[i].cols;
        float *logits = bl__malloc_array(TOKENS * config.vocab, sizeof *logits);
        float *packed = bl__malloc_array(n_values, sizeof *packed);
        float *alone = bl__malloc_array(n_values, sizeof *alone);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        double causal = bl__network_step(net, inputs, targets, ROWS, TOKENS, false, 1.0f, NULL);
        bl__network_set_firsts(net, firsts);
        double loss = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, logits);
        assert_true(fabs(loss - causal) > 1e-3);
        copy_gradients(params, n, packed);
        check_documents_alone(net, logits, config.vocab);
        copy_gradients(params, n, alone);
        double difference = 0, size = 0;
        for (size_t i = 0; i < n_values; i++) {
            difference += pow((double)packed[i] - (double)alone[i], 2);
            size += pow((double)alone[i], 2);
        }
        if (!(sqrt(difference) < 1e-6 * sqrt(size)))
            fail_msg("mode %d: gradients are off by %.3g of their norm", mode,
                     sqrt(difference / size));
        bl__free(logits);
        bl__free(packed);
        bl__free(alone);
        bl__network_free(net);
    }
}

/* Before quantization comes in there is nothing of it: the bits of a float network. Just before it
 * is whole, the losses and gradients of integer products but for rounding; then those themselves.
 */
static void lambda_leads_from_float_to_integer_products(void **state) {
    (void)state;
    static const bl__weight_mode modes[] = {BL_WEIGHTS_TERNARY, BL_WEIGHTS_BINARY};
    for (int variant = 0; variant < 4 * N_PRECISIONS; variant++) {
        bl__network_config config = variant & 2 ? group_config() : odd_config(), plain;
        config.precision = precisions[variant / 4];
        config.sub_norms = variant & 1;
        plain = config;
        config.weights = modes[variant % 2];
        bl__network *whole = make_network(&config, ROWS, TOKENS, NULL);
        config.blends = true;
        bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
        bl__network *floats = make_network(&plain, ROWS, TOKENS, NULL);
        size_t n;
        bl__param *params = bl__network_params(net, &n);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        for (int stage = 0; stage < 3; stage++) {
            static const float lambdas[] = {0.0f, 0.9999999f, 1.0f};
            bl__network *other = stage ? whole : floats;
            bl__param *expected = bl__network_params(other, &n);
            bl__network_set_lambda(net, lambdas[stage]);
            double a = loss_of(net, ROWS, TOKENS), b = loss_of(other, ROWS, TOKENS);
            assert_true(stage == 1 ? fabs(a - b) < 2e-5 * b : a == b);
            bl__network_zero_gradients(net);
            bl__network_zero_gradients(other);
            a = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
            b = bl__network_step(other, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
            assert_true(stage == 1 ? fabs(a - b) < 1e-2 * b : a == b);
            for (size_t i = 0; i < n && stage != 1; i++)
                assert_memory_equal(params[i].grad, expected[i].grad,
                                    params[i].rows * params[i].cols * sizeof(float));
        }
        bl__network_free(net);
        bl__network_free(whole);
        bl__network_free(floats);
    }
}

static const bl__weight_mode all_modes[] = {BL_WEIGHTS_FLOAT, BL_WEIGHTS_TERNARY,
                                            BL_WEIGHTS_BINARY};

static void gradients_add_up_and_scale(void **state) {
    (void)state;
    for (size_t m = 0; m < 3; m++) {
        bl__network_config config = odd_config();
        config.weights = all_modes[m];
        bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
        size_t n;
        bl__param *params = bl__network_params(net, &n);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        float one = params[3].grad[5];
        assert_true(one != 0.0f);
        bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 0.5f, NULL);
        assert_true(fabsf(params[3].grad[5] - 1.5f * one) < 1e-5f * fabsf(one));
        bl__network_zero_gradients(net);
        assert_true(params[3].grad[5] == 0.0f);
        for (size_t i = 0; i < ROWS * TOKENS; i++)
            targets[i] = -1; /* nothing counts */
        assert_true(bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL) == 0.0);
        assert_true(params[3].grad[5] == 0.0f);
        bl__network_free(net);
    }
}

/* A few updates; copies values and returns the last loss. */
static double train_some(const bl__network_config *config, uint32_t n_threads, size_t rows,
                         size_t tokens, float *values) {
    bl__pool *pool = NULL;
    assert_int_equal(bl__pool_create(n_threads, false, &pool, NULL), BL_OK);
    bl__network *net = make_network(config, rows, tokens, pool);
    size_t n, at = 0;
    bl__param *params = bl__network_params(net, &n);
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    assert_int_equal(bl__optimizer_create(&adamw, params, n, pool, &optimizer, NULL), BL_OK);
    double loss = 0;
    for (int step = 0; step < 3; step++) {
        fill_ids(rows * tokens, config->vocab, (uint64_t)step);
        bl__network_set_lambda(net, 0.25f * (float)(step + 1));
        bl__network_quantize(net);
        loss = bl__network_step(net, inputs, targets, rows, tokens, true, 1.0f, NULL);
        bl__optimizer_step(optimizer, 1e-3, 0.1, 1.0);
    }
    for (size_t i = 0; i < n; at += params[i].rows * params[i].cols, i++)
        memcpy(values + at, params[i].value, params[i].rows * params[i].cols * sizeof(float));
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__pool_free(pool);
    return loss;
}

enum { MAX_VALUES = 40000 };
static float values[2][MAX_VALUES];

static void threads_change_no_bit(void **state) {
    (void)state;
    for (size_t m = 0; m < 6 * N_PRECISIONS; m++) {
        bl__network_config config = m / 3 % 2 ? group_config() : odd_config();
        config.weights = all_modes[m % 3];
        config.precision = precisions[m / 6];
        config.blends = m % 2;
        memset(values, 0, sizeof values);
        double alone = train_some(&config, 1, ROWS, TOKENS, values[0]);
        for (uint32_t threads = 2; threads <= 5; threads++) {
            double together = train_some(&config, threads, ROWS, TOKENS, values[1]);
            assert_memory_equal(&together, &alone, sizeof alone);
            assert_memory_equal(values[1], values[0], sizeof *values);
        }
    }
}

/* Rows in several slices give the gradients of one slice, but for the order of sums. */
static void slices_add_up(void **state) {
    (void)state;
    bl__network_config config = odd_config();
    config.context = 128;
    bl__network *net = make_network(&config, 32, 128, NULL); /* 4096 tokens */
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    fill_ids(32 * 128, config.vocab, 9);
    double all = bl__network_step(net, inputs, targets, 32, 128, true, 1.0f, NULL), sum = 0;
    float *together = bl__malloc_array(params[4].rows * params[4].cols, sizeof *together);
    memcpy(together, params[4].grad, params[4].rows * params[4].cols * sizeof *together);
    bl__network_zero_gradients(net);
    size_t counted = 0, total = 0;
    for (size_t i = 0; i < 32 * 128; i++)
        total += targets[i] >= 0;
    for (size_t row = 0; row < 32; row += 5) {
        size_t rows = row + 5 <= 32 ? 5 : 32 - row, here = 0;
        for (size_t i = row * 128; i < (row + rows) * 128; i++)
            here += targets[i] >= 0;
        counted += here;
        sum += (double)here * bl__network_step(net, inputs + row * 128, targets + row * 128, rows,
                                               128, true, (float)here / (float)total, NULL);
    }
    assert_int_equal(counted, total);
    assert_true(fabs(sum / (double)total - all) < 1e-5 * all);
    double difference = 0, size = 0;
    for (size_t i = 0; i < params[4].rows * params[4].cols; i++) {
        difference += fabs((double)together[i] - (double)params[4].grad[i]);
        size += fabs((double)together[i]);
    }
    assert_true(difference < 1e-4 * size);
    bl__free(together);
    bl__network_free(net);
}

/* bfloat16 keeps 8 bits, so a product's relative error is about 2^-9 / sqrt(3) a factor; a chain
 * of them through two layers, and the roundings to int8 that it flips, stay below 6 % of each
 * gradient's norm. So do gradients in int8, which leave the forward pass as it is. */
static void rough_precisions_stay_near_float32(void **state) {
    (void)state;
    for (size_t m = 0; m < 12; m++) {
        bl__network_config config = m / 3 % 2 ? group_config() : odd_config();
        config.weights = all_modes[m % 3];
        bl__network *exact = make_network(&config, ROWS, TOKENS, NULL);
        config.precision = precisions[1 + m / 6];
        bl__network *rough = make_network(&config, ROWS, TOKENS, NULL);
        bl__network_initialize(exact, 0.1f, 11);
        bl__network_initialize(rough, 0.1f, 11);
        bl__network_quantize(exact);
        bl__network_quantize(rough);
        size_t n;
        bl__param *a = bl__network_params(exact, &n), *b = bl__network_params(rough, &n);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        double x = bl__network_step(exact, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        double y = bl__network_step(rough, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        assert_true(fabs(x - y) < 5e-3 * x);
        /* without a backward pass there is only float32 */
        x = bl__network_step(exact, inputs, targets, ROWS, TOKENS, false, 1.0f, NULL);
        y = bl__network_step(rough, inputs, targets, ROWS, TOKENS, false, 1.0f, NULL);
        assert_memory_equal(&x, &y, sizeof x);
        for (size_t i = 0; i < n; i++) {
            double difference = 0, size = 0;
            for (size_t j = 0; j < a[i].rows * a[i].cols; j++) {
                difference += pow((double)a[i].grad[j] - (double)b[i].grad[j], 2);
                size += pow((double)a[i].grad[j], 2);
            }
            if (verbose)
                printf("  %-50s %.2e\n", a[i].name, sqrt(difference / size));
            if (!(sqrt(difference) <= 0.06 * sqrt(size)))
                fail_msg("%s (mode %zu): off by %.3g of the norm", a[i].name, m,
                         sqrt(difference / size));
        }
        bl__network_free(exact);
        bl__network_free(rough);
    }
}

/* Gradients in int8 of a network that has learned something, beside those in bfloat16, from the
 * same forward pass: as long, in the same direction, and off by little. */
static void int8_gradients_point_where_bfloat16_does(void **state) {
    (void)state;
    bl__network_config config = {.n_layers = 3,
                                 .dim = 96,
                                 .ffn_dim = 200,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 24,
                                 .vocab = 71,
                                 .context = 80,
                                 .rope_base = 10000.0f,
                                 .norm_eps = 1e-5f,
                                 .weights = BL_WEIGHTS_TERNARY,
                                 .precision = BL_PRECISION_AUTO,
                                 .relu2 = true,
                                 .sub_norms = true};
    bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
    config.precision = BL_PRECISION_INT8;
    bl__network *other = make_network(&config, ROWS, TOKENS, NULL);
    size_t n;
    bl__param *a = bl__network_params(net, &n), *b = bl__network_params(other, &n);
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    assert_int_equal(bl__optimizer_create(&adamw, a, n, NULL, &optimizer, NULL), BL_OK);
    double first = 0, last = 0;
    for (int step = 0; step < 60; step++) { /* each token tells the next */
        fill_ids(ROWS * TOKENS, config.vocab, (uint64_t)step);
        for (size_t i = 0; i < ROWS * TOKENS; i++)
            targets[i] = (inputs[i] * 5 + 3) % 71;
        bl__network_quantize(net);
        last = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        first = step ? first : last;
        if (step < 59)
            bl__optimizer_step(optimizer, 5e-3, 0.1, 1.0);
    }
    assert_true(last < 0.7 * first);
    for (size_t i = 0; i < n; i++)
        memcpy(b[i].value, a[i].value, a[i].rows * a[i].cols * sizeof(float));
    bl__network_zero_gradients(other);
    bl__network_quantize(other);
    double same = bl__network_step(other, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    assert_memory_equal(&same, &last, sizeof last);
    for (size_t i = 0; i < n; i++) {
        double size = 0, along = 0, apart = 0;
        for (size_t j = 0; j < a[i].rows * a[i].cols; j++) {
            double x = (double)a[i].grad[j], y = (double)b[i].grad[j];
            size += x * x;
            along += x * y;
            apart += (x - y) * (x - y);
        }
        if (verbose && size > 0)
            printf("  %-50s %.5f %.5f\n", a[i].name, sqrt(apart / size), along / size);
        if (!(apart <= 9e-4 * size && fabs(along - size) <= 1e-2 * size))
            fail_msg("%s: %.3g of the norm apart, %.5f along it", a[i].name, sqrt(apart / size),
                     along / size);
    }
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__network_free(other);
}

/* Layers computed again give the gradients of layers that were kept, in less memory: each layer but
 * the first keeps its input alone. */
static void recomputing_changes_no_bit(void **state) {
    (void)state;
    fill_firsts();
    for (size_t m = 0; m < 6 * N_PRECISIONS; m++) {
        bl__network_config config = m / 3 % 2 ? group_config() : odd_config();
        config.n_layers = 4;
        config.weights = all_modes[m % 3];
        config.blends = m / 3 % 2 && m % 3 > 0;
        config.precision = precisions[m / 6];
        bl__network *stored = make_network(&config, ROWS, TOKENS, NULL);
        config.recompute = true;
        bl__network *again = make_network(&config, ROWS, TOKENS, NULL);
        for (int i = 0; i < 2 && config.blends; i++) {
            bl__network_set_lambda(i ? stored : again, 0.5f);
            bl__network_quantize(i ? stored : again);
        }
        size_t n;
        const bl__param *a = bl__network_params(stored, &n), *b = bl__network_params(again, &n);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        bl__network_set_firsts(stored, firsts);
        bl__network_set_firsts(again, firsts);
        for (int step = 0; step < 2; step++) { /* gradients add up */
            double x = bl__network_step(stored, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
            double y = bl__network_step(again, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
            assert_memory_equal(&x, &y, sizeof x);
            for (size_t i = 0; i < n; i++)
                assert_memory_equal(a[i].grad, b[i].grad, a[i].rows * a[i].cols * sizeof(float));
        }
        size_t kept = bl__network_activation_bytes(stored),
               left = bl__network_activation_bytes(again);
        assert_int_equal(bl__network_bytes(stored) - bl__network_bytes(again), kept - left);
        assert_true(left < kept / 2);
        bl__network_free(stored);
        bl__network_free(again);
    }
}

static void steps_allocate_nothing(void **state) {
    (void)state;
    for (size_t m = 0; m < 6; m++) {
        bl__network_config config = m < 3 ? odd_config() : group_config();
        config.weights = all_modes[m % 3];
        config.precision = m % 2 ? BL_PRECISION_AUTO : BL_PRECISION_INT8;
        config.blends = true;
        bl__pool *pool = NULL;
        assert_int_equal(bl__pool_create(3, false, &pool, NULL), BL_OK);
        bl__network *net = make_network(&config, ROWS, TOKENS, pool);
        size_t n;
        bl__param *params = bl__network_params(net, &n);
        bl__optimizer *optimizer = NULL;
        bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
        assert_int_equal(bl__optimizer_create(&adamw, params, n, pool, &optimizer, NULL), BL_OK);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        long before = bl__alloc_count();
        for (int step = 0; step < 3; step++) {
            bl__network_set_lambda(net, 0.5f * (float)step);
            bl__network_quantize(net);
            bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
            bl__optimizer_step(optimizer, 1e-3, 0.1, 1.0);
        }
        assert_int_equal(bl__alloc_count(), before);
        bl__optimizer_free(optimizer);
        bl__network_free(net);
        bl__pool_free(pool);
    }
}

static void failing_memory_is_reported(void **state) {
    (void)state;
    bl__network_config config = odd_config();
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    bl_status status = BL_ERR_MEMORY;
    long nth = 1;
    for (; status != BL_OK; nth++) {
        bl__network *net = NULL;
        bl__optimizer *optimizer = NULL;
        bl_error err = {0};
        size_t n = 0;
        bl__alloc_fail_at(nth);
        status = bl__network_create(&config, ROWS, TOKENS, NULL, &net, &err);
        if (status == BL_OK) {
            bl__param *params = bl__network_params(net, &n);
            status = bl__optimizer_create(&adamw, params, n, NULL, &optimizer, &err);
        }
        bl__alloc_fail_at(0);
        if (status != BL_OK)
            assert_int_equal(status, BL_ERR_MEMORY);
        bl__optimizer_free(optimizer);
        bl__network_free(net);
    }
    assert_true(nth > 8);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 15; i++) {
        bl__network_config c = odd_config();
        size_t rows = ROWS, tokens = TOKENS;
        bl_error err = {0};
        bl__network *net = NULL;
        uint32_t *const fields[] = {&c.n_layers,   &c.dim,      &c.ffn_dim, &c.n_heads,
                                    &c.n_kv_heads, &c.head_dim, &c.vocab,   &c.context};
        if (i < 8)
            *fields[i] = 0;
        else if (i == 8)
            c.n_kv_heads = 4; /* does not divide 6 */
        else if (i == 9)
            c.head_dim = 9;
        else if (i == 10)
            tokens = 81;
        else if (i == 11)
            rows = 0;
        else if (i == 12)
            c.n_groups = 2; /* does not divide 37 */
        else if (i == 13)
            c.n_groups = 37; /* nor 2 kv_heads */
        else
            c.n_groups = UINT32_MAX;
        assert_int_equal(bl__network_create(&c, rows, tokens, NULL, &net, &err), BL_ERR_ARGUMENT);
        assert_null(net);
        assert_true(err.message[0] != '\0');
    }
}

static void values_that_are_not_finite_show(void **state) {
    (void)state;
    for (size_t m = 0; m < 6; m++) {
        bl__network_config config = m < 3 ? odd_config() : group_config();
        config.weights = all_modes[m % 3];
        bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
        size_t n;
        bl__network_params(net, &n)[2].value[3] = NAN;
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        assert_true(isnan(loss_of(net, ROWS, TOKENS)));
        bl__network_free(net);
    }
}

/* What one group holds decides nothing about the codes of the other: with the second group's
 * weights of one linear 128 times larger no code changes; in a network without groups many do. */
static void groups_have_statistics_of_their_own(void **state) {
    (void)state;
    static const size_t which[] = {BL_PARAM_Q, BL_PARAM_O, BL_PARAM_UP, BL_PARAM_DOWN};
    for (size_t m = 0; m < 16; m++) {
        bl__network_config config = group_config();
        config.weights = m & 8 ? BL_WEIGHTS_BINARY : BL_WEIGHTS_TERNARY;
        config.n_groups = m & 4 ? 1 : 2;
        bl__network *net = make_network(&config, ROWS, TOKENS, NULL);
        size_t n, place = which[m % 4];
        bl__param *p = &bl__network_params(net, &n)[1 + place];
        bool by_cols = place == BL_PARAM_O || place == BL_PARAM_DOWN;
        for (size_t row = 0; row < p->rows; row++)
            for (size_t col = 0; col < p->cols; col++)
                if (by_cols ? col >= p->cols / 2 : row >= p->rows / 2)
                    p->value[row * p->cols + col] *= 128.0f;
        bl__network_quantize(net);
        if (config.n_groups == 2)
            assert_true(bl__network_flips(net) == 0.0);
        else
            assert_true(bl__network_flips(net) > 0.0);
        bl__network_free(net);
    }
}

/* ---- bench ---- */

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void) {
    return seconds_of(CLOCK_MONOTONIC);
}

/* Of each phase its best step: what disturbs one step does not disturb them all. */
static void print_profile(const double *phases, double tokens) {
    static const char *const names[] = {
#define PHASE_NAME(name, text) text,
        BL_NETWORK_PHASES(PHASE_NAME)
#undef PHASE_NAME
    };
    double total = phases[BL_PHASES];
    for (int p = 0; p < BL_PHASES; p++)
        total += phases[p];
    for (int p = 0; p <= BL_PHASES; p++)
        printf("    %-36s %5.1f %% %7.2f us a token\n", p < BL_PHASES ? names[p] : "optimizer",
               100 * phases[p] / total, phases[p] / tokens * 1e6);
}

/* Times steps of `rows` rows of context tokens. */
static void bench_network(const char *name, const bl__network_config *config, uint32_t rows,
                          uint32_t n_threads, int steps) {
    const uint32_t length = config->context;
    bl__pool *pool = NULL;
    assert_int_equal(bl__pool_create(n_threads, false, &pool, NULL), BL_OK);
    bl__network *net = make_network(config, rows, length, pool);
    size_t n, weights = 0;
    bl__param *params = bl__network_params(net, &n);
    for (size_t i = 0; i < n; i++)
        weights += params[i].rows * params[i].cols;
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    assert_int_equal(bl__optimizer_create(&adamw, params, n, pool, &optimizer, NULL), BL_OK);
    fill_ids((size_t)rows * length, config->vocab, 3);
    double best = 1e9, best_cpu = 1e9, start = 0, phases[BL_PHASES + 1];
    for (int i = -1; i < steps; i++) { /* the first step touches the memory and does not count */
        double t = now(), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID), before[BL_PHASES];
        if (i <= 0) {
            start = t;
            best = best_cpu = 1e9;
            for (int p = 0; p <= BL_PHASES; p++)
                phases[p] = 1e9;
        }
        for (int p = 0; p < BL_PHASES; p++)
            before[p] = bl__network_seconds(net, (bl__phase)p);
        bl__network_quantize(net);
        bl__network_step(net, inputs, targets, rows, length, true, 1.0f, NULL);
        double u = now();
        bl__optimizer_step(optimizer, 1e-3, 0.1, 1.0);
        phases[BL_PHASES] = fmin(phases[BL_PHASES], now() - u);
        for (int p = 0; p < BL_PHASES; p++)
            phases[p] = fmin(phases[p], bl__network_seconds(net, (bl__phase)p) - before[p]);
        best = fmin(best, now() - t);
        best_cpu = fmin(best_cpu, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    }
    double total = now() - start, tokens = (double)rows * length;
    /* 6 operations a weight and token, 12 a key seen, dimension and layer */
    double attention = 6.0 * config->n_layers * config->n_heads * config->head_dim * (length + 1);
    double work = tokens * (6.0 * (double)weights + attention);
    printf("%s: %.2f M parameters, %s, %u threads, %.0f MB: best %.0f tokens/s (%.0f GFLOP/s), "
           "mean %.0f, best %.0f a second of processor time\n",
           name, (double)weights * 1e-6, bl__network_compute(net), n_threads,
           (double)bl__network_bytes(net) * 1e-6, tokens / best, work / best * 1e-9,
           tokens * steps / total, tokens / best_cpu);
    print_profile(phases, tokens);
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__pool_free(pool);
}

/* The sizes of bench/train_vs_torch.py; `only` (NULL: all) names one. */
static void bench_quantized(const char *only, uint32_t n_threads, int steps) {
    static const struct {
        const char *name;
        uint32_t layers, dim, ffn;
        int fewer_steps;
        bool recompute;
        bl__precision precision;
    } sizes[] = {{"novels-3m", 4, 256, 512, 1, false, BL_PRECISION_AUTO},
                 {"novels-3m-int8", 4, 256, 512, 1, false, BL_PRECISION_INT8},
                 {"25m", 8, 512, 1536, 4, false, BL_PRECISION_AUTO},
                 {"25m-int8", 8, 512, 1536, 4, false, BL_PRECISION_INT8},
                 {"25m, recomputing", 8, 512, 1536, 4, true, BL_PRECISION_AUTO}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bl__network_config config = {.n_layers = sizes[i].layers,
                                     .dim = sizes[i].dim,
                                     .ffn_dim = sizes[i].ffn,
                                     .n_heads = 8,
                                     .n_kv_heads = 4,
                                     .head_dim = sizes[i].dim / 8,
                                     .vocab = 4096,
                                     .context = 256,
                                     .rope_base = 10000.0f,
                                     .norm_eps = 1e-5f,
                                     .weights = BL_WEIGHTS_TERNARY,
                                     .relu2 = true,
                                     .sub_norms = true,
                                     .precision = sizes[i].precision,
                                     .recompute = sizes[i].recompute};
        if (!only || strcmp(only, sizes[i].name) == 0)
            bench_network(sizes[i].name, &config, 16, n_threads,
                          (steps - 1) / sizes[i].fewer_steps + 1);
    }
}

/* GPT-2's smallest shape in floats, for bench/train_vs_llmc.py: 124 M parameters; three matrices
 * of 2048 in the FFN, gated, have the weights of GPT-2's two of 3072. */
static void bench_gpt2(uint32_t n_threads, int steps) {
    bl__network_config config = {.n_layers = 12,
                                 .dim = 768,
                                 .ffn_dim = 2048,
                                 .n_heads = 12,
                                 .n_kv_heads = 12,
                                 .head_dim = 64,
                                 .vocab = 50257,
                                 .context = 64,
                                 .rope_base = 10000.0f,
                                 .norm_eps = 1e-5f,
                                 .weights = BL_WEIGHTS_FLOAT,
                                 .precision = BL_PRECISION_FLOAT32};
    bench_network("gpt2-float32", &config, 4, n_threads, steps);
    config.precision = BL_PRECISION_AUTO;
    bench_network("gpt2-fastest", &config, 4, n_threads, steps);
}

static void bench(const char *only, uint32_t n_threads, int steps) {
    if (only && strcmp(only, "gpt2") == 0)
        bench_gpt2(n_threads, steps);
    else
        bench_quantized(only, n_threads, steps);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(argc > 4 ? argv[4] : NULL, argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2,
              argc > 3 ? (int)strtol(argv[3], NULL, 10) : 20);
        return 0;
    }
    verbose = argc > 1 && strcmp(argv[1], "--verbose") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(gradients_of_packed_rows_are_slopes),
        cmocka_unit_test(packed_documents_are_as_alone),
        cmocka_unit_test(lambda_leads_from_float_to_integer_products),
        cmocka_unit_test(gradients_add_up_and_scale),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(slices_add_up),
        cmocka_unit_test(rough_precisions_stay_near_float32),
        cmocka_unit_test(int8_gradients_point_where_bfloat16_does),
        cmocka_unit_test(recomputing_changes_no_bit),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(failing_memory_is_reported),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(values_that_are_not_finite_show),
        cmocka_unit_test(groups_have_statistics_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
