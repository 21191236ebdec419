/* Owns the writing of compressed models. Must not know how they were compressed. */
#include "compress/output.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/checksum.h"
#include "formats/known_answer.h"
#include "quant/levels.h"

typedef struct output {
    const bl_model *model;
    const bl__state *state;
    bl__layout dense;
    bool haar; /* signs are of Haar coefficients */
    bl__gguf_writer *writer;
    bl__finished finished; /* of `layer` */
    size_t layer;          /* SIZE_MAX: none */
} output;

/* Reads "blk.<number>.<matrix>.weight". */
static bool parse_name(bl__string name, size_t n_layers, size_t *layer, bl__matrix_id *id) {
    static const char prefix[] = "blk.", suffix[] = ".weight";
    size_t at = sizeof prefix - 1, end = name.len, number = 0;
    if (name.len < sizeof prefix + sizeof suffix || memcmp(name.data, prefix, at) != 0 ||
        memcmp(name.data + name.len - (sizeof suffix - 1), suffix, sizeof suffix - 1) != 0)
        return false;
    end -= sizeof suffix - 1;
    size_t digits = at;
    for (; at < end && name.data[at] >= '0' && name.data[at] <= '9' && number < n_layers; at++)
        number = number * 10 + (size_t)(name.data[at] - '0');
    if (at == digits || at >= end || name.data[at] != '.' || number >= n_layers)
        return false;
    bl__string rest = {name.data + at + 1, end - at - 1};
    for (size_t i = 0; i < BL_N_MATRICES; i++)
        if (bl__string_is(rest, bl__matrix_name((bl__matrix_id)i))) {
            *layer = number;
            *id = (bl__matrix_id)i;
            return true;
        }
    return false;
}

bool bl__is_compressed(bl__string name, size_t n_layers) {
    size_t layer;
    bl__matrix_id id;
    return parse_name(name, n_layers, &layer, &id);
}

static bl_status copy_metadata(const output *o, bl_error *err) {
    const bl__gguf *gguf = o->model->gguf;
    bl_status status = BL_OK;
    for (size_t i = 0; i < gguf->n_pairs && !status; i++) {
        const bl__gguf_pair *pair = &gguf->pairs[i];
        if (bl__string_is(pair->key, "general.file_type") ||
            bl__string_is(pair->key, BL_CHECKSUM_KIND_KEY) ||
            bl__string_is(pair->key, BL_CHECKSUM_KEY) || bl__known_answer_owns(pair->key))
            continue; /* not true any more */
        char *key = bl__strndup(pair->key.data, pair->key.len);
        if (!key)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a key");
        status = bl__gguf_set_value(o->writer, key, &pair->value, err);
        bl__free(key);
    }
    static const char quantization[] = "bitloom.activation_quantization";
    if (!status && !bl__gguf_find(gguf, quantization))
        status = bl__gguf_set_string(o->writer, quantization, "none", strlen("none"), err);
    if (!status && o->dense == BL_LAYOUT_COUNT && o->haar)
        status =
            bl__gguf_set_string(o->writer, "bitloom.input_transform", "haar", strlen("haar"), err);
    int32_t file_type = o->dense == BL_LAYOUT_COUNT ? -1 : bl__layout_get(o->dense)->file_type;
    if (!status && file_type >= 0)
        status = bl__gguf_set_u32(o->writer, "general.file_type", (uint32_t)file_type, err);
    if (!status)
        status = bl__gguf_set_string(o->writer, "bitloom.compress", o->state->settings,
                                     strlen(o->state->settings), err);
    return status;
}

/* Makes o->finished that of the layer. */
static bl_status turn_to(output *o, size_t layer, bl_error *err) {
    if (o->layer == layer)
        return BL_OK;
    bl__finished_free(&o->finished);
    o->layer = SIZE_MAX;
    bl_status status = bl__state_load(o->state, o->model, layer, &o->finished, err);
    if (!status)
        o->layer = layer;
    return status;
}

/* How a matrix of the layer in hand is written. */
static bl__layout layout_of(const output *o, bl__matrix_id id) {
    const bl__binarized *signs = o->finished.signs[id];
    if (o->dense != BL_LAYOUT_COUNT)
        return o->dense;
    return signs ? bl__levels_choose(signs) : BL_LAYOUT_T5;
}

/* Scales of columns multiply the input; only signs have them beside the weights. */
static const float *in_scale_of(const output *o, bl__matrix_id id) {
    const bl__binarized *signs = o->finished.signs[id];
    return signs && o->dense == BL_LAYOUT_COUNT ? signs->col_scale : NULL;
}

static bl_status declare_linear(output *o, const bl__gguf_tensor *t, const char *name, size_t layer,
                                bl__matrix_id id, bl_error *err) {
    char scale_name[64];
    bl_status status = turn_to(o, layer, err);
    if (!status)
        status = bl__gguf_add_tensor(o->writer, name, t->n_dims, t->dims, layout_of(o, id), err);
    if (status || !in_scale_of(o, id))
        return status;
    snprintf(scale_name, sizeof scale_name, "blk.%zu.%s.in_scale", layer, bl__matrix_name(id));
    return bl__gguf_add_tensor(o->writer, scale_name, 1, t->dims, BL_LAYOUT_F16, err);
}

