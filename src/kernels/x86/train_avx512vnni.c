/* Owns training's float32 and int8 products for AVX-512. See the contract in train_kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 32, MAX_ROWS = 8, STRIPS = 8 };
PACKERS(FLOAT32, float32, PANEL)
PACKERS_INT8(PANEL)

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

/* ---- int8 ---- */

static inline __mmask16 first_lanes(size_t n) {
    return n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
}

static inline __m512i magnitude(__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/* 64 rounded values as they lie in k. */
static inline __m512i join_bytes(const __m512i q[4]) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    return _mm512_permutexvar_epi32(order, bytes);
}

static inline __m512i sum_bytes(__m512i sum, __m512i bytes) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), bytes);
}

/* n <= 64 values times factor, as a block's units: integers at most 127, so that no pack saturates.
 */
static void pack_row_block(const float *x, size_t n, float factor, char *to) {
    __m512 v[4], scale = _mm512_set1_ps(factor);
    __m512i q[4], max = _mm512_setzero_si512();
    for (size_t p = 0; p < 4; p++) {
        __mmask16 m = first_lanes(n > 16 * p ? n - 16 * p : 0);
        v[p] = _mm512_maskz_mul_ps(m, _mm512_maskz_loadu_ps(m, x + 16 * p), scale);
        max = _mm512_max_epi32(max, magnitude(v[p]));
    }
    float step, inverse;
    int8_step((uint32_t)_mm512_reduce_max_epi32(max), &step, &inverse);
    for (size_t p = 0; p < 4; p++)
        q[p] = _mm512_cvtps_epi32(_mm512_mul_ps(v[p], _mm512_set1_ps(inverse)));
    __m512i bytes = join_bytes(q);
    int32_t bias = -128 * _mm512_reduce_add_epi32(sum_bytes(_mm512_setzero_si512(), bytes));
    _mm512_storeu_si512(to, bytes);
    memcpy(to + INT8_VALUE_UNITS * 4, &step, sizeof step);
    memcpy(to + INT8_VALUE_UNITS * 4 + 4, &bias, sizeof bias);
}

