/* Private to kernels/: the loops of train_kernels.h as plain C, included by one file a level and
 * compiled there for its instruction set. Contraction is off, sums have lanes: the same bits. */
#ifndef BL_KERNELS_TRAIN_LOOPS_H
#define BL_KERNELS_TRAIN_LOOPS_H

#include <math.h>
#include <string.h>

#include "kernels/exp.h"
#include "kernels/kernels.h"
#include "kernels/train_kernels.h"
#include "quant/t2.h"

enum { FLOAT32, BF16 };

static inline uint32_t round_bf16(float x) { /* in the high half; NaN stays NaN */
    uint32_t u = bl__f32_bits(x);
    return u + 0x7fffu + (u >> 16 & 1u);
}

/* Two values that follow each other in k. */
static inline uint32_t unit_bf16(float first, float second) {
    return round_bf16(first) >> 16 | (round_bf16(second) & 0xffff0000u);
}

/* Sums in lanes as vectors of the compiler, which keeps them in registers at any width. Never
 * passed by value: how wide vectors are passed depends on the instruction set. */
typedef float lanes16 __attribute__((vector_size(64)));
typedef float loose16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t mask16 __attribute__((vector_size(64)));
#define LANES(p) (*(const loose16 *)(const void *)(p))

typedef float lanes8 __attribute__((vector_size(32)));
typedef float lanes4 __attribute__((vector_size(16)));

