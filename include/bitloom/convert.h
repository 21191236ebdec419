/* Checkpoints into GGUF, streaming: one tensor in memory at a time. */
#ifndef BITLOOM_CONVERT_H
#define BITLOOM_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_convert_params {
    const char *type;       /* layout of the linear weights: "native" (NULL means that), "bl_t2",
                               "i2_s", "tq1_0", "tq2_0", "iq1_bn", "iq2_bn", "f16", "bf16", "f32" */
    const char *embed_type; /* layout of embedding and head: NULL = as stored, "f32", "f16", "bf16",
                               "q8_0" */
    uint32_t n_threads;     /* 0 = all physical cores */
    /* Called after each tensor; returns false to cancel. May be NULL. */
    bool (*progress)(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                     uint64_t n_bytes);
    void *user;
} bl_convert_params;

typedef struct bl_convert_report {
    size_t n_tensors;
    uint64_t input_bytes, output_bytes; /* tensor data read and file written */
    uint64_t n_ternary_weights;         /* weights written as -1, 0, +1 */
    uint64_t largest_tensor_bytes;      /* bounds the memory used */
} bl_convert_report;

/* Converts a Hugging Face directory or a GGUF file to the GGUF file `output`, written beside it
 * and renamed when whole. params and report may be NULL.
 * Errors: whatever reading gives; BL_ERR_UNSUPPORTED by name for what would not convert exactly
 * (several scales in a tensor for i2_s, columns not divisible by the block of the type). */
bl_status bl_convert(const char *input, const char *output, const bl_convert_params *params,
                     bl_convert_report *report, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
