/* Owns arb and arb-rc: what billm parts, refined in turns. ARB-LLM, arXiv 2410.03129, algorithms 1
 * and 3: each of mean, scales and signs is the best for the others, ROUNDS times. arb has a mean
 * and scales for each row; arb-rc has no means, and a scale for each column in their place. */
#include <math.h>

#include "base/half.h"
#include "compress/method.h"
#include "compress/partition.h"

enum { ROUNDS = 15 };

static float sign_of(unsigned set) {
    return set ? 1.0f : -1.0f;
}

/* ---- arb ---- */

/* One group of a row: w ~ mean + scale * sign. mask: the group's columns. */
static void refine_group(const float *w, const bl__selection *s, size_t n, uint8_t *codes,
                         float *mean, float *scale) {
    double count = 0;
    for (size_t c = 0; c < n; c++)
        count += (double)s->of[c];
    for (size_t round = 0; round < ROUNDS && count > 0; round++) {
        double rest = 0, along = 0;
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                rest += (double)(w[c] - *mean - *scale * sign_of(codes[c] & 1));
        *mean += (float)(rest / count);
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                along += (double)((w[c] - *mean) * sign_of(codes[c] & 1));
        *scale = (float)(along / count);
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                codes[c] = (uint8_t)((codes[c] & 2) | (w[c] >= *mean));
    }
}

/* The two signs whose value is nearest to w: w has the mean taken off. */
static uint8_t nearest_signs(float w, float one, float two) {
    uint8_t best = 0;
    float least = INFINITY;
    for (unsigned code = 0; code < 4; code++) {
        float distance = fabsf(w - sign_of(code & 1) * one - sign_of(code & 2) * two);
        if (distance < least) {
            least = distance;
            best = (uint8_t)code;
        }
    }
    return best;
}

/* Salient columns of a row: w ~ mean + scale1 * sign1 + scale2 * sign2. */
static void refine_salient(const float *w, const bl__selection *s, size_t n, uint8_t *codes,
                           float *mean, float *one, float *two) {
    double count = 0;
    for (size_t c = 0; c < n; c++)
        count += (double)s->of[c];
    for (size_t round = 0; round < ROUNDS && count > 0; round++) {
        double rest = 0, along1 = 0, along2 = 0;
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                rest += (double)(w[c] - *mean - *one * sign_of(codes[c] & 1) -
                                 *two * sign_of(codes[c] & 2));
        *mean += (float)(rest / count);
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                along1 +=
                    (double)((w[c] - *mean - *two * sign_of(codes[c] & 2)) * sign_of(codes[c] & 1));
        *one = (float)(along1 / count);
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                along2 +=
                    (double)((w[c] - *mean - *one * sign_of(codes[c] & 1)) * sign_of(codes[c] & 2));
        *two = (float)(along2 / count);
        for (size_t c = 0; c < n; c++)
            if (s->of[c] > 0)
                codes[c] = nearest_signs(w[c] - *mean, *one, *two);
    }
}

/* Where refinement starts: BiLLM's parameters and codes. */
static void start_row(bl__block *b, size_t row, const bl__row_groups *groups, bool with_means) {
    const float *w = b->weights + row * BL_BLOCK_COLS;
    float *p = b->params + row * BL_BINARIZED_PARAMS;
    uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
    bl__group inner = bl__group_of(w, &groups->inner), outer = bl__group_of(w, &groups->outer);
    bl__group_residual(w, &groups->salient, &p[BL_SALIENT_MEAN], &p[BL_SALIENT_SCALE1],
                       &p[BL_SALIENT_SCALE2]);
    p[BL_INNER_MEAN] = with_means ? inner.mean : 0;
    p[BL_OUTER_MEAN] = with_means ? outer.mean : 0;
    p[BL_SALIENT_MEAN] = with_means ? p[BL_SALIENT_MEAN] : 0;
    p[BL_INNER_SCALE] = inner.scale;
    p[BL_OUTER_SCALE] = outer.scale;
    for (size_t c = 0; c < b->n; c++) {
        if (b->salient[c])
            codes[c] = nearest_signs(w[c] - p[BL_SALIENT_MEAN], p[BL_SALIENT_SCALE1],
                                     p[BL_SALIENT_SCALE2]);
        else
            codes[c] |= w[c] >= p[codes[c] & 2 ? BL_OUTER_MEAN : BL_INNER_MEAN];
    }
}

static void refine_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        float *p = b->params + row * BL_BINARIZED_PARAMS;
        uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
        bl__row_groups groups;
        bl__select_groups(b, row, &groups);
        start_row(b, row, &groups, true);
        refine_group(w, &groups.inner, b->n, codes, &p[BL_INNER_MEAN], &p[BL_INNER_SCALE]);
        refine_group(w, &groups.outer, b->n, codes, &p[BL_OUTER_MEAN], &p[BL_OUTER_SCALE]);
        refine_salient(w, &groups.salient, b->n, codes, &p[BL_SALIENT_MEAN], &p[BL_SALIENT_SCALE1],
                       &p[BL_SALIENT_SCALE2]);
    }
}

