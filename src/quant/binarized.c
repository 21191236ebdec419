/* Owns binarized matrices in memory: see binarized.h. */
#include "quant/binarized.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"

/* Levels go to 63. Those of salient columns are sums of three numbers that are rounded alone, by up
 * to half a unit each, so that the largest is to be at most 63 - 3/2 units before that. */
static const float MOST_UNITS = 63.0f, MOST_SALIENT_UNITS = 61.5f;

bl_status bl__binarized_create(size_t rows, size_t cols, bool col_scale, bl__binarized **out,
                               bl_error *err) {
    bl__binarized *b = bl__calloc(1, sizeof *b);
    size_t n_weights, n_params;
    if (!b)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a binarized matrix");
    b->rows = rows;
    b->cols = cols;
    b->block = BL_BINARIZED_BLOCK;
    b->n_blocks = cols / BL_BINARIZED_BLOCK + (cols % BL_BINARIZED_BLOCK != 0);
    if (!bl__mul_size(rows, cols, &n_weights) || !bl__mul_size(rows, b->n_blocks, &n_params) ||
        !bl__mul_size(n_params, BL_BINARIZED_PARAMS, &n_params) ||
        !(b->salient = bl__calloc(cols, 1)) || !(b->codes = bl__calloc(n_weights, 1)) ||
        !(b->params = bl__calloc(n_params, sizeof *b->params)) ||
        (col_scale && !(b->col_scale = bl__malloc_array(cols, sizeof *b->col_scale)))) {
        bl__binarized_free(b);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a binarized matrix of [%zu,%zu]", rows,
                        cols);
    }
    for (size_t c = 0; col_scale && c < cols; c++)
        b->col_scale[c] = 1.0f;
    *out = b;
    return BL_OK;
}

void bl__binarized_free(bl__binarized *b) {
    if (!b)
        return;
    bl__free(b->salient);
    bl__free(b->codes);
    bl__free(b->params);
    bl__free(b->col_scale);
    bl__free(b->units);
    bl__free(b);
}

/* The unit, not yet rounded, with which a row's levels fit, whether some weight has them or not;
 * NaN when a parameter is NaN. */
static float least_unit(const bl__binarized *b, size_t row) {
    float least = 0.0f;
    for (size_t block = 0; block < b->n_blocks; block++) {
        const float *p = bl__binarized_params(b, row, block);
        float units[] = {(fabsf(p[BL_INNER_MEAN]) + fabsf(p[BL_INNER_SCALE])) / MOST_UNITS,
                         (fabsf(p[BL_OUTER_MEAN]) + fabsf(p[BL_OUTER_SCALE])) / MOST_UNITS,
                         (fabsf(p[BL_SALIENT_MEAN]) + fabsf(p[BL_SALIENT_SCALE1]) +
                          fabsf(p[BL_SALIENT_SCALE2])) /
                             MOST_SALIENT_UNITS};
        for (size_t i = 0; i < sizeof units / sizeof units[0] && !isnan(least); i++)
            if (units[i] > least || isnan(units[i]))
                least = units[i];
    }
    return least;
}

/* The least float16 number that is not below x >= 0; infinity when there is none. */
static float f16_above(float x) {
    uint16_t half = bl__f32_to_f16(x);
    if (bl__f16_to_f32(half) < x)
        half++;
    return bl__f16_to_f32(half);
}

/* mean +- scale become whole multiples of unit. */
static void round_pair(float *mean, float *scale, float unit) {
    float low = rintf((*mean - *scale) / unit), high = rintf((*mean + *scale) / unit);
    *mean = (low + high) * 0.5f * unit;
    *scale = (high - low) * 0.5f * unit;
}

static void round_row(const bl__binarized *b, size_t row, float unit) {
    for (size_t block = 0; block < b->n_blocks; block++) {
        float *p = bl__binarized_params(b, row, block);
        if (unit == 0.0f) {
            memset(p, 0, BL_BINARIZED_PARAMS * sizeof *p);
            continue;
        }
        round_pair(&p[BL_INNER_MEAN], &p[BL_INNER_SCALE], unit);
        round_pair(&p[BL_OUTER_MEAN], &p[BL_OUTER_SCALE], unit);
        for (size_t i = BL_SALIENT_MEAN; i <= BL_SALIENT_SCALE2; i++)
            p[i] = rintf(p[i] / unit) * unit;
    }
}

