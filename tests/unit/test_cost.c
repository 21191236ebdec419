/* The arithmetic of memory and energy, held to published tables digit by digit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitloom/cost.h"

/* Table 1 of arXiv 2310.11453: joules of multiplications and additions for an input of 512 tokens;
 * FP32, FP16 and BitNet, each in 7 nm and in 45 nm. Its networks have feed-forward layers of 4 dim
 * without a gate. */
static const struct {
    uint32_t n_layers, dim, n_heads;
    const char *cells[6];
} TABLE[] = {
    {32, 4096, 32, {"4.41/1.28", "12.46/3.03", "1.14/0.54", "3.70/1.35", "0.02/0.04", "0.08/0.13"}},
    {40, 5120, 40, {"8.58/2.49", "24.23/5.89", "2.23/1.05", "7.20/2.62", "0.04/0.06", "0.12/0.24"}},
    {48,
     7168,
     56,
     {"20.09/5.83", "56.73/13.80", "5.21/2.45", "16.87/6.13", "0.06/0.14", "0.20/0.53"}},
};

static void test_energy(void **state) {
    (void)state;
    static const bl_cost_precision precisions[] = {BL_COST_FP32, BL_COST_FP16, BL_COST_ONE_BIT};
    static const bl_cost_node nodes[] = {BL_COST_7NM, BL_COST_45NM};
    for (size_t row = 0; row < sizeof TABLE / sizeof *TABLE; row++) {
        const bl_dummy_shape shape = {.n_layers = TABLE[row].n_layers,
                                      .dim = TABLE[row].dim,
                                      .ffn_dim = 4 * TABLE[row].dim,
                                      .n_heads = TABLE[row].n_heads,
                                      .n_kv_heads = TABLE[row].n_heads};
        bl_cost_operations o = bl_cost_count_operations(&shape, 2, 512);
        for (size_t cell = 0; cell < 6; cell++) {
            char text[32];
            bl_cost_energy e = bl_cost_estimate(&o, precisions[cell / 2], nodes[cell % 2]);
            snprintf(text, sizeof text, "%.2f/%.2f", e.multiply, e.add);
            assert_string_equal(text, TABLE[row].cells[cell]);
        }
    }
}

static void test_memory(void **state) {
    (void)state;
    /* 7e9 weights: 26.08 GiB in fp32, 0.815 GiB in 1 bit (facts of the field's introductions). */
    assert_true(fabs(bl_cost_bytes(7000000000u, 32) / 0x1p30 - 26.08) < 0.005);
    assert_true(fabs(bl_cost_bytes(7000000000u, 1) / 0x1p30 - 0.815) < 0.0005);
    assert_true(bl_cost_bytes(10, 1.6) == 2);
    /* BitNet b1.58 2B4T, arXiv 2504.12285: 2,084,044,800 ternary weights in 210 linears. */
    bl_dummy_shape shape;
    bl_error err;
    assert_int_equal(bl_dummy_shape_read("2B4T", &shape, &err), BL_OK);
    bl_cost_parts parts = bl_cost_count(&shape);
    assert_true(parts.linears == 2084044800u);
    assert_true(parts.head == 128256u * 2560u);
    assert_true(parts.norms == 61 * 2560);
    assert_true(parts.position == 2 * 30 * 5 * 128);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_energy),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
