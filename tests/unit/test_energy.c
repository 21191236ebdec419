/* Energy: counters in made-up trees of sysfs, running over, what is added up and what is left out;
 * counters by perf, on an event that every kernel has; the estimate, on counts made by hand. */
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/cost.h"
#include "measure/energy.h"
#include "measure/figures.h"
#include "tiny_model.h"

static char sys[64]; /* what stands for /sys */

static int set_up(void **state) {
    (void)state;
    snprintf(sys, sizeof sys, "/tmp/bitloom_energy_XXXXXX");
    return mkdtemp(sys) ? 0 : -1;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int tear_down(void **state) {
    (void)state;
    return nftw(sys, drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* Writes sys/path and makes the folders that lead there. */
static void put(const char *path, const char *text) {
    char full[256];
    snprintf(full, sizeof full, "%s/%s", sys, path);
    for (char *at = full + strlen(sys) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = '\0';
        mkdir(full, 0755);
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void put_zone(const char *zone, const char *name, const char *range, const char *count) {
    char path[256];
    const char *files[][2] = {{"name", name}, {"max_energy_range_uj", range}, {"energy_uj", count}};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "class/powercap/%s/%s", zone, files[i][0]);
        put(path, files[i][1]);
    }
}

static void check_read(bl_energy_meter *meter, double expected) {
    double joules;
    assert_true(bl_energy_meter_read(meter, &joules));
    assert_true(fabs(joules - expected) < 1e-9);
}

static void test_none(void **state) {
    (void)state;
    bl_energy_meter *meter = NULL;
    bl_error err;
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "no energy counters"));
    assert_null(meter);
    put_zone("intel-rapl:0", "psys", "1000\n", "5\n"); /* the platform: not one that is counted */
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_NOT_FOUND);
    put_zone("intel-rapl:0", "package-0", "1000\n", "nonsense\n");
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_NOT_FOUND);
}

/* Two packages, memory beside one; cores are in the packages, the mmio tree counts them again. */
static void test_powercap(void **state) {
    (void)state;
    bl_energy_meter *meter;
    bl_error err;
    put_zone("intel-rapl:0", "package-0\n", "262143328850\n", "1000000\n");
    put_zone("intel-rapl:0:0", "core\n", "262143328850\n", "7\n");
    put_zone("intel-rapl:0:1", "dram\n", "65712999613\n", "500000\n");
    put_zone("intel-rapl:1", "package-1\n", "262143328850\n", "262143000000\n");
    put_zone("intel-rapl-mmio:0", "package-0\n", "262143328850\n", "1\n");
    put("class/powercap/intel-rapl/enabled", "1\n");
    if (bl__energy_meter_open_at(sys, &meter, &err))
        fail_msg("%s", err.message);
    assert_string_equal(bl_energy_meter_source(meter),
                        "RAPL by powercap: package-0 dram package-1");
    check_read(meter, 0);
    put_zone("intel-rapl:0", "package-0\n", "262143328850\n", "3500000\n");
    check_read(meter, 2.5);
    put_zone("intel-rapl:0:1", "dram\n", "65712999613\n", "1500000\n");
    put_zone("intel-rapl:0:0", "core\n", "262143328850\n", "900000000\n");
    check_read(meter, 3.5);
    /* package-1 runs over: 328,850 uJ to its end and 671,150 after it; and again */
    put_zone("intel-rapl:1", "package-1\n", "262143328850\n", "671150\n");
    check_read(meter, 4.5);
    check_read(meter, 4.5);
    put_zone("intel-rapl:1", "package-1\n", "262143328850\n", "671149\n");
    check_read(meter, 4.5 + 262143.328849);
    put_zone("intel-rapl:1", "package-1\n", "262143328850\n", "");
    double joules = -1;
    assert_false(bl_energy_meter_read(meter, &joules));
    assert_true(joules == -1);
    bl_energy_meter_close(meter);
}

static void test_permission(void **state) {
    (void)state;
    bl_energy_meter *meter = NULL;
    bl_error err;
    char path[256];
    if (geteuid() == 0)
        skip(); /* root may read anything */
    put_zone("intel-rapl:0", "package-0\n", "1000\n", "5\n");
    snprintf(path, sizeof path, "%s/class/powercap/intel-rapl:0/energy_uj", sys);
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_IO);
    assert_non_null(strstr(err.message, "may not be read"));
}