/* Halves are added until one lane is left. */
static inline float fold_lanes(const lanes16 *x) {
    lanes8 y = __builtin_shufflevector(*x, *x, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(*x, *x, 8, 9, 10, 11, 12, 13, 14, 15);
    lanes4 z =
        __builtin_shufflevector(y, y, 0, 1, 2, 3) + __builtin_shufflevector(y, y, 4, 5, 6, 7);
    return (z[0] + z[2]) + (z[1] + z[3]);
}

/* Iterations touch nothing of each other's, even where what is read is what is written. */
#ifdef __clang__
#define EACH_ALONE _Pragma("clang loop vectorize(assume_safety)")
#else
#define EACH_ALONE _Pragma("GCC ivdep")
#endif

/* ---- packing: `kind` and `panel` are constants after inlining ---- */

static inline void pack_row(int kind, const float *x, size_t k, float scale, void *out) {
    float *floats = out;
    uint16_t *halves = out;
    if (kind == FLOAT32)
        for (size_t i = 0; i < k; i++)
            floats[i] = x[i] * scale;
    else
        for (size_t i = 0; i < k; i++)
            halves[i] = (uint16_t)(round_bf16(x[i] * scale) >> 16);
    if (kind == BF16 && k % 2)
        halves[k] = 0;
}

/* One unit row of a panel: n <= panel columns from rows `first` and (bfloat16) `second`. */
static inline void pack_unit_row(int kind, size_t panel, const float *first, float f,
                                 const float *second, float s, size_t n, uint32_t *to) {
    for (size_t j = 0; j < n; j++)
        to[j] = kind == BF16 ? unit_bf16(first[j] * f, second[j] * s) : bl__f32_bits(first[j] * f);
    for (size_t j = n; j < panel; j++)
        to[j] = 0;
}

/* A panel at a time: what is written lies together, what is read comes from near caches. */
static inline void pack_panels(int kind, size_t panel, const float *b, size_t ldb, size_t k,
                               size_t n, const float *scale, void *out, size_t panel_bytes) {
    size_t group = kind == BF16 ? 2 : 1;
    for (size_t j = 0; j < n; j += panel, out = (char *)out + panel_bytes) {
        uint32_t *to = out;
        for (size_t i = 0; i < k; i += group, to += panel) {
            /* a row that is not there is the first one times 0; NaN there is NaN here already */
            bool pair = kind == BF16 && i + 1 < k;
            const float *first = b + i * ldb + j, *second = pair ? first + ldb : first;
            float f = scale ? scale[i] : 1.0f, s = pair ? (scale ? scale[i + 1] : 1.0f) : 0.0f;
            if (n - j >= panel)
                pack_unit_row(kind, panel, first, f, second, s, panel, to);
            else
                pack_unit_row(kind, panel, first, f, second, s, n - j, to);
        }
    }
}

static inline void pack_unit_row_i8(int kind, size_t panel, const int8_t *first,
                                    const int8_t *second, float s, size_t n, uint32_t *to) {
    for (size_t j = 0; j < n; j++)
        to[j] = kind == BF16
                    ? bl__f32_bits((float)first[j]) >> 16 | bl__f32_bits((float)second[j] * s)
                    : bl__f32_bits((float)first[j]);
    for (size_t j = n; j < panel; j++)
        to[j] = 0;
}

static inline void pack_panels_i8(int kind, size_t panel, const int8_t *b, size_t ldb, size_t k,
                                  size_t n, void *out, size_t panel_bytes) {
    size_t group = kind == BF16 ? 2 : 1;
    for (size_t j = 0; j < n; j += panel, out = (char *)out + panel_bytes) {
        uint32_t *to = out;
        for (size_t i = 0; i < k; i += group, to += panel) {
            bool pair = kind == BF16 && i + 1 < k;
            const int8_t *first = b + i * ldb + j, *second = pair ? first + ldb : first;
            if (n - j >= panel)
                pack_unit_row_i8(kind, panel, first, second, pair ? 1.0f : 0.0f, panel, to);
            else
                pack_unit_row_i8(kind, panel, first, second, pair ? 1.0f : 0.0f, n - j, to);
        }
    }
}

static inline void pack_panels_t(int kind, size_t panel, const float *b, size_t ldb, size_t k,
                                 size_t n, void *out, size_t panel_bytes) {
    for (size_t j = 0; j < n; j += panel, out = (char *)out + panel_bytes) {
        size_t width = n - j < panel ? n - j : panel;
        uint32_t *to = out;
        for (size_t i = 0; i < k; i += kind == BF16 ? 2 : 1, to += panel) {
            const float *from = b + j * ldb + i;
            bool pair = i + 1 < k;
            for (size_t c = 0; c < width; c++)
                to[c] = kind == BF16 ? unit_bf16(from[c * ldb], pair ? from[c * ldb + 1] : 0.0f)
                                     : bl__f32_bits(from[c * ldb]);
            for (size_t c = width; c < panel; c++)
                to[c] = 0;
        }
    }
}

/* ---- packing for int8 products ---- */

enum { INT8_BLOCK = 64, INT8_VALUE_UNITS = INT8_BLOCK / 4, INT8_UNITS = INT8_VALUE_UNITS + 2 };

/* What the values of a block have in common, from the bits of the largest |x|: integers compare as
 * floats do, and a NaN is above them all. */
static inline void int8_step(uint32_t max_bits, float *step, float *inverse) {
    float max = bl__bits_f32(max_bits);
    bool is_zero = max < 1e-30f, is_finite = max_bits < 0x7f800000u;
    *step = is_finite ? (is_zero ? 0.0f : max / 127.0f) : NAN;
    *inverse = is_zero || !is_finite ? 0.0f : 127.0f / max;
}

/* x rounded to an integer, half to even, of |x| <= 127; anything where x is a NaN. */
static inline int32_t round_small(float x) {
    return (int32_t)(bl__f32_bits(x + 12582912.0f) - 0x4b400000u);
}

static inline uint32_t max_bits(uint32_t max, float x) {
    uint32_t bits = bl__f32_bits(x) & 0x7fffffffu;
    return bits > max ? bits : max;
}

static inline void pack_row_int8(const float *x, size_t k, float scale, void *out) {
    uint32_t *to = out;
    for (size_t at = 0; at < k; at += INT8_BLOCK, to += INT8_UNITS) {
        float values[INT8_BLOCK] = {0}, step, inverse;
        int8_t q[INT8_BLOCK];
        int32_t sum = 0;
        uint32_t max = 0;
        size_t n = k - at < INT8_BLOCK ? k - at : INT8_BLOCK;
        for (size_t i = 0; i < n; i++)
            values[i] = x[at + i] * scale;
        for (size_t i = 0; i < INT8_BLOCK; i++)
            max = max_bits(max, values[i]);
        int8_step(max, &step, &inverse);
        for (size_t i = 0; i < INT8_BLOCK; i++) {
            int32_t rounded = round_small(values[i] * inverse);
            q[i] = (int8_t)rounded;
            sum += (int8_t)rounded;
        }
        memcpy(to, q, sizeof q);
        to[INT8_VALUE_UNITS] = bl__f32_bits(step);
        to[INT8_VALUE_UNITS + 1] = (uint32_t)(-128 * sum);
    }
}

/* One block of one panel: n <= panel columns, k <= INT8_BLOCK rows. `panel` is a constant after
 * inlining, at most 32. */
static inline void pack_block_int8(size_t panel, const float *b, size_t ldb, size_t k, size_t n,
                                   const float *scale, uint32_t *to) {
    float x[INT8_BLOCK][32], step[32], inverse[32];
    uint32_t max[32] = {0};
    int32_t sum[32] = {0};
    for (size_t i = 0; i < INT8_BLOCK; i++) {
        float factor = scale && i < k ? scale[i] : 1.0f;
        for (size_t j = 0; n == panel && i < k && j < panel; j++)
            x[i][j] = b[i * ldb + j] * factor;
        for (size_t j = 0; n < panel && i < k && j < panel; j++)
            x[i][j] = j < n ? b[i * ldb + j] * factor : 0.0f;
        for (size_t j = 0; i >= k && j < panel; j++)
            x[i][j] = 0.0f;
        for (size_t j = 0; j < panel; j++)
            max[j] = max_bits(max[j], x[i][j]);
    }
    for (size_t j = 0; j < panel; j++)
        int8_step(max[j], &step[j], &inverse[j]);
    for (size_t i = 0; i < INT8_BLOCK; i += 4, to += panel)
        for (size_t j = 0; j < panel; j++) {
            int32_t q[4];
            for (size_t p = 0; p < 4; p++)
                q[p] = (int8_t)round_small(x[i + p][j] * inverse[j]);
            sum[j] += q[0] + q[1] + q[2] + q[3];
            to[j] = ((uint32_t)q[0] & 255u) | ((uint32_t)q[1] & 255u) << 8 |
                    ((uint32_t)q[2] & 255u) << 16 | (uint32_t)q[3] << 24;
        }
    for (size_t j = 0; j < panel; j++) {
        to[j] = bl__f32_bits(step[j]);
        to[panel + j] = (uint32_t)(-128 * sum[j]);
    }
}

static inline void pack_panels_int8(size_t panel, const float *b, size_t ldb, size_t k, size_t n,
                                    const float *scale, void *out, size_t panel_bytes) {
    for (size_t j = 0; j < n; j += panel, out = (char *)out + panel_bytes) {
        uint32_t *to = out;
        for (size_t i = 0; i < k; i += INT8_BLOCK, to += INT8_UNITS * panel)
            pack_block_int8(panel, b + i * ldb + j, ldb, k - i < INT8_BLOCK ? k - i : INT8_BLOCK,
                            n - j < panel ? n - j : panel, scale ? scale + i : NULL, to);
    }
}

/* Up to four rows of B as one unit row: values + 128, zero where there are none. */
static inline void pack_unit_row_u8(size_t panel, const int8_t *b, size_t ldb, size_t k, size_t n,
                                    uint32_t *to) {
    static const int8_t none[32] = {-128, -128, -128, -128, -128, -128, -128, -128,
                                    -128, -128, -128, -128, -128, -128, -128, -128,
                                    -128, -128, -128, -128, -128, -128, -128, -128,
                                    -128, -128, -128, -128, -128, -128, -128, -128};
    const int8_t *row[4];
    for (size_t p = 0; p < 4; p++)
        row[p] = p < k ? b + p * ldb : none;
    for (size_t j = 0; j < n; j++)
        to[j] = ((uint32_t)(uint8_t)row[0][j] | (uint32_t)(uint8_t)row[1][j] << 8 |
                 (uint32_t)(uint8_t)row[2][j] << 16 | (uint32_t)(uint8_t)row[3][j] << 24) ^
                0x80808080u;
    for (size_t j = n; j < panel; j++)
        to[j] = 0;
}

static inline void pack_panels_u8(size_t panel, const int8_t *b, size_t ldb, size_t k, size_t n,
                                  void *out, size_t panel_bytes) {
    for (size_t j = 0; j < n; j += panel, out = (char *)out + panel_bytes) {
        uint32_t *to = out;
        for (size_t i = 0; i < k; i += 4, to += panel) {
            if (i && i % INT8_BLOCK == 0)
                to += 2 * panel;
            if (n - j >= panel)
                pack_unit_row_u8(panel, b + i * ldb + j, ldb, k - i, panel, to);
            else
                pack_unit_row_u8(panel, b + i * ldb + j, ldb, k - i, n - j, to);
        }
    }
}

/* One row of A: c[n] = or += its products with a panel. */
static inline void multiply_row_int8(size_t panel, const char *a, size_t a_unit, const char *b,
                                     size_t n_units, float *c, size_t n, bool accumulate) {
    float total[32] = {0};
    memcpy(total, c, accumulate ? n * sizeof *c : 0);
    for (size_t at = 0; at < n_units; at += INT8_UNITS) {
        int32_t sum[32], bias;
        float step;
        memcpy(&step, a + INT8_VALUE_UNITS * a_unit, sizeof step);
        memcpy(&bias, a + (INT8_VALUE_UNITS + 1) * a_unit, sizeof bias);
        for (size_t j = 0; j < panel; j++)
            sum[j] = bias;
        for (size_t g = 0; g < INT8_VALUE_UNITS; g++, a += a_unit, b += 4 * panel) {
            int8_t q[4];
            memcpy(q, a, sizeof q);
            for (size_t j = 0; j < panel; j++) {
                uint32_t unit;
                memcpy(&unit, b + 4 * j, sizeof unit);
                sum[j] += q[0] * (int32_t)(unit & 255u) + q[1] * (int32_t)(unit >> 8 & 255u) +
                          q[2] * (int32_t)(unit >> 16 & 255u) + q[3] * (int32_t)(unit >> 24);
            }
        }
        for (size_t j = 0; j < panel; j++)
            total[j] = fmaf((float)sum[j], step, total[j]);
        a += (INT8_UNITS - INT8_VALUE_UNITS) * a_unit;
        b += (INT8_UNITS - INT8_VALUE_UNITS) * 4 * panel;
    }
    memcpy(c, total, n * sizeof *c);
}

/* ---- loops ---- */

static inline void keep_larger(lanes16 *most, const float *x) {
    mask16 keep = *most > LANES(x);
    *most = (lanes16)(((mask16)*most & keep) | ((mask16)LANES(x) & ~keep));
}

/* Four at a time, or each comparison would wait for the one before it. */
static float max_loop(const float *x, size_t n) {
    float lanes[4 * BL_LANES], most = x[0];
    size_t i = 0;
    for (size_t l = 0; l < 4 * BL_LANES; l++)
        lanes[l] = most;
    lanes16 a = LANES(lanes), b = a, c = a, d = a;
    for (; i + 4 * BL_LANES <= n; i += 4 * BL_LANES) {
        keep_larger(&a, x + i);
        keep_larger(&b, x + i + BL_LANES);
        keep_larger(&c, x + i + 2 * BL_LANES);
        keep_larger(&d, x + i + 3 * BL_LANES);
    }
    memcpy(lanes, &a, sizeof a);
    memcpy(lanes + BL_LANES, &b, sizeof b);
    memcpy(lanes + 2 * BL_LANES, &c, sizeof c);
    memcpy(lanes + 3 * BL_LANES, &d, sizeof d);
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] = lanes[l] > x[i] ? lanes[l] : x[i];
    for (size_t l = 0; l < 4 * BL_LANES; l++)
        most = most > lanes[l] ? most : lanes[l];
    return most;
}

