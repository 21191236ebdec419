/* Checks OneBit's linears and distillation: finite differences of what has slopes, SVID against
 * what it must find, a teacher that is its own student, the same bits on any number of threads and
 * with layers computed again, slices, no allocation in a step, failing memory, refused teachers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "train/network.h"
#include "train/optimizer.h"

/* Nothing here is a multiple of anything that kernels like. */
static bl__network_config odd_config(bl__weight_mode weights) {
    return (bl__network_config){.n_layers = 2,
                                .dim = 23,
                                .ffn_dim = 37,
                                .n_heads = 6,
                                .n_kv_heads = 2,
                                .head_dim = 10,
                                .vocab = 71,
                                .context = 128,
                                .rope_base = 10000.0f,
                                .norm_eps = 1e-5f,
                                .weights = weights,
                                .precision = BL_PRECISION_FLOAT32,
                                .relu2 = true,
                                .sub_norms = true};
}

enum { ROWS = 3, TOKENS = 69, MAX_IDS = 32 * 128 };
static int32_t inputs[MAX_IDS], targets[MAX_IDS];
/* All losses at once. */
static const bl__distillation ALL = {.hard = 0.3f,
                                     .temperature = 1.7f,
                                     .hidden = 0.7f,
                                     .relations = 2.0f,
                                     .relation_layer = 1,
                                     .relation_temperature = 0.2f};

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

/* Weights of a size that makes every part matter, norms and vectors off what they would be. */
static bl__network *make_network(const bl__network_config *config, uint64_t seed, size_t rows,
                                 size_t tokens, bl__pool *pool) {
    bl__network *net = NULL;
    bl_error err;
    if (bl__network_create(config, rows, tokens, pool, &net, &err) != BL_OK)
        fail_msg("%s", err.message);
    bl__network_initialize(net, 0.3f, seed);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    bl__random random;
    bl__random_seed(&random, seed + 1);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; !params[i].decays && j < params[i].rows * params[i].cols; j++)
            params[i].value[j] *= (float)(0.8 + 0.4 * bl__random_f64(&random));
    bl__network_quantize(net);
    return net;
}

static bl__network *make_teacher(const bl__network_config *student, size_t rows, size_t tokens,
                                 bl__pool *pool) {
    bl__network_config config = *student;
    config.weights = BL_WEIGHTS_FLOAT;
    config.frozen = true;
    return make_network(&config, 77, rows, tokens, pool);
}

/* ---- gradients ---- */

/* What gradients are those of; leaves them as they were. */
static double objective(bl__network *net, size_t rows, size_t tokens) {
    bl__network_quantize(net);
    double loss = bl__network_step(net, inputs, targets, rows, tokens, true, 1.0f, NULL);
    bl__network_zero_gradients(net);
    return loss + (double)ALL.hidden * bl__network_hidden_loss(net) +
           (double)ALL.relations * bl__network_relation_loss(net);
}

/* Along a random direction in one tensor the objective must change as the gradient says. */
static void check_direction(bl__network *net, bl__param *p, const float *grad, bl__random *random) {
    size_t n = p->rows * p->cols;
    float *kept = bl__malloc_array(n, sizeof *kept);
    signed char *signs = bl__malloc(n);
    memcpy(kept, p->value, n * sizeof *kept);
    double expected = 0, difference[2], length = 0;
    for (size_t i = 0; i < n; i++) {
        signs[i] = i % 2 ? (grad[i] < 0 ? -1 : 1) : bl__random_f64(random) < 0.5 ? -1 : 1;
        length += fabs((double)grad[i]);
        expected += (double)grad[i] * signs[i];
    }
    double step = fmin(2e-3, 1e-2 / (length + 1e-9));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            p->value[i] = kept[i] + (float)(side ? step : -step) * (float)signs[i];
        difference[side] = objective(net, ROWS, TOKENS);
    }
    double found = (difference[1] - difference[0]) / (2 * step);
    memcpy(p->value, kept, n * sizeof *kept);
    bl__free(kept);
    bl__free(signs);
    if (!(fabs(found - expected) < 0.01 * fabs(expected) + 2e-4))
        fail_msg("%s: slope %.6g, gradient says %.6g", p->name, found, expected);
}

