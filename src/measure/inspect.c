/* Owns the description of a model file: what its metadata says and what its tensors hold, counted
 * weight by weight. Must not know what a model does with them. */
#include "bitloom/inspect.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "bitloom/system.h"
#include "formats/gguf.h"
#include "measure/tensor_stats.h"
#include "quant/quant.h"
#include "tokenizer/utf8.h"

enum { MAX_LISTED = 16, JSON_DIGITS = 15, MAX_NAME = 256 };

/* ---- Metadata ---- */

/* A JSON string; bytes that are not UTF-8 become U+FFFD. */
static json_t *make_string(bl__string s) {
    bl__buffer text = bl__buffer_make(SIZE_MAX);
    json_t *json = json_stringn(s.data, s.len);
    if (json)
        return json;
    for (size_t i = 0; i < s.len;) {
        bool cut;
        size_t bad, n = bl__utf8_char(s.data + i, s.len - i, &bad, &cut);
        if (n)
            bl__buffer_append(&text, s.data + i, n);
        else
            bl__buffer_puts(&text, "\xef\xbf\xbd");
        i += n ? n : bad;
    }
    if (!text.failed)
        json = json_stringn(text.data, text.len);
    bl__buffer_free(&text);
    return json;
}

/* The number with the fewest digits that is this float; null for NaN and infinity. */
static json_t *make_float(float f) {
    char text[32];
    if (!isfinite(f))
        return json_null();
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f)
            break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *make_unsigned(uint64_t u) {
    return u <= INT64_MAX ? json_integer((json_int_t)u) : json_real((double)u);
}

static const char *type_name(bl__gguf_type type) {
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return (size_t)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

/* Element i of an array of numbers. */
static json_t *make_element(bl__gguf_type type, const uint8_t *data, size_t i) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        int64_t i64;
        double f64;
    } v;
#define ELEMENT(member) memcpy(&v.member, data + i * sizeof v.member, sizeof v.member)
    switch (type) {
    case BL_GGUF_U8:
        return ELEMENT(u8), json_integer(v.u8);
    case BL_GGUF_I8:
        return ELEMENT(i8), json_integer(v.i8);
    case BL_GGUF_U16:
        return ELEMENT(u16), json_integer(v.u16);
    case BL_GGUF_I16:
        return ELEMENT(i16), json_integer(v.i16);
    case BL_GGUF_U32:
        return ELEMENT(u32), json_integer(v.u32);
    case BL_GGUF_I32:
        return ELEMENT(i32), json_integer(v.i32);
    case BL_GGUF_F32:
        return ELEMENT(f32), make_float(v.f32);
    case BL_GGUF_BOOL:
        return ELEMENT(u8), json_boolean(v.u8);
    case BL_GGUF_U64:
        return ELEMENT(u64), make_unsigned(v.u64);
    case BL_GGUF_I64:
        return ELEMENT(i64), json_integer(v.i64);
    case BL_GGUF_F64:
        return ELEMENT(f64), isfinite(v.f64) ? json_real(v.f64) : json_null();
    case BL_GGUF_STRING:
    case BL_GGUF_ARRAY:
        break;
    }
#undef ELEMENT
    return json_null();
}

static json_t *make_value(const bl__gguf_value *value);

