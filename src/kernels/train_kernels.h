/* Kernels of training: dense float products and the element-wise loops of the backward pass, one
 * table a level as in kernels.h.
 *
 * Contract:
 *   - A float32 product adds its terms to each element of C one after the other, in the order of
 *     k, by fused multiply-adds: the same bits on every machine, however k is cut.
 *   - A bfloat16 product rounds its operands to bfloat16 (half to even) while packing and adds in
 *     float32, two terms at a time; what C holds is added first or last. A processor may round
 *     differently inside a pair and may take subnormals for zero; |error| <= 2^-22 * sum |a b| per
 *     pair added.
 *   - An int8 product rounds its left operand to int8 while packing, 64 values of k at a time, each
 *     such block with a step of its own: step = max |x| / 127, q = round(x * (127 / max |x|)), half
 *     to even; blocks whose max |x| is below 1e-30 are zero, those with a NaN or an infinity have
 *     the step NaN. (Per-block rounding of gradients: Jetfire, arXiv 2403.12422.) Its right operand
 *     is int8 already. Sums over a block are exact, and are added to an element of C block after
 *     block, C = fma(sum, step, C): the same bits on every machine.
 *   - The loops are the same plain C compiled for each level, without contraction: the same bits.
 */
#ifndef BL_KERNELS_TRAIN_KERNELS_H
#define BL_KERNELS_TRAIN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A block of attention's scores, n_rows queries: row i sees the keys first[i] ... end[i] - 1 of
 * n_keys, at least one. Scores and gradients may be overwritten. */
typedef struct bl__score_block {
    float *scores,
        *grads; /* float[n_rows][stride]: products of queries and keys; of dO and values */
    size_t stride, n_rows, n_keys;
    const size_t *first, *end; /* [n_rows] */
    float scale;
    float *log_sums;   /* [n_rows]: of exponentials; forward writes them */
    float *factors;    /* [n_rows]: forward writes 1 / sum */
    const float *dots; /* [n_rows]: of the output and its gradient */
    void *rows;        /* unit[n_rows][ceil(n_keys/group)], row_bytes apart */
    size_t row_bytes;
    void *p_panels, *ds_panels; /* panels [n_rows][n_keys], panel_bytes apart */
    size_t panel_bytes;
} bl__score_block;

/* C[m][n] = A[m][k] B[k][n], or C += A B. A unit is 4 bytes: `group` (1 float32, 2 bfloat16, 4
 * int8) values that follow each other in k; the last one is filled up with zeros. `block` values of
 * k take `block_units` units: as many as the values need, or for int8 two more, which A has its
 * step and -128 times the sum of its values in, and the last block is a whole one.
 *
 *     rows:    unit[m][units]                     the A operand, a row at a time
 *     panels:  unit[ceil(n/panel)][units][panel]  the B operand, columns past n zero; and one panel
 *                                                 of M[k][m] is A = M^T as well
 *
 * In int8 floats are packed as A only and int8 as B only, which knows no pack_panels_t and no
 * softmax. */
typedef struct bl__gemm {
    const char *name; /* "bf16 avx512bf16" */
    size_t group, panel, block, block_units;

    /* out: unit[units] = x[k] * scale. */
    void (*pack_row)(const float *x, size_t k, float scale, void *out);

    /* b[k][n], ldb values apart, row i times scale[i] (NULL: ones), into panels that start
     * panel_bytes apart. A matrix may be packed in pieces of k, each but the last a multiple of
     * block, the next units * panel units further on. */
    void (*pack_panels)(const float *b, size_t ldb, size_t k, size_t n, const float *scale,
                        void *out, size_t panel_bytes);
    /* The same from int8, exact, without scales; pieces that do not cross the end of a block may be
     * multiples of group. */
    void (*pack_panels_i8)(const int8_t *b, size_t ldb, size_t k, size_t n, void *out,
                           size_t panel_bytes);
    /* The same from the transposed matrix b[n][k]; one whole k. */
    void (*pack_panels_t)(const float *b, size_t ldb, size_t k, size_t n, void *out,
                          size_t panel_bytes);

    /* One panel: c[m][n], ldc apart, n <= panel. Unit g of row i of A lies at
     * a + i * a_row + g * a_unit (bytes); n_units: of whole blocks. next: the panel of as many
     * units that will be read after b, fetched meanwhile, or NULL; only a hint. */
    void (*multiply)(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                     float *c, size_t ldc, size_t m, size_t n, bool accumulate, const void *next);

    /* rows = exp(score * scale - max), log_sums = max + log of their sum. */
    void (*softmax)(const bl__score_block *block);
    /* P = exp(score * scale - log_sums) as p_panels; dS = P (grad - dots) * scale as ds_panels and
     * rows. */
    void (*softmax_backward)(const bl__score_block *block);
} bl__gemm;

