/* Owns what products in 256-bit registers share: codes unpacked once for all tokens, the end of a
 * tile. Instructions of AVX2 alone. */
#ifndef BL_KERNELS_X86_GEMM256_H
#define BL_KERNELS_X86_GEMM256_H

#include <immintrin.h>

#include "kernels/x86/gemm.h"

/* 16 rows x 4 columns, a byte each. */
typedef struct bl__unpacked {
    __m256i halves[2];
} bl__unpacked;

static inline void bl__unpack(const uint8_t *blocks, size_t n_blocks, bl__unpacked *out) {
    const __m256i three = _mm256_set1_epi8(3);
    for (size_t b = 0; b < n_blocks; b++)
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            __m256i bytes = _mm256_loadu_si256(
                (const __m256i *)(const void *)(blocks + b * BL_T2_BLOCK_BYTES + 32 * half));
#pragma GCC unroll 4
            for (size_t plane = 0; plane < 4; plane++) {
                out[4 * b + plane].halves[half] = _mm256_and_si256(bytes, three);
                bytes = _mm256_srli_epi16(bytes, 2);
            }
        }
}

static inline __m256i bl__broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Eight rows each: (dots - sum) * step * scale of a tile's rows that exist, for one token. */
static inline void bl__write_tile256(const __m256i dots[2], const uint8_t *scales, size_t n_rows,
                                     const bl__q8 *x, float *out) {
    int32_t rows[1][BL_T2_ROWS];
    memcpy(rows, dots, sizeof rows);
    bl__gemm_write((const int32_t(*)[BL_T2_ROWS])rows, scales, n_rows, x->sum, x->step, 1, out, 0);
}

static inline __m256i bl__load256(const uint8_t *bytes) {
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

/* How many of `left` tokens are taken at once: with 6, sums are in 12 of the 16 registers. */
static inline size_t bl__gemm256_tokens(size_t left) {
    return left >= 6 && left != 8 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

#endif
