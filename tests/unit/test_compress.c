/* Compression: each method against a computation of its own (tools/make_golden_compress.py), the
 * float pass against a session, whole runs with what can go wrong in them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "compress/factor.h"
#include "compress/method.h"
#include "compress/polish.h"
#include "compress/stream.h"
#include "formats/safetensors.h"
#include "quant/levels.h"
#include "tiny_model.h"

#define FLOAT_MODEL BITLOOM_TEST_DATA "/models/llama-float-linear-rope"

static void check(bl_status status, const bl_error *err) {
    if (status)
        fail_msg("%s", err->message);
}

/* ---- methods ---- */

typedef struct golden {
    bl__filemap map;
    bl__safetensors *file;
    size_t rows, cols;
    const float *weights, *hessian;
    float *damped, *factor; /* float[cols][cols] */
    bl__pool *pool;
    bl__products products;
} golden;

static const float *tensor(const golden *g, const char *name) {
    const bl__safetensor *t = bl__safetensors_find(g->file, name);
    assert_non_null(t);
    return (const float *)(const void *)t->data;
}

static int set_up(void **state) {
    static golden g;
    bl_error err;
    bl__damping damping;
    check(bl__filemap_open(BITLOOM_TEST_DATA "/compress.safetensors", &g.map, &err), &err);
    check(bl__safetensors_parse(g.map.data, g.map.len, &g.file, &err), &err);
    const bl__safetensor *w = bl__safetensors_find(g.file, "weights");
    g.rows = (size_t)w->dims[0];
    g.cols = (size_t)w->dims[1];
    g.weights = tensor(&g, "weights");
    g.hessian = tensor(&g, "hessian");
    size_t n = g.cols * g.cols;
    double *h = malloc(n * sizeof *h);
    g.damped = malloc(n * sizeof *g.damped);
    g.factor = malloc(n * sizeof *g.factor);
    for (size_t i = 0; i < n; i++)
        h[i] = (double)g.hessian[i];
    check(bl__pool_create(2, false, &g.pool, &err), &err);
    g.products = bl__products_make(g.pool);
    check(bl__factor_inverse(h, g.cols, 0.01, g.pool, "h", g.factor, &damping, &err), &err);
    assert_int_equal(damping.tries, 1);
    assert_int_equal(damping.dead, 1);
    for (size_t i = 0; i < n; i++)
        g.damped[i] = (float)h[i];
    free(h);
    *state = &g;
    return 0;
}

static int tear_down(void **state) {
    golden *g = *state;
    bl__products_free(&g->products);
    bl__pool_free(g->pool);
    bl__safetensors_free(g->file);
    bl__filemap_close(&g->map);
    free(g->damped);
    free(g->factor);
    return 0;
}

/* factor^T factor is the inverse. */
static void test_factor(void **state) {
    const golden *g = *state;
    size_t n = g->cols;
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(g->factor[i * n + j] == 0);
    double *u = calloc(n * n, sizeof *u), *inverse = calloc(n * n, sizeof *inverse);
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                inverse[i * n + j] += (double)g->factor[k * n + i] * (double)g->factor[k * n + j];
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            for (size_t j = 0; j < n; j++)
                u[i * n + j] += inverse[i * n + k] * (double)g->damped[k * n + j];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            worst = fmax(worst, fabs(u[i * n + j] - (i == j)));
    assert_true(worst < 1e-4);
    free(u);
    free(inverse);
}

