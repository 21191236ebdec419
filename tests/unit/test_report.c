/* The figures that close a run: flips from metrics with gaps and rubbish, sizes of the layouts that
 * fit, bytes of targets with and without a tokenizer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitloom/bitloom.h"
#include "train/report.h"

static void flips_are_means_of_tenths(void **state) {
    (void)state;
    char text[20000];
    size_t len = 0;
    double flips[3];
    /* Step 1 does not count; a line of rubbish and one without flips neither. */
    for (int step = 1; step <= 100; step += 3)
        len += (size_t)snprintf(text + len, sizeof text - len, "{\"step\":%d,\"flips\":%g}\n", step,
                                step == 1 ? 9.0 : 1.0 / step);
    len += (size_t)snprintf(text + len, sizeof text - len,
                            "rubbish\n{\"step\":5}\n{\"step\":100,\"flips\":\"x\"}\n{\"step\":99");
    bl__report_flips(text, len, 100, flips);
    assert_true(fabs(flips[0] - (1.0 / 4 + 1.0 / 7 + 1.0 / 10) / 3) < 1e-5);
    assert_true(fabs(flips[1] - (1.0 / 46 + 1.0 / 49 + 1.0 / 52 + 1.0 / 55) / 4) < 1e-5);
    assert_true(fabs(flips[2] - (1.0 / 91 + 1.0 / 94 + 1.0 / 97 + 1.0 / 100) / 4) < 1e-5);
    bl__report_flips("", 0, 100, flips);
    assert_true(isnan(flips[0]) && isnan(flips[1]) && isnan(flips[2]));
    static const char few[] = "{\"step\":1,\"flips\":0}\n{\"step\":50,\"flips\":0.5}\n"
                              "{\"step\":80,\"flips\":0.25}\n";
    bl__report_flips(few, sizeof few - 1, 100, flips);
    assert_true(flips[0] == 0.5 && flips[1] == 0.5 && flips[2] == 0.25);
    bl__report_flips(few, sizeof few - 1, 0, flips);
    assert_true(flips[2] == 0.5);
}

static void sizes_of_layouts_that_fit(void **state) {
    (void)state;
    const bl__param params[] = {{.rows = 10, .cols = 256},
                                {.rows = 1, .cols = 256},
                                {.rows = 0, .cols = 256},
                                {.rows = 64, .cols = 256, .linear = true},
                                {.rows = 1, .cols = 256}};
    bl_train_report r;
    bl__report_sizes(params, 5, BL_WEIGHTS_TERNARY, &r);
    assert_int_equal(r.n_sizes, 6);
    assert_string_equal(r.sizes[0].layout, "bl_t2");
    assert_string_equal(r.sizes[1].layout, "bl_t5");
    assert_int_equal(r.sizes[1].bytes, 4 * (64 + 13 * 64) + 10 * 256 * 2 + 2 * 256 * 4);
    assert_string_equal(r.sizes[3].layout, "tq2_0");
    assert_int_equal(r.sizes[3].bytes, 64 * 66 + 10 * 256 * 2 + 2 * 256 * 4);
    assert_string_equal(r.sizes[5].layout, "f32");
    assert_int_equal(r.sizes[5].bytes, (64 + 10 + 2) * 256 * 4);
    bl__report_sizes(params, 5, BL_WEIGHTS_FLOAT, &r);
    assert_int_equal(r.n_sizes, 1);
    assert_int_equal(r.sizes[0].bytes, (64 + 10 + 2) * 256 * 4);
    bl__param odd[2] = {params[3], params[4]};
    odd[0].cols = 128; /* no tq1_0, no tq2_0 */
    bl__report_sizes(odd, 2, BL_WEIGHTS_BINARY, &r);
    assert_int_equal(r.n_sizes, 5);
    assert_string_equal(r.sizes[0].layout, "bl_b1");
    odd[0].col_groups = 4; /* 32 columns are two blocks of 4 tiles */
    bl__report_sizes(odd, 2, BL_WEIGHTS_TERNARY, &r);
    assert_int_equal(r.n_sizes, 3);
    assert_int_equal(r.sizes[0].bytes, 4 * 4 * (64 + 2 * 64) + 256 * 4);
}

static void bytes_of_targets(void **state) {
    (void)state;
    enum { N = 30, ROW = 8 };
    uint16_t ids[N];
    const uint64_t doc = 0;
    int32_t inputs[ROW], targets[ROW];
    bl_tokenizer *tokenizer = NULL;
    bl_error err = {0};
    if (bl_tokenizer_open(BITLOOM_TEST_DATA "/tokenizers/bpe/tokenizer.json", &tokenizer, &err))
        fail_msg("%s", err.message);
    size_t expected = 0, len, n_targets;
    for (size_t i = 0; i < N; i++) {
        ids[i] = (uint16_t)(i * 13);
        bl_tokenizer_piece(tokenizer, ids[i], 0, &len);
        expected += i > 10 ? len : 0; /* held out from 10 on; the first is no target */
    }
    bl__tokens tokens = {.width = 2,
                         .vocab = 451,
                         .n_tokens = N,
                         .n_docs = 1,
                         .n_train = 10,
                         .text_bytes = 60,
                         .ids = ids,
                         .docs = &doc};
    bl__windows windows;
    double bytes;
    assert_int_equal(bl__windows_init(&tokens, ROW, 1, false, &windows, NULL), BL_OK);
    assert_int_equal(bl__report_text_bytes(&windows, tokenizer, windows.n_valid_windows, inputs,
                                           targets, &bytes, &n_targets, NULL),
                     BL_OK);
    assert_int_equal(n_targets, 19);
    assert_true(bytes == (double)expected && expected > 19);
    assert_int_equal(
        bl__report_text_bytes(&windows, NULL, 1, inputs, targets, &bytes, &n_targets, NULL), BL_OK);
    assert_int_equal(n_targets, ROW);
    assert_true(bytes == 2.0 * ROW);
    bl_tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flips_are_means_of_tenths),
        cmocka_unit_test(sizes_of_layouts_that_fit),
        cmocka_unit_test(bytes_of_targets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
