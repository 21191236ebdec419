/* The table of layouts: names, ids and sizes, and the way from a layout to its functions. Knows no
 * byte of any of them. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "quant/b1.h"
#include "quant/layouts.h"
#include "quant/levels.h"
#include "quant/quant.h"
#include "quant/skip.h"
#include "quant/t5.h"

typedef struct layout_entry {
    bl__layout_info info;
    /* A tensor is rows x (row_bytes + cols / block_cols x block_bytes) + tensor_bytes, but for
     * hf_u8, the native layouts, r2, c2, l1, l2 and s2. */
    uint16_t block_bytes, row_bytes, tensor_bytes;
    const bl__layout_functions *functions;
} layout_entry;

static const layout_entry layouts[BL_LAYOUT_COUNT] = {
    /*                      name, type id, file type, block, ternary, scale; sizes; functions */
    [BL_LAYOUT_F32] = {{"f32", 0, 0, 1, false, "none"}, 4, 0, 0, &bl__layout_f32},
    [BL_LAYOUT_F16] = {{"f16", 1, 1, 1, false, "none"}, 2, 0, 0, &bl__layout_f16},
    [BL_LAYOUT_BF16] = {{"bf16", 30, 32, 1, false, "none"}, 2, 0, 0, &bl__layout_bf16},
    [BL_LAYOUT_Q8_0] = {{"q8_0", 8, 7, 32, false, "block of 32"}, 34, 0, 0, &bl__layout_q8_0},
    [BL_LAYOUT_Q4_0] = {{"q4_0", 2, 2, 32, false, "block of 32"}, 18, 0, 0, &bl__layout_q4_0},
    [BL_LAYOUT_Q4_1] = {{"q4_1", 3, 3, 32, false, "block of 32"}, 20, 0, 0, &bl__layout_q4_1},
    [BL_LAYOUT_Q6_K] = {{"q6_k", 14, 18, 256, false, "block of 16"}, 210, 0, 0, &bl__layout_q6_k},
    [BL_LAYOUT_I2_S] = {{"i2_s", 36, 40, 128, true, "tensor"}, 32, 0, 32, &bl__layout_i2_s},
    [BL_LAYOUT_I2_S_ARM] =
        {{"i2_s_arm", BL_TYPE_ID_NONE, 40, 64, true, "tensor"}, 16, 0, 32, &bl__layout_i2_s_arm},
    [BL_LAYOUT_TQ1_0] = {{"tq1_0", 34, 36, 256, true, "block of 256"}, 54, 0, 0, &bl__layout_tq1_0},
    [BL_LAYOUT_TQ2_0] = {{"tq2_0", 35, 37, 256, true, "block of 256"}, 66, 0, 0, &bl__layout_tq2_0},
    [BL_LAYOUT_Q1_0] = {{"q1_0", 41, -1, 128, true, "block of 128"}, 18, 0, 0, &bl__layout_q1_0},
    [BL_LAYOUT_Q2_0] = {{"q2_0", 42, -1, 64, true, "block of 64"}, 18, 0, 0, &bl__layout_q2_0},
    [BL_LAYOUT_IQ1_BN] = {{"iq1_bn", 134, 128, 64, true, "row"}, 13, 2, 0, &bl__layout_iq1_bn},
    [BL_LAYOUT_IQ2_BN] = {{"iq2_bn", 135, 129, 64, true, "row"}, 16, 4, 0, &bl__layout_iq2_bn},
    [BL_LAYOUT_HF_U8] =
        {{"hf_u8", BL_TYPE_ID_NONE, -1, 1, true, "none"}, 0, 0, 0, &bl__layout_hf_u8},
    [BL_LAYOUT_T2] =
        {{"bl_t2", BL_T2_TYPE_ID, BL_T2_TYPE_ID, 1, true, "row"}, 0, 0, 0, &bl__layout_t2},
    [BL_LAYOUT_T5] =
        {{"bl_t5", BL_T5_TYPE_ID, BL_T5_TYPE_ID, 1, true, "row"}, 0, 0, 0, &bl__layout_t5},
    [BL_LAYOUT_B1] =
        {{"bl_b1", BL_B1_TYPE_ID, BL_B1_TYPE_ID, 1, true, "row"}, 0, 0, 0, &bl__layout_b1},
    [BL_LAYOUT_R2] =
        {{"bl_r2", BL_R2_TYPE_ID, BL_R2_TYPE_ID, 1, true, "row"}, 0, 0, 0, &bl__layout_r2},
    [BL_LAYOUT_C2] =
        {{"bl_c2", BL_C2_TYPE_ID, BL_C2_TYPE_ID, 1, true, "row"}, 0, 0, 0, &bl__layout_c2},
    [BL_LAYOUT_L1] = {{"bl_l1", BL_L1_TYPE_ID, BL_L1_TYPE_ID, 1, false, "row and block of 128"},
                      0,
                      0,
                      0,
                      &bl__layout_l1},
    [BL_LAYOUT_L2] = {{"bl_l2", BL_L2_TYPE_ID, BL_L2_TYPE_ID, 1, false, "row and block of 128"},
                      0,
                      0,
                      0,
                      &bl__layout_l2},
    [BL_LAYOUT_S2] = {{"bl_s2", BL_S2_TYPE_ID, BL_S2_TYPE_ID, 1, false, "row and block of 128"},
                      0,
                      0,
                      0,
                      &bl__layout_s2},
};

