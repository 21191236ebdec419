/* Owns the AVX2 kernels that leave out rows and columns. Sums are taken in int16 for as long as
 * they are safe: an operation adds two products of 3 x 128 = 384 at most. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/skip_loops.h"

enum {
    SAFE_BLOCKS = 5,   /* of a row: 8 operations each, 5 x 8 x 768 <= 32,767 */
    QUADS_AT_ONCE = 32 /* of columns: one operation each, 32 x 768 <= 32,767 */
};

static inline __m256i load(const void *from) {
    return _mm256_loadu_si256(from);
}

/* Plane p of 32 bytes (p a constant after unrolling). */
static inline __m256i plane(__m256i w, int p) {
    return _mm256_and_si256(_mm256_srli_epi16(w, 2 * p), _mm256_set1_epi8(3));
}

static inline int32_t add_lanes(__m256i x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* Four rows against the token. dots[k] of row k; ahead[k] is asked for. */
static inline void four_rows(const uint8_t *const row[ROWS_AT_ONCE],
                             const uint8_t *const ahead[ROWS_AT_ONCE], size_t bytes,
                             const int8_t *q, int32_t dots[ROWS_AT_ONCE]) {
    __m256i sums[ROWS_AT_ONCE];
#pragma GCC unroll 4
    for (size_t k = 0; k < ROWS_AT_ONCE; k++)
        sums[k] = _mm256_setzero_si256();
    for (size_t b = 0, end; b < bytes; b = end) {
        __m256i part[ROWS_AT_ONCE];
        end = b + SAFE_BLOCKS * BL_SKIP_BLOCK_BYTES;
        end = end < bytes ? end : bytes;
#pragma GCC unroll 4
        for (size_t k = 0; k < ROWS_AT_ONCE; k++)
            part[k] = _mm256_setzero_si256();
        for (; b < end; b += BL_SKIP_BLOCK_BYTES, q += BL_SKIP_BLOCK)
#pragma GCC unroll 2
            for (size_t half = 0; half < 64; half += 32)
#pragma GCC unroll 4
                for (size_t k = 0; k < ROWS_AT_ONCE; k++) {
                    __m256i w = load(row[k] + b + half);
                    _mm_prefetch((const char *)ahead[k] + b, _MM_HINT_T0);
#pragma GCC unroll 4
                    for (int p = 0; p < 4; p++)
                        part[k] = _mm256_add_epi16(
                            part[k], _mm256_maddubs_epi16(plane(w, p), load(q + 64 * p + half)));
                }
#pragma GCC unroll 4
        for (size_t k = 0; k < ROWS_AT_ONCE; k++)
            sums[k] = _mm256_add_epi32(sums[k], _mm256_madd_epi16(part[k], _mm256_set1_epi16(1)));
    }
    for (size_t k = 0; k < ROWS_AT_ONCE; k++)
        dots[k] = add_lanes(sums[k]);
}

static void listed_rows(const uint8_t *tensor, size_t rows, size_t cols, const uint32_t *list,
                        size_t n, const int8_t *q, int32_t sum, float step, float *out) {
    bl__listed_rows(four_rows, tensor, rows, cols, list, n, q, sum, step, out);
}

/* The activations of four entries, for every row. */
static inline __m256i broadcast_activations(const uint32_t *list) {
    __m128i four = _mm_loadu_si128((const __m128i *)(const void *)list);
    return _mm256_broadcastd_epi32(_mm_shuffle_epi8(four, _mm_set1_epi32(0x0c080400)));
}

/* Up to QUADS_AT_ONCE x 4 entries in half a group, 32 bytes of each column from `half` on: rows
 * 64p + 16s ... + 7 of two planes from `from` on (a constant after inlining). */
static inline __attribute__((always_inline)) void two_planes(const uint8_t *half, size_t stride,
                                                             const uint32_t *list, size_t n_quads,
                                                             int from, int32_t *dots) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[2][4];
#pragma GCC unroll 2
    for (size_t p = 0; p < 2; p++)
#pragma GCC unroll 4
        for (size_t s = 0; s < 4; s++)
            sums[p][s] = _mm256_setzero_si256();
    for (size_t i = 0; i < n_quads; i++, list += 4) {
        __m256i x = broadcast_activations(list);
        __m256i a = load(half + (list[0] >> 8) * stride), b = load(half + (list[1] >> 8) * stride);
        __m256i c = load(half + (list[2] >> 8) * stride), d = load(half + (list[3] >> 8) * stride);
        __m256i ab0 = _mm256_unpacklo_epi8(a, b), ab1 = _mm256_unpackhi_epi8(a, b);
        __m256i cd0 = _mm256_unpacklo_epi8(c, d), cd1 = _mm256_unpackhi_epi8(c, d);
        const __m256i w[4] = {_mm256_unpacklo_epi16(ab0, cd0), _mm256_unpackhi_epi16(ab0, cd0),
                              _mm256_unpacklo_epi16(ab1, cd1), _mm256_unpackhi_epi16(ab1, cd1)};
#pragma GCC unroll 4
        for (size_t s = 0; s < 4; s++)
#pragma GCC unroll 2
            for (int p = 0; p < 2; p++)
                sums[p][s] =
                    _mm256_add_epi16(sums[p][s], _mm256_maddubs_epi16(plane(w[s], from + p), x));
    }
#pragma GCC unroll 2
    for (size_t p = 0; p < 2; p++)
#pragma GCC unroll 4
        for (size_t s = 0; s < 4; s++) {
            int32_t *to = dots + 64 * ((size_t)from + p) + 16 * s;
            _mm256_storeu_si256((__m256i *)(void *)to,
                                _mm256_add_epi32(load(to), _mm256_madd_epi16(sums[p][s], ones)));
        }
}

static void some_quads(const uint8_t *group, size_t stride, const uint32_t *list, size_t n_quads,
                       int32_t *dots) {
    for (size_t half = 0; half < 2; half++) {
        two_planes(group + 32 * half, stride, list, n_quads, 0, dots + 8 * half);
        two_planes(group + 32 * half, stride, list, n_quads, 2, dots + 8 * half);
    }
}

static void listed_columns(const uint8_t *tensor, size_t rows, const uint32_t *list, size_t n,
                           size_t first_group, size_t n_groups, int32_t *dots) {
    bl__listed_columns(some_quads, QUADS_AT_ONCE, tensor, rows, list, n, first_group, n_groups,
                       dots);
}

void bl__skip_fill_avx2(bl__kernels *table) {
    table->listed_rows = listed_rows;
    table->listed_columns = listed_columns;
}
