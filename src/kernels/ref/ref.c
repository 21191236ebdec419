/* Owns the scalar truth that every other kernel is held to, bit for bit. Written to be read. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/levels.h"
#include "quant/b1.h"
#include "quant/t5.h"

static void quantize_i8(const float *x, size_t n, int8_t *q, size_t stride, float *step,
                        int32_t *sum) {
    float max = 0.0f;
    for (size_t i = 0; i < n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float scale = 127.0f / (max > 1e-5f ? max : 1e-5f);
    int32_t total = 0;
    for (size_t i = 0; i < n; i++) {
        float r = rintf(x[i] * scale);
        r = r > -128.0f ? r : -128.0f; /* NaN too */
        r = r < 127.0f ? r : 127.0f;
        q[i] = (int8_t)r;
        total += q[i];
    }
    for (size_t i = n; i < stride; i++)
        q[i] = 0;
    *step = 1.0f / scale;
    *sum = total;
}

/* The code of (row r of the tile, column c). */
static int32_t code_at(const uint8_t *tile, size_t r, size_t c) {
    const uint8_t *block = tile + BL_T2_SCALE_BYTES + c / BL_T2_COLS * BL_T2_BLOCK_BYTES;
    size_t plane = c % BL_T2_COLS / 4;
    return block[4 * r + c % 4] >> 2 * plane & 3;
}

static void ternary_gemm(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride) {
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *bytes = tiles + tile * bl__t2_stride(cols);
        for (size_t r = 0; r < BL_T2_ROWS && tile * BL_T2_ROWS + r < rows; r++)
            for (size_t t = 0; t < n_tokens; t++) {
                int32_t dot = -x->sum[t];
                for (size_t c = 0; c < cols; c++)
                    dot += code_at(bytes, r, c) * x->q[t * x->stride + c];
                out[t * out_stride + tile * BL_T2_ROWS + r] =
                    (float)dot * x->step[t] * bl__load_f32(bytes + 4 * r);
            }
    }
}

static float fold(float lanes[BL_LANES]) {
    for (size_t half = BL_LANES / 2; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

/* Block `b` of row r of a tile of T5, and the fifth digits of a whole group, as bytes of T2. */
static void t5_unpack_row(const uint8_t *blocks, size_t cols, size_t r, uint8_t *t2) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 4 * r; j < 4 * r + 4; j++) {
            size_t group = i / BL_T5_GROUP_T2_BLOCKS, within = i % BL_T5_GROUP_T2_BLOCKS;
            const uint8_t *from = blocks + group * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES + j;
            unsigned codes = 0;
            if (group < n_groups && within == BL_T5_GROUP_BLOCKS)
                for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++)
                    codes |= bl__t5_decode(from[b * BL_T2_BLOCK_BYTES]) >> 8 << 2 * b;
            else
                codes = bl__t5_decode(from[within * BL_T2_BLOCK_BYTES]);
            t2[i * BL_T2_BLOCK_BYTES + j] = (uint8_t)codes;
        }
}

static void t5_unpack(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                      uint8_t *t2) {
    for (size_t i = 0; i < n_tiles; i++, t2 += bl__t2_stride(cols)) {
        const uint8_t *tile = tiles + (first_tile + i) * bl__t5_stride(cols);
        memcpy(t2, tile, BL_T2_SCALE_BYTES);
        for (size_t r = 0; r < BL_T2_ROWS; r++)
            t5_unpack_row(tile + BL_T2_SCALE_BYTES, cols, r, t2 + BL_T2_SCALE_BYTES);
    }
}

static void b1_unpack(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                      uint8_t *t2) {
    for (size_t i = 0; i < n_tiles; i++, t2 += bl__t2_stride(cols)) {
        const uint8_t *tile = tiles + (first_tile + i) * bl__b1_stride(cols);
        memcpy(t2, tile, BL_T2_SCALE_BYTES);
        for (size_t b = 0; b < bl__t2_blocks(cols); b++)
            for (size_t j = 0; j < BL_T2_BLOCK_BYTES; j++) {
                unsigned codes = 0, nibble = tile[BL_T2_SCALE_BYTES + b / 2 * 64 + j] >> b % 2 * 4;
                for (size_t p = 0; p < 4; p++)
                    codes |= (nibble >> p & 1) << (2 * p + 1);
                t2[BL_T2_SCALE_BYTES + b * BL_T2_BLOCK_BYTES + j] = (uint8_t)codes;
            }
    }
}

