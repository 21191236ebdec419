/* Owns the product of many tokens of AVX-VNNI: 256-bit registers, four products summed in int32.
 * Same bits as kernels/ref. */
#include "kernels/x86/gemm256.h"

enum {
    PIECE_BLOCKS = 32, /* unpacked 8 KiB a tile */
    MOST_TOKENS = 6    /* at once */
};

/* Adds one tile x n tokens (a constant after inlining) to dots[n][16]. */
static inline __attribute__((always_inline)) void add_tokens(const bl__unpacked *w, size_t n_blocks,
                                                             const int8_t *q, size_t q_stride,
                                                             size_t n,
                                                             int32_t (*dots)[BL_T2_ROWS]) {
    __m256i sums[MOST_TOKENS][2];
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++)
            sums[t][half] = _mm256_loadu_si256((const __m256i *)(const void *)(dots[t] + 8 * half));
    for (size_t g = 0; g < 4 * n_blocks; g++) {
        __m256i low = w[g].halves[0], high = w[g].halves[1];
#pragma GCC unroll 6
        for (size_t t = 0; t < n; t++) {
            __m256i x = bl__broadcast4(q + t * q_stride + 4 * g);
            sums[t][0] = _mm256_dpbusd_avx_epi32(sums[t][0], low, x);
            sums[t][1] = _mm256_dpbusd_avx_epi32(sums[t][1], high, x);
            /* gcc 12 would keep copies of all sums in memory */
            __asm__ volatile("" : "+x"(sums[t][0]), "+x"(sums[t][1]));
        }
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)(void *)(dots[t] + 8 * half), sums[t][half]);
}

static void add_piece(const bl__gemm_piece *p, bl__gemm_dots *dots) {
    bl__unpacked w[4 * PIECE_BLOCKS];
    for (size_t i = 0; i < p->n_tiles; i++) {
        int32_t(*to)[BL_T2_ROWS] = (*dots)[i];
        size_t stride = p->q_stride, n_blocks = p->n_blocks;
        bl__unpack(p->blocks + i * p->tile_stride, n_blocks, w);
        for (size_t t = 0, n; t < p->n_tokens; t += n) {
            const int8_t *q = p->q + t * stride;
            n = bl__gemm256_tokens(p->n_tokens - t);
            if (n == 6)
                add_tokens(w, n_blocks, q, stride, 6, to + t);
            else if (n == 4)
                add_tokens(w, n_blocks, q, stride, 4, to + t);
            else if (n == 2)
                add_tokens(w, n_blocks, q, stride, 2, to + t);
            else
                add_tokens(w, n_blocks, q, stride, 1, to + t);
        }
    }
}

void bl__gemm_avxvnni(BL_GEMM_ARGUMENTS) {
    bl__gemm_run(add_piece, PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                 out_stride);
}
