/* R2 and C2, layouts of which rows or columns can be left out: see skip.h for the bytes. */
#include "quant/skip.h"

#include <string.h>

#include "base/checked.h"
#include "quant/layouts.h"
#include "quant/t2.h"

enum { PADDING = 0x55, BLOCK = BL_SKIP_BLOCK, BYTES = BL_SKIP_BLOCK_BYTES };

static uint8_t *find_r2(uint8_t *tensor, size_t rows, size_t cols, size_t row) {
    return tensor + bl__skip_scale_bytes(rows) + row * bl__skip_stride(cols);
}

/* Where column 0 has the code of a row, and at which bits. */
static uint8_t *find_c2(uint8_t *tensor, size_t rows, size_t row, unsigned *shift) {
    size_t group = row / BLOCK, r = row % BLOCK;
    *shift = (unsigned)(r / 64 * 2);
    return tensor + bl__skip_scale_bytes(rows) + group * BYTES + r % 16 / 4 * 16 + r % 64 / 16 * 4 +
           r % 4;
}

/* Stores the scale, and zeros behind that of the last row. */
static void write_scale(float scale, size_t rows, size_t row, uint8_t *tensor) {
    memcpy(tensor + row * sizeof scale, &scale, sizeof scale);
    if (row + 1 == rows)
        memset(tensor + rows * sizeof scale, 0, bl__skip_scale_bytes(rows) - rows * sizeof scale);
}

/* ---- R2 ---- */

/* n codes from column `col` (a multiple of 16) on, n being a multiple of 16 or the row's end. */
static void write_r2(uint8_t *row, size_t col, const uint8_t *codes, size_t n) {
    for (size_t i = 0; i < n; i += BL_T2_COLS) {
        uint8_t last[BL_T2_COLS];
        const uint8_t *from = codes + i;
        if (n - i < BL_T2_COLS) {
            memset(last, 1, sizeof last);
            memcpy(last, from, n - i);
            from = last;
        }
        uint32_t packed = bl__load_u32(from) | bl__load_u32(from + 4) << 2 |
                          bl__load_u32(from + 8) << 4 | bl__load_u32(from + 12) << 6;
        memcpy(row + (col + i) / 4, &packed, sizeof packed);
    }
}

static uint8_t *start_r2(uint8_t *tensor, size_t rows, size_t cols, size_t row) {
    uint8_t *to = find_r2(tensor, rows, cols, row);
    size_t last = bl__skip_stride(cols) - BYTES;
    memset(to + last, PADDING, BYTES);
    return to;
}

void bl__r2_pack_row(const uint8_t *codes, float scale, size_t rows, size_t cols, size_t row,
                     void *tensor) {
    write_scale(scale, rows, row, tensor);
    write_r2(start_r2(tensor, rows, cols, row), 0, codes, cols);
}

static unsigned r2_code(const uint8_t *row, size_t col) {
    return row[col / 16 * 4 + col % 4] >> (col % 16 / 4 * 2) & 3u;
}

static bl_status pack_r2(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    uint8_t codes[BL_CHUNK], *to = start_r2(at->tensor, at->rows, at->cols, at->row);
    float scale;
    (void)tensor_scale;
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    write_scale(scale, at->rows, at->row, at->tensor);
    for (size_t i = 0; i < at->cols; i += BL_CHUNK) {
        size_t n = bl__min_size(BL_CHUNK, at->cols - i);
        if (!bl__ternary_codes(x + i, n, scale, codes))
            return bl__fail_not_ternary(at, "row", err);
        write_r2(to, i, codes, n);
    }
    return BL_OK;
}

static void unpack_r2(const bl__row *at, float *out) {
    float scale = bl__load_f32(at->tensor + at->row * sizeof scale);
    const uint8_t *row = find_r2(at->tensor, at->rows, at->cols, at->row);
    for (size_t c = 0; c < at->cols; c++)
        out[c] = scale * (float)((int)r2_code(row, c) - 1);
}

static bool check_r2(const bl__row *at) {
    const uint8_t *row = find_r2(at->tensor, at->rows, at->cols, at->row);
    size_t stride = bl__skip_stride(at->cols);
    bool good =
        !bl__any_code_3(row, stride) && bl__f32_is_finite(at->tensor + at->row * sizeof(float));
    for (size_t c = at->cols; c < stride * 4; c++)
        good &= r2_code(row, c) == 1;
    return good;
}

