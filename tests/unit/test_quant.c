/* Weight layouts against published bytes, and every pack, unpack and check against each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/half.h"
#include "base/random.h"
#include "quant/quant.h"
#include "quant/b1.h"
#include "quant/t5.h"

/* ---- The vector of 256 weights in tests/golden/quant_vector.txt ---- */

enum { VECTOR = 256 };

/* The line "name value" of the golden file; value is cut out of text in place. */
static char *find_line(char *text, const char *name) {
    size_t len = strlen(name);
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, len) == 0 && line[len] == ' ') {
            line[len + 1 + strcspn(line + len + 1, "\n")] = '\0';
            return line + len + 1;
        }
    fail_msg("no line %s", name);
    return NULL;
}

static size_t parse_hex(const char *hex, uint8_t *out, size_t max) {
    size_t n = strlen(hex) / 2;
    assert_true(n <= max);
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return n;
}

static void make_vector(float *x) {
    uint32_t s = 12345;
    for (size_t i = 0; i < VECTOR; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = 0.75f * (float)((int)((s >> 16) % 3) - 1);
    }
}

static char *load_vector_line(const char *name, char **text) {
    bl_error err = {0};
    size_t len;
    assert_int_equal(
        bl__file_read(BITLOOM_TEST_DATA "/quant_vector.txt", 1 << 20, text, &len, &err), BL_OK);
    return find_line(*text, name);
}

static void test_vector_itself(void **state) {
    (void)state;
    float x[VECTOR];
    char *text, *signs = load_vector_line("x", &text);
    make_vector(x);
    assert_int_equal(strlen(signs), VECTOR);
    for (size_t i = 0; i < VECTOR; i++)
        assert_int_equal(signs[i], x[i] > 0 ? '+' : x[i] < 0 ? '-' : '0');
    bl__free(text);
}

static void check_vector(const char *name, bl__layout layout) {
    float x[VECTOR], back[VECTOR];
    uint8_t expected[512], packed[512];
    char *text, *hex = load_vector_line(name, &text);
    bl_error err = {0};
    size_t n = parse_hex(hex, expected, sizeof expected), bytes;
    bl__free(text);
    make_vector(x);

    assert_int_equal(bl__layout_bytes(layout, 1, VECTOR, &bytes, &err), BL_OK);
    assert_int_equal(bytes, n);
    memset(packed, 0xcd, sizeof packed);
    assert_int_equal(bl__layout_pack_rows(layout, x, 1, VECTOR, 0, 1, 0.75f, packed, &err), BL_OK);
    assert_memory_equal(packed, expected, n);
    assert_int_equal(packed[n], 0xcd);

    assert_true(bl__layout_check_row(layout, expected, 1, VECTOR, 0));
    bl__layout_unpack_row(layout, expected, 1, VECTOR, 0, back);
    for (size_t i = 0; i < VECTOR; i++) {
        if (layout != BL_LAYOUT_Q1_0) {
            assert_true(back[i] == x[i]);
        } else { /* mean |w| of each half, by sign */
            assert_true(back[i] == (x[i] >= 0 ? fabsf(back[i]) : -fabsf(back[i])));
            assert_true(fabsf(back[i]) > 0.4f && fabsf(back[i]) < 0.6f);
        }
    }
}

static void test_vector_bytes(void **state) {
    (void)state;
    check_vector("tq1", BL_LAYOUT_TQ1_0);
    check_vector("tq2", BL_LAYOUT_TQ2_0);
    check_vector("q1", BL_LAYOUT_Q1_0);
    check_vector("q2", BL_LAYOUT_Q2_0);
    check_vector("iq1bn", BL_LAYOUT_IQ1_BN);
    check_vector("iq2bn", BL_LAYOUT_IQ2_BN);
    check_vector("i2s_x86", BL_LAYOUT_I2_S);
    check_vector("i2s_arm", BL_LAYOUT_I2_S_ARM);
}

/* ---- ggml's integer blocks: bytes and values made with the Python package gguf 0.19 ---- */

static void check_ggml_block(bl__layout layout, const char *hex, float tolerance) {
    float x[64], back[64];
    uint8_t expected[128], packed[128];
    bl_error err = {0};
    size_t n = parse_hex(hex, expected, sizeof expected), bytes;
    uint32_t s = 777;
    for (size_t i = 0; i < 64; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (float)((int)(s >> 8) - (1 << 23)) / (float)(1 << 23);
    }
    assert_int_equal(bl__layout_bytes(layout, 1, 64, &bytes, &err), BL_OK);
    assert_int_equal(bytes, n);
    assert_int_equal(bl__layout_pack_rows(layout, x, 1, 64, 0, 1, 0, packed, &err), BL_OK);
    assert_memory_equal(packed, expected, n);
    bl__layout_unpack_row(layout, expected, 1, 64, 0, back);
    for (size_t i = 0; i < 64; i++)
        assert_true(fabsf(back[i] - x[i]) <= tolerance);
}

