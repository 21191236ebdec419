/* Owns the header of a safetensors file that is written. Must not know what its tensors are for. */
#include "formats/safetensors_write.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "formats/json.h"

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a safetensors header");
}

static bool tensor_bytes(const bl__safetensor_spec *t, size_t *bytes) {
    size_t n = bl__dtype_bytes(t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] > SIZE_MAX || !bl__mul_size(n, (size_t)t->dims[i], &n))
            return false;
    *bytes = n;
    return true;
}

/* Adds value, which it takes over even when it fails, under a new key. */
static bl_status add(json_t *object, const char *key, json_t *value, bl_error *err) {
    if (!value)
        return no_memory(err);
    if (json_object_get(object, key)) {
        json_decref(value);
        return bl__fail(err, BL_ERR_ARGUMENT, "safetensors: '%.100s' given twice", key);
    }
    if (json_object_set_new(object, key, value) != 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "safetensors: '%.100s' is not UTF-8", key);
    return BL_OK;
}

static bl_status add_tensor(json_t *root, const bl__safetensor_spec *t, size_t *end,
                            bl_error *err) {
    size_t bytes, begin = *end;
    if (!tensor_bytes(t, &bytes) || !bl__add_size(begin, bytes, end) || *end > INT64_MAX)
        return bl__fail(err, BL_ERR_ARGUMENT, "safetensors: '%.100s': its size overflows", t->name);
    json_t *shape = json_array();
    for (uint32_t i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->dims[i]));
    if (!shape || json_array_size(shape) != t->n_dims) {
        json_decref(shape);
        return no_memory(err);
    }
    return add(root, t->name,
               json_pack("{s:s, s:o, s:[I, I]}", "dtype", bl__dtype_name(t->dtype), "shape", shape,
                         "data_offsets", (json_int_t)begin, (json_int_t)*end),
               err);
}

static bl_status add_notes(json_t *root, const bl__safetensors_note *notes, size_t n,
                           bl_error *err) {
    if (!n)
        return BL_OK;
    bl_status status = add(root, "__metadata__", json_object(), err);
    json_t *object = json_object_get(root, "__metadata__");
    for (size_t i = 0; i < n && !status; i++)
        status = add(object, notes[i].key, json_string(notes[i].value), err);
    return status;
}

bl_status bl__safetensors_begin(bl__outfile *file, const bl__safetensor_spec *tensors, size_t n,
                                const bl__safetensors_note *notes, size_t n_notes, bl_error *err) {
    static const char spaces[] = "       ";
    size_t end = 0, len = 0;
    char *text = NULL;
    json_t *root = json_object();
    bl_status status = root ? add_notes(root, notes, n_notes, err) : no_memory(err);
    for (size_t i = 0; i < n && !status; i++)
        status = add_tensor(root, &tensors[i], &end, err);
    if (!status && !(text = bl__json_write(root, JSON_COMPACT, &len)))
        status = no_memory(err);
    if (!status) {
        size_t padding = -len & 7;
        uint64_t header = len + padding;
        if (!(status = bl__outfile_write(file, &header, sizeof header, err)) &&
            !(status = bl__outfile_write(file, text, len, err)))
            status = bl__outfile_write(file, spaces, padding, err);
    }
    bl__free(text);
    json_decref(root);
    return status;
}
