/* Owns the product of many tokens of AVX2. Same bits as kernels/ref.
 *
 * Codes are unpacked once for all tokens. vpmaddubsw adds pairs in int16, so a piece is as long as
 * such sums hold for every input. */
#include "kernels/x86/gemm256.h"

enum {
    /* A block adds at most 4 planes x 2 columns x 3 x 128 = 3,072 in magnitude to an int16,
     * impossible code 3 included, and 10 x 3,072 <= 32,767. */
    PIECE_BLOCKS = 10,
    MOST_TOKENS = 6 /* at once */
};

/* Adds one tile x n tokens (a constant after inlining) to dots[n][16]. */
static inline __attribute__((always_inline)) void add_tokens(const bl__unpacked *w, size_t n_blocks,
                                                             const int8_t *q, size_t q_stride,
                                                             size_t n,
                                                             int32_t (*dots)[BL_T2_ROWS]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[MOST_TOKENS][2];
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++)
        sums[t][0] = sums[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++) /* the next piece's */
        for (size_t c = 0; c < PIECE_BLOCKS * BL_T2_COLS; c += 64)
            _mm_prefetch((const char *)(q + t * q_stride + PIECE_BLOCKS * BL_T2_COLS + c),
                         _MM_HINT_T0);
    for (size_t g = 0; g < 4 * n_blocks; g++) {
        __m256i low = w[g].halves[0], high = w[g].halves[1];
#pragma GCC unroll 6
        for (size_t t = 0; t < n; t++) {
            __m256i x = bl__broadcast4(q + t * q_stride + 4 * g);
            sums[t][0] = _mm256_add_epi16(sums[t][0], _mm256_maddubs_epi16(low, x));
            sums[t][1] = _mm256_add_epi16(sums[t][1], _mm256_maddubs_epi16(high, x));
            /* no product waits in a register that a sum needs */
            __asm__ volatile("" : "+x"(sums[t][0]), "+x"(sums[t][1]));
        }
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++)
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            __m256i *to = (__m256i *)(void *)(dots[t] + 8 * half);
            __m256i more = _mm256_madd_epi16(sums[t][half], ones);
            _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), more));
        }
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

void bl__gemm_avx2(BL_GEMM_ARGUMENTS) {
    bl__gemm_run(add_piece, PIECE_BLOCKS, tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                 out_stride);
}
