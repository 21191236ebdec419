/* Owns the ternary products of ARMv8.6's int8 matrix instructions, for several tokens at a time.
 * Same bits as kernels/ref.
 *
 * smmla multiplies 2 tokens x 8 columns by 8 columns x 2 rows: twice the work of a dot product,
 * from operands that T2 does not hold as they are. So a piece of a tile is put in order once, in
 * the first cache, for as many tokens as there are. */
#include <arm_neon.h>
#include <string.h>

#include "kernels/arm/tiles.h"
#include "kernels/levels.h"

enum {
    FEWEST_TOKENS = 4, /* below: dot products, without putting in order */
    MOST_TOKENS = 64,  /* share one putting in order */
    PIECE = 32,        /* blocks: 8 KiB in order */
    N_PAIRS = BL_T2_ROWS / 2
};

/* pairs[half][i]: columns 8 * half ... + 7 of rows 2 * i and 2 * i + 1, a byte each. */
typedef struct ordered {
    int8_t pairs[2][N_PAIRS][16];
} ordered;

static void put_in_order(const uint8_t *blocks, size_t n_blocks, ordered *out) {
    const uint8x16_t three = vdupq_n_u8(3);
    for (size_t b = 0; b < n_blocks; b++)
        EACH (g, 4) {
            uint8x16_t raw = vld1q_u8(blocks + b * BL_T2_BLOCK_BYTES + 16 * g);
            uint32x4_t even = vreinterpretq_u32_u8(raw);
            uint32x4_t odd = vreinterpretq_u32_u8(vshrq_n_u8(raw, 2));
            EACH (i, 2) { /* planes 0, 1 below planes 2, 3 of two rows */
                uint8x16_t rows =
                    vreinterpretq_u8_u32(i ? vzip2q_u32(even, odd) : vzip1q_u32(even, odd));
                vst1q_s8(out[b].pairs[0][2 * g + i], vreinterpretq_s8_u8(vandq_u8(rows, three)));
                vst1q_s8(out[b].pairs[1][2 * g + i],
                         vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(rows, 4), three)));
            }
        }
}

static inline int8x16_t join_low(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

static inline int8x16_t join_high(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

/* Adds 16 rows x n pairs of tokens (a constant after inlining, 1 or 2) to dots; q[2 * n] are their
 * activations, q and dots of a pair may be the same token twice. */
static inline __attribute__((always_inline)) void
add_dots(const ordered *w, size_t n_blocks, const int8_t *const q[4], size_t n, int32_t *dots[4]) {
    int32x4_t sums[2][N_PAIRS]; /* token 0: rows 2i, 2i + 1, then token 1 */
    EACH (p, n)
        EACH (i, N_PAIRS)
            sums[p][i] = vdupq_n_s32(0);
    for (size_t b = 0; b < n_blocks; b++) {
        int8x16_t x[2][2];
        EACH (p, n) {
            int8x16_t first = vld1q_s8(q[2 * p] + b * BL_T2_COLS);
            int8x16_t second = vld1q_s8(q[2 * p + 1] + b * BL_T2_COLS);
            x[p][0] = join_low(first, second);
            x[p][1] = join_high(first, second);
        }
        EACH (half, 2)
            EACH (i, N_PAIRS) {
                int8x16_t rows = vld1q_s8(w[b].pairs[half][i]);
                EACH (p, n)
                    sums[p][i] = vmmlaq_s32(sums[p][i], x[p][half], rows);
            }
    }
    EACH (p, n)
        EACH (i, N_PAIRS / 2) {
            int64x2_t a = vreinterpretq_s64_s32(sums[p][2 * i]);
            int64x2_t b = vreinterpretq_s64_s32(sums[p][2 * i + 1]);
            int32x4_t first = vreinterpretq_s32_s64(vzip1q_s64(a, b));
            int32x4_t second = vreinterpretq_s32_s64(vzip2q_s64(a, b));
            int32_t *to = dots[2 * p] + 4 * i, *to_second = dots[2 * p + 1] + 4 * i;
            first = vaddq_s32(first, vld1q_s32(to));
            if (to_second != to)
                vst1q_s32(to_second, vaddq_s32(second, vld1q_s32(to_second)));
            vst1q_s32(to, first);
        }
}

/* dots[n][16] of one tile with n <= MOST_TOKENS tokens. */
static void tile_dots(const uint8_t *blocks, size_t n_blocks, const int8_t *q, size_t q_stride,
                      size_t n, int32_t dots[][BL_T2_ROWS]) {
    ordered piece[PIECE];
    memset(dots, 0, n * sizeof *dots);
    for (size_t b = 0; b < n_blocks; b += PIECE) {
        size_t n_here = n_blocks - b < PIECE ? n_blocks - b : PIECE;
        put_in_order(blocks + b * BL_T2_BLOCK_BYTES, n_here, piece);
        for (size_t t = 0; t < n; t += 4) {
            const int8_t *x[4];
            int32_t *to[4];
            for (size_t i = 0; i < 4; i++) {
                size_t token = t + i < n ? t + i : n - 1;
                x[i] = q + token * q_stride + b * BL_T2_COLS;
                to[i] = dots[token];
            }
            if (n - t > 2)
                add_dots(piece, n_here, x, 2, to);
            else
                add_dots(piece, n_here, x, 1, to);
        }
    }
}

static void ternary_gemm(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride) {
    size_t stride = bl__t2_stride(cols), n_blocks = bl__t2_blocks(cols);
    if (n_tokens < FEWEST_TOKENS) {
        bl__ternary_gemm_dotprod(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                                 out_stride);
        return;
    }
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * stride, *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS;
        size_t n_rows = rows - row < BL_T2_ROWS ? rows - row : BL_T2_ROWS;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            int32_t dots[MOST_TOKENS][BL_T2_ROWS];
            n = n_tokens - t < MOST_TOKENS ? n_tokens - t : MOST_TOKENS;
            tile_dots(blocks, n_blocks, x->q + t * x->stride, x->stride, n, dots);
            bl__t2_scale_dots_neon(dots[0], n, scales, n_rows, x->sum + t, x->step + t,
                                   out + t * out_stride + row, out_stride);
        }
    }
}

void bl__kernels_fill_i8mm(bl__kernels *table) {
    table->ternary_gemm = ternary_gemm;
}
