/* The order of I2_S told of models trained elsewhere, which are among the assets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "assets.h"
#include "bitloom/bitloom.h"

static const char *const names[] = {"models/tinystories-3m-hf", "models/novels-3m"};

/* Converts, taking the input's i2_s to be of ARM builds or not, and holds the order's verdict and
 * the whole's to what is expected. */
static void check(const char *path, bool arm, const char *to, bl_verify_result expected) {
    const bl_convert_params params = {.type = "i2_s", .known_answer = true, .i2_s_arm = arm};
    bl_verify_report report;
    bl_error err;
    if (bl_convert(path, to, &params, NULL, &err) || bl_verify(to, NULL, &report, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        const bl_verify_check *c = &report.checks[i];
        bool order = strcmp(c->name, "i2_s order") == 0;
        if (order)
            print_message("%s: %s\n", path, c->detail);
        if (order ? c->result != expected : c->result == BL_VERIFY_FAIL)
            fail_msg("%s: %s: %s", path, c->name, c->detail);
    }
}

/* Reading x86 order as ARM order moves the blocks of columns in two cycles of three: once leaves
 * them in neither order, twice in that of ARM, and three times as they were. */
static void orders_are_told(void **state) {
    static const bl_verify_result verdicts[] = {BL_VERIFY_PASS, BL_VERIFY_WARN, BL_VERIFY_FAIL,
                                                BL_VERIFY_PASS};
    char paths[2][64];
    (void)state;
    for (size_t i = 0; i < 2; i++)
        snprintf(paths[i], sizeof paths[i], "/tmp/bitloom-verify-%ld-%zu", (long)getpid(), i);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (size_t k = 0; k < 4; k++)
            check(k ? paths[(k - 1) % 2] : require_asset(names[i]), k > 0, paths[k % 2],
                  verdicts[k]);
    unlink(paths[0]);
    unlink(paths[1]);
}

int main(void) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        require_asset(names[i]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(orders_are_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