static double sum_squares_loop(const float *x, size_t n) {
    double lanes[BL_LANES] = {0}, total = 0;
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] += (double)x[i + l] * (double)x[i + l];
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] += (double)x[i] * (double)x[i];
    for (size_t l = 0; l < BL_LANES; l++)
        total += lanes[l];
    return total;
}

static float dot_loop(const float *a, const float *b, size_t n) {
    lanes16 sum = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        sum += LANES(a + i) * LANES(b + i);
    for (size_t l = 0; i < n; i++, l++)
        sum[l] += a[i] * b[i];
    return fold_lanes(&sum);
}

static float exp_scaled_loop(const float *x, size_t n, float scale, float minus, float *out) {
    lanes16 sum = {0};
    size_t i = 0, whole = n - n % BL_LANES, rest = n - whole;
    EACH_ALONE
    for (i = 0; i < whole; i++)
        out[i] = exp_fused(x[i] * scale - minus);
    for (i = 0; i < whole; i += BL_LANES)
        sum += LANES(out + i);
    if (rest) { /* all lanes at once is faster than some of them */
        float last[BL_LANES];
        for (size_t l = 0; l < BL_LANES; l++)
            last[l] = l < rest ? x[whole + l] : 0.0f;
        for (size_t l = 0; l < BL_LANES; l++)
            last[l] = exp_fused(last[l] * scale - minus);
        for (size_t l = 0; l < rest; l++)
            out[whole + l] = last[l];
        for (size_t l = rest; l < BL_LANES; l++)
            last[l] = 0.0f;
        sum += LANES(last);
    }
    return fold_lanes(&sum);
}

