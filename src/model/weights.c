/* Owns finding, checking and repacking the weights. Must not know how they are multiplied. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "model/model.h"
#include "quant/levels.h"
#include "quant/skip.h"
#include "quant/t2.h"

enum { NAME_BYTES = 64, ROWS_PER_PART = BL_PACK_ROWS };

/* Finds a tensor of exactly this shape; NULL in *out when it is absent and not required. */
static bl_status find_tensor(const bl_model *model, const char *name, size_t rows, size_t cols,
                             bool required, const bl__gguf_tensor **out, bl_error *err) {
    const bl__gguf_tensor *t = bl__gguf_find_tensor(model->gguf, name);
    *out = t;
    if (!t)
        return required ? bl__fail(err, BL_ERR_NOT_FOUND, "tensor %s is missing", name) : BL_OK;
    if (t->rows != rows || t->cols != cols)
        return bl__fail(err, BL_ERR_FORMAT, "%s: shape [%zu,%zu], expected [%zu,%zu]", name,
                        t->rows, t->cols, rows, cols);
    if (t->layout == BL_LAYOUT_COUNT)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: type %s cannot be run", name, t->type_name);
    return BL_OK;
}

/* A float32 vector, used where it lies in the file. */
static bl_status load_vector(const bl_model *model, const char *name, size_t n, bool required,
                             const float **out, bl_error *err) {
    const bl__gguf_tensor *t;
    bl_status status = find_tensor(model, name, 1, n, required, &t, err);
    *out = NULL;
    if (status || !t)
        return status;
    if (t->layout != BL_LAYOUT_F32 || (uintptr_t)t->data % sizeof(float))
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: type %s, expected aligned f32", name,
                        t->type_name);
    *out = (const float *)(const void *)t->data;
    return BL_OK;
}

/* The weights of a norm, which LayerNorms have not. */
static bl_status load_norm(const bl_model *model, const char *name, size_t n, bool required,
                           const float **out, bl_error *err) {
    const bl__gguf_tensor *t = bl__gguf_find_tensor(model->gguf, name);
    *out = NULL;
    if (!model->hparams.layer_norm)
        return load_vector(model, name, n, required, out, err);
    return t ? bl__fail(err, BL_ERR_UNSUPPORTED, "%s: LayerNorm with weights", name) : BL_OK;
}

/* One repacking to a native layout, shared by the parts that do it. */
typedef struct repack {
    const bl__gguf_tensor *tensor;
    bl__layout layout;
    float scale; /* multiplies every row's own */
    uint8_t *out;
    atomic_bool not_ternary, bad_code, no_memory;
} repack;

static void repack_rows(repack *job, size_t first, size_t end) {
    const bl__gguf_tensor *t = job->tensor;
    float *row = bl__malloc_array(t->cols, sizeof *row);
    uint8_t *codes = bl__malloc(t->cols);
    if (!row || !codes)
        atomic_store(&job->no_memory, true);
    for (size_t r = first; row && codes && r < end && !atomic_load(&job->not_ternary); r++) {
        float scale;
        if (!bl__layout_check_row(t->layout, t->data, t->rows, t->cols, r)) {
            atomic_store(&job->bad_code, true);
            break;
        }
        bl__layout_unpack_row(t->layout, t->data, t->rows, t->cols, r, row);
        if (!bl__row_is_ternary(row, t->cols, codes, &scale)) {
            atomic_store(&job->not_ternary, true);
            break;
        }
        if (job->layout == BL_LAYOUT_R2)
            bl__r2_pack_row(codes, scale * job->scale, t->rows, t->cols, r, job->out);
        else if (job->layout == BL_LAYOUT_C2)
            bl__c2_pack_row(codes, scale * job->scale, t->rows, t->cols, r, job->out);
        else
            bl__t2_pack_row(codes, scale * job->scale, t->cols, r, job->out);
    }
    bl__free(row);
    bl__free(codes);
}

static void repack_part(void *context, size_t part, size_t n_parts) {
    (void)n_parts;
    repack *job = context;
    size_t first = part * ROWS_PER_PART;
    repack_rows(job, first, bl__min_size(first + ROWS_PER_PART, job->tensor->rows));
}

/* Repacks a tensor that holds one magnitude a row into a native layout. *done says whether it
 * could; a tensor that is not ternary in that sense stays as it is. */
