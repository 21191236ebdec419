/* Owns the probe of AVX-VNNI: 256-bit four-way dot products. */
#include <immintrin.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_avxvnni(size_t n_rounds) {
    enum { SUMS = 12 };
    __m256i sums[SUMS], a = _mm256_set1_epi8(0x55), b = _mm256_set1_epi8(-0x35);
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = _mm256_setzero_si256();
        __asm__ volatile("" : "+x"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
        for (size_t s = 0; s < SUMS; s++)
            sums[s] = _mm256_dpbusd_avx_epi32(sums[s], a, b);
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "x"(sums[s]));
    return (uint64_t)n_rounds * SUMS * sizeof a * 2;
}
