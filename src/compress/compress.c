/* Owns the course of a compression: what may be compressed, samples, layers in turn, the report.
 * Must not know any method. */
#include "bitloom/compress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "compress/factor.h"
#include "compress/output.h"
#include "formats/checksum.h"
#include "quant/levels.h"

enum {
    DEFAULT_SAMPLES = 128,
    DEFAULT_LENGTH = 2048,
    MIN_LENGTH = 8,
    MAX_SAMPLES = 1 << 20,
    MAX_LENGTH = 1 << 20,
    MAX_PATH = 4096,
    STEPS = 2 * BL_N_INPUTS + 1 /* of a layer, for progress: input, matrices, ... and the rest */
};

typedef struct run {
    const bl_compress_params *params;
    const bl__method *method;
    bl__layout dense; /* BL_LAYOUT_COUNT: as signs */
    bl_model *model;
    bl__pool *pool;
    bl__products products;
    bl__stream *stream; /* NULL without calibration */
    bl__state state;
    char state_path[MAX_PATH];
    bl_token *tokens; /* bl_token[n_samples * length] */
    size_t n_samples, length;
    /* of the input in hand, [cols][cols] for the widest */
    double *hessian, *cross;
    float *hessian32, *factor;
    float *shift; /* X'^T X - X^T X of the float model's inputs X'; NULL unless it is followed */
    bl__damping damping;
    /* progress */
    double start, forward_seconds, factor_seconds, method_seconds;
    size_t layer, n_resumed, step;
    const char *doing;
    float *weights[BL_N_MATRICES];   /* float[rows][cols] of the layer in hand */
    float *originals[BL_N_MATRICES]; /* the same before compression, when it is followed */
    bl_compress_report report;
} run;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const bl_compress_method *bl_compress_methods(size_t *n) {
    static bl_compress_method list[16];
    for (size_t i = 0; i < bl__n_methods && i < sizeof list / sizeof *list; i++)
        list[i] = (bl_compress_method){bl__methods[i]->name, bl__methods[i]->summary,
                                       bl__methods[i]->calibrated};
    *n = bl__n_methods;
    return list;
}

/* ---- what was asked for ---- */

static bl_status read_params(run *r, const char *output, bl_error *err) {
    const bl_compress_params *p = r->params;
    const char *name = p->method ? p->method : "arb-h";
    r->method = bl__method_find(name);
    if (!r->method)
        return bl__fail(err, BL_ERR_ARGUMENT, "method \"%.40s\" is unknown", name);
    r->dense = BL_LAYOUT_COUNT;
    if (p->dense && (!bl__layout_from_name(p->dense, &r->dense) ||
                     (r->dense != BL_LAYOUT_F32 && r->dense != BL_LAYOUT_F16)))
        return bl__fail(err, BL_ERR_ARGUMENT, "dense layout \"%.40s\", expected f32 or f16",
                        p->dense);
    if (p->n_samples > MAX_SAMPLES || p->length > MAX_LENGTH ||
        (p->length && p->length < MIN_LENGTH))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%u samples of %u tokens, expected up to %d of %d to %d", p->n_samples,
                        p->length, MAX_SAMPLES, MIN_LENGTH, MAX_LENGTH);
    if (!(p->damping >= 0 && p->damping <= 1))
        return bl__fail(err, BL_ERR_ARGUMENT, "damping %g, expected 0 to 1", p->damping);
    if (!p->dense && !r->method->packs)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s has no layout of its own: expected dense, f16 or f32", name);
    int n = p->state ? snprintf(r->state_path, MAX_PATH, "%s", p->state)
                     : snprintf(r->state_path, MAX_PATH, "%s.parts", output);
    if (n <= 0 || n >= MAX_PATH)
        return bl__fail(err, BL_ERR_ARGUMENT, "%.100s...: a path that is too long", output);
    r->state.path = r->state_path;
    return BL_OK;
}

