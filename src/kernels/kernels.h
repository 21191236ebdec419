/* The kernel table: the few loops that take the time, one implementation per instruction set.
 *
 * Contract: every implementation of a slot gives the same bits as kernels/ref, on every input.
 *   - Integer products are exact in int32.
 *   - Float sums are taken in BL_LANES lanes: element i is added to lane i % BL_LANES by a fused
 *     multiply-add, lanes start at +0, and the lanes are folded in halves (lane l += lane l + 8,
 *     then 4, 2, 1). Tails simply leave lanes alone.
 *   - No slot reads or writes outside the ranges stated here; pointers need no alignment unless
 *     stated.
 * So the text that a model writes depends on the machine in no way. */
#ifndef BL_KERNELS_KERNELS_H
#define BL_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "quant/levels.h"

enum {
    BL_LANES = 16,
    BL_CACHE_BLOCK = 64, /* positions whose scores meet one maximum */
    BL_CACHE_COLS = 32   /* rows of cache cells are multiples of it */
};

/* Activations quantized to int8, one scale a token (arXiv 2402.17764, "Training Tips" code). */
typedef struct bl__q8 {
    int8_t *q;     /* int8[n_tokens][stride], columns past cols are 0 */
    size_t stride; /* a multiple of 16, >= cols */
    float *step;   /* float[n_tokens]: value = q * step */
    int32_t *sum;  /* int32[n_tokens]: sum of q */
} bl__q8;

/* Float activations as integers of up to 24 bits lie there as several tokens each, its digits: x is
 * the sum of the digits' values, and a product with x the sum of theirs. */
enum { BL_MAX_DIGITS = 3 };

/* The low-bit copy of an output head (model/screen.h) lies in tiles of 16 rows: float scale[16],
 * error[16], norm[16], then for every 4 columns 64 bytes, [16 rows][4 columns], of codes q + 128.
 * Columns that do not exist have any code; their digits are 0. */
enum { BL_SCREEN_ROWS = 16, BL_SCREEN_COLS = 4, BL_SCREEN_HEAD_BYTES = 192 };