/* What cannot be factored: more damping, then an error that names the matrix. */
static void test_singular(void **state) {
    const golden *g = *state;
    enum { N = 70 };
    double h[N * N] = {0};
    float factor[N * N];
    bl__damping damping = {0};
    bl_error err;
    assert_int_equal(bl__factor_inverse(h, N, 0.01, g->pool, "zeros", factor, &damping, &err),
                     BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "zeros: all activations"));
    for (size_t i = 0; i < N; i++) /* indefinite beyond what is added at first */
        for (size_t j = i; j < N; j++)
            h[i * N + j] = i == j ? 1 : i + 1 == j ? 0.52 : 0;
    check(bl__factor_inverse(h, N, 0.01, g->pool, "h", factor, &damping, &err), &err);
    assert_int_equal(damping.tries, 2);
    for (size_t i = 0; i < N; i++)
        for (size_t j = i; j < N; j++)
            h[i * N + j] = i == j ? 1 : 5;
    assert_int_equal(bl__factor_inverse(h, N, 0.01, g->pool, "bad", factor, &damping, &err),
                     BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "bad: the Hessian is singular"));
    h[0] = NAN;
    assert_int_equal(bl__factor_inverse(h, N, 0.01, g->pool, "nan", factor, &damping, &err),
                     BL_ERR_FORMAT);
}

static double error_of(const golden *g, const float *w) {
    double left = 0, whole = 0;
    for (size_t r = 0; r < g->rows; r++) {
        const float *a = g->weights + r * g->cols, *b = w + r * g->cols;
        for (size_t i = 0; i < g->cols; i++)
            for (size_t j = 0; j < g->cols; j++) {
                double h = (double)g->damped[i * g->cols + j];
                whole += h * (double)a[i] * (double)a[j];
                left += h * (double)(a[i] - b[i]) * (double)(a[j] - b[j]);
            }
    }
    return left / whole;
}

/* Runs a method on the weights; the caller frees both. */
static float *run_method(golden *g, const bl__method *m, bool released, bl__compressed *made) {
    size_t n = g->rows * g->cols;
    bl_error err;
    float *w = malloc(n * sizeof *w);
    memcpy(w, g->weights, n * sizeof *w);
    const bl__problem p = {.rows = g->rows,
                           .cols = g->cols,
                           .weights = w,
                           .hessian = g->damped,
                           .factor = g->factor,
                           .products = &g->products,
                           .released = released};
    *made = (bl__compressed){0};
    check(m->run(&p, made, &err), &err);
    return w;
}

/* Stored numbers are rounded, by some hundredths of a row's largest; few signs may differ, where a
 * weight lies between two values. */
static void compare(golden *g, const char *method, bool released) {
    char name[48], error[64];
    bl__compressed made;
    snprintf(name, sizeof name, "%s%s", method, released ? ".released" : "");
    snprintf(error, sizeof error, "error.%s", name);
    float *w = run_method(g, bl__method_find(method), released, &made);
    const float *expected = tensor(g, name);
    size_t n_far = 0;
    for (size_t r = 0; r < g->rows; r++) {
        float most = 0;
        for (size_t c = 0; c < g->cols; c++)
            most = fmaxf(most, fabsf(expected[r * g->cols + c]));
        for (size_t c = 0; c < g->cols; c++)
            n_far += fabsf(w[r * g->cols + c] - expected[r * g->cols + c]) > 0.03f * most;
    }
    double ours = error_of(g, w), theirs = (double)tensor(g, error)[0];
    if (n_far * 100 > g->rows * g->cols || fabs(ours / theirs - 1) > 0.03)
        fail_msg("%s: %zu of %zu weights are others, error %.5f, expected %.5f", name, n_far,
                 g->rows * g->cols, ours, theirs);
    /* what is stored is what is computed with */
    float *row = malloc(g->cols * sizeof *row);
    for (size_t r = 0; r < g->rows; r++) {
        bl__binarized_dequantize_row(made.signs, r, row);
        assert_memory_equal(row, w + r * g->cols, g->cols * sizeof *row);
    }
    free(row);
    free(w);
    bl__compressed_free(&made);
}

static void test_methods(void **state) {
    compare(*state, "rtn", false);
    compare(*state, "gptq1", false);
    compare(*state, "billm", false);
    compare(*state, "billm", true);
    compare(*state, "arb", false);
    compare(*state, "arb-rc", false);
}