/* The factors of one AdamW update; see train/optimizer.h. */
typedef struct bl__adamw_step {
    float clip;                          /* on gradients */
    float keep;                          /* 1 - rate * decay, on weights */
    float beta1_rest, beta2, beta2_rest; /* rest: 1 - beta */
    float rate;                          /* over the first moment's bias correction */
    float root;                          /* of the second moment's */
    float eps;
} bl__adamw_step;

typedef struct bl__train_kernels {
    const char *level;
    bl__gemm float32, bf16, int8;
    bool native_bf16; /* the processor multiplies bfloat16: bf16 is faster than float32 */

    /* max x[n]; n >= 1. */
    float (*max)(const float *x, size_t n);
    /* Sum of x[n]^2, in double, 16 lanes. */
    double (*sum_squares)(const float *x, size_t n);
    /* sum a[n] b[n], in lanes. */
    float (*dot)(const float *a, const float *b, size_t n);
    /* out[n] = exp(x * scale - minus), of values up to 88; returns their sum, in lanes. */
    float (*exp_scaled)(const float *x, size_t n, float scale, float minus, float *out);
    /* ds[n] = p * (dp - d) * scale, into dp. */
    void (*softmax_backward)(const float *p, float *dp, size_t n, float d, float scale);
    /* x[n] *= factor. */
    void (*scale)(float *x, size_t n, float factor);
    /* x[n] += y; out[n] = x + y. */
    void (*add)(float *x, const float *y, size_t n);
    void (*add_to)(const float *x, const float *y, size_t n, float *out);
    /* out[n] = x * rstd * w. */
    void (*norm_apply)(const float *x, const float *w, float rstd, size_t n, float *out);
    /* With y = x * rstd * w, rstd = 1 / sqrt(mean x^2 + eps):
     * dx[n] (+)= its gradient, dw[n] += dy * x * rstd. */
    void (*norm_backward)(const float *dy, const float *x, const float *w, float rstd, size_t n,
                          bool accumulate, float *dx, float *dw);
    /* With y = (x - mean) * rstd of bl__layer_norm(): dx[n] (+)= its gradient. */
    void (*layer_norm_backward)(const float *dy, const float *x, float mean, float rstd, size_t n,
                                bool accumulate, float *dx);
    /* out[n] = act(gate) * up; act = relu^2 or SiLU. */
    void (*relu2_glu)(const float *gate, const float *up, size_t n, float *out);
    void (*silu_glu)(const float *gate, const float *up, size_t n, float *out);
    /* The gradients of these, from d[n]. */
    void (*relu2_glu_backward)(const float *d, const float *gate, const float *up, size_t n,
                               float *dgate, float *dup);
    void (*silu_glu_backward)(const float *d, const float *gate, const float *up, size_t n,
                              float *dgate, float *dup);
    /* codes[n] of w: (w * inverse > 0.5) - (w * inverse < -0.5), and w > mean ? 1 : -1. */
    void (*ternary_codes)(const float *w, size_t n, float inverse, int8_t *codes);
    void (*binary_codes)(const float *w, size_t n, float mean, int8_t *codes);
    /* Writes codes[cols] as row `row` (0 ... 15) of a T2 tile's blocks (quant/t2.h); the columns up
     * to the next multiple of 16 must be there and 0. Returns how many codes were others before. */
    size_t (*pack_t2)(const int8_t *codes, size_t cols, size_t row, uint8_t *blocks);
    /* sum x[n], in double, 16 lanes. */
    double (*sum)(const float *x, size_t n);
    /* Rotates x[2 * half] as halves by cosines c[half] and sines s[half]; sign -1 turns back. */
    void (*rope)(float *x, size_t half, const float *c, const float *s, float sign);
    /* One update of w[n]; g is zero afterwards. */
    void (*adamw)(float *w, float *g, float *m, float *v, size_t n, const bl__adamw_step *step);
} bl__train_kernels;

/* The table for this machine, capped by the environment variable BITLOOM_CPU; built once. */
const bl__train_kernels *bl__train_kernels_get(void);
/* That of one level by name; false when it is not compiled in or cannot run here. */
bool bl__train_kernels_for(const char *level, bl__train_kernels *out);

#endif