static bl_status repack_ternary(const bl__gguf_tensor *t, bl__layout layout, float scale,
                                bl__pool *pool, bl__linear *linear, bool *done, bl_error *err) {
    size_t bytes;
    *done = false;
    bl_status status = bl__layout_bytes(layout, t->rows, t->cols, &bytes, err);
    if (status)
        return status;
    repack job = {.tensor = t, .layout = layout, .scale = scale, .out = bl__pages_alloc(bytes)};
    if (!job.out)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes for repacked weights",
                        bytes);
    repack_rows(&job, 0, 1); /* a dense tensor shows in its first row, at little cost */
    if (!job.not_ternary && !job.bad_code)
        bl__pool_run(pool, repack_part, &job, (t->rows + ROWS_PER_PART - 1) / ROWS_PER_PART);
    if (job.no_memory)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate rows of %zu weights", t->cols);
    else if (job.bad_code)
        status =
            bl__fail(err, BL_ERR_FORMAT, "a code or scale that %s does not define", t->type_name);
    if (status || job.not_ternary) {
        bl__pages_free(job.out, bytes);
        return status;
    }
    linear->layout = layout;
    linear->data = linear->owned = job.out;
    linear->owned_bytes = bytes;
    linear->scale = 1.0f;
    *done = true;
    return BL_OK;
}

/* The scales of a linear's columns, NAME.in_scale, of its own memory as floats. */
static bl_status load_in_scale(const bl_model *model, const char *name, bl__linear *linear,
                               bl_error *err) {
    const bl__gguf_tensor *t;
    bl_status status = find_tensor(model, name, 1, linear->cols, false, &t, err);
    if (status || !t)
        return status;
    if (t->layout != BL_LAYOUT_F32 && t->layout != BL_LAYOUT_F16)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: type %s, expected f16 or f32", name,
                        t->type_name);
    linear->in_scale = bl__malloc_array(linear->cols, sizeof *linear->in_scale);
    if (!linear->in_scale)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", name);
    bl__layout_unpack_row(t->layout, t->data, 1, linear->cols, 0, linear->in_scale);
    return BL_OK;
}

static void free_linear(bl__linear *linear) {
    bl__pages_free(linear->owned, linear->owned_bytes);
    bl__free(linear->in_scale);
    linear->owned = NULL;
    linear->in_scale = NULL;
}

/* How the input of a linear of this layout is quantized: int8 as trained, or digits where floats
 * meet weights that kernels read as they lie in the file. */
static unsigned choose_digits(const bl_model *model, bl__layout layout) {
    if (model->hparams.int8_activations)
        return 1;
    return bl__layout_is_levels(layout) || bl__layout_is_native(layout) ? BL_MAX_DIGITS : 0;
}

/* blk.N.NAME.weight with its companions NAME.scale (one factor), NAME.in_scale (one for each
 * column) and NAME_norm_in.weight. Ternary weights run as `native`, or as they are when that is a
 * layout of tiles and `stays`. On failure *out is as it was. */
static bl_status load_linear(const bl_model *model, size_t layer, const char *name, size_t rows,
                             size_t cols, bl__layout native, bool stays, bl__pool *pool,
                             bl__linear *out, bl_error *err) {
    char weight[NAME_BYTES], scale_name[NAME_BYTES], norm_name[NAME_BYTES], in_name[NAME_BYTES];
    const bl__gguf_tensor *t;
    const float *scale;
    snprintf(weight, sizeof weight, "blk.%zu.%s.weight", layer, name);
    snprintf(scale_name, sizeof scale_name, "blk.%zu.%s.scale", layer, name);
    snprintf(norm_name, sizeof norm_name, "blk.%zu.%s_norm_in.weight", layer, name);
    snprintf(in_name, sizeof in_name, "blk.%zu.%s.in_scale", layer, name);
    const bl__hparams *h = &model->hparams;
    bl__linear linear = {
        .rows = rows, .cols = cols, .scale = 1.0f, .output_norm = h->output_layer_norm};
    bl_status status;
    if ((status = find_tensor(model, weight, rows, cols, true, &t, err)) ||
        (status = load_vector(model, scale_name, 1, false, &scale, err)) ||
        (status = load_vector(model, norm_name, cols, false, &linear.norm, err)))
        return status;
    linear.n_digits = choose_digits(model, t->layout);
    linear.haar = h->haar;
    linear.layout = t->layout;
    linear.data = t->data;
    if (scale)
        linear.scale = *scale;
    bool is_levels = bl__layout_is_levels(t->layout);
    bool as_wanted = t->layout == native || (bl__layout_is_native(t->layout) && stays);
    bool in_place = as_wanted && !scale && (uintptr_t)t->data % sizeof(float) == 0;
    if (linear.n_digits > 1 && !is_levels && !in_place)
        linear.n_digits = 0;
    if (linear.n_digits == 1 && !in_place && !is_levels) {
        bool done;
        if (as_wanted)
            native = t->layout == native ? native : BL_LAYOUT_T2;
        if ((status = repack_ternary(t, native, linear.scale, pool, &linear, &done, err))) {
            bl__error_prefix(err, weight);
            return status;
        }
    }
    if ((status = load_in_scale(model, in_name, &linear, err))) {
        free_linear(&linear);
        return status;
    }
    *out = linear;
    return BL_OK;
}

