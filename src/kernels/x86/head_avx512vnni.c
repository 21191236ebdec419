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

/* upper[16] of a tile's rows, whose sums these are. */
static inline __attribute__((always_inline)) void write_upper(__m512i high, __m512i low,
                                                              const uint8_t *tile,
                                                              const bl__screen_x *x,
                                                              size_t n_digits, float *upper) {
    __m512 scale = _mm512_loadu_ps(tile), error = _mm512_loadu_ps(tile + 64);
    __m512 norm = _mm512_loadu_ps(tile + 128), about = _mm512_cvtepi32_ps(high);
    if (n_digits == 2)
        about =
            _mm512_add_ps(_mm512_mul_ps(about, _mm512_set1_ps(128.0f)), _mm512_cvtepi32_ps(low));
    about = _mm512_mul_ps(_mm512_mul_ps(about, _mm512_set1_ps(x->step)), scale);
    __m512 bound = _mm512_add_ps(_mm512_mul_ps(scale, _mm512_set1_ps(x->of_scale)),
                                 _mm512_mul_ps(error, _mm512_set1_ps(x->of_error)));
    bound = _mm512_add_ps(bound, _mm512_mul_ps(norm, _mm512_set1_ps(x->of_norm)));
    bound = _mm512_add_ps(bound, _mm512_set1_ps(x->of_any));
    _mm512_storeu_ps(upper, _mm512_add_ps(about, bound));
}

enum { GROUP_BYTES = BL_SCREEN_ROWS * BL_SCREEN_COLS, MOST_SUMS = 12 };

/* One tile and one token, at the pace of memory. Codes are q + 128, and the digits' sums take the
 * 128 away again. Two sums for each digit hide the latency of the dot-product instruction. */
static inline __attribute__((always_inline)) void screen_tile(const uint8_t *tile, size_t n_groups,
                                                              const bl__screen_x *x,
                                                              size_t n_digits, float *upper) {
    const uint8_t *codes = tile + BL_SCREEN_HEAD_BYTES;
    __m512i sums[2][2];
    size_t g = 0;
    sums[0][0] = _mm512_set1_epi32(-128 * x->high_sum);
    sums[0][1] = _mm512_set1_epi32(-128 * x->low_sum);
    sums[1][0] = sums[1][1] = _mm512_setzero_si512();
    for (; g + 2 <= n_groups; g += 2)
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; i++) {
            const uint8_t *from = codes + (g + i) * GROUP_BYTES;
            __m512i w = _mm512_loadu_si512(from);
            __builtin_prefetch(from + SCREEN_AHEAD_BYTES);
#pragma GCC unroll 2
            for (size_t d = 0; d < n_digits; d++)
                sums[i][d] = _mm512_dpbusd_epi32(
                    sums[i][d], w,
                    broadcast4(x->digits + ((g + i) * n_digits + d) * BL_SCREEN_COLS));
        }
    for (size_t d = 0; g < n_groups && d < n_digits; d++)
        sums[0][d] =
            _mm512_dpbusd_epi32(sums[0][d], _mm512_loadu_si512(codes + g * GROUP_BYTES),
                                broadcast4(x->digits + (g * n_digits + d) * BL_SCREEN_COLS));
    write_upper(_mm512_add_epi32(sums[0][0], sums[1][0]), _mm512_add_epi32(sums[0][1], sums[1][1]),
                tile, x, n_digits, upper);
}

/* n_tiles tiles (two at most) and n tokens of n_digits digits (constants after inlining, n *
 * n_digits <= MOST_SUMS): a digit that is broadcast meets the rows of both tiles. */
