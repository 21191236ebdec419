/* Private to kernels/: element-wise loops of kernels.h as plain C, included by one file a level and
 * compiled there for its instruction set. Contraction is off, sums have lanes: the same bits. */
#ifndef BL_KERNELS_FLOAT_LOOPS_H
#define BL_KERNELS_FLOAT_LOOPS_H

#include <math.h>

#include "kernels/exp.h"
#include "kernels/kernels.h"

static float softmax_block_loop(float *restrict s, size_t n, float *restrict sums) {
    float high[BL_LANES];
    for (size_t i = n; i < BL_CACHE_BLOCK; i++)
        s[i] = -INFINITY;
    for (size_t l = 0; l < BL_LANES; l++)
        high[l] = s[l];
    for (size_t b = BL_LANES; b < BL_CACHE_BLOCK; b += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            high[l] = s[b + l] > high[l] ? s[b + l] : high[l];
    for (size_t half = BL_LANES / 2; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            high[l] = high[l + half] > high[l] ? high[l + half] : high[l];
    float max = high[0];
    for (size_t i = 0; i < BL_CACHE_BLOCK; i++)
        s[i] = exp_fused(s[i] - max);
    for (size_t i = n; i < BL_CACHE_BLOCK; i++)
        s[i] = 0.0f;
    for (size_t l = 0; l < BL_LANES; l++)
        sums[l] = s[l];
    for (size_t b = BL_LANES; b < BL_CACHE_BLOCK; b += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            sums[l] += s[b + l];
    return max;
}

static void merge_rows_loop(float *restrict to_max, float *restrict to,
                            const float *restrict from_max, const float *restrict from,
                            size_t n_rows, size_t width) {
    for (size_t first = 0; first < n_rows; first += BL_LANES) {
        size_t n = n_rows - first < BL_LANES ? n_rows - first : BL_LANES;
        float rises[BL_LANES] = {0}, factors[BL_LANES];
        for (size_t l = 0; l < n; l++)
            rises[l] = from_max[first + l] - to_max[first + l];
        for (size_t l = 0; l < BL_LANES; l++)
            factors[l] = exp_fused(-fabsf(rises[l]));
        for (size_t l = 0; l < n; l++, to += width, from += width) {
            if (rises[l] > 0.0f) {
                to_max[first + l] = from_max[first + l];
                for (size_t i = 0; i < width; i++)
                    to[i] = fmaf(to[i], factors[l], from[i]);
            } else {
                for (size_t i = 0; i < width; i++)
                    to[i] = fmaf(from[i], factors[l], to[i]);
            }
        }
    }
}

/* One chunk of quantize_digits: v[n] becomes digits, the last first. */
static inline void split_digits(int32_t *restrict v, size_t n, size_t n_digits, int8_t *restrict q,
                                size_t stride, int32_t *restrict sum) {
    for (size_t d = n_digits; d-- > 0;) {
        int32_t total = 0;
        for (size_t i = 0; i < n; i++) {
            int32_t digit = ((v[i] + 128) & 255) - 128;
            v[i] = (v[i] - digit) / 256;
            q[d * stride + i] = (int8_t)digit;
            total += digit;
        }
        sum[d] += total;
    }
}

static void quantize_digits_loop(const float *x, size_t n, size_t n_digits, int8_t *q,
                                 size_t stride, float *step, int32_t *sum) {
    enum { CHUNK = 256 };
    float lanes[BL_LANES] = {0}, max = 1e-30f;
    float most = n_digits == 2 ? 127.0f * 257.0f : 127.0f * 65793.0f;
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] = fabsf(x[i + l]) > lanes[l] ? fabsf(x[i + l]) : lanes[l];
    for (size_t l = 0; l < BL_LANES; l++)
        max = lanes[l] > max ? lanes[l] : max;
    for (; i < n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float scale = most / max, least = 1.0f / scale;
    for (size_t d = n_digits; d-- > 0; least *= 256.0f) {
        step[d] = least;
        sum[d] = 0;
        for (size_t c = n; c < stride; c++)
            q[d * stride + c] = 0;
    }
    for (size_t at = 0; at < n; at += CHUNK) {
        int32_t v[CHUNK];
        size_t here = n - at < CHUNK ? n - at : CHUNK;
        for (size_t c = 0; c < here; c++) {
            float r = x[at + c] * scale;
            r = r > -most ? r : -most; /* NaN too */
            v[c] = (int32_t)rintf(r < most ? r : most);
        }
        split_digits(v, here, n_digits, q + at, stride, sum);
    }
}

static void scale_loop(const float *x, float factor, const float *weight, size_t n, float *out) {
    if (weight)
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor * weight[i];
    else
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor;
}

static void silu_mul_loop(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + exp_inline(-gate[i])) * up[i];
}

static void relu2_mul_loop(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        float g = gate[i] > 0.0f ? gate[i] : 0.0f;
        out[i] = g * g * up[i];
    }
}

static void add_loop(float *restrict x, const float *restrict y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void add_scaled_loop(float *restrict x, const float *restrict y,
                            const float *restrict weight, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = fmaf(y[i], weight[i], x[i]);
}

static void rope_loop(float *restrict x, size_t half, bool halves, const float *restrict c,
                      const float *restrict s) {
    float *restrict y = x + half;
    if (halves)
        for (size_t i = 0; i < half; i++) {
            float u = x[i], v = y[i];
            x[i] = u * c[i] - v * s[i];
            y[i] = v * c[i] + u * s[i];
        }
    else
        for (size_t i = 0; i < half; i++) {
            float u = x[2 * i], v = x[2 * i + 1];
            x[2 * i] = u * c[i] - v * s[i];
            x[2 * i + 1] = v * c[i] + u * s[i];
        }
}

static inline void fill_float_loops(bl__kernels *table) {
    table->softmax_block = softmax_block_loop;
    table->merge_rows = merge_rows_loop;
    table->quantize_digits = quantize_digits_loop;
    table->scale = scale_loop;
    table->silu_mul = silu_mul_loop;
    table->relu2_mul = relu2_mul_loop;
    table->add = add_loop;
    table->add_scaled = add_scaled_loop;
    table->rope = rope_loop;
}

#endif
