/* Owns the float forward pass of calibration: the graph of model/session.c, layer by layer instead
 * of token by token. Must not know what becomes of the weights. */
#include "compress/stream.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

const char *bl__matrix_name(bl__matrix_id id) {
    static const char *const names[BL_N_MATRICES] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                     "ffn_gate", "ffn_up", "ffn_down"};
    return names[id];
}

const bl__linear *bl__layer_matrix(const bl__layer *l, bl__matrix_id id) {
    const bl__linear *const all[BL_N_MATRICES] = {&l->q,    &l->k,  &l->v,  l->o,
                                                  &l->gate, &l->up, l->down};
    return all[id];
}

size_t bl__input_cols(const bl_model *model, bl__input input) {
    const bl__hparams *h = &model->hparams;
    switch (input) {
    case BL_INPUT_O:
        return (size_t)h->n_heads * h->head_dim;
    case BL_INPUT_DOWN:
        return h->ffn_dim;
    default:
        return h->dim;
    }
}

/* ---- memory ---- */

static size_t widest_input(const bl_model *model) {
    size_t widest = 0;
    for (size_t i = 0; i < BL_N_INPUTS; i++)
        if (bl__input_cols(model, (bl__input)i) > widest)
            widest = bl__input_cols(model, (bl__input)i);
    return widest;
}

static void lay_out(bl__stream *s, bl__arena *arena) {
    const bl__hparams *h = &s->model->hparams;
    size_t q_dim = (size_t)h->n_heads * h->head_dim, kv_dim = (size_t)h->n_kv_heads * h->head_dim;
    size_t n = 0;
    if (!bl__mul_size(s->n_samples, s->length, &n))
        arena->overflowed = true;
    for (size_t p = 0; p < s->n_paths; p++) {
        s->paths[p].x = bl__arena_alloc(arena, n, h->dim * sizeof(float));
        s->paths[p].attended = bl__arena_alloc(arena, n, q_dim * sizeof(float));
    }
    if (s->n_paths > 1)
        s->input = bl__arena_alloc(arena, s->length, widest_input(s->model) * sizeof(float));
    s->normed = bl__arena_alloc(arena, s->length, h->dim * sizeof(float));
    s->q = bl__arena_alloc(arena, s->length, q_dim * sizeof(float));
    s->k = bl__arena_alloc(arena, s->length, kv_dim * sizeof(float));
    s->v = bl__arena_alloc(arena, s->length, kv_dim * sizeof(float));
    s->gate = bl__arena_alloc(arena, s->length, h->ffn_dim * sizeof(float));
    s->up = bl__arena_alloc(arena, s->length, h->ffn_dim * sizeof(float));
    bl__attention_layout(&s->attention, s->length, arena);
    size_t n_pages = bl__cache_blocks(s->length);
    bl__cache_layout(&s->cache, &s->one_layer, BL_CACHE_F32, n_pages, arena);
    s->pages = bl__arena_alloc(arena, n_pages, sizeof *s->pages);
    for (size_t i = 0; s->pages && i < n_pages; i++)
        s->pages[i] = (uint32_t)i;
}

/* Room for each matrix as an operand, and for the inputs of Hessians. */
static bl_status reserve(const bl__stream *s, bl_error *err) {
    bl_status status = BL_OK;
    for (size_t i = 0; i < BL_N_MATRICES && !status; i++) {
        const bl__linear *l = bl__layer_matrix(s->model->layers, (bl__matrix_id)i);
        status = bl__products_reserve(s->products, l->cols, l->rows, err);
        if (!status)
            status = bl__products_reserve(s->products, s->n_paths * BL_GRAM_RUN, l->cols, err);
    }
    return status;
}

bl_status bl__stream_create(const bl_model *model, bl__products *products, float *const *weights,
                            float *const *originals, size_t n_samples, size_t length,
                            bl__stream **out, bl_error *err) {
    const bl__hparams *h = &model->hparams;
    bl__stream *s = bl__calloc(1, sizeof *s);
    bl_status status = BL_OK;
    if (!s)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the calibration");
    s->model = model;
    s->kernels = bl__kernels_get();
    s->products = products;
    s->one_layer = *h;
    s->one_layer.n_layers = 1;
    s->n_samples = n_samples;
    s->length = length;
    s->n_paths = originals ? 2 : 1;
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        s->paths[0].weights[i] = weights[i];
        s->paths[1].weights[i] = originals ? originals[i] : NULL;
    }
    s->attention = (bl__attention){
        .kernels = s->kernels, .pool = products->pool, .h = &s->one_layer, .cache = &s->cache};
    bl__arena measure = bl__arena_measuring();
    lay_out(s, &measure);
    if (measure.overflowed)
        status = bl__fail(err, BL_ERR_LIMIT, "%zu samples of %zu tokens are too many to address",
                          n_samples, length);
    if (status || (status = bl__arena_create(measure.used, &s->arena, err)) ||
        (status = reserve(s, err))) {
        bl__stream_free(s);
        return status;
    }
    lay_out(s, &s->arena);
    bl__attention_prepare(&s->attention, model->rope_divisors);
    *out = s;
    return BL_OK;
}

