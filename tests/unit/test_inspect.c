/* The description of a model file: metadata of every type, sizes, and weights counted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/inspect.h"
#include "formats/gguf.h"
#include "quant/quant.h"

enum { ROWS = 70, COLS = 256 };

static char path[256];

static int make_path(void **state) {
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(path, sizeof path, "%.200s/bitloom-inspect-XXXXXX", tmp ? tmp : "/tmp");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static void set_value(bl__gguf_writer *w, const char *key, bl__gguf_value value) {
    assert_int_equal(bl__gguf_set_value(w, key, &value, NULL), BL_OK);
}

static void set_metadata(bl__gguf_writer *w) {
    static const int32_t few[3] = {-1, 2, 3}, many[17] = {0};
    static const float floats[2] = {0.1f, INFINITY};
    static const bl__string strings[2] = {{"a", 1}, {"\xff\xc3\xa9", 3}};
    assert_int_equal(bl__gguf_set_string(w, "general.name", "tiny \"one\"", 10, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_string(w, "broken", "x\xc3", 2, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_u32(w, "u32", 4000000000u, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_f32(w, "f32", 1e-5f, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_bool(w, "bool", true, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_i32s(w, "few", few, 3, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_i32s(w, "many", many, 17, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_f32s(w, "floats", floats, 2, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_strings(w, "strings", strings, 2, NULL), BL_OK);
    set_value(w, "i8", (bl__gguf_value){.type = BL_GGUF_I8, .as.i = -7});
    set_value(w, "u64", (bl__gguf_value){.type = BL_GGUF_U64, .as.u = UINT64_MAX});
    set_value(w, "f64", (bl__gguf_value){.type = BL_GGUF_F64, .as.f = 0.25});
    set_value(w, "nan", (bl__gguf_value){.type = BL_GGUF_F32, .as.f = NAN});
}

/* Writes "ternary" as bl_t2, the same as tq2_0 with one impossible code, and a vector of floats;
 * tells how many weights of the first are -1, 0 and +1. */
