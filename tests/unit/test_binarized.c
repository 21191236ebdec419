/* Matrices of signs in memory: what rounding keeps, the Haar transform, failing allocations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/half.h"
#include "base/random.h"
#include "quant/binarized.h"
#include "quant/levels.h"

static bl__random rng;

static float random_float(void) {
    return (float)(bl__random_f64(&rng) * 2.0 - 1.0);
}

/* Any codes and parameters; a tenth of the columns is salient. */
static bl__binarized *make(size_t rows, size_t cols, bool col_scale) {
    bl__binarized *b;
    assert_int_equal(bl__binarized_create(rows, cols, col_scale, &b, NULL), BL_OK);
    for (size_t c = 0; c < cols; c++) {
        b->salient[c] = bl__random_below(&rng, 10) == 0;
        if (col_scale)
            b->col_scale[c] = 1.0f + 0.3f * random_float();
    }
    for (size_t i = 0; i < rows * cols; i++)
        b->codes[i] = (uint8_t)bl__random_below(&rng, 4);
    for (size_t i = 0; i < rows * b->n_blocks * BL_BINARIZED_PARAMS; i++)
        b->params[i] = 0.02f * random_float();
    return b;
}

static float largest(const float *x, size_t n) {
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static void test_round(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 300 };
    for (int col_scale = 0; col_scale < 2; col_scale++) {
        bl__binarized *b = make(ROWS, COLS, col_scale);
        float before[COLS], after[COLS];
        bl__binarized *copy = make(ROWS, COLS, col_scale);
        memcpy(copy->codes, b->codes, ROWS * COLS);
        memcpy(copy->salient, b->salient, COLS);
        memcpy(copy->params, b->params, ROWS * b->n_blocks * BL_BINARIZED_PARAMS * sizeof(float));
        if (col_scale)
            memcpy(copy->col_scale, b->col_scale, COLS * sizeof(float));
        assert_int_equal(bl__binarized_round(b, NULL), BL_OK);
        for (size_t r = 0; r < ROWS; r++) {
            float unit = b->units[r], most = 0.0f;
            assert_true(bl__f16_to_f32(bl__f32_to_f16(unit)) == unit);
            for (size_t block = 0; block < b->n_blocks; block++) {
                const float *p = bl__binarized_params(copy, r, block);
                float sums[] = {fabsf(p[0]) + fabsf(p[1]), fabsf(p[2]) + fabsf(p[3]),
                                fabsf(p[4]) + fabsf(p[5]) + fabsf(p[6])};
                most = fmaxf(most, largest(sums, 3));
            }
            bl__binarized_dequantize_row(copy, r, before);
            bl__binarized_dequantize_row(b, r, after);
            for (size_t c = 0; c < COLS; c++) {
                float of_column = col_scale ? b->col_scale[c] : 1.0f;
                float level = after[c] / of_column / unit;
                assert_true(fabsf(level - rintf(level)) < 1e-4f && fabsf(level) < 63.01f);
                if (!col_scale)
                    assert_true(level == rintf(level)); /* to the bit */
                assert_true(fabsf(after[c] - before[c]) <=
                            of_column * (most * 3.01f / 123.0f) + fabsf(before[c]) * 0.001f);
            }
        }
        memcpy(before, after, sizeof before);
        assert_int_equal(bl__binarized_round(b, NULL), BL_OK); /* a second time */
        bl__binarized_dequantize_row(b, ROWS - 1, after);
        assert_memory_equal(before, after, sizeof before);
        bl__binarized_free(b);
        bl__binarized_free(copy);
    }
}

/* Numbers that no unit holds are refused, and the matrix stays as it was. */
static void test_round_refuses(void **state) {
    (void)state;
    static const float wrong[] = {NAN, INFINITY, -1e30f};
    for (size_t i = 0; i < 3; i++) {
        bl_error err;
        bl__binarized *b = make(3, 130, true);
        bl__binarized_params(b, 2, 0)[BL_INNER_SCALE] = wrong[i];
        assert_int_equal(bl__binarized_round(b, &err), BL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "row 2"));
        bl__binarized_params(b, 2, 0)[BL_INNER_SCALE] = 0.5f;
        b->col_scale[129] = wrong[i];
        assert_int_equal(bl__binarized_round(b, &err), BL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "column 129"));
        assert_null(b->units);
        bl__binarized_free(b);
    }
    bl__binarized *zeros; /* a row of zeros has no unit and needs none */
    assert_int_equal(bl__binarized_create(1, 5, false, &zeros, NULL), BL_OK);
    assert_int_equal(bl__binarized_round(zeros, NULL), BL_OK);
    assert_true(zeros->units[0] == 0.0f);
    bl__binarized_free(zeros);
}

