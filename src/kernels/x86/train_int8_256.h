/* Training's int8 products in 256-bit registers, for a level that gives INT8_ROWS, what it makes of
 * a unit row of B, b_row load_row(const __m256i[2]), and add_products(__m256i sum[2], const b_row
 * *,
 * __m256i a), which adds the products with four bytes of A to 16 sums. */
#ifndef BL_KERNELS_X86_TRAIN_INT8_256_H
#define BL_KERNELS_X86_TRAIN_INT8_256_H

static inline int load_unit(const char *unit) {
    int x;
    memcpy(&x, unit, sizeof x);
    return x;
}

/* m rows (a constant after inlining) of c[m][ldc] x one whole panel: a block's sums in registers,
 * C's on the stack. */
static inline __attribute__((always_inline)) void tile_int8(const char *a, size_t a_row,
                                                            size_t a_unit, const char *b,
                                                            size_t n_units, float *c, size_t ldc,
                                                            size_t m, bool accumulate) {
    __m256 total[INT8_ROWS][2];
#pragma GCC unroll 6
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            total[i][h] = accumulate ? _mm256_loadu_ps(c + i * ldc + 8 * h) : _mm256_setzero_ps();
    for (size_t at = 0; at < n_units; at += INT8_UNITS) {
        __m256i sum[INT8_ROWS][2];
        const char *last = a + INT8_VALUE_UNITS * a_unit;
#pragma GCC unroll 6
        for (size_t i = 0; i < m; i++)
            sum[i][0] = sum[i][1] = _mm256_set1_epi32(load_unit(last + i * a_row + a_unit));
        for (size_t g = 0; g < INT8_VALUE_UNITS; g++, b += PANEL * 4, a += a_unit) {
            const b_row row = load_row((const __m256i *)(const void *)b);
#pragma GCC unroll 6
            for (size_t i = 0; i < m; i++)
                add_products(sum[i], &row, _mm256_set1_epi32(load_unit(a + i * a_row)));
        }
        a += (INT8_UNITS - INT8_VALUE_UNITS) * a_unit;
        b += (INT8_UNITS - INT8_VALUE_UNITS) * PANEL * 4;
#pragma GCC unroll 6
        for (size_t i = 0; i < m; i++) {
            __m256 step = _mm256_castsi256_ps(_mm256_set1_epi32(load_unit(last + i * a_row)));
            for (size_t h = 0; h < 2; h++)
                total[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]), step, total[i][h]);
        }
    }
#pragma GCC unroll 6
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            _mm256_storeu_ps(c + i * ldc + 8 * h, total[i][h]);
}

/* m <= INT8_ROWS rows x a panel of n columns, of which there may be fewer in C. */
static void edge_tile(const char *a, size_t a_row, size_t a_unit, const char *b, size_t n_units,
                      float *c, size_t ldc, size_t m, size_t n, bool accumulate) {
    float edge[INT8_ROWS][PANEL] = {{0}};
    for (size_t i = 0; accumulate && i < m; i++)
        memcpy(edge[i], c + i * ldc, n * sizeof *c);
    for (size_t i = 0; i < m; i++)
        tile_int8(a + i * a_row, a_row, a_unit, b, n_units, edge[i], PANEL, 1, accumulate);
    for (size_t i = 0; i < m; i++)
        memcpy(c + i * ldc, edge[i], n * sizeof *c);
}

static void multiply_int8(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                          float *c, size_t ldc, size_t m, size_t n, bool accumulate,
                          const void *next) {
    (void)next;
    const char *from = a;
    for (; n == PANEL && m >= INT8_ROWS; m -= INT8_ROWS) {
        tile_int8(from, a_row, a_unit, b, n_units, c, ldc, INT8_ROWS, accumulate);
        from += INT8_ROWS * a_row;
        c += INT8_ROWS * ldc;
    }
    for (; n == PANEL && m >= 2; m -= 2, from += 2 * a_row, c += 2 * ldc)
        tile_int8(from, a_row, a_unit, b, n_units, c, ldc, 2, accumulate);
    for (size_t rows; m; m -= rows, from += rows * a_row, c += rows * ldc) {
        rows = m < INT8_ROWS ? m : INT8_ROWS;
        edge_tile(from, a_row, a_unit, b, n_units, c, ldc, rows, n, accumulate);
    }
}

#endif
