/* safetensors: what is read, what is refused and why, and checkpoints of one or more files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "formats/safetensors.h"

/* Header and n_data bytes 0, 1, 2 ... as a file of *len bytes; release with free(). */
static uint8_t *make_file(const char *header, size_t n_data, size_t *len) {
    uint64_t n = strlen(header);
    uint8_t *file = malloc(8 + n + n_data + 1);
    assert_non_null(file);
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        file[8 + n + i] = (uint8_t)i;
    *len = 8 + n + n_data;
    return file;
}

/* Parses a copy of exactly the given size, so that a sanitizer sees any read past it. */
static bl_status parse_copy(const uint8_t *data, size_t len, bl_error *err) {
    uint8_t *copy = malloc(len ? len : 1);
    bl__safetensors *file = NULL;
    assert_non_null(copy);
    memcpy(copy, data, len);
    bl_status status = bl__safetensors_parse(copy, len, &file, err);
    if (status)
        assert_null(file);
    bl__safetensors_free(file);
    free(copy);
    return status;
}

static void expect(const char *header, size_t n_data, bl_status status, const char *text) {
    bl_error err = {0};
    size_t len;
    uint8_t *file = make_file(header, n_data, &len);
    bl_status got = parse_copy(file, len, &err);
    if (got != status || (text && !strstr(err.message, text)))
        fail_msg("%s: status %d, message '%s'", header, (int)got, err.message);
    free(file);
}

static const char sample[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"none\":{\"dtype\":\"F64\",\"shape\":[0,4],\"data_offsets\":[20,20]},"
    "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]},"
    "\"x.weight\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[21,29]}}  ";

static void test_sample(void **state) {
    (void)state;
    bl_error err = {0};
    bl__safetensors *file = NULL;
    size_t len;
    uint8_t *data = make_file(sample, 29, &len);
    if (bl__safetensors_parse(data, len, &file, &err))
        fail_msg("%s", err.message);
    assert_int_equal(file->n_tensors, 5);
    assert_string_equal(file->tensors[0].name.data, "a");
    assert_string_equal(file->tensors[2].name.data, "none");
    assert_string_equal(file->tensors[4].name.data, "x.weight");
    const bl__safetensor *b = bl__safetensors_find(file, "b");
    assert_int_equal(b->dtype, BL_DTYPE_BF16);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->n_elements, 6);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(b->data[0], 8);
    assert_int_equal(bl__safetensors_find(file, "none")->bytes, 0);
    assert_int_equal(bl__safetensors_find(file, "one")->n_elements, 1);
    assert_null(bl__safetensors_find(file, "__metadata__"));
    assert_null(bl__safetensors_find(file, ""));
    bl__safetensors_free(file);
    bl__safetensors_free(NULL);
    free(data);
    assert_string_equal(bl__dtype_name(BL_DTYPE_BOOL), "BOOL");
    assert_int_equal(bl__dtype_bytes(BL_DTYPE_I16), 2);
}

static void test_every_truncation(void **state) {
    (void)state;
    size_t len;
    uint8_t *data = make_file(sample, 29, &len);
    for (size_t n = 0; n < len; n++) {
        bl_error err = {0};
        assert_int_equal(parse_copy(data, n, &err), BL_ERR_FORMAT);
        assert_true(err.message[0] != '\0');
    }
    data[len] = 0;
    assert_int_equal(parse_copy(data, len, NULL), BL_OK);
    assert_int_equal(parse_copy(data, len + 1, NULL), BL_ERR_FORMAT); /* a byte too many */
    free(data);
}

static void test_every_byte_changed(void **state) {
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};
    size_t len;
    uint8_t *data = make_file(sample, 29, &len);
    for (size_t i = 0; i < len; i++) {
        for (size_t k = 0; k < sizeof masks; k++) {
            bl_error err = {0};
            data[i] ^= masks[k];
            if (parse_copy(data, len, &err))
                assert_true(err.message[0] != '\0');
            data[i] ^= masks[k];
        }
    }
    free(data);
}

