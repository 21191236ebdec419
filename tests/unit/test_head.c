/* The screened output head: no row gives more than its bound says, on any rows and activations; the
 * best logits are those of the whole head to the bit, ties included; and a real model writes the
 * same tokens either way, whatever the sampler. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "bitloom/bitloom.h"
#include "model/head.h"

enum { MOST_TOKENS = 70 };

static bl__random rng;

static float random_float(void) {
    return (float)(bl__random_f64(&rng) * 2.0 - 1.0);
}

/* ---- bounds ---- */

typedef enum rows_kind {
    ROWS_RANDOM,
    ROWS_OF_SIZES,  /* from 1e-30 to 1e20: beyond what is bounded at both ends */
    ROWS_HALFWAY,   /* every element rounds by nearly half a step, all to the same side */
    ROWS_ONE_LARGE, /* one element makes the scale */
    ROWS_EXTREME,   /* zeros, subnormals, infinity and NaN */
    N_ROWS_KINDS
} rows_kind;

typedef enum x_kind {
    X_RANDOM,
    X_EQUAL,
    X_OUTLIERS, /* a few elements 100 times the others */
    X_ONE,      /* one element that is not 0 */
    X_LARGE,    /* norm 1e15 */
    X_SMALL,    /* norm 1e-12 */
    N_X_KINDS
} x_kind;

static void fill_row(float *w, size_t cols, rows_kind kind) {
    double size = pow(10, bl__random_f64(&rng) * 50 - 30);
    for (size_t c = 0; c < cols; c++) {
        w[c] = random_float();
        if (kind == ROWS_OF_SIZES)
            w[c] = (float)((double)w[c] * size);
        if (kind == ROWS_HALFWAY)
            w[c] = c ? ((float)bl__random_below(&rng, 254) - 126.501f) / 127 : 1;
        if (kind == ROWS_EXTREME)
            w[c] *= 1e-39f;
    }
    if (kind == ROWS_ONE_LARGE)
        w[bl__random_below(&rng, cols)] = 500;
    if (kind == ROWS_EXTREME && bl__random_below(&rng, 2))
        w[bl__random_below(&rng, cols)] =
            (const float[]){NAN, INFINITY, -INFINITY, 3e38f}[bl__random_below(&rng, 4)];
    if (kind == ROWS_EXTREME && !bl__random_below(&rng, 4))
        memset(w, 0, cols * sizeof *w);
}

static void fill_x(float *x, size_t cols, x_kind kind) {
    for (size_t c = 0; c < cols; c++) {
        x[c] = kind == X_EQUAL ? 0.7f : kind == X_ONE ? 0 : random_float();
        x[c] *= kind == X_LARGE ? 1e15f : kind == X_SMALL ? 1e-12f : 1;
        if (kind == X_OUTLIERS && !bl__random_below(&rng, 64))
            x[c] *= 100;
    }
    if (kind == X_ONE)
        x[bl__random_below(&rng, cols)] = -3;
}

/* A head alone: rows in float32, no threads. */
typedef struct fixture {
    bl__linear linear;
    bl__compute compute;
    bl__head head;
    bl__arena arena;
    float *w, *whole;
} fixture;

static void open_fixture(fixture *f, size_t rows, size_t cols) {
    *f = (fixture){0};
    f->w = calloc(rows * cols, sizeof *f->w);
    f->whole = calloc(rows, sizeof *f->whole);
    f->linear = (bl__linear){.rows = rows,
                             .cols = cols,
                             .layout = BL_LAYOUT_F32,
                             .data = (const uint8_t *)f->w,
                             .scale = 1};
    static float unused[2]; /* rows of floats are multiplied where they lie, x as it is */
    static int8_t unused_q;
    static int32_t unused_sum;
    f->compute = (bl__compute){.kernels = bl__kernels_get(),
                               .max_parts = 1,
                               .max_tokens = MOST_TOKENS,
                               .rows = &unused[0],
                               .q8 = {.q = &unused_q, .step = &unused[1], .sum = &unused_sum}};
    f->head = (bl__head){.linear = &f->linear, .screen = bl__screen_create(rows, cols)};
    assert_non_null(f->head.screen);
    assert_true(bl__screen_reserve(f->head.screen));
    bl__arena measure = bl__arena_measuring();
    bl__head_layout(&f->head, &f->compute, &measure);
    assert_int_equal(bl__arena_create(measure.used, &f->arena, NULL), BL_OK);
    bl__head_layout(&f->head, &f->compute, &f->arena);
}

