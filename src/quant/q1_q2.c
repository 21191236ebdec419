/* Q1_0 and Q2_0, llama.cpp's one-bit and two-bit blocks: a float16 scale, then the codes in order.
 * Q1_0 has no zero: its packer is ggml's quantizer, +-mean|w| by sign. Source: ggml-quants.c. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "quant/layouts.h"

typedef struct block_q1_0 {
    uint8_t d[2];  /* f16 */
    uint8_t q[16]; /* bit i % 8 of byte i / 8: 1 is +d, 0 is -d */
} block_q1_0;
static_assert(sizeof(block_q1_0) == 18, "q1_0: 1.125 bits a weight");

typedef struct block_q2_0 {
    uint8_t d[2];  /* f16 */
    uint8_t q[16]; /* value i in bits 2 (i % 4) of byte i / 4, as w + 1 */
} block_q2_0;
static_assert(sizeof(block_q2_0) == 18, "q2_0: 2.25 bits a weight");

static void unpack_q1_0(const bl__row *at, float *out) {
    const block_q1_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 128; n > 0; n--, block++, out += 128) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        for (size_t i = 0; i < 16; i++)
            for (unsigned bit = 0; bit < 8; bit++)
                out[8 * i + bit] = block->q[i] >> bit & 1 ? d : -d;
    }
}

static bool check_q1_0(const bl__row *at) {
    const block_q1_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 128; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d))
            return false;
    return true;
}

static bl_status pack_q1_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_q1_0 *block = (void *)at->bytes;
    (void)tensor_scale;
    for (size_t n = at->cols / 128; n > 0; n--, block++, x += 128) {
        float sum = 0;
        uint16_t half;
        for (size_t i = 0; i < 128; i++)
            sum += fabsf(x[i]);
        if (!(sum <= 3.402823466e+38f))
            return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: row %zu: weights beyond float range",
                            at->name, at->row);
        bl_status status = bl__scale_to_f16(at, sum / 128.0f, &half, err);
        if (status)
            return status;
        memcpy(block->d, &half, sizeof half);
        memset(block->q, 0, sizeof block->q);
        for (size_t i = 0; i < 128; i++)
            block->q[i / 8] |= (uint8_t)((x[i] >= 0) << i % 8);
    }
    return BL_OK;
}

static void unpack_q2_0(const bl__row *at, float *out) {
    const block_q2_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 64; n > 0; n--, block++, out += 64) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        for (size_t i = 0; i < 16; i++)
            for (unsigned j = 0; j < 4; j++)
                out[4 * i + j] = d * (float)((block->q[i] >> 2 * j & 3) - 1);
    }
}

static bool check_q2_0(const bl__row *at) {
    const block_q2_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 64; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d) || bl__any_code_3(block->q, sizeof block->q))
            return false;
    return true;
}

static bl_status pack_q2_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_q2_0 *block = (void *)at->bytes;
    uint8_t codes[64];
    (void)tensor_scale;
    for (size_t n = at->cols / 64; n > 0; n--, block++, x += 64) {
        float scale;
        uint16_t half;
        if (!bl__max_magnitude(x, 64, &scale) || !bl__ternary_codes(x, 64, scale, codes))
            return bl__fail_not_ternary(at, "block", err);
        bl_status status = bl__scale_to_f16(at, scale, &half, err);
        if (status)
            return status;
        memcpy(block->d, &half, sizeof half);
        for (size_t i = 0; i < 16; i++)
            block->q[i] = (uint8_t)(codes[4 * i] | codes[4 * i + 1] << 2 | codes[4 * i + 2] << 4 |
                                    codes[4 * i + 3] << 6);
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_q1_0 = {unpack_q1_0, check_q1_0, pack_q1_0};
const bl__layout_functions bl__layout_q2_0 = {unpack_q2_0, check_q2_0, pack_q2_0};
