/* Owns reading one safetensors file from bytes. Must not know what its tensors are for, nor
 * files and directories (tensor_set.c). */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/error.h"
#include "formats/json.h"

enum {
    MAX_HEADER = 100000000, /* the format's own bound */
    MAX_DEPTH = 3,          /* file, tensor, shape */
    MAX_VALUES = 1 << 21,   /* about ten a tensor; real files: below a million */
    SHOWN = 100             /* bytes of a name that go into a message */
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [BL_DTYPE_F64] = {"F64", 8},   [BL_DTYPE_F32] = {"F32", 4}, [BL_DTYPE_F16] = {"F16", 2},
    [BL_DTYPE_BF16] = {"BF16", 2}, [BL_DTYPE_I64] = {"I64", 8}, [BL_DTYPE_I32] = {"I32", 4},
    [BL_DTYPE_I16] = {"I16", 2},   [BL_DTYPE_I8] = {"I8", 1},   [BL_DTYPE_U8] = {"U8", 1},
    [BL_DTYPE_BOOL] = {"BOOL", 1}};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

const char *bl__dtype_name(bl__dtype dtype) {
    return dtypes[dtype].name;
}
size_t bl__dtype_bytes(bl__dtype dtype) {
    return dtypes[dtype].bytes;
}

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the tables of a safetensors file");
}

static bl_status read_dtype(const json_t *info, const char *name, bl__dtype *out, bl_error *err) {
    const json_t *value = json_object_get(info, "dtype");
    if (!json_is_string(value))
        return bl__fail(err, BL_ERR_FORMAT, "tensor '%.*s': dtype is %s, expected a string", SHOWN,
                        name, bl__json_type_name(value));
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (strcmp(json_string_value(value), dtypes[i].name) == 0) {
            *out = (bl__dtype)i;
            return BL_OK;
        }
    }
    return bl__fail(err, BL_ERR_UNSUPPORTED, "tensor '%.*s': dtype '%.40s'", SHOWN, name,
                    json_string_value(value));
}

/* An integer that is not negative. */
static bool read_count(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static bl_status read_shape(const json_t *info, const char *name, bl__safetensor *t,
                            bl_error *err) {
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape))
        return bl__fail(err, BL_ERR_FORMAT, "tensor '%.*s': shape is %s, expected an array", SHOWN,
                        name, bl__json_type_name(shape));
    if (json_array_size(shape) > BL_SAFETENSORS_MAX_DIMS)
        return bl__fail(err, BL_ERR_LIMIT, "tensor '%.*s': %zu dimensions, at most %d allowed",
                        SHOWN, name, json_array_size(shape), BL_SAFETENSORS_MAX_DIMS);
    t->n_dims = (uint32_t)json_array_size(shape);
    t->n_elements = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (!read_count(json_array_get(shape, i), &t->dims[i]))
            return bl__fail(err, BL_ERR_FORMAT,
                            "tensor '%.*s': dimension %u is not an integer of 0 or more", SHOWN,
                            name, i);
        if (t->dims[i] > SIZE_MAX ||
            !bl__mul_size(t->n_elements, (size_t)t->dims[i], &t->n_elements))
            return bl__fail(err, BL_ERR_LIMIT, "tensor '%.*s': its dimensions overflow", SHOWN,
                            name);
    }
    if (!bl__mul_size(t->n_elements, dtypes[t->dtype].bytes, &t->bytes))
        return bl__fail(err, BL_ERR_LIMIT, "tensor '%.*s': its size overflows", SHOWN, name);
    return BL_OK;
}

/* Checks data_offsets against the shape and the section[section_bytes]. */
static bl_status read_place(const json_t *info, const char *name, const uint8_t *section,
                            size_t section_bytes, bl__safetensor *t, bl_error *err) {
    const json_t *offsets = json_object_get(info, "data_offsets");
    uint64_t begin, end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !read_count(json_array_get(offsets, 0), &begin) ||
        !read_count(json_array_get(offsets, 1), &end))
        return bl__fail(err, BL_ERR_FORMAT,
                        "tensor '%.*s': data_offsets must be two integers of 0 or more", SHOWN,
                        name);
    if (begin > end || end > section_bytes)
        return bl__fail(err, BL_ERR_FORMAT,
                        "tensor '%.*s': data_offsets [%llu, %llu] in a data section of %zu bytes",
                        SHOWN, name, (unsigned long long)begin, (unsigned long long)end,
                        section_bytes);
    if (end - begin != t->bytes)
        return bl__fail(err, BL_ERR_FORMAT,
                        "tensor '%.*s': data_offsets [%llu, %llu] hold %llu bytes, its shape and "
                        "dtype %s expect %zu",
                        SHOWN, name, (unsigned long long)begin, (unsigned long long)end,
                        (unsigned long long)(end - begin), dtypes[t->dtype].name, t->bytes);
    t->data = section + begin;
    return BL_OK;
}

static bl_status read_tensor(const json_t *info, const char *name, const uint8_t *section,
                             size_t section_bytes, bl__safetensor *t, bl_error *err) {
    bl_status status;
    memset(t, 0, sizeof *t);
    if (!json_is_object(info))
        return bl__fail(err, BL_ERR_FORMAT, "tensor '%.*s' is %s, expected an object", SHOWN, name,
                        bl__json_type_name(info));
    if (*name == '\0')
        return bl__fail(err, BL_ERR_FORMAT, "a tensor without a name");
    if ((status = read_dtype(info, name, &t->dtype, err)) ||
        (status = read_shape(info, name, t, err)))
        return status;
    return read_place(info, name, section, section_bytes, t, err);
}

