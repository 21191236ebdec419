/* I2_S, the layout of microsoft/BitNet: 2-bit codes, one float32 scale for the whole tensor behind
 * them. Two byte orders share the type id: x86 builds spread 128 values over 32 bytes, ARM builds
 * 64 values over 16 bytes. Value run*g + p of a group sits in byte p, bits 6-2g and 7-2g. */
#include <string.h>

#include "base/error.h"
#include "quant/layouts.h"

enum { X86_RUN = 32, ARM_RUN = 16 }; /* bytes in a group; four values each */

static uint8_t *scale_bytes(const bl__row *at) {
    return at->tensor + at->rows * (at->cols / 4);
}

static inline void unpack_groups(const bl__row *at, size_t run, float *out) {
    float scale = bl__load_f32(scale_bytes(at));
    const uint8_t *bytes = at->bytes;
    for (size_t n = at->cols / (4 * run); n > 0; n--, bytes += run)
        for (unsigned shift = 8; shift > 0; out += run) {
            shift -= 2;
            for (size_t p = 0; p < run; p++)
                out[p] = scale * (float)((bytes[p] >> shift & 3) - 1);
        }
}

static void unpack_x86(const bl__row *at, float *out) {
    unpack_groups(at, X86_RUN, out);
}
static void unpack_arm(const bl__row *at, float *out) {
    unpack_groups(at, ARM_RUN, out);
}

static bool check_i2_s(const bl__row *at) {
    return bl__f32_is_finite(scale_bytes(at)) && !bl__any_code_3(at->bytes, at->cols / 4);
}

static bl_status pack_groups(const bl__row *at, const float *x, size_t run, float tensor_scale,
                             bl_error *err) {
    uint8_t codes[4 * X86_RUN], *bytes = at->bytes;
    if (at->row == 0) {
        memset(scale_bytes(at), 0, 32);
        memcpy(scale_bytes(at), &tensor_scale, sizeof tensor_scale);
    }
    for (size_t n = at->cols / (4 * run); n > 0; n--, bytes += run, x += 4 * run) {
        if (!bl__ternary_codes(x, 4 * run, tensor_scale, codes))
            return bl__fail_not_ternary(at, "tensor", err);
        for (size_t p = 0; p < run; p++)
            bytes[p] = (uint8_t)(codes[p] << 6 | codes[run + p] << 4 | codes[2 * run + p] << 2 |
                                 codes[3 * run + p]);
    }
    return BL_OK;
}

static bl_status pack_x86(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    return pack_groups(at, x, X86_RUN, tensor_scale, err);
}
static bl_status pack_arm(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    return pack_groups(at, x, ARM_RUN, tensor_scale, err);
}

const bl__layout_functions bl__layout_i2_s = {unpack_x86, check_i2_s, pack_x86};
const bl__layout_functions bl__layout_i2_s_arm = {unpack_arm, check_i2_s, pack_arm};
