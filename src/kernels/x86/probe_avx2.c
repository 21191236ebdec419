/* Owns the probes of AVX2: products of bytes in pairs, summed in int16 as the kernels sum. */
#include <immintrin.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_avx2(size_t n_rounds) {
    enum { SUMS = 12 };
    __m256i sums[SUMS], a = _mm256_set1_epi8(0x55), b = _mm256_set1_epi8(-0x35);
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = _mm256_setzero_si256();
        __asm__ volatile("" : "+x"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
        for (size_t s = 0; s < SUMS; s++) {
            __asm__("" : "+x"(a)); /* a new value each time, as far as the compiler can tell */
            sums[s] = _mm256_add_epi16(sums[s], _mm256_maddubs_epi16(a, b));
        }
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "x"(sums[s]));
    return (uint64_t)n_rounds * SUMS * sizeof a * 2;
}

uint64_t bl__probe_read_avx2(const uint8_t *bytes, size_t n) {
    __m256i any[4];
    for (size_t k = 0; k < 4; k++)
        any[k] = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += sizeof any) {
        const __m256i *from = (const __m256i *)(const void *)(bytes + i);
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            any[k] = _mm256_or_si256(any[k], _mm256_loadu_si256(from + k));
    }
    uint64_t words[4];
    any[0] = _mm256_or_si256(_mm256_or_si256(any[0], any[1]), _mm256_or_si256(any[2], any[3]));
    _mm256_storeu_si256((__m256i *)(void *)words, any[0]);
    return words[0] | words[1] | words[2] | words[3];
}