/* A linear whose columns are in groups: blk.N.NAME.weight when there is one, blk.N.NAME.G.weight
 * for each otherwise. */
static bl_status load_groups(const bl_model *model, size_t layer, const char *name, size_t rows,
                             size_t cols, bl__pool *pool, bl__linear *out, bl_error *err) {
    size_t n = model->hparams.n_groups;
    char text[NAME_BYTES];
    if (n == 1)
        return load_linear(model, layer, name, rows, cols, BL_LAYOUT_T2, true, pool, out, err);
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%s.%zu", name, i);
        bl_status status =
            load_linear(model, layer, text, rows, cols / n, BL_LAYOUT_T2, true, pool, &out[i], err);
        if (!status && (bl__linear_changes_input(&out[i]) || out[i].output_norm))
            status = bl__fail(err, BL_ERR_UNSUPPORTED,
                              "blk.%zu.%s: norms, in_scale and transforms are not known beside "
                              "bitloom.groups",
                              layer, text);
        if (!status && out[i].n_digits > 1)
            out[i].n_digits = 0; /* parts of a sum take int8 or floats */
        if (status)
            return status;
    }
    return BL_OK;
}

/* Whether the graph lets a layer leave out rows of up and columns of down. */
static bool may_skip(const bl_model *model) {
    const bl__hparams *h = &model->hparams;
    return h->activation == BL_ACTIVATION_RELU2 && h->int8_activations && h->n_groups == 1 &&
           bl__skip_suits(h->dim);
}

/* What no element of up exceeds, divided by the step of its token; infinity where a scale is not a
 * finite number. The code 3, which a file may hold, counts. */
static double bound_rows(const bl__linear *up) {
    const float *scale = (const float *)(const void *)up->data;
    double most = 1; /* the product with the step alone must not overflow either */
    for (size_t r = 0; r < up->rows; r++) {
        double magnitude = fabs((double)scale[r]);
        if (!(magnitude < INFINITY))
            return INFINITY;
        most = magnitude > most ? magnitude : most;
    }
    return 256.0 * (double)up->cols * most;
}

/* up and down in the layouts that let rows and columns be left out, where the model takes them. */
static bl_status load_up_and_down(bl_model *model, size_t i, bool skip, bl__pool *pool,
                                  bl_error *err) {
    const bl__hparams *h = &model->hparams;
    bl__layer *l = &model->layers[i];
    bool stays = !skip || model->sparsity != BL_SPARSITY_ON;
    bl_status status;
    if ((status = load_linear(model, i, "ffn_up", h->ffn_dim, h->dim,
                              skip ? BL_LAYOUT_R2 : BL_LAYOUT_T2, stays, pool, &l->up, err)) ||
        (status = load_linear(model, i, "ffn_down", h->dim, h->ffn_dim,
                              skip ? BL_LAYOUT_C2 : BL_LAYOUT_T2, stays, pool, l->down, err)))
        return status;
    l->can_skip = l->up.layout == BL_LAYOUT_R2 && l->down->layout == BL_LAYOUT_C2 &&
                  bl__layout_is_native(l->gate.layout) && l->gate.n_digits == 1 &&
                  !bl__linear_changes_input(&l->gate) && !bl__linear_changes_input(&l->up) &&
                  !bl__linear_changes_input(l->down) && !h->output_layer_norm;
    if (l->can_skip)
        l->up_bound = bound_rows(&l->up);
    if (l->can_skip || !skip)
        return BL_OK;
    free_linear(&l->up); /* one alone is of no use: both as T2 */
    free_linear(l->down);
    return load_up_and_down(model, i, false, pool, err);
}

