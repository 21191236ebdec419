/* Owns the rows of OneBit's linears: see onebit.h. Source: the authors' modules (BitLinear, whose
 * weights are latent, and BitLinearInf, packed by their conversion script). */
#include "convert/onebit.h"

/* 0 of a latent weight is +1, as the authors' script packs it. */
void bl__onebit_make(const bl__plan_tensor *tensor, size_t row, float *out) {
    const bl__onebit *o = tensor->origin;
    size_t from = bl__plan_source_row(tensor, row), rows = tensor->rows, cols = tensor->cols;
    float scale;
    if (o->scale_layout == BL_LAYOUT_F32)
        bl__layout_unpack_row(BL_LAYOUT_F32, o->scale->data + from * 4, 1, 1, 0, &scale);
    else
        bl__layout_unpack_row(o->scale_layout, o->scale->data + from * 2, 1, 1, 0, &scale);
    if (o->weight->dtype == BL_DTYPE_I8) {
        const uint8_t *bits = o->weight->data + from * (cols / 8);
        for (size_t c = 0; c < cols; c++)
            out[c] = bits[c / 8] >> c % 8 & 1 ? -scale : scale;
        return;
    }
    bl__layout_unpack_row(o->weight_layout, o->weight->data, rows, cols, from, out);
    for (size_t c = 0; c < cols; c++)
        out[c] = out[c] < 0 ? -scale : scale;
}
