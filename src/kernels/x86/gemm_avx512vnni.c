/* Owns the product of many tokens of AVX-512 VNNI. Same bits as kernels/ref. */
#include "kernels/x86/gemm512.h"

enum { PIECE_BLOCKS = 64 /* two tiles' are 8 KiB */ };

/* Adds the products of a piece of T2 and n tokens (n and n_tiles constants after inlining). */
static inline __attribute__((always_inline)) void add_blocks(const bl__gemm_piece *p,
                                                             size_t n_tiles, const int8_t *q,
                                                             size_t n, bl__gemm512_sums sums) {
    for (size_t b = 0; b < p->n_blocks; b++) {
        __m512i bytes[BL_GEMM_TILES];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            bytes[i] = _mm512_loadu_si512(p->blocks + i * p->tile_stride + b * BL_T2_BLOCK_BYTES);
        bl__gemm512_meet(bytes, n_tiles, q + b * BL_T2_COLS, p->q_stride, n, sums);
    }
}

/* Tokens first ... first + n - 1. */
static inline __attribute__((always_inline)) void
add_tokens(const bl__gemm_piece *p, size_t n_tiles, size_t first, size_t n, bl__gemm_dots *dots) {
    bl__gemm512_sums sums;
    bl__gemm512_load(dots, n_tiles, first, n, sums);
    add_blocks(p, n_tiles, p->q + first * p->q_stride, n, sums);
    bl__gemm512_store(sums, n_tiles, first, n, dots);
}

/* A tile or two with some tokens, all columns as one piece, and where the results go. */
typedef struct whole {
    bl__gemm_piece piece;
    const uint8_t *scales;
    size_t n_rows;
    const int32_t *sum;
    const float *step;
    float *out;
    size_t out_stride;
} whole;

static inline __attribute__((always_inline)) void multiply_tokens(const whole *w, size_t n_tiles,
                                                                  size_t first, size_t n) {
    bl__gemm512_sums sums;
#pragma GCC unroll 12
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            sums[i][t] = _mm512_set1_epi32(-w->sum[first + t]);
    add_blocks(&w->piece, n_tiles, w->piece.q + first * w->piece.q_stride, n, sums);
#pragma GCC unroll 2
    for (size_t i = 0; i < n_tiles; i++) {
        const __m512 scale = _mm512_loadu_ps(w->scales + i * w->piece.tile_stride);
        size_t n_rows = w->n_rows - i * BL_T2_ROWS;
        __mmask16 rows = (__mmask16)(n_rows < BL_T2_ROWS ? (1u << n_rows) - 1 : 0xffffu);
#pragma GCC unroll 12
        for (size_t t = 0; t < n; t++) {
            __m512 y =
                _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][t]), _mm512_set1_ps(w->step[first + t]));
            _mm512_mask_storeu_ps(w->out + (first + t) * w->out_stride + i * BL_T2_ROWS, rows,
                                  _mm512_mul_ps(y, scale));
        }
    }
}

/* Functions of their own, or gcc keeps what one needs in registers that another is short of. */
#define OF_TOKENS(n)                                                                               \
    static __attribute__((noinline)) void add_##n(const bl__gemm_piece *p, size_t first,           \
                                                  bl__gemm_dots *dots) {                           \
        if (p->n_tiles == 2)                                                                       \
            add_tokens(p, 2, first, n, dots);                                                      \
        else                                                                                       \
            add_tokens(p, 1, first, n, dots);                                                      \
    }                                                                                              \
    static __attribute__((noinline)) void multiply_##n(const whole *w, size_t first) {             \
        if (w->piece.n_tiles == 2)                                                                 \
            multiply_tokens(w, 2, first, n);                                                       \
        else                                                                                       \
            multiply_tokens(w, 1, first, n);                                                       \
    }                                                                                              \
    static void multiply_##n(const whole *w, size_t first)
OF_TOKENS(12);
OF_TOKENS(8);
OF_TOKENS(4);
OF_TOKENS(1);

void bl__gemm512_add_from(const bl__gemm_piece *p, size_t first, bl__gemm_dots *dots) {
    size_t t = first;
    for (; t + 12 <= p->n_tokens; t += 12)
        add_12(p, t, dots);
    for (; t + 8 <= p->n_tokens; t += 8)
        add_8(p, t, dots);
    for (; t + 4 <= p->n_tokens; t += 4)
        add_4(p, t, dots);
    for (; t < p->n_tokens; t++)
        add_1(p, t, dots);
}

static void add_piece(const bl__gemm_piece *p, bl__gemm_dots *dots) {
    bl__gemm512_add_from(p, 0, dots);
}

/* ---- columns that are one piece: sums stay in registers from first to last ---- */

static void multiply_tiles(const whole *w) {
    size_t t = 0, left = w->piece.n_tokens;
    for (; left >= 12 && left != 16; t += 12, left -= 12)
        multiply_12(w, t);
    for (; left >= 8; t += 8, left -= 8)
        multiply_8(w, t);
    for (; left >= 4; t += 4, left -= 4)
        multiply_4(w, t);
    for (; left > 0; t++, left--)
        multiply_1(w, t);
}

static void multiply_whole(BL_GEMM_ARGUMENTS) {
    size_t stride = bl__t2_stride(cols);
    for (size_t t = 0, n; t < n_tokens; t += n) {
        n = n_tokens - t < BL_GEMM_TOKENS ? n_tokens - t : BL_GEMM_TOKENS;
        for (size_t tile = first_tile, end = tile + n_tiles; tile < end; tile += BL_GEMM_TILES) {
            const uint8_t *scales = tiles + tile * stride;
            size_t row = tile * BL_T2_ROWS, n_here = end - tile < 2 ? 1 : 2;
            const whole w = {.piece = {.blocks = scales + BL_T2_SCALE_BYTES,
                                       .tile_stride = stride,
                                       .n_tiles = n_here,
                                       .n_blocks = bl__t2_blocks(cols),
                                       .q = x->q + t * x->stride,
                                       .q_stride = x->stride,
                                       .n_tokens = n},
                             .scales = scales,
                             .n_rows = rows - row,
                             .sum = x->sum + t,
                             .step = x->step + t,
                             .out = out + t * out_stride + row,
                             .out_stride = out_stride};
            size_t n_rows = w.n_rows < n_here * BL_T2_ROWS ? w.n_rows : n_here * BL_T2_ROWS;
            bl__gemm_expect_writes(w.out, out_stride, n_rows, n);
            multiply_tiles(&w);
        }
    }
}

void bl__gemm_avx512vnni(BL_GEMM_ARGUMENTS) {
    if (bl__t2_blocks(cols) <= PIECE_BLOCKS)
        multiply_whole(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
    else
        bl__gemm_run(add_piece, PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x, n_tokens,
                     out, out_stride);
}
