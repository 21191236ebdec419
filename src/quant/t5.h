/* T5, Bitloom's native ternary layout at 1.6 bits a weight (GGUF type 4097): five digits a byte,
 * the same bytes on every CPU, read by kernels as they lie in the file.
 *
 * Rows are taken 16 at a time (a tile), as in T2; missing rows and columns are zeros (digit 1). A
 * tile is
 *
 *     float scale[16]          the row's magnitude, +-scale or 0 are its weights
 *     uint8_t block[n][64]     n = bl__t5_blocks(cols)
 *
 * and byte 4*r + j of a block holds five digits w + 1 of row r. Four blocks are a group of 80
 * columns: digits 0 to 3 of block i, at two bits each, are block i of a T2 tile (columns 16*i + j,
 * + 4, + 8, + 12 of the group), digit 4 is column 64 + 4*i + j. The columns behind the last whole
 * group are blocks of 16 columns whose digit 4 is not used (and is 1).
 *
 * A byte is made for processors that look up 64 or 16 bytes at a time. Two digits are a pair,
 * 3 * first + second; of nine pairs, eight fit three bits:
 *
 *     bits 7..6     5..3             2..0
 *     digit 4       pair (2, 3)      pair (0, 1)       both pairs < 8
 *     3             digit 4          pair (0, 1)       pair (2, 3) is 8
 *     3             4 + digit 4      pair (2, 3)       pair (0, 1) is 8
 *     3             3                digit 4           both pairs are 8
 *
 * 243 of 256 bytes have a meaning; the others are decoded as bl__t5_decode says, everywhere. */
#ifndef BL_QUANT_T5_H
#define BL_QUANT_T5_H

#include "quant/t2.h"

enum {
    BL_T5_TYPE_ID = 4097,
    BL_T5_GROUP_BLOCKS = 4,    /* blocks in a whole group */
    BL_T5_GROUP_T2_BLOCKS = 5, /* blocks of T2 that hold the same columns */
    BL_T5_GROUP_COLS = 80,
    BL_T5_ZEROS = 0x64 /* five digits 1 */
};

/* Blocks of a tile. */
static inline size_t bl__t5_blocks(size_t cols) {
    size_t n = bl__t2_blocks(cols);
    return n / BL_T5_GROUP_T2_BLOCKS * BL_T5_GROUP_BLOCKS + n % BL_T5_GROUP_T2_BLOCKS;
}
/* Bytes of one tile. */
static inline size_t bl__t5_stride(size_t cols) {
    return BL_T2_SCALE_BYTES + bl__t5_blocks(cols) * BL_T2_BLOCK_BYTES;
}

/* Two digits at two bits each. */
#define BL_T5_PAIR(pair) ((pair) / 3 | (pair) % 3 << 2)

/* Digits 0 to 3 at bits 0, 2, 4, 6, and digit 4 at bit 8. */
static inline unsigned bl__t5_decode(uint8_t byte) {
    unsigned low = byte & 7u, high = byte >> 3 & 7u, top = byte >> 6;
    if (top < 3)
        return BL_T5_PAIR(low) | BL_T5_PAIR(high) << 4 | top << 8;
    if (high < 3)
        return BL_T5_PAIR(low) | BL_T5_PAIR(8u) << 4 | high << 8;
    if (high == 3)
        return BL_T5_PAIR(8u) | BL_T5_PAIR(8u) << 4 | low % 3 << 8;
    if (high < 7)
        return BL_T5_PAIR(8u) | BL_T5_PAIR(low) << 4 | (high - 4) << 8;
    return 0x155; /* no meaning: zeros */
}

/* The byte of pairs (0, 1), (2, 3) and digit 4. */
static inline uint8_t bl__t5_encode(unsigned low, unsigned high, unsigned digit4) {
    if (low < 8 && high < 8)
        return (uint8_t)(digit4 << 6 | high << 3 | low);
    if (low < 8)
        return (uint8_t)(0xc0 | digit4 << 3 | low);
    if (high < 8)
        return (uint8_t)(0xc0 | (4 + digit4) << 3 | high);
    return (uint8_t)(0xd8 | digit4);
}

#endif
