/* Owns the product of many tokens of AVX-512 VNNI. Same bits as kernels/ref. */
#include <immintrin.h>

#include "kernels/x86/gemm.h"

enum {
    PIECE_BLOCKS = 64, /* two tiles' are 8 KiB */
    MOST_TOKENS = 12   /* at once: with two tiles 24 of the 32 registers hold sums */
};

static inline __m512i broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Tokens first ... first + n - 1 with n_tiles tiles (n and n_tiles constants after inlining). Each
 * activation that is broadcast meets the rows of both tiles, so that loads do not hold up the two
 * dot-product units. */
static inline __attribute__((always_inline)) void
add_tokens(const bl__gemm_piece *p, size_t n_tiles, size_t first, size_t n, bl__gemm_dots *dots) {
    const __m512i three = _mm512_set1_epi8(3);
    const uint8_t *blocks = p->blocks;
    const int8_t *q = p->q + first * p->q_stride;
    size_t q_stride = p->q_stride;
    __m512i sums[BL_GEMM_TILES][MOST_TOKENS];
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            sums[i][t] = _mm512_loadu_si512((*dots)[i][first + t]);
    for (size_t b = 0; b < p->n_blocks; b++) {
        __m512i bytes[BL_GEMM_TILES];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            bytes[i] = _mm512_loadu_si512(blocks + i * p->tile_stride + b * BL_T2_BLOCK_BYTES);
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
                __m512i x = broadcast4(q + t * q_stride + b * BL_T2_COLS + 4 * plane);
#pragma GCC unroll 2
                for (size_t i = 0; i < n_tiles; i++)
                    sums[i][t] = _mm512_dpbusd_epi32(sums[i][t], w[i], x);
            }
        }
    }
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            _mm512_storeu_si512((*dots)[i][first + t], sums[i][t]);
}

static inline __attribute__((always_inline)) void add_tiles(const bl__gemm_piece *p, size_t n_tiles,
                                                            bl__gemm_dots *dots) {
    size_t t = 0;
    for (; t + 12 <= p->n_tokens; t += 12)
        add_tokens(p, n_tiles, t, 12, dots);
    for (; t + 8 <= p->n_tokens; t += 8)
        add_tokens(p, n_tiles, t, 8, dots);
    for (; t + 4 <= p->n_tokens; t += 4)
        add_tokens(p, n_tiles, t, 4, dots);
    for (; t < p->n_tokens; t++)
        add_tokens(p, n_tiles, t, 1, dots);
}

static void add_piece(const bl__gemm_piece *p, bl__gemm_dots *dots) {
    if (p->n_tiles == 2)
        add_tiles(p, 2, dots);
    else
        add_tiles(p, 1, dots);
}

void bl__gemm_avx512vnni(BL_GEMM_ARGUMENTS) {
    bl__gemm_run(add_piece, PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                 out_stride);
}
