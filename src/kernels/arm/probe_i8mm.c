/* Owns the probe of int8 matrix products: 2 x 8 with 8 x 2. */
#include <arm_neon.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_i8mm(size_t n_rounds) {
    enum { SUMS = 16, MACS = 2 * 8 * 2 };
    int32x4_t sums[SUMS];
    int8x16_t a = vdupq_n_s8(0x55), b = vdupq_n_s8(-0x35);
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = vdupq_n_s32(0);
        __asm__ volatile("" : "+w"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 16
        for (size_t s = 0; s < SUMS; s++)
            sums[s] = vmmlaq_s32(sums[s], a, b);
#pragma GCC unroll 16
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "w"(sums[s]));
    return (uint64_t)n_rounds * SUMS * MACS * 2;
}