static void test_header(void **state) {
    (void)state;
    bl_error err = {0};
    uint64_t n = 100000001;
    uint8_t data[16] = {0};
    memcpy(data, &n, 8);
    assert_int_equal(parse_copy(data, 16, &err), BL_ERR_LIMIT);
    assert_string_equal(err.message,
                        "safetensors header of 100000001 bytes, at most 100000000 allowed");
    n = 9;
    memcpy(data, &n, 8);
    assert_int_equal(parse_copy(data, 16, &err), BL_ERR_FORMAT);
    assert_string_equal(err.message, "safetensors header of 9 bytes, only 8 left");
    expect("{}", 0, BL_OK, NULL);
    expect("{}", 1, BL_ERR_FORMAT, "1 bytes of data, the tensors cover 0");
    expect("", 0, BL_ERR_FORMAT, "JSON");
    expect("[]", 0, BL_ERR_FORMAT, "header is an array");
    expect("{\"a\":}", 0, BL_ERR_FORMAT, "JSON, line 1");
    expect("{} x", 0, BL_ERR_FORMAT, "JSON");
    expect("{\"a\":{\"b\":{\"c\":{}}}}", 0, BL_ERR_LIMIT, "nested deeper than 3");
    expect("{\"a\":\"\xff\"}", 0, BL_ERR_FORMAT, "JSON");
    expect("{\"__metadata__\":{\"k\":1}}", 0, BL_ERR_FORMAT, "expected a string");
    expect("{\"__metadata__\":[]}", 0, BL_ERR_FORMAT, "__metadata__ is an array");
}

/* Brackets inside of strings are no nesting; more values than any file has are refused early. */
static void test_json_caps(void **state) {
    (void)state;
    enum { N = 1 << 21 };
    expect("{\"a\\\"[[[[{{{{\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, BL_OK,
           NULL);
    expect("{\"t\":true}", 0, BL_ERR_FORMAT, "tensor 't' is a boolean");
    expect("{\"t\":null}", 0, BL_ERR_FORMAT, "tensor 't' is null");
    char *header = malloc(2 * (size_t)N + 16);
    assert_non_null(header);
    memcpy(header, "{\"t\":[", 6);
    char *p = header + 6;
    for (int i = 0; i < N; i++, p += 2)
        memcpy(p, "0,", 2);
    memcpy(p, "0]}", 4);
    expect(header, 0, BL_ERR_LIMIT, "JSON of more than 2097152 values");
    free(header);
}

/* A tensor named t of the given fields. */
static void expect_tensor(const char *fields, size_t n_data, bl_status status, const char *text) {
    char header[512];
    snprintf(header, sizeof header, "{\"t\":{%s}}", fields);
    expect(header, n_data, status, text);
}

static void test_bad_tensors(void **state) {
    (void)state;
    expect("{\"t\":7}", 0, BL_ERR_FORMAT, "tensor 't' is an integer, expected an object");
    expect("{\"\":{}}", 0, BL_ERR_FORMAT, "without a name");
    expect("{\"t\":{},\"t\":{}}", 0, BL_ERR_FORMAT, "duplicate");
    expect_tensor("\"shape\":[]", 0, BL_ERR_FORMAT, "dtype is nothing");
    expect_tensor("\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]", 1,
                  BL_ERR_UNSUPPORTED, "dtype 'F8_E4M3'");
    expect_tensor("\"dtype\":\"U8\",\"data_offsets\":[0,1]", 1, BL_ERR_FORMAT, "shape is nothing");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]", 1, BL_ERR_FORMAT,
                  "dimension 0 is not");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]", 1, BL_ERR_FORMAT,
                  "dimension 0 is not");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]", 1,
                  BL_ERR_FORMAT, "JSON");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,1]", 1,
                  BL_ERR_LIMIT, "overflow");
    expect_tensor("\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]", 0,
                  BL_ERR_LIMIT, "overflow");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]", 1,
                  BL_ERR_LIMIT, "9 dimensions");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1]", 1, BL_ERR_FORMAT, "data_offsets must be");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]", 1, BL_ERR_FORMAT,
                  "data_offsets must be");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]", 1, BL_ERR_FORMAT,
                  "data_offsets must be");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]", 1, BL_ERR_FORMAT,
                  "data_offsets [1, 0]");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]", 1, BL_ERR_FORMAT,
                  "in a data section of 1 bytes");
    expect_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4, BL_ERR_FORMAT,
                  "hold 4 bytes, its shape and dtype F32 expect 8");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]", 2, BL_ERR_FORMAT,
                  "leaving a gap");
    expect_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]", 2, BL_ERR_FORMAT,
                  "2 bytes of data, the tensors cover 1");
    expect("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
           3, BL_ERR_FORMAT, "tensor 'b' begins at 1, inside the data before it");
    expect("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
           2, BL_ERR_FORMAT, "inside the data before it");
}

