/* Owns reading GGUF. Every count and length in the bytes is a claim: it is held against the bytes
 * left before anything is allocated or read. Must not know what keys or tensors mean, but for
 * general.alignment, and never unpacks weights.
 *
 * The metadata is walked twice: once to check it and to count strings and nested values, once to
 * fill tables of exactly that size. So a vocabulary costs one allocation, not one per token. */
#include "formats/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/error.h"
#include "formats/gguf_types.h"

enum {
    MAGIC = 0x46554747, /* "GGUF" */
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20,
    MAX_DEPTH = 8,         /* of arrays in arrays */
    MAX_NAME = 65535,      /* bytes of a key or tensor name; the specification's bound for keys */
    MAX_PAIRS = 1 << 20,   /* real files: below 100 */
    MAX_TENSORS = 1 << 20, /* real files: below 100,000 */
    MAX_STRINGS = 1 << 24, /* strings in arrays, and nested values; real files: below a million */
    SHOWN = 100,           /* bytes of a name that go into a message */
    /* The smallest encodings: length, one byte of name, type, and a value or dimensions. */
    MIN_PAIR_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8,
    MIN_STRING_BYTES = 8,
    MIN_ARRAY_BYTES = 4 + 8
};

typedef struct storage {
    bl__names keys, tensor_names;
    bl__string *strings;   /* of all arrays of strings, in file order */
    bl__gguf_value *items; /* of all arrays of arrays */
} storage;

typedef struct parser {
    bl__reader r;
    bl__string where; /* what is being read, for messages; empty: the header */
    const char *part; /* "key" or "tensor" */
    size_t n_strings, n_items;
    bl__string *strings; /* NULL while counting */
    bl__gguf_value *items;
    bl_error *err;
} parser;

#define SHOW(name) (int)bl__min_size((name).len, SHOWN), (name).data

static bl_status truncated(const parser *p, const char *what, uint64_t wanted) {
    if (!p->part)
        return bl__fail(p->err, BL_ERR_FORMAT, "%s at byte %zu: %zu bytes left, expected %llu",
                        what, p->r.off, bl__reader_left(&p->r), (unsigned long long)wanted);
    return bl__fail(
        p->err, BL_ERR_FORMAT, "%s '%.*s': %s at byte %zu: %zu bytes left, expected %llu", p->part,
        SHOW(p->where), what, p->r.off, bl__reader_left(&p->r), (unsigned long long)wanted);
}

static bl_status read_u32(parser *p, const char *what, uint32_t *out) {
    return bl__read_u32(&p->r, out) ? BL_OK : truncated(p, what, sizeof *out);
}

static bl_status read_u64(parser *p, const char *what, uint64_t *out) {
    return bl__read_u64(&p->r, out) ? BL_OK : truncated(p, what, sizeof *out);
}

static bl_status read_string(parser *p, const char *what, bl__string *out) {
    uint64_t len = 0;
    const uint8_t *data;
    bl_status status = read_u64(p, what, &len);
    if (status)
        return status;
    if (len > bl__reader_left(&p->r) || !bl__read_bytes(&p->r, (size_t)len, &data))
        return truncated(p, what, len);
    *out = (bl__string){.data = (const char *)data, .len = (size_t)len};
    return BL_OK;
}

/* A key or a tensor's name: not empty, no NUL inside. */
static bl_status read_name(parser *p, const char *what, bl__string *out) {
    p->part = NULL;
    bl_status status = read_string(p, what, out);
    if (status)
        return status;
    if (out->len == 0 || out->len > MAX_NAME || memchr(out->data, '\0', out->len))
        return bl__fail(p->err, BL_ERR_FORMAT,
                        "%s of %zu bytes before byte %zu: expected 1 to %d, none of them NUL", what,
                        out->len, p->r.off, MAX_NAME);
    p->where = *out;
    return BL_OK;
}

