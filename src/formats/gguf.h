/* GGUF files, versions 2 and 3, from bytes; and a version 3 writer.
 * Source: ggml docs/gguf.md. Every size is checked against the bytes there are. */
#ifndef BL_FORMATS_GGUF_H
#define BL_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "bitloom/status.h"
#include "formats/names.h"
#include "quant/quant.h"

typedef enum bl__gguf_type {
    BL_GGUF_U8 = 0,
    BL_GGUF_I8 = 1,
    BL_GGUF_U16 = 2,
    BL_GGUF_I16 = 3,
    BL_GGUF_U32 = 4,
    BL_GGUF_I32 = 5,
    BL_GGUF_F32 = 6,
    BL_GGUF_BOOL = 7,
    BL_GGUF_STRING = 8,
    BL_GGUF_ARRAY = 9,
    BL_GGUF_U64 = 10,
    BL_GGUF_I64 = 11,
    BL_GGUF_F64 = 12
} bl__gguf_type;

typedef struct bl__gguf_value bl__gguf_value;
struct bl__gguf_value {
    bl__gguf_type type;
    union {
        uint64_t u; /* U8 ... U64, BOOL */
        int64_t i;  /* I8 ... I64 */
        double f;   /* F32, F64 */
        bl__string s;
        struct {
            bl__gguf_type type; /* of the elements */
            size_t count;
            const uint8_t *data;         /* elements of fixed size, little-endian, unaligned */
            const bl__string *strings;   /* for arrays of strings */
            const bl__gguf_value *items; /* for arrays of arrays */
        } array;
    } as;
};

typedef struct bl__gguf_pair {
    bl__string key;
    bl__gguf_value value;
} bl__gguf_pair;

typedef struct bl__gguf_tensor {
    bl__string name;
    uint32_t n_dims;
    uint64_t dims[4];  /* ggml order: dims[0] = columns (contiguous); unused ones are 1 */
    size_t rows, cols; /* cols = dims[0], rows = product of the others */
    uint32_t type_id;
    const char *type_name; /* also for known types that we cannot unpack; never NULL */
    bl__layout layout;     /* BL_LAYOUT_COUNT for such types */
    const uint8_t *data;   /* inside the bytes given */
    size_t bytes;
    uint64_t offset; /* from the start of the data section */
} bl__gguf_tensor;

typedef struct bl__gguf {
    uint32_t version, alignment;
    size_t n_pairs, n_tensors;
    bl__gguf_pair *pairs;
    bl__gguf_tensor *tensors;
    size_t data_offset; /* where the data section starts in the file */
    /* private: lookup tables and storage */
    void *storage;
} bl__gguf;

/* Parses data[len], which is borrowed and must outlive *out. Checks everything: types, counts,
 * duplicates of keys and names, offsets aligned, inside the file and not overlapping.
 * Errors: BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (version, an unknown tensor type, by name or id),
 * BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__gguf_parse(const uint8_t *data, size_t len, bl__gguf **out, bl_error *err);
void bl__gguf_free(bl__gguf *gguf);

/* Both lookups take constant time; NULL when absent. */
const bl__gguf_value *bl__gguf_find(const bl__gguf *gguf, const char *key);
const bl__gguf_tensor *bl__gguf_find_tensor(const bl__gguf *gguf, const char *name);

/* Typed reading. An absent key leaves *out alone and is BL_OK unless `required`
 * (BL_ERR_NOT_FOUND); a value of another type or out of range is BL_ERR_FORMAT. Any integer type
 * is accepted for integers, F32 and F64 for floats. */
bl_status bl__gguf_get_u32(const bl__gguf *gguf, const char *key, bool required, uint32_t *out,
                           bl_error *err);
bl_status bl__gguf_get_f32(const bl__gguf *gguf, const char *key, bool required, float *out,
                           bl_error *err);
bl_status bl__gguf_get_bool(const bl__gguf *gguf, const char *key, bool required, bool *out,
                            bl_error *err);
bl_status bl__gguf_get_string(const bl__gguf *gguf, const char *key, bool required, bl__string *out,
                              bl_error *err);

/* Writer: declare every pair and tensor, begin, then write the tensors' bytes in the order of
 * declaration; each may come in pieces. */
typedef struct bl__gguf_writer bl__gguf_writer;
bl_status bl__gguf_writer_create(bl__gguf_writer **out, bl_error *err);
void bl__gguf_writer_free(bl__gguf_writer *writer);
/* Setting a key twice is BL_ERR_ARGUMENT. */
bl_status bl__gguf_set_u32(bl__gguf_writer *writer, const char *key, uint32_t value, bl_error *err);
bl_status bl__gguf_set_f32(bl__gguf_writer *writer, const char *key, float value, bl_error *err);
bl_status bl__gguf_set_bool(bl__gguf_writer *writer, const char *key, bool value, bl_error *err);
bl_status bl__gguf_set_string(bl__gguf_writer *writer, const char *key, const char *text,
                              size_t len, bl_error *err);
bl_status bl__gguf_set_strings(bl__gguf_writer *writer, const char *key, const bl__string *strings,
                               size_t count, bl_error *err);
bl_status bl__gguf_set_i32s(bl__gguf_writer *writer, const char *key, const int32_t *values,
                            size_t count, bl_error *err);
bl_status bl__gguf_set_f32s(bl__gguf_writer *writer, const char *key, const float *values,
                            size_t count, bl_error *err);
/* Copies any value, nested arrays included. */
bl_status bl__gguf_set_value(bl__gguf_writer *writer, const char *key, const bl__gguf_value *value,
                             bl_error *err);
/* dims in ggml order; the size follows from the layout (rows = product of dims[1...]). */
bl_status bl__gguf_add_tensor(bl__gguf_writer *writer, const char *name, uint32_t n_dims,
                              const uint64_t *dims, bl__layout layout, bl_error *err);
/* Writes checksums of everything (formats/checksum.h), taken while it is written. Before begin. */
bl_status bl__gguf_writer_checksums(bl__gguf_writer *writer, bl_error *err);
bl_status bl__gguf_writer_begin(bl__gguf_writer *writer, bl__outfile *file, bl_error *err);
bl_status bl__gguf_write_data(bl__gguf_writer *writer, const void *data, size_t len, bl_error *err);
/* Checks that every declared byte was written; pads the end. The caller commits the file. */
bl_status bl__gguf_writer_finish(bl__gguf_writer *writer, bl_error *err);
/* After finish: replaces the elements of an array of numbers, or the number, that was set for the
 * key, by as many: data[len]. */
bl_status bl__gguf_writer_replace(bl__gguf_writer *writer, const char *key, const void *data,
                                  size_t len, bl_error *err);

#endif
