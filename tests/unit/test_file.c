/* Checks base/file.h: maps, small files, and outputs that appear whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"

static char folder[64];
static char path[128]; /* folder/out */

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/bitloom-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/out", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails, and the test with it, when anything else was left behind */
}

static unsigned files_in_folder(void) {
    unsigned n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Writes text through an outfile and commits. */
static void put(const char *text) {
    bl__outfile *file = NULL;
    bl_error err;
    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, text, strlen(text), &err), BL_OK);
    assert_int_equal(bl__outfile_commit(file, &err), BL_OK);
}

static void assert_content(const char *text) {
    char *data = NULL;
    size_t len = 0;
    bl_error err;
    assert_int_equal(bl__file_read(path, 1 << 20, &data, &len, &err), BL_OK);
    assert_int_equal(len, strlen(text));
    assert_string_equal(data, text);
    bl__free(data);
}

static void output_appears_on_commit_only(void **state) {
    (void)state;
    bl__outfile *file = NULL;
    bl_error err;
    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, "new", 3, &err), BL_OK);
    assert_int_equal(bl__outfile_offset(file), 3);
    assert_false(bl__file_exists(path));
    assert_int_equal(bl__outfile_commit(file, &err), BL_OK);
    assert_content("new");
    assert_int_equal(files_in_folder(), 1);

    put("newer");
    assert_content("newer");

    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, "never", 5, &err), BL_OK);
    bl__outfile_abort(file);
    bl__outfile_abort(NULL);
    assert_content("newer");
    assert_int_equal(files_in_folder(), 1);
}

/* Pieces around the size of the buffer, and one far above it, arrive in order. */
static void output_of_any_size_is_whole(void **state) {
    (void)state;
    enum { LARGEST = 3 << 20 };
    const size_t sizes[] = {1, (1 << 20) - 1, 1, 1 << 20, (1 << 20) + 1, LARGEST, 7};
    uint8_t *pattern = bl__malloc(LARGEST);
    assert_non_null(pattern);
    for (size_t i = 0; i < LARGEST; i++)
        pattern[i] = (uint8_t)(i * 2654435761u >> 13);
    bl__outfile *file = NULL;
    bl_error err;
    size_t total = 0;
    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(bl__outfile_write(file, pattern, sizes[i], &err), BL_OK);
        assert_int_equal(bl__outfile_offset(file), total += sizes[i]);
    }
    assert_int_equal(bl__outfile_commit(file, &err), BL_OK);

    bl__filemap map;
    assert_int_equal(bl__filemap_open(path, &map, &err), BL_OK);
    assert_int_equal(map.len, total);
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; at += sizes[i++])
        assert_memory_equal(map.data + at, pattern, sizes[i]);
    bl__filemap_close(&map);
    assert_null(map.data);
    bl__filemap_close(&map);
    bl__free(pattern);
}

/* A limit on the size of files stands in for the full disk: writes fall short, then fail. */
static void full_disk_keeps_the_old_file(void **state) {
    (void)state;
    static const char block[100000];
    struct rlimit old, low;
    bl_error err;
    put("precious");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){.rlim_cur = 1500000, .rlim_max = old.rlim_max};
    /* 16 blocks empty the buffer once, so that the rest fails in commit; 40 fail in a write. */
    for (int n_blocks = 16; n_blocks <= 40; n_blocks += 24) {
        bl__outfile *file = NULL;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        bl_status status = bl__outfile_open(path, &file, &err);
        for (int i = 0; i < n_blocks && !status; i++)
            status = bl__outfile_write(file, block, sizeof block, &err);
        bool failed_in_write = status != BL_OK;
        if (status)
            bl__outfile_abort(file);
        else
            status = bl__outfile_commit(file, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(status, BL_ERR_IO);
        assert_int_equal(failed_in_write, n_blocks == 40);
        assert_non_null(strstr(err.message, "File too large"));
        assert_content("precious");
        assert_int_equal(files_in_folder(), 1);
    }
}

