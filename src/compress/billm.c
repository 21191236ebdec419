/* Owns billm: salient columns as two signs, the others as one in an inner and an outer group.
 * BiLLM, arXiv 2402.04291; with problem->released as its code has it, where searches look at
 * salience and the errors of a block only reach later blocks. */
#include "compress/method.h"
#include "compress/partition.h"

/* Parameters of both groups and of salient columns, and the codes that they go with. */
static void fit_row(bl__block *b, size_t row) {
    const float *w = b->weights + row * BL_BLOCK_COLS;
    float *p = b->params + row * BL_BINARIZED_PARAMS, mean, one, two;
    uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
    bl__row_groups groups;
    bl__select_groups(b, row, &groups);
    bl__group inner = bl__group_of(w, &groups.inner), outer = bl__group_of(w, &groups.outer);
    bl__group_residual(w, &groups.salient, &mean, &one, &two);
    const float all[BL_BINARIZED_PARAMS] = {inner.mean, inner.scale, outer.mean, outer.scale,
                                            mean,       one,         two};
    float centre = bl__group_of(w, &groups.salient).mean;
    for (size_t i = 0; i < BL_BINARIZED_PARAMS; i++)
        p[i] = all[i];
    for (size_t c = 0; c < b->n; c++) {
        float rest = w[c] - (b->salient[c] ? centre : codes[c] & 2 ? outer.mean : inner.mean);
        codes[c] |= rest >= 0;
        if (b->salient[c]) /* the second sign is that of what the first one leaves */
            codes[c] |= (uint8_t)(rest - (rest >= 0 ? one : -one) >= mean - centre ? 2 : 0);
    }
}

static void fit_rows(bl__block *b, size_t first, size_t end) {
    for (size_t row = first; row < end; row++)
        fit_row(b, row);
}

static void fit_block(bl__block *b) {
    bl__find_salient(b, BL_RANK_SUM);
    bl__split_block(b);
    bl__block_rows(b, fit_rows);
}

static bl_status run(const bl__problem *p, bl__compressed *out, bl_error *err) {
    const bl__course course = {fit_block, p->released ? BL_ROUND_KEEP : BL_ROUND_NEAREST, true,
                               NULL};
    return bl__compress_to_signs(p, &course, false, out, err);
}

const bl__method bl__method_billm = {
    .name = "billm",
    .summary = "BiLLM: two signs in salient columns, two groups elsewhere",
    .calibrated = true,
    .released = true,
    .packs = true,
    .run = run};
