/* Owns the AVX-512 kernels of the output head: products with rows of 16-bit floats. Same bits as
 * kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"

/* Rows are asked for this far ahead and in the order of their addresses, as the rows that come
 * after those in hand: four rows read side by side are a pattern that no prefetcher follows. */
enum { AHEAD_BYTES = 20480, LINE_BYTES = 64 };

typedef enum half_kind { HALF_F16, HALF_BF16 } half_kind;

/* Folds 16 lanes as the contract says. */
static float fold(__m512 lanes) {
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(lanes), 1));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Sixteen 16-bit floats (a constant kind after inlining). */
static inline __attribute__((always_inline)) __m512 widen(half_kind kind, __m256i halves) {
    if (kind == HALF_F16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* n_rows rows x n_tokens tokens (constants after inlining). */
static inline __attribute__((always_inline)) void
dot_some(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
         const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    __m512 sums[4][4];
    size_t c = 0;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            sums[r][t] = _mm512_setzero_ps();
    for (; c + BL_LANES <= cols; c += BL_LANES) {
        __m512 xs[4];
        const char *ahead = (const char *)(w + n_rows * c) + AHEAD_BYTES;
        for (size_t line = 0; line < n_rows / 2; line++)
            __builtin_prefetch(ahead + line * LINE_BYTES);
        for (size_t t = 0; t < n_tokens; t++)
            xs[t] = _mm512_loadu_ps(x + t * x_stride + c);
        for (size_t r = 0; r < n_rows; r++) {
            const uint16_t *at = w + r * w_stride + c;
            __m512 row = widen(kind, _mm256_loadu_si256((const __m256i *)(const void *)at));
            for (size_t t = 0; t < n_tokens; t++)
                sums[r][t] = _mm512_fmadd_ps(row, xs[t], sums[r][t]);
        }
    }
    if (c < cols) {
        __mmask16 m = (__mmask16)((1u << (cols - c)) - 1);
        for (size_t r = 0; r < n_rows; r++) {
            __m512 row = widen(kind, _mm256_maskz_loadu_epi16(m, w + r * w_stride + c));
            for (size_t t = 0; t < n_tokens; t++)
                sums[r][t] = _mm512_mask3_fmadd_ps(
                    row, _mm512_maskz_loadu_ps(m, x + t * x_stride + c), sums[r][t], m);
        }
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            out[t * out_stride + r] = fold(sums[r][t]);
}

static inline __attribute__((always_inline)) void
dot_halves(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
           const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    for (size_t r = 0, n; r < n_rows; r += n, w += n * w_stride, out += n) {
        size_t t = 0;
        n = n_rows - r >= 4 ? 4 : 1;
        for (; n == 4 && t + 4 <= n_tokens; t += 4)
            dot_some(kind, w, w_stride, 4, cols, x + t * x_stride, x_stride, 4,
                     out + t * out_stride, out_stride);
        for (; n == 4 && t < n_tokens; t++)
            dot_some(kind, w, w_stride, 4, cols, x + t * x_stride, x_stride, 1,
                     out + t * out_stride, out_stride);
        for (; t < n_tokens; t++)
            dot_some(kind, w, w_stride, 1, cols, x + t * x_stride, x_stride, 1,
                     out + t * out_stride, out_stride);
    }
}

static void dot_rows_f16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                         const float *x, size_t x_stride, size_t n_tokens, float *out,
                         size_t out_stride) {
    dot_halves(HALF_F16, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

static void dot_rows_bf16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                          const float *x, size_t x_stride, size_t n_tokens, float *out,
                          size_t out_stride) {
    dot_halves(HALF_BF16, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

void bl__head_fill_avx512vnni(bl__kernels *table) {
    table->dot_rows_f16 = dot_rows_f16;
    table->dot_rows_bf16 = dot_rows_bf16;
}
