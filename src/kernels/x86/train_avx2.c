/* Owns training's kernels for AVX2 + FMA. See the contract in train_kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 16, MAX_ROWS = 6, INT8_ROWS = 4 };
PACKERS(FLOAT32, float32, PANEL)
PACKERS_INT8(PANEL)

/* m rows (a constant after inlining) x one panel. */
static inline __attribute__((always_inline)) void tile(const char *a, size_t a_row, size_t a_unit,
                                                       const float *b, size_t n_units, float *c,
                                                       size_t ldc, size_t m, size_t n,
                                                       bool accumulate) {
    __m256 sum[MAX_ROWS][2];
    float edge[MAX_ROWS][PANEL] = {{0}};
    size_t ld = n < PANEL ? PANEL : ldc;
    float *to = n < PANEL ? edge[0] : c;
    for (size_t i = 0; n < PANEL && accumulate && i < m; i++)
        memcpy(edge[i], c + i * ldc, n * sizeof *c);
#pragma GCC unroll 6
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            sum[i][h] = accumulate ? _mm256_loadu_ps(to + i * ld + 8 * h) : _mm256_setzero_ps();
    for (size_t g = 0; g < n_units; g++, b += PANEL, a += a_unit) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (size_t i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss((const float *)(const void *)(a + i * a_row));
            sum[i][0] = _mm256_fmadd_ps(x, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            _mm256_storeu_ps(to + i * ld + 8 * h, sum[i][h]);
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

/* Bytes as pairs of 16 bits: the first and third of each column, and the second and fourth. */
typedef struct b_row {
    __m256i even[2], odd[2];
} b_row;

static inline b_row load_row(const __m256i *b) {
    const __m256i bytes = _mm256_set1_epi16(255);
    b_row row;
    for (size_t h = 0; h < 2; h++) {
        row.even[h] = _mm256_and_si256(_mm256_loadu_si256(b + h), bytes);
        row.odd[h] = _mm256_srli_epi16(_mm256_loadu_si256(b + h), 8);
    }
    return row;
}

static inline __attribute__((always_inline)) void add_products(__m256i sum[2], const b_row *b,
                                                               __m256i a) {
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8), odd = _mm256_srai_epi16(a, 8);
    for (size_t h = 0; h < 2; h++) {
        sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(b->even[h], even));
        sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(b->odd[h], odd));
    }
}

#include "kernels/x86/train_int8_256.h"

void bl__train_fill_avx2(bl__train_kernels *table) {
    fill_loops(table);
    table->float32 = (bl__gemm){"float32 avx2",
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
    table->int8 = gemm_int8("int8 avx2");
    table->int8.multiply = multiply_int8;
}