/* Of every tensor but the latent weights of onebit linears, whose sign has no slope. */
static void check_gradients(bl__weight_mode weights, bool layer_norm, const bl__distillation *d,
                            const bl__network_config *other, const int32_t *firsts) {
    bl__network_config config = odd_config(weights);
    config.layer_norm = layer_norm;
    bl__network *net = make_network(&config, 11, ROWS, TOKENS, NULL);
    bl__network *teacher = make_teacher(other ? other : &config, ROWS, TOKENS, NULL);
    size_t n, n_values = 0;
    bl__param *params = bl__network_params(net, &n);
    bl__random random;
    bl__random_seed(&random, 5);
    fill_ids(ROWS * TOKENS, config.vocab, 3);
    bl__network_set_firsts(net, firsts);
    if (d)
        assert_int_equal(bl__network_set_teacher(net, teacher, d, NULL), BL_OK);
    bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    bl__network_finish_gradients(net);
    for (size_t i = 0; i < n; i++)
        n_values += params[i].rows * params[i].cols;
    float *grads = bl__malloc_array(n_values, sizeof *grads), *at = grads;
    for (size_t i = 0; i < n; at += params[i].rows * params[i].cols, i++)
        memcpy(at, params[i].grad, params[i].rows * params[i].cols * sizeof *at);
    at = grads;
    for (size_t i = 0; i < n; at += params[i].rows * params[i].cols, i++)
        if (params[i].rows && !(params[i].linear && weights == BL_WEIGHTS_ONEBIT))
            check_direction(net, &params[i], at, &random);
    bl__free(grads);
    bl__network_free(net);
    bl__network_free(teacher);
}

static void gradients_are_slopes(void **state) {
    (void)state;
    check_gradients(BL_WEIGHTS_ONEBIT, false, NULL, NULL, NULL);
    check_gradients(BL_WEIGHTS_ONEBIT, false, &ALL, NULL, NULL);
    check_gradients(BL_WEIGHTS_ONEBIT, true, &ALL, NULL, NULL);
    check_gradients(BL_WEIGHTS_FLOAT, false, &ALL, NULL, NULL);
}

/* Of the relations alone, of a teacher of another shape, and where documents share rows. */
static void gradients_of_relations_are_slopes(void **state) {
    (void)state;
    bl__network_config wider = odd_config(BL_WEIGHTS_FLOAT);
    bl__distillation d = {.hard = 1,
                          .temperature = 1,
                          .relations = ALL.relations,
                          .relation_layer = 2,
                          .relation_heads = 10,
                          .relation_temperature = 0.1f};
    wider.n_layers = 3;
    wider.dim = 30;
    wider.n_heads = 4;
    check_gradients(BL_WEIGHTS_FLOAT, false, &d, &wider, NULL);
    int32_t firsts[ROWS * TOKENS] = {0};
    for (size_t i = 0; i < TOKENS; i++) {
        firsts[TOKENS + i] = i < 5 ? 0 : i < 66 ? 5 : 66;
        firsts[2 * TOKENS + i] = i < 40 ? 0 : 40;
    }
    check_gradients(BL_WEIGHTS_FLOAT, false, &d, NULL, firsts);
}

