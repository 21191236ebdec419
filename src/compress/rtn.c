/* Owns rtn and gptq1: the sign of each weight times the mean magnitude of its row in a block,
 * without and with errors made good in later columns. */
#include "compress/groups.h"
#include "compress/method.h"

static void fit_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
        const float *w = b->weights + row * BL_BLOCK_COLS;
        double sum = 0;
        for (size_t c = 0; c < b->n; c++)
            sum += (double)(w[c] < 0 ? -w[c] : w[c]);
        b->params[row * BL_BINARIZED_PARAMS + BL_INNER_SCALE] = (float)(sum / (double)b->n);
    }
}

static void fit_block(bl__block *b) {
    bl__block_rows(b, fit_rows);
}

/* One group: signs may change with errors made good, groups may not. */
static bl_status run(const bl__problem *p, bool compensate, bl__compressed *out, bl_error *err) {
    const bl__course course = {fit_block, BL_ROUND_GROUP, compensate, NULL};
    return bl__compress_to_signs(p, &course, false, out, err);
}

static bl_status run_rtn(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, false, out, err);
}

static bl_status run_gptq1(const bl__problem *p, bl__compressed *out, bl_error *err) {
    return run(p, true, out, err);
}

const bl__method bl__method_rtn = {.name = "rtn",
                                   .summary = "signs and a scale for each row and block",
                                   .packs = true,
                                   .run = run_rtn};
const bl__method bl__method_gptq1 = {.name = "gptq1",
                                     .summary = "the same, errors made good in later columns",
                                     .calibrated = true,
                                     .packs = true,
                                     .run = run_gptq1};
