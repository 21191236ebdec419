/* Owns training's float products for NEON. See the contract in train_kernels.h; the loops of ref
 * are NEON already, as every 64-bit ARM compiler takes it for granted. */
#include <arm_neon.h>

#include "kernels/arm/tiles.h"
#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 16, MAX_ROWS = 6 };
PACKERS(FLOAT32, float32, PANEL)
PACKERS_INT8(PANEL)
MULTIPLY_INT8(PANEL)

/* m rows (a constant after inlining) x one panel: 24 sums, a row of B and one of A's elements. */
static inline __attribute__((always_inline)) void tile(const char *a, size_t a_row, size_t a_unit,
                                                       const float *b, size_t n_units, float *c,
                                                       size_t ldc, size_t m, size_t n,
                                                       bool accumulate) {
    float32x4_t sums[MAX_ROWS][4];
    float edge[MAX_ROWS][PANEL] = {{0}};
    size_t ld = n < PANEL ? PANEL : ldc;
    float *to = n < PANEL ? edge[0] : c;
    for (size_t i = 0; n < PANEL && accumulate && i < m; i++)
        memcpy(edge[i], c + i * ldc, n * sizeof *c);
    EACH (i, m)
        EACH (h, 4)
            sums[i][h] = accumulate ? vld1q_f32(to + i * ld + 4 * h) : vdupq_n_f32(0.0f);
    for (size_t g = 0; g < n_units; g++, b += PANEL, a += a_unit) {
        float32x4_t row[4];
        EACH (h, 4)
            row[h] = vld1q_f32(b + 4 * h);
        EACH (i, m) {
            float x = *(const float *)(const void *)(a + i * a_row);
            EACH (h, 4)
                sums[i][h] = vfmaq_n_f32(sums[i][h], row[h], x);
        }
    }
    EACH (i, m)
        EACH (h, 4)
            vst1q_f32(to + i * ld + 4 * h, sums[i][h]);
    for (size_t i = 0; n < PANEL && i < m; i++)
        memcpy(c + i * ldc, edge[i], n * sizeof *c);
}

static void multiply_float32(const void *a, size_t a_row, size_t a_unit, const void *b,
                             size_t n_units, float *c, size_t ldc, size_t m, size_t n,
                             bool accumulate, const void *next) {
    (void)next;
    const char *from = a;
    for (; m >= MAX_ROWS; m -= MAX_ROWS, from += MAX_ROWS * a_row, c += MAX_ROWS * ldc)
        tile(from, a_row, a_unit, b, n_units, c, ldc, MAX_ROWS, n, accumulate);
    for (; m >= 2; m -= 2, from += 2 * a_row, c += 2 * ldc)
        tile(from, a_row, a_unit, b, n_units, c, ldc, 2, n, accumulate);
    if (m)
        tile(from, a_row, a_unit, b, n_units, c, ldc, 1, n, accumulate);
}

void bl__train_fill_neon(bl__train_kernels *table) {
    fill_loops(table);
    table->float32 = (bl__gemm){"float32 neon",
                                1,
                                PANEL,
                                1,
                                1,
                                pack_row_float32,
                                pack_panels_float32,
                                pack_panels_i8_float32,
                                pack_panels_t_float32,
                                multiply_float32,
                                softmax_float32,
                                softmax_backward_float32};
    table->int8 = gemm_int8("int8 neon");
    table->int8.multiply = multiply_loop_int8;
}