/* Bytes of a value of fixed size, 0 for other types. */
static size_t scalar_bytes(uint32_t type) {
    static const uint8_t bytes[] = {
        [BL_GGUF_U8] = 1,  [BL_GGUF_I8] = 1,  [BL_GGUF_U16] = 2, [BL_GGUF_I16] = 2,
        [BL_GGUF_U32] = 4, [BL_GGUF_I32] = 4, [BL_GGUF_F32] = 4, [BL_GGUF_BOOL] = 1,
        [BL_GGUF_U64] = 8, [BL_GGUF_I64] = 8, [BL_GGUF_F64] = 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

static bl_status check_bools(const parser *p, const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (data[i] > 1)
            return bl__fail(p->err, BL_ERR_FORMAT, "key '%.*s': bool of value %u, expected 0 or 1",
                            SHOW(p->where), data[i]);
    return BL_OK;
}

static bl_status parse_scalar(parser *p, uint32_t type, bl__gguf_value *value) {
    uint64_t bits = 0;
    size_t n = scalar_bytes(type);
    if (!bl__read_into(&p->r, &bits, n))
        return truncated(p, "value", n);
    switch (type) {
    case BL_GGUF_I8:
        value->as.i = (int8_t)bits;
        break;
    case BL_GGUF_I16:
        value->as.i = (int16_t)bits;
        break;
    case BL_GGUF_I32:
        value->as.i = (int32_t)bits;
        break;
    case BL_GGUF_I64:
        value->as.i = (int64_t)bits;
        break;
    case BL_GGUF_F32:
        value->as.f = bl__load_f32(&bits);
        break;
    case BL_GGUF_F64:
        memcpy(&value->as.f, &bits, sizeof value->as.f);
        break;
    case BL_GGUF_BOOL: {
        uint8_t byte = (uint8_t)bits;
        bl_status status = check_bools(p, &byte, 1);
        if (status)
            return status;
        value->as.u = bits;
        break;
    }
    default:
        value->as.u = bits;
    }
    return BL_OK;
}

static bl_status parse_value(parser *p, uint32_t type, int depth, bl__gguf_value *value);

/* Elements of an array of strings or of arrays. */
static bl_status parse_elements(parser *p, uint32_t type, size_t count, int depth,
                                bl__gguf_value *value) {
    bl_status status = BL_OK;
    bool nested = type == BL_GGUF_ARRAY;
    size_t *used = nested ? &p->n_items : &p->n_strings;
    size_t at = *used;
    if (count > MAX_STRINGS - at)
        return bl__fail(p->err, BL_ERR_LIMIT, "key '%.*s': more than %d strings or nested arrays",
                        SHOW(p->where), MAX_STRINGS);
    *used += count;
    if (nested && p->items)
        value->as.array.items = p->items + at;
    if (!nested && p->strings)
        value->as.array.strings = p->strings + at;
    for (size_t i = 0; i < count && !status; i++) {
        if (nested) {
            bl__gguf_value item;
            status = parse_value(p, BL_GGUF_ARRAY, depth + 1, p->items ? &p->items[at + i] : &item);
        } else {
            bl__string string;
            status = read_string(p, "string", p->strings ? &p->strings[at + i] : &string);
        }
    }
    return status;
}

static bl_status parse_array(parser *p, int depth, bl__gguf_value *value) {
    uint32_t type;
    uint64_t count;
    bl_status status;
    if (depth == MAX_DEPTH)
        return bl__fail(p->err, BL_ERR_LIMIT, "key '%.*s': arrays nested deeper than %d",
                        SHOW(p->where), MAX_DEPTH);
    if ((status = read_u32(p, "array type", &type)) ||
        (status = read_u64(p, "array length", &count)))
        return status;
    size_t fixed = scalar_bytes(type);
    if (!fixed && type != BL_GGUF_STRING && type != BL_GGUF_ARRAY)
        return bl__fail(p->err, BL_ERR_FORMAT, "key '%.*s': array of unknown type %u",
                        SHOW(p->where), type);
    size_t least = fixed ? fixed : type == BL_GGUF_STRING ? MIN_STRING_BYTES : MIN_ARRAY_BYTES;
    if (count > bl__reader_left(&p->r) / least)
        return bl__fail(p->err, BL_ERR_FORMAT,
                        "key '%.*s': array of %llu elements at byte %zu, only %zu bytes left",
                        SHOW(p->where), (unsigned long long)count, p->r.off,
                        bl__reader_left(&p->r));
    value->as.array.type = (bl__gguf_type)type;
    value->as.array.count = (size_t)count;
    if (!fixed)
        return parse_elements(p, type, (size_t)count, depth, value);
    const uint8_t *data;
    if (!bl__read_bytes(&p->r, (size_t)count * fixed, &data))
        return truncated(p, "array", count * fixed);
    value->as.array.data = data;
    return type == BL_GGUF_BOOL ? check_bools(p, data, (size_t)count) : BL_OK;
}

static bl_status parse_value(parser *p, uint32_t type, int depth, bl__gguf_value *value) {
    memset(value, 0, sizeof *value);
    value->type = (bl__gguf_type)type;
    if (type == BL_GGUF_STRING)
        return read_string(p, "string", &value->as.s);
    if (type == BL_GGUF_ARRAY)
        return parse_array(p, depth, value);
    if (!scalar_bytes(type))
        return bl__fail(p->err, BL_ERR_FORMAT, "key '%.*s': unknown type %u", SHOW(p->where), type);
    return parse_scalar(p, type, value);
}

static bl_status parse_pair(parser *p, bl__gguf_pair *pair) {
    uint32_t type;
    bl_status status = read_name(p, "metadata key", &pair->key);
    if (status)
        return status;
    p->part = "key";
    if ((status = read_u32(p, "type", &type)))
        return status;
    return parse_value(p, type, 0, &pair->value);
}

/* Magic, version, counts. */
static bl_status parse_header(parser *p, bl__gguf *g) {
    uint32_t magic;
    uint64_t n_tensors, n_pairs;
    bl_status status = read_u32(p, "magic", &magic);
    if (status)
        return status;
    if (magic != MAGIC)
        return bl__fail(p->err, BL_ERR_FORMAT, "not a GGUF file: starts with %08x, expected %08x",
                        magic, (unsigned)MAGIC);
    if ((status = read_u32(p, "version", &g->version)))
        return status;
    if (g->version && (g->version & 0xffff) == 0)
        return bl__fail(p->err, BL_ERR_UNSUPPORTED, "big-endian GGUF file");
    if (g->version != 2 && g->version != 3)
        return bl__fail(p->err, BL_ERR_UNSUPPORTED, "GGUF version %u, expected 2 or 3", g->version);
    if ((status = read_u64(p, "tensor count", &n_tensors)) ||
        (status = read_u64(p, "metadata count", &n_pairs)))
        return status;
    size_t left = bl__reader_left(&p->r);
    if (n_pairs > left / MIN_PAIR_BYTES || n_tensors > left / MIN_TENSOR_BYTES)
        return bl__fail(p->err, BL_ERR_FORMAT,
                        "%llu metadata pairs and %llu tensors cannot fit in the %zu bytes left",
                        (unsigned long long)n_pairs, (unsigned long long)n_tensors, left);
    if (n_pairs > MAX_PAIRS || n_tensors > MAX_TENSORS)
        return bl__fail(
            p->err, BL_ERR_LIMIT, "%llu metadata pairs and %llu tensors, at most %d and %d allowed",
            (unsigned long long)n_pairs, (unsigned long long)n_tensors, MAX_PAIRS, MAX_TENSORS);
    g->n_pairs = (size_t)n_pairs;
    g->n_tensors = (size_t)n_tensors;
    return BL_OK;
}

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the tables of a GGUF file");
}

static bl_status add_name(bl__names *names, const void *elements, size_t stride, size_t index,
                          const char *part, bl__string name, bl_error *err) {
    switch (bl__names_add(names, elements, stride, index)) {
    case BL_NAMES_ADDED:
        return BL_OK;
    case BL_NAMES_DUPLICATE:
        return bl__fail(err, BL_ERR_FORMAT, "%s '%.*s' appears twice", part, SHOW(name));
    case BL_NAMES_CROWDED:
        return bl__fail(err, BL_ERR_LIMIT, "%s '%.*s' collides with too many others", part,
                        SHOW(name));
    case BL_NAMES_NO_MEMORY:
        break;
    }
    return no_memory(err);
}

static bl_status parse_pairs(parser *p, bl__gguf *g, storage *s) {
    parser counting = *p;
    bl__gguf_pair pair;
    bl_status status = BL_OK;
    for (size_t i = 0; i < g->n_pairs && !status; i++)
        status = parse_pair(&counting, &pair);
    if (status)
        return status;
    g->pairs = bl__malloc_array(g->n_pairs, sizeof *g->pairs);
    s->strings = bl__malloc_array(counting.n_strings, sizeof *s->strings);
    s->items = bl__malloc_array(counting.n_items, sizeof *s->items);
    if (!g->pairs || !s->strings || !s->items || !bl__names_reserve(&s->keys, g->n_pairs))
        return no_memory(p->err);
    p->strings = s->strings;
    p->items = s->items;
    for (size_t i = 0; i < g->n_pairs && !status; i++)
        if (!(status = parse_pair(p, &g->pairs[i])))
            status =
                add_name(&s->keys, g->pairs, sizeof *g->pairs, i, "key", g->pairs[i].key, p->err);
    return status;
}

static bl_status read_alignment(bl__gguf *g, bl_error *err) {
    g->alignment = DEFAULT_ALIGNMENT;
    bl_status status = bl__gguf_get_u32(g, "general.alignment", false, &g->alignment, err);
    if (status)
        return status;
    if (g->alignment == 0 || (g->alignment & (g->alignment - 1)) || g->alignment > MAX_ALIGNMENT)
        return bl__fail(err, BL_ERR_FORMAT,
                        "general.alignment is %u, expected a power of two up to %d", g->alignment,
                        MAX_ALIGNMENT);
    return BL_OK;
}

static bl_status parse_tensor(parser *p, bl__gguf_tensor *t) {
    uint64_t n_weights = 1;
    size_t weights;
    memset(t, 0, sizeof *t);
    bl_status status = read_name(p, "tensor name", &t->name);
    if (status)
        return status;
    p->part = "tensor";
    if ((status = read_u32(p, "dimension count", &t->n_dims)))
        return status;
    if (t->n_dims > 4)
        return bl__fail(p->err, BL_ERR_FORMAT, "tensor '%.*s': %u dimensions, at most 4 expected",
                        SHOW(t->name), t->n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims && (status = read_u64(p, "dimension", &t->dims[i])))
            return status;
        if (t->dims[i] == 0)
            return bl__fail(p->err, BL_ERR_FORMAT, "tensor '%.*s': dimension %u is 0",
                            SHOW(t->name), i);
        if (__builtin_mul_overflow(n_weights, t->dims[i], &n_weights) || n_weights > INT64_MAX)
            return bl__fail(p->err, BL_ERR_LIMIT, "tensor '%.*s': its dimensions overflow",
                            SHOW(t->name));
    }
    if (__builtin_add_overflow(n_weights, 0, &weights)) /* size_t may be narrower */
        return bl__fail(p->err, BL_ERR_LIMIT, "tensor '%.*s': too large", SHOW(t->name));
    t->cols = (size_t)t->dims[0];
    t->rows = weights / t->cols;
    if ((status = read_u32(p, "type", &t->type_id)))
        return status;
    return read_u64(p, "offset", &t->offset);
}

