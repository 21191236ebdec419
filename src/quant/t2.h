/* T2, Bitloom's native ternary layout at 2 bits a weight (GGUF type 4096): the same bytes on every
 * CPU, read by kernels as they lie in the file.
 *
 * Rows are taken 16 at a time (a tile); missing rows and columns are zeros (code 1). A tile is
 *
 *     float scale[16]                      the row's magnitude, +-scale or 0 are its weights
 *     uint8_t block[ceil(cols/16)][64]     16 rows x 16 columns each
 *
 * and byte 4*r + j of block b holds, in bits 2p and 2p+1 (p = 0 ... 3), the code w + 1 of row r,
 * column 16*b + 4*p + j. So a 64-byte load shifted right by 2p and masked by 3 is 16 rows x 4
 * consecutive columns: the operand of a 4-way dot-product instruction with the activations
 * broadcast, on any vector width, and one row of an AMX tile. */
#ifndef BL_QUANT_T2_H
#define BL_QUANT_T2_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BL_T2_TYPE_ID = 4096,
    BL_T2_ROWS = 16, /* rows in a tile */
    BL_T2_COLS = 16, /* columns in a block */
    BL_T2_BLOCK_BYTES = 64,
    BL_T2_SCALE_BYTES = 64
};
static_assert(BL_T2_ROWS * BL_T2_COLS * 2 / 8 == BL_T2_BLOCK_BYTES, "2 bits a weight");
static_assert(BL_T2_ROWS * sizeof(float) == BL_T2_SCALE_BYTES, "one scale a row");

static inline size_t bl__t2_blocks(size_t cols) {
    return (cols + BL_T2_COLS - 1) / BL_T2_COLS;
}
static inline size_t bl__t2_tiles(size_t rows) {
    return (rows + BL_T2_ROWS - 1) / BL_T2_ROWS;
}
/* Bytes of one tile. */
static inline size_t bl__t2_stride(size_t cols) {
    return BL_T2_SCALE_BYTES + bl__t2_blocks(cols) * BL_T2_BLOCK_BYTES;
}

/* Writes rows first_row ... first_row + n_rows - 1 of one tensor from codes[cols] and a scale per
 * row: see pack in quant.h for floats. Clears the padding of each tile whose row 0 is written. */
void bl__t2_pack_row(const uint8_t *codes, float scale, size_t cols, size_t row, void *tensor);

#endif
