/* Models made about 1 bit after training: each matrix becomes signs and few scales, so that what it
 * gives on a calibration text changes least. docs/compress.md has the maths of each method. */
#ifndef BITLOOM_COMPRESS_H
#define BITLOOM_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_compress_method {
    const char *name, *summary;
    bool calibrated; /* needs a calibration text */
} bl_compress_method;

/* The methods, in the order of the field's history; n of them. */
const bl_compress_method *bl_compress_methods(size_t *n);

/* How far a compression is. */
typedef struct bl_compress_progress {
    size_t layer, n_layers, n_resumed; /* n_resumed: layers that an earlier run had finished */
    const char *doing;                 /* "calibrating", "attn_q", "writing" ... */
    double share;                      /* of all work, 0 ... 1 */
    double seconds, seconds_left;      /* of this run; left: by its speed so far */
} bl_compress_progress;

typedef struct bl_compress_params {
    const char *method; /* a name of bl_compress_methods(); NULL = "arb-h" */
    bool released; /* billm, arb, arb-rc: as the authors' code, where it differs from the paper */
    bool follow;   /* each matrix is to give what the float model would give there, not what
                      its own weights would on the compressed ones' outputs; takes twice the
                      pass and its memory */
    const char *dense;  /* "f32", "f16": weights as the signs say, in that layout; NULL = as signs,
                           which needs a method that has them */
    uint32_t n_samples; /* of the calibration text; 0 = 128 */
    uint32_t length;    /* tokens of a sample; 0 = 2048, or the model's context if that is less */
    uint64_t seed;      /* of the samples' places in the text */
    double damping;     /* of Hessians, as a share of their mean diagonal; 0 = 0.01 */
    uint32_t n_threads; /* 0 = all physical cores */
    const char *state;  /* directory of finished layers, for going on after an interruption;
                           NULL = OUTPUT.parts */
    bool keep_state;    /* leave it when all is done */
    /* Called after each sample and matrix; returns false to cancel. May be NULL. */
    bool (*progress)(void *user, const bl_compress_progress *progress);
    void *user;
} bl_compress_params;

typedef struct bl_compress_matrix {
    char name[64]; /* of the tensor */
    uint64_t rows, cols;
    double error;        /* relative: |X (W - W')^T|^2 / |X W^T|^2 over the calibration text; of
                            weights alone without one */
    double nominal_bits; /* a weight, as papers count */
    double true_bits;    /* a weight, everything that is stored counted */
    double salient;      /* share of salient columns */
    uint32_t dead;       /* columns that the calibration text never touched */
    uint32_t damped;     /* times that damping was raised tenfold */
} bl_compress_matrix;

typedef struct bl_compress_report {
    size_t n_matrices;
    bl_compress_matrix *matrices;   /* in the order of layers */
    uint64_t n_weights;             /* in these matrices */
    double error;                   /* mean of the matrices' errors, by weights */
    double nominal_bits, true_bits; /* a weight of these matrices */
    double model_bits;              /* a weight of the whole model: embeddings as they were */
    uint64_t n_tokens;              /* of calibration */
    uint64_t file_bytes;
    size_t n_resumed;
    double seconds, forward_seconds, factor_seconds, method_seconds;
    double product_seconds; /* of seconds: in dense products */
    double product_flops;
} bl_compress_report;

/* Compresses the linears of the GGUF model `input` into the GGUF file `output`, which appears only
 * when whole; embeddings, head and norms stay as they are. text[text_len]: the calibration text,
 * UTF-8; NULL for a method that needs none. params may be NULL. report may be NULL; free it with
 * bl_compress_report_free().
 *
 * Samples are cut at random places. One layer at a time is in memory as floats, with what the
 * samples give there: 8 bytes a token and element of the residual stream. Each layer sees what the
 * compressed ones before it give. What is done lies in the state directory, so that the same call
 * goes on after a failure, an interruption or a full disk.
 *
 * Errors: BL_ERR_ARGUMENT (an unknown method or layout, a text that is too short or not UTF-8, a
 * state directory of another run), BL_ERR_UNSUPPORTED (a model that is 1-bit already; a method
 * without signs and no dense layout), BL_ERR_FORMAT (a Hessian that stays singular, named; numbers
 * that are not finite), BL_ERR_CANCELLED, BL_ERR_IO, BL_ERR_MEMORY, those of opening. */
bl_status bl_compress(const char *input, const char *output, const char *text, size_t text_len,
                      const bl_compress_params *params, bl_compress_report *report, bl_error *err);
void bl_compress_report_free(bl_compress_report *report);

#ifdef __cplusplus
}
#endif
#endif