void bl__stream_free(bl__stream *stream) {
    if (!stream)
        return;
    bl__arena_destroy(&stream->arena);
    bl__free(stream);
}

/* ---- weights ---- */

void bl__stream_embed(bl__stream *s, const bl_token *tokens) {
    const bl__linear *e = &s->model->embedding;
    for (size_t t = 0; t < s->n_samples * s->length; t++)
        for (size_t p = 0; p < s->n_paths; p++)
            bl__layout_unpack_row(e->layout, e->data, e->rows, e->cols, (size_t)tokens[t],
                                  s->paths[p].x + t * e->cols);
}

bl_status bl__layer_unpack(const bl_model *model, size_t i, float *const *weights, bl_error *err) {
    for (size_t m = 0; m < BL_N_MATRICES; m++) {
        const bl__linear *l = bl__layer_matrix(&model->layers[i], (bl__matrix_id)m);
        for (size_t row = 0; row < l->rows; row++) {
            float *out = weights[m] + row * l->cols;
            if (!bl__layout_check_row(l->layout, l->data, l->rows, l->cols, row))
                return bl__fail(err, BL_ERR_FORMAT,
                                "blk.%zu.%s.weight: row %zu: a number that is not finite, or a "
                                "code that %s does not define",
                                i, bl__matrix_name((bl__matrix_id)m), row,
                                bl__layout_get(l->layout)->name);
            bl__layout_unpack_row(l->layout, l->data, l->rows, l->cols, row, out);
            for (size_t c = 0; l->scale != 1.0f && c < l->cols; c++)
                out[c] *= l->scale;
        }
    }
    return BL_OK;
}

/* ---- parts of a layer, for one sample ---- */

typedef struct vectors {
    const bl__stream *s;
    const float *in, *weight;
    float *out;
    size_t width;
} vectors;

static void norm_row(const bl__stream *s, const float *in, const float *weight, size_t width,
                     float *out) {
    const bl__hparams *h = &s->model->hparams;
    if (h->layer_norm)
        bl__layer_norm(s->kernels, in, h->norm_eps, width, out, NULL);
    else
        bl__rms_norm(s->kernels, in, weight, h->norm_eps, width, out);
}

static void norm_part(void *context, size_t part, size_t n_parts) {
    const vectors *v = context;
    size_t n = v->s->length, end = n * (part + 1) / n_parts;
    for (size_t t = n * part / n_parts; t < end; t++)
        norm_row(v->s, v->in + t * v->width, v->weight, v->width, v->out + t * v->width);
}

/* gate becomes act(gate) * up and, where there is one, its sub-norm. */
static void activate_part(void *context, size_t part, size_t n_parts) {
    const vectors *v = context;
    const bl__hparams *h = &v->s->model->hparams;
    size_t n = v->s->length, end = n * (part + 1) / n_parts;
    for (size_t t = n * part / n_parts; t < end; t++) {
        float *gate = v->out + t * v->width;
        if (h->activation == BL_ACTIVATION_RELU2)
            v->s->kernels->relu2_mul(gate, v->in + t * v->width, v->width, gate);
        else
            v->s->kernels->silu_mul(gate, v->in + t * v->width, v->width, gate);
        if (v->weight || h->layer_norm)
            norm_row(v->s, gate, v->weight, v->width, gate);
    }
}

static void over_tokens(const bl__stream *s, bl__part_fn fn, vectors *v) {
    bl__pool *pool = s->products->pool;
    bl__pool_run(pool, fn, v, bl__min_size(s->length, (size_t)bl__pool_threads(pool) * 4));
}

static void normalize(const bl__stream *s, const float *in, const float *weight, size_t width,
                      float *out) {
    vectors v = {s, in, weight, out, width};
    over_tokens(s, norm_part, &v);
}

/* out[length][rows] (+)= in[length][cols] W^T. */
static void product(const bl__stream *s, const bl__path *path, bl__matrix_id id, const float *in,
                    float *out, bool add) {
    const bl__linear *l = bl__layer_matrix(s->model->layers, id);
    bl__multiply_t(s->products, (bl__matrix){in, l->cols}, (bl__matrix){path->weights[id], l->cols},
                   s->length, l->cols, l->rows, out, l->rows, add);
}