static inline size_t bl__screen_tile_bytes(size_t cols) {
    return BL_SCREEN_HEAD_BYTES +
           (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS * BL_SCREEN_COLS * BL_SCREEN_ROWS;
}

/* A token's activations in two digits, x ~ step * (128 * high + low), -64 <= high, low <= 64, or in
 * one, x ~ step * high, -127 <= high <= 127; and how each term of a row's bound counts. */
typedef struct bl__screen_x {
    const int8_t
        *digits;       /* int8[ceil(cols / 4)][n_digits][4]: high digits of 4 columns, then low */
    uint32_t n_digits; /* 0: nothing is computed for this token */
    int32_t high_sum, low_sum; /* low_sum: 0 where there is one digit */
    float step, of_scale, of_error, of_norm, of_any;
} bl__screen_x;

typedef struct bl__kernels {
    const char *level; /* "ref", "avx2", ... */

    /* s = 127 / max(max |x|, 1e-5); q = clamp(round_half_even(x * s), -128, 127); *step = 1 / s;
     * *sum = sum of q. q: int8[stride], zero past n. NaN gives -128 and does not count as a
     * maximum. */
    void (*quantize_i8)(const float *x, size_t n, int8_t *q, size_t stride, float *step,
                        int32_t *sum);

    /* The same with n_digits = 2 or 3 digits: m = 127 * (1 + 256 + ...), s = m / max(max |x|,
     * 1e-30), v = round_half_even(min(max(x * s, -m), m)), -m for NaN, = the sum of digit[i] *
     * 256^(n_digits - 1 - i), -128 <= digit <= 127. q: int8[n_digits][stride], first what counts
     * most; step[i] = 256^(n_digits - 1 - i) / s; sum[i] = sum of digit[i]. */
    void (*quantize_digits)(const float *x, size_t n, size_t n_digits, int8_t *q, size_t stride,
                            float *step, int32_t *sum);

    /* Rows first_tile * 16 ... of an L1, L2, S2 or B1 tensor (quant/levels.h) times n_tokens
     * activations: out[t * out_stride + r - first_tile * 16] = (sum_c level[r][c] * q[t][c]) *
     * step[t] * unit[r], multiplied in that order, for the rows below w->rows of n_tiles tiles. Bit
     * 7 of a level's byte does not count. */
    void (*levels_gemm)(const bl__levels *w, size_t first_tile, size_t n_tiles, const bl__q8 *x,
                        size_t n_tokens, float *out, size_t out_stride);

    /* Rows first_tile * 16 ... of a T2 tensor (quant/t2.h) times n_tokens activations:
     * out[t * out_stride + r] = (sum_c code[r][c] * q[t][c] - sum[t]) * step[t] * scale[r],
     * multiplied in that order, as transformers does, for the rows below `rows` of n_tiles tiles.
     * tiles points at the tensor's first tile, 4-byte aligned. cols < 2^23. */
    void (*ternary_gemm)(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride);

    /* Tiles of the denser native layouts, T5 (quant/t5.h) and B1 (quant/b1.h, whose weights are
     * codes 0 and 2), as tiles of T2 for ternary_gemm: t2: uint8_t[n_tiles][bl__t2_stride(cols)].
     */
    void (*t5_unpack)(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                      uint8_t *t2);
    void (*b1_unpack)(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                      uint8_t *t2);

    /* What ternary_gemm would give for the unpacked tiles and the first token of x. NULL where a
     * level has nothing faster than the two. */
    void (*t5_gemv)(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                    size_t n_tiles, const bl__q8 *x, float *out);
    void (*b1_gemv)(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                    size_t n_tiles, const bl__q8 *x, float *out);

    /* The same for n_tokens tokens of x. NULL likewise. */
    void (*t5_gemm)(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                    size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                    size_t out_stride);

    /* Rows list[0 ... n - 1] of an R2 tensor (quant/skip.h) times one token's activations:
     * out[row] = (sum_c code[row][c] * q[c] - sum) * step * scale[row], multiplied in that order.
     * q: int8[256 * ceil(cols/256)] in R2's order, zeros past cols. The tensor is 4-byte aligned.
     * cols <= 2^22. */
    void (*listed_rows)(const uint8_t *tensor, size_t rows, size_t cols, const uint32_t *list,
                        size_t n, const int8_t *q, int32_t sum, float step, float *out);

    /* Columns of a C2 tensor, entry e of list[n] being column e >> 8 with the activation
     * (int8_t)(e & 255), in the groups first_group ... of 256 rows:
     * dots[r - 256 * first_group] += sum of code[r][column] * activation, for all rows of n_groups
     * groups, those past the tensor's last included (their code is 1). n <= 2^22. */
    void (*listed_columns)(const uint8_t *tensor, size_t rows, const uint32_t *list, size_t n,
                           size_t first_group, size_t n_groups, int32_t *dots);

    /* out[t * out_stride + r] = sum_c w[r * w_stride + c] * x[t * x_stride + c], in lanes. */
    void (*dot_rows)(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
                     size_t x_stride, size_t n_tokens, float *out, size_t out_stride);

    /* The same for rows of float16 / bfloat16: the bits of unpack_* followed by dot_rows. */
    void (*dot_rows_f16)(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                         const float *x, size_t x_stride, size_t n_tokens, float *out,
                         size_t out_stride);
    void (*dot_rows_bf16)(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                          const float *x, size_t x_stride, size_t n_tokens, float *out,
                          size_t out_stride);

    /* What 16 rows of each of n_tiles tiles can give at most, for each of n_tokens tokens:
     *   high = sum_c q[r][c] * high[c], low = sum_c q[r][c] * low[c], exact for cols <= 65536
     *   about = ((float)high * 128 + (float)low) * step * scale[r]; one digit: (float)high * step *
     *           scale[r]
     *   upper[t * stride + r] = about +
     *              (scale[r] * of_scale + error[r] * of_error + norm[r] * of_norm + of_any)
     * each operation rounded, from left to right. tiles is 64-byte aligned. */
    void (*screen_rows)(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        size_t n_tokens, float *upper, size_t stride);

    /* out[c] = p[0] * v[c], then fused out[c] += p[r] * v[r * v_stride + c] for r = 1, 2, ...; zero
     * rows give zeros. */
    void (*weighted_sum)(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out);

    /* float16 / bfloat16 to float: out[n]. */
    void (*unpack_f16)(const uint16_t *x, size_t n, float *out);
    void (*unpack_bf16)(const uint16_t *x, size_t n, float *out);

    /* out[r][c] = +0, or with `add` itself; then fused += a[r][i] * b[i][c] for i = 0, 1, ... n
     * - 1. b: n rows of `cols` cells, b_stride bytes apart; cols is a multiple of BL_CACHE_COLS,
     * strides of a and out are in floats. A cell is float32, float16, int8, or for BL_CACHE_I4 a
     * nibble less 8: in each 16 bytes the low ones are columns 0 ... 15 and the high ones 16
     * ... 31. */
    void (*cells_product)(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                          const void *b, size_t b_stride, size_t n, size_t cols, float *out,
                          size_t out_stride, bool add);

    /* scores[i] = exp(scores[i] - max), max the largest of the first n, 1 <= n <= BL_CACHE_BLOCK;
     * 0 from n on. sums[l] = scores[l] + [16 + l] + [32 + l] + [48 + l], in that order. */
    float (*softmax_block)(float scores[BL_CACHE_BLOCK], size_t n, float sums[BL_LANES]);

    /* Row r of to[n_rows][width], scaled to exp(-to_max[r]), takes on that of from: with `more` the
     * one of the larger maximum, which becomes to_max[r], `less` the other (from, when equal) and
     * e = exp(-|from_max[r] - to_max[r]|): to = fused less * e + more. */
    void (*merge_rows)(float *to_max, float *to, const float *from_max, const float *from,
                       size_t n_rows, size_t width);

    /* float to float16, half to even; what is too large becomes +-65504, NaN stays NaN. */
    void (*pack_f16)(const float *x, size_t n, uint16_t *out);

    /* out[n] = x * factor * weight, or x * factor when weight is NULL; out may be x. */
    void (*scale)(const float *x, float factor, const float *weight, size_t n, float *out);
    /* out[n] = silu(gate) * up, and relu(gate)^2 * up; out may be gate. */
    void (*silu_mul)(const float *gate, const float *up, size_t n, float *out);
    void (*relu2_mul)(const float *gate, const float *up, size_t n, float *out);
    /* x[n] += y; x[n] = fused y * weight + x. */
    void (*add)(float *x, const float *y, size_t n);
    void (*add_scaled)(float *x, const float *y, const float *weight, size_t n);
    /* Rotates pairs of x: elements (i, i + half) when halves, (2i, 2i + 1) otherwise, by the angle
     * with cosine c[i] and sine s[i], i < half. */
    void (*rope)(float *x, size_t half, bool halves, const float *c, const float *s);
} bl__kernels;

/* The table for this machine, capped by the environment variable BITLOOM_CPU; built once. */
const bl__kernels *bl__kernels_get(void);

/* The table of one level by name ("ref", "avx2", "avx512vnni", ...); false when it is not compiled
 * in or this machine cannot run it. For the kernel checker. */
bool bl__kernels_for(const char *level, bl__kernels *out);

/* out[n] = x / sqrt(mean(x^2) + eps) * weight; weight may be NULL (ones), out may be x. */
void bl__rms_norm(const bl__kernels *kernels, const float *x, const float *weight, float eps,
                  size_t n, float *out);
/* out[n] = (x - mean x) * rstd, rstd = 1 / sqrt(mean((x - mean x)^2) + eps), sums in lanes:
 * LayerNorm without weights. out may be x; stats gets mean and rstd, unless it is NULL. */
void bl__layer_norm(const bl__kernels *kernels, const float *x, float eps, size_t n, float *out,
                    float stats[2]);
/* out[r] = (the sum of dots[i * stride + r], i < n_dots, - sum) * step * scale[r] for n rows. */
void bl__scale_dots(const int32_t *dots, size_t n_dots, size_t stride, int32_t sum, float step,
                    const float *scale, size_t n, float *out);
/* exp with less than 2 ulp of error, the same bits on every machine; saturates outside -87 ... 88.
 */
float bl__exp(float x);
#endif