/* Refuses models whose linears are not plain float matrices. */
static bl_status check_model(const bl_model *m, bl_error *err) {
    const bl__hparams *h = &m->hparams;
    if (h->int8_activations)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "the model was trained with int8 activations: it is about 1 bit already");
    if (h->n_groups != 1)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "linears in %u groups are 1 bit already",
                        h->n_groups);
    for (size_t i = 0; i < h->n_layers; i++)
        for (size_t k = 0; k < BL_N_MATRICES; k++) {
            const bl__linear *l = bl__layer_matrix(&m->layers[i], (bl__matrix_id)k);
            const char *name = bl__matrix_name((bl__matrix_id)k);
            if (bl__layout_get(l->layout)->ternary || bl__layout_is_levels(l->layout))
                return bl__fail(err, BL_ERR_UNSUPPORTED,
                                "blk.%zu.%s.weight: %s: the model is about 1 bit already", i, name,
                                bl__layout_get(l->layout)->name);
            if (l->norm || l->in_scale || l->haar || l->output_norm || l->scale != 1.0f)
                return bl__fail(err, BL_ERR_UNSUPPORTED,
                                "blk.%zu.%s: a linear that does more than multiply", i, name);
        }
    return BL_OK;
}

/* Whether the first row of some matrix holds no more than -s, 0 and +s, whatever its layout. */
static bl_status check_weights(const bl_model *m, bl_error *err) {
    const bl__linear *l = bl__layer_matrix(m->layers, BL_MATRIX_DOWN);
    float scale, *row = bl__malloc_array(l->cols, sizeof *row);
    if (!row)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a row of %zu weights", l->cols);
    bl__layout_unpack_row(l->layout, l->data, l->rows, l->cols, 0, row);
    bool ternary = l->cols > 8 && bl__row_is_ternary(row, l->cols, NULL, &scale);
    bl__free(row);
    return ternary ? bl__fail(err, BL_ERR_UNSUPPORTED,
                              "blk.0.ffn_down.weight: one magnitude a row: the model is about 1 "
                              "bit already")
                   : BL_OK;
}

/* Cuts samples from random places of the text. */
static bl_status draw_samples(run *r, const char *input, const char *text, size_t len,
                              bl_error *err) {
    bl_tokenizer *tokenizer = NULL;
    bl_token *all = NULL;
    size_t n = 0, needed = r->n_samples + r->length - 1, total;
    bl__random random;
    bl_status status = bl_tokenizer_open(input, &tokenizer, err);
    if (!status)
        status = bl_tokenizer_encode(tokenizer, text, len, 0, &all, &n, err);
    if (!status && n < needed)
        status = bl__fail(err, BL_ERR_ARGUMENT,
                          "the calibration text has %zu tokens, expected at least %zu for %zu "
                          "samples of %zu",
                          n, needed, r->n_samples, r->length);
    for (size_t i = 0; i < n && !status; i++)
        if (all[i] < 0 || (size_t)all[i] >= r->model->hparams.vocab)
            status = bl__fail(err, BL_ERR_FORMAT, "token %d, the model has %u", all[i],
                              r->model->hparams.vocab);
    if (!status && (!bl__mul_size(r->n_samples, r->length, &total) ||
                    !(r->tokens = bl__malloc_array(total, sizeof *r->tokens))))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu samples", r->n_samples);
    bl__random_seed(&random, r->params->seed);
    for (size_t i = 0; i < r->n_samples && !status; i++)
        memcpy(r->tokens + i * r->length,
               all + bl__random_below(&random, (uint64_t)(n - r->length + 1)),
               r->length * sizeof *all);
    bl_free(all);
    bl_tokenizer_close(tokenizer);
    return status;
}

/* The text that tells this run's layers from those of others. */
static void describe(run *r) {
    const bl_compress_params *p = r->params;
    uint64_t samples =
        r->tokens ? bl__checksum_of(r->tokens, r->n_samples * r->length * sizeof *r->tokens) : 0;
    snprintf(r->state.settings, sizeof r->state.settings,
             "%s%s%s, %zu samples of %zu tokens (%016llx), damping %g, of model %016llx",
             r->method->name, p->released && r->method->released ? " (released)" : "",
             p->follow && r->tokens ? " (following)" : "", r->tokens ? r->n_samples : 0,
             r->tokens ? r->length : 0, (unsigned long long)samples,
             p->damping > 0 ? p->damping : 0.01,
             (unsigned long long)bl__checksum_of(r->model->map.data, r->model->map.len));
}

/* ---- progress ---- */

