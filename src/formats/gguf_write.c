/* Owns writing GGUF version 3. Must not know what keys or tensors mean, but for
 * general.alignment. Metadata is encoded as it is set; tensors stream through. */
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "formats/checksum.h"
#include "formats/gguf.h"

enum {
    VERSION = 3,
    START_BYTES = 24, /* magic, version, counts */
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20,
    MAX_KEY = 65535,
    MAX_TENSOR_NAME = 63, /* what ggml's own reader takes */
    MAX_DEPTH = 8,
    MAX_METADATA = 1 << 30
};

typedef struct writer_tensor {
    bl__string name; /* owned */
    uint32_t n_dims, type_id;
    uint64_t dims[4];
    size_t bytes;
    uint64_t offset; /* from the start of the data section */
} writer_tensor;

typedef struct writer_key {
    bl__string name; /* owned */
    size_t start;    /* of its pair in the metadata */
} writer_key;

struct bl__gguf_writer {
    bl__buffer metadata; /* encoded pairs */
    bl__buffer infos;    /* encoded tensors, from begin on */
    writer_key *keys;
    writer_tensor *tensors;
    size_t n_keys, cap_keys, n_tensors, cap_tensors;
    bl__names key_names, tensor_names;
    uint32_t alignment;
    bl__outfile *file;      /* NULL until begin */
    size_t current;         /* tensor being written */
    size_t written;         /* its bytes so far */
    bl__checksum *checksum; /* of them; NULL: no checksums are wanted */
    uint64_t *checksums;    /* uint64_t[1 + n_tensors], from begin on: see BL_CHECKSUM_KEY */
};

static const uint8_t zeros[64]; /* padding */

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate for GGUF metadata");
}

bl_status bl__gguf_writer_create(bl__gguf_writer **out, bl_error *err) {
    bl__gguf_writer *w = bl__calloc(1, sizeof *w);
    if (!w)
        return no_memory(err);
    w->metadata = bl__buffer_make(MAX_METADATA);
    w->infos = bl__buffer_make(MAX_METADATA);
    w->alignment = DEFAULT_ALIGNMENT;
    *out = w;
    return BL_OK;
}

void bl__gguf_writer_free(bl__gguf_writer *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->n_keys; i++)
        bl__free((void *)(uintptr_t)w->keys[i].name.data);
    for (size_t i = 0; i < w->n_tensors; i++)
        bl__free((void *)(uintptr_t)w->tensors[i].name.data);
    bl__free(w->keys);
    bl__free(w->tensors);
    bl__names_free(&w->key_names);
    bl__names_free(&w->tensor_names);
    bl__buffer_free(&w->metadata);
    bl__buffer_free(&w->infos);
    bl__checksum_free(w->checksum);
    bl__free(w->checksums);
    bl__free(w);
}

/* The array, moved if it had no room for one more element; NULL without memory, and then the old
 * one stays. */
static void *make_room(void *array, size_t n, size_t *cap, size_t size) {
    if (n < *cap)
        return array;
    size_t new_cap = *cap ? *cap * 2 : 32;
    void *grown = bl__realloc_array(array, new_cap, size);
    if (grown)
        *cap = new_cap;
    return grown;
}

static void put_u32(bl__buffer *b, uint32_t v) {
    bl__buffer_append(b, &v, sizeof v);
}
static void put_u64(bl__buffer *b, uint64_t v) {
    bl__buffer_append(b, &v, sizeof v);
}
static void put_string(bl__buffer *b, bl__string s) {
    put_u64(b, s.len);
    bl__buffer_append(b, s.data, s.len);
}

