/* Owns the AVX-512 + VNNI kernels that leave out rows and columns. Planes are masked where they
 * lie, so that sums of plane p are 4^p times too large until they are shifted at the end. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/skip_loops.h"

enum {
    QUADS_AT_ONCE = 8 /* of columns, before the next group of rows is taken up: so columns that lie
                         side by side in memory are read together */
};
/* Quads that one sum can take: 4 columns x 3 x 128 x 64 each, 2^31 / 98,304 > 16,384. */
enum { SAFE_QUADS = 16384 };

static inline __m512i plane_mask(int plane) {
    return _mm512_set1_epi8((char)(3 << 2 * plane));
}

/* Four rows against the token. dots[k] of row k; ahead[k] is asked for. */
static inline void four_rows(const uint8_t *const row[ROWS_AT_ONCE],
                             const uint8_t *const ahead[ROWS_AT_ONCE], size_t bytes,
                             const int8_t *q, int32_t dots[ROWS_AT_ONCE]) {
    __m512i sums[ROWS_AT_ONCE][4];
    const __m512i mask[4] = {plane_mask(0), plane_mask(1), plane_mask(2), plane_mask(3)};
#pragma GCC unroll 4
    for (size_t k = 0; k < ROWS_AT_ONCE; k++)
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            sums[k][p] = _mm512_setzero_si512();
    for (size_t b = 0; b < bytes; b += BL_SKIP_BLOCK_BYTES, q += BL_SKIP_BLOCK) {
        __m512i x[4];
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            x[p] = _mm512_loadu_si512(q + 64 * p);
#pragma GCC unroll 4
        for (size_t k = 0; k < ROWS_AT_ONCE; k++) {
            __m512i w = _mm512_loadu_si512(row[k] + b);
            _mm_prefetch((const char *)ahead[k] + b, _MM_HINT_T0);
#pragma GCC unroll 4
            for (size_t p = 0; p < 4; p++)
                sums[k][p] = _mm512_dpbusd_epi32(sums[k][p], _mm512_and_si512(w, mask[p]), x[p]);
        }
    }
#pragma GCC unroll 4
    for (size_t k = 0; k < ROWS_AT_ONCE; k++) {
        __m512i low = _mm512_add_epi32(sums[k][0], _mm512_srai_epi32(sums[k][1], 2));
        __m512i high =
            _mm512_add_epi32(_mm512_srai_epi32(sums[k][2], 4), _mm512_srai_epi32(sums[k][3], 6));
        dots[k] = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    }
}

static void listed_rows(const uint8_t *tensor, size_t rows, size_t cols, const uint32_t *list,
                        size_t n, const int8_t *q, int32_t sum, float step, float *out) {
    bl__listed_rows(four_rows, tensor, rows, cols, list, n, q, sum, step, out);
}

/* Four columns in one group of rows: sums[p][s] of rows 64p + 16s ... */
static inline __attribute__((always_inline)) void
four_columns(const uint8_t *const line[4], __m512i x, const __m512i mask[4], __m512i sums[4][4]) {
    __m512i a = _mm512_loadu_si512(line[0]), b = _mm512_loadu_si512(line[1]);
    __m512i c = _mm512_loadu_si512(line[2]), d = _mm512_loadu_si512(line[3]);
    __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
    __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
    const __m512i w[4] = {_mm512_unpacklo_epi16(ab0, cd0), _mm512_unpackhi_epi16(ab0, cd0),
                          _mm512_unpacklo_epi16(ab1, cd1), _mm512_unpackhi_epi16(ab1, cd1)};
#pragma GCC unroll 4
    for (size_t s = 0; s < 4; s++)
#pragma GCC unroll 4
        for (size_t p = 0; p < 4; p++)
            sums[p][s] = _mm512_dpbusd_epi32(sums[p][s], _mm512_and_si512(w[s], mask[p]), x);
}

/* The activations of four entries, for every row. */
static inline __m512i broadcast_activations(const uint32_t *list) {
    __m128i four = _mm_loadu_si128((const __m128i *)(const void *)list);
    return _mm512_broadcastd_epi32(_mm_shuffle_epi8(four, _mm_set1_epi32(0x0c080400)));
}

/* n_quads x 4 entries in one group of rows, whose column 0 is at `group`. */
static inline void some_quads(const uint8_t *group, size_t stride, const uint32_t *list,
                              size_t n_quads, const uint32_t *ahead, size_t n_ahead,
                              int32_t *dots) {
    const __m512i mask[4] = {plane_mask(0), plane_mask(1), plane_mask(2), plane_mask(3)};
    __m512i sums[4][4];
#pragma GCC unroll 4
    for (size_t p = 0; p < 4; p++)
#pragma GCC unroll 4
        for (size_t s = 0; s < 4; s++)
            sums[p][s] = _mm512_setzero_si512();
    for (size_t i = 0; i < n_ahead; i++)
        _mm_prefetch((const char *)group + (ahead[i] >> 8) * stride, _MM_HINT_T0);
    for (size_t i = 0; i < n_quads; i++, list += 4) {
        const uint8_t *const line[4] = {
            group + (list[0] >> 8) * stride, group + (list[1] >> 8) * stride,
            group + (list[2] >> 8) * stride, group + (list[3] >> 8) * stride};
        four_columns(line, broadcast_activations(list), mask, sums);
    }
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++)
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            int32_t *to = dots + 64 * p + 16 * s;
            __m512i dot = _mm512_srai_epi32(sums[p][s], (unsigned)(2 * p));
            _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), dot));
        }
}

static void listed_columns(const uint8_t *tensor, size_t rows, const uint32_t *list, size_t n,
                           size_t first_group, size_t n_groups, int32_t *dots) {
    size_t stride = bl__skip_stride(rows);
    const uint8_t *first = tensor + bl__skip_scale_bytes(rows) + first_group * BL_SKIP_BLOCK_BYTES;
    size_t at_once = n_groups > 1 ? QUADS_AT_ONCE : SAFE_QUADS;
    for (size_t i = 0, n_quads; i + 4 <= n; i += 4 * n_quads) {
        size_t left = (n - i) / 4, n_ahead;
        n_quads = left < at_once ? left : at_once;
        n_ahead = n_groups > 1 ? n - i - 4 * n_quads : 0;
        n_ahead = n_ahead < 4 * QUADS_AT_ONCE ? n_ahead : 4 * QUADS_AT_ONCE;
        for (size_t g = 0; g < n_groups; g++)
            some_quads(first + g * BL_SKIP_BLOCK_BYTES, stride, list + i, n_quads,
                       list + i + 4 * n_quads, n_ahead, dots + g * BL_SKIP_BLOCK);
    }
    if (n % 4) {
        uint32_t last[4];
        bl__last_quad(list, n, last);
        for (size_t g = 0; g < n_groups; g++)
            some_quads(first + g * BL_SKIP_BLOCK_BYTES, stride, last, 1, NULL, 0,
                       dots + g * BL_SKIP_BLOCK);
    }
}

void bl__skip_fill_avx512vnni(bl__kernels *table) {
    table->listed_rows = listed_rows;
    table->listed_columns = listed_columns;
}
