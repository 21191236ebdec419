/* float16 (IEEE binary16) and bfloat16 to and from float32, rounding half to even. The results are
 * those of the hardware instructions, subnormals and infinities included. */
#ifndef BL_BASE_HALF_H
#define BL_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bl__f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float bl__bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float bl__bf16_to_f32(uint16_t h) {
    return bl__bits_f32((uint32_t)h << 16);
}

static inline uint16_t bl__f32_to_bf16(float f) {
    uint32_t u = bl__f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) /* NaN stays a NaN, quiet */
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float bl__f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(h & 0x7fffu);
    if (rest >= 0x7c00u) /* infinity or NaN */
        return bl__bits_f32(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    if (rest < 0x400u) { /* zero or subnormal: rest * 2^-24 is exact in float32 */
        float magnitude = (float)rest * 0x1p-24f;
        return bl__bits_f32(sign | bl__f32_bits(magnitude));
    }
    return bl__bits_f32(sign | ((rest << 13) + 0x38000000u));
}

static inline uint16_t bl__f32_to_f16(float f) {
    uint32_t u = bl__f32_bits(f);
    uint32_t sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (u <
        0x38800000u) { /* below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits */
        float sum = bl__bits_f32(u) + 0.5f;
        return (uint16_t)(sign | (bl__f32_bits(sum) - 0x3f000000u));
    }
    u += 0xc8000fffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | (u >> 13));
}

#endif
