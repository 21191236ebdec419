/* The packed weights of transformers' bitnet integration: bytes[rows/4][cols], where byte [r][c]
 * holds rows r, r + rows/4, r + 2 rows/4 and r + 3 rows/4, lowest bits first. The scale is another
 * tensor, so values here are -1, 0, +1. */
#include "quant/layouts.h"

/* First byte of the row's values and the bits they sit in. */
static uint8_t *find_row(const bl__row *at, unsigned *shift) {
    size_t quarter = at->rows / 4;
    *shift = 2 * (unsigned)(at->row / quarter);
    return at->tensor + at->row % quarter * at->cols;
}

static void unpack_hf_u8(const bl__row *at, float *out) {
    unsigned shift;
    const uint8_t *bytes = find_row(at, &shift);
    for (size_t i = 0; i < at->cols; i++)
        out[i] = (float)((bytes[i] >> shift & 3) - 1);
}

static bool check_hf_u8(const bl__row *at) {
    unsigned shift, found = 0;
    const uint8_t *bytes = find_row(at, &shift);
    for (size_t i = 0; i < at->cols; i++)
        found |= (bytes[i] >> shift & 3) == 3;
    return !found;
}

static bl_status pack_hf_u8(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    uint8_t codes[BL_CHUNK];
    unsigned shift;
    uint8_t *bytes = find_row(at, &shift);
    (void)tensor_scale;
    for (size_t i = 0; i < at->cols; i += BL_CHUNK) {
        size_t n = at->cols - i < BL_CHUNK ? at->cols - i : BL_CHUNK;
        if (!bl__ternary_codes(x + i, n, 1.0f, codes))
            return bl__fail_not_ternary(at, "tensor (1 is the only one here)", err);
        for (size_t j = 0; j < n; j++)
            bytes[i + j] = (uint8_t)((bytes[i + j] & ~(3u << shift)) | (unsigned)codes[j] << shift);
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_hf_u8 = {unpack_hf_u8, check_hf_u8, pack_hf_u8};
