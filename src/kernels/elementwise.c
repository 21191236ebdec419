/* Owns norms, by slots of the table, and the exponential of single numbers. Contraction is off, so
 * each line rounds exactly as it reads. */
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
    kernels->scale(x, 1.0f / sqrtf(squares / (float)n + eps), weight, n, out);
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
    kernels->scale(out, rstd, NULL, n, out);
    if (stats) {
        stats[0] = mean;
        stats[1] = rstd;
    }
}

float bl__exp(float x) {
    return exp_inline(x);
}

void bl__scale_dots(const int32_t *dots, size_t n_dots, size_t stride, int32_t sum, float step,
                    const float *scale, size_t n, float *out) {
    for (size_t r = 0; r < n; r++) {
        int32_t dot = -sum;
        for (size_t i = 0; i < n_dots; i++)
            dot += dots[i * stride + r];
        out[r] = (float)dot * step * scale[r];
    }
}
