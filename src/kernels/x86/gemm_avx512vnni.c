/* Owns the product of many tokens of AVX-512 VNNI. Same bits as kernels/ref. */
#include "kernels/x86/gemm512.h"

enum { PIECE_BLOCKS = 64 /* two tiles' are 8 KiB */ };

/* Tokens first ... first + n - 1 with a piece of T2 (n and n_tiles constants after inlining). */
static inline __attribute__((always_inline)) void
add_tokens(const bl__gemm_piece *p, size_t n_tiles, size_t first, size_t n, bl__gemm_dots *dots) {
    const int8_t *q = p->q + first * p->q_stride;
    bl__gemm512_sums sums;
    bl__gemm512_load(dots, n_tiles, first, n, sums);
    for (size_t b = 0; b < p->n_blocks; b++) {
        __m512i bytes[BL_GEMM_TILES];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            bytes[i] = _mm512_loadu_si512(p->blocks + i * p->tile_stride + b * BL_T2_BLOCK_BYTES);
        bl__gemm512_meet(bytes, n_tiles, q + b * BL_T2_COLS, p->q_stride, n, sums);
    }
    bl__gemm512_store(sums, n_tiles, first, n, dots);
}

static inline __attribute__((always_inline)) void add_tiles(const bl__gemm_piece *p, size_t n_tiles,
                                                            size_t first, bl__gemm_dots *dots) {
    size_t t = first;
    for (; t + 12 <= p->n_tokens; t += 12)
        add_tokens(p, n_tiles, t, 12, dots);
    for (; t + 8 <= p->n_tokens; t += 8)
        add_tokens(p, n_tiles, t, 8, dots);
    for (; t + 4 <= p->n_tokens; t += 4)
        add_tokens(p, n_tiles, t, 4, dots);
    for (; t < p->n_tokens; t++)
        add_tokens(p, n_tiles, t, 1, dots);
}

void bl__gemm512_add_from(const bl__gemm_piece *p, size_t first, bl__gemm_dots *dots) {
    if (p->n_tiles == 2)
        add_tiles(p, 2, first, dots);
    else
        add_tiles(p, 1, first, dots);
}

static void add_piece(const bl__gemm_piece *p, bl__gemm_dots *dots) {
    bl__gemm512_add_from(p, 0, dots);
}

void bl__gemm_avx512vnni(BL_GEMM_ARGUMENTS) {
    bl__gemm_run(add_piece, PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                 out_stride);
}
