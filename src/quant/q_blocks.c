/* ggml's integer blocks that models around us use: Q8_0, Q4_0, Q4_1, Q6_K. Packing rounds as ggml's
 * reference quantizers do; Q6_K is only read.
 * Source: ggml-common.h (block structs), ggml-quants.c (arithmetic). */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "quant/layouts.h"

typedef struct block_q8_0 {
    uint8_t d[2]; /* f16 */
    int8_t q[32];
} block_q8_0;
static_assert(sizeof(block_q8_0) == 34, "q8_0: 8.5 bits a weight");

typedef struct block_q4_0 {
    uint8_t d[2];  /* f16 */
    uint8_t q[16]; /* value i in the low half of byte i, value 16 + i in the high half */
} block_q4_0;
static_assert(sizeof(block_q4_0) == 18, "q4_0: 4.5 bits a weight");

typedef struct block_q4_1 {
    uint8_t d[2], m[2]; /* f16: step and minimum */
    uint8_t q[16];      /* as in q4_0 */
} block_q4_1;
static_assert(sizeof(block_q4_1) == 20, "q4_1: 5 bits a weight");

typedef struct block_q6_k {
    uint8_t ql[128]; /* low 4 bits */
    uint8_t qh[64];  /* high 2 bits */
    int8_t scales[16];
    uint8_t d[2]; /* f16 */
} block_q6_k;
static_assert(sizeof(block_q6_k) == 210, "q6_k: 6.5625 bits a weight");

static void unpack_q8_0(const bl__row *at, float *out) {
    const block_q8_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++, out += 32) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        for (size_t i = 0; i < 32; i++)
            out[i] = d * (float)block->q[i];
    }
}

static void unpack_q4_0(const bl__row *at, float *out) {
    const block_q4_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++, out += 32) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        for (size_t i = 0; i < 16; i++) {
            out[i] = d * (float)((block->q[i] & 15) - 8);
            out[16 + i] = d * (float)((block->q[i] >> 4) - 8);
        }
    }
}

static void unpack_q4_1(const bl__row *at, float *out) {
    const block_q4_1 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++, out += 32) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        float m = bl__f16_to_f32(bl__load_u16(block->m));
        for (size_t i = 0; i < 16; i++) {
            out[i] = d * (float)(block->q[i] & 15) + m;
            out[16 + i] = d * (float)(block->q[i] >> 4) + m;
        }
    }
}

/* Half a block: 128 values from ql[64], qh[32] and 8 scales, four runs of 32. */
static void unpack_q6_half(const uint8_t *ql, const uint8_t *qh, const int8_t *scales, float d,
                           float *out) {
    for (size_t run = 0; run < 4; run++) {
        const uint8_t *low = ql + 32 * (run & 1);
        unsigned low_shift = run < 2 ? 0 : 4, high_shift = 2 * (unsigned)run;
        for (size_t i = 0; i < 32; i++) {
            int q = ((low[i] >> low_shift) & 15) | ((qh[i] >> high_shift) & 3) << 4;
            out[32 * run + i] = d * (float)scales[2 * run + i / 16] * (float)(q - 32);
        }
    }
}

static void unpack_q6_k(const bl__row *at, float *out) {
    const block_q6_k *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++, out += 256) {
        float d = bl__f16_to_f32(bl__load_u16(block->d));
        unpack_q6_half(block->ql, block->qh, block->scales, d, out);
        unpack_q6_half(block->ql + 64, block->qh + 32, block->scales + 8, d, out + 128);
    }
}

static bool check_q8_0(const bl__row *at) {
    const block_q8_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d))
            return false;
    return true;
}

static bool check_q4_0(const bl__row *at) {
    const block_q4_0 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d))
            return false;
    return true;
}

static bool check_q4_1(const bl__row *at) {
    const block_q4_1 *block = (const void *)at->bytes;
    for (size_t n = at->cols / 32; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d) || !bl__f16_is_finite(block->m))
            return false;
    return true;
}

