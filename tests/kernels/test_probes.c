/* Checks the probes of what the machine gives at most: operations are counted as they are asked
 * for, and reading sees every byte. `kernels_probes --bench` times them on one thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/probe.h"

static void operations_are_counted(void **state) {
    (void)state;
    bl__probe probes[BL_MAX_PROBES];
    size_t n = bl__probes_get(probes);
    assert_true(n >= 1);
    assert_string_equal(probes[0].level, "ref");
    for (size_t i = 0; i < n; i++) {
        uint64_t ops = probes[i].int8(1);
        assert_true(probes[i].int8(0) == 0);
        assert_true(probes[i].int8(100) == 100 * ops);
        assert_true(ops > 0 || strcmp(probes[i].level, "amx") == 0);
    }
}

static void every_byte_is_read(void **state) {
    (void)state;
    bl__probe probes[BL_MAX_PROBES];
    uint8_t bytes[1024] = {0};
    size_t n = bl__probes_get(probes);
    assert_true(probes[0].read != NULL);
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; probes[i].read && at < sizeof bytes; at++) {
            assert_true(probes[i].read(bytes, sizeof bytes) == 0);
            bytes[at] = 0x10;
            assert_true(probes[i].read(bytes, sizeof bytes) != 0);
            bytes[at] = 0;
        }
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void bench(void) {
    bl__probe probes[BL_MAX_PROBES];
    size_t n = bl__probes_get(probes);
    for (size_t i = 0; i < n; i++) {
        double best = 0;
        for (int round = 0; round < 20; round++) {
            double start = seconds_now();
            uint64_t ops = probes[i].int8(1 << 18);
            double rate = (double)ops / (seconds_now() - start);
            best = rate > best ? rate : best;
        }
        printf("int8 peak  %-12s %8.1f Gop/s\n", probes[i].level, best * 1e-9);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_are_counted),
        cmocka_unit_test(every_byte_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
