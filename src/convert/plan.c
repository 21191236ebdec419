/* Owns the choice of a layout for each tensor. Must not know where checkpoints keep things. */
#include "convert/plan.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "quant/skip.h"

void bl__plan_free(bl__plan *plan) {
    bl__free(plan->tensors);
    *plan = (bl__plan){0};
}

bl_status bl__plan_add(bl__plan *plan, bl__string name, uint32_t n_dims, const uint64_t *dims,
                       bl__layout source, const void *data, size_t bytes, bl__plan_tensor **out,
                       bl_error *err) {
    if (name.len >= BL_PLAN_MAX_NAME)
        return bl__fail(err, BL_ERR_LIMIT, "%.*s: name of %zu bytes, at most %d expected",
                        (int)(name.len < 100 ? name.len : 100), name.data, name.len,
                        BL_PLAN_MAX_NAME - 1);
    if (plan->n_tensors == plan->cap) {
        size_t cap = plan->cap ? 2 * plan->cap : 64;
        bl__plan_tensor *grown = bl__realloc_array(plan->tensors, cap, sizeof *grown);
        if (!grown)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a plan of %zu tensors", cap);
        plan->tensors = grown;
        plan->cap = cap;
    }
    bl__plan_tensor *tensor = &plan->tensors[plan->n_tensors++];
    *tensor = (bl__plan_tensor){.n_dims = n_dims,
                                .dims = {1, 1, 1, 1},
                                .rows = 1,
                                .source = source,
                                .data = data,
                                .bytes = bytes,
                                .scale = 1,
                                .target = source};
    memcpy(tensor->name, name.data, name.len);
    for (uint32_t i = 0; i < n_dims; i++)
        tensor->dims[i] = dims[i];
    tensor->cols = (size_t)dims[0];
    for (uint32_t i = 1; i < n_dims; i++) /* the reader of the file has checked the product */
        tensor->rows *= (size_t)dims[i];
    *out = tensor;
    return BL_OK;
}

size_t bl__plan_source_row(const bl__plan_tensor *tensor, size_t row) {
    size_t d = tensor->head_dim;
    if (!d)
        return row;
    size_t within = row % d; /* pair i of a head is made of its rows i and i + d/2 */
    return row - within + within % 2 * (d / 2) + within / 2;
}

bl_status bl__plan_read_row(const bl__plan_tensor *tensor, size_t row, float *out, bl_error *err) {
    size_t from = bl__plan_source_row(tensor, row);
    const bl__layout_info *info = bl__layout_get(tensor->source);
    if (tensor->make) {
        tensor->make(tensor, row, out);
        return BL_OK;
    }
    if (info->ternary &&
        !bl__layout_check_row(tensor->source, tensor->data, tensor->rows, tensor->cols, from))
        return bl__fail(err, BL_ERR_FORMAT, "%s: row %zu: a code or scale that %s does not define",
                        tensor->name, from, info->name);
    bl__layout_unpack_row(tensor->source, tensor->data, tensor->rows, tensor->cols, from, out);
    if (tensor->scale != 1)
        for (size_t i = 0; i < tensor->cols; i++)
            out[i] *= tensor->scale;
    if (tensor->inverse != 0)
        bl__ternarize(out, tensor->cols, tensor->inverse);
    return BL_OK;
}

/* ---- What a tensor holds ---- */

typedef struct survey {
    const bl__plan_tensor *tensor;
    float *rows;          /* float[n_stripes][cols] */
    float *most;          /* float[n_stripes]: the magnitude a stripe saw, 0 for none */
    atomic_bool not_rows; /* some row has several magnitudes */
    atomic_size_t broken; /* a row that cannot be read, or SIZE_MAX */
    atomic_bool several;  /* rows differ in their magnitude */
    atomic_bool zeros;    /* some row has zeros beside other weights */
} survey;

/* Reads the rows part, part + n_parts, ... until one shows that the tensor is not ternary, or,
 * where that is known, not binary. */
static void survey_stripe(void *context, size_t part, size_t n_parts) {
    survey *s = context;
    const bl__plan_tensor *t = s->tensor;
    float *row = s->rows + part * t->cols;
    for (size_t r = part; r < t->rows && !atomic_load(&s->not_rows); r += n_parts) {
        if (t->ternary && atomic_load(&s->zeros))
            return;
        float scale;
        if (bl__plan_read_row(t, r, row, NULL)) {
            atomic_store(&s->broken, r);
            atomic_store(&s->not_rows, true);
        } else if (!bl__row_is_ternary(row, t->cols, NULL, &scale)) {
            atomic_store(&s->not_rows, true);
        } else if (scale != 0) {
            if (!atomic_load(&s->zeros) && !bl__row_is_binary(row, t->cols))
                atomic_store(&s->zeros, true);
            if (s->most[part] != 0 && s->most[part] != scale)
                atomic_store(&s->several, true);
            s->most[part] = scale;
        }
    }
}