static void test_ggml_blocks(void **state) {
    (void)state;
    check_ggml_block(BL_LAYOUT_Q8_0,
                     "811f0a465cedb619befe4cb3d55c25f2e92f3999e02f0062a67fb60e2c23394e700e07205d0b"
                     "401aab5d93e9e1d4e5c5d7f90e6c3c2512bf98487f94dca1eb4461744ea8",
                     0.005f);
    check_ggml_block(BL_LAYOUT_Q4_0,
                     "72af47e4a2598d26ec08d37d5b6246391975feaf426774c6fd320ff9aaeb9a4c2b1837e1",
                     0.13f);
    check_ggml_block(BL_LAYOUT_Q4_1,
                     "322f0bbaa70b5da572d812f72c82a49da9c6e58aef2fe2babd988b3902bdf005551465b3d4e6"
                     "c81e",
                     0.07f);
}

static void test_q6_k(void **state) {
    (void)state;
    static const struct {
        size_t index;
        float value;
    } expected[] = {{0, -0x1.2987p+4f},   {17, 0x1.5408p+3f},   {33, -0x1.93p-1f},
                    {40, -0x1.6d38p-1f},  {64, -0x1.79dp+4f},   {95, -0x1.a451p+4f},
                    {96, 0x1.d065p+3f},   {127, 0x1.41bb2p+5f}, {128, -0x1.a90ap+4f},
                    {160, -0x1.7cf6p+1f}, {200, -0x1.fe0cp+1f}, {255, 0x1.22718p+3f}};
    uint8_t block[210];
    float out[256];
    bl_error err = {0};
    for (unsigned i = 0; i < 192; i++)
        block[i] = (uint8_t)(i * 37 + 11);
    for (unsigned i = 0; i < 16; i++)
        block[192 + i] = (uint8_t)(i * 29 + 200);
    block[208] = 0x4c;
    block[209] = 0x22;
    bl__layout_unpack_row(BL_LAYOUT_Q6_K, block, 1, 256, 0, out);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_true(out[expected[i].index] == expected[i].value);
    assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_Q6_K, out, 1, 256, 0, 1, 0, block, &err),
                     BL_ERR_UNSUPPORTED);
}

/* ---- Floats ---- */

