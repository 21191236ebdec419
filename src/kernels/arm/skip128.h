/* Owns the products that leave out rows and columns in 128-bit registers, for the levels whose
 * files include it and bring their sums of four rows, or of four bytes of one row:
 *
 *     enum { PLANES_AT_ONCE };                                  of columns: 4 x 4 sums for each
 *     typedef ... dots4;
 *     static inline dots4 no_dots(void);
 *     static inline dots4 dot4(dots4 sum, uint8x16_t codes, int8x16_t q);
 *     static inline int32x4_t finish(dots4 sum);
 *
 * dot4 adds the products of each four bytes; a sum must hold SAFE_DOTS of them, 0 <= code <= 3. */
#ifndef BL_KERNELS_ARM_SKIP128_H
#define BL_KERNELS_ARM_SKIP128_H

#include <arm_neon.h>

#include "kernels/arm/tiles.h"
#include "kernels/levels.h"
#include "kernels/skip_loops.h"

enum {
    SAFE_DOTS = 80,
    SAFE_BLOCKS = 10,  /* of a row: 16 dots each, in two sums */
    QUADS_AT_ONCE = 32 /* of columns: one dot each */
};
static_assert(SAFE_BLOCKS * 8 <= SAFE_DOTS && QUADS_AT_ONCE <= SAFE_DOTS, "sums hold this");

/* Plane p of 16 bytes (p a constant after unrolling). */
static inline __attribute__((always_inline)) uint8x16_t plane(uint8x16_t w, size_t p) {
    const uint8x16_t three = vdupq_n_u8(3);
    return p == 0   ? vandq_u8(w, three)
           : p == 1 ? vandq_u8(vshrq_n_u8(w, 2), three)
           : p == 2 ? vandq_u8(vshrq_n_u8(w, 4), three)
                    : vshrq_n_u8(w, 6);
}

/* Four rows against the token. dots[k] of row k; ahead[k] is asked for. */
static inline void four_rows(const uint8_t *const row[ROWS_AT_ONCE],
                             const uint8_t *const ahead[ROWS_AT_ONCE], size_t bytes,
                             const int8_t *q, int32_t dots[ROWS_AT_ONCE]) {
    int32x4_t totals[ROWS_AT_ONCE];
    EACH (k, ROWS_AT_ONCE)
        totals[k] = vdupq_n_s32(0);
    for (size_t b = 0, end; b < bytes; b = end) {
        dots4 sums[ROWS_AT_ONCE][2];
        end = b + SAFE_BLOCKS * BL_SKIP_BLOCK_BYTES;
        end = end < bytes ? end : bytes;
        EACH (k, ROWS_AT_ONCE)
            sums[k][0] = sums[k][1] = no_dots();
        for (; b < end; b += BL_SKIP_BLOCK_BYTES, q += BL_SKIP_BLOCK) {
            EACH (k, ROWS_AT_ONCE)
                __builtin_prefetch(ahead[k] + b);
#pragma GCC unroll 1
            for (size_t i = 0; i < BL_SKIP_BLOCK_BYTES; i += 16) {
                int8x16_t x[4];
                EACH (p, 4)
                    x[p] = vld1q_s8(q + 64 * p + i);
                EACH (k, ROWS_AT_ONCE) {
                    uint8x16_t w = vld1q_u8(row[k] + b + i);
                    EACH (p, 4)
                        sums[k][p % 2] = dot4(sums[k][p % 2], plane(w, p), x[p]);
                }
            }
        }
        EACH (k, ROWS_AT_ONCE)
            totals[k] = vaddq_s32(totals[k], vaddq_s32(finish(sums[k][0]), finish(sums[k][1])));
    }
    EACH (k, ROWS_AT_ONCE)
        dots[k] = vaddvq_s32(totals[k]);
}

static void listed_rows(const uint8_t *tensor, size_t rows, size_t cols, const uint32_t *list,
                        size_t n, const int8_t *q, int32_t sum, float step, float *out) {
    bl__listed_rows(four_rows, tensor, rows, cols, list, n, q, sum, step, out);
}

/* Up to QUADS_AT_ONCE x 4 entries in a quarter of a group, 16 bytes of each column: rows 64p + 16s
 * ... + 3 of PLANES_AT_ONCE planes from `from` on (a constant after inlining). */
static inline __attribute__((always_inline)) void some_planes(const uint8_t *quarter, size_t stride,
                                                              const uint32_t *list, size_t n_quads,
                                                              size_t from, int32_t *dots) {
    dots4 sums[PLANES_AT_ONCE][4];
    EACH (p, PLANES_AT_ONCE)
        EACH (s, 4)
            sums[p][s] = no_dots();
    for (size_t i = 0; i < n_quads; i++, list += 4) {
        uint32_t four = (list[0] & 255) | (list[1] & 255) << 8 | (list[2] & 255) << 16 |
                        list[3] << 24; /* their activations */
        int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(four));
        uint8x16_t a = vld1q_u8(quarter + (list[0] >> 8) * stride);
        uint8x16_t b = vld1q_u8(quarter + (list[1] >> 8) * stride);
        uint8x16_t c = vld1q_u8(quarter + (list[2] >> 8) * stride);
        uint8x16_t d = vld1q_u8(quarter + (list[3] >> 8) * stride);
        uint16x8_t ab0 = vreinterpretq_u16_u8(vzip1q_u8(a, b));
        uint16x8_t ab1 = vreinterpretq_u16_u8(vzip2q_u8(a, b));
        uint16x8_t cd0 = vreinterpretq_u16_u8(vzip1q_u8(c, d));
        uint16x8_t cd1 = vreinterpretq_u16_u8(vzip2q_u8(c, d));
        const uint16x8_t w[4] = {vzip1q_u16(ab0, cd0), vzip2q_u16(ab0, cd0), vzip1q_u16(ab1, cd1),
                                 vzip2q_u16(ab1, cd1)};
        EACH (s, 4)
            EACH (p, PLANES_AT_ONCE)
                sums[p][s] = dot4(sums[p][s], plane(vreinterpretq_u8_u16(w[s]), from + p), x);
    }
    EACH (p, PLANES_AT_ONCE)
        EACH (s, 4) {
            int32_t *to = dots + 64 * (from + p) + 16 * s;
            vst1q_s32(to, vaddq_s32(vld1q_s32(to), finish(sums[p][s])));
        }
}

static void some_quads(const uint8_t *group, size_t stride, const uint32_t *list, size_t n_quads,
                       int32_t *dots) {
    for (size_t l = 0; l < 4; l++)
        EACH (i, 4 / PLANES_AT_ONCE)
            some_planes(group + 16 * l, stride, list, n_quads, i * PLANES_AT_ONCE, dots + 4 * l);
}

static void listed_columns(const uint8_t *tensor, size_t rows, const uint32_t *list, size_t n,
                           size_t first_group, size_t n_groups, int32_t *dots) {
    bl__listed_columns(some_quads, QUADS_AT_ONCE, tensor, rows, list, n, first_group, n_groups,
                       dots);
}

#endif