static bl_status tell(run *r, double part, bl_error *err) {
    if (!r->params->progress)
        return BL_OK;
    double n = (double)r->model->hparams.n_layers, skipped = (double)r->n_resumed * 0.3;
    double done = r->layer < r->n_resumed ? 0.3 * (double)r->layer
                                          : skipped + (double)(r->layer - r->n_resumed) +
                                                ((double)r->step + part) / STEPS;
    double share = done / (n - (double)r->n_resumed + skipped);
    bl_compress_progress p = {.layer = r->layer,
                              .n_layers = r->model->hparams.n_layers,
                              .n_resumed = r->n_resumed,
                              .doing = r->doing,
                              .share = share < 1 ? share : 1,
                              .seconds = seconds_now() - r->start};
    p.seconds_left = share > 0 ? p.seconds * (1 - p.share) / share : 0;
    return r->params->progress(r->params->user, &p)
               ? BL_OK
               : bl__fail(err, BL_ERR_CANCELLED, "cancelled in layer %zu of %u", r->layer,
                          r->model->hparams.n_layers);
}

static bool told(void *user, size_t done, size_t n) {
    run *r = user;
    return tell(r, (double)done / (double)n, NULL) == BL_OK;
}

/* ---- one matrix ---- */

static void haar_rows(float *rows, size_t n, size_t cols, bool inverse) {
    float scratch[2 * BL_BINARIZED_BLOCK];
    for (size_t i = 0; i < n; i++)
        (inverse ? bl__haar_inverse : bl__haar)(rows + i * cols, cols, scratch);
}

/* T M T^T of a matrix [n][n], T the Haar transform. */
static void haar_both_sides(float *m, size_t n) {
    for (size_t side = 0; side < 2; side++) {
        haar_rows(m, n, n, false);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) {
                float swap = m[i * n + j];
                m[i * n + j] = m[j * n + i];
                m[j * n + i] = swap;
            }
    }
}

/* H in the basis of Haar coefficients. */
static void haar_hessian(run *r, size_t n) {
    float *h = r->hessian32;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            h[i * n + j] = (float)r->hessian[i <= j ? i * n + j : j * n + i];
    haar_both_sides(h, n);
    for (size_t i = 0; i < n * n; i++)
        r->hessian[i] = (double)h[i];
}

/* How far the inputs are from the float model's: what a fit to their difference would find in
 * chance alone, a share cols / tokens of it, is taken off. */
static void find_shift(run *r, size_t n) {
    double chance = (double)n / ((double)r->n_samples * (double)r->length);
    double share = chance < 1 ? 1 - chance : 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            r->shift[i * n + j] =
                (float)(share * (r->cross[i * n + j] - r->hessian[i <= j ? i * n + j : j * n + i]));
    if (r->method->haar)
        haar_both_sides(r->shift, n);
}

/* The Hessian of an input, damped, and its factor. */
static bl_status prepare_input(run *r, bl__input input, bl_error *err) {
    static const char *const names[BL_N_INPUTS] = {"attn_q", "attn_output", "ffn_up", "ffn_down"};
    size_t n = bl__input_cols(r->model, input);
    double start = seconds_now(), share = r->params->damping > 0 ? r->params->damping : 0.01;
    char name[64];
    r->doing = "calibrating";
    bl_status status = bl__stream_advance(r->stream, r->layer, input, r->hessian, r->cross, err);
    double middle = seconds_now();
    r->forward_seconds += middle - start;
    if (status)
        return status;
    if (r->shift)
        find_shift(r, n);
    if (r->method->haar)
        haar_hessian(r, n);
    snprintf(name, sizeof name, "blk.%zu.%s.weight", r->layer, names[input]);
    status = bl__factor_inverse(r->hessian, n, share, r->pool, name, r->factor, &r->damping, err);
    for (size_t i = 0; i < n * n && !status; i++)
        r->hessian32[i] = (float)r->hessian[i];
    r->factor_seconds += seconds_now() - middle;
    return status;
}

/* The sum of rows of a H a^T; H NULL: of a a^T. product: float[rows][cols] of scratch. */
static double energy(run *r, const float *a, size_t rows, size_t cols, float *product) {
    double sum = 0;
    if (r->stream)
        bl__multiply(&r->products, (bl__matrix){a, cols}, (bl__matrix){r->hessian32, cols}, rows,
                     cols, cols, product, cols, false);
    for (size_t i = 0; i < rows; i++) {
        double row = 0;
        const float *other = r->stream ? product : a;
        for (size_t c = 0; c < cols; c++)
            row += (double)a[i * cols + c] * (double)other[i * cols + c];
        sum += row;
    }
    return sum;
}