static void test_floats(void **state) {
    (void)state;
    static uint16_t halves[65536];
    static float wide[65536];
    for (uint32_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    bl__layout_unpack_row(BL_LAYOUT_F16, halves, 1, 65536, 0, wide);
    for (uint32_t i = 0; i < 65536; i++)
        assert_int_equal(bl__f32_bits(wide[i]), bl__f32_bits(bl__f16_to_f32((uint16_t)i)));
    bl__layout_unpack_row(BL_LAYOUT_BF16, halves, 1, 65536, 0, wide);
    for (uint32_t i = 0; i < 65536; i++)
        assert_int_equal(bl__f32_bits(wide[i]), i << 16);

    const float x[4] = {1.0f, -2.5f, 65504.0f, 0x1p-24f};
    static const bl__layout floats[] = {BL_LAYOUT_F32, BL_LAYOUT_F16, BL_LAYOUT_BF16};
    for (size_t i = 0; i < 3; i++) {
        uint8_t packed[16];
        float back[4], bad[4] = {1, INFINITY, 0, 0};
        assert_int_equal(bl__layout_pack_rows(floats[i], x, 2, 2, 0, 2, 0, packed, NULL), BL_OK);
        bl__layout_unpack_row(floats[i], packed, 2, 2, 0, back);
        bl__layout_unpack_row(floats[i], packed, 2, 2, 1, back + 2);
        for (size_t j = 0; j < 4; j++)
            if (floats[i] != BL_LAYOUT_BF16 || j != 2)
                assert_true(back[j] == x[j]);
        assert_true(bl__layout_check_row(floats[i], packed, 2, 2, 1));
        assert_int_equal(bl__layout_pack_rows(floats[i], bad, 2, 2, 0, 2, 0, packed, NULL), BL_OK);
        assert_false(bl__layout_check_row(floats[i], packed, 2, 2, 0));
        assert_true(bl__layout_check_row(floats[i], packed, 2, 2, 1));
    }
}

/* ---- Round trips on random shapes ---- */

static float random_ternary(bl__random *random, float scale) {
    return scale * (float)((int)bl__random_below(random, 3) - 1);
}

/* Fills with one scale a row; hf_u8 and i2_s get one for the tensor. q1_0 gets no zeros,
 * and b1 whole rows of them only. */
static void fill_ternary(bl__random *random, bl__layout layout, size_t rows, size_t cols,
                         float *weights) {
    for (size_t r = 0; r < rows; r++) {
        float scale = 0.5f + (float)bl__random_below(random, 8) / 16; /* exact in float16 */
        if (layout == BL_LAYOUT_HF_U8)
            scale = 1;
        if (layout == BL_LAYOUT_I2_S || layout == BL_LAYOUT_I2_S_ARM)
            scale = 0.625f;
        bool zero_row = bl__random_below(random, 9) == 0;
        for (size_t c = 0; c < cols; c++) {
            float w = zero_row ? 0 : random_ternary(random, scale);
            bool no_zeros = layout == BL_LAYOUT_Q1_0 || (layout == BL_LAYOUT_B1 && !zero_row);
            weights[r * cols + c] = no_zeros && w == 0 ? scale : w;
        }
    }
}

static void test_round_trips(void **state) {
    (void)state;
    bl__random random;
    bl__random_seed(&random, 7);
    for (size_t i = 0; i < BL_LAYOUT_COUNT; i++) {
        bl__layout layout = (bl__layout)i;
        const bl__layout_info *info = bl__layout_get(layout);
        if (!info->ternary)
            continue;
        for (int round = 0; round < 40; round++) {
            size_t rows = 1 + bl__random_below(&random, 560);
            size_t cols = info->block_cols == 1 ? 1 + bl__random_below(&random, 600)
                                                : info->block_cols * bl__random_below(&random, 5);
            if (layout == BL_LAYOUT_HF_U8)
                rows = (rows + 3) / 4 * 4;
            bl_error err = {0};
            size_t bytes;
            assert_int_equal(bl__layout_bytes(layout, rows, cols, &bytes, &err), BL_OK);
            float *weights = bl__malloc_array(rows * cols + 1, sizeof *weights);
            float *back = bl__malloc_array(cols + 1, sizeof *back);
            uint8_t *packed = bl__malloc(bytes), *pieces = bl__malloc(bytes);
            memset(packed, 0xff, bytes);
            memset(pieces, 0xff, bytes);
            fill_ternary(&random, layout, rows, cols, weights);
            assert_int_equal(
                bl__layout_pack_rows(layout, weights, rows, cols, 0, rows, 0.625f, packed, &err),
                BL_OK);
            for (size_t r = 0; r < rows; r++) {
                assert_true(bl__layout_check_row(layout, packed, rows, cols, r));
                back[cols] = -77;
                bl__layout_unpack_row(layout, packed, rows, cols, r, back);
                for (size_t c = 0; c < cols; c++)
                    assert_true(back[c] == weights[r * cols + c]);
                assert_true(back[cols] == -77);
            }
            /* Pieces, last first, give the same bytes. */
            size_t piece = BL_PACK_ROWS;
            for (size_t first = (rows - 1) / piece * piece;; first -= piece) {
                size_t n = rows - first < piece ? rows - first : piece;
                assert_int_equal(bl__layout_pack_rows(layout, weights + first * cols, rows, cols,
                                                      first, n, 0.625f, pieces, &err),
                                 BL_OK);
                if (first == 0)
                    break;
            }
            assert_memory_equal(packed, pieces, bytes);
            bl__free(weights);
            bl__free(back);
            bl__free(packed);
            bl__free(pieces);
        }
    }
}

/* Every bit of T2 where t2.h says it is, padding included. */
static void test_t2_bits(void **state) {
    (void)state;
    enum { ROWS = 21, COLS = 37, TILES = 2, BLOCKS = 3 };
    float weights[ROWS * COLS];
    uint8_t packed[TILES * (BL_T2_SCALE_BYTES + BLOCKS * BL_T2_BLOCK_BYTES)];
    bl__random random;
    size_t bytes;
    bl__random_seed(&random, 3);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLS; c++)
            weights[r * COLS + c] = random_ternary(&random, (float)(r + 1));
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_T2, ROWS, COLS, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, sizeof packed);
    memset(packed, 0xff, sizeof packed);
    assert_int_equal(
        bl__layout_pack_rows(BL_LAYOUT_T2, weights, ROWS, COLS, 0, ROWS, 0, packed, NULL), BL_OK);
    for (size_t r = 0; r < TILES * BL_T2_ROWS; r++) {
        const uint8_t *tile = packed + r / 16 * (64 + BLOCKS * 64);
        float scale;
        memcpy(&scale, tile + 4 * (r % 16), 4);
        assert_true(scale == (r < ROWS ? (float)(r + 1) : 0.0f));
        for (size_t c = 0; c < BLOCKS * BL_T2_COLS; c++) {
            size_t b = c / 16, p = c % 16 / 4, j = c % 4;
            int code = tile[64 + 64 * b + 4 * (r % 16) + j] >> 2 * p & 3;
            float w = r < ROWS && c < COLS ? weights[r * COLS + c] : 0;
            assert_int_equal(code, w > 0 ? 2 : w < 0 ? 0 : 1);
        }
    }
}