/* In a row that they share, documents have the relations that each has in a row of its own. */
static void relations_end_with_the_document(void **state) {
    (void)state;
    enum { FIRST = 41 };
    bl__network_config config = odd_config(BL_WEIGHTS_FLOAT);
    bl__network *net = make_network(&config, 11, ROWS, TOKENS, NULL);
    bl__network *teacher = make_teacher(&config, ROWS, TOKENS, NULL);
    int32_t firsts[TOKENS] = {0};
    double sum = 0, n[2] = {0};
    for (size_t i = FIRST; i < TOKENS; i++)
        firsts[i] = FIRST;
    fill_ids(TOKENS, config.vocab, 3);
    for (size_t i = 0; i < TOKENS; i++)
        n[i >= FIRST] += targets[i] >= 0;
    assert_int_equal(bl__network_set_teacher(net, teacher, &ALL, NULL), BL_OK);
    bl__network_step(net, inputs, targets, 1, FIRST, true, 1.0f, NULL);
    sum += n[0] * bl__network_relation_loss(net);
    bl__network_step(net, inputs + FIRST, targets + FIRST, 1, TOKENS - FIRST, true, 1.0f, NULL);
    sum += n[1] * bl__network_relation_loss(net);
    bl__network_set_firsts(net, firsts);
    bl__network_step(net, inputs, targets, 1, TOKENS, true, 1.0f, NULL);
    double mean = sum / (n[0] + n[1]);
    assert_true(mean > 1e-3 && fabs(bl__network_relation_loss(net) - mean) < 1e-5 * mean);
    bl__network_free(net);
    bl__network_free(teacher);
}

/* Straight through: the gradient of a latent weight is that of its product's weight, which shows in
 * a float network of these weights, times the vectors. */
static void latent_gradients_pass_straight_through(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT), plain = odd_config(BL_WEIGHTS_FLOAT);
    bl__network *net = make_network(&config, 11, ROWS, TOKENS, NULL);
    bl__network *other = make_network(&plain, 11, ROWS, TOKENS, NULL);
    size_t n;
    bl__param *a = bl__network_params(net, &n), *b = bl__network_params(other, &n);
    const bl__param *in = &a[1 + BL_PARAM_VECTORS + 2 * 6], *out = in + 1; /* of down */
    bl__param *latent = &a[1 + BL_PARAM_DOWN], *weight = &b[1 + BL_PARAM_DOWN];
    for (size_t i = 0; i < n; i++)
        if (!a[i].linear && !a[i].vector)
            memcpy(b[i].value, a[i].value, a[i].rows * a[i].cols * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        const bl__param *vectors = NULL;
        static const size_t order[] = {BL_PARAM_Q,    BL_PARAM_K,  BL_PARAM_V,   BL_PARAM_O,
                                       BL_PARAM_GATE, BL_PARAM_UP, BL_PARAM_DOWN};
        for (size_t k = 0; k < 7 && a[i].linear; k++)
            if ((i - 1) % BL_PARAMS_PER_LAYER == order[k])
                vectors = &a[i - order[k] + BL_PARAM_VECTORS + 2 * k];
        for (size_t r = 0; vectors && r < a[i].rows; r++)
            for (size_t c = 0; c < a[i].cols; c++) {
                size_t at = r * a[i].cols + c;
                float w = vectors[1].value[r] * vectors[0].value[c];
                b[i].value[at] = a[i].value[at] < 0 ? -w : w;
            }
    }
    bl__network_quantize(other);
    fill_ids(ROWS * TOKENS, config.vocab, 3);
    double x = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    double y = bl__network_step(other, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    assert_memory_equal(&x, &y, sizeof x);
    bl__network_finish_gradients(net);
    for (size_t r = 0; r < latent->rows; r++)
        for (size_t c = 0; c < latent->cols; c++) {
            float g = weight->grad[r * latent->cols + c] * (out->value[r] * in->value[c]);
            assert_true(fabsf(latent->grad[r * latent->cols + c] - g) <= 1e-6f * fabsf(g));
        }
    bl__network_free(net);
    bl__network_free(other);
}

/* ---- SVID ---- */

