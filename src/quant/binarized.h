/* A matrix made of signs after training, as the methods of compress/ find it and the layouts L1, L2
 * and S2 (levels.h) hold it: BiLLM (arXiv 2402.04291), ARB-LLM (2410.03129), HBLLM (2512.00862) and
 * the plain sign and mean. Owns what such a matrix means and how its numbers are rounded; must not
 * know how signs are chosen.
 *
 *   a column that is not salient: w = col_scale[c] * (mean[g] + scale[g] * sign), g being the inner
 *                                 (|w| <= break) or outer group of its row and block of columns
 *   a salient column:             w = col_scale[c] * (mean + scale1 * sign1 + scale2 * sign2)
 *
 * With `haar` these are the weights of the input's block-wise Haar transform, col_scale too; see
 * bl__haar(). */
#ifndef BL_QUANT_BINARIZED_H
#define BL_QUANT_BINARIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

enum {
    BL_BINARIZED_BLOCK = 128, /* columns that share a row's parameters */
    BL_BINARIZED_PARAMS = 7
};

/* A row's parameters of a block of columns. Groups that do not occur: zeros. */
typedef enum bl__binarized_param {
    BL_INNER_MEAN,
    BL_INNER_SCALE,
    BL_OUTER_MEAN,
    BL_OUTER_SCALE,
    BL_SALIENT_MEAN,
    BL_SALIENT_SCALE1,
    BL_SALIENT_SCALE2
} bl__binarized_param;

typedef struct bl__binarized {
    size_t rows, cols;
    size_t block;     /* BL_BINARIZED_BLOCK */
    size_t n_blocks;  /* ceil(cols / block) */
    bool haar;        /* w belongs to the Haar transform of x */
    uint8_t *salient; /* uint8_t[cols]: 0 or 1 */
    uint8_t *codes;   /* uint8_t[rows][cols]: bit 0 sign (1 = +); bit 1 outer group, or a salient
                         column's second sign */
    float *params;    /* float[rows][n_blocks][7]: bl__binarized_param */
    float *col_scale; /* float[cols], or NULL = ones */
    float *units;     /* float[rows], by bl__binarized_round(): what a row's weights are whole
                         multiples of; NULL before that */
} bl__binarized;

/* Zeros everywhere, and ones in col_scale where that is asked for. */
bl_status bl__binarized_create(size_t rows, size_t cols, bool col_scale, bl__binarized **out,
                               bl_error *err);
void bl__binarized_free(bl__binarized *b);

/* A row's parameters of one block: float[7]. */
static inline float *bl__binarized_params(const bl__binarized *b, size_t row, size_t block) {
    return b->params + (row * b->n_blocks + block) * BL_BINARIZED_PARAMS;
}

/* Rounds col_scale to float16, and every parameter so that the weights before col_scale are whole
 * multiples, -63 ... 63, of a float16 number of their row: what the layouts hold, 8 bits a level in
 * place of 16 a parameter. A weight moves by at most 3/123 of the largest of its row, most by far
 * less than the signs have cost. To be called when a matrix is done, before what it gives is used:
 * dequantized weights are then those of the packed matrix to the bit. A second call does nothing.
 * BL_ERR_UNSUPPORTED for a number that is not finite or that float16 cannot hold. */
bl_status bl__binarized_round(bl__binarized *b, bl_error *err);

/* out[cols]: the row's weights as they multiply x; with haar, the transform is undone. */
void bl__binarized_dequantize_row(const bl__binarized *b, size_t row, float *out);

/* One level of the Haar transform of x[n], in place, with orthonormal sums and differences of
 * neighbours. Each 2 * BL_BINARIZED_BLOCK columns are transformed alone: first come their sums,
 * then their differences, so that both have parameters of their own. The last, shorter piece is
 * split in the same way; of an odd number of columns the last stays as it is. scratch:
 * float[2 * BL_BINARIZED_BLOCK]. The inverse is the transpose. */
void bl__haar(float *x, size_t n, float *scratch);
void bl__haar_inverse(float *x, size_t n, float *scratch);

#endif