/* The order of the field, and what each takes. */
static void test_order(void **state) {
    golden *g = *state;
    static const char *const names[] = {"ternary", "gptq1", "sign-h", "pb-llm", "arb-h"};
    double last = INFINITY;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        bl__compressed made;
        float *w = run_method(g, bl__method_find(names[i]), false, &made);
        double error = error_of(g, w), bits = made.true_bits / (double)(g->rows * g->cols);
        if (!(error < last || strcmp(names[i], "pb-llm") == 0))
            fail_msg("%s: error %.4f, before it %.4f", names[i], error, last);
        assert_true(made.nominal_bits >= 1 && made.nominal_bits <= bits);
        assert_true(made.signs || bits > 1.5);
        if (strcmp(names[i], "pb-llm") != 0)
            last = error;
        free(w);
        bl__compressed_free(&made);
    }
    assert_null(bl__method_find("none"));
}

/* SVID finds vectors that are there; stored are they and a bit for each weight. */
static void test_onebit(void **state) {
    const golden *g = *state;
    bl__compressed made;
    golden product = *g;
    size_t n = g->rows * g->cols, bytes;
    float *weights = malloc(n * sizeof *weights);
    product.weights = weights;
    for (size_t i = 0; i < n; i++) {
        float magnitude = (0.01f + 0.0003f * (float)(i / g->cols)) *
                          (1.0f + 0.5f * (float)cos((double)(i % g->cols)));
        weights[i] = i * 7919 % 11 < 5 ? -magnitude : magnitude;
    }
    float *w = run_method(&product, bl__method_find("onebit"), false, &made);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(w[i] - product.weights[i]) < 0.002f * fabsf(product.weights[i]));
    assert_int_equal(bl__levels_choose(made.signs), BL_LAYOUT_B1);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_B1, g->rows, g->cols, &bytes, NULL), BL_OK);
    assert_true(made.true_bits == 8.0 * (double)bytes + 16.0 * (double)g->cols);
    free(weights);
    free(w);
    bl__compressed_free(&made);
}

/* Haar coefficients of weights and Hessian, and back: the same products. */
static void test_haar(void **state) {
    golden *g = *state;
    bl__compressed made;
    float *w = run_method(g, bl__method_find("haar"), false, &made);
    float x[256], y[256], scratch[2 * BL_BINARIZED_BLOCK], *row = malloc(g->cols * sizeof *row);
    double plain = 0, transformed = 0;
    for (size_t c = 0; c < g->cols; c++)
        x[c] = y[c] = (float)sin((double)c * 1.7);
    bl__haar(y, g->cols, scratch);
    assert_true(made.signs->haar);
    bl__binarized_dequantize_row(made.signs, 3, row);
    for (size_t c = 0; c < g->cols; c++) {
        plain += (double)(row[c] * x[c]);
        transformed += (double)(w[3 * g->cols + c] * y[c]);
    }
    assert_true(fabs(plain - transformed) < 1e-4);
    free(row);
    free(w);
    bl__compressed_free(&made);
}

static void test_polish(void **state) {
    golden *g = *state;
    bl__compressed made;
    bl_error err;
    float *w = run_method(g, bl__method_find("billm"), false, &made);
    double before = error_of(g, w);
    const bl__problem p = {.rows = g->rows,
                           .cols = g->cols,
                           .weights = w,
                           .hessian = g->damped,
                           .products = &g->products};
    for (size_t sweep = 0; sweep < 3; sweep++) {
        check(bl__polish(&p, g->weights, 4, 1, made.signs, &err), &err);
        double after = error_of(g, w);
        assert_true(after < before * 1.0001);
        before = after;
    }
    float *row = malloc(g->cols * sizeof *row);
    for (size_t r = 0; r < g->rows; r++) {
        bl__binarized_dequantize_row(made.signs, r, row);
        for (size_t c = 0; c < g->cols; c++)
            assert_true(row[c] == w[r * g->cols + c]);
    }
    free(row);
    free(w);
    bl__compressed_free(&made);
}

