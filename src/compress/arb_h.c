/* Owns arb-h and sign-h, of this project: four free levels a row and block, or two, and nothing
 * else, so that arb-h takes less room than billm and sign-h no more than plain signs; codes and
 * levels refined in turns as in ARB-LLM, but for the error of what the matrix gives on the
 * calibration text, and over all columns at once. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "compress/method.h"
#include "compress/polish.h"
#include "compress/split.h"

enum { SWEEPS = 4 };

static void fit_rows(bl__block *b, size_t first, size_t end) {
    float weight[BL_BLOCK_COLS];
    for (size_t c = 0; c < b->n; c++) {
        float d = bl__block_diagonal(b, c);
        weight[c] = 1 / (d * d); /* what an error there costs once later columns made it good */
    }
    for (size_t row = first; row < end; row++) {
        float *p = b->params + row * BL_BINARIZED_PARAMS, inner, outer;
        bl__split_row(b->weights + row * BL_BLOCK_COLS, weight, b->n, &inner, &outer);
        p[BL_INNER_SCALE] = inner;
        p[BL_OUTER_SCALE] = outer;
    }
}

static void fit_block(bl__block *b) {
    bl__block_rows(b, fit_rows);
}

/* One magnitude: the weighted mean. */
static void fit_sign_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        double along = 0, all = 0;
        for (size_t c = 0; c < b->n; c++) {
            double d = (double)bl__block_diagonal(b, c);
            along += fabs((double)w[c]) / (d * d);
            all += 1 / (d * d);
        }
        b->params[row * BL_BINARIZED_PARAMS + BL_INNER_SCALE] = (float)(along / all);
    }
}

static void fit_sign_block(bl__block *b) {
    bl__block_rows(b, fit_sign_rows);
}

static bl_status run(const bl__problem *p, unsigned n_codes, bl__compressed *out, bl_error *err) {
    const bl__course course = {n_codes == 4 ? fit_block : fit_sign_block,
                               n_codes == 4 ? BL_ROUND_NEAREST : BL_ROUND_GROUP, true, NULL};
    size_t n = p->rows * p->cols;
    float *target = bl__malloc_array(n, sizeof *target);
    if (!target)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a copy of %zu weights", n);
    memcpy(target, p->weights, n * sizeof *target);
    bl_status status = bl__compress_to_signs(p, &course, false, out, err);
    if (!status && p->hessian)
        status = bl__polish(p, target, n_codes, SWEEPS, out->signs, err);
    bl__free(target);
    return status;
}

static bl_status run_arb_h(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, 4, out, err);
}

static bl_status run_sign_h(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, 2, out, err);
}

const bl__method bl__method_arb_h = {
    .name = "arb-h",
    .summary = "four levels a row and block, refined against the whole Hessian",
    .calibrated = true,
    .packs = true,
    .run = run_arb_h};
const bl__method bl__method_sign_h = {.name = "sign-h",
                                      .summary = "two levels, in the same way: 1 bit and scales",
                                      .calibrated = true,
                                      .packs = true,
                                      .run = run_sign_h};