/* Weights that give on the compressed model's inputs X what w gives on the float model's X', as
 * near as can be: w X'^T X H^-1 = w + w (X'^T X - X^T X) H^-1, H^-1 = U^T U. The other two are
 * scratch. */
static void follow(run *r, float *w, size_t rows, size_t cols, float *one, float *two) {
    const bl__matrix u = {r->factor, cols};
    bl__multiply(&r->products, (bl__matrix){w, cols}, (bl__matrix){r->shift, cols}, rows, cols,
                 cols, one, cols, false);
    bl__multiply_t(&r->products, (bl__matrix){one, cols}, u, rows, cols, cols, two, cols, false);
    bl__multiply(&r->products, (bl__matrix){two, cols}, u, rows, cols, cols, w, cols, true);
}

static bl_status compress_matrix(run *r, bl__matrix_id id, bl__finished *out, bl_error *err) {
    const bl__linear *l = bl__layer_matrix(&r->model->layers[r->layer], id);
    size_t rows = l->rows, cols = l->cols, n = rows * cols;
    float *w = r->weights[id], *before = bl__malloc_array(n, sizeof(float));
    float *product = bl__malloc_array(n, sizeof(float));
    bl__compressed made = {0};
    bl_compress_matrix *m = &out->figures[id];
    bl__problem problem = {.rows = rows,
                           .cols = cols,
                           .weights = w,
                           .hessian = r->stream ? r->hessian32 : NULL,
                           .factor = r->stream ? r->factor : NULL,
                           .products = &r->products,
                           .released = r->params->released && r->method->released};
    bl_status status = bl__products_reserve(&r->products, cols, cols, err);
    if (!status && (!before || !product))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu weights", n);
    if (status)
        goto done;
    if (r->method->haar)
        haar_rows(w, rows, cols, false);
    if (r->shift)
        follow(r, w, rows, cols, before, product);
    memcpy(before, w, n * sizeof *w);
    if ((status = r->method->run(&problem, &made, err)))
        goto done;
    double whole = energy(r, before, rows, cols, product);
    for (size_t i = 0; i < n; i++)
        before[i] -= w[i];
    double left = energy(r, before, rows, cols, product);
    snprintf(m->name, sizeof m->name, "blk.%zu.%s.weight", r->layer, bl__matrix_name(id));
    m->rows = rows;
    m->cols = cols;
    m->error = whole > 0 ? left / whole : 0;
    m->nominal_bits = made.nominal_bits;
    m->true_bits = made.true_bits / (double)n;
    m->salient = made.salient;
    m->dead = r->stream ? (uint32_t)r->damping.dead : 0;
    m->damped = r->stream ? (uint32_t)(r->damping.tries - 1) : 0;
    for (size_t i = 0; made.signs && i < rows; i++)
        bl__binarized_dequantize_row(made.signs, i, w + i * cols);
    if (!made.signs && r->method->haar)
        haar_rows(w, rows, cols, true);
    out->signs[id] = made.signs;
    out->weights[id] = w;
    made.signs = NULL;
done:
    if (status && err)
        bl__error_prefix(err, bl__matrix_name(id));
    bl__compressed_free(&made);
    bl__free(before);
    bl__free(product);
    return status;
}

/* ---- layers ---- */

static void note_figures(run *r, const bl__finished *f) {
    memcpy(r->report.matrices + r->layer * BL_N_MATRICES, f->figures, sizeof f->figures);
}

static bl_status compress_layer(run *r, bl_error *err) {
    static const bl__matrix_id first[BL_N_INPUTS + 1] = {BL_MATRIX_Q, BL_MATRIX_O, BL_MATRIX_GATE,
                                                         BL_MATRIX_DOWN, BL_N_MATRICES};
    bl__finished finished = {.map = {0}};
    bl_status status = bl__layer_unpack(r->model, r->layer, r->weights, err);
    if (!status && r->shift)
        status = bl__layer_unpack(r->model, r->layer, r->originals, err);
    for (size_t input = 0; input < BL_N_INPUTS && !status; input++) {
        r->step = 2 * input;
        if (r->stream)
            status = prepare_input(r, (bl__input)input, err);
        r->step++;
        for (bl__matrix_id id = first[input]; id < first[input + 1] && !status; id++) {
            double start = seconds_now();
            r->doing = bl__matrix_name(id);
            if (!(status = tell(r, 0, err)))
                status = compress_matrix(r, id, &finished, err);
            r->method_seconds += seconds_now() - start;
        }
    }
    r->step = STEPS - 1;
    r->doing = "calibrating";
    double start = seconds_now();
    if (!status && r->stream && r->layer + 1 < r->model->hparams.n_layers)
        status = bl__stream_finish(r->stream, r->layer, err);
    r->forward_seconds += seconds_now() - start;
    if (!status)
        status = bl__state_save(&r->state, r->layer, &finished, err);
    if (!status)
        note_figures(r, &finished);
    bl__finished_free(&finished);
    return status;
}

