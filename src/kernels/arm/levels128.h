/* Owns products with the layouts L1, L2 and S2 in 128-bit registers, for the levels whose files
 * include it and bring their sums of four rows:
 *
 *     typedef ... dots4;                                        sums of rows, in some form
 *     static inline dots4 no_dots(void);
 *     static inline dots4 dot4(dots4 sum, int8x16_t levels, int8x16_t q);
 *     static inline int32x4_t finish(dots4 sum);                one for each row
 *
 * dot4 adds the products of each four bytes. A table of 4 rows x 4 codes is one register, and a
 * lookup gives 4 rows x 4 columns; here levels are signed. */
#ifndef BL_KERNELS_ARM_LEVELS128_H
#define BL_KERNELS_ARM_LEVELS128_H

#include <arm_neon.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/arm/tiles.h"
#include "kernels/levels.h"

static inline int8x16_t broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* The table of rows 4 * group ... + 3 as signed levels. */
static inline int8x16_t load_table(const uint8_t *from, unsigned bits, size_t group) {
    uint8x16_t bytes;
    if (bits == 1) /* two levels a row: the other two do not occur */
        bytes = vreinterpretq_u8_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(from + 8 * group))));
    else
        bytes = vld1q_u8(from + 16 * group);
    bytes = vandq_u8(bytes, vdupq_n_u8(BL_LEVELS_MASK));
    return vsubq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(BL_LEVELS_ZERO));
}

/* Rows 4 * group ... + 3 of one block of codes, n_groups x 4 columns, against n tokens. */
static inline __attribute__((always_inline)) void
add_codes(uint8x16_t v, int8x16_t table, int8x16_t salient_table, unsigned bits, size_t n_groups,
          unsigned salient, const int8_t *q, size_t q_stride, size_t n, dots4 *sums) {
    static const uint8_t row_bytes[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    static const uint8_t lane_bytes[16] = {1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8};
    const uint8x16_t mask = vdupq_n_u8(bits == 1 ? 1 : 3), rows = vld1q_u8(row_bytes);
    EACH (g, n_groups) {
        uint8x16_t at = vorrq_u8(vandq_u8(v, mask), rows);
        int8x16_t w = vqtbl1q_s8(table, at);
        if (salient) {
            uint8x16_t which =
                vtstq_u8(vdupq_n_u8((uint8_t)(salient >> 4 * g & 15)), vld1q_u8(lane_bytes));
            w = vbslq_s8(which, vqtbl1q_s8(salient_table, at), w);
        }
        EACH (t, n)
            sums[t] = dot4(sums[t], w, broadcast4(q + t * q_stride + 4 * g));
        v = bits == 1 ? vshrq_n_u8(v, 1) : vshrq_n_u8(v, 2);
    }
}

/* Rows 4 * group ... + 3 of one tile x n tokens (n, bits and salient constants after inlining). */
static inline __attribute__((always_inline)) void
group_dots(const bl__levels *w, size_t tile, size_t group, unsigned bits, bool salient,
           const int8_t *q, size_t q_stride, size_t n, dots4 *sums) {
    const uint8_t *table = bl__levels_table(w, tile);
    const uint8_t *codes = bl__levels_tile(w, tile) + bl__levels_codes_at(w);
    const uint8_t *bitmap = w->tensor + bl__levels_bitmap_at(w);
    size_t code_cols = bits == 1 ? BL_B1_COLS : BL_T2_COLS, left = w->cols;
    EACH (t, n)
        sums[t] = no_dots();
    for (size_t step = bl__levels_table_step(w); left > 0; table += step) {
        size_t n_cols = left < BL_BINARIZED_BLOCK ? left : BL_BINARIZED_BLOCK;
        int8x16_t plain = load_table(table, bits, group), other = plain;
        if (salient)
            other = load_table(table + 64, bits, group);
        left -= n_cols;
        while (n_cols > 0) {
            size_t here = n_cols < code_cols ? n_cols : code_cols;
            uint8x16_t v = vld1q_u8(codes + 16 * group);
            uint16_t which = 0;
            if (salient) {
                which = bl__load_u16(bitmap);
                bitmap += sizeof which;
            }
            if (bits == 1 && here <= BL_T2_COLS) /* activations: multiples of 16 columns */
                add_codes(v, plain, plain, bits, 4, 0, q, q_stride, n, sums);
            else if (salient && which)
                add_codes(v, plain, other, bits, code_cols / 4, which, q, q_stride, n, sums);
            else
                add_codes(v, plain, plain, bits, code_cols / 4, 0, q, q_stride, n, sums);
            codes += BL_T2_BLOCK_BYTES;
            q += code_cols;
            n_cols -= here;
        }
    }
}

/* The units of rows 4 * group ... + 3. */
static inline float32x4_t load_units(const uint8_t *units, bool b1, size_t group) {
    if (b1)
        return vreinterpretq_f32_u8(vld1q_u8(units + 16 * group));
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(units + 8 * group)));
}

/* Tokens first ... first + n - 1 with one tile. */
static inline __attribute__((always_inline)) void
some_tokens(const bl__levels *w, size_t tile, unsigned bits, bool salient, const bl__q8 *x,
            size_t first, size_t n, float *out, size_t out_stride) {
    const uint8_t *units = bl__levels_units(w, tile);
    size_t left = w->rows - tile * BL_T2_ROWS;
    for (size_t group = 0; group < 4 && 4 * group < left; group++) {
        size_t n_rows = left - 4 * group < 4 ? left - 4 * group : 4;
        dots4 sums[3];
        float four[4];
        group_dots(w, tile, group, bits, salient, x->q + first * x->stride, x->stride, n, sums);
        float32x4_t unit = load_units(units, w->b1, group);
        EACH (t, n) {
            float32x4_t y = vmulq_n_f32(vcvtq_f32_s32(finish(sums[t])), x->step[first + t]);
            vst1q_f32(four, vmulq_f32(y, unit));
            memcpy(out + (first + t) * out_stride + 4 * group, four, n_rows * sizeof *out);
        }
    }
}

/* Tokens come by threes, the digits of one. */
static inline __attribute__((always_inline)) void one_tile(const bl__levels *w, size_t tile,
                                                           unsigned bits, bool salient,
                                                           const bl__q8 *x, size_t n_tokens,
                                                           float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3)
        some_tokens(w, tile, bits, salient, x, t, 3, out, out_stride);
    for (; t < n_tokens; t++)
        some_tokens(w, tile, bits, salient, x, t, 1, out, out_stride);
}

static void levels_gemm(const bl__levels *w, size_t first_tile, size_t n_tiles, const bl__q8 *x,
                        size_t n_tokens, float *out, size_t out_stride) {
    for (size_t i = 0; i < n_tiles; i++, out += BL_T2_ROWS) {
        if (w->bits == 1)
            one_tile(w, first_tile + i, 1, false, x, n_tokens, out, out_stride);
        else if (w->salient)
            one_tile(w, first_tile + i, 2, true, x, n_tokens, out, out_stride);
        else
            one_tile(w, first_tile + i, 2, false, x, n_tokens, out, out_stride);
    }
}

#endif
