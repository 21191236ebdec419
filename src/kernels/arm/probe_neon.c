/* Owns the probe of NEON without dot products: products of bytes in int16, two added there and
 * pairs of those in int32, as the kernels sum. */
#include <arm_neon.h>

#include "kernels/levels.h"

uint64_t bl__probe_int8_neon(size_t n_rounds) {
    enum { SUMS = 12 };
    int32x4_t sums[SUMS];
    int8x16_t a = vdupq_n_s8(0x55), b = vdupq_n_s8(-0x35);
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++) {
        sums[s] = vdupq_n_s32(0);
        __asm__ volatile("" : "+w"(sums[s])); /* sums that the compiler must take for different */
    }
    for (size_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
        for (size_t s = 0; s < SUMS; s++) {
            __asm__("" : "+w"(a)); /* a new value each time, as far as the compiler can tell */
            int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            sums[s] = vpadalq_s16(sums[s], vmlal_high_s8(low, a, b));
        }
#pragma GCC unroll 12
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "w"(sums[s]));
    return (uint64_t)n_rounds * SUMS * sizeof a * 2;
}
