/* Owns the product of many tokens of AVX-512 VNNI. Same bits as kernels/ref. */
#include "kernels/x86/gemm512.h"

enum { PIECE_BLOCKS = 64 /* two tiles' are 8 KiB */ };

/* Tokens first ... first + n - 1 (n and n_tiles constants after inlining). */
static inline __attribute__((always_inline)) void
add_tokens(const bl__gemm512_piece *p, size_t n_tiles, size_t first, size_t n) {
    const bl__gemm_piece *piece = &p->piece;
    const int8_t *q = piece->q + first * piece->q_stride;
    bl__gemm512_sums sums;
    bl__gemm512_begin(p, n_tiles, first, n, sums);
    for (size_t b = 0; b < piece->n_blocks; b++) {
        __m512i bytes[BL_GEMM_TILES];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            bytes[i] =
                _mm512_loadu_si512(piece->blocks + i * piece->tile_stride + b * BL_T2_BLOCK_BYTES);
        bl__gemm512_meet(bytes, n_tiles, q + b * BL_T2_COLS, piece->q_stride, n, sums);
    }
    bl__gemm512_end(p, n_tiles, first, n, sums);
}

/* Functions of their own, or gcc keeps what one needs in registers that another is short of. */
#define ADD_TOKENS(n)                                                                              \
    static __attribute__((noinline)) void add_##n(const bl__gemm512_piece *p, size_t first) {      \
        if (p->piece.n_tiles == 2)                                                                 \
            add_tokens(p, 2, first, n);                                                            \
        else                                                                                       \
            add_tokens(p, 1, first, n);                                                            \
    }                                                                                              \
    static void add_##n(const bl__gemm512_piece *p, size_t first)
ADD_TOKENS(12);
ADD_TOKENS(8);
ADD_TOKENS(4);
ADD_TOKENS(1);

void bl__gemm512_add_from(const bl__gemm512_piece *p, size_t first) {
    size_t t = first, left = p->piece.n_tokens - first;
    for (; left >= 12 && left != 16; t += 12, left -= 12)
        add_12(p, t);
    for (; left >= 8; t += 8, left -= 8)
        add_8(p, t);
    for (; left >= 4; t += 4, left -= 4)
        add_4(p, t);
    for (; left > 0; t++, left--)
        add_1(p, t);
}

static void add_piece(const bl__gemm512_piece *p) {
    bl__gemm512_add_from(p, 0);
}

void bl__gemm_avx512vnni(BL_GEMM_ARGUMENTS) {
    bl__gemm512_run(add_piece, bl__t2_stride(cols), PIECE_BLOCKS, PIECE_BLOCKS * BL_T2_BLOCK_BYTES,
                    tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
}