/* The clock of a CPU, in nanoseconds, stands for joules: it never stops. */
static void test_perf(void **state) {
    (void)state;
    bl_energy_meter *meter = NULL;
    bl_error err;
    double first, second;
    put("bus/event_source/devices/power/type", "1\n");
    put("bus/event_source/devices/power/cpumask", "0\n");
    put("bus/event_source/devices/power/events/energy-pkg", "event=0x00\n");
    put("bus/event_source/devices/power/events/energy-pkg.scale", "1e-9\n");
    put("bus/event_source/devices/power/events/energy-pkg.unit", "Joules\n");
    bl_status status = bl__energy_meter_open_at(sys, &meter, &err);
    if (status) { /* not to everyone, and not in every container */
        assert_null(meter);
        skip();
    }
    assert_string_equal(bl_energy_meter_source(meter), "RAPL by perf: energy-pkg");
    assert_true(bl_energy_meter_read(meter, &first) && first >= 0);
    usleep(2000);
    assert_true(bl_energy_meter_read(meter, &second) && second > first && second < 3600);
    bl_energy_meter_close(meter);
    put("bus/event_source/devices/power/events/energy-pkg.unit", "Watts\n");
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_NOT_FOUND);
    put("bus/event_source/devices/power/events/energy-pkg.unit", "Joules\n");
    put("bus/event_source/devices/power/events/energy-pkg", "umask=1\n");
    assert_int_equal(bl__energy_meter_open_at(sys, &meter, &err), BL_ERR_NOT_FOUND);
}

static void test_memory(void **state) {
    (void)state;
    bl_status status = BL_ERR_MEMORY;
    put_zone("intel-rapl:0", "package-0\n", "1000\n", "5\n");
    put_zone("intel-rapl:0:0", "dram\n", "1000\n", "5\n");
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        bl_energy_meter *meter = NULL;
        bl_error err;
        assert_true(nth < 100);
        bl__alloc_fail_at(nth);
        status = bl__energy_meter_open_at(sys, &meter, &err);
        bl_energy_meter_close(meter);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
}

/* 2 layers of dim 8, ffn 16, 2 heads of 4, one of keys and values; a vocabulary of 10. */
static void test_estimate(void **state) {
    (void)state;
    const bl_model_info info = {.n_layers = 2,
                                .dim = 8,
                                .ffn_dim = 16,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .head_dim = 4,
                                .vocab = 10,
                                .int8_activations = true};
    bl_bench_test test = {.n_generate = 3, .depth = 4};
    bl_energy_estimate e = bl__energy_of_token(&info, &test, 1000);
    /* q, o: 8 x 8; k, v: 4 x 8; gate, up: 16 x 8; down: 8 x 16 */
    double adds = 2 * (2 * 8 * 7 + 2 * 4 * 7 + 2 * 16 * 7 + 8 * 15);
    double scales = 2 * (2 * 16 + 2 * 12 + 2 * 24 + 24);
    double attention = 2 * 2 * 2 * 4 * 6; /* positions 5, 6, 7 */
    double joules = adds * 0.0073e-12 + scales * 0.34e-12 + attention * (0.34e-12 + 0.16e-12) +
                    80 * 0.34e-12 + 70 * 0.16e-12;
    assert_true(fabs(e.arithmetic / joules - 1) < 1e-12);
    assert_true(fabs(e.memory / 160e-9 - 1) < 1e-12);
    assert_true(bl_cost_read(4) == 640e-12);
    test = (bl_bench_test){.n_prompt = 10};
    double prompt = bl__energy_of_token(&info, &test, 1000).arithmetic;
    attention = 2 * 2 * 2 * 4 * 5.5;
    joules = adds * 0.0073e-12 + scales * 0.34e-12 + attention * (0.34e-12 + 0.16e-12) +
             8 * 0.34e-12 + 7 * 0.16e-12;
    assert_true(fabs(prompt / joules - 1) < 1e-12);
}

static void test_text(void **state) {
    (void)state;
    char path[128];
    bl_model *model;
    bl_session *session;
    bl_error err;
    bl_energy_estimate prompt, generated;
    tiny_model m = tiny_model_default();
    snprintf(path, sizeof path, "%s/tiny.gguf", sys);
    tiny_model_write(&m, 7, path);
    assert_int_equal(bl_model_open(path, NULL, &model, &err), BL_OK);
    assert_int_equal(bl_session_create(model, &(bl_session_params){.n_threads = 1}, &session, &err),
                     BL_OK);
    bl_energy_estimate_text(session, 4, 8, 5, &prompt, &generated);
    const bl__work work = bl__session_work(session);
    /* two batches; the positions that each attends to, and the logits of the last token */
    double bytes = 2.0 * (double)work.layer_bytes + (double)work.head_bytes +
                   8.0 * (double)work.token_bytes + (4 + 8) * (double)work.position_bytes;
    assert_true(fabs(prompt.memory / bl_cost_read(bytes) - 1) < 1e-12);
    bytes = 5.0 * (double)(work.layer_bytes + work.head_bytes + work.token_bytes) +
            (9 + 10 + 11 + 12 + 13) * (double)work.position_bytes;
    assert_true(fabs(generated.memory / bl_cost_read(bytes) - 1) < 1e-12);
    assert_true(prompt.arithmetic > 0 && generated.arithmetic > 0);
    bl_energy_estimate_text(session, 0, 0, 0, &prompt, &generated);
    assert_true(prompt.memory == 0 && generated.arithmetic == 0);
    bl_session_free(session);
    bl_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_powercap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_permission, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_perf, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
        cmocka_unit_test(test_estimate),
        cmocka_unit_test_setup_teardown(test_text, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