static float dot(const float *a, const float *b, size_t n) {
    float lanes[BL_LANES] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % BL_LANES] = fmaf(a[i], b[i], lanes[i % BL_LANES]);
    return fold(lanes);
}

static void dot_rows(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
                     size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_rows; r++)
            out[t * out_stride + r] = dot(w + r * w_stride, x + t * x_stride, cols);
}

static float half_to_float(bool bf16, const uint16_t *half) {
    return bf16 ? bl__bf16_to_f32(bl__load_u16(half)) : bl__f16_to_f32(bl__load_u16(half));
}

static void dot_halves(bool bf16, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                       const float *x, size_t x_stride, size_t n_tokens, float *out,
                       size_t out_stride) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_rows; r++) {
            float lanes[BL_LANES] = {0};
            for (size_t c = 0; c < cols; c++)
                lanes[c % BL_LANES] = fmaf(half_to_float(bf16, w + r * w_stride + c),
                                           x[t * x_stride + c], lanes[c % BL_LANES]);
            out[t * out_stride + r] = fold(lanes);
        }
}

static void dot_rows_f16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                         const float *x, size_t x_stride, size_t n_tokens, float *out,
                         size_t out_stride) {
    dot_halves(false, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

static void dot_rows_bf16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                          const float *x, size_t x_stride, size_t n_tokens, float *out,
                          size_t out_stride) {
    dot_halves(true, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

/* What row r of a tile can give at most. */
static float upper_of(const uint8_t *tile, size_t r, size_t cols, const bl__screen_x *x) {
    size_t n_groups = (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS;
    const uint8_t *codes = tile + BL_SCREEN_HEAD_BYTES + BL_SCREEN_COLS * r;
    float scale = bl__load_f32(tile + 4 * r), error = bl__load_f32(tile + 64 + 4 * r);
    float norm = bl__load_f32(tile + 128 + 4 * r);
    int32_t sums[2] = {0};
    for (size_t g = 0; g < n_groups; g++)
        for (size_t d = 0; d < x->n_digits; d++)
            for (size_t c = 0; c < BL_SCREEN_COLS; c++)
                sums[d] += (codes[g * BL_SCREEN_ROWS * BL_SCREEN_COLS + c] - 128) *
                           x->digits[(g * x->n_digits + d) * BL_SCREEN_COLS + c];
    float whole = x->n_digits == 2 ? (float)sums[0] * 128.0f + (float)sums[1] : (float)sums[0];
    return whole * x->step * scale +
           (scale * x->of_scale + error * x->of_error + norm * x->of_norm + x->of_any);
}

static void screen_rows(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        size_t n_tokens, float *upper, size_t stride) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; x[t].n_digits && i < n_tiles * BL_SCREEN_ROWS; i++)
            upper[t * stride + i] =
                upper_of(tiles + i / BL_SCREEN_ROWS * bl__screen_tile_bytes(cols),
                         i % BL_SCREEN_ROWS, cols, &x[t]);
}

static void weighted_sum(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out) {
    for (size_t c = 0; c < cols; c++) {
        float total = n_rows ? p[0] * v[c] : 0.0f;
        for (size_t r = 1; r < n_rows; r++)
            total = fmaf(p[r], v[r * v_stride + c], total);
        out[c] = total;
    }
}

static void unpack_f16(const uint16_t *x, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = bl__f16_to_f32(bl__load_u16(x + i));
}

static void unpack_bf16(const uint16_t *x, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = bl__bf16_to_f32(bl__load_u16(x + i));
}

void bl__kernels_fill_ref(bl__kernels *table) {
    *table = (bl__kernels){
        .quantize_i8 = quantize_i8,
        .ternary_gemm = ternary_gemm,
        .t5_unpack = t5_unpack,
        .b1_unpack = b1_unpack,
        .dot_rows = dot_rows,
        .dot_rows_f16 = dot_rows_f16,
        .dot_rows_bf16 = dot_rows_bf16,
        .screen_rows = screen_rows,
        .weighted_sum = weighted_sum,
        .unpack_f16 = unpack_f16,
        .unpack_bf16 = unpack_bf16,
    };
    bl__floats_fill_ref(table);
    bl__levels_fill_ref(table);
    bl__skip_fill_ref(table);
}
