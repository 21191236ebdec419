/* L1, L2 and S2, Bitloom's native layouts of binarized matrices: see levels.h for the bytes. */
#include "quant/levels.h"

#include <math.h>
#include <string.h>

#include "quant/layouts.h"

#define PAIR BL_LEVELS_ZERO - 1, BL_LEVELS_ZERO + 1
const uint8_t bl__b1_table[2 * BL_T2_ROWS] = {PAIR, PAIR, PAIR, PAIR, PAIR, PAIR, PAIR, PAIR,
                                              PAIR, PAIR, PAIR, PAIR, PAIR, PAIR, PAIR, PAIR};

static bool is_salient(const bl__levels *l, size_t col) {
    return l->salient && (l->tensor[bl__levels_bitmap_at(l) + col / 8] >> col % 8 & 1);
}

/* The row's first byte in the block of codes that column `col` is in, and the shift of its code:
 * byte col % 4 from there. */
static const uint8_t *find_codes(const bl__levels *l, size_t row, size_t col, unsigned *shift) {
    size_t code_cols = bl__levels_code_cols(l);
    *shift = (unsigned)(col % code_cols / 4) * l->bits;
    return bl__levels_tile(l, row / BL_T2_ROWS) + bl__levels_codes_at(l) +
           col / code_cols * BL_T2_BLOCK_BYTES + 4 * (row % BL_T2_ROWS);
}

static unsigned code_at(const bl__levels *l, size_t row, size_t col) {
    unsigned shift;
    const uint8_t *codes = find_codes(l, row, col, &shift);
    return codes[col % 4] >> shift & ((1u << l->bits) - 1);
}

/* Tables of a block of columns: one, and with salient columns theirs. */
static size_t n_tables(const bl__levels *l) {
    return l->salient ? 2 : 1;
}

/* The row's levels in the table of a block of columns: one for each code. */
static const uint8_t *find_levels(const bl__levels *l, size_t row, size_t block, bool salient) {
    return bl__levels_tile(l, row / BL_T2_ROWS) + block * bl__levels_table_bytes(l) +
           (salient ? 64 : 0) + (row % BL_T2_ROWS << l->bits);
}

static void unpack(const bl__row *at, bl__layout layout, float *out) {
    const bl__levels l = bl__levels_of(layout, at->tensor, at->rows, at->cols);
    float unit = bl__f16_to_f32(bl__load_u16(at->tensor + 2 * at->row));
    for (size_t c = 0; c < at->cols; c++) {
        const uint8_t *levels = find_levels(&l, at->row, c / BL_BINARIZED_BLOCK, is_salient(&l, c));
        int level = (levels[code_at(&l, at->row, c)] & BL_LEVELS_MASK) - BL_LEVELS_ZERO;
        out[c] = unit * (float)level;
    }
}

/* The codes of columns that do not exist, and the salient ones among them. */
static bool is_padding_clear(const bl__levels *l, size_t row) {
    size_t code_cols = bl__levels_code_cols(l);
    size_t end = (l->cols + code_cols - 1) / code_cols * code_cols;
    unsigned wrong = 0;
    for (size_t c = l->cols; c < end; c++)
        wrong |= code_at(l, row, c);
    for (size_t c = l->cols; l->salient && c % 512 != 0; c++)
        wrong |= is_salient(l, c);
    return !wrong;
}

static bool check(const bl__row *at, bl__layout layout) {
    const bl__levels l = bl__levels_of(layout, at->tensor, at->rows, at->cols);
    unsigned most = 0;
    for (size_t block = 0; block < bl__levels_n_blocks(&l); block++)
        for (size_t i = 0; i < n_tables(&l); i++) {
            const uint8_t *levels = find_levels(&l, at->row, block, i == 1);
            for (size_t code = 0; code < 1u << l.bits; code++)
                most |= levels[code];
        }
    return most <= BL_LEVELS_MASK && bl__f16_is_finite(at->tensor + 2 * at->row) &&
           is_padding_clear(&l, at->row);
}

/* Whether a row's weights, of inner groups, are -s and +s for one s >= 0. */
static bool has_one_magnitude(const bl__binarized *b, size_t row) {
    const float *first = bl__binarized_params(b, row, 0);
    bool one = first[BL_INNER_SCALE] >= 0.0f;
    for (size_t block = 0; block < b->n_blocks; block++) {
        const float *p = bl__binarized_params(b, row, block);
        one &= p[BL_INNER_MEAN] == 0.0f && p[BL_INNER_SCALE] == first[BL_INNER_SCALE];
    }
    return one;
}

