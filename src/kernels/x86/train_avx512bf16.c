/* Owns training's bfloat16 products for AVX512-BF16. See the contract in train_kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 32, MAX_ROWS = 8, PANELS = 4 /* packed at once */ };

static void pack_panels_i8_bf16(const int8_t *b, size_t ldb, size_t k, size_t n, void *out,
                                size_t panel_bytes) {
    pack_panels_i8(BF16, PANEL, b, ldb, k, n, out, panel_bytes);
}

static inline __mmask16 first_lanes(size_t n) {
    return n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
}

static void round_row(const float *x, size_t k, float scale, void *out) {
    const __m512 factor = _mm512_set1_ps(scale);
    uint16_t *to = out;
    size_t i = 0;
    for (; i + 32 <= k; i += 32) {
        __m512 low = _mm512_mul_ps(_mm512_loadu_ps(x + i), factor);
        __m512 high = _mm512_mul_ps(_mm512_loadu_ps(x + i + 16), factor);
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    for (; i < k; i += 16) {
        size_t n = k - i < 16 ? k - i : 16;
        __mmask16 m = first_lanes(n);
        __m512 v = _mm512_maskz_mul_ps(m, _mm512_maskz_loadu_ps(m, x + i), factor);
        _mm256_mask_storeu_epi16(to + i, first_lanes(n + n % 2), (__m256i)_mm512_cvtneps_pbh(v));
    }
}

/* 16 units: first in the low halves, second in the high ones. */
static inline __m512i pair_up(__m512 first, __m512 second) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

/* Rows i and i + 1 of n panels (a constant after inlining) as units; of the last row alone pairs
 * with zeros. columns: of each panel. */
static inline __attribute__((always_inline)) void round_pair(const float *b, size_t ldb, bool alone,
                                                             size_t n, __mmask32 columns,
                                                             const float *scale, char *to,
                                                             size_t panel_bytes) {
    const __m512 f = _mm512_set1_ps(scale ? scale[0] : 1.0f);
    const __m512 s = _mm512_set1_ps(scale && !alone ? scale[1] : 1.0f);
#pragma GCC unroll 8
    for (size_t h = 0; h < 2 * n; h++) {
        __mmask16 m = (__mmask16)(columns >> h % 2 * 16), m2 = alone ? 0 : m;
        __m512 x = _mm512_maskz_loadu_ps(m, b + 16 * h);
        __m512 y = _mm512_maskz_loadu_ps(m2, b + ldb + 16 * h);
        _mm512_storeu_si512(to + h / 2 * panel_bytes + h % 2 * 64,
                            pair_up(_mm512_maskz_mul_ps(m, x, f), _mm512_maskz_mul_ps(m2, y, s)));
    }
}

static void round_panels(const float *b, size_t ldb, size_t k, size_t n, const float *scale,
                         void *out, size_t panel_bytes) {
    char *to = out;
    size_t j = 0;
    for (; j + PANELS * PANEL <= n; j += PANELS * PANEL, to += PANELS * panel_bytes)
        for (size_t i = 0; i < k; i += 2)
            round_pair(b + i * ldb + j, ldb, i + 1 == k, PANELS, ~0u, scale ? scale + i : NULL,
                       to + i / 2 * (PANEL * 4), panel_bytes);
    for (; j < n; j += PANEL, to += panel_bytes) {
        __mmask32 columns = n - j < PANEL ? (1u << (n - j)) - 1 : ~0u;
        for (size_t i = 0; i < k; i += 2)
            round_pair(b + i * ldb + j, ldb, i + 1 == k, 1, columns, scale ? scale + i : NULL,
                       to + i / 2 * (PANEL * 4), panel_bytes);
    }
}

/* Rows become columns: pairs of elements, then of pairs, then of 128-bit lanes, twice. */
static inline __attribute__((always_inline)) void transpose16(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* n <= 16 rows of k <= 32 values as 16 columns of units. */
static void round_columns(const float *b, size_t ldb, size_t k, size_t n, char *to) {
    const __mmask16 low = first_lanes(k), high = first_lanes(k > 16 ? k - 16 : 0);
    __m512i r[16];
    for (size_t i = 0; i < 16; i++) {
        const float *from = b + (i < n ? i : 0) * ldb;
        __m512 x = _mm512_maskz_loadu_ps(i < n ? low : 0, from);
        __m512 y = _mm512_maskz_loadu_ps(i < n ? high : 0, from + 16);
        r[i] = (__m512i)_mm512_cvtne2ps_pbh(y, x);
    }
    transpose16(r);
    for (size_t i = 0; 2 * i < k; i++)
        _mm512_storeu_si512(to + i * (PANEL * 4), r[i]);
}

static void round_panels_t(const float *b, size_t ldb, size_t k, size_t n, void *out,
                           size_t panel_bytes) {
    for (size_t j = 0; j < n; j += PANEL, out = (char *)out + panel_bytes)
        for (size_t i = 0; i < k; i += 32)
            for (size_t h = 0; h < PANEL; h += 16) {
                size_t rows = n - j > h ? n - j - h : 0, values = k - i < 32 ? k - i : 32;
                const float *from = b + (rows ? j + h : 0) * ldb + i;
                round_columns(from, ldb, values, rows < 16 ? rows : 16,
                              (char *)out + (i / 2 * PANEL + h) * 4);
            }
}

/* m rows (a constant after inlining) x one panel. What C holds is added at the end: its lines come
 * while the products are computed. */
static inline __attribute__((always_inline)) void
tile(const char *a, size_t a_row, size_t a_unit, const char *b, size_t n_units, float *c,
     size_t ldc, size_t m, __mmask32 exists, bool accumulate, const char *next, size_t next_step) {
    __m512 sum[MAX_ROWS][2];
    const __mmask16 mask[2] = {(__mmask16)exists, (__mmask16)(exists >> 16)};
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            sum[i][h] = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++)
            __builtin_prefetch(c + i * ldc + 16 * h, 1);
    for (size_t g = 0; g < n_units; g++, b += PANEL * 4, a += a_unit, next += next_step) {
        _mm_prefetch(next, _MM_HINT_T0);
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 64);
#pragma GCC unroll 8
        for (size_t i = 0; i < m; i++) {
            int unit;
            memcpy(&unit, a + i * a_row, sizeof unit);
            __m512bh x = (__m512bh)_mm512_set1_epi32(unit);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
        }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < 2; h++) {
            float *to = c + i * ldc + 16 * h;
            if (accumulate)
                sum[i][h] = _mm512_add_ps(sum[i][h], _mm512_maskz_loadu_ps(mask[h], to));
            _mm512_mask_storeu_ps(to, mask[h], sum[i][h]);
        }
}

