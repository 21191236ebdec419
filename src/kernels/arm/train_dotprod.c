/* Owns training's int8 products for ARM's dot products. See the contract in train_kernels.h. */
#include <arm_neon.h>

#include "kernels/arm/tiles.h"
#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 16, MAX_ROWS = 5 };
PACKERS_INT8(PANEL)

/* m rows (a constant after inlining) x one panel: a block's sums, 20 registers, C's on the stack.
 * Values of B are larger by 128; those of A are signed here, so that their sums are not wanted. */
static inline __attribute__((always_inline)) void tile(const char *a, size_t a_row, size_t a_unit,
                                                       const char *b, size_t n_units, float *c,
                                                       size_t ldc, size_t m, size_t n,
                                                       bool accumulate) {
    const uint8x16_t offset = vdupq_n_u8(128);
    float total[MAX_ROWS][PANEL] = {{0}};
    for (size_t i = 0; accumulate && i < m; i++)
        memcpy(total[i], c + i * ldc, n * sizeof *c);
    for (size_t at = 0; at < n_units; at += INT8_UNITS) {
        int32x4_t sums[MAX_ROWS][4];
        EACH (i, m)
            EACH (h, 4)
                sums[i][h] = vdupq_n_s32(0);
        for (size_t g = 0; g < INT8_VALUE_UNITS; g++, b += PANEL * 4, a += a_unit) {
            int8x16_t row[4];
            EACH (h, 4)
                row[h] =
                    vreinterpretq_s8_u8(veorq_u8(vld1q_u8((const uint8_t *)b + 16 * h), offset));
            EACH (i, m) {
                int8x16_t x = vreinterpretq_s8_s32(
                    vld1q_dup_s32((const int32_t *)(const void *)(a + i * a_row)));
                EACH (h, 4)
                    sums[i][h] = vdotq_s32(sums[i][h], row[h], x);
            }
        }
        EACH (i, m) {
            float step = *(const float *)(const void *)(a + i * a_row);
            EACH (h, 4)
                vst1q_f32(total[i] + 4 * h, vfmaq_n_f32(vld1q_f32(total[i] + 4 * h),
                                                        vcvtq_f32_s32(sums[i][h]), step));
        }
        a += (INT8_UNITS - INT8_VALUE_UNITS) * a_unit;
        b += (INT8_UNITS - INT8_VALUE_UNITS) * PANEL * 4;
    }
    for (size_t i = 0; i < m; i++)
        memcpy(c + i * ldc, total[i], n * sizeof *c);
}

static void multiply_int8(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                          float *c, size_t ldc, size_t m, size_t n, bool accumulate,
                          const void *next) {
    (void)next;
    const char *from = a;
    for (; m >= MAX_ROWS; m -= MAX_ROWS, from += MAX_ROWS * a_row, c += MAX_ROWS * ldc)
        tile(from, a_row, a_unit, b, n_units, c, ldc, MAX_ROWS, n, accumulate);
    for (; m; m--, from += a_row, c += ldc)
        tile(from, a_row, a_unit, b, n_units, c, ldc, 1, n, accumulate);
}

void bl__train_fill_dotprod(bl__train_kernels *table) {
    table->int8 = gemm_int8("int8 dotprod");
    table->int8.multiply = multiply_int8;
}
