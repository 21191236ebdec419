/* Owns the AVX-512 + VNNI kernels. Same bits as kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>
#include <string.h>

#include "kernels/levels.h"
#include "kernels/x86/gemm.h"
#include "kernels/x86/native.h"
#include "quant/t2.h"

enum { MANY_TOKENS = 8 };

static inline __m512i broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* 16 rows x n tokens of one tile, with n_sums independent sums a token to hide the latency of the
 * dot-product instruction (both constants after inlining): dots[t]. */
static inline __attribute__((always_inline)) void tile_dots(const uint8_t *blocks, size_t n_blocks,
                                                            const int8_t *q, size_t q_stride,
                                                            size_t n, size_t n_sums,
                                                            __m512i *dots) {
    const __m512i three = _mm512_set1_epi8(3);
    __m512i sums[MANY_TOKENS][4];
    for (size_t t = 0; t < n; t++)
        for (size_t s = 0; s < n_sums; s++)
            sums[t][s] = _mm512_setzero_si512();
    for (size_t b = 0; b < n_blocks; b++) {
        __m512i bytes = _mm512_loadu_si512(blocks + b * BL_T2_BLOCK_BYTES);
#pragma GCC unroll 4
        for (size_t plane = 0; plane < 4; plane++) {
            __m512i w = _mm512_and_si512(bytes, three);
#pragma GCC unroll 8
            for (size_t t = 0; t < n; t++) {
                __m512i x = broadcast4(q + t * q_stride + b * BL_T2_COLS + 4 * plane);
                size_t s = plane % n_sums;
                sums[t][s] = _mm512_dpbusd_epi32(sums[t][s], w, x);
            }
            bytes = _mm512_srli_epi16(bytes, 2);
        }
    }
    for (size_t t = 0; t < n; t++) {
        for (size_t s = 1; s < n_sums; s++)
            sums[t][0] = _mm512_add_epi32(sums[t][0], sums[t][s]);
        dots[t] = sums[t][0];
    }
}

/* sum += 4-way products of codes with four activations broadcast. Intrinsics would load them into a
 * register first. */
static inline __m512i dot4(__m512i sum, __m512i codes, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int8_t(*)[4])q));
    return sum;
}

/* Sums of plane 3, which lies at 64 times its weight, hold this many blocks and more: a block adds
 * at most 64 x 4 columns x 3 x 128 = 98,304. */
enum { SAFE_BLOCKS = 16384, AHEAD = 8192 };

/* 16 rows x one token. Codes are masked where they lie and the sums shifted once; two sets of sums
 * hide the latency of the dot products, and lines are asked for early: what one core gets from
 * memory is what this loop is made for. */
static __m512i dots_of_one(const uint8_t *blocks, size_t n_blocks, const int8_t *q) {
    const __m512i masks[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48),
                              _mm512_set1_epi8((char)0xc0)};
    __m512i total = _mm512_setzero_si512();
    for (size_t left = n_blocks, here; left > 0; left -= here) {
        __m512i sums[2][4];
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            sums[0][p] = sums[1][p] = _mm512_setzero_si512();
        here = left < SAFE_BLOCKS ? left : SAFE_BLOCKS;
        size_t n = here;
        for (; n >= 2; n -= 2)
#pragma GCC unroll 2
            for (size_t i = 0; i < 2; i++, blocks += BL_T2_BLOCK_BYTES, q += BL_T2_COLS) {
                __m512i v = _mm512_loadu_si512(blocks);
                _mm_prefetch((const char *)blocks + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
                for (size_t p = 0; p < 4; p++)
                    sums[i][p] = dot4(sums[i][p], _mm512_and_si512(v, masks[p]), q + 4 * p);
            }
        for (; n > 0; n--, blocks += BL_T2_BLOCK_BYTES, q += BL_T2_COLS)
#pragma GCC unroll 4
            for (size_t p = 0; p < 4; p++)
                sums[0][p] = dot4(
                    sums[0][p], _mm512_and_si512(_mm512_loadu_si512(blocks), masks[p]), q + 4 * p);
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            total =
                _mm512_add_epi32(total, _mm512_srai_epi32(_mm512_add_epi32(sums[0][p], sums[1][p]),
                                                          2 * (unsigned)p));
    }
    return total;
}

/* Scales the dots of n tokens with one tile and writes the rows that exist. */
static inline __attribute__((always_inline)) void
write_dots(const __m512i *dots, size_t n, const uint8_t *scales, size_t n_rows, const int32_t *sums,
           const float *steps, float *out, size_t out_stride) {
    __mmask16 exists = n_rows < BL_T2_ROWS ? (__mmask16)((1u << n_rows) - 1) : (__mmask16)0xffff;
    __m512 scale = _mm512_loadu_ps(scales);
    for (size_t t = 0; t < n; t++) {
        __m512i dot = _mm512_sub_epi32(dots[t], _mm512_set1_epi32(sums[t]));
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(steps[t]));
        _mm512_mask_storeu_ps(out + t * out_stride, exists, _mm512_mul_ps(y, scale));
    }
}

