/* Owns attention's products and the element-wise loops for AVX-512. Same bits as kernels/ref. */
#include <immintrin.h>
#include <string.h>

#include "base/bytes.h"
#include "kernels/float_loops.h"
#include "kernels/levels.h"

#define INLINE static inline __attribute__((always_inline))

/* 16 cells of a row from column c on, a multiple of 16. */
INLINE __m512 cells(bl_cache_type type, const uint8_t *row, size_t c) {
    const __m512 nibbles = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    switch (type) {
    case BL_CACHE_F32:
        return _mm512_loadu_ps(row + 4 * c);
    case BL_CACHE_F16:
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row + 2 * c)));
    case BL_CACHE_I8:
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(row + c))));
    case BL_CACHE_I4:
        break;
    }
    __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(row + c / 32 * 16)));
    return _mm512_permutexvar_ps(c % 32 ? _mm512_srli_epi32(bytes, 4) : bytes, nibbles);
}

/* n_rows rows x n_vectors vectors; these and type are constants after inlining. */
INLINE void tile(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                 const uint8_t *b, size_t b_stride, size_t n, size_t c, size_t n_vectors,
                 float *out, size_t out_stride, bool add) {
    __m512 sums[6][4];
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            sums[r][v] =
                add ? _mm512_loadu_ps(out + r * out_stride + c + 16 * v) : _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++, b += b_stride) {
        __m512 w[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            w[v] = cells(type, b, c + 16 * v);
#pragma GCC unroll 6
        for (size_t r = 0; r < n_rows; r++) {
            __m512 x = _mm512_set1_ps(a[r * a_stride + i]);
#pragma GCC unroll 4
            for (size_t v = 0; v < n_vectors; v++)
                sums[r][v] = _mm512_fmadd_ps(x, w[v], sums[r][v]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            _mm512_storeu_ps(out + r * out_stride + c + 16 * v, sums[r][v]);
}

INLINE void some_rows(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                      const uint8_t *b, size_t b_stride, size_t n, size_t cols, float *out,
                      size_t out_stride, bool add) {
    size_t c = 0;
    for (; c + 64 <= cols; c += 64)
        tile(type, a, a_stride, n_rows, b, b_stride, n, c, 4, out, out_stride, add);
    for (; c < cols; c += 32)
        tile(type, a, a_stride, n_rows, b, b_stride, n, c, 2, out, out_stride, add);
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

static void pack_f16(const float *x, size_t n, uint16_t *out) {
    const __m512 most = _mm512_set1_ps(65504.0f), least = _mm512_set1_ps(-65504.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        v = _mm512_max_ps(least, _mm512_min_ps(most, v)); /* the second operand when one is NaN */
        _mm256_mask_storeu_epi16(out + i, m,
                                 _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
}

void bl__floats_fill_avx512vnni(bl__kernels *table) {
    fill_float_loops(table);
    table->cells_product = cells_product;
    table->pack_f16 = pack_f16;
}
