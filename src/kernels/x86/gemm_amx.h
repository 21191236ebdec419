/* Owns the product of many tokens in AMX tiles: blocking, tails, and which tile holds what. Must
 * not know what a tile is: who includes this file has defined
 *
 *     TILE_CONFIGURE(config)     LDTILECFG of a bl__tile_config; all tiles become zeros
 *     TILE_LOAD(t, p, stride)    TILELOADD: rows of tile t from p, p + stride, ...
 *     TILE_STORE(t, p, stride)   TILESTORED
 *     TILE_MULTIPLY(c, a, b)     TDPBSUD: tile c += tile a, int8[m][k], x tile b, uint8[k /
 * 4][n][4] TILE_RELEASE()             TILERELEASE
 *
 * as the instructions (kernels_amx.c) or as C that computes the same (tests/kernels/test_amx.c). A
 * tile's number is a constant.
 *
 * Activations lie in memory as operand a wants them: 16 tokens, 64 columns each. Unpacked, four
 * blocks of T2 are operand b: 16 rows of the matrix, 64 columns, four by four. Two tiles of each
 * make four products of 16 x 16 sums.
 *
 *              b 6: rows 0 ... 15   b 7: rows 16 ... 31
 *     a 4      c 0                  c 1                    tokens 0 ... 15
 *     a 5      c 2                  c 3                    tokens 16 ... 31
 *
 * Fewer tokens or columns are configured as smaller tiles, so nothing past the end is read. */
#ifndef BL_KERNELS_X86_GEMM_AMX_H
#define BL_KERNELS_X86_GEMM_AMX_H

#include "kernels/x86/gemm.h"

enum {
    AMX_ROWS = 16,       /* of a tile, at most */
    AMX_ROW_BYTES = 64,  /* at most */
    AMX_TILES = 8,       /* registers */
    AMX_STEP_BLOCKS = 4, /* blocks of T2 that fill operand b */
    AMX_TOKENS = 2 * AMX_ROWS,
    AMX_PIECE_BLOCKS = 64, /* unpacked, those of two tiles are 32 KiB: most of a first cache */
    AMX_FEWEST_TOKENS = 16
};

/* Memory operand of LDTILECFG. Source: Intel SDM volume 1, 18.3.2. */
typedef struct bl__tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} bl__tile_config;
_Static_assert(sizeof(bl__tile_config) == 64, "as the instruction reads it");

/* A piece of one tile of T2, unpacked: [step][group of four columns][row][4]. */
typedef uint8_t amx_codes[AMX_PIECE_BLOCKS / AMX_STEP_BLOCKS][AMX_ROWS][AMX_ROW_BYTES];

static inline void amx_unpack(const uint8_t *blocks, size_t n_blocks, amx_codes *out) {
    uint8_t *to = (*out)[0][0];
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t block[BL_T2_BLOCK_BYTES];
        memcpy(block, blocks + b * sizeof block, sizeof block);
        for (size_t plane = 0; plane < 4; plane++, to += AMX_ROW_BYTES)
            for (size_t i = 0; i < AMX_ROW_BYTES; i++)
                to[i] = (uint8_t)(block[i] >> 2 * plane & 3);
    }
}

/* Tiles for n_tokens <= 32 tokens and steps of n_blocks <= 4 blocks. */
static inline void amx_configure(size_t n_tokens, size_t n_tiles, size_t n_blocks) {
    bl__tile_config config = {.palette = 1};
    for (size_t half = 0; half < 2; half++) {
        size_t first = half * AMX_ROWS, n = n_tokens > first ? n_tokens - first : 0;
        n = n < AMX_ROWS ? n : AMX_ROWS;
        for (size_t i = 0; i < BL_GEMM_TILES; i++) {
            bool is_used = n && i < n_tiles;
            config.rows[2 * half + i] = is_used ? (uint8_t)n : 0;
            config.row_bytes[2 * half + i] = is_used ? AMX_ROW_BYTES : 0;
        }
        config.rows[4 + half] = (uint8_t)n;
        config.row_bytes[4 + half] = n ? (uint16_t)(n_blocks * BL_T2_COLS) : 0;
        if (half < n_tiles) {
            config.rows[6 + half] = (uint8_t)(4 * n_blocks);
            config.row_bytes[6 + half] = AMX_ROW_BYTES;
        }
    }
    TILE_CONFIGURE(&config);
}

