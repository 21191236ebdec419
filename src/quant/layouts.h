/* What the files of this room share: one row of a packed tensor, the functions each layout brings,
 * and the tests for ternary values. Not for other rooms: they use quant.h. */
#ifndef BL_QUANT_LAYOUTS_H
#define BL_QUANT_LAYOUTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/half.h"
#include "bitloom/status.h"

/* The most columns that a layout packs at once; buffers of codes are this long. */
enum { BL_CHUNK = 256 };

/* Row `row` of a packed tensor[rows][cols]. */
typedef struct bl__row {
    uint8_t *tensor; /* first byte of the whole tensor */
    uint8_t *bytes;  /* first byte of the row, where rows lie one after another */
    size_t rows, cols, row;
    const char *name; /* of the layout, for messages */
} bl__row;

/* The functions of one layout; `pack` is NULL where there is no packer. Bytes are not changed by
 * unpack and check. */
typedef struct bl__layout_functions {
    void (*unpack)(const bl__row *at, float *out);
    bool (*check)(const bl__row *at);
    bl_status (*pack)(const bl__row *at, const float *x, float tensor_scale, bl_error *err);
} bl__layout_functions;

extern const bl__layout_functions bl__layout_f32, bl__layout_f16, bl__layout_bf16, bl__layout_q8_0,
    bl__layout_q4_0, bl__layout_q4_1, bl__layout_q6_k, bl__layout_i2_s, bl__layout_i2_s_arm,
    bl__layout_tq1_0, bl__layout_tq2_0, bl__layout_q1_0, bl__layout_q2_0, bl__layout_iq1_bn,
    bl__layout_iq2_bn, bl__layout_hf_u8, bl__layout_t2, bl__layout_t5, bl__layout_b1, bl__layout_r2,
    bl__layout_c2, bl__layout_l1, bl__layout_l2, bl__layout_s2;

/* The largest |x[i]|; false when a value is NaN or infinite. */
bool bl__max_magnitude(const float *x, size_t n, float *max);
/* codes[i] = 1 + sign of x[i]; false when some |x[i]| is neither 0 nor magnitude. */
bool bl__ternary_codes(const float *x, size_t n, float magnitude, uint8_t *codes);

/* The error for weights that do not fit one scale; reach: "block", "row" or "tensor". */
bl_status bl__fail_not_ternary(const bl__row *at, const char *reach, bl_error *err);
/* Rounds a scale to float16. BL_ERR_UNSUPPORTED when it overflows or falls below the normal
 * numbers, where more than rounding would be lost. Zero is fine. */
bl_status bl__scale_to_f16(const bl__row *at, float scale, uint16_t *half, bl_error *err);

static inline bool bl__f16_is_finite(const uint8_t *half) {
    return (bl__load_u16(half) & 0x7c00u) != 0x7c00u;
}
static inline bool bl__f32_is_finite(const uint8_t *bits) {
    return (bl__load_u32(bits) & 0x7f800000u) != 0x7f800000u;
}
/* True when one of the four 2-bit fields of some byte is 3. */
static inline bool bl__any_code_3(const uint8_t *bytes, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++)
        found |= bytes[i] & (bytes[i] >> 1) & 0x55u;
    return found != 0;
}

/* Five base-3 digits in a byte, as TQ1_0 and IQ1_BN keep them: the number q < 243 is stored as
 * ceil(256 q / 243), so that multiplying by powers of 3 moves digit after digit into the bits
 * above the byte. */
static inline uint8_t bl__base3_encode(unsigned q) {
    return (uint8_t)((q * 256 + 242) / 243);
}
/* The number q of a stored byte; false when no q gives that byte. */
static inline bool bl__base3_decode(uint8_t byte, unsigned *q) {
    *q = byte * 243u >> 8;
    return bl__base3_encode(*q) == byte;
}

#endif
