/* Owns pb-llm: the tenth of the weights that matters most at 8 bits, signs for the others.
 * PB-LLM, arXiv 2310.00034, with salience by the Hessian and errors made good as in GPTQ. */
#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "compress/groups.h"
#include "compress/method.h"

enum { LEVELS = 256, MEAN = BL_INNER_MEAN, SCALE = BL_INNER_SCALE, LOW = 2, STEP = 3 };
static const double SALIENT_SHARE = 0.1;

static float round_half(float x) {
    return bl__f16_to_f32(bl__f32_to_f16(x));
}

static float salience_of(const bl__block *b, size_t c, float w) {
    float d = bl__block_diagonal(b, c);
    return w * w / (d * d);
}

/* A grid of 256 values for the salient weights of a row, a mean and a scale for the others; the
 * second bit of codes tells which is which. */
static void fit_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
        float *p = b->params + row * BL_BINARIZED_PARAMS, low = 0, high = 0;
        bl__selection rest = {{0}};
        for (size_t c = 0; c < b->n; c++) {
            bool salient = salience_of(b, c, w[c]) >= b->scratch[0];
            codes[c] = salient ? 2 : 0;
            rest.of[c] = !salient;
            low = salient ? fminf(low, w[c]) : low;
            high = salient ? fmaxf(high, w[c]) : high;
        }
        bl__group group = bl__group_of(w, &rest);
        p[MEAN] = round_half(group.mean);
        p[SCALE] = round_half(group.scale);
        p[LOW] = round_half(low);
        p[STEP] = round_half((high - low) / (LEVELS - 1));
    }
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The salience that a tenth of the block's weights reach. Uses scratch, whose rows are b->n long
 * meanwhile. */
static void fit_block(bl__block *b) {
    size_t count = 0;
    for (size_t row = 0; row < b->problem->rows; row++)
        for (size_t c = 0; c < b->n; c++)
            b->scratch[count++] = salience_of(b, c, b->weights[row * BL_BLOCK_COLS + c]);
    qsort(b->scratch, count, sizeof *b->scratch, by_value);
    b->scratch[0] = b->scratch[(size_t)((1 - SALIENT_SHARE) * (double)(count - 1))];
    bl__block_rows(b, fit_rows);
}

static float value(const bl__block *b, size_t row, size_t c, float w) {
    const float *p = b->params + row * BL_BINARIZED_PARAMS;
    if (!(b->codes[row * BL_BLOCK_COLS + c] & 2))
        return p[MEAN] + (w >= p[MEAN] ? p[SCALE] : -p[SCALE]);
    float level = p[STEP] > 0 ? rintf((w - p[LOW]) / p[STEP]) : 0;
    return p[LOW] + fminf(fmaxf(level, 0), LEVELS - 1) * p[STEP];
}

static bl_status run(const bl__problem *p, bl__compressed *out, bl_error *err) {
    const bl__course course = {fit_block, BL_ROUND_GROUP, true, value};
    bl__binarized *marks = NULL; /* whose codes say what is salient */
    bl_status status = bl__binarized_create(p->rows, p->cols, false, &marks, err);
    if (!status)
        status = bl__compress_blocks(p, &course, marks, err);
    if (status)
        goto done;
    double n = (double)p->rows * (double)p->cols, n_salient = 0;
    for (size_t i = 0; i < p->rows * p->cols; i++)
        n_salient += marks->codes[i] & 2 ? 1 : 0;
    double n_groups = (double)p->rows * (double)marks->n_blocks;
    out->salient = n_salient / n;
    out->nominal_bits = (n + 7 * n_salient) / n;
    out->true_bits = n + (n + 7 * n_salient) + n_groups * 4 * 16; /* the mask counts */
done:
    bl__binarized_free(marks);
    return status;
}

const bl__method bl__method_pb_llm = {
    .name = "pb-llm",
    .summary = "PB-LLM: a tenth of the weights at 8 bits, signs for the others",
    .calibrated = true,
    .run = run};