/* ---- the float pass ---- */

/* Residual stream, normed and multiplied by the head, against a session's logits. */
static void check_stream(const tiny_model *shape) {
    enum { LENGTH = 30 };
    char path[64];
    bl_token tokens[2 * LENGTH];
    bl_error err;
    bl_model *model;
    bl__pool *pool;
    bl_session *session;
    bl__stream *stream;
    float *weights[BL_N_MATRICES];
    snprintf(path, sizeof path, "/tmp/bitloom_compress_%ld.gguf", (long)getpid());
    tiny_model_write(shape, 5, path);
    check(bl_model_open(path, NULL, &model, &err), &err);
    remove(path);
    check(bl__pool_create(2, false, &pool, &err), &err);
    bl__products products = bl__products_make(pool);
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        const bl__linear *l = bl__layer_matrix(model->layers, (bl__matrix_id)i);
        weights[i] = malloc(l->rows * l->cols * sizeof(float));
    }
    for (size_t t = 0; t < 2 * LENGTH; t++)
        tokens[t] = (bl_token)(t * 7 % shape->vocab);
    check(bl__stream_create(model, &products, weights, weights, 2, LENGTH, &stream, &err), &err);
    bl__stream_embed(stream, tokens);
    double *h = malloc(shape->ffn_dim * shape->ffn_dim * sizeof *h);
    double *cross = malloc(shape->ffn_dim * shape->ffn_dim * sizeof *cross);
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        check(bl__layer_unpack(model, layer, weights, &err), &err);
        for (size_t input = 0; input < BL_N_INPUTS; input++) {
            size_t cols = bl__input_cols(model, (bl__input)input);
            check(
                bl__stream_advance(stream, layer, (bl__input)input, layer ? NULL : h, cross, &err),
                &err);
            for (size_t i = 0; !layer && i < cols * cols; i++) /* both paths are the same */
                if (i / cols <= i % cols)
                    assert_true(fabs(h[i] - cross[i]) <= 1e-6 * (1 + fabs(h[i])));
        }
        check(bl__stream_finish(stream, layer, &err), &err);
    }
    const bl_session_params params = {.n_ctx = LENGTH, .cache_type = BL_CACHE_F32, .n_threads = 1};
    check(bl_session_create(model, &params, &session, &err), &err);
    float *logits = malloc(LENGTH * shape->vocab * sizeof *logits), normed[64], row[64];
    for (size_t s = 0; s < 2; s++) {
        bl_session_truncate(session, 0);
        check(bl_session_eval(session, tokens + s * LENGTH, LENGTH, logits, &err), &err);
        for (size_t t = 0; t < LENGTH; t++) {
            bl__rms_norm(bl__kernels_get(), stream->paths[s].x + (s * LENGTH + t) * shape->dim,
                         model->output_norm, model->hparams.norm_eps, shape->dim, normed);
            for (size_t v = 0; v < shape->vocab; v++) {
                double sum = 0;
                bl__layout_unpack_row(model->head.layout, model->head.data, shape->vocab,
                                      shape->dim, v, row);
                for (size_t c = 0; c < shape->dim; c++)
                    sum += (double)normed[c] * (double)row[c];
                if (!(fabs(sum - (double)logits[t * shape->vocab + v]) < 1e-4))
                    fail_msg("sample %zu token %zu: %f, expected %f", s, t, sum,
                             (double)logits[t * shape->vocab + v]);
            }
        }
    }
    free(logits);
    free(cross);
    free(h);
    bl_session_free(session);
    bl__stream_free(stream);
    bl__products_free(&products);
    bl__pool_free(pool);
    for (size_t i = 0; i < BL_N_MATRICES; i++)
        free(weights[i]);
    bl_model_close(model);
}

