/* Owns the scalar truth of the dense products. */
#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 16 };
PACKERS(FLOAT32, float32, PANEL)
PACKERS(BF16, bf16, PANEL)
PACKERS_INT8(PANEL)
MULTIPLY_INT8(PANEL)

static float load_float(const void *unit) {
    float x;
    memcpy(&x, unit, sizeof x);
    return x;
}

static uint32_t load_unit(const void *unit) {
    uint32_t x;
    memcpy(&x, unit, sizeof x);
    return x;
}

static void multiply_float32(const void *a, size_t a_row, size_t a_unit, const void *b,
                             size_t n_units, float *c, size_t ldc, size_t m, size_t n,
                             bool accumulate, const void *next) {
    (void)next;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float sum = accumulate ? c[i * ldc + j] : 0.0f;
            for (size_t g = 0; g < n_units; g++)
                sum = fmaf(load_float((const char *)a + i * a_row + g * a_unit),
                           load_float((const char *)b + (g * PANEL + j) * 4), sum);
            c[i * ldc + j] = sum;
        }
}

static void multiply_bf16(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                          float *c, size_t ldc, size_t m, size_t n, bool accumulate,
                          const void *next) {
    (void)next;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float sum = accumulate ? c[i * ldc + j] : 0.0f;
            for (size_t g = 0; g < n_units; g++) {
                uint32_t x = load_unit((const char *)a + i * a_row + g * a_unit);
                uint32_t y = load_unit((const char *)b + (g * PANEL + j) * 4);
                sum = fmaf(bl__bits_f32(x & 0xffff0000u), bl__bits_f32(y & 0xffff0000u), sum);
                sum = fmaf(bl__bits_f32(x << 16), bl__bits_f32(y << 16), sum);
            }
            c[i * ldc + j] = sum;
        }
}

void bl__train_fill_ref(bl__train_kernels *table) {
    fill_loops(table);
    table->float32 = (bl__gemm){"float32 ref",
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
    table->bf16 = (bl__gemm){"bf16 ref",
                             2,
                             PANEL,
                             2,
                             1,
                             pack_row_bf16,
                             pack_panels_bf16,
                             pack_panels_i8_bf16,
                             pack_panels_t_bf16,
                             multiply_bf16,
                             softmax_bf16,
                             softmax_backward_bf16};
    table->int8 = gemm_int8("int8 ref");
    table->int8.multiply = multiply_loop_int8;
    table->native_bf16 = false;
}
