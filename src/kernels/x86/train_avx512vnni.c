/* Owns training's float32 kernels for AVX-512. See the contract in train_kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 32, MAX_ROWS = 8 };
PACKERS(FLOAT32, float32, PANEL)

/* m rows (a constant after inlining) x one panel. */
static inline __attribute__((always_inline)) void
tile(const char *a, size_t a_row, size_t a_unit, const float *b, size_t n_units, float *c,
     size_t ldc, size_t m, __mmask32 exists, bool accumulate, const char *next, size_t next_step) {
    __m512 sum[MAX_ROWS][2];
    const __mmask16 mask[2] = {(__mmask16)exists, (__mmask16)(exists >> 16)};
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            sum[i][h] = accumulate ? _mm512_maskz_loadu_ps(mask[h], c + i * ldc + 16 * h)
                                   : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++) /* the next rows' lines come while these are computed */
        for (size_t h = 0; h < 2; h++)
            __builtin_prefetch(c + (m + i) * ldc + 16 * h, 1);
    for (size_t g = 0; g < n_units; g++, b += PANEL, a += a_unit, next += next_step) {
        _mm_prefetch(next, _MM_HINT_T0);
        __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 8
        for (size_t i = 0; i < m; i++) {
            float value;
            memcpy(&value, a + i * a_row, sizeof value);
            __m512 x = _mm512_set1_ps(value);
            sum[i][0] = _mm512_fmadd_ps(x, b0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            _mm512_mask_storeu_ps(c + i * ldc + 16 * h, mask[h], sum[i][h]);
}

/* The whole tiles share the fetching of the next panel. */
static void multiply_float32(const void *a, size_t a_row, size_t a_unit, const void *b,
                             size_t n_units, float *c, size_t ldc, size_t m, size_t n,
                             bool accumulate, const void *next) {
    const char *from = a, *fetch = next && m >= MAX_ROWS ? next : b;
    size_t step = next && m >= MAX_ROWS ? PANEL * 4 / (m / MAX_ROWS) : 0;
    __mmask32 exists = n < PANEL ? (1u << n) - 1 : ~0u;
    for (; m >= MAX_ROWS; m -= MAX_ROWS, from += MAX_ROWS * a_row, c += MAX_ROWS * ldc) {
        tile(from, a_row, a_unit, b, n_units, c, ldc, MAX_ROWS, exists, accumulate, fetch, step);
        fetch += n_units * step;
    }
    for (; m >= 2; m -= 2, from += 2 * a_row, c += 2 * ldc)
        tile(from, a_row, a_unit, b, n_units, c, ldc, 2, exists, accumulate, from, 0);
    if (m)
        tile(from, a_row, a_unit, b, n_units, c, ldc, 1, exists, accumulate, from, 0);
}

void bl__train_fill_avx512vnni(bl__train_kernels *table) {
    fill_loops(table);
    table->float32 = (bl__gemm){"float32 avx512",
                                1,
                                PANEL,
                                pack_row_float32,
                                pack_panels_float32,
                                pack_panels_i8_float32,
                                pack_panels_t_float32,
                                multiply_float32,
                                softmax_float32,
                                softmax_backward_float32};
}
