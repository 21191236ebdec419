/* B1, Bitloom's native binary layout: see b1.h for the bytes. */
#include "quant/b1.h"

#include <string.h>

#include "base/error.h"
#include "quant/layouts.h"

static uint8_t *find_tile(const bl__row *at) {
    return at->tensor + at->row / BL_T2_ROWS * bl__b1_stride(at->cols);
}

/* Writes the bits of up to 32 columns: 4 bytes side by side. */
static void write_block(uint8_t to[4], const uint8_t *codes, size_t n) {
    uint8_t bytes[4] = {0};
    for (size_t i = 0; i < n; i++)
        bytes[i % 4] = (uint8_t)(bytes[i % 4] | codes[i] / 2 << i / 4);
    memcpy(to, bytes, sizeof bytes);
}

static bl_status pack_b1(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    uint8_t *tile = find_tile(at);
    size_t row = at->row % BL_T2_ROWS;
    float scale;
    (void)tensor_scale;
    if (row == 0)
        memset(tile, 0, bl__b1_stride(at->cols));
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    memcpy(tile + 4 * row, &scale, sizeof scale);
    uint8_t *to = tile + BL_T2_SCALE_BYTES + 4 * row;
    for (size_t i = 0; i < at->cols; i += BL_B1_COLS, to += BL_T2_BLOCK_BYTES) {
        uint8_t codes[BL_B1_COLS];
        size_t n = at->cols - i < BL_B1_COLS ? at->cols - i : BL_B1_COLS;
        bool fits = bl__ternary_codes(x + i, n, scale, codes);
        for (size_t c = 0; c < n; c++)
            fits &= codes[c] != 1 || scale == 0.0f;
        if (!fits)
            return bl__fail(err, BL_ERR_UNSUPPORTED,
                            "%s: row %zu: several magnitudes, expected -s and +s only", at->name,
                            at->row);
        write_block(to, codes, n);
    }
    return BL_OK;
}

static void unpack_b1(const bl__row *at, float *out) {
    const uint8_t *tile = find_tile(at);
    size_t row = at->row % BL_T2_ROWS;
    float scale = bl__load_f32(tile + 4 * row);
    const uint8_t *from = tile + BL_T2_SCALE_BYTES + 4 * row;
    for (size_t i = 0; i < at->cols; i++) {
        unsigned byte = from[i / BL_B1_COLS * BL_T2_BLOCK_BYTES + i % 4];
        out[i] = byte >> i % BL_B1_COLS / 4 & 1 ? scale : -scale;
    }
}

/* Padding too: see check_t2. */
static bool check_b1(const bl__row *at) {
    const uint8_t *tile = find_tile(at);
    size_t row = at->row % BL_T2_ROWS, n_blocks = bl__b1_blocks(at->cols);
    const uint8_t *last = tile + BL_T2_SCALE_BYTES + 4 * row + (n_blocks - 1) * BL_T2_BLOCK_BYTES;
    unsigned wrong = 0;
    for (size_t i = at->cols % BL_B1_COLS; i && i < BL_B1_COLS; i++)
        wrong |= last[i % 4] >> i / 4 & 1u;
    return !wrong && bl__f32_is_finite(tile + 4 * row);
}

const bl__layout_functions bl__layout_b1 = {unpack_b1, check_b1, pack_b1};