/* Whether the file has "<name>_scale". */
static bool has_scale(const bl__gguf *g, bl__string name) {
    char scale[256];
    if (name.len + sizeof "_scale" > sizeof scale)
        return false;
    memcpy(scale, name.data, name.len);
    memcpy(scale + name.len, "_scale", sizeof "_scale");
    return bl__gguf_find_tensor(g, scale) != NULL;
}

static bl_status place_tensor(const bl__gguf *g, bl__gguf_tensor *t, const uint8_t *data,
                              size_t len, bl_error *err) {
    size_t section = len - g->data_offset;
    bl_status status = bl__gguf_size_tensor(t, has_scale(g, t->name), err);
    if (status) {
        char prefix[SHOWN + 16];
        snprintf(prefix, sizeof prefix, "tensor '%.*s'", SHOW(t->name));
        bl__error_prefix(err, prefix);
        return status;
    }
    if (t->offset % g->alignment)
        return bl__fail(err, BL_ERR_FORMAT, "tensor '%.*s': offset %llu, expected a multiple of %u",
                        SHOW(t->name), (unsigned long long)t->offset, g->alignment);
    if (t->offset > section || t->bytes > section - (size_t)t->offset)
        return bl__fail(err, BL_ERR_FORMAT,
                        "tensor '%.*s': %zu bytes at offset %llu, the data section has %zu",
                        SHOW(t->name), t->bytes, (unsigned long long)t->offset, section);
    t->data = data + g->data_offset + (size_t)t->offset;
    return BL_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const bl__gguf_tensor *x = *(const bl__gguf_tensor *const *)a;
    const bl__gguf_tensor *y = *(const bl__gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static bl_status check_overlap(const bl__gguf *g, bl_error *err) {
    const bl__gguf_tensor **order = bl__malloc_array(g->n_tensors, sizeof(void *));
    bl_status status = BL_OK;
    if (!order)
        return no_memory(err);
    for (size_t i = 0; i < g->n_tensors; i++)
        order[i] = &g->tensors[i];
    if (g->n_tensors > 1)
        qsort(order, g->n_tensors, sizeof *order, compare_offsets);
    for (size_t i = 1; i < g->n_tensors && !status; i++) {
        const bl__gguf_tensor *a = order[i - 1], *b = order[i];
        if (a->bytes > b->offset - a->offset)
            status = bl__fail(err, BL_ERR_FORMAT,
                              "tensors '%.*s' and '%.*s' overlap: %zu bytes at offset %llu, the "
                              "next at %llu",
                              SHOW(a->name), SHOW(b->name), a->bytes, (unsigned long long)a->offset,
                              (unsigned long long)b->offset);
    }
    bl__free(order);
    return status;
}

static bl_status parse_tensors(parser *p, bl__gguf *g, storage *s) {
    bl_status status = BL_OK;
    if (g->n_tensors > bl__reader_left(&p->r) / MIN_TENSOR_BYTES)
        return bl__fail(p->err, BL_ERR_FORMAT, "%zu tensors cannot fit in the %zu bytes left",
                        g->n_tensors, bl__reader_left(&p->r));
    g->tensors = bl__malloc_array(g->n_tensors, sizeof *g->tensors);
    if (!g->tensors || !bl__names_reserve(&s->tensor_names, g->n_tensors))
        return no_memory(p->err);
    for (size_t i = 0; i < g->n_tensors && !status; i++) {
        bl__gguf_tensor *t = &g->tensors[i];
        if (!(status = parse_tensor(p, t)))
            status =
                add_name(&s->tensor_names, g->tensors, sizeof *t, i, "tensor", t->name, p->err);
    }
    if (status)
        return status;
    /* A file without tensors may end before the padding. */
    if (!bl__align_size(p->r.off, g->alignment, &g->data_offset) || g->data_offset > p->r.len) {
        if (g->n_tensors)
            return bl__fail(p->err, BL_ERR_FORMAT, "the file ends before its data section");
        g->data_offset = p->r.len;
    }
    for (size_t i = 0; i < g->n_tensors && !status; i++)
        status = place_tensor(g, &g->tensors[i], p->r.data, p->r.len, p->err);
    return status ? status : check_overlap(g, p->err);
}

bl_status bl__gguf_parse(const uint8_t *data, size_t len, bl__gguf **out, bl_error *err) {
    parser p = {.r = {.data = data, .len = len}, .err = err};
    bl__gguf *g = bl__calloc(1, sizeof *g);
    storage *s = bl__calloc(1, sizeof *s);
    bl_status status;
    if (!g || !s) {
        bl__free(s);
        bl__free(g);
        return no_memory(err);
    }
    g->storage = s;
    if ((status = parse_header(&p, g)) || (status = parse_pairs(&p, g, s)) ||
        (status = read_alignment(g, err)) || (status = parse_tensors(&p, g, s)))
        goto fail;
    *out = g;
    return BL_OK;
fail:
    bl__gguf_free(g);
    return status;
}

void bl__gguf_free(bl__gguf *gguf) {
    if (!gguf)
        return;
    storage *s = gguf->storage;
    bl__names_free(&s->keys);
    bl__names_free(&s->tensor_names);
    bl__free(s->strings);
    bl__free(s->items);
    bl__free(s);
    bl__free(gguf->pairs);
    bl__free(gguf->tensors);
    bl__free(gguf);
}

const bl__gguf_value *bl__gguf_find(const bl__gguf *gguf, const char *key) {
    const storage *s = gguf->storage;
    size_t at = bl__names_find(&s->keys, gguf->pairs, sizeof *gguf->pairs,
                               (bl__string){.data = key, .len = strlen(key)});
    return at == SIZE_MAX ? NULL : &gguf->pairs[at].value;
}

const bl__gguf_tensor *bl__gguf_find_tensor(const bl__gguf *gguf, const char *name) {
    const storage *s = gguf->storage;
    size_t at = bl__names_find(&s->tensor_names, gguf->tensors, sizeof *gguf->tensors,
                               (bl__string){.data = name, .len = strlen(name)});
    return at == SIZE_MAX ? NULL : &gguf->tensors[at];
}

static const char *value_type_name(bl__gguf_type type) {
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return names[type];
}

/* Finds a value. *value is NULL when it is absent and not required. */
static bl_status get_value(const bl__gguf *gguf, const char *key, bool required,
                           const bl__gguf_value **value, bl_error *err) {
    *value = bl__gguf_find(gguf, key);
    if (*value || !required)
        return BL_OK;
    return bl__fail(err, BL_ERR_NOT_FOUND, "key '%s' is missing", key);
}

static bl_status wrong_type(const char *key, bl__gguf_type found, const char *expected,
                            bl_error *err) {
    return bl__fail(err, BL_ERR_FORMAT, "key '%s' is of type %s, expected %s", key,
                    value_type_name(found), expected);
}

bl_status bl__gguf_get_u32(const bl__gguf *gguf, const char *key, bool required, uint32_t *out,
                           bl_error *err) {
    const bl__gguf_value *value;
    bl_status status = get_value(gguf, key, required, &value, err);
    if (status || !value)
        return status;
    switch (value->type) {
    case BL_GGUF_U8:
    case BL_GGUF_U16:
    case BL_GGUF_U32:
    case BL_GGUF_U64:
        if (value->as.u > UINT32_MAX)
            return bl__fail(err, BL_ERR_FORMAT, "key '%s' is %llu, expected at most %u", key,
                            (unsigned long long)value->as.u, UINT32_MAX);
        break;
    case BL_GGUF_I8:
    case BL_GGUF_I16:
    case BL_GGUF_I32:
    case BL_GGUF_I64:
        if (value->as.i < 0 || value->as.i > UINT32_MAX)
            return bl__fail(err, BL_ERR_FORMAT, "key '%s' is %lld, expected 0 to %u", key,
                            (long long)value->as.i, UINT32_MAX);
        break;
    default:
        return wrong_type(key, value->type, "an integer", err);
    }
    *out = (uint32_t)value->as.u; /* same bits as as.i when not negative */
    return BL_OK;
}

bl_status bl__gguf_get_f32(const bl__gguf *gguf, const char *key, bool required, float *out,
                           bl_error *err) {
    const bl__gguf_value *value;
    bl_status status = get_value(gguf, key, required, &value, err);
    if (status || !value)
        return status;
    if (value->type != BL_GGUF_F32 && value->type != BL_GGUF_F64)
        return wrong_type(key, value->type, "a float", err);
    *out = (float)value->as.f;
    return BL_OK;
}

bl_status bl__gguf_get_bool(const bl__gguf *gguf, const char *key, bool required, bool *out,
                            bl_error *err) {
    const bl__gguf_value *value;
    bl_status status = get_value(gguf, key, required, &value, err);
    if (status || !value)
        return status;
    if (value->type != BL_GGUF_BOOL)
        return wrong_type(key, value->type, "bool", err);
    *out = value->as.u != 0;
    return BL_OK;
}

bl_status bl__gguf_get_string(const bl__gguf *gguf, const char *key, bool required, bl__string *out,
                              bl_error *err) {
    const bl__gguf_value *value;
    bl_status status = get_value(gguf, key, required, &value, err);
    if (status || !value)
        return status;
    if (value->type != BL_GGUF_STRING)
        return wrong_type(key, value->type, "string", err);
    *out = value->as.s;
    return BL_OK;
}
