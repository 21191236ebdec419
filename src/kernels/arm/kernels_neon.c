/* Owns the kernels of plain NEON, which every 64-bit ARM processor has. Same bits as kernels/ref;
 * see the contract in kernels.h. Four registers of four floats are the 16 lanes of a sum. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/arm/tiles.h"
#include "kernels/levels.h"

/* ---- activations ---- */

/* The largest |x|; NaN does not count, signaling or not, which rules out the maximum instructions.
 */
static float absmax(const float *x, size_t n) {
    float32x4_t max4[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t h = 0; h < 2; h++) {
            float32x4_t a = vabsq_f32(vld1q_f32(x + i + 4 * h));
            max4[h] = vbslq_f32(vcgtq_f32(a, max4[h]), a, max4[h]);
        }
    float max = vmaxvq_f32(vmaxq_f32(max4[0], max4[1]));
    for (; i < n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return max;
}

/* Four values as int32, -128 or more; vmaxnm takes the number where the other is NaN. */
static inline int32x4_t round4(const float *x, float scale) {
    float32x4_t r = vmulq_n_f32(vld1q_f32(x), scale);
    return vcvtnq_s32_f32(vmaxnmq_f32(r, vdupq_n_f32(-128.0f)));
}

static void quantize_i8(const float *x, size_t n, int8_t *q, size_t stride, float *step,
                        int32_t *sum) {
    float max = absmax(x, n);
    float scale = 127.0f / (max > 1e-5f ? max : 1e-5f);
    int32x4_t sum4 = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int16x8_t low = vqmovn_high_s32(vqmovn_s32(round4(x + i, scale)), round4(x + i + 4, scale));
        int16x8_t high =
            vqmovn_high_s32(vqmovn_s32(round4(x + i + 8, scale)), round4(x + i + 12, scale));
        int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(low), high);
        vst1q_s8(q + i, bytes);
        sum4 = vpadalq_s16(sum4, vpaddlq_s8(bytes));
    }
    int32_t total = vaddvq_s32(sum4);
    for (; i < n; i++) {
        float r = rintf(x[i] * scale);
        r = r > -128.0f ? r : -128.0f;
        r = r < 127.0f ? r : 127.0f;
        q[i] = (int8_t)r;
        total += q[i];
    }
    memset(q + n, 0, stride - n);
    *step = 1.0f / scale;
    *sum = total;
}

/* ---- ternary products ---- */

void bl__t2_scale_dots_neon(const int32_t *dots, size_t n_tokens, const uint8_t *scales,
                            size_t n_rows, const int32_t *sum, const float *step, float *out,
                            size_t out_stride) {
    for (size_t t = 0; t < n_tokens; t++, out += out_stride) {
        float rows[BL_T2_ROWS];
        for (size_t g = 0; g < 4; g++) {
            int32x4_t dot =
                vsubq_s32(vld1q_s32(dots + t * BL_T2_ROWS + 4 * g), vdupq_n_s32(sum[t]));
            float32x4_t scale = vld1q_f32((const float *)(const void *)(scales + 16 * g));
            vst1q_f32(rows + 4 * g, vmulq_f32(vmulq_n_f32(vcvtq_f32_s32(dot), step[t]), scale));
        }
        memcpy(out, rows, n_rows * sizeof *out);
    }
}

/* int16 sums hold this many blocks: a block adds at most 4 planes x 3 x 128 = 1,536 in magnitude to
 * one of them, impossible code 3 included, and 21 x 1,536 <= 32,767. */
enum { SAFE_BLOCKS = 21 };

/* Plane `plane` of one block against n tokens: 4 columns of 16 rows. The multiplications, one a
 * cycle on most cores that lack dot products, are what takes the time. clang knows that both halves
 * of a broadcast are equal and would rather move the codes' upper half, were x4 not hidden. */
#define ADD_PLANE(plane, CODES)                                                                    \
    EACH (t, n)                                                                                    \
        x4[t] = vreinterpretq_s8_s32(vdupq_laneq_s32(x[t], plane));                                \
    EACH (t, n)                                                                                    \
        __asm__("" : "+w"(x4[t]));                                                                 \
    EACH (g, 4) {                                                                                  \
        int8x16_t w = vreinterpretq_s8_u8(CODES);                                                  \
        EACH (t, n) {                                                                              \
            sums[t][2 * g] = vmlal_s8(sums[t][2 * g], vget_low_s8(w), vget_low_s8(x4[t]));         \
            sums[t][2 * g + 1] = vmlal_high_s8(sums[t][2 * g + 1], w, x4[t]);                      \
        }                                                                                          \
    }

