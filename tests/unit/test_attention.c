/* Attention against sums in double, for every type of cache; and that batches, tiles, threads,
 * sequences beside it and copies of a cache change no bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "model/attention.h"

enum { LAYERS = 2, LAYER = 1, MAX_BLOCKS = 32 };

/* A sequence of n tokens: what goes into attention. */
typedef struct text {
    bl__hparams h;
    size_t n;
    float *q, *k, *v; /* q: float[n][n_heads][head_dim]; k, v: float[n][n_kv_heads][head_dim] */
} text;

typedef struct engine {
    bl__arena arena;
    bl__pool *pool;
    bl__attention attention;
    bl__cache cache;
    uint32_t pages[2][MAX_BLOCKS]; /* of two sequences, in no order */
} engine;

static size_t q_dim(const text *t) {
    return (size_t)t->h.n_heads * t->h.head_dim;
}

static size_t kv_dim(const text *t) {
    return (size_t)t->h.n_kv_heads * t->h.head_dim;
}

static float *random_floats(bl__random *random, size_t n) {
    float *x = bl__malloc_array(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(bl__random_f64(random) * 4.0 - 2.0);
    return x;
}

static text make_text(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, bool halves,
                      size_t n) {
    text t = {.n = n};
    bl__random random;
    bl__random_seed(&random, 11);
    t.h = (bl__hparams){.n_layers = LAYERS,
                        .n_heads = n_heads,
                        .n_kv_heads = n_kv_heads,
                        .head_dim = head_dim,
                        .rope_halves = halves,
                        .n_rot = head_dim - head_dim % 4,
                        .rope_base = 10000.0f,
                        .rope_factor = 1.0f};
    t.q = random_floats(&random, n * q_dim(&t));
    t.k = random_floats(&random, n * kv_dim(&t));
    t.v = random_floats(&random, n * kv_dim(&t));
    return t;
}

static void free_text(text *t) {
    bl__free(t->q);
    bl__free(t->k);
    bl__free(t->v);
}

static void lay_out(engine *e, const text *t, bl_cache_type type, bl__arena *arena) {
    bl__attention_layout(&e->attention, t->n, arena);
    bl__cache_layout(&e->cache, &t->h, type, 2 * bl__cache_blocks(t->n), arena);
}

static void start(engine *e, const text *t, bl_cache_type type, uint32_t n_threads) {
    *e = (engine){0};
    assert_int_equal(bl__pool_create(n_threads, false, &e->pool, NULL), BL_OK);
    e->attention = (bl__attention){
        .kernels = bl__kernels_get(), .pool = e->pool, .h = &t->h, .cache = &e->cache};
    size_t n_blocks = bl__cache_blocks(t->n);
    assert_true(n_blocks <= MAX_BLOCKS);
    for (size_t i = 0; i < n_blocks; i++) {
        e->pages[0][i] = (uint32_t)(2 * (n_blocks - 1 - i));
        e->pages[1][i] = (uint32_t)(2 * i + 1);
    }
    bl__arena measure = bl__arena_measuring();
    lay_out(e, t, type, &measure);
    assert_false(measure.overflowed);
    assert_int_equal(bl__arena_create(measure.used, &e->arena, NULL), BL_OK);
    lay_out(e, t, type, &e->arena);
    bl__attention_prepare(&e->attention, NULL);
}

static void stop(engine *e) {
    bl__pool_free(e->pool);
    bl__arena_destroy(&e->arena);
}

/* Runs tokens n_past ... n_past + n - 1 of a text, with n_other of its first ones beside them as
 * another sequence. out: float[n][n_heads][head_dim] */
static void run(engine *e, const text *t, size_t n_past, size_t n, size_t n_other, float *out) {
    size_t qd = q_dim(t), kvd = kv_dim(t), rows = n_other + n;
    float *q = bl__malloc_array(rows * qd, sizeof *q), *k = bl__malloc_array(rows * kvd, sizeof *k);
    float *v = bl__malloc_array(rows * kvd, sizeof *v);
    float *all = bl__malloc_array(rows * qd, sizeof *all);
    assert_true(q && k && v && all);
    memcpy(q, t->q, n_other * qd * sizeof *q);
    memcpy(k, t->k, n_other * kvd * sizeof *k);
    memcpy(v, t->v, n_other * kvd * sizeof *v);
    memcpy(q + n_other * qd, t->q + n_past * qd, n * qd * sizeof *q);
    memcpy(k + n_other * kvd, t->k + n_past * kvd, n * kvd * sizeof *k);
    memcpy(v + n_other * kvd, t->v + n_past * kvd, n * kvd * sizeof *v);
    const bl__span spans[] = {{e->pages[1], 0, 0, n_other}, {e->pages[0], n_other, n_past, n}};
    bl__attention_run(&e->attention, LAYER, n_other ? spans : spans + 1, n_other ? 2 : 1, q, k, v,
                      all);
    memcpy(out, all + n_other * qd, n * qd * sizeof *out);
    bl__free(q);
    bl__free(k);
    bl__free(v);
    bl__free(all);
}

/* x rotated to position `pos`, in double. */
static void rotate(const text *t, const float *x, size_t pos, double *out) {
    size_t half = t->h.n_rot / 2;
    for (size_t i = 0; i < t->h.head_dim; i++)
        out[i] = (double)x[i];
    for (size_t i = 0; i < half; i++) {
        double angle = (double)pos * pow(10000.0, -2.0 * (double)i / (double)t->h.n_rot);
        size_t a = t->h.rope_halves ? i : 2 * i, b = t->h.rope_halves ? i + half : 2 * i + 1;
        double u = out[a], w = out[b];
        out[a] = u * cos(angle) - w * sin(angle);
        out[b] = w * cos(angle) + u * sin(angle);
    }
}

/* The largest deviation of out's rows for some tokens from what attention is by definition. */
static double deviation(const text *t, const float *out) {
    size_t d = t->h.head_dim, group = t->h.n_heads / t->h.n_kv_heads;
    double *weights = bl__malloc_array(t->n, sizeof *weights), most = 0;
    double *q = bl__malloc_array(2 * d, sizeof *q), *k = q + d;
    assert_true(weights && q);
    for (size_t token = 0; token < t->n; token += token < 3 ? 1 : 61)
        for (size_t head = 0; head < t->h.n_heads; head++) {
            size_t kv = head / group;
            double sum = 0, max = -1e300;
            rotate(t, t->q + token * q_dim(t) + head * d, token, q);
            for (size_t pos = 0; pos <= token; pos++) {
                rotate(t, t->k + pos * kv_dim(t) + kv * d, pos, k);
                weights[pos] = 0;
                for (size_t i = 0; i < d; i++)
                    weights[pos] += q[i] * k[i] / sqrt((double)d);
                max = fmax(max, weights[pos]);
            }
            for (size_t pos = 0; pos <= token; pos++)
                sum += weights[pos] = exp(weights[pos] - max);
            for (size_t i = 0; i < d; i++) {
                double want = 0;
                for (size_t pos = 0; pos <= token; pos++)
                    want += weights[pos] / sum * (double)t->v[pos * kv_dim(t) + kv * d + i];
                most = fmax(most, fabs(want - (double)out[token * q_dim(t) + head * d + i]));
            }
        }
    bl__free(weights);
    bl__free(q);
    return most;
}

/* Values are in -2 ... 2. */
static void check(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, bool halves, size_t n) {
    static const double allowed[] = {
        [BL_CACHE_F32] = 1e-5, [BL_CACHE_F16] = 3e-3, [BL_CACHE_I8] = 3e-2, [BL_CACHE_I4] = 0.8};
    static const size_t steps[] = {1, 7, 64, 97, SIZE_MAX};
    text t = make_text(n_heads, n_kv_heads, head_dim, halves, n);
    size_t bytes = n * q_dim(&t) * sizeof(float);
    float *want = bl__malloc_array(bytes, 1), *got = bl__malloc_array(bytes, 1);
    assert_true(want && got);
    for (bl_cache_type type = BL_CACHE_F16; type <= BL_CACHE_I4; type++) {
        engine e;
        start(&e, &t, type, 1);
        run(&e, &t, 0, n, 0, want);
        stop(&e);
        double most = deviation(&t, want);
        print_message("%u heads of %u, cache type %d: deviation %.2g\n", n_heads, head_dim,
                      (int)type, most);
        assert_true(most < allowed[type]);
        assert_true(type == BL_CACHE_F32 || most > allowed[BL_CACHE_F32]);
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            start(&e, &t, type, 1 + (uint32_t)s % 3);
            memset(got, 0xff, bytes);
            for (size_t at = 0, here; at < n; at += here) {
                here = n - at < steps[s] ? n - at : steps[s];
                run(&e, &t, at, here, s == 1 ? 5 : 0, got + at * q_dim(&t));
            }
            assert_memory_equal(got, want, bytes);
            stop(&e);
        }
    }
    bl__free(want);
    bl__free(got);
    free_text(&t);
}

