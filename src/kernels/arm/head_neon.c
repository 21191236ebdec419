/* Owns the NEON kernels of the output head: products with rows of 16-bit floats, and
 * upper bounds by its low-bit copy. Same bits as
 * kernels/ref; see the contract in kernels.h. */
#include <arm_neon.h>
#include <math.h>

#include "base/bytes.h"
#include "base/half.h"
#include "kernels/arm/tiles.h"
#include "kernels/levels.h"

typedef enum half_kind { HALF_F16, HALF_BF16 } half_kind;

static inline __attribute__((always_inline)) float32x4_t widen(half_kind kind,
                                                               const uint16_t *from) {
    uint16x4_t halves = vld1_u16(from);
    if (kind == HALF_F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(halves));
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

/* Folds 16 lanes as the contract says, after adding the tail's elements to theirs. */
static inline float finish_lanes(half_kind kind, float32x4_t s0, float32x4_t s1, float32x4_t s2,
                                 float32x4_t s3, const uint16_t *w, const float *x, size_t n) {
    if (n) {
        float lanes[BL_LANES];
        vst1q_f32(lanes, s0);
        vst1q_f32(lanes + 4, s1);
        vst1q_f32(lanes + 8, s2);
        vst1q_f32(lanes + 12, s3);
        for (size_t l = 0; l < n; l++) {
            uint16_t half = bl__load_u16(w + l);
            lanes[l] = fmaf(kind == HALF_F16 ? bl__f16_to_f32(half) : bl__bf16_to_f32(half), x[l],
                            lanes[l]);
        }
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
dot_some(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
         const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
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
                float32x4_t row = widen(kind, w + r * w_stride + c + 4 * i);
                EACH (t, n_tokens)
                    sums[r][t][i] = vfmaq_f32(sums[r][t][i], row, xs[t]);
            }
        }
    EACH (r, n_rows)
        EACH (t, n_tokens)
            out[t * out_stride + r] =
                finish_lanes(kind, sums[r][t][0], sums[r][t][1], sums[r][t][2], sums[r][t][3],
                             w + r * w_stride + c, x + t * x_stride + c, cols - c);
}

static inline __attribute__((always_inline)) void
dot_halves(half_kind kind, const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
           const float *x, size_t x_stride, size_t n_tokens, float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3, x += 3 * x_stride, out += 3 * out_stride) {
        size_t r = 0;
        for (; r + 2 <= n_rows; r += 2)
            dot_some(kind, w + r * w_stride, w_stride, 2, cols, x, x_stride, 3, out + r,
                     out_stride);
        if (r < n_rows)
            dot_some(kind, w + r * w_stride, w_stride, 1, cols, x, x_stride, 3, out + r,
                     out_stride);
    }
    for (; t < n_tokens; t++, x += x_stride, out += out_stride) {
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4)
            dot_some(kind, w + r * w_stride, w_stride, 4, cols, x, x_stride, 1, out + r,
                     out_stride);
        for (; r < n_rows; r++)
            dot_some(kind, w + r * w_stride, w_stride, 1, cols, x, x_stride, 1, out + r,
                     out_stride);
    }
}

static void dot_rows_f16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                         const float *x, size_t x_stride, size_t n_tokens, float *out,
                         size_t out_stride) {
    dot_halves(HALF_F16, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

static void dot_rows_bf16(const uint16_t *w, size_t w_stride, size_t n_rows, size_t cols,
                          const float *x, size_t x_stride, size_t n_tokens, float *out,
                          size_t out_stride) {
    dot_halves(HALF_BF16, w, w_stride, n_rows, cols, x, x_stride, n_tokens, out, out_stride);
}

/* upper[4] of the rows whose sums, scales, errors and norms these are. */
static inline void write_upper(int32x4_t high, int32x4_t low, const uint8_t *head,
                               const bl__screen_x *x, float *upper) {
    float32x4_t scale = vreinterpretq_f32_u8(vld1q_u8(head));
    float32x4_t error = vreinterpretq_f32_u8(vld1q_u8(head + 64));
    float32x4_t norm = vreinterpretq_f32_u8(vld1q_u8(head + 128));
    float32x4_t about = vcvtq_f32_s32(high);
    if (x->n_digits == 2)
        about = vaddq_f32(vmulq_n_f32(about, 128.0f), vcvtq_f32_s32(low));
    about = vmulq_f32(vmulq_n_f32(about, x->step), scale);
    float32x4_t bound = vaddq_f32(vmulq_n_f32(scale, x->of_scale), vmulq_n_f32(error, x->of_error));
    bound = vaddq_f32(bound, vmulq_n_f32(norm, x->of_norm));
    bound = vaddq_f32(bound, vdupq_n_f32(x->of_any));
    vst1q_f32(upper, vaddq_f32(about, bound));
}

/* Four rows and one of n_digits digits (a constant after inlining). Two rows of four columns are
 * eight products, added in pairs: two sums a row. */
static inline __attribute__((always_inline)) int32x4_t
dot_digit(const uint8_t *codes, const int8_t *digits, size_t n_digits, size_t n_groups) {
    int32x4_t sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    for (size_t g = 0; g < n_groups; g++, codes += 64, digits += 4 * n_digits) {
        int8x16_t q = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes), vdupq_n_u8(128)));
        int8x8_t digit = vreinterpret_s8_s32(vdup_n_s32((int32_t)bl__load_u32(digits)));
        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(q), digit));
        sums[1] = vpadalq_s16(sums[1], vmull_s8(vget_high_s8(q), digit));
    }
    return vpaddq_s32(sums[0], sums[1]);
}

static void screen_rows(const uint8_t *tiles, size_t cols, size_t n_tiles, const bl__screen_x *x,
                        size_t n_tokens, float *upper, size_t stride) {
    size_t n_groups = (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS;
    for (size_t i = 0; i < n_tiles; i++, tiles += bl__screen_tile_bytes(cols))
        for (size_t j = 0; j < n_tokens * 4; j++) { /* four rows and a token each */
            size_t part = j % 4, t = j / 4;
            const uint8_t *codes = tiles + BL_SCREEN_HEAD_BYTES + 16 * part;
            const int8_t *digits = x[t].digits;
            int32x4_t high, low = vdupq_n_s32(0);
            if (x[t].n_digits == 0)
                continue;
            if (x[t].n_digits == 2) {
                high = dot_digit(codes, digits, 2, n_groups);
                low = dot_digit(codes, digits + BL_SCREEN_COLS, 2, n_groups);
            } else {
                high = dot_digit(codes, digits, 1, n_groups);
            }
            write_upper(high, low, tiles + 16 * part, &x[t],
                        upper + t * stride + i * BL_SCREEN_ROWS + 4 * part);
        }
}

void bl__head_fill_neon(bl__kernels *table) {
    table->dot_rows_f16 = dot_rows_f16;
    table->dot_rows_bf16 = dot_rows_bf16;
    table->screen_rows = screen_rows;
}
