/* Owns the table of methods and the counting of bits. */
#include "compress/method.h"

#include <string.h>

#include "quant/levels.h"

const bl__method *const bl__methods[] = {&bl__method_rtn,    &bl__method_gptq1,  &bl__method_pb_llm,
                                         &bl__method_billm,  &bl__method_arb,    &bl__method_arb_rc,
                                         &bl__method_haar,   &bl__method_sign_h, &bl__method_arb_h,
                                         &bl__method_onebit, &bl__method_ternary};
const size_t bl__n_methods = sizeof bl__methods / sizeof *bl__methods;

const bl__method *bl__method_find(const char *name) {
    for (size_t i = 0; i < bl__n_methods; i++)
        if (strcmp(bl__methods[i]->name, name) == 0)
            return bl__methods[i];
    return NULL;
}

void bl__compressed_free(bl__compressed *compressed) {
    bl__binarized_free(compressed->signs);
    *compressed = (bl__compressed){0};
}

bl_status bl__compressed_count(bl__compressed *compressed, bl_error *err) {
    const bl__binarized *m = compressed->signs;
    size_t n_salient = 0, bytes;
    bl_status status = bl__layout_bytes(bl__levels_choose(m), m->rows, m->cols, &bytes, err);
    if (status)
        return status;
    for (size_t c = 0; c < m->cols; c++)
        n_salient += m->salient[c];
    compressed->true_bits = 8.0 * (double)bytes + (m->col_scale ? 16.0 * (double)m->cols : 0);
    compressed->salient = (double)n_salient / (double)m->cols;
    compressed->nominal_bits = 1 + compressed->salient;
    return BL_OK;
}

bl_status bl__compress_to_signs(const bl__problem *p, const bl__course *course, bool col_scale,
                                bl__compressed *out, bl_error *err) {
    bl_status status = bl__binarized_create(p->rows, p->cols, col_scale, &out->signs, err);
    if (status || (status = bl__compress_blocks(p, course, out->signs, err)) ||
        (status = bl__settle(p, out->signs, err)))
        return status;
    return bl__compressed_count(out, err);
}