static bl__param *first_q(bl__network *net, bl__param **in, bl__param **out) {
    size_t n;
    bl__param *layer = bl__network_params(net, &n) + 1;
    *in = &layer[BL_PARAM_VECTORS];
    *out = &layer[BL_PARAM_VECTORS + 1];
    return &layer[BL_PARAM_Q];
}

static double rank_one_error(const bl__param *w, const bl__param *in, const bl__param *out) {
    double sum = 0;
    for (size_t r = 0; r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++)
            sum += pow(fabs((double)w->value[r * w->cols + c]) -
                           (double)out->value[r] * (double)in->value[c],
                       2);
    return sum;
}

static void vectors_come_nearest_to_the_weights(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
    bl__network *net = make_network(&config, 11, 1, 8, NULL);
    bl__param *in, *out, *w = first_q(net, &in, &out);
    bl__network_factorize(net);
    double best = rank_one_error(w, in, out), lengths[2] = {0};
    for (size_t c = 0; c < w->cols; c++)
        lengths[0] += pow((double)in->value[c], 2);
    for (size_t r = 0; r < w->rows; r++)
        lengths[1] += pow((double)out->value[r], 2);
    assert_true(fabs(lengths[0] - lengths[1]) < 1e-5 * lengths[0]);
    for (size_t i = 0; i < w->rows + w->cols; i++) { /* every way off is up */
        float *x = i < w->rows ? &out->value[i] : &in->value[i - w->rows], kept = *x;
        assert_true(kept > 0);
        for (int side = -1; side <= 1; side += 2) {
            *x = kept * (1 + 0.02f * (float)side);
            assert_true(rank_one_error(w, in, out) > best);
        }
        *x = kept;
    }
    /* what two vectors make is found again, whatever the signs */
    for (size_t r = 0; r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++)
            w->value[r * w->cols + c] =
                (float)(r + 1) * (float)(c + 2) * ((r * 7 + c * 3) % 5 < 2 ? -0.01f : 0.01f);
    bl__network_factorize(net);
    assert_true(rank_one_error(w, in, out) < 1e-6);
    /* zeros leave a way out: a gradient of out, which is multiplied by in */
    memset(w->value, 0, w->rows * w->cols * sizeof(float));
    bl__network_factorize(net);
    assert_true(out->value[3] == 0 && in->value[5] == 1.0f);
    bl__network_free(net);
}

static void flips_count_signs(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
    bl__network *net = make_network(&config, 11, 1, 8, NULL);
    bl__param *in, *out, *w = first_q(net, &in, &out);
    size_t n, total = 0;
    const bl__param *params = bl__network_params(net, &n);
    for (size_t i = 0; i < n; i++)
        total += params[i].linear ? params[i].rows * params[i].cols : 0;
    assert_true(bl__network_flips(net) == 0.0);
    for (size_t i = 0; i < 13; i++)
        w->value[i * 17] *= -1.0f;
    in->value[2] *= 1.5f; /* vectors flip nothing */
    bl__network_quantize(net);
    assert_true(fabs(bl__network_flips(net) * (double)total - 13.0) < 1e-9);
    bl__network_quantize(net);
    assert_true(bl__network_flips(net) == 0.0);
    w->value[4] = NAN;
    bl__network_quantize(net);
    fill_ids(8, config.vocab, 3);
    assert_true(isnan(bl__network_step(net, inputs, targets, 1, 8, false, 1.0f, NULL)));
    bl__network_free(net);
}

/* ---- teachers ---- */