/* A directory of its own for a test, in a static buffer. */
static const char *temporary_directory(void) {
    static char path[256];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bitloom-st-XXXXXX", folder ? folder : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static void write_bytes(const char *directory, const char *name, const void *data, size_t len) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void write_tensors(const char *directory, const char *name, const char *header,
                          size_t n_data) {
    size_t len;
    uint8_t *data = make_file(header, n_data, &len);
    write_bytes(directory, name, data, len);
    free(data);
}

static void remove_files(const char *directory) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json",
                                        "s1.safetensors", "s2.safetensors", "pytorch_model.bin"};
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
}

static void expect_set_failure(const char *directory, bl_status status, const char *text) {
    bl_error err = {0};
    bl__tensor_set *set = NULL;
    assert_int_equal(bl__tensor_set_open(directory, &set, &err), status);
    assert_null(set);
    if (!strstr(err.message, text))
        fail_msg("message '%s' lacks '%s'", err.message, text);
}

#define U8_TENSOR(name, n, begin, end)                                                             \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #n "],\"data_offsets\":[" #begin "," #end "]}"
#define INDEX(map) "{\"metadata\":{\"total_size\":6},\"weight_map\":" map "}"

static void test_single_file(void **state) {
    (void)state;
    bl_error err = {0};
    bl__tensor_set *set = NULL;
    char path[512];
    const char *directory = temporary_directory();
    expect_set_failure(directory, BL_ERR_NOT_FOUND, "neither model.safetensors nor");
    write_bytes(directory, "pytorch_model.bin", "x", 1);
    expect_set_failure(directory, BL_ERR_UNSUPPORTED, "pickle");
    write_bytes(directory, "model.safetensors", "", 0);
    expect_set_failure(directory, BL_ERR_FORMAT, "model.safetensors: 0 bytes");

    write_tensors(directory, "model.safetensors", sample, 29);
    for (int direct = 0; direct <= 1; direct++) {
        snprintf(path, sizeof path, "%s%s", directory, direct ? "/model.safetensors" : "");
        if (bl__tensor_set_open(path, &set, &err))
            fail_msg("%s", err.message);
        assert_int_equal(set->n_tensors, 5);
        for (size_t i = 0; i < set->n_tensors; i++) {
            bl__tensor_set_release(&set->tensors[i]);
            assert_ptr_equal(bl__tensor_set_find(set, set->tensors[i].name.data), &set->tensors[i]);
        }
        assert_int_equal(bl__tensor_set_find(set, "b")->data[11], 19); /* read anew */
        assert_null(bl__tensor_set_find(set, "c"));
        bl__tensor_set_close(set);
    }
    bl__tensor_set_close(NULL);
    remove_files(directory);
    rmdir(directory);
    expect_set_failure(directory, BL_ERR_NOT_FOUND, directory);
}

/* Two shards and their index. */
static void write_shards(const char *directory, const char *index) {
    write_tensors(directory, "s1.safetensors",
                  "{" U8_TENSOR("a", 2, 0, 2) "," U8_TENSOR("b", 1, 2, 3) "}", 3);
    write_tensors(directory, "s2.safetensors", "{" U8_TENSOR("c", 3, 0, 3) "}", 3);
    write_bytes(directory, "model.safetensors.index.json", index, strlen(index));
}