/* Where the digit of a column lies in a tile of T5, told apart from the packer: groups of 80
 * columns, the last 16 of which are digit 4 of the group's four blocks. */
static int t5_digit(const uint8_t *tile, size_t cols, size_t r, size_t c) {
    size_t n_whole = (cols + 15) / 16 / 5 * 80, group = c / 80, within = c % 80;
    size_t block = 4 * group + (within < 64 ? within / 16 : (within - 64) / 4);
    unsigned digits = bl__t5_decode(tile[64 + 64 * block + 4 * r + c % 4]);
    return c < n_whole && within >= 64 ? (int)(digits >> 8)
                                       : (int)(digits >> 2 * (within % 16 / 4) & 3);
}

/* Every digit of T5 and bit of B1 where their headers say, padding included. */
static void check_dense_bits(bl__layout layout, size_t cols) {
    enum { ROWS = 21, TILES = 2, MOST = 400 };
    bool binary = layout == BL_LAYOUT_B1;
    size_t stride = binary ? bl__b1_stride(cols) : bl__t5_stride(cols), bytes;
    float *weights = bl__malloc(ROWS * cols * sizeof *weights), back[MOST];
    uint8_t *packed = bl__malloc(TILES * stride);
    bl__random random;
    bl__random_seed(&random, cols);
    for (size_t i = 0; i < ROWS * cols; i++) {
        float scale = (float)(i / cols + 1);
        weights[i] = i % cols == 0 ? scale : random_ternary(&random, scale);
        weights[i] = binary && weights[i] == 0 ? -scale : weights[i];
    }
    assert_int_equal(bl__layout_bytes(layout, ROWS, cols, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, TILES * stride);
    memset(packed, 0xff, bytes);
    assert_int_equal(bl__layout_pack_rows(layout, weights, ROWS, cols, 0, ROWS, 0, packed, NULL),
                     BL_OK);
    for (size_t r = 0; r < TILES * BL_T2_ROWS; r++) {
        const uint8_t *tile = packed + r / 16 * stride;
        float scale;
        memcpy(&scale, tile + 4 * (r % 16), 4);
        assert_true(scale == (r < ROWS ? (float)(r + 1) : 0.0f));
        size_t padded = binary ? (cols + 31) / 32 * 32 : (cols + 15) / 16 * 16;
        for (size_t c = 0; c < padded; c++) {
            float w = r < ROWS && c < cols ? weights[r * cols + c] : 0;
            if (binary)
                assert_int_equal(tile[64 + c / 32 * 64 + 4 * (r % 16) + c % 4] >> c % 32 / 4 & 1,
                                 w > 0);
            else
                assert_int_equal(t5_digit(tile, cols, r % 16, c), w > 0 ? 2 : w < 0 ? 0 : 1);
        }
    }
    for (size_t r = 0; r < ROWS; r++) {
        bl__layout_unpack_row(layout, packed, ROWS, cols, r, back);
        assert_memory_equal(back, weights + r * cols, cols * sizeof *back);
        assert_true(bl__layout_check_row(layout, packed, ROWS, cols, r));
    }
    bl__free(weights);
    bl__free(packed);
}

static void test_dense_bits(void **state) {
    (void)state;
    for (size_t cols = 1; cols <= 330; cols += cols < 100 ? 1 : 23) {
        check_dense_bits(BL_LAYOUT_T5, cols);
        check_dense_bits(BL_LAYOUT_B1, cols);
    }
    size_t bytes;
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_T5, 2560, 6912, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, 160 * (64 + 346 * 64)); /* 432 blocks of T2: 86 groups and 2 */
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_B1, 2560, 6912, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, 160 * (64 + 216 * 64));
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_T5, SIZE_MAX / 8, 80, &bytes, NULL), BL_ERR_LIMIT);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_B1, 16, SIZE_MAX - 8, &bytes, NULL), BL_ERR_LIMIT);
}