static void test_stream(void **state) {
    (void)state;
    tiny_model shape = tiny_model_default();
    shape.layout = BL_LAYOUT_F32;
    shape.quantization = "none";
    check_stream(&shape); /* BitNet's graph in floats: sub-norms, ReLU^2, halves */
    shape.architecture = "llama";
    shape.sub_norms = false;
    shape.layout = BL_LAYOUT_F16;
    check_stream(&shape); /* LLaMA's */
}

/* ---- whole runs ---- */

typedef struct files {
    char model[64], output[64], state[80];
    char text[4096];
} files;

static void make_files(files *f) {
    bl_error err;
    long pid = (long)getpid();
    snprintf(f->model, sizeof f->model, "/tmp/bitloom_compress_%ld-model.gguf", pid);
    snprintf(f->output, sizeof f->output, "/tmp/bitloom_compress_%ld-out.gguf", pid);
    snprintf(f->state, sizeof f->state, "%s.parts", f->output);
    check(bl_convert(FLOAT_MODEL, f->model, &(bl_convert_params){.type = "f32"}, NULL, &err), &err);
    for (size_t i = 0; i + 1 < sizeof f->text; i++)
        f->text[i] = "etaoin shrdlu"[i * i * 7 % 13];
    f->text[sizeof f->text - 1] = 0;
}

static void remove_files(const files *f) {
    remove(f->model);
    remove(f->output);
    assert_false(bl__directory_exists(f->state));
}

typedef struct stop {
    size_t calls, at; /* cancels the at-th call */
    double share;
} stop;

static bool stop_there(void *user, const bl_compress_progress *p) {
    stop *s = user;
    assert_true(p->share >= s->share - 1e-9 && p->share <= 1 && p->seconds_left >= 0);
    s->share = p->share;
    return ++s->calls != s->at;
}

static bl_compress_params small_run(const char *method) {
    return (bl_compress_params){
        .method = method, .n_samples = 3, .length = 24, .n_threads = 2, .dense = "f32"};
}

static void read_whole(const char *path, char **data, size_t *len) {
    bl_error err;
    check(bl__file_read(path, 1 << 24, data, len, &err), &err);
}

/* Cancelled in each place that can be, and called again: the same file. */
static void test_resume(void **state) {
    (void)state;
    files f;
    make_files(&f);
    bl_compress_params params = small_run("arb-rc");
    params.follow = true;
    bl_compress_report report;
    bl_error err;
    char *whole, *again;
    size_t n_whole, n_again, text = strlen(f.text), resumed = 0;
    stop s = {.at = 0};
    params.progress = stop_there;
    params.user = &s;
    check(bl_compress(f.model, f.output, f.text, text, &params, &report, &err), &err);
    assert_int_equal(report.n_matrices, 14);
    assert_true(report.error > 0 && report.error < 1 && report.true_bits > 2);
    assert_true(report.true_bits < report.model_bits && report.n_tokens == 72);
    assert_string_equal(report.matrices[8].name, "blk.1.attn_k.weight");
    bl_compress_report_free(&report);
    read_whole(f.output, &whole, &n_whole);
    size_t n_calls = s.calls;
    for (size_t at = 1; at <= n_calls; at += 3) {
        remove(f.output);
        s = (stop){.at = at};
        bl_status status = bl_compress(f.model, f.output, f.text, text, &params, NULL, &err);
        assert_int_equal(status, BL_ERR_CANCELLED);
        assert_false(bl__file_exists(f.output));
        s = (stop){.at = 0};
        check(bl_compress(f.model, f.output, f.text, text, &params, &report, &err), &err);
        resumed += report.n_resumed;
        bl_compress_report_free(&report);
        read_whole(f.output, &again, &n_again);
        assert_int_equal(n_again, n_whole);
        assert_memory_equal(again, whole, n_whole);
        bl__free(again);
    }
    assert_true(resumed > 0);
    bl__free(whole);
    /* other settings do not take these layers */
    s = (stop){.at = n_calls - 1};
    assert_int_equal(bl_compress(f.model, f.output, f.text, text, &params, NULL, &err),
                     BL_ERR_CANCELLED);
    params.seed = 1;
    s = (stop){.at = 0};
    assert_int_equal(bl_compress(f.model, f.output, f.text, text, &params, NULL, &err),
                     BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "another state directory"));
    params.seed = 0;
    s = (stop){.at = 0};
    check(bl_compress(f.model, f.output, f.text, text, &params, NULL, &err), &err);
    remove_files(&f);
}