/* What a survey finds. */
typedef struct findings {
    bool rows_ternary; /* every row is */
    bool binary;       /* and has no zeros, or nothing else; not all of them */
    bool several;      /* rows differ in their magnitude */
    float magnitude;   /* of one of them, 0 when there is no weight but zeros */
} findings;

static bl_status survey_tensor(const bl__plan_tensor *tensor, bl__pool *pool, findings *out,
                               bl_error *err) {
    size_t n_stripes = bl__pool_threads(pool);
    survey s = {.tensor = tensor};
    float *rows = bl__malloc_array(n_stripes, (tensor->cols + 1) * sizeof *rows);
    if (!rows)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate rows of %zu weights", tensor->name,
                        tensor->cols);
    s.rows = rows;
    s.most = rows + n_stripes * tensor->cols;
    memset(s.most, 0, n_stripes * sizeof *s.most);
    atomic_init(&s.broken, SIZE_MAX);
    atomic_init(&s.not_rows, false);
    atomic_init(&s.several, false);
    atomic_init(&s.zeros, false);
    bl__pool_run(pool, survey_stripe, &s, n_stripes);
    float found = 0;
    out->several = s.several;
    for (size_t i = 0; i < n_stripes; i++) {
        out->several |= found != 0 && s.most[i] != 0 && s.most[i] != found;
        found = s.most[i] != 0 ? s.most[i] : found;
    }
    out->rows_ternary = !s.not_rows;
    out->binary = !s.not_rows && !s.zeros && found != 0;
    out->magnitude = found;
    bl_status status = BL_OK;
    if (s.broken != SIZE_MAX) /* once more, for the message */
        status = bl__plan_read_row(tensor, s.broken, rows, err);
    bl__free(rows);
    return status;
}

bl_status bl__plan_is_ternary(const bl__plan_tensor *tensor, bl__pool *pool, bool *out,
                              bl_error *err) {
    findings found = {0};
    bl_status status = survey_tensor(tensor, pool, &found, err);
    *out = found.rows_ternary;
    return status;
}

/* ---- Choosing ---- */

/* What is known of a tensor's weights when a layout does not suit it. */
typedef enum kind { NOT_TERNARY, SEVERAL_SCALES, ONE_SCALE } kind;

/* Lists the types that would do: native, f32, and for ternary weights what the columns fit. */
static void list_alternatives(const bl__plan_tensor *tensor, kind found, bl__buffer *text) {
    static const bl__layout choices[] = {BL_LAYOUT_I2_S, BL_LAYOUT_TQ2_0, BL_LAYOUT_TQ1_0,
                                         BL_LAYOUT_IQ2_BN, BL_LAYOUT_IQ1_BN};
    bl__buffer_puts(text, "native");
    for (size_t i = 0; found != NOT_TERNARY && i < sizeof choices / sizeof *choices; i++)
        if (tensor->cols % bl__layout_get(choices[i])->block_cols == 0 &&
            (found == ONE_SCALE || choices[i] != BL_LAYOUT_I2_S))
            bl__buffer_printf(text, ", %s", bl__layout_get(choices[i])->name);
    bl__buffer_puts(text, ", f32");
}

static bl_status fail_choice(const bl__plan_tensor *tensor, bl__layout layout, const char *why,
                             kind found, bl_error *err) {
    bl__buffer text = bl__buffer_make(256);
    list_alternatives(tensor, found, &text);
    bl_status status = text.failed
                           ? bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", tensor->name)
                           : bl__fail(err, BL_ERR_UNSUPPORTED, "%s: %s: %s; possible here: %s",
                                      tensor->name, bl__layout_get(layout)->name, why, text.data);
    bl__buffer_free(&text);
    return status;
}

static bl_status check_columns(const bl__plan_tensor *tensor, bl__layout layout, bl_error *err) {
    char why[64];
    uint32_t block = bl__layout_get(layout)->block_cols;
    if (tensor->cols % block == 0)
        return BL_OK;
    snprintf(why, sizeof why, "%zu columns, expected a multiple of %u", tensor->cols, block);
    return fail_choice(tensor, layout, why, ONE_SCALE, err);
}

