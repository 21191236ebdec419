/* Owns the tables by which bytes of T5 are split with lookups among 16 bytes. */
#ifndef BL_KERNELS_X86_T5_TABLES_H
#define BL_KERNELS_X86_T5_TABLES_H

#include <immintrin.h>

#include "quant/t5.h"

/* The first eight entries of each table but `pairs` are for bytes whose top two bits are a digit,
 * the others for bytes where they are 3; both by the three bits below. */
#define P BL_T5_PAIR
static const uint8_t bl__t5_pairs[16] = {0x11 * P(0), 0x11 * P(1), 0x11 * P(2), 0x11 * P(3),
                                         0x11 * P(4), 0x11 * P(5), 0x11 * P(6), 0x11 * P(7)};
/* Where the pair of the three lowest bits goes, and what is beside it. */
static const uint8_t bl__t5_pair_mask[16] = {0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f, 0x0f,
                                             0x0f, 0x0f, 0x0f, 0,    0xf0, 0xf0, 0xf0, 0};
static const uint8_t bl__t5_beside[16] = {
    P(0) << 4, P(1) << 4, P(2) << 4, P(3) << 4, P(4) << 4, P(5) << 4, P(6) << 4, P(7) << 4,
    0xa0,      0xa0,      0xa0,      0xaa,      0x0a,      0x0a,      0x0a,      0x55};
/* Digit 4 as a mask of the top two bits; where both pairs are 8 it is the second digit of
 * `pairs`. */
static const uint8_t bl__t5_digit4[16] = {0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0,
                                          0x00, 0x40, 0x80, 0x00, 0x00, 0x40, 0x80, 0x40};
static const uint8_t bl__t5_digit4_mask[16] = {[11] = 0xc0};
#undef P

#endif
