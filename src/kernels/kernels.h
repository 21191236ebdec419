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

enum { BL_LANES = 16 };

/* Activations quantized to int8, one scale a token (arXiv 2402.17764, "Training Tips" code). */
typedef struct bl__q8 {
    int8_t *q;     /* int8[n_tokens][stride], columns past cols are 0 */
    size_t stride; /* a multiple of 16, >= cols */
    float *step;   /* float[n_tokens]: value = q * step */
    int32_t *sum;  /* int32[n_tokens]: sum of q */
} bl__q8;

typedef struct bl__kernels {
    const char *level; /* "ref", "avx2", ... */

    /* s = 127 / max(max |x|, 1e-5); q = clamp(round_half_even(x * s), -128, 127); *step = 1 / s;
     * *sum = sum of q. q: int8[stride], zero past n. NaN gives -128 and does not count as a
     * maximum. */
    void (*quantize_i8)(const float *x, size_t n, int8_t *q, size_t stride, float *step,
                        int32_t *sum);

    /* Rows first_tile * 16 ... of a T2 tensor (quant/t2.h) times n_tokens activations:
     * out[t * out_stride + r] = (sum_c code[r][c] * q[t][c] - sum[t]) * step[t] * scale[r],
     * multiplied in that order, as transformers does, for the rows below `rows` of n_tiles tiles.
     * tiles points at the tensor's first tile, 4-byte aligned. cols < 2^23. */
    void (*ternary_gemm)(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride);

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

    /* out[c] = p[0] * v[c], then fused out[c] += p[r] * v[r * v_stride + c] for r = 1, 2, ...; zero
     * rows give zeros. */
    void (*weighted_sum)(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out);

    /* float16 / bfloat16 to float: out[n]. */
    void (*unpack_f16)(const uint16_t *x, size_t n, float *out);
    void (*unpack_bf16)(const uint16_t *x, size_t n, float *out);
} bl__kernels;

/* The table for this machine, capped by the environment variable BITLOOM_CPU; built once. */
const bl__kernels *bl__kernels_get(void);

/* The table of one level by name ("ref", "avx2", "avx512vnni", ...); false when it is not compiled
 * in or this machine cannot run it. For the kernel checker. */
bool bl__kernels_for(const char *level, bl__kernels *out);

/* Element-wise float operations, written once in plain C: without contraction the compiler may
 * vectorize them for any machine and the bits stay the same. */

/* out[n] = x / sqrt(mean(x^2) + eps) * weight; weight may be NULL (ones), out may be x. */
void bl__rms_norm(const bl__kernels *kernels, const float *x, const float *weight, float eps,
                  size_t n, float *out);
/* out[n] = (x - mean x) * rstd, rstd = 1 / sqrt(mean((x - mean x)^2) + eps), sums in lanes:
 * LayerNorm without weights. out may be x; stats gets mean and rstd, unless it is NULL. */
void bl__layer_norm(const bl__kernels *kernels, const float *x, float eps, size_t n, float *out,
                    float stats[2]);
/* scores[n] become probabilities: exp(x - max) / sum, the sum in lanes. n >= 1. */
void bl__softmax(float *scores, size_t n);
/* gate[n] = silu(gate) * up, and relu(gate)^2 * up. */
void bl__silu_mul(float *gate, const float *up, size_t n);
void bl__relu2_mul(float *gate, const float *up, size_t n);
/* x[n] += y. */
void bl__add(float *x, const float *y, size_t n);
/* exp with less than 2 ulp of error, the same bits on every machine; saturates outside -87 ... 88.
 */
float bl__exp(float x);
/* Rotates pairs of x[head_dim]: elements (i, i + n_rot / 2) when halves, (2i, 2i + 1) otherwise,
 * by the angle whose cosine and sine are cs[i][2], i < n_rot / 2. Elements past n_rot stay. */
void bl__rope(float *x, size_t n_rot, bool halves, const float *cs);

#endif
