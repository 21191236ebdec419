/* Private to compress/: the model file that finished layers become. */
#ifndef BL_COMPRESS_OUTPUT_H
#define BL_COMPRESS_OUTPUT_H

#include "compress/state.h"

/* Writes `output` from the model's file and the state's layers: metadata and other tensors as they
 * are, linears in the layout `dense`, or as signs where that is BL_LAYOUT_COUNT. */
bl_status bl__compress_write(const bl_model *model, const bl__state *state, const char *output,
                             bl__layout dense, uint64_t *file_bytes, bl_error *err);

/* Whether a tensor is one of the matrices of a layer. */
bool bl__is_compressed(bl__string name, size_t n_layers);

#endif