static bl_status declare(output *o, bl_error *err) {
    const bl__gguf *gguf = o->model->gguf;
    bl_status status = BL_OK;
    for (size_t i = 0; i < gguf->n_tensors && !status; i++) {
        const bl__gguf_tensor *t = &gguf->tensors[i];
        size_t layer;
        bl__matrix_id id;
        bool linear = parse_name(t->name, o->model->hparams.n_layers, &layer, &id);
        char *name = bl__strndup(t->name.data, t->name.len);
        if (!name)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a name");
        if (!linear && t->layout == BL_LAYOUT_COUNT)
            status = bl__fail(err, BL_ERR_UNSUPPORTED, "%s: type %s cannot be copied", name,
                              t->type_name);
        else if (linear)
            status = declare_linear(o, t, name, layer, id, err);
        else
            status = bl__gguf_add_tensor(o->writer, name, t->n_dims, t->dims, t->layout, err);
        bl__free(name);
    }
    return status;
}

static bl_status write_dense(output *o, bl__matrix_id id, bl_error *err) {
    const bl_compress_matrix *m = &o->finished.figures[id];
    size_t rows = m->rows, cols = m->cols, bytes;
    bl_status status = bl__layout_bytes(o->dense, 1, cols, &bytes, err);
    if (status)
        return status;
    float *row = bl__malloc_array(cols, sizeof *row);
    uint8_t *packed = bl__malloc(bytes);
    if (!row || !packed)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate a row of %zu weights", cols);
    for (size_t r = 0; r < rows && !status; r++) {
        if (o->finished.signs[id])
            bl__binarized_dequantize_row(o->finished.signs[id], r, row);
        else
            memcpy(row, o->finished.weights[id] + r * cols, cols * sizeof *row);
        status = bl__layout_pack_rows(o->dense, row, 1, cols, 0, 1, 0, packed, err);
        if (status)
            bl__error_prefix(err, m->name);
        else
            status = bl__gguf_write_data(o->writer, packed, bytes, err);
    }
    bl__free(row);
    bl__free(packed);
    return status;
}

static bl_status write_signs(output *o, bl__matrix_id id, bl_error *err) {
    const bl__binarized *signs = o->finished.signs[id];
    size_t bytes, scale_bytes = 0;
    bl__layout layout = layout_of(o, id);
    bl_status status = bl__layout_bytes(layout, signs->rows, signs->cols, &bytes, err);
    if (!status && signs->col_scale)
        status = bl__layout_bytes(BL_LAYOUT_F16, 1, signs->cols, &scale_bytes, err);
    if (status)
        return status;
    uint8_t *packed = bl__malloc(bytes), *scale = bl__malloc(scale_bytes);
    if (!packed || !scale)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes", bytes);
    if (!status) {
        bl__levels_pack(signs, layout, packed);
        status = bl__gguf_write_data(o->writer, packed, bytes, err);
    }
    if (!status && signs->col_scale &&
        !(status = bl__layout_pack_rows(BL_LAYOUT_F16, signs->col_scale, 1, signs->cols, 0, 1, 0,
                                        scale, err)))
        status = bl__gguf_write_data(o->writer, scale, scale_bytes, err);
    bl__free(packed);
    bl__free(scale);
    return status;
}

/* Weights of one magnitude a row, or of one in all. */
static bl_status write_ternary(output *o, bl__matrix_id id, bl_error *err) {
    const bl_compress_matrix *m = &o->finished.figures[id];
    size_t bytes;
    bl_status status = bl__layout_bytes(BL_LAYOUT_T5, m->rows, m->cols, &bytes, err);
    if (status)
        return status;
    uint8_t *packed = bl__calloc(bytes, 1);
    if (!packed)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes", bytes);
    status = bl__layout_pack_rows(BL_LAYOUT_T5, o->finished.weights[id], m->rows, m->cols, 0,
                                  m->rows, 0, packed, err);
    if (!status)
        status = bl__gguf_write_data(o->writer, packed, bytes, err);
    bl__free(packed);
    return status;
}

static bl_status write_linear(output *o, bl__matrix_id id, bl_error *err) {
    if (o->dense != BL_LAYOUT_COUNT)
        return write_dense(o, id, err);
    return o->finished.signs[id] ? write_signs(o, id, err) : write_ternary(o, id, err);
}

static bl_status write_tensors(output *o, bl_error *err) {
    const bl__gguf *gguf = o->model->gguf;
    bl_status status = BL_OK;
    for (size_t i = 0; i < gguf->n_tensors && !status; i++) {
        const bl__gguf_tensor *t = &gguf->tensors[i];
        size_t layer;
        bl__matrix_id id;
        if (!parse_name(t->name, o->model->hparams.n_layers, &layer, &id))
            status = bl__gguf_write_data(o->writer, t->data, t->bytes, err);
        else if (!(status = turn_to(o, layer, err)))
            status = write_linear(o, id, err);
    }
    return status;
}

bl_status bl__compress_write(const bl_model *model, const bl__state *state, const char *path,
                             bl__layout dense, uint64_t *file_bytes, bl_error *err) {
    output o = {.model = model, .state = state, .dense = dense, .layer = SIZE_MAX};
    bl__outfile *file = NULL;
    bl_status status = bl__gguf_writer_create(&o.writer, err);
    if (!status && !(status = turn_to(&o, 0, err)))
        o.haar = o.finished.signs[0] && o.finished.signs[0]->haar;
    if (status || (status = copy_metadata(&o, err)) || (status = declare(&o, err)) ||
        (status = bl__gguf_writer_checksums(o.writer, err)) ||
        (status = bl__outfile_open(path, &file, err)) ||
        (status = bl__gguf_writer_begin(o.writer, file, err)) ||
        (status = write_tensors(&o, err)) || (status = bl__gguf_writer_finish(o.writer, err))) {
        bl__outfile_abort(file);
    } else {
        *file_bytes = bl__outfile_offset(file);
        status = bl__outfile_commit(file, err);
    }
    bl__finished_free(&o.finished);
    bl__gguf_writer_free(o.writer);
    return status;
}
