/* L1, L2 and S2, Bitloom's native layouts of matrices that were made of signs after training (GGUF
 * types 4101, 4102, 4103): the same bytes on every CPU, read by kernels as they lie in the file.
 *
 * A weight is one of few levels of its row and its block of 128 columns: L1 has two, L2 four, and
 * S2 four others for the columns that are salient. Levels are whole multiples, -64 ... 63, of one
 * float16 number of the row, so that a product is one sum of integers and one multiplication.
 * A tensor is
 *
 *     float16 unit[rows, rounded up to 32]
 *     S2: uint8_t salient[64 * ceil(cols/512)]    bit c % 8 of byte c / 8: column c is salient
 *     tiles of 16 rows
 *
 * and a tile is
 *
 *     uint8_t table[ceil(cols/128)][16][L1: 2, L2: 4]    level + 64 of row r and code i, for each
 *                  [ceil(cols/128)][2][16][4]            block of columns; S2: the second 64 bytes
 *                                                        are for salient columns
 *     zeros up to a multiple of 64 bytes
 *     uint8_t codes[...][64]                             L1: the blocks of B1 (b1.h), 32 columns
 *                                                        each; L2, S2: those of T2 (t2.h), 16 each
 *
 * Missing rows have unit 0 and levels 0 (byte 64), missing rows and columns code 0. A table of 64
 * bytes is four lookups among 16 bytes, 4 rows each: the index of byte 4r + j of a block, code |
 * 4 (r % 4), stays within the 16 bytes that the byte lies in, on any vector width. */
#ifndef BL_QUANT_LEVELS_H
#define BL_QUANT_LEVELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/b1.h"
#include "quant/binarized.h"
#include "quant/quant.h"
#include "quant/t2.h"

enum {
    BL_L1_TYPE_ID = 4101,
    BL_L2_TYPE_ID = 4102,
    BL_S2_TYPE_ID = 4103,
    BL_LEVELS_ZERO = 64,            /* the byte of level 0 */
    BL_LEVELS_MASK = 127,           /* what counts of a level's byte */
    BL_LEVELS_MAX_COLS = 128 * 1024 /* 127 * 128 of it fit an int32 */
};

/* A tensor in one of the three, or in B1, to kernels a kind of L1: the levels of all rows are -1
 * and 1, and the unit of a row is the scale that its tile begins with. */
typedef struct bl__levels {
    const uint8_t *tensor;
    size_t rows, cols;
    unsigned bits; /* of a code: 1 or 2 */
    bool salient;
    bool b1;
} bl__levels;

/* The table of B1, of all tiles and blocks of columns. */
extern const uint8_t bl__b1_table[2 * BL_T2_ROWS];

static inline bool bl__layout_is_levels(bl__layout layout) {
    return layout == BL_LAYOUT_L1 || layout == BL_LAYOUT_L2 || layout == BL_LAYOUT_S2;
}
static inline bl__levels bl__levels_of(bl__layout layout, const void *tensor, size_t rows,
                                       size_t cols) {
    bool b1 = layout == BL_LAYOUT_B1;
    return (bl__levels){.tensor = tensor,
                        .rows = rows,
                        .cols = cols,
                        .bits = b1 || layout == BL_LAYOUT_L1 ? 1 : 2,
                        .salient = layout == BL_LAYOUT_S2,
                        .b1 = b1};
}

/* Where the bitmap of salient columns begins, and the first tile. */
static inline size_t bl__levels_bitmap_at(const bl__levels *l) {
    return l->b1 ? 0 : (l->rows + 31) / 32 * 64;
}
static inline size_t bl__levels_tiles_at(const bl__levels *l) {
    return bl__levels_bitmap_at(l) + (l->salient ? (l->cols + 511) / 512 * 64 : 0);
}
/* Bytes of the table of one block of columns. */
static inline size_t bl__levels_table_bytes(const bl__levels *l) {
    return l->salient ? 128 : 16u << l->bits;
}
/* Columns in 64 bytes of codes. */
static inline size_t bl__levels_code_cols(const bl__levels *l) {
    return l->bits == 1 ? BL_B1_COLS : BL_T2_COLS;
}
static inline size_t bl__levels_n_blocks(const bl__levels *l) {
    return (l->cols + BL_BINARIZED_BLOCK - 1) / BL_BINARIZED_BLOCK;
}
/* Where the codes of a tile begin, and its size. */
static inline size_t bl__levels_codes_at(const bl__levels *l) {
    return l->b1 ? BL_T2_SCALE_BYTES
                 : (bl__levels_n_blocks(l) * bl__levels_table_bytes(l) + 63) / 64 * 64;
}
static inline size_t bl__levels_stride(const bl__levels *l) {
    size_t code_cols = bl__levels_code_cols(l);
    return bl__levels_codes_at(l) + (l->cols + code_cols - 1) / code_cols * BL_T2_BLOCK_BYTES;
}
static inline const uint8_t *bl__levels_tile(const bl__levels *l, size_t tile) {
    return l->tensor + bl__levels_tiles_at(l) + tile * bl__levels_stride(l);
}

/* The first table of a tile, and the bytes from there to that of the next block of columns. */
static inline const uint8_t *bl__levels_table(const bl__levels *l, size_t tile) {
    return l->b1 ? bl__b1_table : bl__levels_tile(l, tile);
}
static inline size_t bl__levels_table_step(const bl__levels *l) {
    return l->b1 ? 0 : bl__levels_table_bytes(l);
}
/* The units of a tile's rows: float[16] of B1, else float16[16]. */
static inline const uint8_t *bl__levels_units(const bl__levels *l, size_t tile) {
    return l->b1 ? bl__levels_tile(l, tile) : l->tensor + tile * BL_T2_ROWS * sizeof(uint16_t);
}

/* What a rounded matrix takes: S2 where columns are salient, else L2 where a code has bit 1, else
 * L1, or B1 where each row has one magnitude alone. Scales of columns and the Haar transform are
 * the model's, no layout has them. */
bl__layout bl__levels_choose(const bl__binarized *b);
/* Writes the whole tensor, of bl__layout_bytes() bytes. b has been rounded. */
void bl__levels_pack(const bl__binarized *b, bl__layout layout, void *tensor);

#endif