static void fit_arb(bl__block *b) {
    bl__find_salient(b, BL_RANK_SUM);
    bl__split_block(b);
    bl__block_rows(b, refine_rows);
}

/* ---- arb-rc ---- */

static void start_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        bl__row_groups groups;
        bl__select_groups(b, row, &groups);
        start_row(b, row, &groups, false);
    }
}

/* Scales of rows for the columns' scales as they are: the best for the signs, then salient signs
 * for them. Signs of the others are those of the weights. */
static void scale_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        float *p = b->params + row * BL_BINARIZED_PARAMS;
        uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
        double along[4] = {0}, squares[4] = {0}; /* inner, outer, first and second of salient */
        for (size_t c = 0; c < b->n; c++) {
            float a = b->col_scale[c], target = w[c];
            unsigned group = b->salient[c] ? 2 : codes[c] & 2 ? 1 : 0;
            if (group == 2)
                target -= a * p[BL_SALIENT_SCALE2] * sign_of(codes[c] & 2);
            along[group] += (double)(target * a * sign_of(codes[c] & 1));
            squares[group] += (double)(a * a);
        }
        p[BL_INNER_SCALE] = squares[0] > 0 ? (float)(along[0] / squares[0]) : 0;
        p[BL_OUTER_SCALE] = squares[1] > 0 ? (float)(along[1] / squares[1]) : 0;
        p[BL_SALIENT_SCALE1] = squares[2] > 0 ? (float)(along[2] / squares[2]) : 0;
        for (size_t c = 0; c < b->n; c++) {
            float a = b->col_scale[c];
            float rest = w[c] - a * p[BL_SALIENT_SCALE1] * sign_of(codes[c] & 1);
            if (b->salient[c])
                along[3] += (double)(rest * a * sign_of(codes[c] & 2));
        }
        p[BL_SALIENT_SCALE2] = squares[2] > 0 ? (float)(along[3] / squares[2]) : 0;
        for (size_t c = 0; c < b->n; c++)
            if (b->salient[c])
                codes[c] = nearest_signs(w[c] / b->col_scale[c], p[BL_SALIENT_SCALE1],
                                         p[BL_SALIENT_SCALE2]);
    }
}

static float round_half(float x) {
    return bl__f16_to_f32(bl__f32_to_f16(x));
}

/* The best scale of each column for the rows' scales as they are; never 0, which could not be
 * divided by. */
static void scale_columns(bl__block *b) {
    double along[BL_BLOCK_COLS] = {0}, squares[BL_BLOCK_COLS] = {0};
    for (size_t row = 0; row < b->problem->rows; row++)
        for (size_t c = 0; c < b->n; c++) {
            float value = bl__binarized_value(b->params + row * BL_BINARIZED_PARAMS, b->salient[c],
                                              b->codes[row * BL_BLOCK_COLS + c], 1);
            along[c] += (double)(b->weights[row * BL_BLOCK_COLS + c] * value);
            squares[c] += (double)(value * value);
        }
    for (size_t c = 0; c < b->n; c++) {
        float scale = squares[c] > 0 ? round_half((float)(along[c] / squares[c])) : 1.0f;
        b->col_scale[c] = scale > 0x1p-14f && scale < 32768.0f ? scale : 1.0f;
    }
}

static void fit_arb_rc(bl__block *b) {
    bl__find_salient(b, BL_RANK_SUM);
    bl__split_block(b);
    bl__block_rows(b, start_rows);
    for (size_t round = 0; round < ROUNDS; round++) {
        scale_columns(b);
        bl__block_rows(b, scale_rows);
    }
}

/* ---- both ---- */

static bl_status run(const bl__problem *p, void (*fit)(bl__block *), bool columns,
                     bl__compressed *out, bl_error *err) {
    const bl__course course = {fit, p->released ? BL_ROUND_KEEP : BL_ROUND_NEAREST, true, NULL};
    return bl__compress_to_signs(p, &course, columns, out, err);
}

static bl_status run_arb(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, fit_arb, false, out, err);
}

static bl_status run_arb_rc(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, fit_arb_rc, true, out, err);
}

const bl__method bl__method_arb = {.name = "arb",
                                   .summary =
                                       "ARB-LLM: billm's means, scales and signs refined in turns",
                                   .calibrated = true,
                                   .released = true,
                                   .packs = true,
                                   .run = run_arb};
const bl__method bl__method_arb_rc = {.name = "arb-rc",
                                      .summary =
                                          "ARB-LLM with scales of rows and columns, no means",
                                      .calibrated = true,
                                      .released = true,
                                      .packs = true,
                                      .run = run_arb_rc};
