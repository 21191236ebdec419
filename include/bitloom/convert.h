/* Checkpoints into GGUF, streaming: the input is mapped, and beside it there are a few rows a
 * thread in memory (about 4 MB a thread for rows of up to 4,096 weights), whatever the size of a
 * tensor. */
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
                               "bl_t5", "bl_b1", "i2_s", "tq1_0", "tq2_0", "iq1_bn", "iq2_bn", "f16",
                               "bf16", "f32" */
    const char *embed_type; /* layout of embedding and head: NULL = as stored, "f32", "f16", "bf16",
                               "q8_0" */
    uint32_t n_threads;     /* 0 = all physical cores */
    bool known_answer;      /* run the model when it is written, and keep in the file what it says
                               for bl_verify(); a GGUF file's own answer is kept otherwise */
    bool i2_s_arm;          /* i2_s tensors of the input are in the order of ARM builds */
    /* Called every few megabytes; returns false to cancel. May be NULL. */
    bool (*progress)(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                     uint64_t n_bytes);
    void *user;
} bl_convert_params;

typedef struct bl_convert_report {
    size_t n_tensors;
    uint64_t input_bytes, output_bytes; /* tensor data read and file written */
    uint64_t n_ternary_weights;         /* weights written as -1, 0, +1 */
    uint64_t largest_tensor_bytes;      /* of the input's tensors */
} bl_convert_report;

/* Converts a Hugging Face directory or a GGUF file to the GGUF file `output`, written beside it
 * and renamed when whole. It has checksums of all its bytes, for bl_verify(). params and report may
 * be NULL.
 *
 * Ternary weights stay the same -1, 0, +1 whatever the type. Their scale is rounded where the type
 * has less for it: to float16 in tq1_0, tq2_0 and iq1_bn, to the weights' own type in f16 and bf16.
 * "native" is for matrices that are ternary with one scale a row; others stay as they are. It is
 * bl_b1 (1 bit) for those without zeros; for all others bl_t2 (2 bits) in models whose linears have
 * up to 134 million weights, which stay in a large cache, and in larger ones bl_t5 (1.6 bits), or
 * bl_t2 where n_threads threads of this machine are measured to read it faster.
 * Master weights (f32, f16, bf16) of models that quantize on loading become ternary by the rule
 * they were trained with, arXiv 2402.17764 eq. 1-3.
 *
 * Errors: whatever reading gives; BL_ERR_NOT_FOUND and BL_ERR_FORMAT naming a tensor of the
 * checkpoint; BL_ERR_UNSUPPORTED, naming the tensor and what is possible instead, for what would
 * not convert exactly (several scales in a tensor for i2_s, columns that the type's block does not
 * divide, weights that are not ternary, matrices of a GGUF file that f16 or bf16 would round);
 * BL_ERR_CANCELLED. Nothing is left behind then, and an older file at `output` stays. */
bl_status bl_convert(const char *input, const char *output, const bl_convert_params *params,
                     bl_convert_report *report, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