/* Remembers a key and writes it with its type; the value follows. */
static bl_status put_key(bl__gguf_writer *w, const char *key, bl__gguf_type type, bl_error *err) {
    size_t len = strlen(key);
    if (w->file)
        return bl__fail(err, BL_ERR_ARGUMENT, "key '%.100s' set after writing began", key);
    if (len == 0 || len > MAX_KEY)
        return bl__fail(err, BL_ERR_ARGUMENT, "key of %zu bytes, expected 1 to %d", len, MAX_KEY);
    writer_key *keys = make_room(w->keys, w->n_keys, &w->cap_keys, sizeof *keys);
    if (!keys)
        return no_memory(err);
    w->keys = keys;
    char *copy = bl__strndup(key, len);
    if (!copy)
        return no_memory(err);
    w->keys[w->n_keys] = (writer_key){.name = {.data = copy, .len = len}, .start = w->metadata.len};
    bl__names_result added = bl__names_add(&w->key_names, w->keys, sizeof *w->keys, w->n_keys);
    if (added != BL_NAMES_ADDED) {
        bl__free(copy);
        if (added == BL_NAMES_NO_MEMORY)
            return no_memory(err);
        return bl__fail(err, BL_ERR_ARGUMENT, "key '%.100s' is set twice", key);
    }
    w->n_keys++;
    put_string(&w->metadata, w->keys[w->n_keys - 1].name);
    put_u32(&w->metadata, type);
    return BL_OK;
}

/* What the appends since the last check came to. */
static bl_status check_metadata(const bl__gguf_writer *w, const char *key, bl_error *err) {
    if (!w->metadata.failed)
        return BL_OK;
    if (w->metadata.too_large)
        return bl__fail(err, BL_ERR_LIMIT, "key '%.100s': metadata of more than %d bytes", key,
                        MAX_METADATA);
    return no_memory(err);
}

static bl_status set_bytes(bl__gguf_writer *w, const char *key, bl__gguf_type type,
                           const void *data, size_t len, bl_error *err) {
    bl_status status = put_key(w, key, type, err);
    if (status)
        return status;
    bl__buffer_append(&w->metadata, data, len);
    return check_metadata(w, key, err);
}

static bl_status set_array(bl__gguf_writer *w, const char *key, bl__gguf_type type,
                           const void *data, size_t size, size_t count, bl_error *err) {
    size_t bytes;
    if (!bl__mul_size(size, count, &bytes))
        return bl__fail(err, BL_ERR_ARGUMENT, "key '%.100s': array too large", key);
    bl_status status = put_key(w, key, BL_GGUF_ARRAY, err);
    if (status)
        return status;
    put_u32(&w->metadata, type);
    put_u64(&w->metadata, count);
    if (bytes)
        bl__buffer_append(&w->metadata, data, bytes);
    return check_metadata(w, key, err);
}

static bl_status set_alignment(bl__gguf_writer *w, uint32_t alignment, bl_error *err) {
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > MAX_ALIGNMENT)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "general.alignment is %u, expected a power of two up to %d", alignment,
                        MAX_ALIGNMENT);
    if (w->n_tensors)
        return bl__fail(err, BL_ERR_ARGUMENT, "general.alignment set after a tensor was added");
    w->alignment = alignment;
    return BL_OK;
}

bl_status bl__gguf_set_u32(bl__gguf_writer *w, const char *key, uint32_t value, bl_error *err) {
    uint32_t old = w->alignment;
    bl_status status = BL_OK;
    if (strcmp(key, "general.alignment") == 0)
        status = set_alignment(w, value, err);
    if (!status)
        status = set_bytes(w, key, BL_GGUF_U32, &value, sizeof value, err);
    if (status)
        w->alignment = old;
    return status;
}

bl_status bl__gguf_set_f32(bl__gguf_writer *w, const char *key, float value, bl_error *err) {
    return set_bytes(w, key, BL_GGUF_F32, &value, sizeof value, err);
}

bl_status bl__gguf_set_bool(bl__gguf_writer *w, const char *key, bool value, bl_error *err) {
    uint8_t byte = value;
    return set_bytes(w, key, BL_GGUF_BOOL, &byte, 1, err);
}

