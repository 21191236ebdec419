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

static inline float fold_lanes(float lanes[BL_LANES]) {
    for (size_t half = BL_LANES / 2; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
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

/* ---- loops ---- */

static float max_loop(const float *x, size_t n) {
    float lanes[BL_LANES], most = x[0];
    size_t i = 0;
    for (size_t l = 0; l < BL_LANES; l++)
        lanes[l] = most;
    lanes16 high = LANES(lanes);
    for (; i + BL_LANES <= n; i += BL_LANES) {
        mask16 keep = high > LANES(x + i);
        high = (lanes16)(((mask16)high & keep) | ((mask16)LANES(x + i) & ~keep));
    }
    memcpy(lanes, &high, sizeof lanes);
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] = lanes[l] > x[i] ? lanes[l] : x[i];
    for (size_t l = 0; l < BL_LANES; l++)
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
    float lanes[BL_LANES];
    lanes16 sum = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        sum += LANES(a + i) * LANES(b + i);
    memcpy(lanes, &sum, sizeof lanes);
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] += a[i] * b[i];
    return fold_lanes(lanes);
}

static float exp_scaled_loop(const float *x, size_t n, float scale, float minus, float *out) {
    float lanes[BL_LANES];
    lanes16 sum = {0};
    size_t i = 0, whole = n - n % BL_LANES, rest = n - whole;
    EACH_ALONE
    for (i = 0; i < whole; i++)
        out[i] = exp_fused(x[i] * scale - minus);
    for (i = 0; i < whole; i += BL_LANES)
        sum += LANES(out + i);
    memcpy(lanes, &sum, sizeof lanes);
    if (rest) { /* all lanes at once is faster than some of them */
        float last[BL_LANES];
        for (size_t l = 0; l < BL_LANES; l++)
            last[l] = l < rest ? x[whole + l] : 0.0f;
        for (size_t l = 0; l < BL_LANES; l++)
            last[l] = exp_fused(last[l] * scale - minus);
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] += l < rest ? last[l] : 0.0f;
        for (size_t l = 0; l < rest; l++)
            out[whole + l] = last[l];
    }
    return fold_lanes(lanes);
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

static void norm_apply_loop(const float *x, const float *w, float rstd, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * rstd * w[i];
}

/* dx = rstd * (w dy - x * rstd^2 * mean(w dy x)). */
static void norm_backward_loop(const float *restrict dy, const float *restrict x,
                               const float *restrict w, float rstd, size_t n, bool accumulate,
                               float *restrict dx, float *restrict dw) {
    float lanes[BL_LANES];
    lanes16 sum = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        sum += LANES(w + i) * LANES(dy + i) * LANES(x + i);
    memcpy(lanes, &sum, sizeof lanes);
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] += w[i] * dy[i] * x[i];
    float mean = fold_lanes(lanes) / (float)n * rstd * rstd * rstd;
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
    float lanes[2][BL_LANES];
    lanes16 sum = {0}, product = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES) {
        sum += LANES(dy + i);
        product += LANES(dy + i) * (LANES(x + i) - mean);
    }
    memcpy(lanes[0], &sum, sizeof sum);
    memcpy(lanes[1], &product, sizeof product);
    for (size_t l = 0; i < n; i++, l++) {
        lanes[0][l] += dy[i];
        lanes[1][l] += dy[i] * (x[i] - mean);
    }
    float shift = fold_lanes(lanes[0]) / (float)n;
    float slope = fold_lanes(lanes[1]) / (float)n * rstd * rstd * rstd;
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

static inline void fill_loops(bl__train_kernels *table) {
    table->max = max_loop;
    table->sum_squares = sum_squares_loop;
    table->dot = dot_loop;
    table->exp_scaled = exp_scaled_loop;
    table->softmax_backward = softmax_backward_loop;
    table->scale = scale_loop;
    table->add = add_loop;
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
