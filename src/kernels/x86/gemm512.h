/* Owns the order of loops in a product of T2 or T5 with many tokens in 512-bit registers: that of
 * gemm.h, but sums begin and end there. Instructions of AVX-512 VNNI alone. */
#ifndef BL_KERNELS_X86_GEMM512_H
#define BL_KERNELS_X86_GEMM512_H

#include <immintrin.h>

#include "kernels/x86/gemm.h"

/* Tokens at once: with two tiles 24 of the 32 registers hold sums. */
enum { BL_GEMM512_TOKENS = 12 };

typedef __m512i bl__gemm512_sums[BL_GEMM_TILES][BL_GEMM512_TOKENS];

/* A piece, and where its sums come from and go: those of the first columns begin in registers,
 * those of the last ones leave them as results. */
typedef struct bl__gemm512_piece {
    bl__gemm_piece piece;
    bool begins, ends;
    bl__gemm_dots *dots;   /* between pieces */
    const uint8_t *scales; /* of the first tile */
    size_t scales_stride;  /* bytes from there to those of the second */
    size_t n_rows;         /* of both that exist */
    const int32_t *sum;    /* [n_tokens], as of a bl__q8 */
    const float *step;
    float *out; /* [n_tokens][out_stride] */
    size_t out_stride;
} bl__gemm512_piece;

static inline __attribute__((always_inline)) void bl__gemm512_begin(const bl__gemm512_piece *p,
                                                                    size_t n_tiles, size_t first,
                                                                    size_t n,
                                                                    bl__gemm512_sums sums) {
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            sums[i][t] = p->begins ? _mm512_set1_epi32(-p->sum[first + t])
                                   : _mm512_loadu_si512((*p->dots)[i][first + t]);
}

/* As results: dots * step * scale. */
static inline __attribute__((always_inline)) void bl__gemm512_write(const bl__gemm512_piece *p,
                                                                    size_t n_tiles, size_t first,
                                                                    size_t n,
                                                                    bl__gemm512_sums sums) {
#pragma GCC unroll 2
    for (size_t i = 0; i < n_tiles; i++) {
        const __m512 scale = _mm512_loadu_ps(p->scales + i * p->scales_stride);
        size_t n_rows = p->n_rows - i * BL_T2_ROWS;
        __mmask16 rows = (__mmask16)(n_rows < BL_T2_ROWS ? (1u << n_rows) - 1 : 0xffffu);
#pragma GCC unroll 12
        for (size_t t = 0; t < n; t++) {
            __m512 y =
                _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][t]), _mm512_set1_ps(p->step[first + t]));
            _mm512_mask_storeu_ps(p->out + (first + t) * p->out_stride + i * BL_T2_ROWS, rows,
                                  _mm512_mul_ps(y, scale));
        }
    }
}

static inline __attribute__((always_inline)) void bl__gemm512_end(const bl__gemm512_piece *p,
                                                                  size_t n_tiles, size_t first,
                                                                  size_t n, bl__gemm512_sums sums) {
    if (p->ends) {
        bl__gemm512_write(p, n_tiles, first, n, sums);
        return;
    }
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            _mm512_storeu_si512((*p->dots)[i][first + t], sums[i][t]);
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
void bl__gemm512_add_from(const bl__gemm512_piece *p, size_t first);

/* As ternary_gemm of the table, by `add` for each piece of piece_blocks blocks, or fewer at the end
 * of the columns. stride: bytes of a tile; piece_bytes: of a whole piece of one. */
static inline __attribute__((always_inline)) void
bl__gemm512_run(void (*add)(const bl__gemm512_piece *piece), size_t stride, size_t piece_blocks,
                size_t piece_bytes, BL_GEMM_ARGUMENTS) {
    size_t n_blocks = bl__t2_blocks(cols);
    bl__gemm_dots dots;
    for (size_t t = 0, n; t < n_tokens; t += n) {
        n = n_tokens - t < BL_GEMM_TOKENS ? n_tokens - t : BL_GEMM_TOKENS;
        for (size_t tile = first_tile, end = tile + n_tiles; tile < end; tile += BL_GEMM_TILES) {
            const uint8_t *scales = tiles + tile * stride;
            size_t row = tile * BL_T2_ROWS, n_here = end - tile < 2 ? 1 : 2;
            size_t most_rows = n_here * BL_T2_ROWS;
            bl__gemm512_piece p = {.piece = {.tile_stride = stride,
                                             .n_tiles = n_here,
                                             .q_stride = x->stride,
                                             .n_tokens = n},
                                   .dots = &dots,
                                   .scales = scales,
                                   .scales_stride = stride,
                                   .n_rows = rows - row < most_rows ? rows - row : most_rows,
                                   .sum = x->sum + t,
                                   .step = x->step + t,
                                   .out = out + t * out_stride + row,
                                   .out_stride = out_stride};
            for (size_t b = 0; b < n_blocks; b += piece_blocks) {
                p.begins = b == 0;
                p.ends = n_blocks - b <= piece_blocks;
                p.piece.n_blocks = p.ends ? n_blocks - b : piece_blocks;
                p.piece.blocks = scales + BL_T2_SCALE_BYTES + b / piece_blocks * piece_bytes;
                p.piece.q = x->q + t * x->stride + b * BL_T2_COLS;
                if (p.ends)
                    bl__gemm_expect_writes(p.out, out_stride, p.n_rows, n);
                add(&p);
            }
        }
    }
}

#endif