/* n_steps steps of the tokens first ... first + n_tokens - 1, from step `step` on, with tiles
 * configured for them. */
static inline void amx_add_tokens(const bl__gemm_piece *p, amx_codes codes[BL_GEMM_TILES],
                                  size_t first, size_t n_tokens, size_t step, size_t n_steps,
                                  bl__gemm_dots *dots) {
    const int8_t *q = p->q + first * p->q_stride;
    const int8_t *second = q + AMX_ROWS * p->q_stride;
    int32_t(*rows)[BL_T2_ROWS] = (*dots)[0] + first, (*more_rows)[BL_T2_ROWS] = (*dots)[1] + first;
    bool two_tokens = n_tokens > AMX_ROWS, two_tiles = p->n_tiles > 1;
    TILE_LOAD(0, rows, sizeof *rows);
    if (two_tiles)
        TILE_LOAD(1, more_rows, sizeof *rows);
    if (two_tokens)
        TILE_LOAD(2, rows + AMX_ROWS, sizeof *rows);
    if (two_tokens && two_tiles)
        TILE_LOAD(3, more_rows + AMX_ROWS, sizeof *rows);
    for (size_t s = step; s < step + n_steps; s++) {
        TILE_LOAD(6, codes[0][s], AMX_ROW_BYTES);
        TILE_LOAD(4, q + s * AMX_ROW_BYTES, p->q_stride);
        TILE_MULTIPLY(0, 4, 6);
        if (two_tiles) {
            TILE_LOAD(7, codes[1][s], AMX_ROW_BYTES);
            TILE_MULTIPLY(1, 4, 7);
        }
        if (two_tokens) {
            TILE_LOAD(5, second + s * AMX_ROW_BYTES, p->q_stride);
            TILE_MULTIPLY(2, 5, 6);
        }
        if (two_tokens && two_tiles)
            TILE_MULTIPLY(3, 5, 7);
    }
    TILE_STORE(0, rows, sizeof *rows);
    if (two_tiles)
        TILE_STORE(1, more_rows, sizeof *rows);
    if (two_tokens)
        TILE_STORE(2, rows + AMX_ROWS, sizeof *rows);
    if (two_tokens && two_tiles)
        TILE_STORE(3, more_rows + AMX_ROWS, sizeof *rows);
}

/* All tokens of a piece with steps of n_blocks blocks: groups of 32, then what is left. */
static inline void amx_add_steps(const bl__gemm_piece *p, amx_codes codes[BL_GEMM_TILES],
                                 size_t step, size_t n_steps, size_t n_blocks,
                                 bl__gemm_dots *dots) {
    size_t whole = p->n_tokens / AMX_TOKENS * AMX_TOKENS, left = p->n_tokens - whole;
    if (whole)
        amx_configure(AMX_TOKENS, p->n_tiles, n_blocks);
    for (size_t t = 0; t < whole; t += AMX_TOKENS)
        amx_add_tokens(p, codes, t, AMX_TOKENS, step, n_steps, dots);
    if (left) {
        amx_configure(left, p->n_tiles, n_blocks);
        amx_add_tokens(p, codes, whole, left, step, n_steps, dots);
    }
}

static void amx_add_piece(const bl__gemm_piece *p, bl__gemm_dots *dots) {
    _Alignas(64) amx_codes codes[BL_GEMM_TILES];
    size_t n_steps = p->n_blocks / AMX_STEP_BLOCKS, left = p->n_blocks % AMX_STEP_BLOCKS;
    for (size_t i = 0; i < p->n_tiles; i++)
        amx_unpack(p->blocks + i * p->tile_stride, p->n_blocks, &codes[i]);
    if (n_steps)
        amx_add_steps(p, codes, 0, n_steps, AMX_STEP_BLOCKS, dots);
    if (left)
        amx_add_steps(p, codes, n_steps, 1, left, dots);
}

/* As ternary_gemm of the table, for any number of tokens. */
static inline void amx_gemm(BL_GEMM_ARGUMENTS) {
    bl__gemm_run(amx_add_piece, AMX_PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x,
                 n_tokens, out, out_stride);
    TILE_RELEASE();
}

#endif