/* The logits after each of some tokens: float[*n], to be freed. text: NULL for tokens of no
 * meaning.
 */
static float *logits_of(const char *path, const char *text, size_t *n) {
    bl_token tokens[] = {3,  14, 15, 9,  2,  6,  5,  35, 8,  9,  7,  9,  32, 38, 46, 26,
                         43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93, 75, 10, 58, 20};
    enum { N_TOKENS = sizeof tokens / sizeof *tokens };
    bl_error err;
    bl_model *model;
    bl_session *session;
    check(bl_model_open(path, NULL, &model, &err), &err);
    if (text) {
        bl_tokenizer *tokenizer;
        bl_token *ids;
        size_t n_ids;
        check(bl_tokenizer_open(path, &tokenizer, &err), &err);
        check(bl_tokenizer_encode(tokenizer, text, strlen(text), 0, &ids, &n_ids, &err), &err);
        assert_true(n_ids >= N_TOKENS);
        memcpy(tokens, ids, sizeof tokens);
        bl_free(ids);
        bl_tokenizer_close(tokenizer);
    }
    const bl_session_params params = {.n_threads = 1, .cache_type = BL_CACHE_F32};
    check(bl_session_create(model, &params, &session, &err), &err);
    *n = N_TOKENS * bl_model_get_info(model)->vocab;
    float *logits = malloc(*n * sizeof *logits);
    check(bl_session_eval(session, tokens, N_TOKENS, logits, &err), &err);
    bl_session_free(session);
    bl_model_close(model);
    return logits;
}

/* Every method gives a model that runs, and packed it says what it says dense. */
static void test_runs(void **state) {
    (void)state;
    files f;
    make_files(&f);
    size_t n;
    const bl_compress_method *methods = bl_compress_methods(&n);
    for (size_t i = 0; i < n; i++) {
        bl_compress_params params = small_run(methods[i].name);
        bl_error err;
        bl_compress_report report;
        const char *text = methods[i].calibrated ? f.text : NULL;
        size_t vocab, len = strlen(f.text);
        check(bl_compress(f.model, f.output, text, len, &params, &report, &err), &err);
        assert_true(report.true_bits > 1 && report.error < 1);
        bl_compress_report_free(&report);
        float *dense = logits_of(f.output, NULL, &vocab);
        params.dense = NULL;
        bool packs = bl__method_find(methods[i].name)->packs;
        bl_status status = bl_compress(f.model, f.output, text, len, &params, NULL, &err);
        assert_int_equal(status, packs ? BL_OK : BL_ERR_UNSUPPORTED);
        float *packed = logits_of(f.output, NULL, &vocab);
        for (size_t v = 0; v < vocab; v++)
            if (!(fabsf(dense[v] - packed[v]) <= 1e-4f * (1 + fabsf(dense[v]))))
                fail_msg("%s: logit %zu: %f dense, %f packed", methods[i].name, v, (double)dense[v],
                         (double)packed[v]);
        free(dense);
        free(packed);
    }
    remove_files(&f);
}

