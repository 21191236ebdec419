/* Owns attention's products and the element-wise loops for AVX2 + FMA + F16C. Same bits as
 * kernels/ref. */
#include <immintrin.h>
#include <string.h>

#include "base/bytes.h"
#include "kernels/float_loops.h"
#include "kernels/levels.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m128i load8(const uint8_t *from) {
    return _mm_loadl_epi64((const __m128i *)(const void *)from);
}

/* 8 cells of a row from column c on, a multiple of 8. */
INLINE __m256 cells(bl_cache_type type, const uint8_t *row, size_t c) {
    switch (type) {
    case BL_CACHE_F32:
        return _mm256_loadu_ps((const float *)(const void *)(row + 4 * c));
    case BL_CACHE_F16:
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row + 2 * c)));
    case BL_CACHE_I8:
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(row + c)));
    case BL_CACHE_I4:
        break;
    }
    __m256i bytes = _mm256_cvtepu8_epi32(load8(row + c / 32 * 16 + c % 16));
    bytes =
        c % 32 >= 16 ? _mm256_srli_epi32(bytes, 4) : _mm256_and_si256(bytes, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(bytes, _mm256_set1_epi32(8)));
}

/* n_rows rows x n_vectors vectors; these and type are constants after inlining. */
INLINE void tile(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                 const uint8_t *b, size_t b_stride, size_t n, size_t c, size_t n_vectors,
                 float *out, size_t out_stride, bool add) {
    __m256 sums[6][4];
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[r][v] =
                add ? _mm256_loadu_ps(out + r * out_stride + c + 8 * v) : _mm256_setzero_ps();
    for (size_t i = 0; i < n; i++, b += b_stride) {
        __m256 w[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            w[v] = cells(type, b, c + 8 * v);
#pragma GCC unroll 6
        for (size_t r = 0; r < n_rows; r++) {
            __m256 x = _mm256_set1_ps(a[r * a_stride + i]);
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                sums[r][v] = _mm256_fmadd_ps(x, w[v], sums[r][v]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            _mm256_storeu_ps(out + r * out_stride + c + 8 * v, sums[r][v]);
}

/* Sixteen registers: 6 rows x 16 columns, or 2 rows x 32. */
INLINE void some_rows(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                      const uint8_t *b, size_t b_stride, size_t n, size_t cols, float *out,
                      size_t out_stride, bool add) {
    for (size_t c = 0; c < cols; c += 32)
        if (n_rows > 2) {
            tile(type, a, a_stride, n_rows, b, b_stride, n, c, 2, out, out_stride, add);
            tile(type, a, a_stride, n_rows, b, b_stride, n, c + 16, 2, out, out_stride, add);
        } else {
            tile(type, a, a_stride, n_rows, b, b_stride, n, c, 4, out, out_stride, add);
        }
}

INLINE void product(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                    const uint8_t *b, size_t b_stride, size_t n, size_t cols, float *out,
                    size_t out_stride, bool add) {
    for (; n_rows >= 6; n_rows -= 6, a += 6 * a_stride, out += 6 * out_stride)
        some_rows(type, a, a_stride, 6, b, b_stride, n, cols, out, out_stride, add);
    if (n_rows >= 4) {
        some_rows(type, a, a_stride, 4, b, b_stride, n, cols, out, out_stride, add);
        n_rows -= 4, a += 4 * a_stride, out += 4 * out_stride;
    }
    if (n_rows == 3)
        some_rows(type, a, a_stride, 3, b, b_stride, n, cols, out, out_stride, add);
    else if (n_rows == 2)
        some_rows(type, a, a_stride, 2, b, b_stride, n, cols, out, out_stride, add);
    else if (n_rows)
        some_rows(type, a, a_stride, 1, b, b_stride, n, cols, out, out_stride, add);
}

static void cells_product(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                          const void *b, size_t b_stride, size_t n, size_t cols, float *out,
                          size_t out_stride, bool add) {
    if (type == BL_CACHE_F16)
        product(BL_CACHE_F16, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else if (type == BL_CACHE_F32)
        product(BL_CACHE_F32, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else if (type == BL_CACHE_I8)
        product(BL_CACHE_I8, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
    else
        product(BL_CACHE_I4, a, a_stride, n_rows, b, b_stride, n, cols, out, out_stride, add);
}

static __m128i halves(__m256 x) {
    const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
    x = _mm256_max_ps(least, _mm256_min_ps(most, x)); /* the second operand when one is NaN */
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

static void pack_f16(const float *x, size_t n, uint16_t *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i), halves(_mm256_loadu_ps(x + i)));
    if (i < n) {
        float rest[8] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        __m128i packed = halves(_mm256_loadu_ps(rest));
        memcpy(out + i, &packed, (n - i) * sizeof *out);
    }
}

void bl__floats_fill_avx2(bl__kernels *table) {
    fill_float_loops(table);
    table->cells_product = cells_product;
    table->pack_f16 = pack_f16;
}