/* 16 rows x n tokens (a constant after inlining, 1 or 2) of one tile. */
static inline __attribute__((always_inline)) void tile_dots(const uint8_t *blocks, size_t n_blocks,
                                                            const int8_t *q, size_t q_stride,
                                                            size_t n, int32_t dots[][BL_T2_ROWS]) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t totals[2][4];
    EACH (t, n)
        EACH (g, 4)
            totals[t][g] = vdupq_n_s32(0);
    for (size_t b = 0; b < n_blocks;) {
        size_t end = b + SAFE_BLOCKS < n_blocks ? b + SAFE_BLOCKS : n_blocks;
        int16x8_t sums[2][8];
        EACH (t, n)
            EACH (i, 8)
                sums[t][i] = vdupq_n_s16(0);
        for (; b < end; b++) {
            uint8x16_t raw[4];
            int32x4_t x[2];
            int8x16_t x4[2];
            EACH (g, 4)
                raw[g] = vld1q_u8(blocks + b * BL_T2_BLOCK_BYTES + 16 * g);
            EACH (t, n)
                x[t] = vreinterpretq_s32_s8(vld1q_s8(q + t * q_stride + b * BL_T2_COLS));
            ADD_PLANE(0, vandq_u8(raw[g], three))
            ADD_PLANE(1, vandq_u8(vshrq_n_u8(raw[g], 2), three))
            ADD_PLANE(2, vandq_u8(vshrq_n_u8(raw[g], 4), three))
            ADD_PLANE(3, vshrq_n_u8(raw[g], 6))
        }
        /* sums[2g] and [2g + 1]: rows 4g, 4g + 1 and 4g + 2, 4g + 3, four columns each */
        EACH (t, n)
            EACH (g, 4)
                totals[t][g] = vaddq_s32(totals[t][g], vpaddq_s32(vpaddlq_s16(sums[t][2 * g]),
                                                                  vpaddlq_s16(sums[t][2 * g + 1])));
    }
    EACH (t, n)
        EACH (g, 4)
            vst1q_s32(dots[t] + 4 * g, totals[t][g]);
}

static void ternary_gemm(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride) {
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t2_stride(cols);
        const uint8_t *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS, n_blocks = bl__t2_blocks(cols);
        size_t n_rows = rows - row < BL_T2_ROWS ? rows - row : BL_T2_ROWS;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            const int8_t *q = x->q + t * x->stride;
            int32_t dots[2][BL_T2_ROWS];
            n = n_tokens - t >= 2 ? 2 : 1;
            if (n == 2)
                tile_dots(blocks, n_blocks, q, x->stride, 2, dots);
            else
                tile_dots(blocks, n_blocks, q, x->stride, 1, dots);
            bl__t2_scale_dots_neon(dots[0], n, scales, n_rows, x->sum + t, x->step + t,
                                   out + t * out_stride + row, out_stride);
        }
    }
}

/* ---- float products ---- */

/* Folds 16 lanes as the contract says, after adding the tail's elements to theirs. By value: an
 * address would keep the sums in memory. */
