/* Owns haar: the course of billm in the basis of Haar coefficients, after HBLLM, arXiv 2512.00862.
 * Sums and differences of neighbouring columns are bands of their own, each with salient columns,
 * found by the norm of their salience, and with two magnitudes for each row. Unlike there, errors
 * are made good in the same basis, whose Hessian is known exactly, and no means are stored. */
#include "compress/method.h"
#include "compress/partition.h"
#include "compress/split.h"

static void fit_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        float *p = b->params + row * BL_BINARIZED_PARAMS, rest[BL_BLOCK_COLS], mean;
        bl__row_groups groups;
        size_t n = 0;
        for (size_t c = 0; c < b->n; c++)
            if (!b->salient[c])
                rest[n++] = w[c];
        bl__split_row(rest, NULL, n, &p[BL_INNER_SCALE], &p[BL_OUTER_SCALE]);
        bl__select_groups(b, row, &groups);
        bl__group_residual(w, &groups.salient, &mean, &p[BL_SALIENT_SCALE1], &p[BL_SALIENT_SCALE2]);
    }
}

static void fit_block(bl__block *b) {
    bl__find_salient(b, BL_RANK_NORM);
    bl__block_rows(b, fit_rows);
}

static bl_status run(const bl__problem *p, bl__compressed *out, bl_error *err) {
    const bl__course course = {fit_block, BL_ROUND_NEAREST, true, NULL};
    bl_status status = bl__compress_to_signs(p, &course, false, out, err);
    if (!status)
        out->signs->haar = true;
    return status;
}

const bl__method bl__method_haar = {
    .name = "haar",
    .summary = "two magnitudes a row in bands of Haar coefficients, after HBLLM",
    .calibrated = true,
    .haar = true,
    .packs = true,
    .run = run};
