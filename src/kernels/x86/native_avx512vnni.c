/* Owns the native layouts T5 and B1 times one token by AVX-512 + VNNI. Same bits as kernels/ref. */
#include "kernels/x86/native.h"
#include "kernels/x86/t5_tables.h"
#include "quant/b1.h"

/* Sums of plane 7 of B1, which lies at 128 times its weight, hold this many blocks and more: a
 * block adds at most 128 x 4 columns x 128 = 65,536. So do those of the top two bits of T5, with 64
 * x 4 columns x 2 x 128 for each of two digits, in two sets of sums. */
enum { SAFE_BLOCKS = 16384, SAFE_GROUPS = SAFE_BLOCKS / BL_T5_GROUP_BLOCKS, AHEAD = 4096 };

/* sum += 4-way products of codes with four activations broadcast. Intrinsics would load them into a
 * register first. */
static inline __m512i dot4(__m512i sum, __m512i codes, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int8_t(*)[4])q));
    return sum;
}

/* ---- T5 ---- */

typedef struct tables {
    __m512i pairs, pair_mask, beside, digit4, digit4_mask;
} tables;

static inline __m512i load16(const uint8_t *table) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
}

static inline tables load_tables(void) {
    return (tables){load16(bl__t5_pairs), load16(bl__t5_pair_mask), load16(bl__t5_beside),
                    load16(bl__t5_digit4), load16(bl__t5_digit4_mask)};
}

/* Digits 0 to 3 of 64 bytes as a block of T2, and digit 4 in the top two bits. */
static inline __attribute__((always_inline)) __m512i split(__m512i v, tables t, __m512i *top) {
    const __m512i seven = _mm512_set1_epi8(7), top_bits = _mm512_set1_epi8((char)0xc0);
    enum { A_AND_B_OR_C = 0xea, ALL = 0x80 };
    __mmask64 is_3 = _mm512_cmpge_epu8_mask(v, top_bits);
    __m512i at = _mm512_and_si512(_mm512_srli_epi16(v, 3), seven);
    __m512i pair = _mm512_shuffle_epi8(t.pairs, _mm512_and_si512(v, seven));
    at = _mm512_mask_add_epi8(at, is_3, at, _mm512_set1_epi8(8));
    __m512i digit = _mm512_ternarylogic_epi32(pair, _mm512_shuffle_epi8(t.digit4_mask, at),
                                              _mm512_shuffle_epi8(t.digit4, at), A_AND_B_OR_C);
    *top = _mm512_ternarylogic_epi32(digit, v, top_bits, ALL);
    return _mm512_ternarylogic_epi32(pair, _mm512_shuffle_epi8(t.pair_mask, at),
                                     _mm512_shuffle_epi8(t.beside, at), A_AND_B_OR_C);
}

/* Digits 0 to 3 of a block times 16 activations; sums[p] is 4^p times too large. */
static inline __attribute__((always_inline)) void add_digits(__m512i codes, const int8_t *q,
                                                             __m512i sums[4]) {
#pragma GCC unroll 4
    for (size_t p = 0; p < 4; p++)
        sums[p] =
            dot4(sums[p], _mm512_and_si512(codes, _mm512_set1_epi8((char)(3 << 2 * p))), q + 4 * p);
}

/* One tile; two sets of sums hide the latency of the dot products. */
static inline __attribute__((always_inline)) __m512i t5_tile_dots(const uint8_t *blocks, size_t n,
                                                                  const int8_t *q, tables t) {
    size_t left = n / BL_T5_GROUP_T2_BLOCKS, n_rest = n % BL_T5_GROUP_T2_BLOCKS;
    __m512i total = _mm512_setzero_si512(), top;
    do {
        __m512i sums[2][4];
        size_t here = left < SAFE_GROUPS ? left : SAFE_GROUPS;
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            sums[i / 4][i % 4] = _mm512_setzero_si512();
        left -= here;
        for (; here > 0; here--, q += BL_T5_GROUP_COLS)
#pragma GCC unroll 4
            for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++, blocks += BL_T2_BLOCK_BYTES) {
                _mm_prefetch((const char *)blocks + AHEAD, _MM_HINT_T0);
                add_digits(split(_mm512_loadu_si512(blocks), t, &top), q + 16 * b, sums[b % 2]);
                sums[(b + 1) % 2][3] = dot4(sums[(b + 1) % 2][3], top, q + 64 + 4 * b);
            }
        for (; left == 0 && n_rest > 0; n_rest--, blocks += BL_T2_BLOCK_BYTES, q += BL_T2_COLS)
            add_digits(split(_mm512_loadu_si512(blocks), t, &top), q, sums[0]);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++)
            total = _mm512_add_epi32(
                total, _mm512_srai_epi32(_mm512_add_epi32(sums[0][p], sums[1][p]), 2 * p));
    } while (left > 0);
    return total;
}

/* ---- B1 ---- */

/* The sums over n_blocks of bit x activation, not yet doubled. Bits are masked where they lie, and
 * the sums shifted once. half: the last block has but 16 columns. */
static inline __attribute__((always_inline)) __m512i
b1_tile_dots(const uint8_t *blocks, size_t n_blocks, bool half, const int8_t *q) {
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

/* (dots - sum) * step * scale of a tile's rows that exist. */
static inline void write_tile(__m512i dots, const uint8_t *scales, size_t left, const bl__q8 *x,
                              float *out) {
    __mmask16 exists = left < BL_T2_ROWS ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
    dots = _mm512_sub_epi32(dots, _mm512_set1_epi32(x->sum[0]));
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_set1_ps(x->step[0]));
    _mm512_mask_storeu_ps(out, exists, _mm512_mul_ps(y, _mm512_loadu_ps(scales)));
}

void bl__t5_gemv_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                            size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__t2_blocks(cols);
    tables t = load_tables();
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t5_stride(cols);
        __m512i dots = t5_tile_dots(scales + BL_T2_SCALE_BYTES, n, x->q, t);
        write_tile(dots, scales, rows - tile * BL_T2_ROWS, x, out + tile * BL_T2_ROWS);
    }
}

void bl__b1_gemv_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                            size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__b1_blocks(cols);
    bool half = bl__t2_blocks(cols) % 2 != 0;
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__b1_stride(cols);
        __m512i dots = b1_tile_dots(scales + BL_T2_SCALE_BYTES, n, half, x->q);
        write_tile(_mm512_add_epi32(dots, dots), scales, rows - tile * BL_T2_ROWS, x,
                   out + tile * BL_T2_ROWS);
    }
}