bl_status bl__gguf_set_string(bl__gguf_writer *w, const char *key, const char *text, size_t len,
                              bl_error *err) {
    bl_status status = put_key(w, key, BL_GGUF_STRING, err);
    if (status)
        return status;
    put_string(&w->metadata, (bl__string){.data = text, .len = len});
    return check_metadata(w, key, err);
}

bl_status bl__gguf_set_strings(bl__gguf_writer *w, const char *key, const bl__string *strings,
                               size_t count, bl_error *err) {
    bl_status status = put_key(w, key, BL_GGUF_ARRAY, err);
    if (status)
        return status;
    put_u32(&w->metadata, BL_GGUF_STRING);
    put_u64(&w->metadata, count);
    for (size_t i = 0; i < count; i++)
        put_string(&w->metadata, strings[i]);
    return check_metadata(w, key, err);
}

bl_status bl__gguf_set_i32s(bl__gguf_writer *w, const char *key, const int32_t *values,
                            size_t count, bl_error *err) {
    return set_array(w, key, BL_GGUF_I32, values, sizeof *values, count, err);
}

bl_status bl__gguf_set_f32s(bl__gguf_writer *w, const char *key, const float *values, size_t count,
                            bl_error *err) {
    return set_array(w, key, BL_GGUF_F32, values, sizeof *values, count, err);
}

/* Bytes of a value of fixed size, 0 for other types. */
static size_t scalar_bytes(bl__gguf_type type) {
    switch (type) {
    case BL_GGUF_U8:
    case BL_GGUF_I8:
    case BL_GGUF_BOOL:
        return 1;
    case BL_GGUF_U16:
    case BL_GGUF_I16:
        return 2;
    case BL_GGUF_U32:
    case BL_GGUF_I32:
    case BL_GGUF_F32:
        return 4;
    case BL_GGUF_U64:
    case BL_GGUF_I64:
    case BL_GGUF_F64:
        return 8;
    case BL_GGUF_STRING:
    case BL_GGUF_ARRAY:
        break;
    }
    return 0;
}

static bool scalar_fits(const bl__gguf_value *value) {
    switch (value->type) {
    case BL_GGUF_BOOL:
        return value->as.u <= 1;
    case BL_GGUF_U8:
        return value->as.u <= UINT8_MAX;
    case BL_GGUF_U16:
        return value->as.u <= UINT16_MAX;
    case BL_GGUF_U32:
        return value->as.u <= UINT32_MAX;
    case BL_GGUF_I8:
        return value->as.i >= INT8_MIN && value->as.i <= INT8_MAX;
    case BL_GGUF_I16:
        return value->as.i >= INT16_MIN && value->as.i <= INT16_MAX;
    case BL_GGUF_I32:
        return value->as.i >= INT32_MIN && value->as.i <= INT32_MAX;
    default:
        return true;
    }
}

/* Whether a value may be written: known types, integers in range, nesting within the cap. */
static bool is_writable(const bl__gguf_value *value, int depth) {
    if (value->type == BL_GGUF_STRING)
        return true;
    if (value->type != BL_GGUF_ARRAY)
        return scalar_bytes(value->type) && scalar_fits(value);
    bl__gguf_type type = value->as.array.type;
    if (depth == MAX_DEPTH)
        return false;
    if (type != BL_GGUF_ARRAY)
        return type == BL_GGUF_STRING || scalar_bytes(type);
    for (size_t i = 0; i < value->as.array.count; i++)
        if (value->as.array.items[i].type != BL_GGUF_ARRAY ||
            !is_writable(&value->as.array.items[i], depth + 1))
            return false;
    return true;
}

