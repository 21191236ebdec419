/* What the system says about cores and memory nodes, read from its own words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitloom/system.h"
#include "cpu/cpu.h"

static void test_quota(void **state) {
    (void)state;
    assert_int_equal(bl__cpu_quota("max 100000\n"), 0);
    assert_int_equal(bl__cpu_quota("200000 100000\n"), 2);
    assert_int_equal(bl__cpu_quota("150000 100000\n"), 2);
    assert_int_equal(bl__cpu_quota("1000 100000\n"), 1);
    assert_int_equal(bl__cpu_quota("1000 0\n"), 0);
    assert_int_equal(bl__cpu_quota(""), 0);
    assert_true(bl_cpu_physical_cores() >= 1);
}

static void check_nodes(const char *text, size_t n, uint32_t first, uint32_t last) {
    uint32_t nodes[8] = {0};
    assert_int_equal(bl__cpu_node_list(text, nodes, 8), n);
    if (n) {
        assert_int_equal(nodes[0], first);
        assert_int_equal(nodes[n - 1], last);
    }
}

static void test_nodes(void **state) {
    (void)state;
    check_nodes("0\n", 1, 0, 0);
    check_nodes("0-1\n", 2, 0, 1);
    check_nodes("0-1,4,6-7", 5, 0, 7);
    check_nodes("1023", 1, 1023, 1023);
    check_nodes("", 0, 0, 0);
    check_nodes("\n", 0, 0, 0);
    check_nodes("0-", 0, 0, 0);
    check_nodes("3-1", 0, 0, 0);
    check_nodes("0 1", 0, 0, 0);
    check_nodes("0-7", 8, 0, 7);
    check_nodes("0-8", 0, 0, 0); /* more than there is room for */
    check_nodes("1024", 0, 0, 0);
}

static void test_interleave(void **state) {
    (void)state;
    uint32_t n = 0;
    bl_error err;
    bl_status status = bl_numa_interleave(&n, &err);
    assert_true(status == BL_OK ? n >= 1 : status == BL_ERR_UNSUPPORTED && n == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quota),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_interleave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
