/* IQ1_BN and IQ2_BN, the ternary layouts of ik_llama.cpp: one scale a row, then blocks of 64. */
#include <assert.h>
#include <string.h>

#include "quant/layouts.h"

typedef struct block_iq1_bn {
    uint8_t
        q[12]; /* byte 3 i + k: five digits, values 16 i + 5 k ... + 4, least significant first */
    uint8_t extra; /* four digits, values 16 i + 15 */
} block_iq1_bn;
static_assert(sizeof(block_iq1_bn) == 13, "iq1_bn: 1.625 bits a weight and a float16 a row");

typedef struct block_iq2_bn {
    uint8_t q[16]; /* byte p: values p, 16 + p, 32 + p, 48 + p, lowest bits first */
} block_iq2_bn;
static_assert(sizeof(block_iq2_bn) == 16, "iq2_bn: 2 bits a weight and a float32 a row");

enum { IQ1_SCALE_BYTES = 2, IQ2_SCALE_BYTES = 4 };

/* Multiplying by these brings digit 0, 1, ... of a byte to the top. */
static const uint8_t digit_factor[5] = {81, 27, 9, 3, 1};

static inline float digit(uint8_t byte, size_t index, float d) {
    unsigned rest = (uint8_t)(byte * digit_factor[index]);
    return d * (float)((int)(rest * 3 >> 8) - 1);
}

static void unpack_iq1_bn(const bl__row *at, float *out) {
    const block_iq1_bn *block = (const void *)(at->bytes + IQ1_SCALE_BYTES);
    float d = bl__f16_to_f32(bl__load_u16(at->bytes));
    for (size_t n = at->cols / 64; n > 0; n--, block++, out += 64)
        for (size_t i = 0; i < 4; i++) {
            for (size_t k = 0; k < 3; k++)
                for (size_t j = 0; j < 5; j++)
                    out[16 * i + 5 * k + j] = digit(block->q[3 * i + k], j, d);
            out[16 * i + 15] = digit(block->extra, i, d);
        }
}

static bool check_iq1_bn(const bl__row *at) {
    const block_iq1_bn *block = (const void *)(at->bytes + IQ1_SCALE_BYTES);
    if (!bl__f16_is_finite(at->bytes))
        return false;
    for (size_t n = at->cols / 64; n > 0; n--, block++) {
        unsigned q;
        for (size_t i = 0; i < sizeof block->q; i++)
            if (!bl__base3_decode(block->q[i], &q))
                return false;
        if (!bl__base3_decode(block->extra, &q) || q >= 81)
            return false;
    }
    return true;
}

static bl_status pack_iq1_bn(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_iq1_bn *block = (void *)(at->bytes + IQ1_SCALE_BYTES);
    uint8_t c[64];
    float scale;
    uint16_t half;
    (void)tensor_scale;
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    bl_status status = bl__scale_to_f16(at, scale, &half, err);
    if (status)
        return status;
    memcpy(at->bytes, &half, sizeof half);
    for (size_t n = at->cols / 64; n > 0; n--, block++, x += 64) {
        if (!bl__ternary_codes(x, 64, scale, c))
            return bl__fail_not_ternary(at, "row", err);
        for (size_t i = 0; i < 12; i++) {
            const uint8_t *five = c + 16 * (i / 3) + 5 * (i % 3);
            block->q[i] = bl__base3_encode(five[0] + 3u * five[1] + 9u * five[2] + 27u * five[3] +
                                           81u * five[4]);
        }
        block->extra = bl__base3_encode(c[15] + 3u * c[31] + 9u * c[47] + 27u * c[63]);
    }
    return BL_OK;
}

static void unpack_iq2_bn(const bl__row *at, float *out) {
    const block_iq2_bn *block = (const void *)(at->bytes + IQ2_SCALE_BYTES);
    float d = bl__load_f32(at->bytes);
    for (size_t n = at->cols / 64; n > 0; n--, block++)
        for (unsigned shift = 0; shift < 8; shift += 2, out += 16)
            for (size_t p = 0; p < 16; p++)
                out[p] = d * (float)((block->q[p] >> shift & 3) - 1);
}

static bool check_iq2_bn(const bl__row *at) {
    return bl__f32_is_finite(at->bytes) &&
           !bl__any_code_3(at->bytes + IQ2_SCALE_BYTES, at->cols / 4);
}

static bl_status pack_iq2_bn(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_iq2_bn *block = (void *)(at->bytes + IQ2_SCALE_BYTES);
    uint8_t c[64];
    float scale;
    (void)tensor_scale;
    if (!bl__max_magnitude(x, at->cols, &scale))
        return bl__fail_not_ternary(at, "row", err);
    memcpy(at->bytes, &scale, sizeof scale);
    for (size_t n = at->cols / 64; n > 0; n--, block++, x += 64) {
        if (!bl__ternary_codes(x, 64, scale, c))
            return bl__fail_not_ternary(at, "row", err);
        for (size_t p = 0; p < 16; p++)
            block->q[p] = (uint8_t)(c[p] | c[16 + p] << 2 | c[32 + p] << 4 | c[48 + p] << 6);
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_iq1_bn = {unpack_iq1_bn, check_iq1_bn, pack_iq1_bn};
const bl__layout_functions bl__layout_iq2_bn = {unpack_iq2_bn, check_iq2_bn, pack_iq2_bn};
