/* Owns ternary: the rule that b1.58 models are trained with, arXiv 2402.17764 eq. 1-3, applied to a
 * model that was not. It shows why they are trained with it. */
#include "compress/method.h"
#include "quant/quant.h"

static bl_status run(const bl__problem *p, bl__compressed *out, bl_error *err) {
    size_t n = p->rows * p->cols, bytes;
    bl_status status = bl__layout_bytes(BL_LAYOUT_T5, p->rows, p->cols, &bytes, err);
    if (status)
        return status;
    (void)bl__absmean_ternarize(p->weights, n);
    out->nominal_bits = 1.58;
    out->true_bits = 8.0 * (double)bytes;
    return BL_OK;
}

const bl__method bl__method_ternary = {.name = "ternary",
                                       .summary = "the rule of BitNet b1.58, which is for training",
                                       .packs = true,
                                       .run = run};