static void write_model(size_t counts[3]) {
    static const uint64_t dims[2] = {COLS, ROWS};
    static float weights[ROWS * COLS];
    static uint8_t t2[ROWS * COLS], tq2[ROWS * COLS];
    size_t t2_bytes, tq2_bytes;
    bl__gguf_writer *w;
    bl__outfile *file;
    memset(counts, 0, 3 * sizeof *counts);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        int code = (int)(i * 2654435761u >> 7 & 3) % 3 - 1;
        weights[i] = 0.5f * (float)code;
        counts[code + 1]++;
    }
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_T2, ROWS, COLS, &t2_bytes, NULL), BL_OK);
    assert_int_equal(bl__layout_bytes(BL_LAYOUT_TQ2_0, ROWS, COLS, &tq2_bytes, NULL), BL_OK);
    assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_T2, weights, ROWS, COLS, 0, ROWS, 0, t2, NULL),
                     BL_OK);
    assert_int_equal(
        bl__layout_pack_rows(BL_LAYOUT_TQ2_0, weights, ROWS, COLS, 0, ROWS, 0, tq2, NULL), BL_OK);
    tq2[66 * 5] |= 3;

    assert_int_equal(bl__gguf_writer_create(&w, NULL), BL_OK);
    set_metadata(w);
    assert_int_equal(bl__gguf_add_tensor(w, "ternary", 2, dims, BL_LAYOUT_T2, NULL), BL_OK);
    assert_int_equal(bl__gguf_add_tensor(w, "broken", 2, dims, BL_LAYOUT_TQ2_0, NULL), BL_OK);
    assert_int_equal(bl__gguf_add_tensor(w, "floats", 1, dims, BL_LAYOUT_F32, NULL), BL_OK);
    assert_int_equal(bl__outfile_open(path, &file, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(w, file, NULL), BL_OK);
    assert_int_equal(bl__gguf_write_data(w, t2, t2_bytes, NULL), BL_OK);
    assert_int_equal(bl__gguf_write_data(w, tq2, tq2_bytes, NULL), BL_OK);
    assert_int_equal(bl__gguf_write_data(w, weights, COLS * 4, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_finish(w, NULL), BL_OK);
    assert_int_equal(bl__outfile_commit(file, NULL), BL_OK);
    bl__gguf_writer_free(w);
}

static json_t *inspect(void) {
    char *text;
    size_t len;
    bl_error err = {0};
    if (bl_inspect(path, &text, &len, &err))
        fail_msg("%s", err.message);
    assert_int_equal(strlen(text), len);
    json_error_t error;
    json_t *json = json_loadb(text, len, 0, &error);
    if (!json)
        fail_msg("line %d: %s", error.line, error.text);
    bl_free(text);
    return json;
}

static const char *dump_of(const json_t *object, const char *key) {
    static char text[256];
    const json_t *value = json_object_get(object, key);
    if (!value)
        fail_msg("no %s", key);
    size_t n = json_dumpb(value, text, sizeof text - 1,
                          JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    assert_true(n < sizeof text);
    text[n] = '\0';
    return text;
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void test_metadata(void **state) {
    (void)state;
    size_t counts[3];
    write_model(counts);
    json_t *json = inspect();
    const json_t *m = json_object_get(json, "metadata");
    assert_string_equal(json_string_value(json_object_get(json, "path")), path);
    assert_int_equal(number(json, "version"), 3);
    assert_int_equal(number(json, "alignment"), 32);
    assert_string_equal(dump_of(m, "general.name"), "\"tiny \\\"one\\\"\"");
    assert_string_equal(dump_of(m, "broken"), "\"x\xef\xbf\xbd\"");
    assert_string_equal(dump_of(m, "u32"), "4000000000");
    assert_string_equal(dump_of(m, "f32"), "1e-5");
    assert_string_equal(dump_of(m, "bool"), "true");
    assert_string_equal(dump_of(m, "few"), "[-1,2,3]");
    assert_string_equal(dump_of(m, "many"), "{\"type\":\"i32\",\"length\":17}");
    assert_string_equal(dump_of(m, "floats"), "[0.1,null]");
    assert_string_equal(dump_of(m, "strings"), "[\"a\",\"\xef\xbf\xbd\xc3\xa9\"]");
    assert_string_equal(dump_of(m, "i8"), "-7");
    assert_true(number(m, "u64") > 1.8e19);
    assert_string_equal(dump_of(m, "f64"), "0.25");
    assert_string_equal(dump_of(m, "nan"), "null");
    json_decref(json);
}

static void test_tensors(void **state) {
    (void)state;
    size_t counts[3];
    write_model(counts);
    json_t *json = inspect();
    const json_t *list = json_object_get(json, "tensors");
    assert_int_equal(json_array_size(list), 3);

    const json_t *t = json_array_get(list, 0);
    const double n = ROWS * COLS;
    assert_string_equal(dump_of(t, "name"), "\"ternary\"");
    assert_string_equal(dump_of(t, "type"), "\"bl_t2\"");
    assert_string_equal(dump_of(t, "shape"), "[70,256]");
    assert_int_equal(number(t, "bytes"), 5 * (64 + 16 * 64)); /* five tiles of 16 rows */
    assert_true(fabs(number(t, "bits_per_weight") - 8.0 * 5 * (64 + 16 * 64) / n) < 1e-12);
    assert_true(fabs(number(t, "minus") - (double)counts[0] / n) < 1e-12);
    assert_true(fabs(number(t, "zeros") - (double)counts[1] / n) < 1e-12);
    assert_true(fabs(number(t, "plus") - (double)counts[2] / n) < 1e-12);
    assert_int_equal(number(t, "impossible_rows"), 0);

    t = json_array_get(list, 1);
    assert_string_equal(dump_of(t, "type"), "\"tq2_0\"");
    assert_true(number(t, "bits_per_weight") == 2.0625);
    assert_int_equal(number(t, "impossible_rows"), 1);
    assert_true(fabs(number(t, "minus") + number(t, "zeros") + number(t, "plus") - 1) < 1e-12);

    t = json_array_get(list, 2);
    assert_string_equal(dump_of(t, "shape"), "[256]");
    assert_true(number(t, "bits_per_weight") == 32);
    assert_null(json_object_get(t, "zeros"));

    const json_t *totals = json_object_get(json, "totals");
    const json_t *ternary = json_object_get(totals, "ternary");
    const json_t *types = json_object_get(totals, "types");
    assert_int_equal(number(totals, "tensors"), 3);
    assert_int_equal(number(totals, "weights"), 2 * ROWS * COLS + COLS);
    assert_int_equal(number(ternary, "tensors"), 2);
    assert_int_equal(number(ternary, "impossible_rows"), 1);
    assert_int_equal(number(json_object_get(types, "f32"), "bytes"), COLS * 4);
    json_decref(json);
}

static void test_bad_files(void **state) {
    (void)state;
    size_t counts[3], len, n;
    char *text = NULL, *data;
    bl_error err = {0};
    write_model(counts);
    assert_int_equal(bl__file_read(path, 1 << 24, &data, &len, NULL), BL_OK);
    for (size_t cut = 0; cut < len; cut += 1 + cut / 60) {
        FILE *file = fopen(path, "wb");
        assert_int_equal(fwrite(data, 1, cut, file), cut);
        assert_int_equal(fclose(file), 0);
        err.message[0] = '\0';
        assert_int_not_equal(bl_inspect(path, &text, &n, &err), BL_OK);
        assert_non_null(strstr(err.message, path));
        assert_null(text);
    }
    bl__free(data);
    assert_int_equal(bl_inspect("/no/such/file.gguf", &text, &n, &err), BL_ERR_NOT_FOUND);
}

static void test_no_memory(void **state) {
    (void)state;
    size_t counts[3], len;
    write_model(counts);
    for (long nth = 1;; nth++) {
        char *text = NULL;
        bl_error err = {0};
        bl__alloc_fail_at(nth);
        bl_status status = bl_inspect(path, &text, &len, &err);
        bl__alloc_fail_at(0);
        bl_free(text);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_null(text);
        assert_true(nth < 10000);
    }
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, make_path, remove_path)

int main(void) {
    const struct CMUnitTest tests[] = {WITH_FILE(test_metadata), WITH_FILE(test_tensors),
                                       WITH_FILE(test_bad_files), WITH_FILE(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
