/* Checkpoints: what is written comes back, what is cut short or of another model is refused, and a
 * failed write leaves the file that was there. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "train/checkpoint.h"

static char directory[] = "/tmp/bl_checkpoint_XXXXXX";
static char path[64];

typedef struct run {
    bl__recipe recipe;
    bl__network *net;
    bl__optimizer *optimizer;
    bl__param *params;
    size_t n_params;
    bl__moments *moments;
} run;

static void open_run(run *r, const char *setting, uint64_t seed) {
    static const char text[] = "{\"layers\": 1, \"dim\": 16, \"ffn_dim\": 20, \"heads\": 2,"
                               "\"vocab\": 30, \"tokens\": 8, \"rows\": 2}";
    assert_int_equal(
        bl__recipe_parse(text, strlen(text), &setting, setting != NULL, &r->recipe, NULL), BL_OK);
    bl__network_config config = bl__recipe_network(&r->recipe);
    bl__optimizer_config optimizer = bl__recipe_optimizer(&r->recipe);
    assert_int_equal(bl__network_create(&config, 2, 8, NULL, &r->net, NULL), BL_OK);
    r->params = bl__network_params(r->net, &r->n_params);
    assert_int_equal(
        bl__optimizer_create(&optimizer, r->params, r->n_params, NULL, &r->optimizer, NULL), BL_OK);
    r->moments = bl__optimizer_moments(r->optimizer);
    bl__network_initialize(r->net, 0.02f, seed);
    for (size_t i = 0; i < r->n_params; i++)
        for (size_t k = 0; k < r->params[i].rows * r->params[i].cols; k++) {
            r->moments[i].first[k] = (float)(i + 1) * r->params[i].value[k];
            r->moments[i].second[k] = (float)(seed + k);
        }
}

static void close_run(run *r) {
    bl__optimizer_free(r->optimizer);
    bl__network_free(r->net);
    bl__recipe_free(&r->recipe);
}

static const bl__progress SOME = {.step = 7,
                                  .updates = 6,
                                  .skipped = 5,
                                  .rollbacks = 1,
                                  .smoothed = 3.14159265358979,
                                  .validation = 4.25,
                                  .best = NAN,
                                  .seconds = 12.5};

static bl_status write_run(const run *r, bl_error *err) {
    return bl__checkpoint_write(path, &r->recipe, &SOME, r->params, r->n_params, r->moments, NULL,
                                err);
}

static bl_status read_run(run *r, bl_error *err) {
    bl__checkpoint *c = NULL;
    bl_status status = bl__checkpoint_open(path, &c, err);
    if (status)
        return status;
    if (!(status = bl__recipe_match_model(&r->recipe, bl__checkpoint_recipe(c), err)))
        status = bl__checkpoint_read(c, r->params, r->n_params, r->optimizer, err);
    bl__checkpoint_close(c);
    return status;
}

static bool same(const run *a, const run *b) {
    for (size_t i = 0; i < a->n_params; i++) {
        size_t bytes = a->params[i].rows * a->params[i].cols * sizeof(float);
        if (memcmp(a->params[i].value, b->params[i].value, bytes) != 0 ||
            memcmp(a->moments[i].first, b->moments[i].first, bytes) != 0 ||
            memcmp(a->moments[i].second, b->moments[i].second, bytes) != 0)
            return false;
    }
    return true;
}

static void what_is_written_comes_back(void **state) {
    (void)state;
    run a = {0}, b = {0};
    open_run(&a, NULL, 1);
    open_run(&b, NULL, 2);
    assert_int_equal(write_run(&a, NULL), BL_OK);
    assert_false(same(&a, &b));
    assert_int_equal(read_run(&b, NULL), BL_OK);
    assert_true(same(&a, &b));
    bl__checkpoint *c = NULL;
    assert_int_equal(bl__checkpoint_open(path, &c, NULL), BL_OK);
    bl__progress found = *bl__checkpoint_progress(c);
    assert_true(isnan(found.best));
    found.best = SOME.best;
    assert_memory_equal(&found, &SOME, sizeof found);
    bl__checkpoint_close(c);
    close_run(&a);
    close_run(&b);
}

static void another_model_is_refused(void **state) {
    (void)state;
    static const char *const settings[] = {"ffn_dim=24", "layers=2", "vocab=31", "weights=binary",
                                           "rope_base=5000"};
    run a = {0};
    open_run(&a, NULL, 1);
    assert_int_equal(write_run(&a, NULL), BL_OK);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        run b = {0};
        bl_error err = {0};
        open_run(&b, settings[i], 2);
        assert_int_equal(read_run(&b, &err), BL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "a model with "));
        /* Also by the tensors themselves, where these differ. */
        bl__checkpoint *c = NULL;
        assert_int_equal(bl__checkpoint_open(path, &c, NULL), BL_OK);
        if (i < 3)
            assert_int_equal(bl__checkpoint_read(c, b.params, b.n_params, b.optimizer, &err),
                             BL_ERR_FORMAT);
        bl__checkpoint_close(c);
        close_run(&b);
    }
    close_run(&a);
}

static void put_file(const char *data, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    fclose(file);
}

static void every_cut_is_refused(void **state) {
    (void)state;
    run a = {0}, b = {0};
    char *data;
    size_t len;
    open_run(&a, NULL, 1);
    open_run(&b, NULL, 1);
    assert_int_equal(write_run(&a, NULL), BL_OK);
    assert_int_equal(bl__file_read(path, 1 << 20, &data, &len, NULL), BL_OK);
    for (size_t cut = 0; cut < len; cut += cut < 200 || len - cut < 200 ? 1 : 97) {
        bl_error err = {0};
        put_file(data, cut);
        assert_int_equal(read_run(&b, &err), BL_ERR_FORMAT);
        assert_non_null(strstr(err.message, "a.safetensors"));
        assert_true(same(&a, &b));
    }
    /* A safetensors file of something else. */
    static const char other[] = "\x02\0\0\0\0\0\0\0{}";
    bl_error err = {0};
    put_file(other, sizeof other - 1);
    assert_int_equal(read_run(&b, &err), BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "bitloom checkpoint"));
    bl__free(data);
    close_run(&a);
    close_run(&b);
}

static void a_full_disk_leaves_the_old_one(void **state) {
    (void)state;
    run a = {0}, b = {0}, c = {0};
    bl_error err = {0};
    struct rlimit old, small;
    open_run(&a, NULL, 1);
    open_run(&b, NULL, 2);
    open_run(&c, NULL, 3);
    assert_int_equal(write_run(&a, NULL), BL_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 5000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    bl_status status = write_run(&b, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, BL_ERR_IO);
    assert_non_null(strstr(err.message, "a.safetensors"));
    assert_int_equal(read_run(&c, NULL), BL_OK);
    assert_true(same(&a, &c));
    close_run(&a);
    close_run(&b);
    close_run(&c);
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    run a = {0}, b = {0};
    open_run(&a, NULL, 1);
    open_run(&b, NULL, 2);
    for (int reading = 0; reading < 2; reading++) {
        bl_status status = BL_ERR_MEMORY;
        for (long n = 1; status; n++) {
            bl__alloc_fail_at(n);
            status = reading ? read_run(&b, NULL) : write_run(&a, NULL);
            bl__alloc_fail_at(0);
            if (status)
                assert_int_equal(status, BL_ERR_MEMORY);
            assert_true(n < 1000);
        }
    }
    assert_true(same(&a, &b));
    close_run(&a);
    close_run(&b);
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/a.safetensors", directory);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return rmdir(directory); /* fails when anything else was left behind */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(a_full_disk_leaves_the_old_one),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