static void close_fixture(fixture *f) {
    bl__screen_free(f->head.screen);
    bl__arena_destroy(&f->arena);
    free(f->w);
    free(f->whole);
}

static void make_copy(fixture *f) {
    bl__screen_extend(f->head.screen, &f->compute, &f->linear, f->head.screen->n_tiles,
                      f->head.scratch);
    assert_int_equal(f->head.screen->n_ready, f->head.screen->n_tiles);
}

static void check_bounds(size_t rows, size_t cols, rows_kind of_rows, x_kind of_x,
                         uint32_t min_digits) {
    fixture f;
    bl__screen_x x;
    double slack = 0, norms = 0, x_squares = 0;
    open_fixture(&f, rows, cols);
    for (size_t r = 0; r < rows; r++)
        fill_row(f.w + r * cols, cols, of_rows);
    make_copy(&f);
    fill_x(f.head.x, cols, of_x);
    assert_true(bl__screen_prepare(f.head.x, cols, min_digits, f.head.digits, &x));
    float upper[MOST_TOKENS];
    f.compute.kernels->screen_rows(f.head.screen->tiles, cols, f.head.screen->n_tiles, &x, 1, upper,
                                   0);
    bl__compute_dots(&f.compute, &f.linear, 0, rows, f.head.x, 1, 0, f.whole);
    for (size_t r = 0; r < rows; r++) {
        double squares = 0;
        if (upper[r] < f.whole[r])
            fail_msg("rows %d, x %d, %zu columns: row %zu gives %.9g, at most %.9g", of_rows, of_x,
                     cols, r, (double)f.whole[r], (double)upper[r]);
        for (size_t c = 0; c < cols; c++)
            squares += (double)f.w[r * cols + c] * (double)f.w[r * cols + c];
        norms += sqrt(squares);
        slack += (double)upper[r] - (double)f.whole[r];
    }
    for (size_t c = 0; c < cols; c++)
        x_squares += (double)f.head.x[c] * (double)f.head.x[c];
    /* Bounds are of use: half a step in 127 of rows whose elements are alike, and no more. */
    if (of_rows == ROWS_RANDOM && of_x != X_OUTLIERS && cols > 8)
        assert_true(slack < (x.n_digits == 2 ? 0.008 : 0.02) * norms * sqrt(x_squares));
    close_fixture(&f);
}

static void test_bounds(void **state) {
    (void)state;
    for (size_t i = 0; i < 60; i++)
        for (int of_rows = 0; of_rows < N_ROWS_KINDS; of_rows++)
            for (int of_x = 0; of_x < N_X_KINDS; of_x++)
                for (uint32_t digits = 1; digits <= 2; digits++)
                    check_bounds(33, i < 40 ? i + 1 : 61 * i, (rows_kind)of_rows, (x_kind)of_x,
                                 digits);
}

static void test_no_bound(void **state) {
    (void)state;
    float x[20] = {0};
    int8_t digits[40];
    bl__screen_x out;
    assert_false(bl__screen_prepare(x, 20, 1, digits, &out));
    x[7] = 1e-20f;
    assert_false(bl__screen_prepare(x, 20, 1, digits, &out));
    x[7] = 1;
    assert_true(bl__screen_prepare(x, 20, 1, digits, &out));
    const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f};
    for (size_t i = 0; i < 4; i++) {
        x[3] = bad[i];
        assert_false(bl__screen_prepare(x, 20, 1, digits, &out));
    }
}

/* ---- the best logits ---- */

