/* R2 and C2, ternary layouts at 2 bits a weight of which single rows or columns can be left out
 * (GGUF types 4099 and 4100). With ReLU^2 most rows of `up` and most columns of `down` meet a zero:
 * in these layouts what is not needed is not read either. Codes are w + 1; whatever a tensor does
 * not have (the end of a row, a column or the scales) is zeros: code 1, scale 0. Both begin with
 *
 *     float scale[rows, rounded up to 16]    the row's magnitude, +-scale or 0 are its weights
 *
 * R2 goes on with rows of 64 * ceil(cols/256) bytes. Block b of a row is the 4 bytes that T2 (t2.h)
 * has for this row in blocks 16b ... 16b + 15:
 *
 *     byte 64b + 4i + j, bits 2p and 2p+1: column 256b + 16i + 4p + j      i < 16, j < 4, p < 4
 *
 * so a 64-byte load masked by 3 << 2p meets 64 activations, if these lie in R2's order.
 *
 * C2 goes on with columns of 64 * ceil(rows/256) bytes:
 *
 *     byte 64g + 16l + 4s + i, bits 2p and 2p+1: row 256g + 64p + 16s + 4l + i
 *                                                          l < 4, s < 4, i < 4, p < 4
 *
 * so four columns, interleaved bytewise and then by pairs of bytes within each 16 bytes, are four
 * registers s whose plane p is 16 consecutive rows x 4 columns: T2's operand again. */
#ifndef BL_QUANT_SKIP_H
#define BL_QUANT_SKIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BL_R2_TYPE_ID = 4099,
    BL_C2_TYPE_ID = 4100,
    BL_SKIP_BLOCK = 256, /* columns of a row's block, rows of a column's */
    BL_SKIP_BLOCK_BYTES = 64
};

/* Bytes of the scales of so many rows. */
static inline size_t bl__skip_scale_bytes(size_t rows) {
    return (rows + 15) / 16 * 64;
}
/* Bytes of a row of n columns (R2), or of a column of n rows (C2). */
static inline size_t bl__skip_stride(size_t n) {
    return (n + BL_SKIP_BLOCK - 1) / BL_SKIP_BLOCK * BL_SKIP_BLOCK_BYTES;
}
/* False when rounding a width up to whole blocks would cost more than a quarter of the bytes. */
static inline bool bl__skip_suits(size_t dim) {
    return bl__skip_stride(dim) * 4 <= dim + dim / 4;
}

/* Writes one row of R2 or C2. codes[cols]; row r of C2 shares bytes with the rows around it that
 * have the same r / 256. Clears the padding of what it begins: R2 with each row, C2 with each row
 * that is a multiple of 256. */
void bl__r2_pack_row(const uint8_t *codes, float scale, size_t rows, size_t cols, size_t row,
                     void *tensor);
void bl__c2_pack_row(const uint8_t *codes, float scale, size_t rows, size_t cols, size_t row,
                     void *tensor);

/* Activations in R2's order: to[256b + 64p + 4i + j] = q[256b + 16i + 4p + j], zeros past n.
 * to: int8[256 * ceil(n/256)]. */
void bl__r2_order(const int8_t *q, size_t n, int8_t *to);

/* The same weights as tiles of T2, for products with many tokens: n_tiles tiles from first_tile on,
 * 16 of them for each group of 256 rows of C2, of which those of the last group that do not exist
 * hold zeros. */
void bl__r2_to_tiles(const uint8_t *tensor, size_t rows, size_t cols, size_t first_tile,
                     size_t n_tiles, uint8_t *tiles);
void bl__c2_to_tiles(const uint8_t *tensor, size_t rows, size_t cols, size_t group, uint8_t *tiles);

#endif
