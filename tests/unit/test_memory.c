/* Memory: what made-up systems and control groups leave, what is refused before it is taken, and
 * that the parts of a session's memory are what the process really holds. */
#include <ftw.h>
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

#include "bitloom/dummy.h"
#include "bitloom/model.h"
#include "cpu/memory.h"
#include "model/memory.h"
#include "tiny_model.h"

static char folder[64]; /* stands before /proc and /sys, and holds models */

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/bitloom_memory_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int tear_down(void **state) {
    (void)state;
    return nftw(folder, drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* Writes folder/path and makes the folders that lead there. */
static void put(const char *path, const char *text) {
    char full[256];
    snprintf(full, sizeof full, "%s/%s", folder, path);
    for (char *at = full + strlen(folder) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = '\0';
        mkdir(full, 0755);
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void check_available(uint64_t expected) {
    uint64_t bytes = 1;
    assert_true(bl__memory_available(folder, &bytes));
    assert_int_equal(bytes, expected);
}

static void test_available(void **state) {
    (void)state;
    uint64_t bytes = 1;
    assert_false(bl__memory_available(folder, &bytes));
    assert_int_equal(bytes, 1);
    put("proc/meminfo", "MemTotal:  9000 kB\nMemFree:   1 kB\nMemAvailable:   4000 kB\n");
    check_available(4000 * 1024);
    put("proc/self/cgroup", "0::/\n");
    check_available(4000 * 1024);
    put("sys/fs/cgroup/memory.max", "max\n");
    put("sys/fs/cgroup/memory.current", "5\n");
    check_available(4000 * 1024);
    put("sys/fs/cgroup/memory.max", "1000000\n");
    put("sys/fs/cgroup/memory.current", "600000\n");
    check_available(400000);
    put("sys/fs/cgroup/memory.stat",
        "anon 5\nfile 9\nmapped_inactive_file 7\ninactive_file 90000\nactive_file 10000\n");
    check_available(500000);
    put("sys/fs/cgroup/memory.current", "2000000\n"); /* the limit was lowered since */
    check_available(0);
}

/* The tightest of a group and those above it. */
static void test_groups(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable: 4000 kB\n");
    put("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/a/b\n2:cpu:/c\n0::/u/v\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000000\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000000\n");
    put("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 7\ntotal_inactive_file 500000\n");
    put("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1000000\n");
    check_available(2500000);
    put("sys/fs/cgroup/u/memory.max", "2000000\n");
    put("sys/fs/cgroup/u/memory.current", "1\n");
    put("sys/fs/cgroup/u/v/memory.max", "2000001\n");
    put("sys/fs/cgroup/u/v/memory.current", "0\n");
    check_available(1999999);
    put("proc/self/cgroup", "4:memory:/elsewhere\nnonsense\n");
    check_available(4000 * 1024);
}

/* ---- refusals ---- */

static bl_status open_with(const char *path, uint64_t available, bl_model **model, bl_error *err) {
    bl__memory_pretend(available);
    bl_status status = bl_model_open(path, NULL, model, err);
    bl__memory_pretend(0);
    return status;
}

static void test_refusals(void **state) {
    (void)state;
    char path[128];
    bl_model *model = NULL;
    bl_session *session = NULL;
    bl_error err;
    struct stat st;
    tiny_model m = tiny_model_default();
    snprintf(path, sizeof path, "%s/tiny.gguf", folder);
    tiny_model_write(&m, 7, path);
    assert_int_equal(stat(path, &st), 0);
    if (bl__memory_holds_file(path))
        skip(); /* files of a disk are what is checked */
    assert_int_equal(open_with(path, (uint64_t)st.st_size - 1, &model, &err), BL_ERR_MEMORY);
    assert_null(model);
    assert_non_null(strstr(err.message, "GiB of memory are available"));
    assert_non_null(strstr(err.message, path));
    assert_int_equal(setenv("BITLOOM_MEMORY", "unchecked", 1), 0);
    assert_int_equal(open_with(path, 1, &model, &err), BL_OK);
    bl_model_close(model);
    unsetenv("BITLOOM_MEMORY");
    assert_int_equal(open_with(path, (uint64_t)st.st_size, &model, &err), BL_OK);

    const bl_session_params params = {.n_threads = 1, .n_ctx = 50000};
    assert_int_equal(bl_session_create(model, &params, &session, &err), BL_OK);
    bl_memory parts = bl_session_memory(session);
    uint64_t all = parts.mapped + parts.head_copy + parts.cache + parts.scratch;
    assert_int_equal(parts.cache + parts.scratch, bl_session_bytes(session));
    bl_session_free(session);
    session = NULL;
    bl__memory_pretend(all - 1);
    assert_int_equal(bl_session_create(model, &params, &session, &err), BL_ERR_MEMORY);
    assert_null(session);
    assert_non_null(strstr(err.message, "for 1 x 50000 tokens"));
    assert_non_null(strstr(err.message, "(-c), --cache-type i8 or i4"));
    bl__memory_pretend(all);
    assert_int_equal(bl_session_create(model, &params, &session, &err), BL_OK);
    bl__memory_pretend(0);
    bl_session_free(session);
    bl_model_close(model);
}

/* ---- what is really held ---- */

static uint64_t resident(void) {
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    if (!f)
        skip();
    while (fgets(line, sizeof line, f) && sscanf(line, "Rss: %llu", &kib) != 1)
        continue;
    fclose(f);
    return kib * 1024;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define IS_SANITIZED 1
#endif
#endif

static void check_resident(const char *path, const bl_session_params *params) {
    enum { N_CTX = 512 };
    bl_token tokens[N_CTX];
    bl_model *model;
    bl_session *session;
    bl_error err;
    const bl_reach reach = {.n_best = 40};
    uint64_t before = resident();
    assert_int_equal(bl_model_open(path, NULL, &model, &err), BL_OK);
    if (bl_session_create(model, params, &session, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < N_CTX; i++)
        tokens[i] = (bl_token)(i * 31 % 4000);
    assert_int_equal(bl_session_eval(session, tokens, N_CTX - 24, NULL, &err), BL_OK);
    for (size_t i = N_CTX - 24; i < N_CTX; i++) { /* the copy of the head is made */
        assert_int_equal(bl_session_eval(session, tokens + i, 1, NULL, &err), BL_OK);
        bl_session_best_logits(session, &reach);
    }
    bl_session_logits(session);
    bl_memory m = bl_session_memory(session);
    double said = (double)(m.mapped + m.repacked + m.head_copy + m.cache + m.scratch);
    double held = (double)(resident() - before);
    print_message("%.1f MB said (mapped %.1f, repacked %.1f, copy of the head %.1f, cache %.1f, "
                  "scratch %.1f), %.1f MB resident\n",
                  said * 1e-6, (double)m.mapped * 1e-6, (double)m.repacked * 1e-6,
                  (double)m.head_copy * 1e-6, (double)m.cache * 1e-6, (double)m.scratch * 1e-6,
                  held * 1e-6);
    assert_true(held / said > 0.95 && held / said < 1.05);
    bl_session_free(session);
    bl_model_close(model);
}

/* A model whose weights are mapped, and one whose weights are repacked. The system maps some pages
 * around each one that is read, norms between weights that were repacked among them, so the layers
 * are few and wide. */
static void test_resident(void **state) {
    (void)state;
#ifdef IS_SANITIZED
    skip(); /* shadow memory is resident too */
#endif
    static const char *const types[] = {"bl_t2", "i2_s"};
    for (size_t i = 0; i < 2; i++) {
        char path[128];
        bl_error err;
        bl_dummy_params dummy = {.type = types[i]};
        assert_int_equal(bl_dummy_shape_read("2x1024x4096x16", &dummy.shape, &err), BL_OK);
        dummy.shape.vocab = 16000;
        snprintf(path, sizeof path, "%s/%s.gguf", folder, types[i]);
        if (bl_dummy_write(path, &dummy, NULL, &err))
            fail_msg("%s", err.message);
        check_resident(path, &(bl_session_params){.n_ctx = 512,
                                                  .n_threads = 2,
                                                  .cache_type = i ? BL_CACHE_F16 : BL_CACHE_F32});
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_available, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_resident, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
