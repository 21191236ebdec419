/* Owns the scalar truth of the kernels that leave out rows and columns. Written to be read. */
#include "base/bytes.h"
#include "kernels/levels.h"
#include "quant/skip.h"

static void listed_rows(const uint8_t *tensor, size_t rows, size_t cols, const uint32_t *list,
                        size_t n, const int8_t *q, int32_t sum, float step, float *out) {
    size_t stride = bl__skip_stride(cols);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = tensor + bl__skip_scale_bytes(rows) + list[i] * stride;
        int32_t dot = -sum;
        for (size_t k = 0; k < stride * 4; k++) /* in R2's order */
            dot += (row[k / 256 * 64 + k % 64] >> (k % 256 / 64 * 2) & 3) * q[k];
        out[list[i]] = (float)dot * step * bl__load_f32(tensor + 4 * (size_t)list[i]);
    }
}

static void listed_columns(const uint8_t *tensor, size_t rows, const uint32_t *list, size_t n,
                           size_t first_group, size_t n_groups, int32_t *dots) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t *column = tensor + bl__skip_scale_bytes(rows) +
                                (list[i] >> 8) * bl__skip_stride(rows) + first_group * 64;
        int32_t q = (int8_t)(list[i] & 255);
        for (size_t r = 0; r < n_groups * 256; r++) {
            size_t k = r / 256 * 64 + r % 16 / 4 * 16 + r % 64 / 16 * 4 + r % 4;
            dots[r] += (column[k] >> (r % 256 / 64 * 2) & 3) * q;
        }
    }
}

void bl__skip_fill_ref(bl__kernels *table) {
    table->listed_rows = listed_rows;
    table->listed_columns = listed_columns;
}
