/* TQ1_0 and TQ2_0, llama.cpp's ternary blocks of 256 with a float16 scale.
 * Source: ggml-common.h, ggml-quants.c. */
#include <assert.h>
#include <string.h>

#include "quant/layouts.h"

typedef struct block_tq1_0 {
    uint8_t q[48]; /* five digits each: [0,32) values 0-159 in runs of 32, [32,48) 160-239 of 16 */
    uint8_t qh[4]; /* four digits each: values 240-255 in runs of 4 */
    uint8_t d[2];  /* f16 */
} block_tq1_0;
static_assert(sizeof(block_tq1_0) == 54, "tq1_0: 1.6875 bits a weight");

typedef struct block_tq2_0 {
    uint8_t q[64]; /* two halves: value 32 l + m of a half in bits 2l, 2l+1 of its byte m */
    uint8_t d[2];  /* f16 */
} block_tq2_0;
static_assert(sizeof(block_tq2_0) == 66, "tq2_0: 2.0625 bits a weight");

/* Value run*n + m is digit n, most significant first, of byte m. */
static inline void unpack_digits(const uint8_t *bytes, size_t run, size_t n_digits, float d,
                                 float *out) {
    uint8_t power = 1;
    for (size_t n = 0; n < n_digits; n++, power = (uint8_t)(power * 3), out += run)
        for (size_t m = 0; m < run; m++) {
            unsigned rest = (uint8_t)(bytes[m] * power);
            out[m] = d * (float)((int)(rest * 3 >> 8) - 1);
        }
}

static inline void pack_digits(const uint8_t *codes, size_t run, size_t n_digits, uint8_t *bytes) {
    for (size_t m = 0; m < run; m++) {
        unsigned q = 0;
        for (size_t n = 0; n < 5; n++)
            q = 3 * q + (n < n_digits ? codes[run * n + m] : 0);
        bytes[m] = bl__base3_encode(q);
    }
}

static void unpack_tq1_0(const bl__row *at, float *out) {
    const block_tq1_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++, out += 256) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        unpack_digits(block->q, 32, 5, d, out);
        unpack_digits(block->q + 32, 16, 5, d, out + 160);
        unpack_digits(block->qh, 4, 4, d, out + 240);
    }
}

static bool check_tq1_0(const bl__row *at) {
    const block_tq1_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++) {
        unsigned q;
        if (!bl__f16_is_finite(block->d))
            return false;
        for (size_t i = 0; i < sizeof block->q; i++)
            if (!bl__base3_decode(block->q[i], &q))
                return false;
        for (size_t i = 0; i < sizeof block->qh; i++)
            if (!bl__base3_decode(block->qh[i], &q) || q % 3 != 0)
                return false;
    }
    return true;
}

/* The scale and codes of 256 weights. */
static bl_status encode_block(const bl__row *at, const float *x, uint8_t *codes, uint8_t *d,
                              bl_error *err) {
    float scale;
    uint16_t half;
    if (!bl__max_magnitude(x, 256, &scale) || !bl__ternary_codes(x, 256, scale, codes))
        return bl__fail_not_ternary(at, "block", err);
    bl_status status = bl__scale_to_f16(at, scale, &half, err);
    if (!status)
        memcpy(d, &half, sizeof half);
    return status;
}

static bl_status pack_tq1_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_tq1_0 *block = (void *)at->bytes;
    uint8_t codes[256];
    (void)tensor_scale;
    for (size_t n = at->cols / 256; n > 0; n--, block++, x += 256) {
        bl_status status = encode_block(at, x, codes, block->d, err);
        if (status)
            return status;
        pack_digits(codes, 32, 5, block->q);
        pack_digits(codes + 160, 16, 5, block->q + 32);
        pack_digits(codes + 240, 4, 4, block->qh);
    }
    return BL_OK;
}

static void unpack_tq2_0(const bl__row *at, float *out) {
    const block_tq2_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        for (size_t half = 0; half < 64; half += 32)
            for (unsigned shift = 0; shift < 8; shift += 2, out += 32)
                for (size_t m = 0; m < 32; m++)
                    out[m] = d * (float)((block->q[half + m] >> shift & 3) - 1);
    }
}

static bool check_tq2_0(const bl__row *at) {
    const block_tq2_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d) || bl__any_code_3(block->q, sizeof block->q))
            return false;
    return true;
}

static bl_status pack_tq2_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_tq2_0 *block = (void *)at->bytes;
    uint8_t codes[256];
    (void)tensor_scale;
    for (size_t n = at->cols / 256; n > 0; n--, block++, x += 256) {
        bl_status status = encode_block(at, x, codes, block->d, err);
        if (status)
            return status;
        for (size_t half = 0; half < 2; half++) {
            const uint8_t *c = codes + 128 * half;
            for (size_t m = 0; m < 32; m++)
                block->q[32 * half + m] =
                    (uint8_t)(c[m] | c[32 + m] << 2 | c[64 + m] << 4 | c[96 + m] << 6);
        }
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_tq1_0 = {unpack_tq1_0, check_tq1_0, pack_tq1_0};
const bl__layout_functions bl__layout_tq2_0 = {unpack_tq2_0, check_tq2_0, pack_tq2_0};
