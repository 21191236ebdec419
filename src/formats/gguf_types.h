/* GGUF tensor types that Bitloom can name and size but not unpack. */
#ifndef BL_FORMATS_GGUF_TYPES_H
#define BL_FORMATS_GGUF_TYPES_H

#include <stdint.h>

#include "formats/gguf.h"

/* Fills type_name, layout and bytes of a tensor from its type_id, rows and cols. has_scale: the
 * file holds "<name>_scale" beside it, which tells TL2 from MXFP4 (both are type 39).
 * Errors: BL_ERR_UNSUPPORTED for an unknown id, BL_ERR_FORMAT when the columns do not divide,
 * BL_ERR_LIMIT. They do not name the tensor. */
bl_status bl__gguf_size_tensor(bl__gguf_tensor *tensor, bool has_scale, bl_error *err);

#endif
