/* T2, Bitloom's native ternary layout: see t2.h for the bytes. */
#include "quant/t2.h"

#include <string.h>

#include "quant/layouts.h"

enum { PADDING = 0x55 }; /* four codes 1, that is four zeros */

static uint8_t *find_tile(uint8_t *tensor, size_t cols, size_t row) {
    return tensor + row / BL_T2_ROWS * bl__t2_stride(cols);
}

/* Writes the 16 codes of one row in one block: 4 bytes side by side, columns 4p ... 4p + 3 at bits
 * 2p of them. */
static inline void write_block(uint8_t *to, const uint8_t *codes) {
    uint32_t packed = bl__load_u32(codes) | bl__load_u32(codes + 4) << 2 |
                      bl__load_u32(codes + 8) << 4 | bl__load_u32(codes + 12) << 6;
    memcpy(to, &packed, sizeof packed);
}

/* Writes n codes of a row of the tile, from column `col` (a multiple of 16) on, and zeros up to the
 * next multiple of 16. */
static void write_codes(uint8_t *tile, size_t row, size_t col, const uint8_t *codes, size_t n) {
    uint8_t *to = tile + BL_T2_SCALE_BYTES + col / BL_T2_COLS * BL_T2_BLOCK_BYTES + 4 * row;
    for (; n >= BL_T2_COLS; n -= BL_T2_COLS, codes += BL_T2_COLS, to += BL_T2_BLOCK_BYTES)
        write_block(to, codes);
    if (n) {
        uint8_t last[BL_T2_COLS];
        memset(last, 1, sizeof last);
        memcpy(last, codes, n);
        write_block(to, last);
    }
}

/* Makes every weight of a tile zero before its first row is written. */
static uint8_t *start_row(uint8_t *tensor, size_t cols, size_t row) {
    uint8_t *tile = find_tile(tensor, cols, row);
    if (row % BL_T2_ROWS == 0) {
        memset(tile, 0, BL_T2_SCALE_BYTES);
        memset(tile + BL_T2_SCALE_BYTES, PADDING, bl__t2_blocks(cols) * BL_T2_BLOCK_BYTES);
    }
    return tile;
}

void bl__t2_pack_row(const uint8_t *codes, float scale, size_t cols, size_t row, void *tensor) {
    uint8_t *tile = start_row(tensor, cols, row);
    memcpy(tile + 4 * (row % BL_T2_ROWS), &scale, sizeof scale);
    write_codes(tile, row % BL_T2_ROWS, 0, codes, cols);
}

static bl_status pack_t2(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    uint8_t codes[BL_CHUNK], *tile = start_row(at->tensor, at->cols, at->row);
    size_t row = at->row % BL_T2_ROWS;
    float scale;
    (void)tensor_scale;
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    memcpy(tile + 4 * row, &scale, sizeof scale);
    for (size_t i = 0; i < at->cols; i += BL_CHUNK) {
        size_t n = at->cols - i < BL_CHUNK ? at->cols - i : BL_CHUNK;
        if (!bl__ternary_codes(x + i, n, scale, codes))
            return bl__fail_not_ternary(at, "row", err);
        write_codes(tile, row, i, codes, n);
    }
    return BL_OK;
}

static void unpack_t2(const bl__row *at, float *out) {
    const uint8_t *tile = find_tile(at->tensor, at->cols, at->row);
    size_t row = at->row % BL_T2_ROWS;
    float scale = bl__load_f32(tile + 4 * row);
    const uint8_t *from = tile + BL_T2_SCALE_BYTES + 4 * row;
    size_t n = at->cols;
    for (; n >= BL_T2_COLS; n -= BL_T2_COLS, from += BL_T2_BLOCK_BYTES, out += BL_T2_COLS)
        for (unsigned p = 0; p < 4; p++)
            for (size_t j = 0; j < 4; j++)
                out[4 * p + j] = scale * (float)((from[j] >> 2 * p & 3) - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = scale * (float)((from[i % 4] >> 2 * (i / 4) & 3) - 1);
}

/* Padding counts too: a kernel multiplies it by activations that are zero, but only as long as its
 * codes are what they should be does a tile hold what its row says. */
static bool check_t2(const bl__row *at) {
    const uint8_t *tile = find_tile(at->tensor, at->cols, at->row);
    size_t row = at->row % BL_T2_ROWS, tail = at->cols % BL_T2_COLS;
    const uint8_t *from = tile + BL_T2_SCALE_BYTES + 4 * row;
    unsigned found = 0;
    for (size_t b = bl__t2_blocks(at->cols); b > 0; b--, from += BL_T2_BLOCK_BYTES)
        found |= bl__any_code_3(from, 4);
    from -= BL_T2_BLOCK_BYTES;
    for (size_t i = tail; tail && i < BL_T2_COLS; i++)
        found |= (from[i % 4] >> 2 * (i / 4) & 3) != 1;
    return !found && bl__f32_is_finite(tile + 4 * row);
}

const bl__layout_functions bl__layout_t2 = {unpack_t2, check_t2, pack_t2};
