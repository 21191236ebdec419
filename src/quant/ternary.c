/* What it means for floats to be ternary, and how master weights become so. Knows no layout. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "quant/layouts.h"
#include "quant/quant.h"

/* Comparisons run on the bits: |x| as an integer orders like |x|, and NaN sorts above infinity. */
static inline uint32_t magnitude_bits(float x) {
    return bl__f32_bits(x) & 0x7fffffffu;
}

bool bl__max_magnitude(const float *x, size_t n, float *max) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = magnitude_bits(x[i]);
        most = bits > most ? bits : most;
    }
    *max = bl__bits_f32(most);
    return most < 0x7f800000u;
}

bool bl__ternary_codes(const float *x, size_t n, float magnitude, uint8_t *codes) {
    uint32_t scale = bl__f32_bits(magnitude), wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = bl__f32_bits(x[i]);
        uint32_t size = bits & 0x7fffffffu;
        uint32_t nonzero = size != 0;
        wrong |= nonzero & (uint32_t)(size != scale);
        codes[i] = (uint8_t)(1 + nonzero - 2 * (nonzero & (bits >> 31)));
    }
    return wrong == 0;
}

bool bl__row_is_ternary(const float *row, size_t cols, uint8_t *codes, float *scale) {
    uint8_t chunk[BL_CHUNK] = {0};
    float most;
    if (!bl__max_magnitude(row, cols, &most))
        return false;
    for (size_t i = 0; i < cols; i += BL_CHUNK) {
        size_t n = cols - i < BL_CHUNK ? cols - i : BL_CHUNK;
        if (!bl__ternary_codes(row + i, n, most, codes ? codes + i : chunk))
            return false;
    }
    *scale = most;
    return true;
}

bool bl__row_is_binary(const float *row, size_t cols) {
    size_t zeros = 0;
    for (size_t i = 0; i < cols; i++)
        zeros += magnitude_bits(row[i]) == 0;
    return zeros == 0 || zeros == cols;
}

void bl__absmean_add(bl__absmean *mean, const float *weights, size_t n) {
    double sum[8];
    size_t i = 0;
    for (; i < n && (mean->n + i) % 8 != 0; i++)
        mean->lanes[(mean->n + i) % 8] += (double)fabsf(weights[i]);
    memcpy(sum, mean->lanes, sizeof sum);
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += (double)fabsf(weights[i + j]);
    for (size_t j = 0; i < n; i++, j++)
        sum[j] += (double)fabsf(weights[i]);
    memcpy(mean->lanes, sum, sizeof sum);
    mean->n += n;
}

float bl__absmean_inverse(const bl__absmean *mean) {
    double total = 0;
    for (size_t j = 0; j < 8; j++)
        total += mean->lanes[j];
    float average = mean->n ? (float)(total / (double)mean->n) : 0;
    if (!isfinite(average))
        return NAN;
    return 1.0f / (average > 1e-5f ? average : 1e-5f);
}

void bl__ternarize(float *weights, size_t n, float inverse) {
    float gamma = 1.0f / inverse;
    /* Half to even and the clamp to [-1, 1] together: beyond 0.5 is one, 0.5 itself is zero. */
    for (size_t i = 0; i < n; i++) {
        float w = weights[i] * inverse;
        weights[i] = w > 0.5f ? gamma : w < -0.5f ? -gamma : 0.0f;
    }
}

float bl__absmean_ternarize(float *weights, size_t n) {
    bl__absmean mean = {0};
    bl__absmean_add(&mean, weights, n);
    float inverse = bl__absmean_inverse(&mean);
    if (isnan(inverse))
        return NAN;
    bl__ternarize(weights, n, inverse);
    return 1.0f / inverse;
}

bl_status bl__fail_not_ternary(const bl__row *at, const char *reach, bl_error *err) {
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%s: row %zu: several magnitudes in one %s, expected -s, 0 and +s only",
                    at->name, at->row, reach);
}

bl_status bl__scale_to_f16(const bl__row *at, float scale, uint16_t *half, bl_error *err) {
    uint16_t rounded = bl__f32_to_f16(scale);
    unsigned size = rounded & 0x7fffu;
    if (size >= 0x7c00u || (size < 0x400u && scale != 0.0f))
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: row %zu: scale %g, expected one that float16 holds: 6.1e-5 to 65504",
                        at->name, at->row, (double)scale);
    *half = rounded;
    return BL_OK;
}