bl__layout bl__levels_choose(const bl__binarized *b) {
    unsigned outer = 0, salient = 0;
    for (size_t c = 0; c < b->cols; c++)
        salient |= b->salient[c];
    for (size_t i = 0; i < b->rows * b->cols; i++)
        outer |= b->codes[i];
    if (salient || outer & 2)
        return salient ? BL_LAYOUT_S2 : BL_LAYOUT_L2;
    for (size_t r = 0; r < b->rows; r++)
        if (!has_one_magnitude(b, r))
            return BL_LAYOUT_L1;
    return BL_LAYOUT_B1;
}

/* Levels of a row's tables. unit may be 0, and so are all parameters then. */
static void pack_levels(const bl__binarized *b, const bl__levels *l, size_t row, uint8_t *tensor) {
    float unit = b->units[row];
    for (size_t block = 0; block < b->n_blocks; block++) {
        const float *p = bl__binarized_params(b, row, block);
        for (unsigned code = 0; code < 1u << l->bits; code++) {
            float sign = code & 1 ? 1.0f : -1.0f, second = code & 2 ? 1.0f : -1.0f;
            const float *group = code & 2 ? p + BL_OUTER_MEAN : p;
            const float values[2] = {group[0] + group[1] * sign, p[BL_SALIENT_MEAN] +
                                                                     p[BL_SALIENT_SCALE1] * sign +
                                                                     p[BL_SALIENT_SCALE2] * second};
            for (size_t i = 0; i < n_tables(l); i++) {
                float level = unit > 0.0f ? rintf(values[i] / unit) : 0.0f;
                size_t to = (size_t)(find_levels(l, row, block, i == 1) - tensor) + code;
                tensor[to] = (uint8_t)((int)level + BL_LEVELS_ZERO);
            }
        }
    }
}

void bl__levels_pack(const bl__binarized *b, bl__layout layout, void *tensor) {
    const bl__levels l = bl__levels_of(layout, tensor, b->rows, b->cols);
    uint8_t *bytes = tensor;
    size_t n_tiles = bl__t2_tiles(b->rows), tables = bl__levels_codes_at(&l);
    memset(bytes, 0, bl__levels_tiles_at(&l) + n_tiles * bl__levels_stride(&l));
    for (size_t c = 0; l.salient && c < b->cols; c++)
        bytes[bl__levels_bitmap_at(&l) + c / 8] |= (uint8_t)(b->salient[c] << c % 8);
    for (size_t tile = 0; tile < n_tiles; tile++) { /* zeros, also in rows that do not exist */
        size_t at = bl__levels_tiles_at(&l) + tile * bl__levels_stride(&l);
        memset(bytes + at, BL_LEVELS_ZERO,
               l.b1 ? 0 : bl__levels_n_blocks(&l) * bl__levels_table_bytes(&l));
        memset(bytes + at + tables, 0, bl__levels_stride(&l) - tables);
    }
    for (size_t row = 0; row < b->rows; row++) {
        uint16_t unit = bl__f32_to_f16(b->units[row]);
        if (l.b1) {
            size_t at = (size_t)(bl__levels_units(&l, row / BL_T2_ROWS) - l.tensor);
            memcpy(bytes + at + row % BL_T2_ROWS * sizeof(float),
                   bl__binarized_params(b, row, 0) + BL_INNER_SCALE, sizeof(float));
        } else {
            memcpy(bytes + 2 * row, &unit, sizeof unit);
            pack_levels(b, &l, row, bytes);
        }
        for (size_t c = 0; c < b->cols; c++) {
            unsigned shift, code = b->codes[row * b->cols + c] & ((1u << l.bits) - 1);
            size_t to = (size_t)(find_codes(&l, row, c, &shift) - bytes) + c % 4;
            bytes[to] |= (uint8_t)(code << shift);
        }
    }
}

/* The functions of each layout. */
#define FUNCTIONS(name, LAYOUT)                                                                    \
    static void unpack_##name(const bl__row *at, float *out) {                                     \
        unpack(at, LAYOUT, out);                                                                   \
    }                                                                                              \
    static bool check_##name(const bl__row *at) {                                                  \
        return check(at, LAYOUT);                                                                  \
    }                                                                                              \
    const bl__layout_functions bl__layout_##name = {unpack_##name, check_##name, NULL}

FUNCTIONS(l1, BL_LAYOUT_L1);
FUNCTIONS(l2, BL_LAYOUT_L2);
FUNCTIONS(s2, BL_LAYOUT_S2);
