/* Owns the kernels of AVX-VNNI. Same bits as kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/x86/gemm256.h"

enum { MANY_TOKENS = 4 }; /* from here on it pays to unpack into memory */

/* 16 rows x n tokens of one tile (n a constant after inlining), each plane summed alone to hide
 * the latency of the dot-product instruction when n is 1: dots[t][half]. */
static inline __attribute__((always_inline)) void tile_dots(const uint8_t *blocks, size_t n_blocks,
                                                            const int8_t *q, size_t q_stride,
                                                            size_t n, __m256i dots[][2]) {
    const __m256i three = _mm256_set1_epi8(3);
    enum { N_SUMS = 2 };
    __m256i sums[2][N_SUMS][2];
    for (size_t t = 0; t < n; t++)
        for (size_t s = 0; s < N_SUMS; s++)
            sums[t][s][0] = sums[t][s][1] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++) {
        const __m256i *block = (const __m256i *)(const void *)(blocks + b * BL_T2_BLOCK_BYTES);
        __m256i low = _mm256_loadu_si256(block), high = _mm256_loadu_si256(block + 1);
#pragma GCC unroll 4
        for (size_t plane = 0; plane < 4; plane++) {
            __m256i w0 = _mm256_and_si256(low, three), w1 = _mm256_and_si256(high, three);
            for (size_t t = 0; t < n; t++) {
                __m256i x = bl__broadcast4(q + t * q_stride + b * BL_T2_COLS + 4 * plane);
                __m256i *to = sums[t][plane % N_SUMS];
                to[0] = _mm256_dpbusd_avx_epi32(to[0], w0, x);
                to[1] = _mm256_dpbusd_avx_epi32(to[1], w1, x);
            }
            low = _mm256_srli_epi16(low, 2);
            high = _mm256_srli_epi16(high, 2);
        }
    }
    for (size_t t = 0; t < n; t++)
        for (size_t half = 0; half < 2; half++)
            dots[t][half] = _mm256_add_epi32(sums[t][0][half], sums[t][1][half]);
}

static void ternary_gemm(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                         size_t out_stride) {
    size_t stride = bl__t2_stride(cols), n_blocks = bl__t2_blocks(cols);
    if (n_tokens >= MANY_TOKENS) {
        bl__gemm_avxvnni(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
        return;
    }
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * stride, *blocks = scales + BL_T2_SCALE_BYTES;
        size_t row = tile * BL_T2_ROWS;
        for (size_t t = 0, n; t < n_tokens; t += n) {
            const int8_t *q = x->q + t * x->stride;
            __m256i sums[2][2];
            int32_t dots[2][BL_T2_ROWS];
            n = n_tokens - t >= 2 ? 2 : 1;
            if (n == 2)
                tile_dots(blocks, n_blocks, q, x->stride, 2, sums);
            else
                tile_dots(blocks, n_blocks, q, x->stride, 1, sums);
            memcpy(dots, sums, n * sizeof *dots);
            bl__gemm_write((const int32_t(*)[BL_T2_ROWS])dots, scales, rows - row, x->sum + t,
                           x->step + t, n, out + t * out_stride + row, out_stride);
        }
    }
}

void bl__kernels_fill_avxvnni(bl__kernels *table) {
    table->ternary_gemm = ternary_gemm;
    bl__levels_fill_avxvnni(table);
}