/* Logits are nearer to the float model's when that is followed. */
static void test_follow(void **state) {
    (void)state;
    files f;
    make_files(&f);
    bl_compress_params params = small_run("billm");
    bl_error err;
    double distance[2] = {0};
    size_t n;
    params.n_samples = 40;
    float *wanted = logits_of(f.model, f.text, &n);
    for (size_t i = 0; i < 2; i++) {
        params.follow = i == 1;
        check(bl_compress(f.model, f.output, f.text, strlen(f.text), &params, NULL, &err), &err);
        float *found = logits_of(f.output, f.text, &n);
        for (size_t v = 0; v < n; v++)
            distance[i] += pow((double)(found[v] - wanted[v]), 2);
        free(found);
    }
    if (!(distance[1] < distance[0]))
        fail_msg("distance %g followed, %g else", distance[1], distance[0]);
    free(wanted);
    remove_files(&f);
}

static void refused(const files *f, const char *input, const bl_compress_params *params,
                    const char *text, bl_status code, const char *words) {
    bl_error err = {0};
    bl_status status =
        bl_compress(input, f->output, text, text ? strlen(text) : 0, params, NULL, &err);
    if (status != code || !strstr(err.message, words))
        fail_msg("status %d: \"%s\", expected %d: \"%s\"", status, err.message, code, words);
    assert_false(bl__file_exists(f->output));
}

static void test_refusals(void **state) {
    (void)state;
    files f;
    make_files(&f);
    bl_compress_params params = small_run("billm");
    refused(&f, f.model, &params, "too short", BL_ERR_ARGUMENT, "calibration text has");
    refused(&f, f.model, &params, NULL, BL_ERR_ARGUMENT, "needs a calibration text");
    refused(&f, BITLOOM_MODELS "/novels-6m.gguf", &params, f.text, BL_ERR_UNSUPPORTED, "already");
    refused(&f, "/nonexistent.gguf", &params, f.text, BL_ERR_NOT_FOUND, "/nonexistent.gguf");
    params.method = "frobnicate";
    refused(&f, f.model, &params, f.text, BL_ERR_ARGUMENT, "frobnicate");
    params = small_run("billm");
    params.dense = "q4_0";
    refused(&f, f.model, &params, f.text, BL_ERR_ARGUMENT, "q4_0");
    params = small_run("billm");
    params.damping = 2;
    refused(&f, f.model, &params, f.text, BL_ERR_ARGUMENT, "damping");
    params = small_run("billm");
    params.state = "/nonexistent/state";
    refused(&f, f.model, &params, f.text, BL_ERR_IO, "/nonexistent/state");
    remove_files(&f);
}

/* Each single allocation failing: an error, nothing leaked, and what is finished stays good. */
static void test_memory(void **state) {
    (void)state;
    files f;
    make_files(&f);
    bl_compress_params params = small_run("billm");
    params.n_threads = 1;
    bl_error err;
    long before = bl__alloc_count();
    check(bl_compress(f.model, f.output, f.text, strlen(f.text), &params, NULL, &err), &err);
    long n = bl__alloc_count() - before;
    for (long nth = 1; nth <= n; nth += nth < 40 ? 1 : 1 + n / 60) {
        bl__alloc_fail_at(nth);
        bl_status status =
            bl_compress(f.model, f.output, f.text, strlen(f.text), &params, NULL, &err);
        bl__alloc_fail_at(0);
        if (status != BL_OK && status != BL_ERR_MEMORY)
            fail_msg("allocation %ld of %ld: %s", nth, n, err.message);
    }
    check(bl_compress(f.model, f.output, f.text, strlen(f.text), &params, NULL, &err), &err);
    remove_files(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),  cmocka_unit_test(test_singular),
        cmocka_unit_test(test_methods), cmocka_unit_test(test_order),
        cmocka_unit_test(test_onebit),  cmocka_unit_test(test_haar),
        cmocka_unit_test(test_polish),  cmocka_unit_test(test_stream),
        cmocka_unit_test(test_resume),  cmocka_unit_test(test_runs),
        cmocka_unit_test(test_follow),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