/* Each of the 243 bytes that five digits make is another one, and gives them back. */
static void test_t5_bytes(void **state) {
    (void)state;
    bool seen[256] = {false};
    for (unsigned i = 0; i < 243; i++) {
        uint8_t byte = bl__t5_encode(i % 9, i / 9 % 9, i / 81);
        assert_false(seen[byte]);
        seen[byte] = true;
        unsigned want = i % 9 / 3 | i % 3 << 2 | i / 9 % 9 / 3 << 4 | i / 9 % 3 << 6 | i / 81 << 8;
        assert_int_equal(bl__t5_decode(byte), want);
    }
    assert_int_equal(bl__t5_encode(4, 4, 1), BL_T5_ZEROS);
    for (unsigned byte = 0; byte < 256; byte++) /* the others give digits below 3 too */
        for (unsigned d = 0, digits = bl__t5_decode((uint8_t)byte); d < 5; d++)
            assert_true((digits >> 2 * d & 3) < 3);
}

static void test_native_choice(void **state) {
    (void)state;
    assert_int_equal(bl__layout_choose_native(false, 1u << 27), BL_LAYOUT_T2);
    assert_int_equal(bl__layout_choose_native(false, (1u << 27) + 4), BL_LAYOUT_T5);
    assert_int_equal(bl__layout_choose_native(true, 1u << 27), BL_LAYOUT_B1);
    assert_int_equal(bl__layout_choose_native(true, 1u << 31), BL_LAYOUT_B1);
}

/* Every bit of R2 and C2 where skip.h says it is. */
static void test_skip_bits(void **state) {
    (void)state;
    enum { ROWS = 300, COLS = 270, SCALES = 19 * 64 };
    float *weights = bl__malloc_array((size_t)ROWS * COLS, sizeof *weights);
    size_t r2_bytes = SCALES + ROWS * 128, c2_bytes = SCALES + COLS * 128, bytes;
    uint8_t *r2 = bl__malloc(r2_bytes), *c2 = bl__malloc(c2_bytes);
    bl__random random;
    bl__random_seed(&random, 4);
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
        weights[i] = random_ternary(&random, (float)(i / COLS + 1));
    for (size_t r = 0; r < ROWS; r++) /* so that the magnitude is there */
        weights[r * COLS] = (float)(r + 1);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_R2, ROWS, COLS, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, r2_bytes);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_C2, ROWS, COLS, &bytes, NULL), BL_OK);
    assert_int_equal(bytes, c2_bytes);
    memset(r2, 0xff, r2_bytes);
    memset(c2, 0xff, c2_bytes);
    assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_R2, weights, ROWS, COLS, 0, ROWS, 0, r2, NULL),
                     BL_OK);
    assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_C2, weights, ROWS, COLS, 0, ROWS, 0, c2, NULL),
                     BL_OK);
    for (size_t r = 0; r < 304; r++) {
        float scale;
        memcpy(&scale, r2 + 4 * r, 4);
        assert_true(scale == (r < ROWS ? (float)(r + 1) : 0.0f));
        assert_memory_equal(r2 + 4 * r, c2 + 4 * r, 4);
    }
    for (size_t r = 0; r < 512; r++)
        for (size_t c = 0; c < 512; c++) {
            float w = r < ROWS && c < COLS ? weights[r * COLS + c] : 0;
            int want = w > 0 ? 2 : w < 0 ? 0 : 1;
            size_t b = c / 256, i = c % 256 / 16, p = c % 16 / 4, j = c % 4;
            if (r < ROWS)
                assert_int_equal(r2[SCALES + r * 128 + 64 * b + 4 * i + j] >> 2 * p & 3, want);
            size_t g = r / 256, q = r % 256 / 64, s = r % 64 / 16, l = r % 16 / 4, k = r % 4;
            if (c < COLS)
                assert_int_equal(c2[SCALES + c * 128 + 64 * g + 16 * l + 4 * s + k] >> 2 * q & 3,
                                 want);
        }
    assert_true(bl__layout_check_row(BL_LAYOUT_R2, r2, ROWS, COLS, ROWS - 1));
    assert_true(bl__layout_check_row(BL_LAYOUT_C2, c2, ROWS, COLS, ROWS - 1));
    r2[r2_bytes - 1] ^= 1; /* padding */
    c2[c2_bytes - 1] ^= 0x40;
    assert_false(bl__layout_check_row(BL_LAYOUT_R2, r2, ROWS, COLS, ROWS - 1));
    assert_false(bl__layout_check_row(BL_LAYOUT_C2, c2, ROWS, COLS, ROWS - 1));
    r2[SCALES] |= 3; /* no code */
    c2[SCALES] |= 3;
    assert_false(bl__layout_check_row(BL_LAYOUT_R2, r2, ROWS, COLS, 0));
    assert_false(bl__layout_check_row(BL_LAYOUT_C2, c2, ROWS, COLS, 0));
    bl__free(weights);
    bl__free(r2);
    bl__free(c2);
}