/* A student that is its teacher has nothing to learn: its loss is the distribution's entropy. */
static void its_own_teacher_teaches_nothing(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_FLOAT);
    bl__network *net = make_network(&config, 77, ROWS, TOKENS, NULL);
    bl__network *teacher = make_teacher(&config, ROWS, TOKENS, NULL);
    size_t n;
    const bl__param *params = bl__network_params(net, &n);
    fill_ids(ROWS * TOKENS, config.vocab, 3);
    const bl__distillation d = {
        .temperature = 1, .hidden = 1, .relations = 1, .relation_temperature = 1};
    assert_int_equal(bl__network_set_teacher(net, teacher, &d, NULL), BL_OK);
    double loss = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
    assert_true(loss > 0.1 && loss < log(config.vocab));
    assert_true(fabs(bl__network_hidden_loss(net)) < 1e-5);
    assert_true(fabs(bl__network_relation_loss(net)) < 1e-5);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < params[i].rows * params[i].cols; j++)
            assert_true(fabsf(params[i].grad[j]) < 1e-5f);
    /* nor does what it says matter without a backward pass */
    double plain = bl__network_step(net, inputs, targets, ROWS, TOKENS, false, 1.0f, NULL);
    double own = bl__network_step(teacher, inputs, targets, ROWS, TOKENS, false, 1.0f, NULL);
    assert_memory_equal(&plain, &own, sizeof own);
    assert_true(plain > loss);
    bl__network_free(net);
    bl__network_free(teacher);
}

/* With all weight on the text, a teacher changes no bit. */
static void the_text_alone_is_ordinary_training(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_TERNARY);
    bl__network *nets[2], *teacher = make_teacher(&config, ROWS, TOKENS, NULL);
    double losses[2];
    size_t n;
    fill_ids(ROWS * TOKENS, config.vocab, 3);
    for (int i = 0; i < 2; i++) {
        nets[i] = make_network(&config, 11, ROWS, TOKENS, NULL);
        const bl__distillation d = {.hard = 1, .temperature = 2};
        assert_int_equal(bl__network_set_teacher(nets[i], i ? teacher : NULL, &d, NULL), BL_OK);
        losses[i] = bl__network_step(nets[i], inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        assert_true(bl__network_hidden_loss(nets[i]) == 0.0);
    }
    assert_memory_equal(&losses[0], &losses[1], sizeof *losses);
    const bl__param *a = bl__network_params(nets[0], &n), *b = bl__network_params(nets[1], &n);
    for (size_t i = 0; i < n; i++)
        assert_memory_equal(a[i].grad, b[i].grad, a[i].rows * a[i].cols * sizeof(float));
    bl__network_free(nets[0]);
    bl__network_free(nets[1]);
    bl__network_free(teacher);
}

enum { MAX_VALUES = 40000 };
static float values[2][MAX_VALUES];

/* A few updates of a student; copies values and returns the losses of the last. */
static double train_some(const bl__network_config *config, uint32_t n_threads, float *out,
                         double others[2]) {
    bl__pool *pool = NULL;
    assert_int_equal(bl__pool_create(n_threads, false, &pool, NULL), BL_OK);
    bl__network *net = make_network(config, 11, ROWS, TOKENS, pool);
    bl__network *teacher = make_teacher(config, ROWS, TOKENS, pool);
    size_t n;
    bl__param *params = bl__network_params(net, &n);
    bl__optimizer *optimizer = NULL;
    bl__optimizer_config adamw = {0.9, 0.95, 1e-8, NULL, NULL};
    assert_int_equal(bl__optimizer_create(&adamw, params, n, pool, &optimizer, NULL), BL_OK);
    assert_int_equal(bl__network_set_teacher(net, teacher, &ALL, NULL), BL_OK);
    double loss = 0;
    long before = bl__alloc_count();
    for (int step = 0; step < 3; step++) {
        fill_ids(ROWS * TOKENS, config->vocab, (uint64_t)step);
        bl__network_quantize(net);
        loss = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        bl__network_finish_gradients(net);
        bl__optimizer_step(optimizer, 1e-3, 0.1, 1.0);
    }
    assert_int_equal(bl__alloc_count(), before);
    others[0] = bl__network_hidden_loss(net);
    others[1] = bl__network_relation_loss(net);
    for (size_t i = 0; i < n; out += params[i].rows * params[i].cols, i++)
        memcpy(out, params[i].value, params[i].rows * params[i].cols * sizeof *out);
    bl__optimizer_free(optimizer);
    bl__network_free(net);
    bl__network_free(teacher);
    bl__pool_free(pool);
    return loss;
}

