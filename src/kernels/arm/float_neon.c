/* Owns attention's products and the element-wise loops for NEON. Same bits as kernels/ref. */
#include <arm_neon.h>
#include <string.h>

#include "base/bytes.h"
#include "kernels/float_loops.h"
#include "kernels/levels.h"

#define INLINE static inline __attribute__((always_inline))

INLINE uint8x8_t load4(const uint8_t *from) {
    uint32_t four;
    memcpy(&four, from, sizeof four);
    return vcreate_u8(four);
}

/* 4 cells of a row from column c on, a multiple of 4. */
INLINE float32x4_t cells(bl_cache_type type, const uint8_t *row, size_t c) {
    switch (type) {
    case BL_CACHE_F32:
        return vreinterpretq_f32_u8(vld1q_u8(row + 4 * c));
    case BL_CACHE_F16:
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(row + 2 * c)));
    case BL_CACHE_I8: {
        int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(load4(row + c)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    }
    case BL_CACHE_I4:
        break;
    }
    uint8x8_t bytes = load4(row + c / 32 * 16 + c % 16);
    bytes = c % 32 >= 16 ? vshr_n_u8(bytes, 4) : vand_u8(bytes, vdup_n_u8(15));
    uint32x4_t wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
    return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(wide), vdupq_n_s32(8)));
}

/* n_rows rows x 16 columns; n_rows and type are constants after inlining. */
INLINE void tile(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                 const uint8_t *b, size_t b_stride, size_t n, size_t c, float *out,
                 size_t out_stride, bool add) {
    float32x4_t sums[4][4];
#pragma GCC unroll 4
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < 4; v++)
            sums[r][v] = add ? vld1q_f32(out + r * out_stride + c + 4 * v) : vdupq_n_f32(0.0f);
    for (size_t i = 0; i < n; i++, b += b_stride) {
        float32x4_t w[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < 4; v++)
            w[v] = cells(type, b, c + 4 * v);
#pragma GCC unroll 4
        for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
            for (size_t v = 0; v < 4; v++)
                sums[r][v] = vfmaq_n_f32(sums[r][v], w[v], a[r * a_stride + i]);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < 4; v++)
            vst1q_f32(out + r * out_stride + c + 4 * v, sums[r][v]);
}

INLINE void product(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                    const uint8_t *b, size_t b_stride, size_t n, size_t cols, float *out,
                    size_t out_stride, bool add) {
    for (; n_rows >= 4; n_rows -= 4, a += 4 * a_stride, out += 4 * out_stride)
        for (size_t c = 0; c < cols; c += 32) {
            tile(type, a, a_stride, 4, b, b_stride, n, c, out, out_stride, add);
            tile(type, a, a_stride, 4, b, b_stride, n, c + 16, out, out_stride, add);
        }
    for (; n_rows; n_rows--, a += a_stride, out += out_stride)
        for (size_t c = 0; c < cols; c += 32) {
            tile(type, a, a_stride, 1, b, b_stride, n, c, out, out_stride, add);
            tile(type, a, a_stride, 1, b, b_stride, n, c + 16, out, out_stride, add);
        }
}

static void cells_product(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                          const void *b, size_t b_stride, size_t n, size_t cols, float *out,
                          size_t out_stride, bool add) {
    if (type == BL_CACHE_F16)
        product(BL_CACHE_F16, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else if (type == BL_CACHE_F32)
        product(BL_CACHE_F32, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else if (type == BL_CACHE_I8)
        product(BL_CACHE_I8, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else
        product(BL_CACHE_I4, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
}

static void pack_f16(const float *x, size_t n, uint16_t *out) {
    const float32x4_t most = vdupq_n_f32(65504.0f), least = vdupq_n_f32(-65504.0f);
    for (size_t i = 0; i < n; i += 4) {
        size_t here = n - i < 4 ? n - i : 4;
        float four[4] = {0};
        memcpy(four, x + i, here * sizeof *x);
        float32x4_t v = vmaxq_f32(least, vminq_f32(most, vld1q_f32(four)));
        uint64_t packed = vget_lane_u64(vreinterpret_u64_f16(vcvt_f16_f32(v)), 0);
        memcpy(out + i, &packed, here * sizeof *out);
    }
}

void bl__floats_fill_neon(bl__kernels *table) {
    fill_float_loops(table);
    table->cells_product = cells_product;
    table->pack_f16 = pack_f16;
}