/* ---- What must be caught ---- */

static void pack_one(bl__layout layout, uint8_t *packed) {
    float x[VECTOR];
    make_vector(x);
    if (layout == BL_LAYOUT_HF_U8) /* four rows of 64, magnitude 1 */
        for (size_t i = 0; i < VECTOR; i++)
            x[i] /= 0.75f;
    size_t rows = layout == BL_LAYOUT_HF_U8 ? 4 : 1;
    assert_int_equal(
        bl__layout_pack_rows(layout, x, rows, VECTOR / rows, 0, rows, 0.75f, packed, NULL), BL_OK);
}

static bool row_is_good(bl__layout layout, const uint8_t *packed) {
    size_t rows = layout == BL_LAYOUT_HF_U8 ? 4 : 1;
    bool good = true;
    for (size_t r = 0; r < rows; r++)
        good &= bl__layout_check_row(layout, packed, rows, VECTOR / rows, r);
    return good;
}

static void test_bad_codes(void **state) {
    (void)state;
    static const bl__layout two_bits[] = {BL_LAYOUT_I2_S, BL_LAYOUT_I2_S_ARM, BL_LAYOUT_TQ2_0,
                                          BL_LAYOUT_Q2_0, BL_LAYOUT_IQ2_BN,   BL_LAYOUT_HF_U8};
    static const size_t first_code[] = {0, 0, 0, 2, 4, 0};
    for (size_t i = 0; i < sizeof two_bits / sizeof *two_bits; i++)
        for (size_t byte = first_code[i]; byte < first_code[i] + 16; byte++)
            for (unsigned shift = 0; shift < 8; shift += 2) {
                uint8_t packed[2048];
                pack_one(two_bits[i], packed);
                assert_true(row_is_good(two_bits[i], packed));
                packed[byte] |= (uint8_t)(3u << shift);
                assert_false(row_is_good(two_bits[i], packed));
            }
    uint8_t packed[2048];
    pack_one(BL_LAYOUT_T2, packed);
    packed[64 + 5 * 64 + 3] |= 0x30;
    assert_false(row_is_good(BL_LAYOUT_T2, packed));
    uint8_t b1[64 + 64] = {0}; /* 16 rows of up to 32 columns */
    assert_true(bl__layout_check_row(BL_LAYOUT_B1, b1, 1, 17, 0));
    b1[64 + 3] = 0x10;
    assert_true(bl__layout_check_row(BL_LAYOUT_B1, b1, 1, 20, 0));
    assert_false(bl__layout_check_row(BL_LAYOUT_B1, b1, 1, 19, 0));

    /* 243 of the 256 bytes hold five digits; 81 of them four with a zero behind, 81 fewer than 81
     */
    static const struct {
        bl__layout layout;
        size_t byte;
        int n_good;
    } digits[] = {{BL_LAYOUT_TQ1_0, 7, 243},           {BL_LAYOUT_TQ1_0, 40, 243},
                  {BL_LAYOUT_TQ1_0, 50, 81},           {BL_LAYOUT_IQ1_BN, 20, 243},
                  {BL_LAYOUT_IQ1_BN, 14, 81},          {BL_LAYOUT_T5, 64 + 5 * 64 + 1, 243},
                  {BL_LAYOUT_T5, 64 + 12 * 64 + 1, 81}};
    for (size_t i = 0; i < sizeof digits / sizeof *digits; i++) {
        int n_good = 0;
        pack_one(digits[i].layout, packed);
        for (unsigned value = 0; value < 256; value++) {
            packed[digits[i].byte] = (uint8_t)value;
            n_good += row_is_good(digits[i].layout, packed);
        }
        assert_int_equal(n_good, digits[i].n_good);
    }
}