static void softmax_backward_loop(const float *p, float *dp, size_t n, float d, float scale) {
    for (size_t i = 0; i < n; i++)
        dp[i] = p[i] * (dp[i] - d) * scale;
}

static void scale_loop(float *x, size_t n, float factor) {
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void add_loop(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void add_to_loop(const float *restrict x, const float *restrict y, size_t n,
                        float *restrict out) {
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] + y[i];
}

static void norm_apply_loop(const float *x, const float *w, float rstd, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * rstd * w[i];
}

/* dx = rstd * (w dy - x * rstd^2 * mean(w dy x)). */
static void norm_backward_loop(const float *restrict dy, const float *restrict x,
                               const float *restrict w, float rstd, size_t n, bool accumulate,
                               float *restrict dx, float *restrict dw) {
    lanes16 sum = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        sum += LANES(w + i) * LANES(dy + i) * LANES(x + i);
    for (size_t l = 0; i < n; i++, l++)
        sum[l] += w[i] * dy[i] * x[i];
    float mean = fold_lanes(&sum) / (float)n * rstd * rstd * rstd;
    if (accumulate)
        for (i = 0; i < n; i++) {
            dw[i] += dy[i] * (x[i] * rstd);
            dx[i] += w[i] * dy[i] * rstd - x[i] * mean;
        }
    else
        for (i = 0; i < n; i++) {
            dw[i] += dy[i] * (x[i] * rstd);
            dx[i] = w[i] * dy[i] * rstd - x[i] * mean;
        }
}

/* dx = rstd (dy - mean dy - y mean(dy y)) */
static void layer_norm_backward_loop(const float *restrict dy, const float *restrict x, float mean,
                                     float rstd, size_t n, bool accumulate, float *restrict dx) {
    lanes16 sum = {0}, product = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES) {
        sum += LANES(dy + i);
        product += LANES(dy + i) * (LANES(x + i) - mean);
    }
    for (size_t l = 0; i < n; i++, l++) {
        sum[l] += dy[i];
        product[l] += dy[i] * (x[i] - mean);
    }
    float shift = fold_lanes(&sum) / (float)n;
    float slope = fold_lanes(&product) / (float)n * rstd * rstd * rstd;
    if (accumulate)
        for (i = 0; i < n; i++)
            dx[i] += (dy[i] - shift) * rstd - (x[i] - mean) * slope;
    else
        for (i = 0; i < n; i++)
            dx[i] = (dy[i] - shift) * rstd - (x[i] - mean) * slope;
}