const bl__layout_info *bl__layout_get(bl__layout layout) {
    return &layouts[layout].info;
}

bool bl__layout_from_type_id(uint32_t type_id, bl__layout *out) {
    for (size_t i = 0; i < BL_LAYOUT_COUNT; i++)
        if (layouts[i].info.type_id >= 0 && (uint32_t)layouts[i].info.type_id == type_id) {
            *out = (bl__layout)i;
            return true;
        }
    return false;
}

bool bl__layout_from_name(const char *name, bl__layout *out) {
    for (size_t i = 0; i < BL_LAYOUT_COUNT; i++)
        if (strcmp(layouts[i].info.name, name) == 0) {
            *out = (bl__layout)i;
            return true;
        }
    return false;
}

/* Bytes from one row to the next; only for layouts whose rows lie one after another. */
static size_t row_stride(const layout_entry *entry, size_t cols) {
    return entry->row_bytes + cols / entry->info.block_cols * entry->block_bytes;
}

bool bl__layout_is_native(bl__layout layout) {
    return layout == BL_LAYOUT_T2 || layout == BL_LAYOUT_T5 || layout == BL_LAYOUT_B1;
}

bl__layout bl__layout_choose_native(bool binary, uint64_t n_weights) {
    if (binary)
        return BL_LAYOUT_B1;
    return n_weights / 4 <= BL_NATIVE_CACHE_BYTES ? BL_LAYOUT_T2 : BL_LAYOUT_T5;
}

static bool count_tiles(bl__layout layout, size_t rows, size_t cols, size_t *bytes) {
    size_t stride;
    if (cols > SIZE_MAX - BL_B1_COLS || rows > SIZE_MAX - BL_T2_ROWS)
        return false;
    size_t n_blocks = layout == BL_LAYOUT_T2   ? bl__t2_blocks(cols)
                      : layout == BL_LAYOUT_T5 ? bl__t5_blocks(cols)
                                               : bl__b1_blocks(cols);
    return bl__mul_size(n_blocks, BL_T2_BLOCK_BYTES, &stride) &&
           bl__add_size(stride, BL_T2_SCALE_BYTES, &stride) &&
           bl__mul_size(bl__t2_tiles(rows), stride, bytes);
}

/* n rows of R2 or columns of C2, each as long as there are columns or rows. */
static bool count_skip(size_t n, size_t length, size_t rows, size_t *bytes) {
    return length <= SIZE_MAX - BL_SKIP_BLOCK && rows <= SIZE_MAX / 8 &&
           bl__mul_size(n, bl__skip_stride(length), bytes) &&
           bl__add_size(*bytes, bl__skip_scale_bytes(rows), bytes);
}

