/* Owns the order of loops in a product of T2 with many tokens, and what is done with the sums, at
 * all levels of x86 but those of gemm512.h. Must not know how a piece of a product is made.
 *
 * As many tokens as fit the second cache meet one tile or two after the other, a piece of columns
 * at a time: the piece's weights stay in the first cache for all these tokens. Between pieces sums
 * are kept in memory. They are integers, so nothing depends on where pieces end. */
#ifndef BL_KERNELS_X86_GEMM_H
#define BL_KERNELS_X86_GEMM_H

#include <string.h>

#include "kernels/kernels.h"
#include "quant/t2.h"

enum {
    BL_GEMM_TILES = 2,   /* tiles that meet a token at once */
    BL_GEMM_TOKENS = 96, /* at a time: 6,912 columns of them are 648 KiB */
};

/* The same columns of n_tiles <= BL_GEMM_TILES tiles and of n_tokens <= BL_GEMM_TOKENS tokens. */
typedef struct bl__gemm_piece {
    const uint8_t *blocks;    /* uint8[n_blocks][64] of the first tile; four fifths of them in T5 */
    size_t tile_stride;       /* bytes from there to those of the second */
    size_t n_tiles, n_blocks; /* blocks of T2: 16 columns each */
    const int8_t *q;          /* int8[n_tokens][q_stride], of which 16 * n_blocks */
    size_t q_stride;
    size_t n_tokens;
} bl__gemm_piece;

typedef int32_t bl__gemm_dots[BL_GEMM_TILES][BL_GEMM_TOKENS][BL_T2_ROWS];

/* Adds the products of codes and activations to dots[tile][token][row]. */
typedef void bl__gemm_add(const bl__gemm_piece *piece, bl__gemm_dots *dots);

/* Of ternary_gemm of the table. */
#define BL_GEMM_ARGUMENTS                                                                          \
    const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile, size_t n_tiles,             \
        const bl__q8 *x, size_t n_tokens, float *out, size_t out_stride

void bl__gemm_avx2(BL_GEMM_ARGUMENTS);
void bl__gemm_avxvnni(BL_GEMM_ARGUMENTS);
void bl__gemm_avx512vnni(BL_GEMM_ARGUMENTS);
/* Kernels of the level below that others fall back to for few tokens. */
void bl__ternary_gemm_avx512vnni(BL_GEMM_ARGUMENTS);

/* Lines that are written to when the sums are complete, asked for before they are taken. */
static inline void bl__gemm_expect_writes(const float *out, size_t out_stride, size_t n_rows,
                                          size_t n_tokens) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_rows; r += BL_T2_ROWS)
            __builtin_prefetch(out + t * out_stride + r, 1);
}

/* out[t][r] = (dots[t][r] - sum[t]) * step[t] * scale[r] of one tile's n_rows rows that exist. */
static inline void bl__gemm_write(const int32_t (*dots)[BL_T2_ROWS], const uint8_t *scales,
                                  size_t n_rows, const int32_t *sum, const float *step,
                                  size_t n_tokens, float *out, size_t out_stride) {
    float scale[BL_T2_ROWS];
    memcpy(scale, scales, sizeof scale);
    for (size_t t = 0; t < n_tokens; t++) {
        float y[BL_T2_ROWS];
        for (size_t r = 0; r < BL_T2_ROWS; r++)
            y[r] = (float)(dots[t][r] - sum[t]) * step[t] * scale[r];
        if (n_rows >= BL_T2_ROWS)
            memcpy(out + t * out_stride, y, sizeof y);
        else
            memcpy(out + t * out_stride, y, n_rows * sizeof *y);
    }
}

/* By `add` for each piece of piece_blocks blocks, or fewer at the end of the columns. */
static inline __attribute__((always_inline)) void
bl__gemm_run(bl__gemm_add *add, size_t piece_blocks, BL_GEMM_ARGUMENTS) {
    size_t stride = bl__t2_stride(cols), n_blocks = bl__t2_blocks(cols);
    size_t end = first_tile + n_tiles;
    bl__gemm_dots dots;
    for (size_t t = 0, n; t < n_tokens; t += n) {
        n = n_tokens - t < BL_GEMM_TOKENS ? n_tokens - t : BL_GEMM_TOKENS;
        for (size_t tile = first_tile, n_here; tile < end; tile += n_here) {
            const uint8_t *scales = tiles + tile * stride;
            size_t row = tile * BL_T2_ROWS;
            float *to = out + t * out_stride + row;
            n_here = end - tile < BL_GEMM_TILES ? end - tile : BL_GEMM_TILES;
            for (size_t i = 0; i < n_here; i++)
                memset(dots[i], 0, n * sizeof dots[i][0]);
            bl__gemm_expect_writes(
                to, out_stride, rows - row < n_here * BL_T2_ROWS ? rows - row : n_here * BL_T2_ROWS,
                n);
            for (size_t b = 0; b < n_blocks; b += piece_blocks) {
                const bl__gemm_piece piece = {
                    .blocks = scales + BL_T2_SCALE_BYTES + b * BL_T2_BLOCK_BYTES,
                    .tile_stride = stride,
                    .n_tiles = n_here,
                    .n_blocks = n_blocks - b < piece_blocks ? n_blocks - b : piece_blocks,
                    .q = x->q + t * x->stride + b * BL_T2_COLS,
                    .q_stride = x->stride,
                    .n_tokens = n};
                add(&piece, &dots);
            }
            for (size_t i = 0; i < n_here; i++)
                bl__gemm_write((const int32_t(*)[BL_T2_ROWS])dots[i], scales + i * stride,
                               rows - row - i * BL_T2_ROWS, x->sum + t, x->step + t, n,
                               to + i * BL_T2_ROWS, out_stride);
        }
    }
}

#endif