const bl__layout_functions bl__layout_r2 = {unpack_r2, check_r2, pack_r2};

void bl__r2_order(const int8_t *q, size_t n, int8_t *to) {
    for (size_t b = 0; b < n; b += BLOCK) {
        int8_t last[BLOCK];
        const int8_t *from = q + b;
        if (n - b < BLOCK) {
            memset(last, 0, sizeof last);
            memcpy(last, from, n - b);
            from = last;
        }
        for (size_t p = 0; p < 4; p++)
            for (size_t i = 0; i < 16; i++)
                memcpy(to + b + 64 * p + 4 * i, from + 16 * i + 4 * p, 4);
    }
}

/* The scales of one tile; those of rows that do not exist are zeros. */
static void copy_scales(const uint8_t *tensor, size_t rows, size_t tile, uint8_t *to) {
    if (tile < bl__t2_tiles(rows))
        memcpy(to, tensor + tile * BL_T2_SCALE_BYTES, BL_T2_SCALE_BYTES);
    else
        memset(to, 0, BL_T2_SCALE_BYTES);
}

void bl__r2_to_tiles(const uint8_t *tensor, size_t rows, size_t cols, size_t first_tile,
                     size_t n_tiles, uint8_t *tiles) {
    size_t n_blocks = bl__t2_blocks(cols), stride = bl__skip_stride(cols);
    for (size_t t = 0; t < n_tiles; t++, tiles += bl__t2_stride(cols)) {
        size_t first = (first_tile + t) * BL_T2_ROWS, n = bl__min_size(BL_T2_ROWS, rows - first);
        const uint8_t *from = tensor + bl__skip_scale_bytes(rows) + first * stride;
        copy_scales(tensor, rows, first_tile + t, tiles);
        uint8_t *to = tiles + BL_T2_SCALE_BYTES;
        if (n < BL_T2_ROWS)
            memset(to, PADDING, n_blocks * BL_T2_BLOCK_BYTES);
        for (size_t b = 0; b < n_blocks; b++)
            for (size_t r = 0; r < n; r++)
                memcpy(to + b * BL_T2_BLOCK_BYTES + 4 * r, from + r * stride + 4 * b, 4);
    }
}

/* ---- C2 ---- */

/* n codes of a row from column `col` on. */
static void write_c2(uint8_t *at, unsigned shift, size_t stride, size_t col, const uint8_t *codes,
                     size_t n) {
    at += col * stride;
    for (size_t c = 0; c < n; c++, at += stride)
        *at = (uint8_t)((*at & ~(3u << shift)) | (unsigned)codes[c] << shift);
}

static uint8_t *start_c2(uint8_t *tensor, size_t rows, size_t cols, size_t row, unsigned *shift) {
    size_t stride = bl__skip_stride(rows);
    uint8_t *group = tensor + bl__skip_scale_bytes(rows) + row / BLOCK * BYTES;
    for (size_t c = 0; c < cols && row % BLOCK == 0; c++)
        memset(group + c * stride, PADDING, BYTES);
    return find_c2(tensor, rows, row, shift);
}

void bl__c2_pack_row(const uint8_t *codes, float scale, size_t rows, size_t cols, size_t row,
                     void *tensor) {
    unsigned shift;
    uint8_t *at = start_c2(tensor, rows, cols, row, &shift);
    write_scale(scale, rows, row, tensor);
    write_c2(at, shift, bl__skip_stride(rows), 0, codes, cols);
}

static bl_status pack_c2(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    uint8_t codes[BL_CHUNK];
    unsigned shift;
    uint8_t *to = start_c2(at->tensor, at->rows, at->cols, at->row, &shift);
    float scale;
    (void)tensor_scale;
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    write_scale(scale, at->rows, at->row, at->tensor);
    for (size_t i = 0; i < at->cols; i += BL_CHUNK) {
        size_t n = bl__min_size(BL_CHUNK, at->cols - i);
        if (!bl__ternary_codes(x + i, n, scale, codes))
            return bl__fail_not_ternary(at, "row", err);
        write_c2(to, shift, bl__skip_stride(at->rows), i, codes, n);
    }
    return BL_OK;
}

