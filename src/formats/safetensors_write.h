/* Writing safetensors files (see safetensors.h for the format): the header first, then the data of
 * every tensor as they come. */
#ifndef BL_FORMATS_SAFETENSORS_WRITE_H
#define BL_FORMATS_SAFETENSORS_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "bitloom/status.h"
#include "formats/safetensors.h"

typedef struct bl__safetensor_spec {
    const char *name;
    bl__dtype dtype;
    uint32_t n_dims;
    uint64_t dims[BL_SAFETENSORS_MAX_DIMS]; /* last one contiguous */
} bl__safetensor_spec;

/* One entry of __metadata__. */
typedef struct bl__safetensors_note {
    const char *key, *value; /* UTF-8 */
} bl__safetensors_note;

/* Writes the header; the caller then writes the data of tensors[n] in this order, without gaps,
 * and commits. Data begin at a multiple of 8 bytes. Errors: BL_ERR_ARGUMENT (a name given twice or
 * not UTF-8, sizes that overflow), BL_ERR_IO, BL_ERR_MEMORY. */
bl_status bl__safetensors_begin(bl__outfile *file, const bl__safetensor_spec *tensors, size_t n,
                                const bl__safetensors_note *notes, size_t n_notes, bl_error *err);

#endif
