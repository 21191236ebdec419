/* What the kernel checkers use of cmocka, for processors that it is not installed for: a failing
 * assertion says where and ends the program. */
#ifndef BL_TESTS_ALONE_CMOCKA_H
#define BL_TESTS_ALONE_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(f)                                                                        \
    { #f, f }

#define fail_msg(...)                                                                              \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                            \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(EXIT_FAILURE);                                                                        \
    } while (0)
#define assert_true(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("not true: %s", #condition);                                                  \
    } while (0)
#define assert_int_equal(a, b)          assert_true((a) == (b))
#define assert_memory_equal(a, b, size) assert_true(memcmp(a, b, size) == 0)
#define assert_string_equal(a, b)       assert_true(strcmp(a, b) == 0)

#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    run_tests(tests, sizeof(tests) / sizeof *(tests))
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_run_group_tests_name(#tests, tests, setup, teardown)

static inline int run_tests(const struct CMUnitTest *tests, size_t n) {
    for (size_t i = 0; i < n; i++) {
        tests[i].run(NULL);
        printf("ok: %s\n", tests[i].name);
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}

#endif