static void test_bad_scales(void **state) {
    (void)state;
    static const struct {
        bl__layout layout;
        size_t offset; /* of the scale in a row of 256 */
        bool half;
    } scales[] = {
        {BL_LAYOUT_Q8_0, 34, true},  {BL_LAYOUT_Q4_0, 18, true},  {BL_LAYOUT_Q4_1, 20, true},
        {BL_LAYOUT_Q4_1, 22, true},  {BL_LAYOUT_I2_S, 64, false}, {BL_LAYOUT_I2_S_ARM, 64, false},
        {BL_LAYOUT_TQ1_0, 52, true}, {BL_LAYOUT_TQ2_0, 64, true}, {BL_LAYOUT_Q1_0, 18, true},
        {BL_LAYOUT_Q2_0, 36, true},  {BL_LAYOUT_IQ1_BN, 0, true}, {BL_LAYOUT_IQ2_BN, 0, false},
        {BL_LAYOUT_T2, 0, false},    {BL_LAYOUT_T5, 0, false}};
    static const uint16_t bad_halves[] = {0x7c00, 0xfc00, 0x7e00};
    static const float bad_floats[] = {INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        for (size_t j = 0; j < 3; j++) {
            uint8_t packed[2048];
            pack_one(scales[i].layout, packed);
            assert_true(row_is_good(scales[i].layout, packed));
            if (scales[i].half)
                memcpy(packed + scales[i].offset, &bad_halves[j], 2);
            else
                memcpy(packed + scales[i].offset, &bad_floats[j], 4);
            assert_false(row_is_good(scales[i].layout, packed));
        }
    uint8_t q6_k[210] = {0};
    assert_true(bl__layout_check_row(BL_LAYOUT_Q6_K, q6_k, 1, 256, 0));
    q6_k[209] = 0x7c;
    assert_false(bl__layout_check_row(BL_LAYOUT_Q6_K, q6_k, 1, 256, 0));
}

static void expect_refusal(bl__layout layout, const float *x, const char *words) {
    uint8_t packed[2048];
    bl_error err = {0};
    assert_int_equal(bl__layout_pack_rows(layout, x, 4, 64, 0, 4, 0.75f, packed, &err),
                     BL_ERR_UNSUPPORTED);
    if (!strstr(err.message, words) || !strstr(err.message, bl__layout_get(layout)->name))
        fail_msg("%s: %s", words, err.message);
}

static void test_refusals(void **state) {
    (void)state;
    static const bl__layout ternary[] = {BL_LAYOUT_Q2_0,  BL_LAYOUT_IQ1_BN, BL_LAYOUT_IQ2_BN,
                                         BL_LAYOUT_HF_U8, BL_LAYOUT_T2,     BL_LAYOUT_T5};
    float x[VECTOR];
    for (size_t i = 0; i < sizeof ternary / sizeof *ternary; i++) {
        make_vector(x);
        for (size_t j = 0; j < VECTOR; j++)
            x[j] = ternary[i] == BL_LAYOUT_HF_U8 ? x[j] / 0.75f : x[j];
        x[2 * 64 + 3] = 0.7f;
        expect_refusal(ternary[i], x, "row 2: several magnitudes");
        x[2 * 64 + 3] = NAN;
        expect_refusal(ternary[i], x, "row 2");
    }
    for (size_t j = 0; j < VECTOR; j++)
        x[j] = j % 2 ? 0x1p-20f : 0;
    expect_refusal(BL_LAYOUT_Q2_0, x, "float16");
    expect_refusal(BL_LAYOUT_IQ1_BN, x, "float16");
    x[5] = INFINITY;
    expect_refusal(BL_LAYOUT_Q8_0, x, "float16");
    expect_refusal(BL_LAYOUT_Q4_0, x, "float16");
    expect_refusal(BL_LAYOUT_Q4_1, x, "float16");

    bl_error err = {0};
    uint8_t packed[2048];
    make_vector(x);
    assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_I2_S, x, 1, 256, 0, 1, 0.5f, packed, &err),
                     BL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "tensor"));
}

static void test_sizes(void **state) {
    (void)state;
    bl_error err = {0};
    size_t bytes;
    for (size_t i = 0; i < BL_LAYOUT_COUNT; i++) {
        bl__layout layout = (bl__layout)i, found;
        const bl__layout_info *info = bl__layout_get(layout);
        assert_true(bl__layout_from_name(info->name, &found));
        assert_int_equal(found, layout);
        if (info->type_id >= 0) {
            assert_true(bl__layout_from_type_id((uint32_t)info->type_id, &found));
            assert_int_equal(found, layout);
        }
        if (info->block_cols > 1) {
            assert_int_equal(bl__layout_bytes(layout, 4, info->block_cols + 1, &bytes, &err),
                             BL_ERR_ARGUMENT);
            assert_non_null(strstr(err.message, info->name));
        }
        assert_int_equal(bl__layout_bytes(layout, SIZE_MAX / 8 * 4, 4096, &bytes, &err),
                         BL_ERR_LIMIT);
        assert_int_equal(bl__layout_bytes(layout, 4096, SIZE_MAX / 1024 * 768, &bytes, &err),
                         BL_ERR_LIMIT);
        assert_int_equal(bl__layout_bytes(layout, 4096, SIZE_MAX / 256 * 256, &bytes, &err),
                         BL_ERR_LIMIT);
        assert_int_equal(bl__layout_bytes(layout, 0, 256, &bytes, &err), BL_OK);
    }
    bl__layout found;
    assert_false(bl__layout_from_name("q3_k", &found));
    assert_false(bl__layout_from_type_id(4000000000u, &found));
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_HF_U8, 6, 8, &bytes, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_I2_S, 640, 2560, &bytes, &err), BL_OK);
    assert_int_equal(bytes, 640 * 2560 / 4 + 32);
}

