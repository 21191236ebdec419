/* Owns the AVX2 + FMA kernels. Same bits as kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/levels.h"
#include "kernels/x86/gemm.h"
#include "kernels/x86/native.h"
#include "quant/t2.h"

static inline __m256i broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* The largest |x|; NaN does not count. */
static float absmax(const float *x, size_t n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 max8 = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        max8 = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), max8);
    float lanes[8], max = 0.0f;
    _mm256_storeu_ps(lanes, max8);
    for (size_t l = 0; l < 8; l++)
        max = lanes[l] > max ? lanes[l] : max;
    for (; i < n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return max;
}

static void quantize_i8(const float *x, size_t n, int8_t *q, size_t stride, float *step,
                        int32_t *sum) {
    float max = absmax(x, n);
    float scale = 127.0f / (max > 1e-5f ? max : 1e-5f);
    __m256 scale8 = _mm256_set1_ps(scale);
    __m256i sum8 = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        /* NaN converts to INT32_MIN, which the packs saturate to -128 */
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale8));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), scale8));
        __m256i ab = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        __m128i bytes =
            _mm_packs_epi16(_mm256_castsi256_si128(ab), _mm256_extracti128_si256(ab, 1));
        _mm_storeu_si128((__m128i *)(q + i), bytes);
        sum8 = _mm256_add_epi32(
            sum8, _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), _mm256_set1_epi16(1)));
    }
    int32_t lanes[8], total = 0;
    _mm256_storeu_si256((__m256i *)lanes, sum8);
    for (size_t l = 0; l < 8; l++)
        total += lanes[l];
    for (; i < n; i++) {
        float r = rintf(x[i] * scale);
        r = r > -128.0f ? r : -128.0f;
        r = r < 127.0f ? r : 127.0f;
        q[i] = (int8_t)r;
        total += q[i];
    }
    memset(q + n, 0, stride - n);
    *step = 1.0f / scale;
    *sum = total;
}

/* int16 sums hold this many blocks: a block adds at most 4 planes x 2 columns x 3 x 128 = 3,072 in
 * magnitude to one of them, impossible code 3 included, and 10 x 3,072 <= 32,767. */
enum { SAFE_BLOCKS = 10 };
enum {
    MANY_TOKENS = 4, /* from here on it pays to unpack into memory */
    AHEAD = 4096     /* how far ahead of a block lines are asked for */
};

/* 16 rows x n tokens (n a constant after inlining) of one tile: dots[t][half]. */
static inline __attribute__((always_inline)) void tile_dots(const uint8_t *blocks, size_t n_blocks,
                                                            const int8_t *q, size_t q_stride,
                                                            size_t n, __m256i dots[][2]) {
    const __m256i three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    for (size_t t = 0; t < n; t++)
        dots[t][0] = dots[t][1] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks;) {
        size_t end = b + SAFE_BLOCKS < n_blocks ? b + SAFE_BLOCKS : n_blocks;
        __m256i sums[4][2];
        for (size_t t = 0; t < n; t++)
            sums[t][0] = sums[t][1] = _mm256_setzero_si256();
        for (; b < end; b++) {
            const __m256i *block = (const __m256i *)(blocks + b * BL_T2_BLOCK_BYTES);
            __m256i low = _mm256_loadu_si256(block), high = _mm256_loadu_si256(block + 1);
            _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
            for (size_t plane = 0; plane < 4; plane++) {
                __m256i w0 = _mm256_and_si256(low, three), w1 = _mm256_and_si256(high, three);
                for (size_t t = 0; t < n; t++) {
                    __m256i x = broadcast4(q + t * q_stride + b * BL_T2_COLS + 4 * plane);
                    sums[t][0] = _mm256_add_epi16(sums[t][0], _mm256_maddubs_epi16(w0, x));
                    sums[t][1] = _mm256_add_epi16(sums[t][1], _mm256_maddubs_epi16(w1, x));
                }
                low = _mm256_srli_epi16(low, 2);
                high = _mm256_srli_epi16(high, 2);
            }
        }
        for (size_t t = 0; t < n; t++)
            for (size_t half = 0; half < 2; half++)
                dots[t][half] =
                    _mm256_add_epi32(dots[t][half], _mm256_madd_epi16(sums[t][half], ones));
    }
}

/* Scales 16 dots and writes those of rows that exist. */
static void write_rows(const __m256i dots[2], const uint8_t *scales, int32_t sum, float step,
                       size_t n_rows, float *out) {
    float rows[BL_T2_ROWS];
    for (size_t half = 0; half < 2; half++) {
        __m256 dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots[half], _mm256_set1_epi32(sum)));
        __m256 scale = _mm256_loadu_ps((const float *)(const void *)(scales + 32 * half));
        __m256 y = _mm256_mul_ps(dot, _mm256_set1_ps(step));
        _mm256_storeu_ps(rows + 8 * half, _mm256_mul_ps(y, scale));
    }
    memcpy(out, rows, n_rows * sizeof(float));
}