static void relu2_glu_loop(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        float g = gate[i] > 0.0f ? gate[i] : 0.0f;
        out[i] = g * g * up[i];
    }
}

static void relu2_glu_backward_loop(const float *restrict d, const float *restrict gate,
                                    const float *restrict up, size_t n, float *restrict dgate,
                                    float *restrict dup) {
    for (size_t i = 0; i < n; i++) {
        float g = gate[i] > 0.0f ? gate[i] : 0.0f;
        dgate[i] = 2.0f * g * (d[i] * up[i]);
        dup[i] = g * g * d[i];
    }
}

static void silu_glu_loop(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + exp_inline(-gate[i])) * up[i];
}

static void silu_glu_backward_loop(const float *restrict d, const float *restrict gate,
                                   const float *restrict up, size_t n, float *restrict dgate,
                                   float *restrict dup) {
    for (size_t i = 0; i < n; i++) {
        float sigmoid = 1.0f / (1.0f + exp_inline(-gate[i]));
        float slope = sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
        dgate[i] = d[i] * up[i] * slope;
        dup[i] = d[i] * (gate[i] * sigmoid);
    }
}

static void ternary_codes_loop(const float *w, size_t n, float inverse, int8_t *codes) {
    for (size_t i = 0; i < n; i++) {
        float v = w[i] * inverse;
        codes[i] = (int8_t)((v > 0.5f) - (v < -0.5f));
    }
}