static void threads_and_recomputing_change_no_bit(void **state) {
    (void)state;
    static const bl__weight_mode modes[] = {BL_WEIGHTS_ONEBIT, BL_WEIGHTS_TERNARY};
    for (size_t m = 0; m < 4; m++) {
        bl__network_config config = odd_config(modes[m % 2]);
        config.precision = m / 2 ? BL_PRECISION_BF16 : BL_PRECISION_FLOAT32;
        double others[2][2], losses[2];
        losses[0] = train_some(&config, 1, values[0], others[0]);
        assert_true(others[0][0] > 0.01 && others[0][1] > 0.01);
        for (uint32_t threads = 1; threads <= 4; threads++) {
            config.recompute = threads % 2;
            losses[1] = train_some(&config, threads, values[1], others[1]);
            assert_memory_equal(&losses[1], &losses[0], sizeof *losses);
            assert_memory_equal(others[1], others[0], sizeof *others);
            assert_memory_equal(values[1], values[0], sizeof *values);
        }
    }
}

/* Rows in several slices, and in several steps, give the losses of one. */
static void slices_add_up(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
    bl__network *net = make_network(&config, 11, 32, 128, NULL); /* 4096 tokens */
    bl__network *teacher = make_teacher(&config, 32, 128, NULL);
    assert_int_equal(bl__network_set_teacher(net, teacher, &ALL, NULL), BL_OK);
    fill_ids(32 * 128, config.vocab, 9);
    double all = bl__network_step(net, inputs, targets, 32, 128, true, 1.0f, NULL);
    double hidden = bl__network_hidden_loss(net), relations = bl__network_relation_loss(net);
    double sums[3] = {0};
    size_t total = 0;
    for (size_t row = 0; row < 32; row += 5) {
        size_t rows = row + 5 <= 32 ? 5 : 32 - row, here = 0;
        for (size_t i = row * 128; i < (row + rows) * 128; i++)
            here += targets[i] >= 0;
        total += here;
        sums[0] += (double)here * bl__network_step(net, inputs + row * 128, targets + row * 128,
                                                   rows, 128, true, 1.0f, NULL);
        sums[1] += (double)here * bl__network_hidden_loss(net);
        sums[2] += (double)here * bl__network_relation_loss(net);
    }
    assert_true(fabs(sums[0] / (double)total - all) < 1e-5 * all);
    assert_true(fabs(sums[1] / (double)total - hidden) < 1e-5 * hidden);
    assert_true(fabs(sums[2] / (double)total - relations) < 1e-5 * relations);
    bl__network_free(net);
    bl__network_free(teacher);
}

static void bfloat16_stays_near_float32(void **state) {
    (void)state;
    double losses[2], hidden[2], relations[2];
    for (int i = 0; i < 2; i++) {
        bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
        config.precision = i ? BL_PRECISION_BF16 : BL_PRECISION_FLOAT32;
        bl__network *net = make_network(&config, 11, ROWS, TOKENS, NULL);
        bl__network *teacher = make_teacher(&config, ROWS, TOKENS, NULL);
        assert_int_equal(bl__network_set_teacher(net, teacher, &ALL, NULL), BL_OK);
        fill_ids(ROWS * TOKENS, config.vocab, 3);
        losses[i] = bl__network_step(net, inputs, targets, ROWS, TOKENS, true, 1.0f, NULL);
        hidden[i] = bl__network_hidden_loss(net);
        relations[i] = bl__network_relation_loss(net);
        bl__network_free(net);
        bl__network_free(teacher);
    }
    assert_true(fabs(losses[0] - losses[1]) < 2e-2 * losses[0]);
    assert_true(fabs(hidden[0] - hidden[1]) < 2e-2 * hidden[0]);
    assert_true(fabs(relations[0] - relations[1]) < 2e-2 * relations[0]);
}