/* The whole tiles share the fetching of the next panel. */
static void multiply_bf16(const void *a, size_t a_row, size_t a_unit, const void *b, size_t n_units,
                          float *c, size_t ldc, size_t m, size_t n, bool accumulate,
                          const void *next) {
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

/* ---- blocks of scores: nothing is written but what products read ---- */

/* exp(x) of values up to 88, within 2^-22. */
static inline __m512 exp16(__m512 x) {
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x); /* NaN stays */
    __m512 k = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504f), magic), magic);
    __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.38888889e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, k);
}

/* Which of 16 keys from `key` on lie in first ... end - 1. */
static inline __mmask16 seen_lanes(size_t key, size_t first, size_t end) {
    size_t below = first > key ? first - key : 0, to = end > key ? end - key : 0;
    return (__mmask16)(first_lanes(to) & ~first_lanes(below));
}

static inline void store_row(uint16_t *to, size_t n, __m512 low, __m512 high) {
    __mmask32 m = n < 31 ? (1u << (n + n % 2)) - 1 : ~0u;
    _mm512_mask_storeu_epi16(to, m, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

static float max_seen(const float *x, size_t first, size_t end) {
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (size_t i = first; i < end; i += 16)
        max = _mm512_mask_max_ps(max, first_lanes(end - i), max,
                                 _mm512_maskz_loadu_ps(first_lanes(end - i), x + i));
    return _mm512_reduce_max_ps(max);
}

static void softmax_rounded(const bl__score_block *b) {
    const __m512 scale = _mm512_set1_ps(b->scale);
    for (size_t i = 0; i < b->n_rows; i++) {
        const float *row = b->scores + i * b->stride;
        uint16_t *to = (uint16_t *)(void *)((char *)b->rows + i * b->row_bytes);
        size_t first = b->first[i], end = b->end[i];
        float max = max_seen(row, first, end) * b->scale;
        const __m512 minus = _mm512_set1_ps(max);
        __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (size_t key = 0; key < b->n_keys; key += 32) {
            __m512 p[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
            for (size_t h = 0; h < 2 && key + 32 > first && key < end; h++) {
                __mmask16 m = seen_lanes(key + 16 * h, first, end);
                __m512 x = _mm512_maskz_loadu_ps(m, row + key + 16 * h);
                p[h] = _mm512_maskz_mov_ps(m, exp16(_mm512_fmsub_ps(x, scale, minus)));
                sums[h] = _mm512_add_ps(sums[h], p[h]);
            }
            store_row(to + key, b->n_keys - key, p[0], p[1]);
        }
        float sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        b->log_sums[i] = max + logf(sum);
        b->factors[i] = 1.0f / sum;
    }
}

/* One row's numbers in vectors. */
typedef struct row_factors {
    const float *scores, *grads;
    size_t first, end;
    __m512 log_sum, dot;
} row_factors;

static inline row_factors take_row(const bl__score_block *b, size_t i) {
    bool exists = i < b->n_rows;
    size_t at = exists ? i : 0;
    return (row_factors){.scores = b->scores + at * b->stride,
                         .grads = b->grads + at * b->stride,
                         .first = exists ? b->first[i] : 0,
                         .end = exists ? b->end[i] : 0,
                         .log_sum = _mm512_set1_ps(b->log_sums[at]),
                         .dot = _mm512_set1_ps(b->dots[at])};
}

static inline void take_scores(const row_factors *r, size_t key, __m512 scale, __m512 *p,
                               __m512 *ds) {
    __mmask16 m = seen_lanes(key, r->first, r->end);
    __m512 x = _mm512_maskz_loadu_ps(m, r->scores + key);
    __m512 dp = _mm512_maskz_loadu_ps(m, r->grads + key);
    *p = _mm512_maskz_mov_ps(m, exp16(_mm512_fmsub_ps(x, scale, r->log_sum)));
    *ds = _mm512_maskz_mul_ps(m, _mm512_mul_ps(*p, scale), _mm512_sub_ps(dp, r->dot));
}

/* Two rows at a time, which share their units in panels. */
static void softmax_backward_rounded(const bl__score_block *b) {
    const __m512 scale = _mm512_set1_ps(b->scale), zero = _mm512_setzero_ps();
    for (size_t i = 0; i < b->n_rows; i += 2) {
        row_factors r0 = take_row(b, i), r1 = take_row(b, i + 1);
        uint16_t *row0 = (uint16_t *)(void *)((char *)b->rows + i * b->row_bytes);
        uint16_t *row1 = row0 + b->row_bytes / 2;
        size_t first = r1.end && r1.first < r0.first ? r1.first : r0.first;
        size_t end = r1.end > r0.end ? r1.end : r0.end;
        char *p_to = (char *)b->p_panels + i * (PANEL * 2);
        char *ds_to = (char *)b->ds_panels + i * (PANEL * 2);
        for (size_t key = 0; key < b->n_keys; key += PANEL) {
            __m512 p0 = zero, p1 = zero, ds0[2] = {zero, zero}, ds1[2] = {zero, zero};
            bool seen = key + PANEL > first && key < end;
            for (size_t h = 0; h < 2; h++) {
                if (seen) {
                    take_scores(&r0, key + 16 * h, scale, &p0, &ds0[h]);
                    take_scores(&r1, key + 16 * h, scale, &p1, &ds1[h]);
                }
                _mm512_storeu_si512(p_to + 64 * h, pair_up(p0, p1));
                _mm512_storeu_si512(ds_to + 64 * h, pair_up(ds0[h], ds1[h]));
            }
            store_row(row0 + key, b->n_keys - key, ds0[0], ds0[1]);
            if (i + 1 < b->n_rows)
                store_row(row1 + key, b->n_keys - key, ds1[0], ds1[1]);
            p_to += b->panel_bytes;
            ds_to += b->panel_bytes;
        }
    }
}

void bl__train_fill_avx512bf16(bl__train_kernels *table) {
    fill_loops(table);
    table->bf16 = (bl__gemm){"bf16 avx512bf16",
                             2,
                             PANEL,
                             2,
                             1,
                             round_row,
                             round_panels,
                             pack_panels_i8_bf16,
                             round_panels_t,
                             multiply_bf16,
                             softmax_rounded,
                             softmax_backward_rounded};
    table->native_bf16 = true;
}
