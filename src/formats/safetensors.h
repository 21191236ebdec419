/* safetensors files from bytes, and the tensors of a whole Hugging Face checkpoint.
 * Source: github.com/huggingface/safetensors, "Format". A file is
 *
 *     u64 n                    little-endian, at most 100,000,000
 *     char header[n]           JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}}
 *     uint8_t data[]           covered by the tensors without gap or overlap
 *
 * Shapes are as PyTorch has them: the last dimension is contiguous. Data need not be aligned. */
#ifndef BL_FORMATS_SAFETENSORS_H
#define BL_FORMATS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "formats/names.h"

typedef enum bl__dtype {
    BL_DTYPE_F64,
    BL_DTYPE_F32,
    BL_DTYPE_F16,
    BL_DTYPE_BF16,
    BL_DTYPE_I64,
    BL_DTYPE_I32,
    BL_DTYPE_I16,
    BL_DTYPE_I8,
    BL_DTYPE_U8,
    BL_DTYPE_BOOL
} bl__dtype;

const char *bl__dtype_name(bl__dtype dtype); /* "BF16" */
size_t bl__dtype_bytes(bl__dtype dtype);     /* of one element */

enum { BL_SAFETENSORS_MAX_DIMS = 8 };

typedef struct bl__safetensor {
    bl__string name; /* NUL-terminated too */
    bl__dtype dtype;
    uint32_t n_dims; /* 0 for a scalar */
    uint64_t dims[BL_SAFETENSORS_MAX_DIMS];
    size_t n_elements; /* product of dims; may be 0 */
    const uint8_t *data;
    size_t bytes;
} bl__safetensor;

typedef struct bl__safetensors {
    size_t n_tensors;
    bl__safetensor *tensors; /* in the order of their data */
    bl__names names;         /* private, as are the next two */
    char *name_text;
    void *metadata;
} bl__safetensors;

/* Parses data[len], which is borrowed and must outlive *out.
 * Errors: BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (a dtype, by name), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__safetensors_parse(const uint8_t *data, size_t len, bl__safetensors **out,
                                bl_error *err);
void bl__safetensors_free(bl__safetensors *file);
/* Constant time; NULL when absent. */
const bl__safetensor *bl__safetensors_find(const bl__safetensors *file, const char *name);

/* The text under a key of the file's __metadata__, NUL-terminated and borrowed; NULL when absent.
 */
const char *bl__safetensors_metadata(const bl__safetensors *file, const char *key);

/* The tensors of a checkpoint: one file, or shards named by model.safetensors.index.json. The
 * files stay mapped while it is open, and must not be changed. */
typedef struct bl__tensor_set {
    size_t n_tensors;
    const bl__safetensor *tensors; /* shard after shard, each in the order of its data */
    void *storage;                 /* private */
} bl__tensor_set;

/* Opens a directory (model.safetensors, else the index and its shards) or one .safetensors file.
 * Errors name the file: BL_ERR_NOT_FOUND (no checkpoint, a missing shard), BL_ERR_FORMAT (a
 * tensor that is not in the shard the index gives, or in two), and those of parsing. */
bl_status bl__tensor_set_open(const char *path, bl__tensor_set **out, bl_error *err);
void bl__tensor_set_close(bl__tensor_set *set);
const bl__safetensor *bl__tensor_set_find(const bl__tensor_set *set, const char *name);
/* Tells the system that a tensor's pages are not needed soon, so that streaming through a
 * checkpoint keeps little of it in memory. The data stay valid. */
void bl__tensor_set_release(const bl__safetensor *tensor);

#endif