/* The value without its type. */
static void put_value(bl__buffer *b, const bl__gguf_value *value) {
    size_t size = scalar_bytes(value->type);
    if (value->type == BL_GGUF_STRING) {
        put_string(b, value->as.s);
    } else if (value->type == BL_GGUF_F32) {
        float f = (float)value->as.f;
        bl__buffer_append(b, &f, sizeof f);
    } else if (value->type != BL_GGUF_ARRAY) {
        bl__buffer_append(b, &value->as, size); /* the low bytes; all members are 8 bytes wide */
    } else {
        size = scalar_bytes(value->as.array.type);
        put_u32(b, value->as.array.type);
        put_u64(b, value->as.array.count);
        if (size && value->as.array.count)
            bl__buffer_append(b, value->as.array.data, value->as.array.count * size);
        for (size_t i = 0; i < value->as.array.count && value->as.array.type == BL_GGUF_STRING; i++)
            put_string(b, value->as.array.strings[i]);
        for (size_t i = 0; i < value->as.array.count && value->as.array.type == BL_GGUF_ARRAY; i++)
            put_value(b, &value->as.array.items[i]);
    }
}

bl_status bl__gguf_set_value(bl__gguf_writer *w, const char *key, const bl__gguf_value *value,
                             bl_error *err) {
    if (!is_writable(value, 0))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "key '%.100s': a value out of its type's range, or nested deeper than %d",
                        key, MAX_DEPTH);
    if (strcmp(key, "general.alignment") == 0) {
        if (value->type != BL_GGUF_U32)
            return bl__fail(err, BL_ERR_ARGUMENT, "general.alignment must be of type u32");
        return bl__gguf_set_u32(w, key, (uint32_t)value->as.u, err);
    }
    bl_status status = put_key(w, key, value->type, err);
    if (status)
        return status;
    put_value(&w->metadata, value);
    return check_metadata(w, key, err);
}

/* Fills all but the name; *end is where the next tensor goes. */
static bl_status describe_tensor(const bl__gguf_writer *w, const char *name, uint32_t n_dims,
                                 const uint64_t *dims, bl__layout layout, writer_tensor *t,
                                 bl_error *err) {
    size_t rows = 1, cols = 1, end = 0;
    int32_t type_id = bl__layout_get(layout)->type_id;
    if (type_id == BL_TYPE_ID_NONE)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%.100s: %s has no GGUF tensor type", name,
                        bl__layout_get(layout)->name);
    if (n_dims < 1 || n_dims > 4)
        return bl__fail(err, BL_ERR_ARGUMENT, "%.100s: %u dimensions, expected 1 to 4", name,
                        n_dims);
    t->n_dims = n_dims;
    t->type_id = (uint32_t)type_id;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || dims[i] > SIZE_MAX ||
            !bl__mul_size(i ? rows : cols, (size_t)dims[i], i ? &rows : &cols))
            return bl__fail(err, BL_ERR_ARGUMENT, "%.100s: dimension %u is %llu", name, i,
                            (unsigned long long)dims[i]);
        t->dims[i] = dims[i];
    }
    bl_status status = bl__layout_bytes(layout, rows, cols, &t->bytes, err);
    if (status) {
        bl__error_prefix(err, name);
        return status;
    }
    if (w->n_tensors) {
        const writer_tensor *last = &w->tensors[w->n_tensors - 1];
        if (!bl__add_size((size_t)last->offset, last->bytes, &end) ||
            !bl__align_size(end, w->alignment, &end))
            return bl__fail(err, BL_ERR_LIMIT, "%.100s: the data section overflows", name);
    }
    t->offset = end;
    return BL_OK;
}