/* How many logits are above x, NaN not among them. */
static size_t rank_of(const fixture *f, float x) {
    size_t n = 0;
    for (size_t r = 0; r < f->linear.rows; r++)
        n += f->whole[r] > x;
    return n;
}

/* got: the logits within reach of the token whose whole head is in f->whole. */
static void check_logits(const fixture *f, const float *got, const bl_reach *reach) {
    float highest = -INFINITY;
    for (size_t r = 0; r < f->linear.rows; r++)
        highest = f->whole[r] > highest ? f->whole[r] : highest;
    for (size_t r = 0; r < f->linear.rows; r++) {
        if (memcmp(&got[r], &f->whole[r], sizeof *got) == 0 || isnan(f->whole[r]))
            continue;
        if (reach->n_best == 0 || got[r] != -INFINITY || rank_of(f, f->whole[r]) < reach->n_best ||
            f->whole[r] >= highest - reach->margin)
            fail_msg("%zu best, row %zu of rank %zu: %.9g, expected %.9g", reach->n_best, r,
                     rank_of(f, f->whole[r]), (double)got[r], (double)f->whole[r]);
    }
}

static void check_best(fixture *f, size_t n_best, float margin) {
    const bl_reach reach = {n_best, margin};
    bl__head_take(&f->head, f->head.x);
    check_logits(f, bl__head_best(&f->head, &f->compute, &reach), &reach);
}

/* The same of a random share of the rows. */
static void check_allowed(fixture *f, size_t n_best, float margin, size_t one_in) {
    size_t rows = f->linear.rows;
    uint64_t *allowed = calloc(rows / 64 + 1, sizeof *allowed);
    float highest = -INFINITY;
    for (size_t r = 0; r < rows; r++)
        if (bl__random_below(&rng, one_in) == 0)
            allowed[r / 64] |= (uint64_t)1 << (r % 64);
    bl__head_take(&f->head, f->head.x);
    const bl_reach reach = {n_best, margin};
    const float *got = bl__head_allowed(&f->head, &f->compute, &reach, allowed);
    for (size_t r = 0; r < rows; r++)
        if (allowed[r / 64] >> (r % 64) & 1)
            highest = f->whole[r] > highest ? f->whole[r] : highest;
    for (size_t r = 0; r < rows; r++) {
        size_t rank = 0;
        if (!(allowed[r / 64] >> (r % 64) & 1) || isnan(f->whole[r]) ||
            memcmp(&got[r], &f->whole[r], sizeof *got) == 0)
            continue;
        for (size_t i = 0; i < rows; i++)
            rank += f->whole[i] > f->whole[r] && (allowed[i / 64] >> (i % 64) & 1);
        if (got[r] != -INFINITY || rank < n_best || f->whole[r] >= highest - margin)
            fail_msg("%zu best of 1 in %zu, row %zu of rank %zu: %.9g, expected %.9g", n_best,
                     one_in, r, rank, (double)got[r], (double)f->whole[r]);
    }
    free(allowed);
}

/* damage 1: rows that are equal; 2: rows with NaN and infinity; 3: activations without a bound. */
static void fill_rows(fixture *f, int damage) {
    size_t rows = f->linear.rows, cols = f->linear.cols;
    for (size_t r = 0; r < rows; r++)
        fill_row(f->w + r * cols, cols, damage == 2 && r % 37 == 5 ? ROWS_EXTREME : ROWS_RANDOM);
    for (size_t r = 1; damage == 1 && r < rows; r++)
        if (r % 3)
            memcpy(f->w + r * cols, f->w + r / 9 * cols, cols * sizeof *f->w);
}

