/* What is in a model file. */
#ifndef BITLOOM_INSPECT_H
#define BITLOOM_INSPECT_H

#include <stddef.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Describes a GGUF file as JSON: {"path", "bytes", "version", "alignment", "metadata": {...},
 * "tensors": [{"name", "type", "shape": [rows, cols], "bytes", "bits_per_weight",
 * "zeros" (share, ternary only)}], "totals": {...}}. A tensor's bits count the scales of rows and
 * columns that are tensors of their own, as totals.linears does for all layers' matrices;
 * totals.file_bits_per_weight is the whole file's. Arrays of more than 16 elements in the
 * metadata are given as {"type", "length"}. *json is allocated (bl_free), NUL-terminated. */
bl_status bl_inspect(const char *path, char **json, size_t *len, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