bl_status bl__gguf_add_tensor(bl__gguf_writer *w, const char *name, uint32_t n_dims,
                              const uint64_t *dims, bl__layout layout, bl_error *err) {
    writer_tensor t = {.dims = {1, 1, 1, 1}};
    size_t len = strlen(name);
    if (w->file)
        return bl__fail(err, BL_ERR_ARGUMENT, "%.100s: tensor added after writing began", name);
    if (len == 0 || len > MAX_TENSOR_NAME)
        return bl__fail(err, BL_ERR_ARGUMENT, "tensor name '%.100s' of %zu bytes, expected 1 to %d",
                        name, len, MAX_TENSOR_NAME);
    bl_status status = describe_tensor(w, name, n_dims, dims, layout, &t, err);
    if (status)
        return status;
    writer_tensor *tensors = make_room(w->tensors, w->n_tensors, &w->cap_tensors, sizeof *tensors);
    if (!tensors)
        return no_memory(err);
    w->tensors = tensors;
    char *copy = bl__strndup(name, len);
    if (!copy)
        return no_memory(err);
    t.name = (bl__string){.data = copy, .len = len};
    w->tensors[w->n_tensors] = t;
    bl__names_result added =
        bl__names_add(&w->tensor_names, w->tensors, sizeof *w->tensors, w->n_tensors);
    if (added != BL_NAMES_ADDED) {
        bl__free(copy);
        if (added == BL_NAMES_NO_MEMORY)
            return no_memory(err);
        return bl__fail(err, BL_ERR_ARGUMENT, "tensor '%.100s' is added twice", name);
    }
    w->n_tensors++;
    return BL_OK;
}

/* Writes zeros until `offset`, counted in bytes accepted by this writer, is aligned. */
static bl_status write_padding(bl__gguf_writer *w, uint64_t offset, bl_error *err) {
    size_t left = (size_t)(-offset & (w->alignment - 1));
    bl_status status = BL_OK;
    while (left && !status) {
        size_t n = bl__min_size(left, sizeof zeros);
        status = bl__outfile_write(w->file, zeros, n, err);
        left -= n;
    }
    return status;
}

/* ---- Checksums ---- */

bl_status bl__gguf_writer_checksums(bl__gguf_writer *w, bl_error *err) {
    if (!w->checksum)
        w->checksum = bl__checksum_create();
    return w->checksum ? BL_OK : no_memory(err);
}

/* Room for the checksums, which are not known yet. */
static bl_status reserve_checksums(bl__gguf_writer *w, bl_error *err) {
    if (!w->checksum)
        return BL_OK;
    w->checksums = bl__calloc(1 + w->n_tensors, sizeof *w->checksums);
    if (!w->checksums)
        return no_memory(err);
    bl_status status = bl__gguf_set_string(w, BL_CHECKSUM_KIND_KEY, BL_CHECKSUM_KIND,
                                           strlen(BL_CHECKSUM_KIND), err);
    if (status)
        return status;
    return set_array(w, BL_CHECKSUM_KEY, BL_GGUF_U64, w->checksums, sizeof *w->checksums,
                     1 + w->n_tensors, err);
}

/* Magic, version, counts. */
static void encode_start(const bl__gguf_writer *w, uint8_t start[START_BYTES]) {
    const uint32_t version = VERSION;
    const uint64_t counts[2] = {w->n_tensors, w->n_keys};
    memcpy(start, "GGUF", 4);
    memcpy(start + 4, &version, sizeof version);
    memcpy(start + 8, counts, sizeof counts);
}

/* Replaces the last `len` bytes of a key's value, in the metadata and in the file. */
static bl_status patch_value(bl__gguf_writer *w, size_t key, const void *data, size_t len,
                             bl_error *err) {
    size_t end = key + 1 < w->n_keys ? w->keys[key + 1].start : w->metadata.len;
    memcpy(w->metadata.data + end - len, data, len);
    return bl__outfile_patch(w->file, START_BYTES + end - len, data, len, err);
}

/* Writes the checksums again: that of the header, with its own place taken as zeros, and those of
 * the tensors so far. */
static bl_status patch_checksums(bl__gguf_writer *w, bl_error *err) {
    uint8_t start[START_BYTES];
    size_t key = bl__names_find(&w->key_names, w->keys, sizeof *w->keys,
                                (bl__string){BL_CHECKSUM_KEY, strlen(BL_CHECKSUM_KEY)});
    size_t bytes = (1 + w->n_tensors) * sizeof *w->checksums;
    w->checksums[0] = 0;
    bl_status status = patch_value(w, key, w->checksums, bytes, err);
    if (status)
        return status;
    encode_start(w, start);
    bl__checksum_add(w->checksum, start, sizeof start);
    bl__checksum_add(w->checksum, w->metadata.data, w->metadata.len);
    bl__checksum_add(w->checksum, w->infos.data, w->infos.len);
    size_t left =
        (size_t)(-(uint64_t)(sizeof start + w->metadata.len + w->infos.len) & (w->alignment - 1));
    for (size_t n; left; left -= n) {
        n = bl__min_size(left, sizeof zeros);
        bl__checksum_add(w->checksum, zeros, n);
    }
    w->checksums[0] = bl__checksum_take(w->checksum);
    return patch_value(w, key, w->checksums, bytes, err);
}