/* One token after the other. */
static void check_heads(size_t rows, size_t cols, int damage) {
    fixture f;
    open_fixture(&f, rows, cols);
    fill_rows(&f, damage);
    for (int token = 0; token < 24; token++) { /* the copy grows under the first sixteen */
        fill_x(f.head.x, cols, damage == 3 && token % 2 ? X_LARGE : X_RANDOM);
        if (damage == 3 && token % 4 == 3)
            f.head.x[0] = INFINITY;
        bl__compute_dots(&f.compute, &f.linear, 0, rows, f.head.x, 1, 0, f.whole);
        check_best(&f, 1 + bl__random_below(&rng, token % 2 ? 40 : 2),
                   token % 3 ? 0 : (float)bl__random_f64(&rng));
        check_allowed(&f, 1 + bl__random_below(&rng, token % 2 ? 40 : 2),
                      token % 3 ? 0 : (float)bl__random_f64(&rng),
                      1 + bl__random_below(&rng, token % 2 ? 2 : 30));
    }
    assert_int_equal(f.head.screen->n_ready, rows >= 8 ? f.head.screen->n_tiles : 0);
    if (damage == 0 && rows > 1000)
        assert_true(f.head.counts.n_whole < 12);
    bl__head_take(&f.head, f.head.x);
    assert_memory_equal(bl__head_all(&f.head, &f.compute), f.whole, rows * sizeof(float));
    close_fixture(&f);
}

/* Tokens of all kinds together, each with a reach of its own. damage: as above. */
static void check_tokens(size_t rows, size_t cols, int damage) {
    fixture f;
    open_fixture(&f, rows, cols);
    fill_rows(&f, damage);
    float *x = calloc(MOST_TOKENS * cols, sizeof *x);
    float *got = calloc(MOST_TOKENS * rows, sizeof *got);
    bl_reach reaches[MOST_TOKENS];
    for (int round = 0; round < 24; round++) {
        size_t n = 1 + bl__random_below(&rng, MOST_TOKENS);
        for (size_t t = 0; t < n; t++) {
            fill_x(x + t * cols, cols, bl__random_below(&rng, 4) ? X_RANDOM : X_OUTLIERS);
            if (damage == 3 && bl__random_below(&rng, 4) == 0)
                x[t * cols] = bl__random_below(&rng, 2) ? INFINITY : NAN;
            reaches[t] = (bl_reach){1 + bl__random_below(&rng, t % 2 ? 40 : 2), 0};
            if (t % 3 == 0)
                reaches[t].margin = (float)bl__random_f64(&rng);
            if (bl__random_below(&rng, 9) == 0)
                reaches[t].n_best = 0;
        }
        bl__head_rows(&f.head, &f.compute, x, n, reaches, got);
        for (size_t t = 0; t < n; t++) {
            bl__compute_dots(&f.compute, &f.linear, 0, rows, x + t * cols, 1, 0, f.whole);
            check_logits(&f, got + t * rows, &reaches[t]);
        }
    }
    if (damage == 0 && rows > 1000)
        assert_true(f.head.counts.n_whole * 3 < f.head.counts.n_tokens);
    free(x);
    free(got);
    close_fixture(&f);
}

static void test_best(void **state) {
    (void)state;
    for (int damage = 0; damage < 4; damage++) {
        for (size_t rows = 1; rows < 70; rows += 1 + rows / 8)
            check_heads(rows, 1 + rows * 7 % 90, damage);
        for (size_t rows = 1; rows < 200; rows += 1 + rows / 3)
            check_tokens(rows, 1 + rows * 7 % 90, damage);
        check_tokens(1203, 130, damage);
        check_heads(400, 77, damage);
        check_heads(3001, 130, damage);
    }
}

/* ---- samplers ---- */

static const bl_sampler_params settings[] = {
    {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 0, .top_p = 1, .repeat_penalty = 1.3f, .penalty_last_n = 20},
    {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1},
    {.temperature = 1.5f, .top_k = 5, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 1,
     .top_k = 40,
     .top_p = 0.9f,
     .repeat_penalty = 1.1f,
     .frequency_penalty = 0.2f,
     .presence_penalty = 0.1f,
     .penalty_last_n = 64},
    {.temperature = 1, .top_p = 1, .min_p = 0.02f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 1, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 1, .top_k = 20, .top_p = 1, .repeat_penalty = 0.9f, .penalty_last_n = 16},
};
enum { N_SETTINGS = sizeof settings / sizeof settings[0] };

