/* Owns the ternary products of ARMv8.2's dot-product instructions. Same bits as kernels/ref.
 *
 * Codes are 0 ... 3, so they are as good signed as unsigned. The activations need no broadcast:
 * the instruction picks four of the sixteen that a register holds. */
#include <arm_neon.h>

#include "kernels/arm/tiles.h"
#include "kernels/levels.h"

#define DOT(sum, codes, x, plane) vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes), x, plane)

/* One token of a tile. The planes in the middle are masked where they lie, so that their sums are 4
 * and 16 times too large, and shifted once at the end: 16 operations to unpack a block instead of
 * 24, beside 16 dot products into as many sums. Sums at 16 times hold this many blocks and more:
 * a block adds at most 16 x 4 columns x 3 x 128 = 24,576, and 4,096 x 24,576 < 2^31. */
enum { SAFE_BLOCKS = 4096 };

static void dots_of_one(const uint8_t *blocks, size_t n_blocks, const int8_t *q,
                        int32_t dots[BL_T2_ROWS]) {
    const uint8x16_t plane0 = vdupq_n_u8(0x03), plane1 = vdupq_n_u8(0x0c),
                     plane2 = vdupq_n_u8(0x30);
    int32x4_t totals[4];
    EACH (g, 4)
        totals[g] = vdupq_n_s32(0);
    for (size_t b = 0; b < n_blocks;) {
        size_t end = n_blocks - b > SAFE_BLOCKS ? b + SAFE_BLOCKS : n_blocks;
        int32x4_t sums[4][4]; /* [plane][4 rows] */
        EACH (p, 4)
            EACH (g, 4)
                sums[p][g] = vdupq_n_s32(0);
        for (; b < end; b++) {
            int8x16_t x = vld1q_s8(q + b * BL_T2_COLS);
            EACH (g, 4) {
                uint8x16_t raw = vld1q_u8(blocks + b * BL_T2_BLOCK_BYTES + 16 * g);
                sums[0][g] = DOT(sums[0][g], vandq_u8(raw, plane0), x, 0);
                sums[1][g] = DOT(sums[1][g], vandq_u8(raw, plane1), x, 1);
                sums[2][g] = DOT(sums[2][g], vandq_u8(raw, plane2), x, 2);
                sums[3][g] = DOT(sums[3][g], vshrq_n_u8(raw, 6), x, 3);
            }
        }
        EACH (g, 4) {
            totals[g] = vaddq_s32(totals[g], vaddq_s32(sums[0][g], sums[3][g]));
            totals[g] = vsraq_n_s32(totals[g], sums[1][g], 2);
            totals[g] = vsraq_n_s32(totals[g], sums[2][g], 4);
        }
    }
    EACH (g, 4)
        vst1q_s32(dots + 4 * g, totals[g]);
}

#define ADD_PLANE(plane, CODES)                                                                    \
    EACH (g, n_groups) {                                                                           \
        uint8x16_t w = CODES;                                                                      \
        EACH (t, n)                                                                                \
            sums[t][g] = DOT(sums[t][g], w, x[t], plane);                                          \
    }

/* 4 * n_groups rows from row 4 * group x n tokens (n_groups, n constants after inlining). */
static inline __attribute__((always_inline)) void
dots_of_some(const uint8_t *blocks, size_t n_blocks, size_t group, size_t n_groups, const int8_t *q,
             size_t q_stride, size_t n, int32_t dots[][BL_T2_ROWS]) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sums[8][4];
    EACH (t, n)
        EACH (g, n_groups)
            sums[t][g] = vdupq_n_s32(0);
    blocks += 16 * group;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8x16_t raw[4];
        int8x16_t x[8];
        EACH (g, n_groups)
            raw[g] = vld1q_u8(blocks + b * BL_T2_BLOCK_BYTES + 16 * g);
        EACH (t, n)
            x[t] = vld1q_s8(q + t * q_stride + b * BL_T2_COLS);
        ADD_PLANE(0, vandq_u8(raw[g], three))
        ADD_PLANE(1, vandq_u8(vshrq_n_u8(raw[g], 2), three))
        ADD_PLANE(2, vandq_u8(vshrq_n_u8(raw[g], 4), three))
        ADD_PLANE(3, vshrq_n_u8(raw[g], 6))
    }
    EACH (t, n)
        EACH (g, n_groups)
            vst1q_s32(dots[t] + 4 * (group + g), sums[t][g]);
}

/* Sixteen sums either way. Eight tokens take half a tile at a time, so that unpacking is shared by
 * twice as many of them. */
void bl__ternary_gemm_dotprod(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                              size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                              size_t out_stride) {
    size_t stride = bl__t2_stride(cols), n_blocks = bl__t2_blocks(cols);
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * stride, *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS;
        size_t n_rows = rows - row < BL_T2_ROWS ? rows - row : BL_T2_ROWS;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            const int8_t *q = x->q + t * x->stride;
            int32_t dots[8][BL_T2_ROWS];
            n = n_tokens - t;
            n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
            if (n == 8) {
                dots_of_some(blocks, n_blocks, 0, 2, q, x->stride, 8, dots);
                dots_of_some(blocks, n_blocks, 2, 2, q, x->stride, 8, dots);
            } else if (n == 4) {
                dots_of_some(blocks, n_blocks, 0, 4, q, x->stride, 4, dots);
            } else if (n == 2) {
                dots_of_some(blocks, n_blocks, 0, 4, q, x->stride, 2, dots);
            } else {
                dots_of_one(blocks, n_blocks, q, dots[0]);
            }
            bl__t2_scale_dots_neon(dots[0], n, scales, n_rows, x->sum + t, x->step + t,
                                   out + t * out_stride + row, out_stride);
        }
    }
}

void bl__kernels_fill_dotprod(bl__kernels *table) {
    table->ternary_gemm = bl__ternary_gemm_dotprod;
    bl__levels_fill_dotprod(table);
    bl__skip_fill_dotprod(table);
}