/* The inverse undoes the transform, products with a transformed row are those with the row, and
 * sums lie where their own blocks are. */
static void test_haar(void **state) {
    (void)state;
    float scratch[2 * BL_BINARIZED_BLOCK];
    for (size_t n = 1; n < 600; n += 7) {
        float x[600], y[600], back[600];
        double want = 0, got = 0;
        for (size_t i = 0; i < n; i++)
            x[i] = y[i] = random_float();
        bl__haar(y, n, scratch);
        memcpy(back, y, sizeof back);
        bl__haar_inverse(back, n, scratch);
        for (size_t i = 0; i < n; i++) {
            assert_true(fabsf(back[i] - x[i]) < 1e-6f);
            want += (double)x[i] * (double)x[i];
            got += (double)y[i] * (double)y[i];
        }
        assert_true(fabs(want - got) < 1e-4);
        if (n >= 256)
            assert_true(fabsf(y[1] - (x[2] + x[3]) * 0.70710678f) < 1e-6f &&
                        fabsf(y[129] - (x[2] - x[3]) * 0.70710678f) < 1e-6f);
    }
}

static void test_haar_row(void **state) {
    (void)state;
    enum { COLS = 333 };
    float scratch[2 * BL_BINARIZED_BLOCK], x[COLS], plain[COLS], row[COLS];
    bl__binarized *b = make(1, COLS, false);
    double want = 0, got = 0;
    bl__binarized_dequantize_row(b, 0, plain);
    b->haar = true;
    bl__binarized_dequantize_row(b, 0, row);
    for (size_t c = 0; c < COLS; c++)
        x[c] = random_float();
    for (size_t c = 0; c < COLS; c++)
        got += (double)row[c] * (double)x[c];
    bl__haar(x, COLS, scratch);
    for (size_t c = 0; c < COLS; c++)
        want += (double)plain[c] * (double)x[c];
    assert_true(fabs(want - got) < 1e-6);
    bl__binarized_free(b);
}

/* What is packed is what was rounded, to the bit; padding is clean, and a broken byte shows. */
static void check_packed(bl__layout layout, size_t rows, size_t cols) {
    size_t bytes;
    bl__binarized *b = make(rows, cols, false);
    for (size_t c = 0; c < cols && layout != BL_LAYOUT_S2; c++)
        b->salient[c] = 0;
    for (size_t i = 0; i < rows * cols && (layout == BL_LAYOUT_L1 || layout == BL_LAYOUT_B1); i++)
        b->codes[i] &= 1;
    for (size_t i = 0; i < rows * b->n_blocks && layout == BL_LAYOUT_B1; i++) {
        float *p = b->params + i * BL_BINARIZED_PARAMS;
        p[BL_INNER_MEAN] = 0.0f;
        p[BL_INNER_SCALE] = 0.01f + 0.001f * (float)(i / b->n_blocks);
    }
    memset(bl__binarized_params(b, rows - 1, 0), 0, b->n_blocks * BL_BINARIZED_PARAMS * 4);
    assert_int_equal(bl__binarized_round(b, NULL), BL_OK);
    if (rows * cols > 400)
        assert_int_equal(bl__levels_choose(b), layout);
    assert_int_equal(bl__layout_bytes(layout, rows, cols, &bytes, NULL), BL_OK);
    uint8_t *tensor = malloc(bytes);
    float *want = malloc(cols * sizeof *want), *got = malloc(cols * sizeof *got);
    memset(tensor, 0xff, bytes);
    bl__levels_pack(b, layout, tensor);
    for (size_t r = 0; r < rows; r++) {
        bl__binarized_dequantize_row(b, r, want);
        bl__layout_unpack_row(layout, tensor, rows, cols, r, got);
        for (size_t c = 0; c < cols; c++)
            assert_true(want[c] == got[c]);
        assert_true(bl__layout_check_row(layout, tensor, rows, cols, r));
    }
    if (layout == BL_LAYOUT_B1)
        goto done;
    const bl__levels l = bl__levels_of(layout, tensor, rows, cols);
    size_t table = (size_t)(bl__levels_tile(&l, 0) - tensor);
    tensor[table] |= 128;
    assert_false(bl__layout_check_row(layout, tensor, rows, cols, 0));
    tensor[table] &= 127;
    tensor[1] = 0x7c; /* an infinite unit */
    assert_false(bl__layout_check_row(layout, tensor, rows, cols, 0));
done:
    free(tensor);
    free(want);
    free(got);
    bl__binarized_free(b);
}