/* The sum, or the largest, of each of four vectors. */
static inline __attribute__((always_inline)) __m128i fold_four(const __m512i x[4], bool adds) {
#define FOLD(a, b) (adds ? _mm512_add_epi32(a, b) : _mm512_max_epi32(a, b))
    __m512i low = FOLD(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    __m512i high = FOLD(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    low = FOLD(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    low = FOLD(low, _mm512_shuffle_i32x4(low, low, 0x4e));
    low = FOLD(low, _mm512_shuffle_i32x4(low, low, 0xb1));
#undef FOLD
    return _mm512_castsi512_si128(low);
}

/* Four blocks at once, which share what is done once a block. */
static void pack_row_blocks(const float *x, float factor, char *to) {
    const size_t bytes_apart = INT8_UNITS * 4;
    __m512 v[4][4], scale = _mm512_set1_ps(factor);
    __m512i max[4], sum[4];
#pragma GCC unroll 4
    for (size_t b = 0; b < 4; b++) {
        max[b] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++) {
            v[b][p] = _mm512_mul_ps(_mm512_loadu_ps(x + 64 * b + 16 * p), scale);
            max[b] = _mm512_max_epi32(max[b], magnitude(v[b][p]));
        }
    }
    /* int8_step() of each */
    const __m128i bits = fold_four(max, false);
    const __m128 most = _mm_castsi128_ps(bits), all = _mm_set1_ps(127.0f);
    const __mmask8 finite = _mm_cmplt_epi32_mask(bits, _mm_set1_epi32(0x7f800000));
    const __mmask8 some = _mm_cmp_ps_mask(most, _mm_set1_ps(1e-30f), _CMP_NLT_UQ);
    const __m512 inverse = _mm512_castps128_ps512(_mm_maskz_div_ps(some & finite, all, most));
    __m128i step = _mm_castps_si128(
        _mm_mask_blend_ps(finite, _mm_set1_ps(NAN), _mm_maskz_div_ps(some, most, all)));
#pragma GCC unroll 4
    for (size_t b = 0; b < 4; b++) {
        const __m512 own = _mm512_permutexvar_ps(_mm512_set1_epi32((int)b), inverse);
        __m512i q[4];
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            q[p] = _mm512_cvtps_epi32(_mm512_mul_ps(v[b][p], own));
        __m512i bytes = join_bytes(q);
        sum[b] = sum_bytes(_mm512_setzero_si512(), bytes);
        _mm512_storeu_si512(to + b * bytes_apart, bytes);
    }
    const __m128i bias = _mm_mullo_epi32(fold_four(sum, true), _mm_set1_epi32(-128));
    const __m128i pairs[2] = {_mm_unpacklo_epi32(step, bias), _mm_unpackhi_epi32(step, bias)};
    for (size_t b = 0; b < 4; b++)
        memcpy(to + b * bytes_apart + INT8_VALUE_UNITS * 4, (const char *)pairs + 8 * b, 8);
}

static void round_row_int8(const float *x, size_t k, float scale, void *out) {
    char *to = out;
    size_t at = 0;
    for (; at + 4 * INT8_BLOCK <= k; at += 4 * INT8_BLOCK, to += 4 * INT8_UNITS * 4)
        pack_row_blocks(x + at, scale, to);
    for (; at < k; at += INT8_BLOCK, to += INT8_UNITS * 4)
        pack_row_block(x + at, k - at, scale, to);
}

/* n strips (a constant after inlining) of 16 columns of a block: n_rows rows, ldb apart. Rows are
 * read in pieces as long as registers allow, because a line here and there waits for the second
 * cache. */
static inline __attribute__((always_inline)) void pack_strips(const float *b, size_t ldb,
                                                              size_t n_rows, size_t n,
                                                              __mmask16 columns, const float *scale,
                                                              char *to, size_t panel_bytes) {
    const __m512i transpose =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512 all = _mm512_set1_ps(127.0f);
    __m512i max[STRIPS], sum[STRIPS];
    __m512 inverse[STRIPS];
#pragma GCC unroll 8
    for (size_t s = 0; s < n; s++)
        max[s] = sum[s] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_rows; i++) {
        __m512 factor = _mm512_set1_ps(scale ? scale[i] : 1.0f);
#pragma GCC unroll 8
        for (size_t s = 0; s < n; s++) {
            __m512 x = _mm512_maskz_loadu_ps(columns, b + i * ldb + 16 * s);
            max[s] = _mm512_max_epi32(max[s], magnitude(_mm512_maskz_mul_ps(columns, x, factor)));
        }
    }
    char *end = to + INT8_VALUE_UNITS * PANEL * 4;
#pragma GCC unroll 8
    for (size_t s = 0; s < n; s++) { /* int8_step() of each */
        const __m512 most = _mm512_castsi512_ps(max[s]);
        const __mmask16 finite = _mm512_cmplt_epi32_mask(max[s], _mm512_set1_epi32(0x7f800000));
        const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(1e-30f), _CMP_NLT_UQ);
        inverse[s] = _mm512_maskz_div_ps(some & finite, all, most);
        _mm512_storeu_ps(end + s / 2 * panel_bytes + s % 2 * 64,
                         _mm512_mask_blend_ps(finite, _mm512_set1_ps(NAN),
                                              _mm512_maskz_div_ps(some, most, all)));
    }
    for (size_t i = 0; i < INT8_BLOCK; i += 4, to += PANEL * 4) {
        const float *from[4];
        __m512 factor[4];
        __mmask16 mask[4];
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++) {
            size_t row = i + p < n_rows ? i + p : 0;
            from[p] = b + row * ldb;
            mask[p] = i + p < n_rows ? columns : 0;
            factor[p] = _mm512_set1_ps(scale ? scale[row] : 1.0f);
        }
#pragma GCC unroll 8
        for (size_t s = 0; s < n; s++) {
            __m512i q[4];
#pragma GCC unroll 4
            for (size_t p = 0; p < 4; p++) {
                __m512 x = _mm512_maskz_loadu_ps(mask[p], from[p] + 16 * s);
                x = _mm512_maskz_mul_ps(mask[p], x, factor[p]);
                q[p] = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse[s]));
            }
            __m512i bytes =
                _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
            bytes = _mm512_shuffle_epi8(bytes, transpose);
            sum[s] = sum_bytes(sum[s], bytes);
            _mm512_storeu_si512(to + s / 2 * panel_bytes + s % 2 * 64, bytes);
        }
    }
#pragma GCC unroll 8
    for (size_t s = 0; s < n; s++)
        _mm512_storeu_si512(end + PANEL * 4 + s / 2 * panel_bytes + s % 2 * 64,
                            _mm512_mullo_epi32(sum[s], _mm512_set1_epi32(-128)));
}

static __attribute__((noinline)) void pack_wide(const float *b, size_t ldb, size_t n_rows,
                                                const float *scale, char *to, size_t panel_bytes) {
    pack_strips(b, ldb, n_rows, STRIPS, 0xffff, scale, to, panel_bytes);
}
static __attribute__((noinline)) void pack_columns(const float *b, size_t ldb, size_t n_rows,
                                                   __mmask16 columns, const float *scale,
                                                   char *to) {
    pack_strips(b, ldb, n_rows, 1, columns, scale, to, 0);
}