void bl__ternary_gemm_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                                 size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                                 size_t out_stride) {
    size_t stride = bl__t2_stride(cols), n_blocks = bl__t2_blocks(cols);
    if (n_tokens >= MANY_TOKENS) {
        bl__gemm_avx512vnni(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
        return;
    }
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * stride, *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            const int8_t *q = x->q + t * x->stride;
            __m512i dots[MANY_TOKENS];
            n = n_tokens - t;
            n = n >= 4 ? 4 : n >= 2 ? 2 : 1;
            if (n == 4)
                tile_dots(blocks, n_blocks, q, x->stride, 4, 1, dots);
            else if (n == 2)
                tile_dots(blocks, n_blocks, q, x->stride, 2, 2, dots);
            else
                dots[0] = dots_of_one(blocks, n_blocks, q);
            write_dots(dots, n, scales, rows - row, x->sum + t, x->step + t,
                       out + t * out_stride + row, out_stride);
        }
    }
}

/* Folds 16 lanes as the contract says. */
static float fold(__m512 lanes) {
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(lanes), 1));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* n_rows rows x n_tokens tokens (constants after inlining). */
static inline __attribute__((always_inline)) void
dot_some(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
         size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    __m512 sums[4][4];
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            sums[r][t] = _mm512_setzero_ps();
    for (size_t c = 0; c < cols; c += BL_LANES) {
        __mmask16 m = cols - c >= BL_LANES ? 0xffff : (__mmask16)((1u << (cols - c)) - 1);
        __m512 xs[4];
        for (size_t t = 0; t < n_tokens; t++)
            xs[t] = _mm512_maskz_loadu_ps(m, x + t * x_stride + c);
        for (size_t r = 0; r < n_rows; r++) {
            __m512 row = _mm512_maskz_loadu_ps(m, w + r * w_stride + c);
            for (size_t t = 0; t < n_tokens; t++)
                sums[r][t] = _mm512_mask3_fmadd_ps(row, xs[t], sums[r][t], m);
        }
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            out[t * out_stride + r] = fold(sums[r][t]);
}

static void dot_rows(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
                     size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    for (size_t t = 0, n; t < n_tokens; t += n) {
        const float *xt = x + t * x_stride;
        float *to = out + t * out_stride;
        size_t r = 0;
        n = n_tokens - t >= 4 ? 4 : 1;
        for (; r + 4 <= n_rows; r += 4)
            if (n == 4)
                dot_some(w + r * w_stride, w_stride, 4, cols, xt, x_stride, 4, to + r, out_stride);
            else
                dot_some(w + r * w_stride, w_stride, 4, cols, xt, x_stride, 1, to + r, out_stride);
        for (; r < n_rows; r++)
            if (n == 4)
                dot_some(w + r * w_stride, w_stride, 1, cols, xt, x_stride, 4, to + r, out_stride);
            else
                dot_some(w + r * w_stride, w_stride, 1, cols, xt, x_stride, 1, to + r, out_stride);
    }
}

static void weighted_sum(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out) {
    for (size_t c = 0; c < cols; c += 16) {
        __mmask16 m = cols - c >= 16 ? 0xffff : (__mmask16)((1u << (cols - c)) - 1);
        __m512 sum = _mm512_setzero_ps();
        if (n_rows)
            sum = _mm512_mul_ps(_mm512_set1_ps(p[0]), _mm512_maskz_loadu_ps(m, v + c));
        for (size_t r = 1; r < n_rows; r++)
            sum = _mm512_fmadd_ps(_mm512_set1_ps(p[r]),
                                  _mm512_maskz_loadu_ps(m, v + r * v_stride + c), sum);
        _mm512_mask_storeu_ps(out + c, m, sum);
    }
}

void bl__kernels_fill_avx512vnni(bl__kernels *table) {
    table->ternary_gemm = bl__ternary_gemm_avx512vnni;
    table->t5_gemv = bl__t5_gemv_avx512vnni;
    table->b1_gemv = bl__b1_gemv_avx512vnni;
    bl__levels_fill_avx512vnni(table);
    bl__skip_fill_avx512vnni(table);
    table->dot_rows = dot_rows;
    table->weighted_sum = weighted_sum;
    bl__head_fill_avx512vnni(table);
    bl__floats_fill_avx512vnni(table);
}