static json_t *make_array(const bl__gguf_value *value) {
    size_t count = value->as.array.count;
    bl__gguf_type type = value->as.array.type;
    if (count > MAX_LISTED)
        return json_pack("{s:s, s:I}", "type", type_name(type), "length", (json_int_t)count);
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++) {
        json_t *item = type == BL_GGUF_STRING  ? make_string(value->as.array.strings[i])
                       : type == BL_GGUF_ARRAY ? make_value(&value->as.array.items[i])
                                               : make_element(type, value->as.array.data, i);
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *make_value(const bl__gguf_value *value) {
    switch (value->type) {
    case BL_GGUF_STRING:
        return make_string(value->as.s);
    case BL_GGUF_ARRAY:
        return make_array(value);
    case BL_GGUF_BOOL:
        return json_boolean(value->as.u != 0);
    case BL_GGUF_F32:
        return make_float((float)value->as.f);
    case BL_GGUF_F64:
        return isfinite(value->as.f) ? json_real(value->as.f) : json_null();
    case BL_GGUF_I8:
    case BL_GGUF_I16:
    case BL_GGUF_I32:
    case BL_GGUF_I64:
        return json_integer(value->as.i);
    default:
        return make_unsigned(value->as.u);
    }
}

static json_t *make_metadata(const bl__gguf *gguf) {
    json_t *metadata = json_object();
    for (size_t i = 0; metadata && i < gguf->n_pairs; i++) {
        json_t *key = make_string(gguf->pairs[i].key);
        int failed =
            !key || json_object_setn_new(metadata, json_string_value(key), json_string_length(key),
                                         make_value(&gguf->pairs[i].value)) != 0;
        json_decref(key);
        if (failed) {
            json_decref(metadata);
            return NULL;
        }
    }
    return metadata;
}

/* ---- Tensors ---- */

/* Whether a tensor is the matrix of a layer's linear: "blk.N.NAME.weight" of two dimensions. */
static bool is_linear(const bl__gguf_tensor *t) {
    static const char prefix[] = "blk.", suffix[] = ".weight";
    size_t n = sizeof suffix - 1;
    return t->n_dims == 2 && t->name.len >= sizeof prefix - 1 + n &&
           memcmp(t->name.data, prefix, sizeof prefix - 1) == 0 &&
           memcmp(t->name.data + t->name.len - n, suffix, n) == 0;
}

/* Bytes of the scales that belong to a linear's weights as tensors of their own. */
static uint64_t scale_bytes(const bl__gguf *gguf, const bl__gguf_tensor *t) {
    static const char *const kinds[] = {"in_scale", "scale"};
    uint64_t bytes = 0;
    for (size_t i = 0; is_linear(t) && i < sizeof kinds / sizeof *kinds; i++) {
        char name[MAX_NAME];
        int stem = (int)(t->name.len - strlen("weight"));
        int n = snprintf(name, sizeof name, "%.*s%s", stem, t->name.data, kinds[i]);
        const bl__gguf_tensor *scale =
            n < (int)sizeof name ? bl__gguf_find_tensor(gguf, name) : NULL;
        bytes += scale ? scale->bytes : 0;
    }
    return bytes;
}

/* What was counted in the rows of ternary tensors. */
typedef struct counts {
    uint64_t weights, zeros, minus, plus;
    uint64_t bad_rows; /* rows with codes or scales that the layout does not define */
} counts;

static void add_counts(counts *sum, const counts *c) {
    sum->weights += c->weights;
    sum->zeros += c->zeros;
    sum->minus += c->minus;
    sum->plus += c->plus;
    sum->bad_rows += c->bad_rows;
}

static bl_status count_tensor(const bl__gguf_tensor *tensor, bl__pool *pool, counts *out,
                              bl_error *err) {
    bl__tensor_stats stats;
    bl_status status = bl__tensor_stats_count(tensor, 0, pool, &stats, err);
    if (!status)
        *out = (counts){.weights = stats.weights,
                        .zeros = bl__tensor_stats_zeros(&stats),
                        .minus = stats.minus,
                        .plus = stats.plus,
                        .bad_rows = stats.bad_codes + stats.bad_numbers};
    return status;
}

/* ---- The document ---- */

static double share(uint64_t part, uint64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

/* Adds the shares of -1, 0, +1; false when memory is short. */
static bool set_shares(json_t *object, const counts *c) {
    return json_object_set_new(object, "zeros", json_real(share(c->zeros, c->weights))) == 0 &&
           json_object_set_new(object, "minus", json_real(share(c->minus, c->weights))) == 0 &&
           json_object_set_new(object, "plus", json_real(share(c->plus, c->weights))) == 0 &&
           json_object_set_new(object, "impossible_rows", make_unsigned(c->bad_rows)) == 0;
}

/* Sums over tensors: all, or those of one type. */
typedef struct totals {
    const char *type;
    uint64_t tensors, weights, bytes;
} totals;

static void add_tensor(totals *sum, const bl__gguf_tensor *t) {
    sum->tensors++;
    sum->weights += (uint64_t)t->rows * t->cols;
    sum->bytes += t->bytes;
}

static json_t *make_totals(const totals *t) {
    return json_pack("{s:I, s:I, s:I, s:f}", "tensors", (json_int_t)t->tensors, "weights",
                     (json_int_t)t->weights, "bytes", (json_int_t)t->bytes, "bits_per_weight",
                     8 * share(t->bytes, t->weights));
}

/* A weight's bits are those of the tensor and of the scales that belong to it. */
static json_t *make_tensor(const bl__gguf_tensor *t, uint64_t scales, const counts *c) {
    json_t *shape = json_array();
    for (uint32_t i = t->n_dims; i > 0; i--)
        json_array_append_new(shape, make_unsigned(t->dims[i - 1]));
    json_t *json =
        json_pack("{s:o, s:s, s:o, s:I, s:f}", "name", make_string(t->name), "type", t->type_name,
                  "shape", shape, "bytes", (json_int_t)t->bytes, "bits_per_weight",
                  8 * share(t->bytes + scales, (uint64_t)t->rows * t->cols));
    if (json && c && !set_shares(json, c)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* Everything found about the tensors. */
typedef struct survey {
    json_t *tensors;
    totals all, linears, ternary,
        types[64]; /* a type for each that occurs; those beyond 64 in `all` only */
    size_t n_types;
    counts counted;
} survey;

static void count_type(survey *s, const bl__gguf_tensor *t) {
    size_t i = 0;
    while (i < s->n_types && strcmp(s->types[i].type, t->type_name) != 0)
        i++;
    if (i == sizeof s->types / sizeof *s->types)
        return;
    if (i == s->n_types)
        s->types[s->n_types++] = (totals){.type = t->type_name};
    add_tensor(&s->types[i], t);
}

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the description");
}

static bl_status survey_tensors(const bl__gguf *gguf, bl__pool *pool, survey *s, bl_error *err) {
    if (!(s->tensors = json_array()))
        return no_memory(err);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const bl__gguf_tensor *t = &gguf->tensors[i];
        bool ternary = t->layout != BL_LAYOUT_COUNT && bl__layout_get(t->layout)->ternary;
        counts c;
        if (ternary) {
            bl_status status = count_tensor(t, pool, &c, err);
            if (status)
                return status;
            add_counts(&s->counted, &c);
            add_tensor(&s->ternary, t);
        }
        add_tensor(&s->all, t);
        count_type(s, t);
        uint64_t scales = scale_bytes(gguf, t);
        if (is_linear(t)) {
            add_tensor(&s->linears, t);
            s->linears.bytes += scales;
        }
        if (json_array_append_new(s->tensors, make_tensor(t, scales, ternary ? &c : NULL)) != 0)
            return no_memory(err);
    }
    return BL_OK;
}

static json_t *make_all_totals(const survey *s, size_t file_bytes) {
    json_t *json = make_totals(&s->all), *types = json_object(), *ternary;
    bool whole = json && types &&
                 json_object_set_new(json, "file_bits_per_weight",
                                     json_real(8 * share(file_bytes, s->all.weights))) == 0;
    if (whole && s->linears.tensors)
        whole = json_object_set_new(json, "linears", make_totals(&s->linears)) == 0;
    for (size_t i = 0; whole && i < s->n_types; i++)
        whole = json_object_set_new(types, s->types[i].type, make_totals(&s->types[i])) == 0;
    if (whole && s->ternary.tensors) {
        ternary = make_totals(&s->ternary);
        whole = ternary && set_shares(ternary, &s->counted) &&
                json_object_set(json, "ternary", ternary) == 0;
        json_decref(ternary);
    }
    if (whole && json_object_set(json, "types", types) == 0) {
        json_decref(types);
        return json;
    }
    json_decref(types);
    json_decref(json);
    return NULL;
}

/* Takes over s->tensors. */
static json_t *make_document(const char *path, size_t bytes, const bl__gguf *gguf, survey *s) {
    json_t *tensors = s->tensors;
    s->tensors = NULL;
    return json_pack("{s:o, s:I, s:i, s:i, s:o, s:o, s:o}", "path",
                     make_string((bl__string){.data = path, .len = strlen(path)}), "bytes",
                     (json_int_t)bytes, "version", (int)gguf->version, "alignment",
                     (int)gguf->alignment, "metadata", make_metadata(gguf), "tensors", tensors,
                     "totals", make_all_totals(s, bytes));
}

/* Serializes with memory that bl_free() takes. */
static bl_status dump_document(const json_t *document, char **json, size_t *len, bl_error *err) {
    size_t flags = JSON_INDENT(1) | JSON_REAL_PRECISION(JSON_DIGITS);
    size_t n = json_dumpb(document, NULL, 0, flags);
    char *text = n ? bl__malloc(n + 1) : NULL;
    if (!text || json_dumpb(document, text, n, flags) != n) {
        bl__free(text);
        return no_memory(err);
    }
    text[n] = '\0';
    *json = text;
    *len = n;
    return BL_OK;
}

bl_status bl_inspect(const char *path, char **json, size_t *len, bl_error *err) {
    bl__filemap map = {0};
    bl__gguf *gguf = NULL;
    bl__pool *pool = NULL;
    json_t *document = NULL;
    survey s = {0};
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status;
    if ((status = bl__gguf_parse(map.data, map.len, &gguf, err))) {
        bl__error_prefix(err, path);
        goto done;
    }
    if ((status = bl__pool_create(bl_cpu_physical_cores(), false, &pool, err)) ||
        (status = survey_tensors(gguf, pool, &s, err)))
        goto done;
    document = make_document(path, map.len, gguf, &s);
    status = document ? dump_document(document, json, len, err) : no_memory(err);
done:
    json_decref(document);
    json_decref(s.tensors);
    bl__pool_free(pool);
    bl__gguf_free(gguf);
    bl__filemap_close(&map);
    return status;
}
