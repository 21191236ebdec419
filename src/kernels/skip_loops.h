/* Owns the walk over lists of rows and columns that the levels share; what meets four rows, or some
 * columns in a group of rows, is the level's own. */
#ifndef BL_KERNELS_SKIP_LOOPS_H
#define BL_KERNELS_SKIP_LOOPS_H

#include <string.h>

#include "kernels/kernels.h"
#include "quant/skip.h"

enum { ROWS_AT_ONCE = 4, ROWS_AHEAD = 16 /* that are asked for */ };

/* dots[k]: row k of `bytes` bytes times the token; ahead[k] is asked for. */
typedef void bl__four_rows(const uint8_t *const row[ROWS_AT_ONCE],
                           const uint8_t *const ahead[ROWS_AT_ONCE], size_t bytes, const int8_t *q,
                           int32_t dots[ROWS_AT_ONCE]);
/* dots[256] += n_quads x 4 entries in one group of rows, whose column 0 is at `group`. */
typedef void bl__some_quads(const uint8_t *group, size_t stride, const uint32_t *list,
                            size_t n_quads, int32_t *dots);

/* The slot listed_rows. */
static inline __attribute__((always_inline)) void
bl__listed_rows(bl__four_rows *four_rows, const uint8_t *tensor, size_t rows, size_t cols,
                const uint32_t *list, size_t n, const int8_t *q, int32_t sum, float step,
                float *out) {
    const uint8_t *first = tensor + bl__skip_scale_bytes(rows);
    size_t stride = bl__skip_stride(cols);
    for (size_t i = 0; i < n; i += ROWS_AT_ONCE) {
        const uint8_t *row[ROWS_AT_ONCE], *ahead[ROWS_AT_ONCE];
        int32_t dots[ROWS_AT_ONCE];
        for (size_t k = 0; k < ROWS_AT_ONCE; k++) { /* the last row again where there is none */
            row[k] = first + list[i + k < n ? i + k : n - 1] * stride;
            ahead[k] = first + list[i + k + ROWS_AHEAD < n ? i + k + ROWS_AHEAD : n - 1] * stride;
        }
        four_rows(row, ahead, stride, q, dots);
        for (size_t k = 0; k < ROWS_AT_ONCE && i + k < n; k++) {
            float scale;
            memcpy(&scale, tensor + list[i + k] * sizeof scale, sizeof scale);
            out[list[i + k]] = (float)(dots[k] - sum) * step * scale;
        }
    }
}

/* The last n % 4 > 0 entries, and a column again whose activation is 0. */
static inline void bl__last_quad(const uint32_t *list, size_t n, uint32_t last[4]) {
    for (size_t k = 0; k < 4; k++)
        last[k] = k < n % 4 ? list[n - n % 4 + k] : list[n - 1] & ~255u;
}

/* The slot listed_columns, quads_at_once x 4 entries in all groups before the next. */
static inline __attribute__((always_inline)) void
bl__listed_columns(bl__some_quads *some_quads, size_t quads_at_once, const uint8_t *tensor,
                   size_t rows, const uint32_t *list, size_t n, size_t first_group, size_t n_groups,
                   int32_t *dots) {
    size_t stride = bl__skip_stride(rows);
    const uint8_t *first = tensor + bl__skip_scale_bytes(rows) + first_group * BL_SKIP_BLOCK_BYTES;
    for (size_t i = 0, n_quads; i + 4 <= n; i += 4 * n_quads) {
        size_t left = (n - i) / 4;
        n_quads = left < quads_at_once ? left : quads_at_once;
        for (size_t g = 0; g < n_groups; g++)
            some_quads(first + g * BL_SKIP_BLOCK_BYTES, stride, list + i, n_quads,
                       dots + g * BL_SKIP_BLOCK);
    }
    if (n % 4) {
        uint32_t last[4];
        bl__last_quad(list, n, last);
        for (size_t g = 0; g < n_groups; g++)
            some_quads(first + g * BL_SKIP_BLOCK_BYTES, stride, last, 1, dots + g * BL_SKIP_BLOCK);
    }
}

#endif
