/* Owns the kernels of AVX-VNNI. Same bits as kernels/ref; see the contract in kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/x86/gemm256.h"
#include "kernels/x86/native.h"

enum { MANY_TOKENS = 4 }; /* from here on it pays to unpack into memory */

/* Lines are asked for so far ahead. Sums that are 64 times too large hold so many blocks and more:
 * a block adds at most 64 x 4 columns x 3 x 128 = 98,304, impossible codes included. */
enum { AHEAD = 4096, SAFE_BLOCKS = 16384 };

/* One token: codes are masked where they lie; sums[plane] is 4^plane times too large. */
static inline __attribute__((always_inline)) void
tile_dots_1(const uint8_t *blocks, size_t n_blocks, const int8_t *q, __m256i dots[2]) {
    dots[0] = dots[1] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks;) {
        size_t end = n_blocks - b > SAFE_BLOCKS ? b + SAFE_BLOCKS : n_blocks;
        __m256i sums[4][2];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            sums[i / 2][i % 2] = _mm256_setzero_si256();
        for (; b < end; b++) {
            const __m256i *block = (const __m256i *)(const void *)(blocks + b * BL_T2_BLOCK_BYTES);
            __m256i low = _mm256_loadu_si256(block), high = _mm256_loadu_si256(block + 1);
            _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
            for (size_t plane = 0; plane < 4; plane++) {
                __m256i mask = _mm256_set1_epi8((char)(3 << 2 * plane));
                __m256i x = bl__broadcast4(q + b * BL_T2_COLS + 4 * plane), *to = sums[plane];
                to[0] = _mm256_dpbusd_avx_epi32(to[0], _mm256_and_si256(low, mask), x);
                to[1] = _mm256_dpbusd_avx_epi32(to[1], _mm256_and_si256(high, mask), x);
                /* gcc 12 would keep copies of all sums in memory */
                __asm__ volatile("" : "+x"(to[0]), "+x"(to[1]));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            dots[i % 2] =
                _mm256_add_epi32(dots[i % 2], _mm256_srai_epi32(sums[i / 2][i % 2], i / 2 * 2));
    }
}

/* 16 rows x 2 tokens of one tile: dots[t][half]. */
static inline __attribute__((always_inline)) void tile_dots_2(const uint8_t *blocks,
                                                              size_t n_blocks, const int8_t *q,
                                                              size_t q_stride, __m256i dots[2][2]) {
    const __m256i three = _mm256_set1_epi8(3);
#pragma GCC unroll 2
    for (size_t t = 0; t < 2; t++)
        dots[t][0] = dots[t][1] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++) {
        const __m256i *block = (const __m256i *)(const void *)(blocks + b * BL_T2_BLOCK_BYTES);
        __m256i low = _mm256_loadu_si256(block), high = _mm256_loadu_si256(block + 1);
#pragma GCC unroll 4
        for (size_t plane = 0; plane < 4; plane++) {
            __m256i w0 = _mm256_and_si256(low, three), w1 = _mm256_and_si256(high, three);
#pragma GCC unroll 2
            for (size_t t = 0; t < 2; t++) {
                __m256i x = bl__broadcast4(q + t * q_stride + b * BL_T2_COLS + 4 * plane);
                dots[t][0] = _mm256_dpbusd_avx_epi32(dots[t][0], w0, x);
                dots[t][1] = _mm256_dpbusd_avx_epi32(dots[t][1], w1, x);
            }
            low = _mm256_srli_epi16(low, 2);
            high = _mm256_srli_epi16(high, 2);
        }
    }
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
                tile_dots_2(blocks, n_blocks, q, x->stride, sums);
            else
                tile_dots_1(blocks, n_blocks, q, sums[0]);
            memcpy(dots, sums, n * sizeof *dots);
            bl__gemm_write((const int32_t(*)[BL_T2_ROWS])dots, scales, rows - row, x->sum + t,
                           x->step + t, n, out + t * out_stride + row, out_stride);
        }
    }
}

void bl__kernels_fill_avxvnni(bl__kernels *table) {
    table->ternary_gemm = ternary_gemm;
    table->t5_gemv = bl__t5_gemv_avxvnni;
    table->b1_gemv = bl__b1_gemv_avxvnni;
    bl__levels_fill_avxvnni(table);
}
