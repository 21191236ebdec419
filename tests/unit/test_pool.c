/* Checks base/pool.h: every part exactly once, the same results on any number of threads, idle
 * workers that take no time. The tsan preset shows that it is free of data races. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "base/random.h"

enum { MAX_PARTS = 1000, MAX_THREADS = 64 };

typedef struct job {
    atomic_uint calls[MAX_PARTS];
    uint64_t results[MAX_PARTS]; /* plain memory: each part writes its own */
    size_t n_parts;
    atomic_uint wrong;
    uint32_t n_threads;
    atomic_bool busy[MAX_THREADS]; /* each thread does one part at a time */
} job;

static void do_part(void *context, size_t part, size_t n_parts) {
    job *j = context;
    uint32_t thread = bl__pool_thread();
    if (part >= n_parts || n_parts != j->n_parts || thread >= j->n_threads ||
        atomic_exchange(&j->busy[thread], true)) {
        atomic_fetch_add(&j->wrong, 1);
        return;
    }
    atomic_fetch_add(&j->calls[part], 1);
    bl__random random;
    bl__random_seed(&random, part);
    uint64_t sum = 0;
    for (size_t i = 0; i < part % 100; i++)
        sum += bl__random_u64(&random);
    j->results[part] = sum;
    atomic_store(&j->busy[thread], false);
}

static job now, alone;

static void run_and_check(bl__pool *pool, size_t n_parts) {
    memset(&now, 0, sizeof now);
    now.n_parts = n_parts;
    now.n_threads = bl__pool_threads(pool);
    bl__pool_run(pool, do_part, &now, n_parts);
    assert_int_equal(now.wrong, 0);
    for (size_t part = 0; part < MAX_PARTS; part++)
        assert_int_equal(now.calls[part], part < n_parts);
    assert_memory_equal(now.results, alone.results, n_parts * sizeof *now.results);
}

static void every_part_runs_once_on_any_number_of_threads(void **state) {
    (void)state;
    const uint32_t threads[] = {1, 2, 3, 4, 7, 16, 33};
    const size_t parts[] = {0, 1, 2, 3, 5, 16, 17, 100, MAX_PARTS};
    alone.n_parts = MAX_PARTS;
    alone.n_threads = 1;
    bl__pool_run(NULL, do_part, &alone, MAX_PARTS); /* no pool: here, in order */
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        bl__pool *pool = NULL;
        bl_error err;
        assert_int_equal(bl__pool_create(threads[t], t % 2 == 1, &pool, &err), BL_OK);
        assert_int_equal(bl__pool_threads(pool), threads[t]);
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            run_and_check(pool, parts[p]);
        bl__pool_free(pool);
    }
    bl__pool_free(NULL);
    assert_int_equal(bl__pool_threads(NULL), 1);
}

static void add_part(void *context, size_t part, size_t n_parts) {
    (void)n_parts;
    atomic_fetch_add((atomic_size_t *)context, part + 1);
}

static void many_short_jobs_follow_each_other(void **state) {
    (void)state;
    bl__pool *pool = NULL;
    assert_int_equal(bl__pool_create(4, false, &pool, NULL), BL_OK);
    long before = bl__alloc_count();
    for (size_t i = 0; i < 3000; i++) {
        size_t n_parts = 2 + i % 7;
        atomic_size_t sum = 0;
        bl__pool_run(pool, add_part, &sum, n_parts);
        assert_int_equal(sum, n_parts * (n_parts + 1) / 2);
    }
    assert_int_equal(bl__alloc_count(), before); /* running jobs allocates nothing */
    bl__pool_free(pool);
}

static void pools_come_and_go_at_once(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        bl__pool *pool = NULL;
        assert_int_equal(bl__pool_create(5, false, &pool, NULL), BL_OK);
        atomic_size_t sum = 0;
        if (i % 2) /* workers may not have started yet */
            bl__pool_run(pool, add_part, &sum, 3);
        assert_int_equal(sum, i % 2 ? 6 : 0);
        bl__pool_free(pool);
    }
}

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void idle_workers_park(void **state) {
    (void)state;
    bl__pool *pool = NULL;
    atomic_size_t sum = 0;
    assert_int_equal(bl__pool_create(4, false, &pool, NULL), BL_OK);
    bl__pool_run(pool, add_part, &sum, 4);
    nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000},
              NULL); /* let them finish spinning */
    double before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    nanosleep(&(struct timespec){.tv_nsec = 300 * 1000 * 1000}, NULL);
    double busy = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - before;
    assert_true(busy < 0.03);              /* three workers that spin would take 0.3 s or more */
    bl__pool_run(pool, add_part, &sum, 4); /* and they wake again */
    assert_int_equal(sum, 20);
    bl__pool_free(pool);
}

static void bad_counts_and_failing_memory_are_refused(void **state) {
    (void)state;
    bl__pool *pool = NULL;
    bl_error err;
    assert_int_equal(bl__pool_create(0, false, &pool, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__pool_create(1025, false, &pool, &err), BL_ERR_ARGUMENT);
    for (long nth = 1; nth <= 2; nth++) {
        bl__alloc_fail_at(nth);
        assert_int_equal(bl__pool_create(2, false, &pool, &err), BL_ERR_MEMORY);
        bl__alloc_fail_at(0);
    }
    assert_null(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_runs_once_on_any_number_of_threads),
        cmocka_unit_test(many_short_jobs_follow_each_other),
        cmocka_unit_test(pools_come_and_go_at_once),
        cmocka_unit_test(idle_workers_park),
        cmocka_unit_test(bad_counts_and_failing_memory_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