static inline __attribute__((always_inline)) void
screen_some(const uint8_t *tiles, size_t tile_bytes, size_t n_tiles, size_t n_groups,
            const bl__screen_x *x, size_t n, size_t n_digits, float *upper, size_t stride) {
    /* Sums that are used after the loop as registers are kept in memory within it (gcc 12). */
    _Alignas(64) int32_t dots[2][MOST_SUMS][BL_SCREEN_ROWS];
    __m512i sums[2][MOST_SUMS];
#pragma GCC unroll 12
    for (size_t s = 0; s < n * n_digits; s++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            sums[i][s] = _mm512_set1_epi32(
                -128 * (s % n_digits ? x[s / n_digits].low_sum : x[s / n_digits].high_sum));
    for (size_t g = 0; g < n_groups; g++) {
        __m512i w[2];
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++) {
            const uint8_t *from = tiles + i * tile_bytes + BL_SCREEN_HEAD_BYTES + g * GROUP_BYTES;
            w[i] = _mm512_loadu_si512(from);
            __builtin_prefetch(from + SCREEN_AHEAD_BYTES);
        }
#pragma GCC unroll 12
        for (size_t s = 0; s < n * n_digits; s++) {
            __m512i digits =
                broadcast4(x[s / n_digits].digits + (g * n_digits + s % n_digits) * BL_SCREEN_COLS);
#pragma GCC unroll 2
            for (size_t i = 0; i < n_tiles; i++)
                sums[i][s] = _mm512_dpbusd_epi32(sums[i][s], w[i], digits);
        }
    }
#pragma GCC unroll 12
    for (size_t s = 0; s < n * n_digits; s++)
#pragma GCC unroll 2
        for (size_t i = 0; i < n_tiles; i++)
            _mm512_store_si512(dots[i][s], sums[i][s]);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < n_tiles; i++)
            write_upper(_mm512_load_si512(dots[i][t * n_digits]),
                        _mm512_load_si512(dots[i][t * n_digits + n_digits - 1]),
                        tiles + i * tile_bytes, &x[t], n_digits,
                        upper + t * stride + i * BL_SCREEN_ROWS);
}

/* Any number of tokens of n_digits digits. */
static inline __attribute__((always_inline)) void
screen_tokens(const uint8_t *tiles, size_t tile_bytes, size_t n_tiles, size_t n_groups,
              const bl__screen_x *x, size_t n, size_t n_digits, float *upper, size_t stride) {
    size_t t = 0;
    for (; t + 12 / n_digits <= n; t += 12 / n_digits)
        screen_some(tiles, tile_bytes, n_tiles, n_groups, x + t, 12 / n_digits, n_digits,
                    upper + t * stride, stride);
    for (; n_digits == 1 && t + 8 <= n; t += 8)
        screen_some(tiles, tile_bytes, n_tiles, n_groups, x + t, 8, 1, upper + t * stride, stride);
    for (; t + 4 <= n; t += 4)
        screen_some(tiles, tile_bytes, n_tiles, n_groups, x + t, 4, n_digits, upper + t * stride,
                    stride);
    for (; t + 2 <= n; t += 2)
        screen_some(tiles, tile_bytes, n_tiles, n_groups, x + t, 2, n_digits, upper + t * stride,
                    stride);
    for (; t < n; t++)
        for (size_t i = 0; i < n_tiles; i++)
            screen_tile(tiles + i * tile_bytes, n_groups, x + t, n_digits,
                        upper + t * stride + i * BL_SCREEN_ROWS);
}

/* One tile or two after the other meet all tokens, which stay in the second cache. */
static void screen_rows(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        size_t n_tokens, float *upper, size_t stride) {
    size_t n_groups = (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS;
    size_t tile_bytes = bl__screen_tile_bytes(cols), most = n_tokens > 1 ? 2 : 1;
    for (size_t tile = 0, n_here; tile < n_tiles; tile += n_here) {
        const uint8_t *from = tiles + tile * tile_bytes;
        float *to = upper + tile * BL_SCREEN_ROWS;
        n_here = n_tiles - tile < most ? 1 : most;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            uint32_t n_digits = x[t].n_digits;
            for (n = 1; t + n < n_tokens && x[t + n].n_digits == n_digits;)
                n++;
            if (n_digits == 0)
                continue;
            if (n_here == 2 && n_digits == 2)
                screen_tokens(from, tile_bytes, 2, n_groups, x + t, n, 2, to + t * stride, stride);
            else if (n_here == 2)
                screen_tokens(from, tile_bytes, 2, n_groups, x + t, n, 1, to + t * stride, stride);
            else if (n_digits == 2)
                screen_tokens(from, tile_bytes, 1, n_groups, x + t, n, 2, to + t * stride, stride);
            else
                screen_tokens(from, tile_bytes, 1, n_groups, x + t, n, 1, to + t * stride, stride);
        }
    }
}

void bl__head_fill_avx512vnni(bl__kernels *table) {
    table->dot_rows_f16 = dot_rows_f16;
    table->dot_rows_bf16 = dot_rows_bf16;
    table->screen_rows = screen_rows;
}
