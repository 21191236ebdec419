/* Benchmarks: the arithmetic of their figures on counts made by hand, and a run on a
 * small model. No time is compared with anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/bench.h"
#include "measure/figures.h"
#include "tiny_model.h"

static char path[256];

static bl_model *open_model(void) {
    tiny_model m = tiny_model_default();
    bl_model *model = NULL;
    bl_error err;
    tiny_model_write(&m, 7, path);
    if (bl_model_open(path, NULL, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static void test_spread(void **state) {
    (void)state;
    bl_bench_result odd = {.test.n_repeats = 3, .samples = {30, 10, 20}};
    bl_bench_result even = {.test.n_repeats = 4, .samples = {4, 1, 3, 2}};
    bl_bench_result one = {.test.n_repeats = 1, .samples = {5}};
    bl__bench_spread(&odd);
    bl__bench_spread(&even);
    bl__bench_spread(&one);
    assert_true(odd.tokens_per_second == 20 && odd.slowest == 10 && odd.fastest == 30);
    assert_true(even.tokens_per_second == 2.5 && even.slowest == 1 && even.fastest == 4);
    assert_true(one.tokens_per_second == 5 && one.slowest == 5 && one.fastest == 5);
    assert_true(odd.samples[0] == 30); /* the order stays */
}

static void test_shares(void **state) {
    (void)state;
    const bl__work work = {.layer_bytes = 1000,
                           .head_bytes = 100,
                           .token_bytes = 10,
                           .position_bytes = 1,
                           .int8_macs = 500};
    const bl_bench_limits limits = {.read_bandwidth = 11250, .int8_peak = 40000};
    bl_bench_result r = {.test = {.n_generate = 4, .n_streams = 1, .depth = 13, .n_repeats = 1}};
    r.tokens_per_second = 5;
    bl__bench_shares(&r, &work, &limits);
    /* positions 14, 15, 16, 17: 15.5 on average */
    assert_true(r.bytes_per_token == 1125.5 && r.int8_ops_per_token == 1000);
    assert_true(r.share_of_bandwidth == 5 * 1125.5 / 11250);
    assert_true(r.share_of_int8_peak == 0.125);
    bl__bench_shares(&r, &work, NULL);
    assert_true(r.bytes_per_token == 1125.5);
    assert_true(r.share_of_bandwidth == 0 && r.share_of_int8_peak == 0);

    r.test.n_streams = 10;
    bl__bench_shares(&r, &work, &limits);
    /* weights once for ten tokens, the embedding and the positions for each */
    assert_true(r.bytes_per_token == 110 + 10 + 15.5 && r.share_of_int8_peak == 0.125);

    r.test = (bl_bench_test){.n_prompt = 10, .n_streams = 1, .n_batch = 4, .depth = 3};
    bl__bench_shares(&r, &work, &limits);
    /* batches that end at positions 7, 11 and 13 */
    assert_true(r.bytes_per_token == (3 * 1000 + 100 + 10 * 10 + 7 + 11 + 13) / 10.0);
}

/* Values lie in rows of whole 32 elements, float16. The bytes of T2 are counted by hand: tiles of
 * 16 rows, 64 bytes of scales and 64 for each 16 columns begun. Layers of dim 40, ffn 56, 4 heads
 * of 10, 2 of keys and values. */
static void test_work(void **state) {
    (void)state;
    enum {
        COLS_40 = 64 + 3 * 64,
        COLS_56 = 64 + 4 * 64,
        LINEARS = (3 + 2 + 2 + 3 + 4 + 4) * COLS_40 + 3 * COLS_56,
        NORMS = (40 + 40 + 40 + 56) * 4
    };
    bl_model *model = open_model();
    bl_session *session = NULL;
    assert_int_equal(bl_session_create(model, NULL, &session, NULL), BL_OK);
    bl__work work = bl__session_work(session);
    assert_int_equal(work.layer_bytes, 2 * (LINEARS + NORMS));
    assert_int_equal(work.head_bytes, 50 * 40 * 2 + 40 * 4);
    assert_int_equal(work.token_bytes, 40 * 2);
    assert_int_equal(work.position_bytes, 2 * 2 * (10 + 32) * 2);
    assert_int_equal(work.int8_macs, 2 * (2 * 40 * 40 + 2 * 20 * 40 + 3 * 40 * 56));
    bl_session_free(session);
    bl_model_close(model);
}