/* Goes through a layer that an earlier run has finished. */
static bl_status resume_layer(run *r, bl_error *err) {
    bl__finished f;
    bl_status status = bl__state_load(&r->state, r->model, r->layer, &f, err);
    if (status)
        return status;
    note_figures(r, &f);
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        size_t rows = f.figures[i].rows, cols = f.figures[i].cols;
        for (size_t row = 0; f.signs[i] && row < rows; row++)
            bl__binarized_dequantize_row(f.signs[i], row, r->weights[i] + row * cols);
        if (!f.signs[i])
            memcpy(r->weights[i], f.weights[i], rows * cols * sizeof(float));
    }
    bl__finished_free(&f);
    r->doing = "going through what was finished";
    if (r->shift && (status = bl__layer_unpack(r->model, r->layer, r->originals, err)))
        return status;
    if (r->stream && r->layer + 1 < r->model->hparams.n_layers &&
        !(status = bl__stream_advance(r->stream, r->layer, BL_INPUT_O, NULL, NULL, err)) &&
        !(status = bl__stream_advance(r->stream, r->layer, BL_INPUT_GATE_UP, NULL, NULL, err)))
        status = bl__stream_finish(r->stream, r->layer, err);
    return status;
}

static bl_status run_layers(run *r, bl_error *err) {
    size_t n = r->model->hparams.n_layers;
    bl_status status = bl__state_open(&r->state, err);
    if (!status)
        status = bl__state_count(&r->state, n, &r->n_resumed, err);
    if (status)
        return status;
    if (r->stream && r->n_resumed < n)
        bl__stream_embed(r->stream, r->tokens);
    for (r->layer = 0; r->layer < n && !status; r->layer++) {
        r->step = 0;
        bool finished = r->layer < r->n_resumed;
        status = finished ? resume_layer(r, err) : compress_layer(r, err);
        r->step = STEPS;
        if (!status)
            status = tell(r, 0, err);
    }
    return status;
}

/* ---- all of it ---- */

static bl_status allocate(run *r, bl_error *err) {
    size_t widest = 0, n = r->model->hparams.n_layers;
    bool calibrates = r->tokens != NULL, follows = calibrates && r->params->follow;
    bl_status status = BL_OK;
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        const bl__linear *l = bl__layer_matrix(r->model->layers, (bl__matrix_id)i);
        widest = l->cols > widest ? l->cols : widest;
        r->weights[i] = bl__malloc_array(l->rows * l->cols, sizeof(float));
        r->originals[i] = follows ? bl__malloc_array(l->rows * l->cols, sizeof(float)) : NULL;
        if (!r->weights[i] || (follows && !r->originals[i]))
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a layer's weights");
    }
    r->report.matrices = bl__calloc(n * BL_N_MATRICES, sizeof *r->report.matrices);
    if (calibrates) {
        r->hessian = bl__malloc_array(widest * widest, sizeof *r->hessian);
        r->hessian32 = bl__malloc_array(widest * widest, sizeof *r->hessian32);
        r->factor = bl__malloc_array(widest * widest, sizeof *r->factor);
    }
    if (follows) {
        r->cross = bl__malloc_array(widest * widest, sizeof *r->cross);
        r->shift = bl__malloc_array(widest * widest, sizeof *r->shift);
    }
    if (!r->report.matrices || (calibrates && (!r->hessian || !r->hessian32 || !r->factor)) ||
        (follows && (!r->cross || !r->shift)))
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate Hessians of %zu columns", widest);
    if (calibrates)
        status =
            bl__stream_create(r->model, &r->products, r->weights, follows ? r->originals : NULL,
                              r->n_samples, r->length, &r->stream, err);
    if (r->stream) {
        r->stream->progress = told;
        r->stream->user = r;
    }
    return status;
}

