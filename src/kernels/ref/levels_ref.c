/* Owns the scalar truth of products with the layouts L1, L2 and S2. */
#include "base/bytes.h"
#include "base/half.h"
#include "kernels/levels.h"

/* The level of (row r of the tile, column c). */
static int32_t level_at(const bl__levels *w, const uint8_t *tile, size_t r, size_t c) {
    size_t code_cols = bl__levels_code_cols(w), block = c / BL_BINARIZED_BLOCK;
    const uint8_t *codes =
        tile + bl__levels_codes_at(w) + c / code_cols * BL_T2_BLOCK_BYTES + 4 * r;
    unsigned code = codes[c % 4] >> c % code_cols / 4 * w->bits & ((1u << w->bits) - 1);
    const uint8_t *table = (w->b1 ? bl__b1_table : tile) + block * bl__levels_table_step(w);
    if (w->salient && w->tensor[bl__levels_bitmap_at(w) + c / 8] >> c % 8 & 1)
        table += 64;
    return (table[(r << w->bits) + code] & BL_LEVELS_MASK) - BL_LEVELS_ZERO;
}

static void levels_gemm(const bl__levels *w, size_t first_tile, size_t n_tiles, const bl__q8 *x,
                        size_t n_tokens, float *out, size_t out_stride) {
    for (size_t i = 0; i < n_tiles; i++) {
        size_t row = (first_tile + i) * BL_T2_ROWS;
        const uint8_t *tile = bl__levels_tile(w, first_tile + i);
        const uint8_t *units = bl__levels_units(w, first_tile + i);
        for (size_t r = 0; r < BL_T2_ROWS && row + r < w->rows; r++)
            for (size_t t = 0; t < n_tokens; t++) {
                int32_t dot = 0;
                for (size_t c = 0; c < w->cols; c++)
                    dot += level_at(w, tile, r, c) * x->q[t * x->stride + c];
                float unit = w->b1 ? bl__load_f32(units + 4 * r)
                                   : bl__f16_to_f32(bl__load_u16(units + 2 * r));
                out[t * out_stride + i * BL_T2_ROWS + r] = (float)dot * x->step[t] * unit;
            }
    }
}

void bl__levels_fill_ref(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