static void test_limits(void **state) {
    (void)state;
    bl_bench_limits limits;
    bl_error err = {0};
    assert_int_equal(bl_bench_measure_limits(2, &limits, &err), BL_OK);
    assert_int_equal(limits.n_threads, 2);
    assert_true(limits.read_bandwidth > 0 && limits.int8_peak > 0);
    assert_true(limits.n_peaks >= 1);
    for (size_t i = 0; i < limits.n_peaks; i++)
        assert_true(
            limits.peaks[i].ops_per_second > 0 &&
            (!limits.peaks[i].allowed || limits.peaks[i].ops_per_second <= limits.int8_peak));
    assert_int_equal(bl_bench_measure_limits(1000000, &limits, &err), BL_ERR_ARGUMENT);
    assert_int_equal(limits.n_threads, 2);
    int failures = 0;
    for (long nth = 1;; nth++) {
        bl__alloc_fail_at(nth);
        bl_status status = bl_bench_measure_limits(1, &limits, &err);
        bl__alloc_fail_at(0);
        if (!status)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        failures++;
    }
    assert_true(failures >= 2);
}

static bool count_repeats(void *user, uint32_t n_done) {
    uint32_t *count = user;
    assert_int_equal(n_done, *count);
    return ++*count < 5;
}

static void test_run(void **state) {
    (void)state;
    const bl_bench_limits limits = {.read_bandwidth = 1e9, .int8_peak = 1e9};
    bl_model *model = open_model();
    bl_bench_result r = {0};
    bl_error err = {0};
    uint32_t count = 0;
    bl_bench_test test = {
        .n_generate = 3, .depth = 5, .n_batch = 2, .n_threads = 1, .n_repeats = 4};
    assert_int_equal(bl_bench_run(model, &test, &limits, count_repeats, &count, &r, &err), BL_OK);
    assert_int_equal(count, 4);
    assert_int_equal(r.test.depth, 5);
    assert_true(r.slowest > 0 && r.slowest <= r.tokens_per_second &&
                r.tokens_per_second <= r.fastest);
    assert_true(r.share_of_bandwidth == r.bytes_per_token * r.tokens_per_second / 1e9);
    assert_true(r.session_bytes > 0);

    test = (bl_bench_test){.n_prompt = 7, .n_repeats = 1};
    assert_int_equal(bl_bench_run(model, &test, NULL, NULL, NULL, &r, &err), BL_OK);
    assert_int_equal(r.test.n_batch, 512);
    assert_true(r.test.n_threads >= 1 && r.share_of_bandwidth == 0);

    test = (bl_bench_test){
        .n_generate = 3, .n_streams = 4, .depth = 2, .n_batch = 1, .n_threads = 2, .n_repeats = 3};
    assert_int_equal(bl_bench_run(model, &test, NULL, NULL, NULL, &r, &err), BL_OK);
    assert_true(r.test.n_streams == 4 && r.slowest > 0);

    test = (bl_bench_test){.n_prompt = 7, .n_repeats = 20};
    count = 0;
    assert_int_equal(bl_bench_run(model, &test, NULL, count_repeats, &count, &r, &err),
                     BL_ERR_CANCELLED);
    const bl_bench_test bad[] = {{.n_repeats = 1},
                                 {.n_prompt = 1, .n_generate = 1, .n_repeats = 1},
                                 {.n_prompt = 1},
                                 {.n_prompt = 2, .n_streams = 2, .n_repeats = 1},
                                 {.n_generate = 2, .n_streams = 5000, .n_repeats = 1},
                                 {.n_prompt = 1, .n_repeats = BL_BENCH_MAX_REPEATS + 1},
                                 {.n_prompt = 1, .n_repeats = 1, .depth = UINT32_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(bl_bench_run(model, &bad[i], NULL, NULL, NULL, &r, &err), BL_ERR_ARGUMENT);
    int failures = 0;
    test.n_repeats = 1;
    test.n_threads = 2;
    for (long nth = 1;; nth++) {
        bl__alloc_fail_at(nth);
        bl_status status = bl_bench_run(model, &test, NULL, NULL, NULL, &r, &err);
        bl__alloc_fail_at(0);
        if (!status)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        failures++;
    }
    assert_true(failures >= 3);
    bl_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread), cmocka_unit_test(test_shares), cmocka_unit_test(test_work),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_run),
    };
    snprintf(path, sizeof path, "/tmp/bitloom-bench-%ld.gguf", (long)getpid());
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return result;
}