static void only_regular_files_are_replaced(void **state) {
    (void)state;
    bl__outfile *file = NULL;
    bl_error err;
    assert_int_equal(bl__outfile_open("/dev/null", &file, &err), BL_ERR_IO);
    assert_non_null(strstr(err.message, "/dev/null"));
    assert_int_equal(bl__outfile_open(folder, &file, &err), BL_ERR_IO);
    assert_int_equal(bl__outfile_open("/nonexistent/folder/file", &file, &err), BL_ERR_NOT_FOUND);
    assert_null(file);
}

static void reading_refuses_what_is_no_small_regular_file(void **state) {
    (void)state;
    char *data = NULL;
    size_t len = 42;
    bl__filemap map = {0};
    bl_error err;
    assert_int_equal(bl__file_read(path, 10, &data, &len, &err), BL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(bl__filemap_open(path, &map, &err), BL_ERR_NOT_FOUND);
    assert_int_equal(bl__file_read(folder, 10, &data, &len, &err), BL_ERR_IO);
    assert_int_equal(bl__filemap_open("/dev/null", &map, &err), BL_ERR_IO);
    assert_int_equal(mkfifo(path, 0600), 0); /* must be refused, not waited for */
    assert_int_equal(bl__file_read(path, 10, &data, &len, &err), BL_ERR_IO);
    assert_false(bl__file_exists(path));
    assert_int_equal(unlink(path), 0);
    put("0123456789a");
    assert_int_equal(bl__file_read(path, 10, &data, &len, &err), BL_ERR_LIMIT);
    bl__alloc_fail_at(1);
    assert_int_equal(bl__file_read(path, 11, &data, &len, &err), BL_ERR_MEMORY);
    bl__alloc_fail_at(0);
    assert_null(data);
    assert_int_equal(len, 42);
    assert_true(bl__file_exists(path) && !bl__directory_exists(path));
    assert_true(bl__directory_exists(folder) && !bl__file_exists(folder));
}

static void empty_files_map_and_read(void **state) {
    (void)state;
    bl__filemap map = {.len = 42};
    bl_error err;
    put("");
    assert_int_equal(bl__filemap_open(path, &map, &err), BL_OK);
    assert_null(map.data);
    assert_int_equal(map.len, 0);
    bl__filemap_close(&map);
    assert_content("");
}

static void failing_memory_leaves_nothing(void **state) {
    (void)state;
    bl_error err;
    for (long nth = 1;; nth++) {
        bl__outfile *file = NULL;
        bl__alloc_fail_at(nth);
        bl_status status = bl__outfile_open(path, &file, &err);
        bl__alloc_fail_at(0);
        if (!status) {
            assert_true(nth > 1);
            bl__outfile_abort(file);
            break;
        }
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_null(file);
    }
    assert_int_equal(files_in_folder(), 0);
    bl__alloc_fail_at(1);
    assert_null(bl__path_join("a", "b"));
    bl__alloc_fail_at(0);
}

static void paths_join(void **state) {
    (void)state;
    const char *cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *joined = bl__path_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        bl__free(joined);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

static void written_bytes_can_be_replaced(void **state) {
    (void)state;
    bl__outfile *file = NULL;
    bl_error err;
    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, "????body", 8, &err), BL_OK);
    assert_int_equal(bl__outfile_patch(file, 0, "head", 4, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, "tail", 4, &err), BL_OK);
    assert_int_equal(bl__outfile_patch(file, 7, "Y!", 2, &err), BL_OK);
    assert_int_equal(bl__outfile_patch(file, 11, "xx", 2, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__outfile_patch(file, UINT64_MAX, "x", 1, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__outfile_commit(file, &err), BL_OK);
    assert_content("headbodY!ail");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(output_appears_on_commit_only),
        IN_FOLDER(output_of_any_size_is_whole),
        IN_FOLDER(full_disk_keeps_the_old_file),
        IN_FOLDER(only_regular_files_are_replaced),
        IN_FOLDER(reading_refuses_what_is_no_small_regular_file),
        IN_FOLDER(empty_files_map_and_read),
        IN_FOLDER(failing_memory_leaves_nothing),
        IN_FOLDER(written_bytes_can_be_replaced),
        cmocka_unit_test(paths_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
