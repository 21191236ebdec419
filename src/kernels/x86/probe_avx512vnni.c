/* Owns the probe of AVX-512 VNNI: 512-bit four-way dot products. */
#include <immintrin.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_avx512vnni(size_t n_rounds) {
    enum { SUMS = 16 };
    __m512i sums[SUMS], a = _mm512_set1_epi8(0x55), b = _mm512_set1_epi8(-0x35);
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 16
        for (size_t s = 0; s < SUMS; s++)
            sums[s] = _mm512_dpbusd_epi32(sums[s], a, b);
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "v"(sums[s]));
    return (uint64_t)n_rounds * SUMS * sizeof a * 2;
}
