/* T5, Bitloom's native ternary layout at 1.6 bits: see t5.h for the bytes. */
#include "quant/t5.h"

#include <string.h>

#include "quant/layouts.h"

/* Where a row's digits lie: bytes side by side, four to a block. */
typedef struct place {
    uint8_t *tile;
    uint8_t *bytes; /* of the row in block 0 */
    size_t n_groups, n_rest;
} place;

static place find_place(const bl__row *at) {
    size_t n = bl__t2_blocks(at->cols);
    uint8_t *tile = at->tensor + at->row / BL_T2_ROWS * bl__t5_stride(at->cols);
    return (place){.tile = tile,
                   .bytes = tile + BL_T2_SCALE_BYTES + 4 * (at->row % BL_T2_ROWS),
                   .n_groups = n / BL_T5_GROUP_T2_BLOCKS,
                   .n_rest = n % BL_T5_GROUP_T2_BLOCKS};
}

/* Writes n_blocks x 4 bytes from the codes of 16 columns each, and of the four columns at
 * codes + 64 + 4 * block where there is a digit 4. */
static void write_blocks(uint8_t *to, const uint8_t *codes, size_t n_blocks, bool whole) {
    for (size_t b = 0; b < n_blocks; b++, to += BL_T2_BLOCK_BYTES)
        for (size_t j = 0; j < 4; j++) {
            const uint8_t *c = codes + 16 * b + j;
            unsigned last = whole ? codes[64 + 4 * b + j] : 1u;
            to[j] = bl__t5_encode(3u * c[0] + c[4], 3u * c[8] + c[12], last);
        }
}

static bl_status pack_t5(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    place p = find_place(at);
    size_t row = at->row % BL_T2_ROWS, n = at->cols;
    float scale;
    (void)tensor_scale;
    if (row == 0) { /* every weight of the tile is zero before its first row is written */
        memset(p.tile, 0, BL_T2_SCALE_BYTES);
        memset(p.tile + BL_T2_SCALE_BYTES, BL_T5_ZEROS,
               bl__t5_stride(at->cols) - BL_T2_SCALE_BYTES);
    }
    if (!bl__max_magnitude(x, n, &scale))
        return bl__fail_not_ternary(at, "row", err);
    memcpy(p.tile + 4 * row, &scale, sizeof scale);
    for (size_t g = 0; g <= p.n_groups; g++, x += BL_T5_GROUP_COLS) {
        uint8_t codes[BL_T5_GROUP_COLS];
        size_t here = n < BL_T5_GROUP_COLS ? n : BL_T5_GROUP_COLS;
        memset(codes, 1, sizeof codes);
        if (!bl__ternary_codes(x, here, scale, codes))
            return bl__fail_not_ternary(at, "row", err);
        bool whole = g < p.n_groups;
        write_blocks(p.bytes + g * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES, codes,
                     whole ? (size_t)BL_T5_GROUP_BLOCKS : p.n_rest, whole);
        n -= here;
        if (!n)
            break;
    }
    return BL_OK;
}

/* The digits of one group or of what is behind the last. */
static void read_blocks(const uint8_t *from, size_t n_blocks, bool whole,
                        uint8_t codes[BL_T5_GROUP_COLS]) {
    for (size_t b = 0; b < n_blocks; b++, from += BL_T2_BLOCK_BYTES)
        for (size_t j = 0; j < 4; j++) {
            unsigned digits = bl__t5_decode(from[j]);
            for (unsigned d = 0; d < 4; d++)
                codes[16 * b + 4 * d + j] = digits >> 2 * d & 3;
            if (whole)
                codes[64 + 4 * b + j] = (uint8_t)(digits >> 8);
        }
}

static void unpack_t5(const bl__row *at, float *out) {
    place p = find_place(at);
    float scale = bl__load_f32(p.tile + 4 * (at->row % BL_T2_ROWS));
    size_t n = at->cols;
    for (size_t g = 0; n; g++) {
        uint8_t codes[BL_T5_GROUP_COLS];
        bool whole = g < p.n_groups;
        size_t here = n < BL_T5_GROUP_COLS ? n : BL_T5_GROUP_COLS;
        read_blocks(p.bytes + g * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES,
                    whole ? (size_t)BL_T5_GROUP_BLOCKS : p.n_rest, whole, codes);
        for (size_t i = 0; i < here; i++)
            *out++ = scale * (float)(codes[i] - 1);
        n -= here;
    }
}

/* Bytes without a meaning, and padding that is not zero: see check_t2. */
static bool check_t5(const bl__row *at) {
    place p = find_place(at);
    const uint8_t *from = p.bytes;
    unsigned wrong = 0;
    for (size_t b = 0; b < bl__t5_blocks(at->cols); b++, from += BL_T2_BLOCK_BYTES)
        for (size_t j = 0; j < 4; j++) {
            wrong |= from[j] >= 0xf8;
            wrong |= (from[j] & 0xf8) == 0xd8 && (from[j] & 7) > 2;
            wrong |= b >= p.n_groups * BL_T5_GROUP_BLOCKS && bl__t5_decode(from[j]) >> 8 != 1;
        }
    if (at->cols % BL_T2_COLS) {
        uint8_t codes[BL_T5_GROUP_COLS];
        bool whole = p.n_rest == 0;
        size_t group = p.n_groups - whole;
        read_blocks(p.bytes + group * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES,
                    whole ? (size_t)BL_T5_GROUP_BLOCKS : p.n_rest, whole, codes);
        size_t end = whole ? (size_t)BL_T5_GROUP_COLS : BL_T2_COLS * p.n_rest;
        for (size_t i = at->cols - group * BL_T5_GROUP_COLS; i < end; i++)
            wrong |= codes[i] != 1;
    }
    return !wrong && bl__f32_is_finite(p.tile + 4 * (at->row % BL_T2_ROWS));
}

const bl__layout_functions bl__layout_t5 = {unpack_t5, check_t5, pack_t5};