static void round_panels_int8(const float *b, size_t ldb, size_t k, size_t n, const float *scale,
                              void *out, size_t panel_bytes) {
    for (size_t i = 0; i < k; i += INT8_BLOCK) {
        const float *from = b + i * ldb, *factors = scale ? scale + i : NULL;
        size_t n_rows = k - i < INT8_BLOCK ? k - i : INT8_BLOCK, j = 0;
        char *to = (char *)out + i / INT8_BLOCK * INT8_UNITS * PANEL * 4;
        for (; j + 16 * STRIPS <= n; j += 16 * STRIPS, to += STRIPS / 2 * panel_bytes)
            pack_wide(from + j, ldb, n_rows, factors, to, panel_bytes);
        for (; j < n; j += PANEL, to += panel_bytes) {
            pack_columns(from + j, ldb, n_rows, first_lanes(n - j), factors, to);
            pack_columns(from + j + 16, ldb, n_rows, first_lanes(n - j > 16 ? n - j - 16 : 0),
                         factors, to + 64);
        }
    }
}

static inline int load_unit(const char *unit) {
    int x;
    memcpy(&x, unit, sizeof x);
    return x;
}

/* The intrinsic, told to stay where it is: gcc moves sums from register to register around it. */
static inline __attribute__((always_inline)) void add_products(__m512i *sum, __m512i b, __m512i a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(b), "v"(a));
}

/* m rows (a constant after inlining) x one panel: a block's sums in registers, C's on the stack. */
static inline __attribute__((always_inline)) void
tile_int8(const char *a, size_t a_row, size_t a_unit, const char *b, size_t n_units, float *c,
          size_t ldc, size_t m, __mmask32 exists, bool accumulate, const char *next,
          size_t next_step) {
    __m512 total[MAX_ROWS][2];
    const __mmask16 mask[2] = {(__mmask16)exists, (__mmask16)(exists >> 16)};
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            total[i][h] = accumulate ? _mm512_maskz_loadu_ps(mask[h], c + i * ldc + 16 * h)
                                     : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++) /* the next rows' lines come while these are computed */
        for (size_t h = 0; h < 2; h++)
            __builtin_prefetch(c + (m + i) * ldc + 16 * h, 1);
    for (size_t at = 0; at < n_units; at += INT8_UNITS) {
        __m512i sum[MAX_ROWS][2];
        const char *last = a + INT8_VALUE_UNITS * a_unit;
#pragma GCC unroll 8
        for (size_t i = 0; i < m; i++)
            sum[i][0] = sum[i][1] = _mm512_set1_epi32(load_unit(last + i * a_row + a_unit));
        for (size_t g = 0; g < INT8_VALUE_UNITS; g++, b += PANEL * 4, a += a_unit) {
            _mm_prefetch(next, _MM_HINT_T0);
            next += next_step;
            __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 64);
#pragma GCC unroll 8
            for (size_t i = 0; i < m; i++) {
                __m512i x = _mm512_set1_epi32(load_unit(a + i * a_row));
                add_products(&sum[i][0], b0, x);
                add_products(&sum[i][1], b1, x);
            }
        }
        for (size_t g = INT8_VALUE_UNITS; g < INT8_UNITS; g++, b += PANEL * 4, a += a_unit) {
            _mm_prefetch(next, _MM_HINT_T0);
            next += next_step;
        }
#pragma GCC unroll 8
        for (size_t i = 0; i < m; i++) {
            __m512 step = _mm512_castsi512_ps(_mm512_set1_epi32(load_unit(last + i * a_row)));
            for (size_t h = 0; h < 2; h++)
                total[i][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][h]), step, total[i][h]);
        }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            _mm512_mask_storeu_ps(c + i * ldc + 16 * h, mask[h], total[i][h]);
}

static void multiply_int8(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                          float *c, size_t ldc, size_t m, size_t n, bool accumulate,
                          const void *next) {
    const char *from = a, *fetch = next && m >= MAX_ROWS ? next : b;
    size_t step = next && m >= MAX_ROWS ? PANEL * 4 / (m / MAX_ROWS) : 0;
    __mmask32 exists = n < PANEL ? (1u << n) - 1 : ~0u;
    for (; m >= MAX_ROWS; m -= MAX_ROWS, from += MAX_ROWS * a_row, c += MAX_ROWS * ldc) {
        tile_int8(from, a_row, a_unit, b, n_units, c, ldc, MAX_ROWS, exists, accumulate, fetch,
                  step);
        fetch += n_units * step;
    }
    for (; m >= 2; m -= 2, from += 2 * a_row, c += 2 * ldc)
        tile_int8(from, a_row, a_unit, b, n_units, c, ldc, 2, exists, accumulate, from, 0);
    if (m)
        tile_int8(from, a_row, a_unit, b, n_units, c, ldc, 1, exists, accumulate, from, 0);
}

void bl__train_fill_avx512vnni(bl__train_kernels *table) {
    fill_loops(table);
    table->float32 = (bl__gemm){"float32 avx512",
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
    table->int8 = gemm_int8("int8 avx512vnni");
    table->int8.pack_row = round_row_int8;
    table->int8.pack_panels = round_panels_int8;
    table->int8.multiply = multiply_int8;
}