static inline float finish_lanes(float32x4_t s0, float32x4_t s1, float32x4_t s2, float32x4_t s3,
                                 const float *a, const float *b, size_t n) {
    if (n) {
        float lanes[BL_LANES];
        vst1q_f32(lanes, s0);
        vst1q_f32(lanes + 4, s1);
        vst1q_f32(lanes + 8, s2);
        vst1q_f32(lanes + 12, s3);
        for (size_t l = 0; l < n; l++)
            lanes[l] = fmaf(a[l], b[l], lanes[l]);
        s0 = vld1q_f32(lanes);
        s1 = vld1q_f32(lanes + 4);
        s2 = vld1q_f32(lanes + 8);
        s3 = vld1q_f32(lanes + 12);
    }
    float32x4_t four = vaddq_f32(vaddq_f32(s0, s2), vaddq_f32(s1, s3));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* n_rows rows x n_tokens tokens (constants after inlining; at most 6 products, 24 sums). */
static inline __attribute__((always_inline)) void
dot_some(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
         size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    float32x4_t sums[4][3][4];
    size_t c = 0;
    EACH (r, n_rows)
        EACH (t, n_tokens)
            EACH (i, 4)
                sums[r][t][i] = vdupq_n_f32(0.0f);
    for (; c + BL_LANES <= cols; c += BL_LANES)
        EACH (i, 4) {
            float32x4_t xs[3];
            EACH (t, n_tokens)
                xs[t] = vld1q_f32(x + t * x_stride + c + 4 * i);
            EACH (r, n_rows) {
                float32x4_t row = vld1q_f32(w + r * w_stride + c + 4 * i);
                EACH (t, n_tokens)
                    sums[r][t][i] = vfmaq_f32(sums[r][t][i], row, xs[t]);
            }
        }
    EACH (r, n_rows)
        EACH (t, n_tokens)
            out[t * out_stride + r] =
                finish_lanes(sums[r][t][0], sums[r][t][1], sums[r][t][2], sums[r][t][3],
                             w + r * w_stride + c, x + t * x_stride + c, cols - c);
}

static void dot_rows(const float *w, size_t w_stride, size_t n_rows, size_t cols, const float *x,
                     size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3, x += 3 * x_stride, out += 3 * out_stride) {
        size_t r = 0;
        for (; r + 2 <= n_rows; r += 2)
            dot_some(w + r * w_stride, w_stride, 2, cols, x, x_stride, 3, out + r, out_stride);
        if (r < n_rows)
            dot_some(w + r * w_stride, w_stride, 1, cols, x, x_stride, 3, out + r, out_stride);
    }
    for (; t < n_tokens; t++, x += x_stride, out += out_stride) {
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            dot_some(w + r * w_stride, w_stride, 4, cols, x, x_stride, 1, out + r, out_stride);
        for (; r < n_rows; r++)
            dot_some(w + r * w_stride, w_stride, 1, cols, x, x_stride, 1, out + r, out_stride);
    }
}

/* n x 4 columns (n a constant after inlining) of weighted_sum; n_rows >= 1. */
static inline __attribute__((always_inline)) void
sum_columns(const float *p, const float *v, size_t v_stride, size_t n_rows, size_t n, float *out) {
    float32x4_t sums[8];
    EACH (i, n)
        sums[i] = vmulq_n_f32(vld1q_f32(v + 4 * i), p[0]);
    for (size_t r = 1; r < n_rows; r++)
        EACH (i, n)
            sums[i] = vfmaq_n_f32(sums[i], vld1q_f32(v + r * v_stride + 4 * i), p[r]);
    EACH (i, n)
        vst1q_f32(out + 4 * i, sums[i]);
}

static void weighted_sum(const float *p, const float *v, size_t v_stride, size_t n_rows,
                         size_t cols, float *out) {
    size_t c = 0;
    if (n_rows == 0) {
        memset(out, 0, cols * sizeof *out);
        return;
    }
    for (; c + 32 <= cols; c += 32)
        sum_columns(p, v + c, v_stride, n_rows, 8, out + c);
    for (; c + 4 <= cols; c += 4)
        sum_columns(p, v + c, v_stride, n_rows, 1, out + c);
    for (; c < cols; c++) {
        float total = p[0] * v[c];
        for (size_t r = 1; r < n_rows; r++)
            total = fmaf(p[r], v[r * v_stride + c], total);
        out[c] = total;
    }
}

/* ---- 16-bit floats ---- */

static void unpack_f16(const uint16_t *x, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(x + i));
        vst1q_f32(out + i, vcvt_f32_f16(vget_low_f16(h)));
        vst1q_f32(out + i + 4, vcvt_high_f32_f16(h));
    }
    for (; i < n; i++)
        out[i] = bl__f16_to_f32(bl__load_u16(x + i));
}

static void unpack_bf16(const uint16_t *x, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t h = vld1q_u16(x + i);
        vst1q_f32(out + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)));
        vst1q_f32(out + i + 4, vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)));
    }
    for (; i < n; i++)
        out[i] = bl__bf16_to_f32(bl__load_u16(x + i));
}

void bl__kernels_fill_neon(bl__kernels *table) {
    table->quantize_i8 = quantize_i8;
    table->ternary_gemm = ternary_gemm;
    table->t5_unpack = bl__t5_unpack_neon;
    table->b1_unpack = bl__b1_unpack_neon;
    table->dot_rows = dot_rows;
    table->weighted_sum = weighted_sum;
    table->unpack_f16 = unpack_f16;
    table->unpack_bf16 = unpack_bf16;
    bl__levels_fill_neon(table);
    bl__skip_fill_neon(table);
    bl__head_fill_neon(table);
    bl__floats_fill_neon(table);
}
