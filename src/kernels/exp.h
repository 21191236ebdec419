/* The one exponential, inline so that loops around it become vectors. */
#ifndef BL_KERNELS_EXP_H
#define BL_KERNELS_EXP_H

#include <math.h>

#include "base/half.h"

/* 2^k * p(r) with k = round(x / ln 2), r = x - k ln 2 (ln 2 in two parts), p the Taylor polynomial
 * of degree 7: |r| <= 0.35 leaves an error below 1e-8 of the result. */
static inline float exp_inline(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float k = x * 1.44269504f + 12582912.0f; /* the sum's low bits are the rounded integer */
    uint32_t k_bits = bl__f32_bits(k);
    k -= 12582912.0f;
    float r = x - k * 0.693359375f;
    r = r + k * 2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bl__bits_f32((k_bits << 23) + 0x3f800000u);
}

/* As exp_inline(), fused and up to 88 only: a third of the time where the processor fuses. */
static inline float exp_fused(float x) {
    x = x < -87.0f ? -87.0f : x;
    float k = fmaf(x, 1.44269504f, 12582912.0f);
    uint32_t k_bits = bl__f32_bits(k);
    k -= 12582912.0f;
    float r = fmaf(k, 2.12194440e-4f, fmaf(k, -0.693359375f, x));
    float p = fmaf(1.98412698e-4f, r, 1.38888889e-3f);
    p = fmaf(p, r, 8.33333333e-3f);
    p = fmaf(p, r, 4.16666667e-2f);
    p = fmaf(p, r, 1.66666667e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * bl__bits_f32((k_bits << 23) + 0x3f800000u);
}

#endif