static void binary_codes_loop(const float *w, size_t n, float mean, int8_t *codes) {
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)(2 * (w[i] > mean) - 1);
}

static size_t pack_t2_loop(const int8_t *codes, size_t cols, size_t row, uint8_t *blocks) {
    size_t changed = 0;
    uint8_t *to = blocks + 4 * row;
    for (size_t i = 0; i < cols; i += BL_T2_COLS, to += BL_T2_BLOCK_BYTES) {
        uint32_t four[4], word = 0, before;
        memcpy(four, codes + i, sizeof four);
        for (size_t p = 0; p < 4; p++) /* no byte carries into the next: -1 ... 1 become 0 ... 2 */
            word |= ((four[p] ^ 0x80808080u) + 0x01010101u - 0x80808080u) << 2 * p;
        memcpy(&before, to, sizeof before);
        before ^= word;
        changed += (size_t)__builtin_popcount((before | before >> 1) & 0x55555555u);
        memcpy(to, &word, sizeof word);
    }
    return changed;
}

static double sum_loop(const float *x, size_t n) {
    double lanes[BL_LANES] = {0}, total = 0;
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] += (double)x[i + l];
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] += (double)x[i];
    for (size_t l = 0; l < BL_LANES; l++)
        total += lanes[l];
    return total;
}

static void rope_loop(float *restrict x, size_t half, const float *restrict c,
                      const float *restrict s, float sign) {
    float *restrict y = x + half;
    for (size_t i = 0; i < half; i++) {
        float u = x[i], v = y[i], sine = s[i] * sign;
        x[i] = u * c[i] - v * sine;
        y[i] = v * c[i] + u * sine;
    }
}

static void adamw_loop(float *restrict w, float *restrict g, float *restrict m, float *restrict v,
                       size_t n, const bl__adamw_step *step) {
    const bl__adamw_step s = *step;
    for (size_t i = 0; i < n; i++) {
        float gradient = g[i] * s.clip;
        float first = m[i] + (gradient - m[i]) * s.beta1_rest;
        float second = v[i] * s.beta2 + gradient * gradient * s.beta2_rest;
        m[i] = first;
        v[i] = second;
        w[i] = w[i] * s.keep - s.rate * (first / (sqrtf(second) / s.root + s.eps));
        g[i] = 0.0f;
    }
}

/* ---- blocks of scores ---- */

/* Zeros for the keys that row i does not see. */
static inline void hide(const bl__score_block *b, size_t i, float *row) {
    memset(row, 0, b->first[i] * sizeof *row);
    memset(row + b->end[i], 0, (b->n_keys - b->end[i]) * sizeof *row);
}

static inline void softmax_block(int kind, const bl__score_block *b) {
    for (size_t i = 0; i < b->n_rows; i++) {
        float *row = b->scores + i * b->stride, *seen = row + b->first[i];
        size_t n = b->end[i] - b->first[i];
        float max = max_loop(seen, n) * b->scale;
        float sum = exp_scaled_loop(seen, n, b->scale, max, seen);
        hide(b, i, row);
        pack_row(kind, row, b->n_keys, 1.0f, (char *)b->rows + i * b->row_bytes);
        b->log_sums[i] = max + logf(sum);
        b->factors[i] = 1.0f / sum;
    }
}

static inline void softmax_backward_block(int kind, size_t panel, const bl__score_block *b) {
    for (size_t i = 0; i < b->n_rows; i++) {
        float *row = b->scores + i * b->stride, *grad = b->grads + i * b->stride;
        size_t first = b->first[i], n = b->end[i] - first;
        exp_scaled_loop(row + first, n, b->scale, b->log_sums[i], row + first);
        softmax_backward_loop(row + first, grad + first, n, b->dots[i], b->scale);
        hide(b, i, row);
        hide(b, i, grad);
        pack_row(kind, grad, b->n_keys, 1.0f, (char *)b->rows + i * b->row_bytes);
    }
    pack_panels(kind, panel, b->scores, b->stride, b->n_rows, b->n_keys, NULL, b->p_panels,
                b->panel_bytes);
    pack_panels(kind, panel, b->grads, b->stride, b->n_rows, b->n_keys, NULL, b->ds_panels,
                b->panel_bytes);
}

