/* Owns the names and sizes of tensor types that Bitloom cannot unpack. What it can unpack is
 * defined in quant/ alone.
 * Sources: ggml's type table (the removed ids 4, 5, 31-33, 37 are left out), microsoft/BitNet's
 * fork for 38 and 39, ik_llama.cpp for 335. */
#include "formats/gguf_types.h"

#include "base/checked.h"
#include "base/error.h"

typedef struct foreign_type {
    uint32_t id;
    const char *name;
    uint32_t block_cols, block_bytes;
    uint32_t row_bytes; /* more bytes per row */
} foreign_type;

static const foreign_type foreign_types[] = {
    {6, "q5_0", 32, 22, 0},      {7, "q5_1", 32, 24, 0},       {9, "q8_1", 32, 36, 0},
    {10, "q2_k", 256, 84, 0},    {11, "q3_k", 256, 110, 0},    {12, "q4_k", 256, 144, 0},
    {13, "q5_k", 256, 176, 0},   {15, "q8_k", 256, 292, 0},    {16, "iq2_xxs", 256, 66, 0},
    {17, "iq2_xs", 256, 74, 0},  {18, "iq3_xxs", 256, 98, 0},  {19, "iq1_s", 256, 50, 0},
    {20, "iq4_nl", 32, 18, 0},   {21, "iq3_s", 256, 110, 0},   {22, "iq2_s", 256, 82, 0},
    {23, "iq4_xs", 256, 136, 0}, {24, "i8", 1, 1, 0},          {25, "i16", 1, 2, 0},
    {26, "i32", 1, 4, 0},        {27, "i64", 1, 8, 0},         {28, "f64", 1, 8, 0},
    {29, "iq1_m", 256, 56, 0},   {38, "tl1", 4, 1, 0},         {39, "mxfp4", 32, 17, 0},
    {40, "nvfp4", 64, 36, 0},    {335, "iq2_bn_r4", 64, 16, 4}};

enum { TYPE_TL2 = 39, TL2_PAIR_COLS = 256, TL2_ALIGNMENT = 32 };

static const foreign_type *find_foreign(uint32_t id) {
    for (size_t i = 0; i < sizeof foreign_types / sizeof foreign_types[0]; i++)
        if (foreign_types[i].id == id)
            return &foreign_types[i];
    return NULL;
}

/* TL2 keeps all but 256 columns as triples in 5 bits and the rest as pairs in 4, then pads to 32
 * bytes and adds 32. */
static bl_status size_tl2(bl__gguf_tensor *tensor, bl_error *err) {
    size_t bits, pairs, bytes;
    if (tensor->cols < TL2_PAIR_COLS)
        return bl__fail(err, BL_ERR_FORMAT, "%zu columns, type tl2 has at least %d", tensor->cols,
                        TL2_PAIR_COLS);
    if (!bl__mul_size(tensor->cols - TL2_PAIR_COLS, tensor->rows, &bits) ||
        !bl__mul_size(bits / 3, 5, &bits) ||
        !bl__mul_size(tensor->rows, TL2_PAIR_COLS / 4, &pairs) ||
        !bl__add_size(bits / 8, pairs, &bytes) || !bl__align_size(bytes, TL2_ALIGNMENT, &bytes) ||
        !bl__add_size(bytes, TL2_ALIGNMENT, &bytes))
        return bl__fail(err, BL_ERR_LIMIT, "size overflows");
    tensor->type_name = "tl2";
    tensor->bytes = bytes;
    return BL_OK;
}

static bl_status size_foreign(bl__gguf_tensor *tensor, const foreign_type *type, bl_error *err) {
    size_t row, bytes;
    if (tensor->cols % type->block_cols)
        return bl__fail(err, BL_ERR_FORMAT, "%zu columns, type %s needs a multiple of %u",
                        tensor->cols, type->name, type->block_cols);
    if (!bl__mul_size(tensor->cols / type->block_cols, type->block_bytes, &row) ||
        !bl__add_size(row, type->row_bytes, &row) || !bl__mul_size(row, tensor->rows, &bytes))
        return bl__fail(err, BL_ERR_LIMIT, "size overflows");
    tensor->type_name = type->name;
    tensor->bytes = bytes;
    return BL_OK;
}

bl_status bl__gguf_size_tensor(bl__gguf_tensor *tensor, bool has_scale, bl_error *err) {
    bl__layout layout;
    if (bl__layout_from_type_id(tensor->type_id, &layout)) {
        tensor->layout = layout;
        tensor->type_name = bl__layout_get(layout)->name;
        bl_status status =
            bl__layout_bytes(layout, tensor->rows, tensor->cols, &tensor->bytes, err);
        if (status == BL_ERR_ARGUMENT) { /* what is a wrong call there is a wrong file here */
            status = BL_ERR_FORMAT;
            if (err)
                err->code = status;
        }
        return status;
    }
    tensor->layout = BL_LAYOUT_COUNT;
    if (tensor->type_id == TYPE_TL2 && has_scale)
        return size_tl2(tensor, err);
    const foreign_type *type = find_foreign(tensor->type_id);
    if (!type)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "unknown tensor type %u", tensor->type_id);
    return size_foreign(tensor, type, err);
}