static bl_status load_layer(bl_model *model, size_t i, bl__pool *pool, bl_error *err) {
    const bl__hparams *h = &model->hparams;
    bl__layer *layer = &model->layers[i];
    size_t dim = h->dim, ffn = h->ffn_dim;
    size_t q_dim = (size_t)h->n_heads * h->head_dim, kv_dim = (size_t)h->n_kv_heads * h->head_dim;
    char name[NAME_BYTES];
    const struct {
        const char *name;
        size_t n;
        bool required;
        const float **to;
    } vectors[] = {
        {"attn_norm", dim, true, &layer->attn_norm},
        {"attn_sub_norm", q_dim, false, &layer->attn_sub_norm},
        {"ffn_norm", dim, true, &layer->ffn_norm},
        {"ffn_sub_norm", ffn, false, &layer->ffn_sub_norm},
    };
    const struct {
        const char *name;
        size_t rows, cols;
        bl__linear *to;
    } linears[] = {
        {"attn_q", q_dim, dim, &layer->q},
        {"attn_k", kv_dim, dim, &layer->k},
        {"attn_v", kv_dim, dim, &layer->v},
        {"ffn_gate", ffn, dim, &layer->gate},
    };
    layer->o = bl__calloc(h->n_groups, sizeof *layer->o);
    layer->down = bl__calloc(h->n_groups, sizeof *layer->down);
    if (!layer->o || !layer->down)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u groups", h->n_groups);
    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
        snprintf(name, sizeof name, "blk.%zu.%s.weight", i, vectors[v].name);
        bl_status status =
            load_norm(model, name, vectors[v].n, vectors[v].required, vectors[v].to, err);
        if (status)
            return status;
    }
    for (size_t l = 0; l < sizeof linears / sizeof linears[0]; l++) {
        bl_status status = load_linear(model, i, linears[l].name, linears[l].rows, linears[l].cols,
                                       BL_LAYOUT_T2, true, pool, linears[l].to, err);
        if (status)
            return status;
    }
    bl_status status = load_groups(model, i, "attn_output", dim, q_dim, pool, layer->o, err);
    if (status || h->n_groups == 1)
        return status ? status : load_up_and_down(model, i, may_skip(model), pool, err);
    status = load_linear(model, i, "ffn_up", ffn, dim, BL_LAYOUT_T2, true, pool, &layer->up, err);
    return status ? status : load_groups(model, i, "ffn_down", dim, ffn, pool, layer->down, err);
}

/* A table [vocab][dim] that takes float activations: the embedding and the head. */
static bl_status load_table(const bl_model *model, const char *name, bool required, bl__linear *out,
                            bl_error *err) {
    const bl__gguf_tensor *t;
    bl_status status =
        find_tensor(model, name, model->hparams.vocab, model->hparams.dim, required, &t, err);
    if (!status && t)
        *out = (bl__linear){
            .rows = t->rows, .cols = t->cols, .layout = t->layout, .data = t->data, .scale = 1.0f};
    return status;
}

bl_status bl__weights_load(bl_model *model, bl__pool *pool, bl_error *err) {
    const bl__hparams *h = &model->hparams;
    bl_status status;
    if ((status = load_table(model, "token_embd.weight", true, &model->embedding, err)))
        return status;
    model->head = model->embedding;
    if ((status = load_table(model, "output.weight", false, &model->head, err)) ||
        (status = load_norm(model, "output_norm.weight", h->dim, true, &model->output_norm, err)) ||
        (status = load_vector(model, "rope_freqs.weight", h->n_rot / 2, false,
                              &model->rope_divisors, err)))
        return status;
    if (model->head.cols <= BL_SCREEN_MAX_COLS) {
        model->screen = bl__screen_create(model->head.rows, model->head.cols);
        if (!model->screen)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the head's description");
    }
    model->layers = bl__calloc(h->n_layers, sizeof *model->layers);
    if (!model->layers)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u layers", h->n_layers);
    for (size_t i = 0; i < h->n_layers; i++)
        if ((status = load_layer(model, i, pool, err)))
            return status;
    return BL_OK;
}

void bl__weights_free(bl_model *model) {
    for (size_t i = 0; model->layers && i < model->hparams.n_layers; i++) {
        bl__layer *l = &model->layers[i];
        bl__linear *linears[] = {&l->q, &l->k, &l->v, &l->gate, &l->up};
        for (size_t j = 0; j < sizeof linears / sizeof linears[0]; j++)
            free_linear(linears[j]);
        for (size_t j = 0; j < model->hparams.n_groups; j++) {
            if (l->o)
                free_linear(&l->o[j]);
            if (l->down)
                free_linear(&l->down[j]);
        }
        bl__free(l->o);
        bl__free(l->down);
    }
    bl__free(model->layers);
    model->layers = NULL;
}