static void ternary_gemm(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride) {
    if (n_tokens >= MANY_TOKENS) {
        bl__gemm_avx2(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
        return;
    }
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t2_stride(cols);
        const uint8_t *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS, n_blocks = bl__t2_blocks(cols);
        size_t n_rows = rows - row < BL_T2_ROWS ? rows - row : BL_T2_ROWS;
        for (size_t t = 0; t < n_tokens;) {
            const int8_t *q = x->q + t * x->stride;
            __m256i dots[2][2];
            size_t n = n_tokens - t >= 2 ? 2 : 1;
            if (n == 2)
                tile_dots(blocks, n_blocks, q, x->stride, 2, dots);
            else
                tile_dots(blocks, n_blocks, q, x->stride, 1, dots);
            for (size_t i = 0; i < n; i++, t++)
                write_rows(dots[i], scales, x->sum[t], x->step[t], n_rows,
                           out + t * out_stride + row);
        }
    }
}

/* Folds 16 lanes as the contract says, after adding the tail's elements to theirs. */
static float finish_lanes(__m256 low, __m256 high, const float *a, const float *b, size_t n) {
    float lanes[BL_LANES];
    if (n) {
        _mm256_storeu_ps(lanes, low);
        _mm256_storeu_ps(lanes + 8, high);
        for (size_t l = 0; l < n; l++)
            lanes[l] = fmaf(a[l], b[l], lanes[l]);
        low = _mm256_loadu_ps(lanes);
        high = _mm256_loadu_ps(lanes + 8);
    }
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* n rows (a constant after inlining) against one token. */
static inline __attribute__((always_inline)) void
dot_some(const float *w, size_t w_stride, size_t n, size_t cols, const float *x, float *out) {
    __m256 low[4], high[4];
    for (size_t r = 0; r < n; r++)
        low[r] = high[r] = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + BL_LANES <= cols; c += BL_LANES) {
        __m256 x0 = _mm256_loadu_ps(x + c), x1 = _mm256_loadu_ps(x + c + 8);
        for (size_t r = 0; r < n; r++) {
            const float *row = w + r * w_stride + c;
            low[r] = _mm256_fmadd_ps(_mm256_loadu_ps(row), x0, low[r]);
            high[r] = _mm256_fmadd_ps(_mm256_loadu_ps(row + 8), x1, high[r]);
        }
    }
    for (size_t r = 0; r < n; r++)
        out[r] = finish_lanes(low[r], high[r], w + r * w_stride + c, x + c, cols - c);
}

static void dot_rows(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
                     size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    for (size_t t = 0; t < n_tokens; t++) {
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            dot_some(w + r * w_stride, w_stride, 4, cols, x + t * x_stride,
                     out + t * out_stride + r);
        for (; r < n_rows; r++)
            dot_some(w + r * w_stride, w_stride, 1, cols, x + t * x_stride,
                     out + t * out_stride + r);
    }
}

static void weighted_sum(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out) {
    size_t c = 0;
    if (n_rows == 0) {
        memset(out, 0, cols * sizeof *out);
        return;
    }
    for (; c + 16 <= cols; c += 16) {
        __m256 first = _mm256_set1_ps(p[0]);
        __m256 a = _mm256_mul_ps(first, _mm256_loadu_ps(v + c));
        __m256 b = _mm256_mul_ps(first, _mm256_loadu_ps(v + c + 8));
        for (size_t r = 1; r < n_rows; r++) {
            __m256 weight = _mm256_set1_ps(p[r]);
            a = _mm256_fmadd_ps(weight, _mm256_loadu_ps(v + r * v_stride + c), a);
            b = _mm256_fmadd_ps(weight, _mm256_loadu_ps(v + r * v_stride + c + 8), b);
        }
        _mm256_storeu_ps(out + c, a);
        _mm256_storeu_ps(out + c + 8, b);
    }
    for (; c < cols; c++) {
        float total = p[0] * v[c];
        for (size_t r = 1; r < n_rows; r++)
            total = fmaf(p[r], v[r * v_stride + c], total);
        out[c] = total;
    }
}

static void unpack_f16(const uint16_t *x, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
    for (; i < n; i++)
        out[i] = bl__f16_to_f32(bl__load_u16(x + i));
}

static void unpack_bf16(const uint16_t *x, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide =
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(x + i)));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    for (; i < n; i++)
        out[i] = bl__bf16_to_f32(bl__load_u16(x + i));
}

void bl__kernels_fill_avx2(bl__kernels *table) {
    table->quantize_i8 = quantize_i8;
    table->ternary_gemm = ternary_gemm;
    table->t5_unpack = bl__t5_unpack_avx2;
    table->b1_unpack = bl__b1_unpack_avx2;
    table->t5_gemv = bl__t5_gemv_avx2;
    table->b1_gemv = bl__b1_gemv_avx2;
    bl__levels_fill_avx2(table);
    bl__skip_fill_avx2(table);
    table->dot_rows = dot_rows;
    table->weighted_sum = weighted_sum;
    table->unpack_f16 = unpack_f16;
    table->unpack_bf16 = unpack_bf16;
    bl__head_fill_avx2(table);
    bl__floats_fill_avx2(table);
}