static void attend(bl__stream *s, const bl__path *path, const bl__layer *layer, float *out) {
    const bl__hparams *h = &s->model->hparams;
    const bl__span span = {s->pages, 0, 0, s->length};
    product(s, path, BL_MATRIX_Q, s->normed, s->q, false);
    product(s, path, BL_MATRIX_K, s->normed, s->k, false);
    product(s, path, BL_MATRIX_V, s->normed, s->v, false);
    bl__attention_run(&s->attention, 0, &span, 1, s->q, s->k, s->v, out);
    if (layer->attn_sub_norm || h->layer_norm)
        normalize(s, out, layer->attn_sub_norm, (size_t)h->n_heads * h->head_dim, out);
}

static void activate(bl__stream *s, const bl__path *path, const bl__layer *layer, const float *x) {
    const bl__hparams *h = &s->model->hparams;
    normalize(s, x, layer->ffn_norm, h->dim, s->normed);
    product(s, path, BL_MATRIX_GATE, s->normed, s->gate, false);
    product(s, path, BL_MATRIX_UP, s->normed, s->up, false);
    vectors v = {s, s->up, layer->ffn_sub_norm, s->gate, h->ffn_dim};
    over_tokens(s, activate_part, &v);
}

/* Up to an input, for one sample; returns it: float[length][cols]. */
static const float *advance_sample(bl__stream *s, const bl__path *path, const bl__layer *layer,
                                   size_t sample, bl__input input) {
    const bl__hparams *h = &s->model->hparams;
    size_t q_dim = (size_t)h->n_heads * h->head_dim;
    float *x = path->x + sample * s->length * h->dim;
    float *attended = path->attended + sample * s->length * q_dim;
    switch (input) {
    case BL_INPUT_QKV:
        normalize(s, x, layer->attn_norm, h->dim, s->normed);
        return s->normed;
    case BL_INPUT_O:
        normalize(s, x, layer->attn_norm, h->dim, s->normed);
        attend(s, path, layer, attended);
        return attended;
    case BL_INPUT_GATE_UP:
        product(s, path, BL_MATRIX_O, attended, x, true);
        normalize(s, x, layer->ffn_norm, h->dim, s->normed);
        return s->normed;
    default:
        activate(s, path, layer, x);
        return s->gate;
    }
}

static bl_status told(const bl__stream *s, size_t done, size_t layer, bl_error *err) {
    if (!s->progress || s->progress(s->user, done, s->n_samples))
        return BL_OK;
    return bl__fail(err, BL_ERR_CANCELLED, "cancelled in layer %zu", layer);
}

/* One sample up to an input on both paths, and what it adds to the sums. */
static void advance_paths(bl__stream *s, const bl__layer *layer, size_t sample, bl__input input,
                          double *hessian, double *cross) {
    size_t cols = bl__input_cols(s->model, input);
    const float *in = advance_sample(s, &s->paths[0], layer, sample, input);
    if (hessian)
        bl__gram_add(s->products, in, s->length, cols, hessian);
    if (s->n_paths < 2)
        return;
    if (cross)
        memcpy(s->input, in, s->length * cols * sizeof *in);
    in = advance_sample(s, &s->paths[1], layer, sample, input);
    if (cross)
        bl__cross_add(s->products, in, s->input, s->length, cols, cross);
}

bl_status bl__stream_advance(bl__stream *s, size_t layer, bl__input input, double *hessian,
                             double *cross, bl_error *err) {
    size_t cols = bl__input_cols(s->model, input);
    double share = 2 / ((double)s->n_samples * (double)s->length);
    bl_status status = BL_OK;
    if (!hessian && (input == BL_INPUT_QKV || input == BL_INPUT_DOWN))
        return BL_OK; /* nothing that later stages build on */
    double *sums[] = {hessian, s->n_paths > 1 ? cross : NULL};
    for (size_t i = 0; i < 2; i++)
        if (sums[i])
            memset(sums[i], 0, cols * cols * sizeof *sums[i]);
    for (size_t i = 0; i < s->n_samples && !status; i++) {
        advance_paths(s, &s->model->layers[layer], i, input, sums[0], sums[1]);
        status = told(s, i + 1, layer, err);
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; sums[i] && k < cols * cols; k++)
            sums[i][k] *= share;
    return status;
}

bl_status bl__stream_finish(bl__stream *s, size_t layer, bl_error *err) {
    bl_status status = BL_OK;
    for (size_t i = 0; i < s->n_samples && !status; i++) {
        for (size_t p = 0; p < s->n_paths; p++) {
            const bl__path *path = &s->paths[p];
            float *x = path->x + i * s->length * s->model->hparams.dim;
            activate(s, path, &s->model->layers[layer], x);
            product(s, path, BL_MATRIX_DOWN, s->gate, x, true);
        }
        status = told(s, i + 1, layer, err);
    }
    return status;
}