/* With cols of at most BL_LEVELS_MAX_COLS a tile's size cannot overflow. */
static bool count_levels(bl__layout layout, size_t rows, size_t cols, size_t *bytes) {
    if (rows > SIZE_MAX / 4)
        return false;
    const bl__levels l = bl__levels_of(layout, NULL, rows, cols);
    return bl__mul_size(bl__t2_tiles(rows), bl__levels_stride(&l), bytes) &&
           bl__add_size(*bytes, bl__levels_tiles_at(&l), bytes);
}

static bool count_rows(const layout_entry *entry, size_t rows, size_t cols, size_t *bytes) {
    size_t stride, all;
    return bl__mul_size(cols / entry->info.block_cols, entry->block_bytes, &stride) &&
           bl__add_size(stride, entry->row_bytes, &stride) && bl__mul_size(rows, stride, &all) &&
           bl__add_size(all, entry->tensor_bytes, bytes);
}

bl_status bl__layout_bytes(bl__layout layout, size_t rows, size_t cols, size_t *bytes,
                           bl_error *err) {
    const layout_entry *entry = &layouts[layout];
    if (cols % entry->info.block_cols != 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: %zu columns, expected a multiple of %u",
                        entry->info.name, cols, entry->info.block_cols);
    if (layout == BL_LAYOUT_HF_U8 && rows % 4 != 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: %zu rows, expected a multiple of 4",
                        entry->info.name, rows);
    if (bl__layout_is_levels(layout) && cols > BL_LEVELS_MAX_COLS)
        return bl__fail(err, BL_ERR_LIMIT, "%s: %zu columns, at most %d", entry->info.name, cols,
                        BL_LEVELS_MAX_COLS);
    bool fits = bl__layout_is_native(layout)   ? count_tiles(layout, rows, cols, bytes)
                : layout == BL_LAYOUT_R2       ? count_skip(rows, cols, rows, bytes)
                : layout == BL_LAYOUT_C2       ? count_skip(cols, rows, rows, bytes)
                : bl__layout_is_levels(layout) ? count_levels(layout, rows, cols, bytes)
                : layout == BL_LAYOUT_HF_U8    ? bl__mul_size(rows / 4, cols, bytes)
                                               : count_rows(entry, rows, cols, bytes);
    if (!fits)
        return bl__fail(err, BL_ERR_LIMIT, "%s: [%zu,%zu]: the size overflows", entry->info.name,
                        rows, cols);
    return BL_OK;
}

static bl__row find_row(const layout_entry *entry, const void *tensor, size_t rows, size_t cols,
                        size_t row) {
    uint8_t *first = (uint8_t *)(uintptr_t)tensor; /* only packers write through it */
    return (bl__row){.tensor = first,
                     .bytes = first + row * row_stride(entry, cols),
                     .rows = rows,
                     .cols = cols,
                     .row = row,
                     .name = entry->info.name};
}

void bl__layout_unpack_row(bl__layout layout, const void *tensor, size_t rows, size_t cols,
                           size_t row, float *out) {
    bl__row at = find_row(&layouts[layout], tensor, rows, cols, row);
    layouts[layout].functions->unpack(&at, out);
}

bool bl__layout_check_row(bl__layout layout, const void *tensor, size_t rows, size_t cols,
                          size_t row) {
    bl__row at = find_row(&layouts[layout], tensor, rows, cols, row);
    return layouts[layout].functions->check(&at);
}

bool bl__layout_is_divisible(bl__layout layout) {
    return layout != BL_LAYOUT_R2 && layout != BL_LAYOUT_C2 && layout != BL_LAYOUT_HF_U8 &&
           !bl__layout_is_levels(layout);
}

bl_status bl__layout_pack_rows(bl__layout layout, const float *weights, size_t rows, size_t cols,
                               size_t first_row, size_t n_rows, float tensor_scale, void *tensor,
                               bl_error *err) {
    const layout_entry *entry = &layouts[layout];
    if (!entry->functions->pack)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: this layout can be read, not written",
                        entry->info.name);
    for (size_t i = 0; i < n_rows; i++) {
        bl__row at = find_row(entry, tensor, rows, cols, first_row + i);
        bl_status status = entry->functions->pack(&at, weights + i * cols, tensor_scale, err);
        if (status)
            return status;
    }
    return BL_OK;
}
