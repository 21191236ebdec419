/* Owns the float operations that are the same C on every machine. No fused multiply-add here
 * except through the table: contraction is off, so each line rounds exactly as it reads. */
#include <math.h>

#include "kernels/exp.h"
#include "kernels/kernels.h"

/* Folds lanes in halves: the order that every float sum in the library ends with. */
static float fold(float lanes[BL_LANES]) {
    for (size_t half = BL_LANES / 2; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

void bl__rms_norm(const bl__kernels *kernels, const float *x, const float *weight, float eps,
                  size_t n, float *out) {
    float squares;
    kernels->dot_rows(x, n, 1, n, x, n, 1, &squares, 1);
    float factor = 1.0f / sqrtf(squares / (float)n + eps);
    if (weight)
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor * weight[i];
    else
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor;
}

void bl__layer_norm(const bl__kernels *kernels, const float *x, float eps, size_t n, float *out,
                    float stats[2]) {
    float lanes[BL_LANES] = {0}, squares;
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] += x[i + l];
    for (size_t l = 0; i < n; i++, l++)
        lanes[l] += x[i];
    float mean = fold(lanes) / (float)n;
    for (i = 0; i < n; i++)
        out[i] = x[i] - mean;
    kernels->dot_rows(out, n, 1, n, out, n, 1, &squares, 1);
    float rstd = 1.0f / sqrtf(squares / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] *= rstd;
    if (stats) {
        stats[0] = mean;
        stats[1] = rstd;
    }
}

float bl__exp(float x) {
    return exp_inline(x);
}

void bl__softmax(float *scores, size_t n) {
    float max = scores[0];
    for (size_t i = 1; i < n; i++)
        max = scores[i] > max ? scores[i] : max;
    float lanes[BL_LANES] = {0};
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++) {
            float e = exp_inline(scores[i + l] - max);
            scores[i + l] = e;
            lanes[l] += e;
        }
    for (size_t l = 0; i < n; i++, l++) {
        scores[i] = exp_inline(scores[i] - max);
        lanes[l] += scores[i];
    }
    float sum = fold(lanes);
    for (i = 0; i < n; i++)
        scores[i] /= sum;
}

void bl__silu_mul(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + exp_inline(-gate[i])) * up[i];
}

void bl__relu2_mul(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float g = gate[i] > 0.0f ? gate[i] : 0.0f;
        gate[i] = g * g * up[i];
    }
}

void bl__add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

void bl__rope(float *x, size_t n_rot, bool halves, const float *cs) {
    size_t half = n_rot / 2;
    for (size_t i = 0; i < half; i++) {
        float *a = halves ? &x[i] : &x[2 * i];
        float *b = halves ? &x[i + half] : &x[2 * i + 1];
        float c = cs[2 * i], s = cs[2 * i + 1], u = *a, v = *b;
        *a = u * c - v * s;
        *b = v * c + u * s;
    }
}
