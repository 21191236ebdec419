/* Owns the AVX2 kernels of the output head: products with rows of 16-bit floats, and
 * upper bounds by its low-bit copy. Same bits as
 * kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/levels.h"

enum { AHEAD_BYTES = 20480, LINE_BYTES = 64, SCREEN_AHEAD_BYTES = 8192 }; /* as with AVX-512 */

typedef enum half_kind { HALF_F16, HALF_BF16 } half_kind;

static inline __attribute__((always_inline)) __m256 widen(half_kind kind, const uint16_t *from) {
    __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (kind == HALF_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* Folds 16 lanes as the contract says, after adding the tail's elements to theirs. */
static float finish_lanes(half_kind kind, __m256 low, __m256 high, const uint16_t *w,
                          const float *x, size_t n) {
    float lanes[BL_LANES];
    if (n) {
        _mm256_storeu_ps(lanes, low);
        _mm256_storeu_ps(lanes + 8, high);
        for (size_t l = 0; l < n; l++) {
            uint16_t half = bl__load_u16(w + l);
            lanes[l] = fmaf(kind == HALF_F16 ? bl__f16_to_f32(half) : bl__bf16_to_f32(half), x[l],
                            lanes[l]);
        }
        low = _mm256_loadu_ps(lanes);
        high = _mm256_loadu_ps(lanes + 8);
    }
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* n_rows rows x n_tokens tokens (constants after inlining; at most 6 products, 12 sums). */
static inline __attribute__((always_inline)) void
dot_some(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
         const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    __m256 sums[4][3][2];
    size_t c = 0;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            sums[r][t][0] = sums[r][t][1] = _mm256_setzero_ps();
    for (; c + BL_LANES <= cols; c += BL_LANES) {
        const char *ahead = (const char *)(w + n_rows * c) + AHEAD_BYTES;
        for (size_t line = 0; line < n_rows / 2; line++)
            __builtin_prefetch(ahead + line * LINE_BYTES);
        for (size_t half = 0; half < 2; half++) {
            __m256 rows[4];
            for (size_t r = 0; r < n_rows; r++) {
                const uint16_t *at = w + r * w_stride + c + 8 * half;
                rows[r] = widen(kind, at);
            }
            for (size_t t = 0; t < n_tokens; t++) {
                __m256 xs = _mm256_loadu_ps(x + t * x_stride + c + 8 * half);
                for (size_t r = 0; r < n_rows; r++)
                    sums[r][t][half] = _mm256_fmadd_ps(rows[r], xs, sums[r][t][half]);
            }
        }
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            out[t * out_stride + r] =
                finish_lanes(kind, sums[r][t][0], sums[r][t][1], w + r * w_stride + c,
                             x + t * x_stride + c, cols - c);
}

static inline __attribute__((always_inline)) void
dot_halves(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
           const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3, x += 3 * x_stride, out += 3 * out_stride) {
        size_t r = 0;
        for (; r + 2 <= n_rows; r += 2)
            dot_some(kind, w + r * w_stride, w_stride, 2, cols, x, x_stride, 3, out + r,
                     out_stride);
        if (r < n_rows)
            dot_some(kind, w + r * w_stride, w_stride, 1, cols, x, x_stride, 3, out + r,
                     out_stride);
    }
    for (; t < n_tokens; t++, x += x_stride, out += out_stride) {
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            dot_some(kind, w + r * w_stride, w_stride, 4, cols, x, x_stride, 1, out + r,
                     out_stride);
        for (; r < n_rows; r++)
            dot_some(kind, w + r * w_stride, w_stride, 1, cols, x, x_stride, 1, out + r,
                     out_stride);
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

static inline __m256i broadcast4(const int8_t *digits) {
    int32_t four;
    memcpy(&four, digits, sizeof four);
    return _mm256_set1_epi32(four);
}

/* upper[8] of the rows whose sums, scales, errors and norms these are. */
static inline void write_upper(__m256i high, __m256i low, const uint8_t *head,
                               const bl__screen_x *x, float *upper) {
    __m256 scale = _mm256_loadu_ps((const float *)(const void *)head);
    __m256 error = _mm256_loadu_ps((const float *)(const void *)(head + 64));
    __m256 norm = _mm256_loadu_ps((const float *)(const void *)(head + 128));
    __m256 about = _mm256_cvtepi32_ps(high);
    if (x->n_digits == 2)
        about =
            _mm256_add_ps(_mm256_mul_ps(about, _mm256_set1_ps(128.0f)), _mm256_cvtepi32_ps(low));
    about = _mm256_mul_ps(_mm256_mul_ps(about, _mm256_set1_ps(x->step)), scale);
    __m256 bound = _mm256_add_ps(_mm256_mul_ps(scale, _mm256_set1_ps(x->of_scale)),
                                 _mm256_mul_ps(error, _mm256_set1_ps(x->of_error)));
    bound = _mm256_add_ps(bound, _mm256_mul_ps(norm, _mm256_set1_ps(x->of_norm)));
    bound = _mm256_add_ps(bound, _mm256_set1_ps(x->of_any));
    _mm256_storeu_ps(upper, _mm256_add_ps(about, bound));
}

/* Codes are q + 128, and the digits' sums take the 128 away again. A pair of products is at most
 * 2 x 255 x 64 = 32,640 in magnitude: digits are that small so that int16 holds it. */
static void screen_two_digits(const uint8_t *tile, size_t n_groups, const bl__screen_x *x,
                              float *upper) {
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *codes = tile + BL_SCREEN_HEAD_BYTES;
    const int8_t *digits = x->digits;
    __m256i high[2], low[2];
    high[0] = high[1] = _mm256_set1_epi32(-128 * x->high_sum);
    low[0] = low[1] = _mm256_set1_epi32(-128 * x->low_sum);
    for (size_t g = 0; g < n_groups; g++, codes += 64, digits += 8) {
        __m256i of_high = broadcast4(digits), of_low = broadcast4(digits + 4);
        __builtin_prefetch(codes + SCREEN_AHEAD_BYTES);
        for (size_t half = 0; half < 2; half++) {
            __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)codes + half);
            __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(w, of_high), ones);
            __m256i b = _mm256_madd_epi16(_mm256_maddubs_epi16(w, of_low), ones);
            high[half] = _mm256_add_epi32(high[half], a);
            low[half] = _mm256_add_epi32(low[half], b);
        }
    }
    write_upper(high[0], low[0], tile, x, upper);
    write_upper(high[1], low[1], tile + 32, x, upper + 8);
}

/* One digit is up to 127: |q| <= 128 takes q's sign from it, and a pair is at most 32,512. */
static void screen_one_digit(const uint8_t *tile, size_t n_groups, const bl__screen_x *x,
                             float *upper) {
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8((char)0x80);
    const uint8_t *codes = tile + BL_SCREEN_HEAD_BYTES;
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t g = 0; g < n_groups; g++, codes += 64) {
        __m256i digit = broadcast4(x->digits + g * BL_SCREEN_COLS);
        __builtin_prefetch(codes + SCREEN_AHEAD_BYTES);
        for (size_t half = 0; half < 2; half++) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)codes + half);
            q = _mm256_xor_si256(q, offset);
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(digit, q));
            sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, ones));
        }
    }
    write_upper(sums[0], sums[0], tile, x, upper);
    write_upper(sums[1], sums[1], tile + 32, x, upper + 8);
}

static void screen_rows(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        size_t n_tokens, float *upper, size_t stride) {
    size_t n_groups = (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS;
    for (size_t i = 0; i < n_tiles; i++) /* a tile stays in the second cache for all tokens */
        for (size_t t = 0; t < n_tokens; t++)
            if (x[t].n_digits)
                (x[t].n_digits == 2 ? screen_two_digits : screen_one_digit)(
                    tiles + i * bl__screen_tile_bytes(cols), n_groups, &x[t],
                    upper + t * stride + i * BL_SCREEN_ROWS);
}

void bl__head_fill_avx2(bl__kernels *table) {
    table->dot_rows_f16 = dot_rows_f16;
    table->dot_rows_bf16 = dot_rows_bf16;
    table->screen_rows = screen_rows;
}
