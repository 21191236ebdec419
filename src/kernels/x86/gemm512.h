/* Owns what products of many tokens in 512-bit registers share. Instructions of AVX-512 VNNI alone.
 */
#ifndef BL_KERNELS_X86_GEMM512_H
#define BL_KERNELS_X86_GEMM512_H

#include <immintrin.h>

#include "kernels/x86/gemm.h"

/* Tokens at once: with two tiles 24 of the 32 registers hold sums. */
enum { BL_GEMM512_TOKENS = 12 };

typedef __m512i bl__gemm512_sums[BL_GEMM_TILES][BL_GEMM512_TOKENS];

static inline __attribute__((always_inline)) void bl__gemm512_load(bl__gemm_dots *dots,
                                                                   size_t n_tiles, size_t first,
                                                                   size_t n,
                                                                   bl__gemm512_sums sums) {
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            sums[i][t] = _mm512_loadu_si512((*dots)[i][first + t]);
}

static inline __attribute__((always_inline)) void bl__gemm512_store(bl__gemm512_sums sums,
                                                                    size_t n_tiles, size_t first,
                                                                    size_t n, bl__gemm_dots *dots) {
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            _mm512_storeu_si512((*dots)[i][first + t], sums[i][t]);
}

/* Adds the products of one block of each tile with n tokens (n and n_tiles constants after
 * inlining). Each activation that is broadcast meets the rows of both tiles, so that loads do not
 * hold up the two dot-product units. */
static inline __attribute__((always_inline)) void bl__gemm512_meet(__m512i bytes[BL_GEMM_TILES],
                                                                   size_t n_tiles, const int8_t *q,
                                                                   size_t q_stride, size_t n,
                                                                   bl__gemm512_sums sums) {
    const __m512i three = _mm512_set1_epi8(3);
#pragma GCC unroll 4
    for (size_t plane = 0; plane < 4; plane++) {
        __m512i w[BL_GEMM_TILES];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++) {
            w[i] = _mm512_and_si512(bytes[i], three);
            bytes[i] = _mm512_srli_epi16(bytes[i], 2);
        }
#pragma GCC unroll 12
        for (size_t t = 0; t < n; t++) {
            int32_t four;
            memcpy(&four, q + t * q_stride + 4 * plane, sizeof four);
            __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 2
            for (size_t i = 0; i < n_tiles; i++) /* gcc moves sums about around the intrinsic */
                __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[i][t]) : "v"(w[i]), "v"(x));
        }
    }
}

/* Adds a piece of T2 for all tokens from `first` on. */
void bl__gemm512_add_from(const bl__gemm_piece *p, size_t first, bl__gemm_dots *dots);

#endif
