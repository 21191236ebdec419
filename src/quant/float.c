/* Plain floats: F32, F16, BF16. Packing rounds half to even. */
#include <string.h>

#include "quant/layouts.h"

static void unpack_f32(const bl__row *at, float *out) {
    memcpy(out, at->bytes, at->cols * sizeof *out);
}

static bool check_f32(const bl__row *at) {
    bool finite = true;
    for (size_t i = 0; i < at->cols; i++)
        finite &= bl__f32_is_finite(at->bytes + 4 * i);
    return finite;
}

static bl_status pack_f32(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    (void)tensor_scale, (void)err;
    memcpy(at->bytes, x, at->cols * sizeof *x);
    return BL_OK;
}

/* The same results as bl__f16_to_f32(), without branches: the exponent is moved by a product with
 * 2^112, which also turns subnormals into normal numbers; infinity and NaN come out at 65536 or
 * more and get the largest exponent. */
static inline float widen_f16(uint16_t h) {
    float scaled = bl__bits_f32((uint32_t)(h & 0x7fffu) << 13) * 0x1p112f;
    uint32_t bits = bl__f32_bits(scaled);
    bits |= bits >= 0x47800000u ? 0x7f800000u : 0;
    return bl__bits_f32(bits | (uint32_t)(h & 0x8000u) << 16);
}

static void unpack_f16(const bl__row *at, float *out) {
    for (size_t i = 0; i < at->cols; i++)
        out[i] = widen_f16(bl__load_u16(at->bytes + 2 * i));
}

static bool check_f16(const bl__row *at) {
    bool finite = true;
    for (size_t i = 0; i < at->cols; i++)
        finite &= bl__f16_is_finite(at->bytes + 2 * i);
    return finite;
}

static bl_status pack_f16(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    (void)tensor_scale, (void)err;
    for (size_t i = 0; i < at->cols; i++) {
        uint16_t h = bl__f32_to_f16(x[i]);
        memcpy(at->bytes + 2 * i, &h, sizeof h);
    }
    return BL_OK;
}

static void unpack_bf16(const bl__row *at, float *out) {
    for (size_t i = 0; i < at->cols; i++)
        out[i] = bl__bf16_to_f32(bl__load_u16(at->bytes + 2 * i));
}

static bool check_bf16(const bl__row *at) {
    bool finite = true;
    for (size_t i = 0; i < at->cols; i++)
        finite &= (bl__load_u16(at->bytes + 2 * i) & 0x7f80u) != 0x7f80u;
    return finite;
}

static bl_status pack_bf16(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    (void)tensor_scale, (void)err;
    for (size_t i = 0; i < at->cols; i++) {
        uint16_t h = bl__f32_to_bf16(x[i]);
        memcpy(at->bytes + 2 * i, &h, sizeof h);
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_f32 = {unpack_f32, check_f32, pack_f32};
const bl__layout_functions bl__layout_f16 = {unpack_f16, check_f16, pack_f16};
const bl__layout_functions bl__layout_bf16 = {unpack_bf16, check_bf16, pack_bf16};