static bool check_q6_k(const bl__row *at) {
    const block_q6_k *block = (const void *)at->bytes;
    for (size_t n = at->cols / 256; n > 0; n--, block++)
        if (!bl__f16_is_finite(block->d))
            return false;
    return true;
}

/* A block's step as float16; weights that are not finite, or a step beyond float16, have none. */
static bl_status store_f16(const bl__row *at, float x, uint8_t *to, bl_error *err) {
    uint16_t h = bl__f32_to_f16(x);
    if ((h & 0x7c00u) == 0x7c00u)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: row %zu: weights beyond the range of float16",
                        at->name, at->row);
    memcpy(to, &h, sizeof h);
    return BL_OK;
}

/* x as an integer in 0 ... max by cutting; a NaN (0 times an infinite inverse) becomes 0. */
static inline uint8_t cut(float x, float max) {
    return (uint8_t)(x > 0 ? x < max ? x : max : 0);
}

static bl_status pack_q8_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_q8_0 *block = (void *)at->bytes;
    (void)tensor_scale;
    for (size_t n = at->cols / 32; n > 0; n--, block++, x += 32) {
        float most;
        if (!bl__max_magnitude(x, 32, &most))
            most = INFINITY;
        float d = most / 127.0f, inverse = d > 0 ? 1.0f / d : 0;
        bl_status status = store_f16(at, d, block->d, err);
        if (status)
            return status;
        for (size_t i = 0; i < 32; i++) { /* half away from zero */
            int q = cut(fabsf(x[i] * inverse) + 0.5f, 127);
            block->q[i] = (int8_t)(x[i] < 0 ? -q : q);
        }
    }
    return BL_OK;
}

static bl_status pack_q4_0(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_q4_0 *block = (void *)at->bytes;
    (void)tensor_scale;
    for (size_t n = at->cols / 32; n > 0; n--, block++, x += 32) {
        float most, extreme = 0; /* the value of the largest magnitude, the first of several */
        if (!bl__max_magnitude(x, 32, &most))
            extreme = INFINITY;
        for (size_t i = 0; i < 32; i++)
            if (fabsf(x[i]) > fabsf(extreme))
                extreme = x[i];
        float d = extreme / -8.0f, inverse = d != 0 ? 1.0f / d : 0;
        bl_status status = store_f16(at, d, block->d, err);
        if (status)
            return status;
        for (size_t i = 0; i < 16; i++)
            block->q[i] = (uint8_t)(cut(x[i] * inverse + 8.5f, 15) |
                                    cut(x[16 + i] * inverse + 8.5f, 15) << 4);
    }
    return BL_OK;
}

static bl_status pack_q4_1(const bl__row *at, const float *x, float tensor_scale, bl_error *err) {
    block_q4_1 *block = (void *)at->bytes;
    (void)tensor_scale;
    for (size_t n = at->cols / 32; n > 0; n--, block++, x += 32) {
        float most, min = x[0], max = x[0];
        for (size_t i = 1; i < 32; i++) {
            min = x[i] < min ? x[i] : min;
            max = x[i] > max ? x[i] : max;
        }
        if (!bl__max_magnitude(x, 32, &most))
            max = INFINITY;
        float d = (max - min) / 15.0f, inverse = d != 0 ? 1.0f / d : 0;
        bl_status status = store_f16(at, d, block->d, err);
        if (!status)
            status = store_f16(at, min, block->m, err);
        if (status)
            return status;
        for (size_t i = 0; i < 16; i++)
            block->q[i] = (uint8_t)(cut((x[i] - min) * inverse + 0.5f, 15) |
                                    cut((x[16 + i] - min) * inverse + 0.5f, 15) << 4);
    }
    return BL_OK;
}

const bl__layout_functions bl__layout_q8_0 = {unpack_q8_0, check_q8_0, pack_q8_0};
const bl__layout_functions bl__layout_q4_0 = {unpack_q4_0, check_q4_0, pack_q4_0};
const bl__layout_functions bl__layout_q4_1 = {unpack_q4_1, check_q4_1, pack_q4_1};
const bl__layout_functions bl__layout_q6_k = {unpack_q6_k, check_q6_k, NULL};