bl_status bl__plan_linear(bl__plan_tensor *tensor, const bl__plan_options *options, bool exact,
                          bl__pool *pool, bl_error *err) {
    findings found = {.rows_ternary = tensor->ternary, .magnitude = tensor->tensor_scale};
    bl__layout layout = options->native ? BL_LAYOUT_T2 : options->type;
    bl_status status = check_columns(tensor, layout, err);
    if (status)
        return status;
    tensor->linear = true;
    /* Quantized layouts that are not ternary, such as q4_1, are not taken for ternary by chance. */
    bl__layout s = tensor->source;
    bool could_be = bl__layout_get(s)->ternary || s == BL_LAYOUT_F32 || s == BL_LAYOUT_F16 ||
                    s == BL_LAYOUT_BF16;
    if (could_be && (status = survey_tensor(tensor, pool, &found, err)))
        return status;
    if (tensor->ternary) { /* what is known of it is what was not surveyed to the end */
        found.rows_ternary = true;
        found.several = false;
        found.magnitude = tensor->tensor_scale;
    }
    if (options->native && !found.rows_ternary)
        return BL_OK; /* stays as it is */
    /* Float rows with several scales may still have one in each block of a layout: the packer will
     * tell. */
    if (bl__layout_get(layout)->ternary && !could_be)
        return fail_choice(tensor, layout, "the weights are not ternary", NOT_TERNARY, err);
    if (layout == BL_LAYOUT_I2_S && !found.rows_ternary)
        return fail_choice(tensor, layout, "the weights are not ternary", NOT_TERNARY, err);
    if (layout == BL_LAYOUT_I2_S && found.several)
        return fail_choice(tensor, layout, "the weights do not share one scale", SEVERAL_SCALES,
                           err);
    if (layout == BL_LAYOUT_B1 && !found.binary)
        return fail_choice(tensor, layout, "the weights are not binary", ONE_SCALE, err);
    tensor->target = layout;
    tensor->native = options->native;
    tensor->binary = found.binary;
    tensor->tensor_scale = found.magnitude;
    tensor->ternary = found.rows_ternary || bl__layout_get(layout)->ternary;
    tensor->exact = exact && !tensor->ternary;
    return BL_OK;
}

void bl__plan_choose_native(bl__plan *plan, bl__pool *pool) {
    uint64_t n_weights = 0, n_ternary = 0;
    for (size_t i = 0; i < plan->n_tensors; i++) {
        uint64_t n = (uint64_t)plan->tensors[i].rows * plan->tensors[i].cols;
        n_weights += plan->tensors[i].native ? n : 0;
        n_ternary += plan->tensors[i].native && !plan->tensors[i].binary ? n : 0;
    }
    bl__layout ternary = n_ternary ? bl__native_fastest(pool, n_weights) : BL_LAYOUT_T2;
    for (size_t i = 0; i < plan->n_tensors; i++)
        if (plan->tensors[i].native)
            plan->tensors[i].target = plan->tensors[i].binary ? BL_LAYOUT_B1 : ternary;
}

bl_status bl__plan_embedding(bl__plan_tensor *tensor, const bl__plan_options *options,
                             bl_error *err) {
    if (options->embed_as_stored)
        return BL_OK;
    tensor->target = options->embed_type;
    if (tensor->cols % bl__layout_get(tensor->target)->block_cols != 0)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: %s: %zu columns, expected a multiple of %u; possible here: f32, f16, "
                        "bf16",
                        tensor->name, bl__layout_get(tensor->target)->name, tensor->cols,
                        bl__layout_get(tensor->target)->block_cols);
    return BL_OK;
}

/* "blk.<number>.NAME.weight": the number, or -1. */
static long layer_of(const char *tensor, const char *name) {
    long layer = -1;
    int end = 0;
    char want[BL_PLAN_MAX_NAME];
    snprintf(want, sizeof want, ".%s.weight", name);
    bool found = sscanf(tensor, "blk.%9ld%n", &layer, &end) == 1 && strcmp(tensor + end, want) == 0;
    return found ? layer : -1;
}

void bl__plan_let_skip(bl__plan *plan, const bl__plan_options *options) {
    for (size_t i = 0; options->native && plan->may_skip && i < plan->n_tensors; i++) {
        bl__plan_tensor *up = &plan->tensors[i], *down = NULL;
        long layer = layer_of(up->name, "ffn_up");
        for (size_t j = 0; layer >= 0 && !down && j < plan->n_tensors; j++)
            if (layer_of(plan->tensors[j].name, "ffn_down") == layer)
                down = &plan->tensors[j];
        if (down && up->native && down->native && !up->binary && !down->binary &&
            bl__skip_suits(up->cols)) {
            up->target = BL_LAYOUT_R2;
            down->target = BL_LAYOUT_C2;
        }
    }
}