static const char good_index[] =
    INDEX("{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}");

static void test_shards(void **state) {
    (void)state;
    bl_error err = {0};
    bl__tensor_set *set = NULL;
    const char *directory = temporary_directory();
    write_shards(directory, good_index);
    if (bl__tensor_set_open(directory, &set, &err))
        fail_msg("%s", err.message);
    assert_int_equal(set->n_tensors, 3);
    assert_int_equal(bl__tensor_set_find(set, "b")->data[0], 2);
    assert_int_equal(bl__tensor_set_find(set, "c")->bytes, 3);
    bl__tensor_set_close(set);
    remove_files(directory);
    rmdir(directory);
}

static void test_bad_indexes(void **state) {
    (void)state;
    static const struct {
        const char *index;
        bl_status status;
        const char *text;
    } cases[] = {
        {"{", BL_ERR_FORMAT, "model.safetensors.index.json: JSON, line 1"},
        {"{}", BL_ERR_FORMAT, "weight_map is nothing"},
        {"[]", BL_ERR_FORMAT, "weight_map is nothing"},
        {INDEX("[]"), BL_ERR_FORMAT, "weight_map is an array"},
        {INDEX("{\"a\":5}"), BL_ERR_FORMAT, "'a' is in 'an integer'"},
        {INDEX("{\"a\":\"../s1.safetensors\"}"), BL_ERR_FORMAT, "'a' is in '../s1.safetensors'"},
        {INDEX("{\"a\":\"/etc/x.safetensors\"}"), BL_ERR_FORMAT, "expected the name of"},
        {INDEX("{\"a\":\"d/s1.safetensors\"}"), BL_ERR_FORMAT, "expected the name of"},
        {INDEX("{\"a\":\"...safetensors\"}"), BL_ERR_FORMAT, "expected the name of"},
        {INDEX("{\"a\":\"s1.bin\"}"), BL_ERR_FORMAT, "expected the name of"},
        {INDEX("{\"a\":\".safetensors\"}"), BL_ERR_FORMAT, "expected the name of"},
        {INDEX("{\"a\":\"s3.safetensors\"}"), BL_ERR_NOT_FOUND, "s3.safetensors: cannot open"},
        {INDEX("{\"c\":\"s1.safetensors\"}"), BL_ERR_FORMAT, "s1.safetensors: no tensor 'c'"},
        {INDEX("{\"a\":\"s1.safetensors\",\"z\":\"s2.safetensors\"}"), BL_ERR_FORMAT,
         "s2.safetensors: no tensor 'z'"},
    };
    const char *directory = temporary_directory();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_shards(directory, cases[i].index);
        expect_set_failure(directory, cases[i].status, cases[i].text);
    }
    write_shards(directory, good_index);
    write_tensors(directory, "s2.safetensors", "{" U8_TENSOR("a", 3, 0, 3) "}", 3);
    expect_set_failure(directory, BL_ERR_FORMAT, "tensor 'a' is in another shard too");
    write_tensors(directory, "s2.safetensors", "{" U8_TENSOR("c", 3, 0, 3) "}", 2);
    expect_set_failure(directory, BL_ERR_FORMAT, "s2.safetensors: tensor 'c': data_offsets");
    remove_files(directory);
    rmdir(directory);
}

/* Every allocation fails once; nothing may leak. jansson keeps its own allocator: 2.14 loses a
 * byte of a string, and then reads past it, when the buffer it scans into cannot grow. */
static void test_failing_allocations(void **state) {
    (void)state;
    const char *directory = temporary_directory();
    write_shards(directory, good_index);
    bl_status status = BL_ERR_MEMORY;
    long n = 0;
    while (status) {
        bl_error err = {0};
        bl__tensor_set *set = NULL;
        bl__alloc_fail_at(++n);
        status = bl__tensor_set_open(directory, &set, &err);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        bl__tensor_set_close(set);
        assert_true(n < 10000);
    }
    assert_true(n > 20);
    remove_files(directory);
    rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_json_caps),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bad_indexes),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