static bl_status open_all(run *r, const char *input, const char *text, size_t len, bl_error *err) {
    const bl_compress_params *p = r->params;
    uint32_t n_threads = p->n_threads ? p->n_threads : bl_cpu_physical_cores();
    bl_status status =
        bl_model_open(input, &(bl_model_params){.n_threads = n_threads}, &r->model, err);
    if (status)
        return status;
    if ((status = check_model(r->model, err)) || (status = check_weights(r->model, err))) {
        bl__error_prefix(err, input);
        return status;
    }
    if (!text && r->method->calibrated)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s needs a calibration text", r->method->name);
    size_t context = r->model->hparams.context_length;
    r->n_samples = p->n_samples ? p->n_samples : DEFAULT_SAMPLES;
    r->length = p->length ? p->length : bl__min_size(DEFAULT_LENGTH, context);
    if ((status = bl__pool_create(n_threads, false, &r->pool, err)))
        return status;
    r->products = bl__products_make(r->pool);
    if (text && (status = draw_samples(r, input, text, len, err)))
        return status;
    describe(r);
    return allocate(r, err);
}

static void fill_report(run *r) {
    bl_compress_report *out = &r->report;
    const bl__gguf *gguf = r->model->gguf;
    double bits = 0, nominal = 0, error = 0, other_bits = 0, other = 0;
    out->n_matrices = r->model->hparams.n_layers * (size_t)BL_N_MATRICES;
    for (size_t i = 0; i < out->n_matrices; i++) {
        const bl_compress_matrix *m = &out->matrices[i];
        double n = (double)m->rows * (double)m->cols;
        out->n_weights += m->rows * m->cols;
        bits += n * m->true_bits;
        nominal += n * m->nominal_bits;
        error += n * m->error;
    }
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const bl__gguf_tensor *t = &gguf->tensors[i];
        if (bl__is_compressed(t->name, r->model->hparams.n_layers))
            continue;
        other += (double)t->rows * (double)t->cols;
        other_bits += 8.0 * (double)t->bytes;
    }
    double n = (double)out->n_weights;
    out->error = error / n;
    out->nominal_bits = nominal / n;
    out->true_bits = bits / n;
    out->model_bits = (bits + other_bits) / (n + other);
    out->n_tokens = r->tokens ? r->n_samples * r->length : 0;
    out->n_resumed = r->n_resumed;
    out->seconds = seconds_now() - r->start;
    out->forward_seconds = r->forward_seconds;
    out->factor_seconds = r->factor_seconds;
    out->method_seconds = r->method_seconds;
    out->product_seconds = r->products.seconds;
    out->product_flops = r->products.n_flops;
}

static void close_all(run *r) {
    bl__stream_free(r->stream);
    bl__products_free(&r->products);
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        bl__free(r->weights[i]);
        bl__free(r->originals[i]);
    }
    bl__free(r->hessian);
    bl__free(r->hessian32);
    bl__free(r->cross);
    bl__free(r->shift);
    bl__free(r->factor);
    bl__free(r->tokens);
    bl__pool_free(r->pool);
    bl_model_close(r->model);
}

void bl_compress_report_free(bl_compress_report *report) {
    if (!report)
        return;
    bl__free(report->matrices);
    *report = (bl_compress_report){0};
}

bl_status bl_compress(const char *input, const char *output, const char *text, size_t text_len,
                      const bl_compress_params *params, bl_compress_report *report, bl_error *err) {
    static const bl_compress_params defaults = {0};
    run r = {.params = params ? params : &defaults, .start = seconds_now()};
    bl_status status = read_params(&r, output, err);
    if (!status && !(status = open_all(&r, input, text, text_len, err)) &&
        !(status = run_layers(&r, err))) {
        r.doing = "writing";
        if (!(status = tell(&r, 0, err)))
            status =
                bl__compress_write(r.model, &r.state, output, r.dense, &r.report.file_bytes, err);
    }
    if (!status && !r.params->keep_state)
        bl__state_remove(&r.state);
    if (!status && report) {
        fill_report(&r);
        *report = r.report;
        r.report.matrices = NULL;
    }
    bl_compress_report_free(&r.report);
    close_all(&r);
    return status;
}
