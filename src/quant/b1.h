/* B1, Bitloom's native binary layout at 1 bit a weight (GGUF type 4098): the same bytes on every
 * CPU, read by kernels as they lie in the file.
 *
 * Rows are taken 16 at a time (a tile), as in T2; missing rows have scale 0, and the bits of
 * missing rows and columns are 0. A tile is
 *
 *     float scale[16]                      the row's magnitude, +-scale are its weights
 *     uint8_t block[ceil(cols/32)][64]     16 rows x 32 columns each
 *
 * and bit p of byte 4*r + j of block b is 1 where the weight of row r, column 32*b + 4*p + j is
 * +scale. So bit p of 64 bytes is 16 rows x 4 consecutive columns: the operand of a 4-way
 * dot-product instruction, and a nibble spread to two-bit codes 0 and 2 is a byte of T2. */
#ifndef BL_QUANT_B1_H
#define BL_QUANT_B1_H

#include "quant/t2.h"

enum { BL_B1_TYPE_ID = 4098, BL_B1_COLS = 32 /* columns in a block */ };
static_assert(BL_T2_ROWS * BL_B1_COLS / 8 == BL_T2_BLOCK_BYTES, "1 bit a weight");

static inline size_t bl__b1_blocks(size_t cols) {
    return (cols + BL_B1_COLS - 1) / BL_B1_COLS;
}
/* Bytes of one tile. */
static inline size_t bl__b1_stride(size_t cols) {
    return BL_T2_SCALE_BYTES + bl__b1_blocks(cols) * BL_T2_BLOCK_BYTES;
}

#endif