/* ---- Ternary floats ---- */

static void test_is_ternary(void **state) {
    (void)state;
    float row[600], scale = -1;
    uint8_t codes[600];
    for (size_t i = 0; i < 600; i++)
        row[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 0.3f : -0.3f;
    row[3] = -0.0f;
    assert_true(bl__row_is_ternary(row, 600, codes, &scale));
    assert_true(scale == 0.3f);
    for (size_t i = 0; i < 600; i++)
        assert_int_equal(codes[i], i % 3 == 0 ? 1 : i % 3 == 1 ? 2 : 0);
    row[599] = nextafterf(0.3f, 1);
    scale = -1;
    assert_false(bl__row_is_ternary(row, 600, NULL, &scale));
    assert_true(scale == -1);
    row[599] = NAN;
    assert_false(bl__row_is_ternary(row, 600, NULL, &scale));
    memset(row, 0, sizeof row);
    assert_true(bl__row_is_ternary(row, 600, NULL, &scale));
    assert_true(scale == 0);
}

static void test_absmean(void **state) {
    (void)state;
    float w[11] = {1, -1, 0.5f, -0.5f, 0.75f, -0.75f, 0, 3, -3, 0.25f, 0.25f};
    float gamma = bl__absmean_ternarize(w, 11); /* mean 1, so 0.5 is a tie and rounds to 0 */
    assert_true(gamma == 1);
    const float expected[11] = {1, -1, 0, 0, 1, -1, 0, 1, -1, 0, 0};
    for (size_t i = 0; i < 11; i++)
        assert_true(w[i] == expected[i]);
    float zeros[3] = {0, 0, 1e-9f};
    assert_true(fabsf(bl__absmean_ternarize(zeros, 3) - 1e-5f) < 1e-11f);
    assert_true(zeros[2] == 0);
    float bad[2] = {NAN, 1};
    assert_true(isnan(bl__absmean_ternarize(bad, 2)));
    assert_true(bad[1] == 1);
    float endless[2] = {1, -INFINITY};
    assert_true(isnan(bl__absmean_ternarize(endless, 2)));
}

/* However a tensor is cut, its mean is the same to the bit. */
static void test_absmean_in_pieces(void **state) {
    (void)state;
    enum { N = 1000 };
    float whole[N], pieces[N];
    bl__random random;
    bl__random_seed(&random, 11);
    for (size_t i = 0; i < N; i++)
        pieces[i] = whole[i] = (float)bl__random_f64(&random) * 1e-3f - 3e-4f;
    float gamma = bl__absmean_ternarize(whole, N);
    for (int round = 0; round < 20; round++) {
        bl__absmean mean = {0};
        for (size_t i = 0, n; i < N; i += n) {
            n = 1 + bl__random_below(&random, 40);
            n = n < N - i ? n : N - i;
            bl__absmean_add(&mean, pieces + i, n);
        }
        assert_true(1.0f / bl__absmean_inverse(&mean) == gamma);
    }
    bl__absmean mean = {0};
    bl__absmean_add(&mean, pieces, N);
    bl__ternarize(pieces, N, bl__absmean_inverse(&mean));
    assert_memory_equal(pieces, whole, sizeof whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector_itself), cmocka_unit_test(test_vector_bytes),
        cmocka_unit_test(test_ggml_blocks),   cmocka_unit_test(test_q6_k),
        cmocka_unit_test(test_floats),        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_t2_bits),       cmocka_unit_test(test_dense_bits),
        cmocka_unit_test(test_t5_bytes),      cmocka_unit_test(test_native_choice),
        cmocka_unit_test(test_skip_bits),     cmocka_unit_test(test_bad_codes),
        cmocka_unit_test(test_bad_scales),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_is_ternary),
        cmocka_unit_test(test_absmean),       cmocka_unit_test(test_absmean_in_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