static int compare_down(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Leaves only what is within reach: what the session may leave out, all of it is left out. */
static void cut(const float *logits, size_t n, bl_reach reach, float *out) {
    float *sorted = malloc(n * sizeof *sorted), floor = -INFINITY;
    memcpy(sorted, logits, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_down);
    if (reach.n_best > 0 && reach.n_best <= n)
        floor = fminf(sorted[reach.n_best - 1], sorted[0] - reach.margin);
    for (size_t i = 0; i < n; i++)
        out[i] = logits[i] >= floor ? logits[i] : -INFINITY;
    free(sorted);
}

static void test_samplers(void **state) {
    (void)state;
    enum { VOCAB = 500 };
    float logits[VOCAB], some[VOCAB];
    for (size_t i = 0; i < N_SETTINGS; i++) {
        bl_sampler *a, *b;
        size_t n_cut = 0;
        assert_int_equal(bl_sampler_create(&settings[i], VOCAB, &a, NULL), BL_OK);
        assert_int_equal(bl_sampler_create(&settings[i], VOCAB, &b, NULL), BL_OK);
        for (int step = 0; step < 1000; step++) {
            for (size_t t = 0; t < VOCAB; t++) {
                logits[t] = 3 * (random_float() + random_float() + random_float());
                if (step % 3 == 0) /* many ties, negative numbers and both zeros */
                    logits[t] = rintf(logits[t]);
            }
            cut(logits, VOCAB, bl_sampler_reach(b), some);
            for (size_t t = 0; t < VOCAB; t++)
                n_cut += some[t] == -INFINITY;
            bl_token token = bl_sampler_sample(a, logits);
            assert_int_equal(bl_sampler_sample(b, some), token);
            bl_sampler_accept(a, token);
            bl_sampler_accept(b, token);
        }
        bool whole = settings[i].repeat_penalty < 1 ||
                     (settings[i].top_k == 0 && settings[i].temperature > 0 &&
                      (settings[i].top_p < 1 || settings[i].min_p == 0));
        assert_int_equal(n_cut == 0, whole);
        bl_sampler_free(a);
        bl_sampler_free(b);
    }
}

/* ---- a real model ---- */

/* n tokens as bl_generate() makes them, into out; shifts when the context is full. */
static void write_tokens(const bl_model *model, bl_head how, uint32_t n_threads,
                         const bl_sampler_params *params, const bl_token *prompt, size_t n_prompt,
                         bl_token *out, size_t n) {
    bl_session *s;
    bl_sampler *sampler;
    const bl_session_params p = {.n_ctx = 256, .n_threads = n_threads, .head = how};
    assert_int_equal(bl_session_create(model, &p, &s, NULL), BL_OK);
    assert_int_equal(bl_sampler_create(params, bl_model_get_info(model)->vocab, &sampler, NULL),
                     BL_OK);
    assert_int_equal(bl_session_eval(s, prompt, n_prompt, NULL, NULL), BL_OK);
    for (size_t i = 0; i < n; i++) {
        const bl_reach reach = bl_sampler_reach(sampler);
        out[i] = bl_sampler_sample(sampler, bl_session_best_logits(s, &reach));
        bl_sampler_accept(sampler, out[i]);
        if (bl_session_n_past(s) == 256)
            assert_int_equal(bl_session_shift(s, 0, 128, NULL), BL_OK);
        assert_int_equal(bl_session_eval(s, &out[i], 1, NULL, NULL), BL_OK);
    }
    bl_sampler_free(sampler);
    bl_session_free(s);
}

static const char path[] = BITLOOM_MODELS "/novels-6m.gguf";

static void test_same_tokens(void **state) {
    (void)state;
    enum { N = 360, N_PROMPTS = 3 };
    static const char *const prompts[N_PROMPTS] = {"It was a dark", "\"My dear Sir,\" said",
                                                   "CHAPTER I.\n\n"};
    bl_model *model;
    bl_tokenizer *tokenizer;
    bl_error err;
    size_t n_tokens = 0;
    if (bl_model_open(path, NULL, &model, &err) || bl_tokenizer_open(path, &tokenizer, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < N_PROMPTS; i++) {
        bl_token *ids, want[N], got[N];
        size_t n_ids;
        assert_int_equal(
            bl_tokenizer_encode(tokenizer, prompts[i], strlen(prompts[i]), 0, &ids, &n_ids, &err),
            BL_OK);
        for (size_t k = 0; k < N_SETTINGS; k++) {
            bl_sampler_params params = settings[k];
            params.seed = 17 * i + k;
            write_tokens(model, BL_HEAD_FULL, 1, &params, ids, n_ids, want, N);
            write_tokens(model, BL_HEAD_SCREENED, 1 + (uint32_t)(k % 2), &params, ids, n_ids, got,
                         N);
            assert_memory_equal(got, want, sizeof got);
            n_tokens += N;
        }
        bl_free(ids);
    }
    assert_true(n_tokens >= 10000);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
}

/* n tokens of each of N_SETTINGS texts that are written side by side, each with another sampler. */
static void write_streams(const bl_model *model, bl_head how, bl_cache_type cache, bl_token *out,
                          size_t n) {
    uint32_t vocab = bl_model_get_info(model)->vocab;
    bl_session *s;
    bl_sampler *samplers[N_SETTINGS];
    bl_batch_item items[N_SETTINGS];
    bl_reach reaches[N_SETTINGS];
    float *logits = calloc((size_t)N_SETTINGS * vocab, sizeof *logits);
    const bl_session_params p = {.n_ctx = (uint32_t)n,
                                 .n_sequences = N_SETTINGS,
                                 .n_batch = how == BL_HEAD_FULL ? 7 : 16,
                                 .n_threads = 2,
                                 .cache_type = cache,
                                 .head = how};
    assert_int_equal(bl_session_create(model, &p, &s, NULL), BL_OK);
    for (uint32_t k = 0; k < N_SETTINGS; k++) {
        assert_int_equal(bl_sampler_create(&settings[k], vocab, &samplers[k], NULL), BL_OK);
        items[k] = (bl_batch_item){k, (bl_token)(260 + k), true};
    }
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < N_SETTINGS; k++)
            reaches[k] = bl_sampler_reach(samplers[k]);
        assert_int_equal(bl_session_eval_best(s, items, N_SETTINGS,
                                              how == BL_HEAD_FULL ? NULL : reaches, logits, NULL),
                         BL_OK);
        for (uint32_t k = 0; k < N_SETTINGS; k++) {
            items[k].token = bl_sampler_sample(samplers[k], logits + (size_t)k * vocab);
            bl_sampler_accept(samplers[k], items[k].token);
            out[k * n + i] = items[k].token;
        }
    }
    for (uint32_t k = 0; k < N_SETTINGS; k++)
        bl_sampler_free(samplers[k]);
    bl_session_free(s);
    free(logits);
}

static void test_same_tokens_of_streams(void **state) {
    (void)state;
    enum { N = 150 };
    static bl_token want[N_SETTINGS * N], got[N_SETTINGS * N];
    bl_model *model;
    assert_int_equal(bl_model_open(path, NULL, &model, NULL), BL_OK);
    for (bl_cache_type cache = BL_CACHE_F16; cache <= BL_CACHE_I8; cache += BL_CACHE_I8) {
        write_streams(model, BL_HEAD_FULL, cache, want, N);
        write_streams(model, BL_HEAD_SCREENED, cache, got, N);
        assert_memory_equal(got, want, sizeof got);
    }
    bl_model_close(model);
}

int main(void) {
    bl__random_seed(&rng, 5);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),      cmocka_unit_test(test_no_bound),
        cmocka_unit_test(test_best),        cmocka_unit_test(test_samplers),
        cmocka_unit_test(test_same_tokens), cmocka_unit_test(test_same_tokens_of_streams),
    };
    return cmocka_run_group_tests_name("head", tests, NULL, NULL);
}
