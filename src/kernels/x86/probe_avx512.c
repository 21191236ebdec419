/* Owns the probes of AVX-512 BW without VNNI: as in AVX2, twice as wide. */
#include <immintrin.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_avx512(size_t n_rounds) {
    enum { SUMS = 16 };
    __m512i sums[SUMS], a = _mm512_set1_epi8(0x55), b = _mm512_set1_epi8(-0x35);
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 16
        for (size_t s = 0; s < SUMS; s++) {
            __asm__("" : "+v"(a)); /* a new value each time, as far as the compiler can tell */
            sums[s] = _mm512_add_epi16(sums[s], _mm512_maddubs_epi16(a, b));
        }
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "v"(sums[s]));
    return (uint64_t)n_rounds * SUMS * sizeof a * 2;
}

uint64_t bl__probe_read_avx512(const uint8_t *bytes, size_t n) {
    __m512i any[4];
    for (size_t k = 0; k < 4; k++)
        any[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += sizeof any)
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            any[k] = _mm512_or_si512(any[k], _mm512_loadu_si512(bytes + i + k * sizeof any[k]));
    any[0] = _mm512_or_si512(_mm512_or_si512(any[0], any[1]), _mm512_or_si512(any[2], any[3]));
    return (uint64_t)_mm512_reduce_or_epi64(any[0]);
}
