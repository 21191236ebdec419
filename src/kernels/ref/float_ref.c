/* Owns the scalar truth of attention's products and packing. */
#include "base/bytes.h"
#include "kernels/float_loops.h"
#include "kernels/levels.h"

static float cell_at(bl_cache_type type, const uint8_t *row, size_t c) {
    switch (type) {
    case BL_CACHE_F32:
        return bl__load_f32(row + 4 * c);
    case BL_CACHE_F16:
        return bl__f16_to_f32(bl__load_u16(row + 2 * c));
    case BL_CACHE_I8:
        return (float)(int8_t)row[c];
    case BL_CACHE_I4:
        break;
    }
    return (float)((row[c / 32 * 16 + c % 16] >> (c % 32 / 16 * 4) & 15) - 8);
}

static void cells_product(bl_cache_type type, const float *a, size_t a_stride, size_t n_rows,
                          const void *b, size_t b_stride, size_t n, size_t cols, float *out,
                          size_t out_stride, bool add) {
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < cols; c++) {
            float sum = add ? out[r * out_stride + c] : 0.0f;
            for (size_t i = 0; i < n; i++)
                sum = fmaf(a[r * a_stride + i], cell_at(type, (const uint8_t *)b + i * b_stride, c),
                           sum);
            out[r * out_stride + c] = sum;
        }
}

static void pack_f16(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i] > 65504.0f ? 65504.0f : x[i];
        out[i] = bl__f32_to_f16(v < -65504.0f ? -65504.0f : v);
    }
}

void bl__floats_fill_ref(bl__kernels *table) {
    fill_float_loops(table);
    table->cells_product = cells_product;
    table->pack_f16 = pack_f16;
}
