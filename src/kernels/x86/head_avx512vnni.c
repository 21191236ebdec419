/* Owns the AVX-512 kernels of the output head: products with rows of 16-bit floats, and
 * upper bounds by its low-bit copy. Same bits as
 * kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>
#include <string.h>

#include "kernels/levels.h"

/* Rows are asked for this far ahead and in the order of their addresses, as the rows that come
 * after those in hand: four rows read side by side are a pattern that no prefetcher follows. */
enum { AHEAD_BYTES = 20480, LINE_BYTES = 64, SCREEN_AHEAD_BYTES = 8192 };

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

static inline __m512i broadcast4(const int8_t *digits) {
    int32_t four;
    memcpy(&four, digits, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Codes are q + 128, and the digits' sums take the 128 away again. Two sums for each digit hide the
 * latency of the dot-product instruction. */
static void screen_rows(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        float *upper) {
    enum { GROUP_BYTES = BL_SCREEN_ROWS * BL_SCREEN_COLS, DIGITS = 2 * BL_SCREEN_COLS };
    size_t n_groups = (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS;
    size_t stride = bl__screen_tile_bytes(cols);
    for (size_t tile = 0; tile < n_tiles; tile++, tiles += stride, upper += BL_SCREEN_ROWS) {
        const uint8_t *codes = tiles + BL_SCREEN_HEAD_BYTES;
        __m512i high[2], low[2];
        high[0] = _mm512_set1_epi32(-128 * x->high_sum);
        low[0] = _mm512_set1_epi32(-128 * x->low_sum);
        high[1] = low[1] = _mm512_setzero_si512();
        size_t g = 0;
        for (; g + 2 <= n_groups; g += 2)
#pragma GCC unroll 2
            for (size_t i = 0; i < 2; i++) {
                const int8_t *digits = x->digits + (g + i) * DIGITS;
                const uint8_t *from = codes + (g + i) * GROUP_BYTES;
                __m512i w = _mm512_loadu_si512(from);
                __builtin_prefetch(from + SCREEN_AHEAD_BYTES);
                high[i] = _mm512_dpbusd_epi32(high[i], w, broadcast4(digits));
                low[i] = _mm512_dpbusd_epi32(low[i], w, broadcast4(digits + BL_SCREEN_COLS));
            }
        if (g < n_groups) {
            __m512i w = _mm512_loadu_si512(codes + g * GROUP_BYTES);
            const int8_t *digits = x->digits + g * DIGITS;
            high[0] = _mm512_dpbusd_epi32(high[0], w, broadcast4(digits));
            low[0] = _mm512_dpbusd_epi32(low[0], w, broadcast4(digits + BL_SCREEN_COLS));
        }
        __m512 hundreds = _mm512_cvtepi32_ps(_mm512_add_epi32(high[0], high[1]));
        __m512 units = _mm512_cvtepi32_ps(_mm512_add_epi32(low[0], low[1]));
        __m512 scale = _mm512_loadu_ps(tiles), error = _mm512_loadu_ps(tiles + 64);
        __m512 norm = _mm512_loadu_ps(tiles + 128);
        __m512 about = _mm512_add_ps(_mm512_mul_ps(hundreds, _mm512_set1_ps(128.0f)), units);
        about = _mm512_mul_ps(_mm512_mul_ps(about, _mm512_set1_ps(x->step)), scale);
        __m512 bound = _mm512_add_ps(_mm512_mul_ps(scale, _mm512_set1_ps(x->of_scale)),
                                     _mm512_mul_ps(error, _mm512_set1_ps(x->of_error)));
        bound = _mm512_add_ps(bound, _mm512_mul_ps(norm, _mm512_set1_ps(x->of_norm)));
        bound = _mm512_add_ps(bound, _mm512_set1_ps(x->of_any));
        _mm512_storeu_ps(upper, _mm512_add_ps(about, bound));
    }
}

void bl__head_fill_avx512vnni(bl__kernels *table) {
    table->dot_rows_f16 = dot_rows_f16;
    table->dot_rows_bf16 = dot_rows_bf16;
    table->screen_rows = screen_rows;
}
