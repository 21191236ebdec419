/* Any bytes as a tensor of L1, L2, S2 or B1: checking, unpacking and multiplying stay within it,
 * and this machine's kernels give ref's bits. The first bytes choose layout, rows and columns. */
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { HEADER = 4, MAX_ROWS = 40, MAX_COLS = 300, TOKENS = 4, STRIDE = (MAX_COLS + 15) / 16 * 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const bl__layout layouts[] = {BL_LAYOUT_L1, BL_LAYOUT_L2, BL_LAYOUT_S2, BL_LAYOUT_B1};
    static bl__kernels ref;
    static int8_t q[TOKENS * STRIDE];
    static float want[TOKENS * MAX_ROWS], got[TOKENS * MAX_ROWS], row[MAX_COLS];
    const float step[TOKENS] = {1.0f, 0.5f, 2.0f, 1e-3f};
    int32_t sum[TOKENS] = {0};
    size_t bytes;
    if (size < HEADER || (!ref.level && !bl__kernels_for("ref", &ref)))
        return 0;
    bl__layout layout = layouts[data[0] % 4];
    size_t rows = 1u + data[1] % MAX_ROWS,
           cols = 1u + (unsigned)(data[2] | data[3] << 8) % MAX_COLS;
    if (bl__layout_bytes(layout, rows, cols, &bytes, NULL))
        return 0;
    uint8_t *tensor = malloc(bytes); /* to the byte, for the sanitizer */
    if (!tensor)
        return 0;
    for (size_t i = 0; i < bytes; i++)
        tensor[i] = size > HEADER ? data[HEADER + i % (size - HEADER)] : 0;
    for (size_t r = 0; r < rows; r++) {
        (void)bl__layout_check_row(layout, tensor, rows, cols, r);
        bl__layout_unpack_row(layout, tensor, rows, cols, r, row);
    }
    memset(q, 0, sizeof q);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t c = 0; c < cols; c++) {
            q[t * STRIDE + c] = (int8_t)(tensor[(c * 7 + t) % bytes] ^ (c & 255));
            sum[t] += q[t * STRIDE + c];
        }
    const bl__levels w = bl__levels_of(layout, tensor, rows, cols);
    const bl__q8 x = {q, STRIDE, (float *)(uintptr_t)step, sum};
    ref.levels_gemm(&w, 0, bl__t2_tiles(rows), &x, TOKENS, want, MAX_ROWS);
    bl__kernels_get()->levels_gemm(&w, 0, bl__t2_tiles(rows), &x, TOKENS, got, MAX_ROWS);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t r = 0; r < rows; r++) {
            float a = want[t * MAX_ROWS + r], b = got[t * MAX_ROWS + r];
            if (memcmp(&a, &b, sizeof a) != 0 && !(a != a && b != b))
                __builtin_trap();
        }
    free(tensor);
    return 0;
}