/* ---- Writing ---- */

bl_status bl__gguf_writer_begin(bl__gguf_writer *w, bl__outfile *file, bl_error *err) {
    uint8_t start[START_BYTES];
    bl_status status = BL_OK;
    if (w->file || w->metadata.failed)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        w->file ? "GGUF writer begun twice" : "GGUF writer begun after an error");
    if ((status = reserve_checksums(w, err)))
        return status;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const writer_tensor *t = &w->tensors[i];
        put_string(&w->infos, t->name);
        put_u32(&w->infos, t->n_dims);
        bl__buffer_append(&w->infos, t->dims, t->n_dims * sizeof t->dims[0]);
        put_u32(&w->infos, t->type_id);
        put_u64(&w->infos, t->offset);
    }
    if (w->infos.failed)
        return no_memory(err);
    w->file = file;
    encode_start(w, start);
    if ((status = bl__outfile_write(file, start, sizeof start, err)) ||
        (w->metadata.len &&
         (status = bl__outfile_write(file, w->metadata.data, w->metadata.len, err))) ||
        (w->infos.len && (status = bl__outfile_write(file, w->infos.data, w->infos.len, err))))
        return status;
    return write_padding(w, (uint64_t)sizeof start + w->metadata.len + w->infos.len, err);
}

bl_status bl__gguf_write_data(bl__gguf_writer *w, const void *data, size_t len, bl_error *err) {
    if (!w->file || w->current == w->n_tensors)
        return bl__fail(err, BL_ERR_ARGUMENT, "%zu bytes of data, no tensor expects any", len);
    const writer_tensor *t = &w->tensors[w->current];
    if (len > t->bytes - w->written)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: %zu bytes after %zu, the tensor has %zu",
                        t->name.data, len, w->written, t->bytes);
    bl_status status = len ? bl__outfile_write(w->file, data, len, err) : BL_OK;
    if (status)
        return status;
    if (w->checksum)
        bl__checksum_add(w->checksum, data, len);
    w->written += len;
    if (w->written < t->bytes)
        return BL_OK;
    w->written = 0;
    w->current++;
    if (w->checksum)
        w->checksums[w->current] = bl__checksum_take(w->checksum);
    return write_padding(w, t->bytes, err); /* tensors start aligned */
}

bl_status bl__gguf_writer_finish(bl__gguf_writer *w, bl_error *err) {
    if (!w->file)
        return bl__fail(err, BL_ERR_ARGUMENT, "GGUF writer finished before it began");
    if (w->current < w->n_tensors)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: %zu of %zu bytes written",
                        w->tensors[w->current].name.data, w->written, w->tensors[w->current].bytes);
    return w->checksum ? patch_checksums(w, err) : BL_OK;
}

bl_status bl__gguf_writer_replace(bl__gguf_writer *w, const char *key, const void *data, size_t len,
                                  bl_error *err) {
    size_t at = bl__names_find(&w->key_names, w->keys, sizeof *w->keys,
                               (bl__string){.data = key, .len = strlen(key)});
    if (!w->file || w->current < w->n_tensors || at == SIZE_MAX)
        return bl__fail(err, BL_ERR_ARGUMENT, "key '%.100s' replaced %s", key,
                        at == SIZE_MAX ? "but never set" : "before the file is finished");
    bl_status status = patch_value(w, at, data, len, err);
    return status || !w->checksum ? status : patch_checksums(w, err);
}