/* Wrappers that fix kind and panel for the table. */
#define PACKERS(kind, name, panel)                                                                 \
    static void pack_row_##name(const float *x, size_t k, float scale, void *out) {                \
        pack_row(kind, x, k, scale, out);                                                          \
    }                                                                                              \
    static void pack_panels_##name(const float *b, size_t ldb, size_t k, size_t n,                 \
                                   const float *scale, void *out, size_t panel_bytes) {            \
        pack_panels(kind, panel, b, ldb, k, n, scale, out, panel_bytes);                           \
    }                                                                                              \
    static void pack_panels_i8_##name(const int8_t *b, size_t ldb, size_t k, size_t n, void *out,  \
                                      size_t panel_bytes) {                                        \
        pack_panels_i8(kind, panel, b, ldb, k, n, out, panel_bytes);                               \
    }                                                                                              \
    static void pack_panels_t_##name(const float *b, size_t ldb, size_t k, size_t n, void *out,    \
                                     size_t panel_bytes) {                                         \
        pack_panels_t(kind, panel, b, ldb, k, n, out, panel_bytes);                                \
    }                                                                                              \
    static void softmax_##name(const bl__score_block *b) {                                         \
        softmax_block(kind, b);                                                                    \
    }                                                                                              \
    static void softmax_backward_##name(const bl__score_block *b) {                                \
        softmax_backward_block(kind, panel, b);                                                    \
    }

/* The same for int8. */
#define PACKERS_INT8(width)                                                                        \
    static void pack_panels_of_int8(const float *b, size_t ldb, size_t k, size_t n,                \
                                    const float *scale, void *out, size_t panel_bytes) {           \
        pack_panels_int8(width, b, ldb, k, n, scale, out, panel_bytes);                            \
    }                                                                                              \
    static void pack_panels_i8_int8(const int8_t *b, size_t ldb, size_t k, size_t n, void *out,    \
                                    size_t panel_bytes) {                                          \
        pack_panels_u8(width, b, ldb, k, n, out, panel_bytes);                                     \
    }                                                                                              \
    static inline bl__gemm gemm_int8(const char *name) {                                           \
        return (bl__gemm){.name = name,                                                            \
                          .group = 4,                                                              \
                          .panel = width,                                                          \
                          .block = INT8_BLOCK,                                                     \
                          .block_units = INT8_UNITS,                                               \
                          .pack_row = pack_row_int8,                                               \
                          .pack_panels = pack_panels_of_int8,                                      \
                          .pack_panels_i8 = pack_panels_i8_int8};                                  \
    }
#define MULTIPLY_INT8(width)                                                                       \
    static void multiply_loop_int8(const void *a, size_t a_row, size_t a_unit, const void *b,      \
                                   size_t n_units, float *c, size_t ldc, size_t m, size_t n,       \
                                   bool accumulate, const void *next) {                            \
        (void)next;                                                                                \
        for (size_t i = 0; i < m; i++)                                                             \
            multiply_row_int8(width, (const char *)a + i * a_row, a_unit, b, n_units, c + i * ldc, \
                              n, accumulate);                                                      \
    }

static inline void fill_loops(bl__train_kernels *table) {
    table->max = max_loop;
    table->sum_squares = sum_squares_loop;
    table->dot = dot_loop;
    table->exp_scaled = exp_scaled_loop;
    table->softmax_backward = softmax_backward_loop;
    table->scale = scale_loop;
    table->add = add_loop;
    table->add_to = add_to_loop;
    table->norm_apply = norm_apply_loop;
    table->norm_backward = norm_backward_loop;
    table->layer_norm_backward = layer_norm_backward_loop;
    table->relu2_glu = relu2_glu_loop;
    table->relu2_glu_backward = relu2_glu_backward_loop;
    table->silu_glu = silu_glu_loop;
    table->silu_glu_backward = silu_glu_backward_loop;
    table->ternary_codes = ternary_codes_loop;
    table->binary_codes = binary_codes_loop;
    table->pack_t2 = pack_t2_loop;
    table->sum = sum_loop;
    table->rope = rope_loop;
    table->adamw = adamw_loop;
}

#endif