static void unpack_c2(const bl__row *at, float *out) {
    float scale = bl__load_f32(at->tensor + at->row * sizeof scale);
    size_t stride = bl__skip_stride(at->rows);
    unsigned shift;
    const uint8_t *from = find_c2(at->tensor, at->rows, at->row, &shift);
    for (size_t c = 0; c < at->cols; c++, from += stride)
        out[c] = scale * (float)((*from >> shift & 3) - 1);
}

/* Whether a row that the tensor does not have is zeros; with `exists`, whether one that it has is
 * of codes. */
static bool check_c2_row(const bl__row *at, size_t row, bool exists) {
    size_t stride = bl__skip_stride(at->rows);
    unsigned shift, found = 0;
    const uint8_t *from = find_c2(at->tensor, at->rows, row, &shift);
    for (size_t c = 0; c < at->cols; c++, from += stride) {
        unsigned code = *from >> shift & 3;
        found |= exists ? code == 3 : code != 1;
    }
    return !found;
}

/* The last row answers for the padding behind it. */
static bool check_c2(const bl__row *at) {
    bool good =
        check_c2_row(at, at->row, true) && bl__f32_is_finite(at->tensor + at->row * sizeof(float));
    if (at->row + 1 == at->rows)
        for (size_t r = at->rows; good && r % BLOCK; r++)
            good = check_c2_row(at, r, false);
    return good;
}

const bl__layout_functions bl__layout_c2 = {unpack_c2, check_c2, pack_c2};

/* Exchanges the bits of a that `mask` << shift has with those of b under mask, in 64 bytes. */
static inline void swap_fields(uint8_t *restrict a, uint8_t *restrict b, unsigned shift,
                               uint8_t mask) {
    for (size_t k = 0; k < BYTES; k++) {
        uint8_t differ = (uint8_t)((a[k] >> shift ^ b[k]) & mask);
        b[k] ^= differ;
        a[k] = (uint8_t)(a[k] ^ differ << shift);
    }
}

/* 16 columns of a group: from one column with four rows in a byte to one row with four columns in a
 * byte, whose four bytes side by side are a tile's. line(c): the 64 bytes of column c. */
static void turn_block(const uint8_t *const line[16], uint8_t *tiles, size_t tile_stride) {
    uint8_t turned[4][4][BYTES]; /* of plane p in columns, then plane p in rows: byte j of a row */
    for (size_t j = 0; j < 4; j++) {
        for (size_t p = 0; p < 4; p++)
            memcpy(turned[p][j], line[4 * p + j], BYTES);
        swap_fields(turned[0][j], turned[2][j], 4, 0x0f);
        swap_fields(turned[1][j], turned[3][j], 4, 0x0f);
        swap_fields(turned[0][j], turned[1][j], 2, 0x33);
        swap_fields(turned[2][j], turned[3][j], 2, 0x33);
    }
    for (size_t p = 0; p < 4; p++)
        for (size_t s = 0; s < 4; s++) {
            uint8_t *to = tiles + (4 * p + s) * tile_stride;
            for (size_t d = 0; d < 16; d++)
                for (size_t j = 0; j < 4; j++)
                    to[4 * d + j] = turned[p][j][d / 4 * 16 + 4 * s + d % 4];
        }
}

void bl__c2_to_tiles(const uint8_t *tensor, size_t rows, size_t cols, size_t group,
                     uint8_t *tiles) {
    static const uint8_t none[BYTES] = {
        0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55,
        0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55,
        0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55,
        0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55,
        0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};
    size_t stride = bl__skip_stride(rows), tile_stride = bl__t2_stride(cols);
    const uint8_t *from = tensor + bl__skip_scale_bytes(rows) + group * BYTES;
    for (size_t t = 0; t < 16; t++)
        copy_scales(tensor, rows, group * 16 + t, tiles + t * tile_stride);
    for (size_t b = 0; b < bl__t2_blocks(cols); b++) {
        const uint8_t *line[16];
        for (size_t c = 0; c < 16; c++)
            line[c] = 16 * b + c < cols ? from + (16 * b + c) * stride : none;
        turn_block(line, tiles + BL_T2_SCALE_BYTES + b * BL_T2_BLOCK_BYTES, tile_stride);
    }
}