static void test_packed(void **state) {
    (void)state;
    static const bl__layout layouts[] = {BL_LAYOUT_L1, BL_LAYOUT_L2, BL_LAYOUT_S2, BL_LAYOUT_B1};
    for (size_t l = 0; l < 4; l++) {
        for (size_t cols = 1; cols < 280; cols += 9)
            check_packed(layouts[l], 1 + cols % 35, cols);
        check_packed(layouts[l], 33, 1536);
    }
}

/* Sizes: what a weight takes with everything counted, and what cannot be. */
static void test_bytes(void **state) {
    (void)state;
    const struct {
        bl__layout layout;
        size_t rows, cols, bytes;
    } cases[] = {
        {BL_LAYOUT_L1, 1536, 576, 3072 + 96 * (192 + 18 * 64)},
        {BL_LAYOUT_L2, 1536, 576, 3072 + 96 * (320 + 36 * 64)},
        {BL_LAYOUT_S2, 1536, 576, 3072 + 128 + 96 * (640 + 36 * 64)},
        {BL_LAYOUT_S2, 576, 1536, 1152 + 192 + 36 * (1536 + 96 * 64)},
        {BL_LAYOUT_S2, 17, 1, 64 + 64 + 2 * (128 + 64)},
    };
    size_t bytes;
    bl_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(
            bl__layout_bytes(cases[i].layout, cases[i].rows, cases[i].cols, &bytes, NULL), BL_OK);
        assert_int_equal(bytes, cases[i].bytes);
    }
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_L2, 1, BL_LEVELS_MAX_COLS + 1, &bytes, &err),
                     BL_ERR_LIMIT);
    assert_non_null(strstr(err.message, "131073 columns, at most 131072"));
    for (size_t rows = SIZE_MAX; rows > SIZE_MAX >> 12; rows /= 3)
        assert_int_equal(bl__layout_bytes(BL_LAYOUT_S2, rows, BL_LEVELS_MAX_COLS, &bytes, NULL),
                         BL_ERR_LIMIT);
}

/* The bytes are for good: two columns of a row, one of them salient. */
static void test_bytes_are_kept(void **state) {
    (void)state;
    bl__binarized *b;
    uint8_t tensor[64 + 64 + 192], want[sizeof tensor] = {0};
    assert_int_equal(bl__binarized_create(2, 2, false, &b, NULL), BL_OK);
    const float params[BL_BINARIZED_PARAMS] = {0.5f, 20.0f, -1.0f, 40.0f, 1.5f, 50.0f, 10.0f};
    memcpy(bl__binarized_params(b, 1, 0), params, sizeof params);
    b->salient[1] = 1;
    b->codes[2] = 3; /* row 1: outer, + */
    b->codes[3] = 1; /* + and - */
    assert_int_equal(bl__binarized_round(b, NULL), BL_OK);
    assert_true(b->units[1] == 1.0f);
    bl__levels_pack(b, BL_LAYOUT_S2, tensor);
    want[3] = 0x3c; /* unit of row 1: 1.0 */
    want[64] = 2;   /* column 1 is salient */
    memset(want + 128, 64, 128);
    const uint8_t plain[4] = {64 - 20, 64 + 20, 64 - 41, 64 + 39};
    const uint8_t salient[4] = {64 + 2 - 60, 64 + 2 + 40, 64 + 2 - 40, 64 + 2 + 60};
    memcpy(want + 128 + 4, plain, 4);
    memcpy(want + 192 + 4, salient, 4);
    want[256 + 4] = 3;
    want[256 + 5] = 1;
    assert_memory_equal(tensor, want, sizeof want);
    bl__binarized_free(b);
}

static void test_memory(void **state) {
    (void)state;
    bl_status status = BL_ERR_MEMORY;
    for (long nth = 1; status; nth++) {
        bl__binarized *b = NULL;
        bl__alloc_fail_at(nth);
        status = bl__binarized_create(4, 200, true, &b, NULL);
        if (!status)
            status = bl__binarized_round(b, NULL);
        bl__alloc_fail_at(0);
        assert_true(status == BL_OK || status == BL_ERR_MEMORY);
        bl__binarized_free(b);
    }
    bl__binarized *b;
    assert_int_equal(bl__binarized_create(SIZE_MAX / 2, 128, false, &b, NULL), BL_ERR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),          cmocka_unit_test(test_round_refuses),
        cmocka_unit_test(test_haar),           cmocka_unit_test(test_haar_row),
        cmocka_unit_test(test_packed),         cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bytes_are_kept), cmocka_unit_test(test_memory),
    };
    bl__random_seed(&rng, 11);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
