/* Models of random weights in the shapes of published ones: speed, memory and files can be measured
 * without a download. */
#ifndef BITLOOM_DUMMY_H
#define BITLOOM_DUMMY_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/convert.h"
#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A network with gated feed-forward layers and a tied head. */
typedef struct bl_dummy_shape {
    char name[64]; /* "700M", or the sizes as they were given */
    uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, vocab, context;
} bl_dummy_shape;

/* The shapes that have names, smallest first; *n receives how many. Sources: arXiv 2410.16144 (the
 * models of its speed tables), 2310.11453, 2402.17764, 2504.12285. */
const bl_dummy_shape *bl_dummy_shapes(size_t *n);

/* Reads a name, in capitals or not, or LAYERSxDIMxFFN, LAYERSxDIMxFFNxHEADS or
 * LAYERSxDIMxFFNxHEADSxKV_HEADS. Without heads, they have 128 elements, or the next smaller power
 * of two that divides dim; with HEADS alone each has its own keys and values.
 * Errors: BL_ERR_ARGUMENT, saying what is possible. */
bl_status bl_dummy_shape_read(const char *text, bl_dummy_shape *out, bl_error *err);

typedef struct bl_dummy_params {
    bl_dummy_shape shape;
    const char *type;       /* layout of the linear weights; NULL or "native": what
                               bl_convert() would choose for ternary ones */
    const char *embed_type; /* layout of the embedding, which is the head too; NULL = "f16" */
    uint64_t seed;
    uint32_t n_threads; /* 0 = all physical cores; the file does not depend on it */
    /* As in bl_convert_params. */
    bool (*progress)(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                     uint64_t n_bytes);
    void *user;
} bl_dummy_params;

typedef struct bl_dummy_report {
    size_t n_tensors;
    uint64_t n_weights, output_bytes;
} bl_dummy_report;

/* Writes a GGUF file, a few rows at a time whatever its size; it appears when it is whole.
 * Ternary and binary types give a BitNet with sub-norms (squared ReLU for 2B4T, else SiLU), all
 * others its full-precision twin of LLaMA's kind. Every matrix has one magnitude. The vocabulary is
 * bytes, filled up with unused tokens. report may be NULL.
 * Errors: BL_ERR_ARGUMENT (a type that is not known, sizes that do not fit each other or the
 * type), BL_ERR_UNSUPPORTED (a type that cannot be written), BL_ERR_IO (too little room on the
 * disk, found before anything is written), BL_ERR_CANCELLED, BL_ERR_MEMORY. */
bl_status bl_dummy_write(const char *output, const bl_dummy_params *params, bl_dummy_report *report,
                         bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
