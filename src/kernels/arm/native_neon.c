/* Owns the unpacking of the native layouts T5 and B1 by lookups among 16 bytes. Same bits as
 * kernels/ref; the tables are those of x86/native_avx2.c, where they are explained. */
#include <arm_neon.h>
#include <string.h>

#include "kernels/arm/tiles.h"
#include "quant/b1.h"
#include "quant/t5.h"

#define P BL_T5_PAIR
static const uint8_t pairs[16] = {0x11 * P(0), 0x11 * P(1), 0x11 * P(2), 0x11 * P(3),
                                  0x11 * P(4), 0x11 * P(5), 0x11 * P(6), 0x11 * P(7)};
static const uint8_t pair_mask[16] = {0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f,
                                      0x0f, 0x0f, 0x0f, 0,    0xf0, 0xf0, 0xf0, 0};
static const uint8_t beside[16] = {P(0) << 4, P(1) << 4, P(2) << 4, P(3) << 4, P(4) << 4, P(5) << 4,
                                   P(6) << 4, P(7) << 4, 0xa0,      0xa0,      0xa0,      0xaa,
                                   0x0a,      0x0a,      0x0a,      0x55};
static const uint8_t digit4[16] = {0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0,
                                   0x00, 0x40, 0x80, 0x00, 0x00, 0x40, 0x80, 0x40};
static const uint8_t digit4_mask[16] = {[11] = 0xc0};
#undef P

/* Digits 0 to 3 of 16 bytes as bytes of T2, and digit 4 in the top two bits. */
static inline __attribute__((always_inline)) uint8x16_t split(uint8x16_t v, uint8x16_t *top) {
    const uint8x16_t top_bits = vdupq_n_u8(0xc0), seven = vdupq_n_u8(7);
    uint8x16_t at = vandq_u8(vcgeq_u8(v, top_bits), vdupq_n_u8(8));
    at = vorrq_u8(at, vandq_u8(vshrq_n_u8(v, 3), seven));
    uint8x16_t pair = vqtbl1q_u8(vld1q_u8(pairs), vandq_u8(v, seven));
    uint8x16_t digit = vandq_u8(pair, vqtbl1q_u8(vld1q_u8(digit4_mask), at));
    digit = vorrq_u8(digit, vqtbl1q_u8(vld1q_u8(digit4), at));
    *top = vandq_u8(vandq_u8(v, top_bits), digit);
    return vorrq_u8(vandq_u8(pair, vqtbl1q_u8(vld1q_u8(pair_mask), at)),
                    vqtbl1q_u8(vld1q_u8(beside), at));
}

/* Four rows of each of up to four blocks; whole: their digits 4 make a fifth. */
static inline __attribute__((always_inline)) void unpack_rows(const uint8_t *from, size_t n_blocks,
                                                              bool whole, uint8_t *to) {
    uint8x16_t top, last = vdupq_n_u8(0);
    for (size_t b = 0; b < n_blocks; b++) {
        vst1q_u8(to + b * BL_T2_BLOCK_BYTES, split(vld1q_u8(from + b * BL_T2_BLOCK_BYTES), &top));
        last = vorrq_u8(vshrq_n_u8(last, 2), top);
    }
    if (whole)
        vst1q_u8(to + n_blocks * BL_T2_BLOCK_BYTES, last);
}

void bl__t5_unpack_neon(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__t5_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t g = 0; g < n_groups; g++) {
            EACH (r, 4)
                unpack_rows(from + 16 * r, BL_T5_GROUP_BLOCKS, true, t2 + 16 * r);
            from += BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES;
            t2 += BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
        }
        for (size_t r = 0; r < 4; r++)
            unpack_rows(from + 16 * r, n % BL_T5_GROUP_T2_BLOCKS, false, t2 + 16 * r);
        t2 += n % BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
    }
}

/* Bit p of a nibble at bit 2 p + 1. */
static const uint8_t spread[16] = {0x00, 0x02, 0x08, 0x0a, 0x20, 0x22, 0x28, 0x2a,
                                   0x80, 0x82, 0x88, 0x8a, 0xa0, 0xa2, 0xa8, 0xaa};

void bl__b1_unpack_neon(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    const uint8x16_t table = vld1q_u8(spread), nibble = vdupq_n_u8(15);
    size_t n = bl__t2_blocks(cols);
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__b1_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t b = 0; b < n; b++)
            EACH (r, 4) {
                uint8x16_t v = vld1q_u8(from + b / 2 * BL_T2_BLOCK_BYTES + 16 * r);
                v = b % 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, nibble);
                vst1q_u8(t2 + b * BL_T2_BLOCK_BYTES + 16 * r, vqtbl1q_u8(table, v));
            }
        t2 += n * BL_T2_BLOCK_BYTES;
    }
}
