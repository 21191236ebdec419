/* Owns how 32 bytes of T5 are split by lookups among 16 bytes. Instructions of AVX2 alone. */
#ifndef BL_KERNELS_X86_T5_256_H
#define BL_KERNELS_X86_T5_256_H

#include "kernels/x86/t5_tables.h"

static inline __m256i bl__load16(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* Digits 0 to 3 of 32 bytes as bytes of T2, and digit 4 in the top two bits. */
static inline __attribute__((always_inline)) void bl__t5_split256(__m256i v, __m256i *low,
                                                                  __m256i *top) {
    const __m256i seven = _mm256_set1_epi8(7), top_bits = _mm256_set1_epi8((char)0xc0);
    __m256i first = _mm256_and_si256(v, top_bits);
    __m256i is_3 = _mm256_cmpeq_epi8(first, top_bits);
    __m256i at = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 3), seven),
                                 _mm256_and_si256(is_3, _mm256_set1_epi8(8)));
    __m256i pair = _mm256_shuffle_epi8(bl__load16(bl__t5_pairs), _mm256_and_si256(v, seven));
    *low = _mm256_or_si256(
        _mm256_and_si256(pair, _mm256_shuffle_epi8(bl__load16(bl__t5_pair_mask), at)),
        _mm256_shuffle_epi8(bl__load16(bl__t5_beside), at));
    __m256i digit = _mm256_and_si256(pair, _mm256_shuffle_epi8(bl__load16(bl__t5_digit4_mask), at));
    digit = _mm256_or_si256(digit, _mm256_shuffle_epi8(bl__load16(bl__t5_digit4), at));
    *top = _mm256_and_si256(first, digit);
}

#endif