/* Scales of columns as float16 numbers; false when one cannot be. */
static bool round_columns(bl__binarized *b, size_t *column) {
    for (size_t c = 0; b->col_scale && c < b->cols; c++) {
        float rounded = bl__f16_to_f32(bl__f32_to_f16(b->col_scale[c]));
        if (!isfinite(rounded)) {
            *column = c;
            return false;
        }
        b->col_scale[c] = rounded;
    }
    return true;
}

bl_status bl__binarized_round(bl__binarized *b, bl_error *err) {
    size_t column;
    if (b->units)
        return BL_OK;
    float *units = bl__malloc_array(b->rows, sizeof *units);
    if (!units)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu units", b->rows);
    bl_status status = BL_OK;
    for (size_t r = 0; r < b->rows && !status; r++) {
        units[r] = f16_above(least_unit(b, r));
        if (!isfinite(units[r]))
            status = bl__fail(err, BL_ERR_UNSUPPORTED,
                              "row %zu: parameters that are not finite or beyond float16", r);
    }
    if (!status && !round_columns(b, &column))
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "column %zu: a scale that is not finite or beyond float16", column);
    if (status) {
        bl__free(units);
        return status;
    }
    for (size_t r = 0; r < b->rows; r++)
        round_row(b, r, units[r]);
    b->units = units;
    return BL_OK;
}

void bl__binarized_dequantize_row(const bl__binarized *b, size_t row, float *out) {
    float scratch[2 * BL_BINARIZED_BLOCK];
    const uint8_t *codes = b->codes + row * b->cols;
    for (size_t c = 0; c < b->cols; c++) {
        const float *p = bl__binarized_params(b, row, c / BL_BINARIZED_BLOCK);
        float sign = codes[c] & 1 ? 1.0f : -1.0f, second = codes[c] & 2 ? 1.0f : -1.0f, w;
        if (b->salient[c])
            w = p[BL_SALIENT_MEAN] + p[BL_SALIENT_SCALE1] * sign + p[BL_SALIENT_SCALE2] * second;
        else if (codes[c] & 2)
            w = p[BL_OUTER_MEAN] + p[BL_OUTER_SCALE] * sign;
        else
            w = p[BL_INNER_MEAN] + p[BL_INNER_SCALE] * sign;
        out[c] = b->col_scale ? w * b->col_scale[c] : w;
    }
    if (b->haar)
        bl__haar_inverse(out, b->cols, scratch);
}

void bl__haar(float *x, size_t n, float *scratch) {
    for (size_t at = 0; at < n; at += 2 * BL_BINARIZED_BLOCK) {
        size_t half = bl__min_size(2 * BL_BINARIZED_BLOCK, n - at) / 2;
        float *piece = x + at;
        for (size_t i = 0; i < half; i++) {
            scratch[i] = (piece[2 * i] + piece[2 * i + 1]) * (float)M_SQRT1_2;
            scratch[half + i] = (piece[2 * i] - piece[2 * i + 1]) * (float)M_SQRT1_2;
        }
        memcpy(piece, scratch, 2 * half * sizeof *piece);
    }
}

void bl__haar_inverse(float *x, size_t n, float *scratch) {
    for (size_t at = 0; at < n; at += 2 * BL_BINARIZED_BLOCK) {
        size_t half = bl__min_size(2 * BL_BINARIZED_BLOCK, n - at) / 2;
        float *piece = x + at;
        for (size_t i = 0; i < half; i++) {
            scratch[2 * i] = (piece[i] + piece[half + i]) * (float)M_SQRT1_2;
            scratch[2 * i + 1] = (piece[i] - piece[half + i]) * (float)M_SQRT1_2;
        }
        memcpy(piece, scratch, 2 * half * sizeof *piece);
    }
}