/* "__metadata__" holds strings only. */
static bl_status check_metadata(json_t *metadata, bl_error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return bl__fail(err, BL_ERR_FORMAT, "__metadata__ is %s, expected an object",
                        bl__json_type_name(metadata));
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return bl__fail(err, BL_ERR_FORMAT, "__metadata__: '%.*s' is %s, expected a string",
                            SHOWN, key, bl__json_type_name(value));
    }
    return BL_OK;
}

static int compare_places(const void *a, const void *b) {
    const bl__safetensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data > y->data ? 1 : -1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors first */
}

/* The tensors, sorted, must cover the section from its first byte to its last. */
static bl_status check_cover(const bl__safetensors *file, const uint8_t *section,
                             size_t section_bytes, bl_error *err) {
    size_t end = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const bl__safetensor *t = &file->tensors[i];
        size_t begin = (size_t)(t->data - section);
        if (begin != end)
            return bl__fail(err, BL_ERR_FORMAT,
                            "tensor '%.*s' begins at %zu, %s the data before it"
                            " which end at %zu",
                            SHOWN, t->name.data, begin, begin < end ? "inside" : "leaving a gap to",
                            end);
        end = begin + t->bytes;
    }
    if (end != section_bytes)
        return bl__fail(err, BL_ERR_FORMAT, "%zu bytes of data, the tensors cover %zu",
                        section_bytes, end);
    return BL_OK;
}

/* Fills file->tensors and their names from the header's JSON. */
static bl_status read_tensors(json_t *root, const uint8_t *section, size_t section_bytes,
                              bl__safetensors *file, bl_error *err) {
    const char *name;
    json_t *info;
    size_t text_bytes = 0;
    json_object_foreach(root, name, info) text_bytes += strlen(name) + 1;
    file->tensors = bl__malloc_array(json_object_size(root), sizeof *file->tensors);
    file->name_text = bl__malloc(text_bytes);
    if (!file->tensors || !file->name_text)
        return no_memory(err);
    char *text = file->name_text;
    json_object_foreach(root, name, info) {
        bl__safetensor *t = &file->tensors[file->n_tensors];
        size_t len = strlen(name);
        bl_status status = strcmp(name, "__metadata__") == 0
                               ? check_metadata(info, err)
                               : read_tensor(info, name, section, section_bytes, t, err);
        if (status)
            return status;
        if (strcmp(name, "__metadata__") == 0)
            continue;
        memcpy(text, name, len + 1);
        t->name = (bl__string){.data = text, .len = len};
        text += len + 1;
        file->n_tensors++;
    }
    return BL_OK;
}

static bl_status index_names(bl__safetensors *file, bl_error *err) {
    if (!bl__names_reserve(&file->names, file->n_tensors))
        return no_memory(err);
    for (size_t i = 0; i < file->n_tensors; i++) /* JSON with keys given twice was refused */
        if (bl__names_add(&file->names, file->tensors, sizeof *file->tensors, i) != BL_NAMES_ADDED)
            return bl__fail(err, BL_ERR_LIMIT, "tensor '%.*s' collides with too many others", SHOWN,
                            file->tensors[i].name.data);
    return BL_OK;
}

bl_status bl__safetensors_parse(const uint8_t *data, size_t len, bl__safetensors **out,
                                bl_error *err) {
    bl__reader r = {.data = data, .len = len};
    uint64_t header_bytes;
    const uint8_t *header;
    json_t *root = NULL;
    if (!bl__read_u64(&r, &header_bytes))
        return bl__fail(err, BL_ERR_FORMAT, "%zu bytes, a safetensors file has at least 8", len);
    if (header_bytes > MAX_HEADER)
        return bl__fail(err, BL_ERR_LIMIT, "safetensors header of %llu bytes, at most %d allowed",
                        (unsigned long long)header_bytes, MAX_HEADER);
    if (!bl__read_bytes(&r, (size_t)header_bytes, &header))
        return bl__fail(err, BL_ERR_FORMAT, "safetensors header of %llu bytes, only %zu left",
                        (unsigned long long)header_bytes, bl__reader_left(&r));
    bl__safetensors *file = bl__calloc(1, sizeof *file);
    if (!file)
        return no_memory(err);
    const uint8_t *section = data + r.off;
    size_t section_bytes = bl__reader_left(&r);
    bl_status status =
        bl__json_parse((const char *)header, (size_t)header_bytes,
                       (bl__json_limits){.depth = MAX_DEPTH, .values = MAX_VALUES}, &root, err);
    if (status)
        goto fail;
    if (!json_is_object(root)) {
        status = bl__fail(err, BL_ERR_FORMAT, "safetensors header is %s, expected an object",
                          bl__json_type_name(root));
        goto fail;
    }
    if ((status = read_tensors(root, section, section_bytes, file, err)))
        goto fail;
    if (file->n_tensors > 1)
        qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_places);
    if ((status = check_cover(file, section, section_bytes, err)) ||
        (status = index_names(file, err)))
        goto fail;
    file->metadata = json_incref(json_object_get(root, "__metadata__"));
    json_decref(root);
    *out = file;
    return BL_OK;
fail:
    json_decref(root);
    bl__safetensors_free(file);
    return status;
}

void bl__safetensors_free(bl__safetensors *file) {
    if (!file)
        return;
    bl__names_free(&file->names);
    bl__free(file->tensors);
    bl__free(file->name_text);
    json_decref(file->metadata);
    bl__free(file);
}

const char *bl__safetensors_metadata(const bl__safetensors *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}

const bl__safetensor *bl__safetensors_find(const bl__safetensors *file, const char *name) {
    size_t at = bl__names_find(&file->names, file->tensors, sizeof *file->tensors,
                               (bl__string){.data = name, .len = strlen(name)});
    return at == SIZE_MAX ? NULL : &file->tensors[at];
}
