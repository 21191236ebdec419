/* Owns the native layouts T5 and B1 times one token by AVX-VNNI. Same bits as kernels/ref. */
#include "kernels/x86/gemm256.h"
#include "kernels/x86/native.h"
#include "kernels/x86/t5_256.h"
#include "quant/b1.h"

/* Digits are masked where they lie. Sums 64 times too large hold so many blocks and more: each adds
 * at most 64 x 2 digits x 4 columns x 2 x 128 = 131,072. Those of B1, 8 times too large, hold as
 * many columns as there can be. */
enum { AHEAD = 4096, SAFE_BLOCKS = 16384, SAFE_GROUPS = SAFE_BLOCKS / BL_T5_GROUP_BLOCKS };

/* sum += 4-way products of codes with four activations broadcast. gcc 12 would keep copies of all
 * sums in memory without the empty statement. */
static inline __m256i dot4(__m256i sum, __m256i codes, const int8_t *q) {
    sum = _mm256_dpbusd_avx_epi32(sum, codes, bl__broadcast4(q));
    __asm__ volatile("" : "+x"(sum));
    return sum;
}

/* Digits 0 to 3 of half a block times 16 activations; sums[p] is 4^p times too large. */
static inline __attribute__((always_inline)) void add_digits(__m256i codes, const int8_t *q,
                                                             __m256i sums[4]) {
#pragma GCC unroll 4
    for (size_t p = 0; p < 4; p++)
        sums[p] =
            dot4(sums[p], _mm256_and_si256(codes, _mm256_set1_epi8((char)(3 << 2 * p))), q + 4 * p);
}

/* Half of each block of a tile of T5. */
static inline __attribute__((always_inline)) __m256i t5_half_dots(const uint8_t *blocks, size_t n,
                                                                  const int8_t *q) {
    size_t left = n / BL_T5_GROUP_T2_BLOCKS, n_rest = n % BL_T5_GROUP_T2_BLOCKS;
    __m256i total = _mm256_setzero_si256(), low, top;
    do {
        __m256i sums[4] = {total};
        size_t here = left < SAFE_GROUPS ? left : SAFE_GROUPS;
        sums[1] = sums[2] = sums[3] = _mm256_setzero_si256();
        left -= here;
        for (; here > 0; here--, q += BL_T5_GROUP_COLS)
#pragma GCC unroll 4
            for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++, blocks += BL_T2_BLOCK_BYTES) {
                _mm_prefetch((const char *)blocks + AHEAD, _MM_HINT_T0);
                bl__t5_split256(bl__load256(blocks), &low, &top);
                add_digits(low, q + 16 * b, sums);
                sums[3] = dot4(sums[3], top, q + 64 + 4 * b);
            }
        for (; left == 0 && n_rest > 0; n_rest--, blocks += BL_T2_BLOCK_BYTES, q += BL_T2_COLS) {
            bl__t5_split256(bl__load256(blocks), &low, &top);
            add_digits(low, q, sums);
        }
        total = sums[0];
#pragma GCC unroll 3
        for (int p = 1; p < 4; p++)
            total = _mm256_add_epi32(total, _mm256_srai_epi32(sums[p], 2 * p));
    } while (left > 0);
    return total;
}

/* The first n_planes bits of a block; sums[half][p % 4] is 2^(p % 4) times too large. */
static inline __attribute__((always_inline)) void add_bits(const uint8_t *block, size_t n_planes,
                                                           const int8_t *q, __m256i sums[2][4]) {
    __m256i low = bl__load256(block), high = bl__load256(block + 32);
    _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 8
    for (size_t p = 0; p < n_planes; p++) {
        __m256i mask = _mm256_set1_epi8((char)(1 << p % 4));
        if (p == 4) {
            low = _mm256_srli_epi16(low, 4);
            high = _mm256_srli_epi16(high, 4);
        }
        sums[0][p % 4] = dot4(sums[0][p % 4], _mm256_and_si256(low, mask), q + 4 * p);
        sums[1][p % 4] = dot4(sums[1][p % 4], _mm256_and_si256(high, mask), q + 4 * p);
    }
}

/* half_block: the last block has but 16 columns. */
static inline __attribute__((always_inline)) void
b1_dots(const uint8_t *blocks, size_t n, bool half_block, const int8_t *q, __m256i dots[2]) {
    __m256i sums[2][4];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        sums[i / 4][i % 4] = _mm256_setzero_si256();
    for (size_t b = 0; b < n - half_block; b++)
        add_bits(blocks + b * BL_T2_BLOCK_BYTES, 8, q + b * BL_B1_COLS, sums);
    if (half_block)
        add_bits(blocks + (n - 1) * BL_T2_BLOCK_BYTES, 4, q + (n - 1) * BL_B1_COLS, sums);
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; half++) {
        dots[half] = sums[half][0];
#pragma GCC unroll 3
        for (int p = 1; p < 4; p++)
            dots[half] = _mm256_add_epi32(dots[half], _mm256_srai_epi32(sums[half][p], p));
    }
}

void bl__t5_gemv_avxvnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__t2_blocks(cols);
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t5_stride(cols);
        const uint8_t *blocks = scales + BL_T2_SCALE_BYTES;
        __m256i dots[2] = {t5_half_dots(blocks, n, x->q), t5_half_dots(blocks + 32, n, x->q)};
        bl__write_tile256(dots, scales, rows - tile * BL_T2_ROWS, x, out + tile * BL_T2_ROWS);
    }
}

void bl__b1_gemv_avxvnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__b1_blocks(cols);
    bool half_block = bl__t2_blocks(cols) % 2 != 0;
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__b1_stride(cols);
        __m256i dots[2];
        b1_dots(scales + BL_T2_SCALE_BYTES, n, half_block, x->q, dots);
        for (size_t half = 0; half < 2; half++) /* codes are 0 and 2 */
            dots[half] = _mm256_add_epi32(dots[half], dots[half]);
        bl__write_tile256(dots, scales, rows - tile * BL_T2_ROWS, x, out + tile * BL_T2_ROWS);
    }
}
