/* Owns the unpacking of the native layouts T5 and B1 by lookups among 16 bytes. Same bits as
 * kernels/ref. */
#include <immintrin.h>
#include <string.h>

#include "kernels/x86/native.h"
#include "quant/b1.h"
#include "quant/t5.h"

static inline __m256i load16(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* Tables of t5_split. The first eight entries of each but `pairs` are for bytes whose top two bits
 * are a digit, the others for bytes where they are 3; both by the three bits below. */
#define P BL_T5_PAIR
static const uint8_t pairs[16] = {0x11 * P(0), 0x11 * P(1), 0x11 * P(2), 0x11 * P(3),
                                  0x11 * P(4), 0x11 * P(5), 0x11 * P(6), 0x11 * P(7)};
/* Where the pair of the three lowest bits goes, and what is beside it. */
static const uint8_t pair_mask[16] = {0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f,
                                      0x0f, 0x0f, 0x0f, 0,    0xf0, 0xf0, 0xf0, 0};
static const uint8_t beside[16] = {P(0) << 4, P(1) << 4, P(2) << 4, P(3) << 4, P(4) << 4, P(5) << 4,
                                   P(6) << 4, P(7) << 4, 0xa0,      0xa0,      0xa0,      0xaa,
                                   0x0a,      0x0a,      0x0a,      0x55};
/* Digit 4 as a mask of the top two bits; where both pairs are 8 it is the second digit of `pairs`.
 */
static const uint8_t digit4[16] = {0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0,
                                   0x00, 0x40, 0x80, 0x00, 0x00, 0x40, 0x80, 0x40};
static const uint8_t digit4_mask[16] = {[11] = 0xc0};
#undef P

/* Digits 0 to 3 of 32 bytes as bytes of T2, and digit 4 in the top two bits. */
static inline __attribute__((always_inline)) void t5_split(__m256i v, __m256i *low, __m256i *top) {
    const __m256i seven = _mm256_set1_epi8(7), top_bits = _mm256_set1_epi8((char)0xc0);
    __m256i first = _mm256_and_si256(v, top_bits);
    __m256i is_3 = _mm256_cmpeq_epi8(first, top_bits);
    __m256i at = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 3), seven),
                                 _mm256_and_si256(is_3, _mm256_set1_epi8(8)));
    __m256i pair = _mm256_shuffle_epi8(load16(pairs), _mm256_and_si256(v, seven));
    *low = _mm256_or_si256(_mm256_and_si256(pair, _mm256_shuffle_epi8(load16(pair_mask), at)),
                           _mm256_shuffle_epi8(load16(beside), at));
    __m256i digit = _mm256_and_si256(pair, _mm256_shuffle_epi8(load16(digit4_mask), at));
    digit = _mm256_or_si256(digit, _mm256_shuffle_epi8(load16(digit4), at));
    *top = _mm256_and_si256(first, digit);
}

/* Half a block (rows 0 to 7 or 8 to 15) of each of up to four; whole: their digits 4 make a fifth.
 */
static inline __attribute__((always_inline)) void unpack_half(const uint8_t *from, size_t n_blocks,
                                                              bool whole, uint8_t *to) {
    __m256i low, top, last = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i v =
            _mm256_loadu_si256((const __m256i *)(const void *)(from + b * BL_T2_BLOCK_BYTES));
        t5_split(v, &low, &top);
        _mm256_storeu_si256((__m256i *)(void *)(to + b * BL_T2_BLOCK_BYTES), low);
        last = _mm256_or_si256(_mm256_srli_epi16(last, 2), top);
    }
    if (whole)
        _mm256_storeu_si256((__m256i *)(void *)(to + n_blocks * BL_T2_BLOCK_BYTES), last);
}

void bl__t5_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__t5_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t g = 0; g < n_groups; g++) {
            unpack_half(from, BL_T5_GROUP_BLOCKS, true, t2);
            unpack_half(from + 32, BL_T5_GROUP_BLOCKS, true, t2 + 32);
            from += BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES;
            t2 += BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
        }
        unpack_half(from, n % BL_T5_GROUP_T2_BLOCKS, false, t2);
        unpack_half(from + 32, n % BL_T5_GROUP_T2_BLOCKS, false, t2 + 32);
        t2 += n % BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
    }
}

/* Bit p of a nibble at bit 2 p + 1. */
static const uint8_t spread[16] = {0x00, 0x02, 0x08, 0x0a, 0x20, 0x22, 0x28, 0x2a,
                                   0x80, 0x82, 0x88, 0x8a, 0xa0, 0xa2, 0xa8, 0xaa};

void bl__b1_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    const __m256i table = load16(spread), nibble = _mm256_set1_epi8(15);
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__b1_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t b = 0, n = bl__t2_blocks(cols); b < n; b += 2, from += BL_T2_BLOCK_BYTES)
            for (size_t half = 0; half < 2; half++) {
                __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(from + 32 * half));
                uint8_t *to = t2 + b * BL_T2_BLOCK_BYTES + 32 * half;
                __m256i low = _mm256_and_si256(v, nibble);
                __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
                _mm256_storeu_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(table, low));
                if (b + 1 < n)
                    _mm256_storeu_si256((__m256i *)(void *)(to + BL_T2_BLOCK_BYTES),
                                        _mm256_shuffle_epi8(table, high));
            }
        t2 += bl__t2_blocks(cols) * BL_T2_BLOCK_BYTES;
    }
}