static void test_shapes(void **state) {
    (void)state;
    check(4, 2, 10, false, 150);
    check(2, 2, 64, true, 1100);
    check(6, 2, 100, true, 200);
    check(4, 1, 128, true, 600);
    check(31, 1, 32, false, 130);
}

/* The last token's bits are those of a sequence that shares a page and copies another, half filled.
 */
static void test_copy(void **state) {
    (void)state;
    enum { N = 200, COPIED = 100 }; /* one page and a part of another */
    text t = make_text(4, 2, 40, true, N);
    float *a = bl__malloc_array(N * q_dim(&t), sizeof *a), *b = bl__malloc_array(N * q_dim(&t), 4);
    assert_true(a && b);
    for (bl_cache_type type = BL_CACHE_F16; type <= BL_CACHE_I4; type++) {
        engine e;
        start(&e, &t, type, 2);
        run(&e, &t, 0, COPIED, 0, a);
        bl__cache_copy_page(&e.cache, e.pages[0][1], e.pages[1][1]);
        run(&e, &t, COPIED, N - COPIED, 0, a);
        memcpy(e.pages[0] + 1, e.pages[1] + 1, sizeof e.pages[0] - sizeof e.pages[0][0]);
        run(&e, &t, COPIED, N - COPIED, 0, b);
        assert_memory_equal(a, b, (N - COPIED) * q_dim(&t) * sizeof *a);
        stop(&e);
    }
    bl__free(a);
    bl__free(b);
    free_text(&t);
}

/* What does not fit float16 is kept as its largest number. */
static void test_saturation(void **state) {
    (void)state;
    text t = make_text(1, 1, 32, true, 70);
    float out[70 * 32];
    for (size_t i = 0; i < 70 * 32; i++)
        t.v[i] = i % 32 == 3 ? -1e30f : 1.0f;
    engine e;
    start(&e, &t, BL_CACHE_F16, 1);
    run(&e, &t, 0, 70, 0, out);
    for (size_t i = 0; i < 70 * 32; i++)
        assert_true(i % 32 == 3 ? fabsf(out[i] + 65504.0f) < 1.0f : fabsf(out[i] - 1.0f) < 1e-5f);
    stop(&e);
    free_text(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_saturation),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