/* ---- what goes wrong ---- */

static void failing_memory_is_reported(void **state) {
    (void)state;
    bl_status status = BL_ERR_MEMORY;
    long nth = 1;
    for (; status != BL_OK; nth++) {
        bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
        bl__network *nets[2] = {NULL, NULL};
        bl_error err = {0};
        bl__alloc_fail_at(nth);
        status = bl__network_create(&config, ROWS, TOKENS, NULL, &nets[0], &err);
        config.frozen = true;
        if (status == BL_OK)
            status = bl__network_create(&config, ROWS, TOKENS, NULL, &nets[1], &err);
        if (status == BL_OK)
            status = bl__network_set_teacher(nets[0], nets[1], &ALL, &err);
        bl__alloc_fail_at(0);
        if (status == BL_OK) /* what no gradient needs is not there */
            assert_true(bl__network_bytes(nets[1]) < bl__network_bytes(nets[0]));
        else
            assert_int_equal(status, BL_ERR_MEMORY);
        bl__network_free(nets[0]);
        bl__network_free(nets[1]);
    }
    assert_true(nth > 8);
}

static void teachers_that_do_not_fit_are_refused(void **state) {
    (void)state;
    bl__network_config config = odd_config(BL_WEIGHTS_ONEBIT);
    bl__network *net = make_network(&config, 11, ROWS, TOKENS, NULL);
    for (int i = 0; i < 9; i++) {
        bl__network_config other = config;
        bl__distillation d = {.temperature = 1, .hidden = i != 3, .relation_temperature = 1};
        bl_error err = {0};
        if (i > 4) {
            d.hidden = 0;
            d.relations = 1;
            d.relation_layer = i == 5 ? 3 : i == 6;
            d.relation_heads = i == 7 ? 3 : 4; /* 4 divides 60 and 20 */
            other.n_layers -= i == 6;
            other.n_heads += i == 8 ? 1 : 0;
            other.n_kv_heads -= i == 8 ? 1 : 0;
        }
        other.vocab += i == 0;
        other.n_layers += i == 1;
        other.dim += i >= 2 && i < 4;
        bl__network *teacher = make_teacher(&other, i == 4 ? 1 : ROWS, TOKENS, NULL);
        bool fits = i == 3; /* hidden states are not compared */
        assert_int_equal(bl__network_set_teacher(net, teacher, &d, &err),
                         fits ? BL_OK : BL_ERR_ARGUMENT);
        assert_true(fits || err.message[0]);
        assert_true(i < 5 || strstr(err.message, i < 7 ? "relation_layer" : "relation_heads"));
        assert_int_equal(bl__network_set_teacher(net, NULL, NULL, &err), BL_OK);
        bl__network_free(teacher);
    }
    config.n_groups = 2;
    config.ffn_dim = 38;
    bl__network *grouped = NULL;
    assert_int_equal(bl__network_create(&config, 1, 8, NULL, &grouped, NULL), BL_ERR_ARGUMENT);
    bl__network_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(gradients_of_relations_are_slopes),
        cmocka_unit_test(relations_end_with_the_document),
        cmocka_unit_test(latent_gradients_pass_straight_through),
        cmocka_unit_test(vectors_come_nearest_to_the_weights),
        cmocka_unit_test(flips_count_signs),
        cmocka_unit_test(its_own_teacher_teaches_nothing),
        cmocka_unit_test(the_text_alone_is_ordinary_training),
        cmocka_unit_test(threads_and_recomputing_change_no_bit),
        cmocka_unit_test(slices_add_up),
        cmocka_unit_test(bfloat16_stays_near_float32),
        cmocka_unit_test(failing_memory_is_reported),
        cmocka_unit_test(teachers_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
