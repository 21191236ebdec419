/* Owns the product of one token with the native layout B1 by AVX-512 + VNNI. Same bits as
 * kernels/ref. */
#include <immintrin.h>

#include "kernels/x86/native.h"
#include "quant/b1.h"

/* Sums of plane 7, which lies at 128 times its weight, hold this many blocks and more: a block adds
 * at most 128 x 4 columns x 128 = 65,536. */
enum { SAFE_BLOCKS = 16384, AHEAD = 4096 };

/* sum += 4-way products of codes with four activations broadcast. Intrinsics would load them into a
 * register first. */
static inline __m512i dot4(__m512i sum, __m512i codes, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int8_t(*)[4])q));
    return sum;
}

/* The sums over n_blocks of bit x activation, not yet doubled. Bits are masked where they lie, and
 * the sums shifted once. half: the last block has but 16 columns. */
static inline __attribute__((always_inline)) __m512i
tile_dots(const uint8_t *blocks, size_t n_blocks, bool half, const int8_t *q) {
    __m512i total = _mm512_setzero_si512(), masks[8];
#pragma GCC unroll 8
    for (int p = 0; p < 8; p++)
        masks[p] = _mm512_set1_epi8((char)(1 << p));
    for (size_t b = 0; b < n_blocks;) {
        size_t end = n_blocks - b > SAFE_BLOCKS ? b + SAFE_BLOCKS : n_blocks;
        size_t n_whole = end - (half && end == n_blocks);
        __m512i sums[8];
#pragma GCC unroll 8
        for (int p = 0; p < 8; p++)
            sums[p] = _mm512_setzero_si512();
        for (; b < n_whole; b++) {
            const uint8_t *block = blocks + b * BL_T2_BLOCK_BYTES;
            __m512i v = _mm512_loadu_si512(block);
            _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 8
            for (int p = 0; p < 8; p++)
                sums[p] = dot4(sums[p], _mm512_and_si512(v, masks[p]), q + b * BL_B1_COLS + 4 * p);
        }
        if (b < end) {
            __m512i v = _mm512_loadu_si512(blocks + b * BL_T2_BLOCK_BYTES);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++)
                sums[p] = dot4(sums[p], _mm512_and_si512(v, masks[p]), q + b * BL_B1_COLS + 4 * p);
            b++;
        }
#pragma GCC unroll 8
        for (int p = 0; p < 8; p++)
            total = _mm512_add_epi32(total, _mm512_srai_epi32(sums[p], (unsigned)p));
    }
    return total;
}

void bl__b1_gemv_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                            size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n_blocks = bl__b1_blocks(cols);
    bool half = bl__t2_blocks(cols) % 2 != 0;
    __m512i sum = _mm512_set1_epi32(x->sum[0]);
    __m512 step = _mm512_set1_ps(x->step[0]);
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__b1_stride(cols);
        size_t left = rows - tile * BL_T2_ROWS;
        __mmask16 exists = left < BL_T2_ROWS ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
        __m512i dot = tile_dots(scales + BL_T2_SCALE_BYTES, n_blocks, half, x->q);
        dot = _mm512_sub_epi32(_mm512_add_epi32(dot, dot), sum);
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), step);
        _mm512_mask_storeu_ps(out + tile * BL_T2_ROWS, exists,
                              _mm512_mul_ps(y, _mm512_loadu_ps(scales)));
    }
}
