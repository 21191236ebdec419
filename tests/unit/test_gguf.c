/* GGUF: what is read, what is refused and why, and that the writer's files read back the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "formats/gguf.h"
#include "formats/names.h"

/* A file under construction. */
typedef struct image {
    uint8_t data[8192];
    size_t len;
} image;

static void put(image *m, const void *data, size_t len) {
    assert_true(len <= sizeof m->data - m->len);
    memcpy(m->data + m->len, data, len);
    m->len += len;
}
static void put_u8(image *m, uint8_t v) {
    put(m, &v, 1);
}
static void put_u32(image *m, uint32_t v) {
    put(m, &v, 4);
}
static void put_u64(image *m, uint64_t v) {
    put(m, &v, 8);
}
static void put_string(image *m, const char *text) {
    put_u64(m, strlen(text));
    put(m, text, strlen(text));
}
static void put_zeros(image *m, size_t n) {
    while (n--)
        put_u8(m, 0);
}
static void pad(image *m, size_t alignment) {
    while (m->len % alignment)
        put_u8(m, 0);
}
static void put_header(image *m, uint32_t version, uint64_t n_tensors, uint64_t n_pairs) {
    m->len = 0;
    put(m, "GGUF", 4);
    put_u32(m, version);
    put_u64(m, n_tensors);
    put_u64(m, n_pairs);
}
static void put_key(image *m, const char *key, uint32_t type) {
    put_string(m, key);
    put_u32(m, type);
}
static void put_array(image *m, uint32_t type, uint64_t count) {
    put_u32(m, type);
    put_u64(m, count);
}
static void put_tensor(image *m, const char *name, uint64_t cols, uint64_t rows, uint32_t type,
                       uint64_t offset) {
    put_string(m, name);
    put_u32(m, 2);
    put_u64(m, cols);
    put_u64(m, rows);
    put_u32(m, type);
    put_u64(m, offset);
}

/* Parses a copy of exactly the given size, so that a sanitizer sees any read past it. */
static bl_status parse_copy(const uint8_t *data, size_t len, bl_error *err) {
    uint8_t *copy = malloc(len ? len : 1);
    bl__gguf *gguf = NULL;
    assert_non_null(copy);
    memcpy(copy, data, len);
    bl_status status = bl__gguf_parse(copy, len, &gguf, err);
    if (status)
        assert_null(gguf);
    bl__gguf_free(gguf);
    free(copy);
    return status;
}

static void expect_failure(const image *m, bl_status status, const char *text) {
    bl_error err = {0};
    assert_int_equal(parse_copy(m->data, m->len, &err), status);
    assert_int_equal(err.code, status);
    if (!strstr(err.message, text))
        fail_msg("message '%s' lacks '%s'", err.message, text);
    assert_int_equal(parse_copy(m->data, m->len, NULL), status);
}

static void expect_success(const image *m) {
    bl_error err = {0};
    if (parse_copy(m->data, m->len, &err))
        fail_msg("%s", err.message);
}

static bl__gguf *parse_image(const image *m) {
    bl__gguf *gguf = NULL;
    bl_error err = {0};
    if (bl__gguf_parse(m->data, m->len, &gguf, &err))
        fail_msg("%s", err.message);
    return gguf;
}

/* Every scalar type, strings, arrays of numbers, strings and arrays, and two tensors. */
static void make_sample(image *m) {
    uint16_t u16 = 65535;
    int16_t i16 = -32768;
    float f32 = 1.5f;
    double f64 = -0.125;
    put_header(m, 3, 2, 17);
    put_key(m, "u8", BL_GGUF_U8), put_u8(m, 255);
    put_key(m, "i8", BL_GGUF_I8), put_u8(m, 0x80);
    put_key(m, "u16", BL_GGUF_U16), put(m, &u16, 2);
    put_key(m, "i16", BL_GGUF_I16), put(m, &i16, 2);
    put_key(m, "u32", BL_GGUF_U32), put_u32(m, UINT32_MAX);
    put_key(m, "i32", BL_GGUF_I32), put_u32(m, 0x80000000u);
    put_key(m, "u64", BL_GGUF_U64), put_u64(m, UINT64_MAX);
    put_key(m, "i64", BL_GGUF_I64), put_u64(m, (uint64_t)1 << 63);
    put_key(m, "f32", BL_GGUF_F32), put(m, &f32, 4);
    put_key(m, "f64", BL_GGUF_F64), put(m, &f64, 8);
    put_key(m, "yes", BL_GGUF_BOOL), put_u8(m, 1);
    put_key(m, "text", BL_GGUF_STRING), put_string(m, "bit\nloom");
    put_key(m, "none", BL_GGUF_STRING), put_string(m, "");
    put_key(m, "numbers", BL_GGUF_ARRAY), put_array(m, BL_GGUF_I32, 3);
    put_u32(m, 7), put_u32(m, (uint32_t)-8), put_u32(m, 9);
    put_key(m, "words", BL_GGUF_ARRAY), put_array(m, BL_GGUF_STRING, 2);
    put_string(m, "one"), put_string(m, "");
    put_key(m, "nested", BL_GGUF_ARRAY), put_array(m, BL_GGUF_ARRAY, 2);
    put_array(m, BL_GGUF_STRING, 2), put_string(m, "a"), put_string(m, "bc");
    put_array(m, BL_GGUF_ARRAY, 1), put_array(m, BL_GGUF_BOOL, 2), put_u8(m, 1), put_u8(m, 0);
    put_key(m, "empty", BL_GGUF_ARRAY), put_array(m, BL_GGUF_F64, 0);
    put_tensor(m, "a.weight", 4, 2, 0, 0);
    put_tensor(m, "b.weight", 128, 1, 36, 32); /* i2_s: 128 / 4 + 32 bytes */
    pad(m, 32);
    put_zeros(m, 32 + 64);
}

/* Holds a parsed file against make_sample(). */
static void check_sample(const bl__gguf *g) {
    assert_int_equal(g->version, 3);
    assert_int_equal(g->n_pairs, 17);
    assert_int_equal(g->n_tensors, 2);
    assert_int_equal(bl__gguf_find(g, "u8")->as.u, 255);
    assert_int_equal(bl__gguf_find(g, "i8")->as.i, -128);
    assert_int_equal(bl__gguf_find(g, "u16")->as.u, 65535);
    assert_int_equal(bl__gguf_find(g, "i16")->as.i, -32768);
    assert_int_equal(bl__gguf_find(g, "u32")->as.u, UINT32_MAX);
    assert_int_equal(bl__gguf_find(g, "i32")->as.i, INT32_MIN);
    assert_true(bl__gguf_find(g, "u64")->as.u == UINT64_MAX);
    assert_true(bl__gguf_find(g, "i64")->as.i == INT64_MIN);
    assert_true(bl__gguf_find(g, "f32")->as.f == 1.5);
    assert_true(bl__gguf_find(g, "f64")->as.f == -0.125);
    assert_int_equal(bl__gguf_find(g, "yes")->as.u, 1);
    assert_true(bl__string_is(bl__gguf_find(g, "text")->as.s, "bit\nloom"));
    assert_true(bl__string_is(bl__gguf_find(g, "none")->as.s, ""));
    assert_null(bl__gguf_find(g, "absent"));

    const bl__gguf_value *numbers = bl__gguf_find(g, "numbers");
    int32_t second;
    assert_int_equal(numbers->as.array.type, BL_GGUF_I32);
    assert_int_equal(numbers->as.array.count, 3);
    memcpy(&second, numbers->as.array.data + 4, 4);
    assert_int_equal(second, -8);
    const bl__gguf_value *words = bl__gguf_find(g, "words");
    assert_int_equal(words->as.array.count, 2);
    assert_true(bl__string_is(words->as.array.strings[0], "one"));
    assert_int_equal(words->as.array.strings[1].len, 0);
    const bl__gguf_value *nested = bl__gguf_find(g, "nested");
    assert_int_equal(nested->as.array.type, BL_GGUF_ARRAY);
    const bl__gguf_value *left = &nested->as.array.items[0], *right = &nested->as.array.items[1];
    assert_true(bl__string_is(left->as.array.strings[1], "bc"));
    assert_int_equal(right->as.array.type, BL_GGUF_ARRAY);
    assert_int_equal(right->as.array.items[0].as.array.type, BL_GGUF_BOOL);
    assert_int_equal(right->as.array.items[0].as.array.data[0], 1);
    assert_int_equal(bl__gguf_find(g, "empty")->as.array.count, 0);

    const bl__gguf_tensor *b = bl__gguf_find_tensor(g, "b.weight");
    assert_ptr_equal(b, &g->tensors[1]);
    assert_int_equal(b->layout, BL_LAYOUT_I2_S);
    assert_string_equal(b->type_name, "i2_s");
    assert_int_equal(b->bytes, 64);
    assert_int_equal(b->offset, 32);
    assert_int_equal(b->cols, 128);
    assert_int_equal(b->rows, 1);
    assert_null(bl__gguf_find_tensor(g, "c.weight"));
}

static void test_sample(void **state) {
    (void)state;
    image m;
    make_sample(&m);
    bl__gguf *g = parse_image(&m);
    check_sample(g);
    assert_int_equal(g->alignment, 32);
    assert_int_equal(g->data_offset, m.len - 96);
    assert_ptr_equal(g->tensors[1].data, m.data + g->data_offset + 32);
    bl__gguf_free(g);
    bl__gguf_free(NULL);
}

static void test_version_2(void **state) {
    (void)state;
    image m;
    make_sample(&m);
    m.data[4] = 2;
    expect_success(&m);
}

static void test_every_truncation(void **state) {
    (void)state;
    image m;
    make_sample(&m);
    for (size_t len = 0; len < m.len; len++) {
        bl_error err = {0};
        assert_int_equal(parse_copy(m.data, len, &err), BL_ERR_FORMAT);
        assert_true(err.message[0] != '\0');
    }
}

/* Whatever one byte becomes, parsing ends in order. */
static void test_every_byte_changed(void **state) {
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};
    image m;
    make_sample(&m);
    for (size_t i = 0; i < m.len; i++) {
        for (size_t k = 0; k < sizeof masks; k++) {
            bl_error err = {0};
            m.data[i] ^= masks[k];
            if (parse_copy(m.data, m.len, &err))
                assert_true(err.message[0] != '\0');
            m.data[i] ^= masks[k];
        }
    }
}

static void test_header(void **state) {
    (void)state;
    image m;
    put_header(&m, 3, 0, 0);
    expect_success(&m);
    m.data[0] = 'g';
    expect_failure(&m, BL_ERR_FORMAT, "not a GGUF file");
    put_header(&m, 1, 0, 0);
    expect_failure(&m, BL_ERR_UNSUPPORTED, "version 1, expected 2 or 3");
    put_header(&m, 4, 0, 0);
    expect_failure(&m, BL_ERR_UNSUPPORTED, "version 4");
    put_header(&m, 0x03000000, 0, 0);
    expect_failure(&m, BL_ERR_UNSUPPORTED, "big-endian");
    put_header(&m, 3, UINT64_MAX, 0);
    expect_failure(&m, BL_ERR_FORMAT, "cannot fit in the 0 bytes left");
    put_header(&m, 3, 0, (uint64_t)1 << 40);
    expect_failure(&m, BL_ERR_FORMAT, "cannot fit");
}

static void test_bad_pairs(void **state) {
    (void)state;
    image m;
    put_header(&m, 3, 0, 2);
    put_key(&m, "k", BL_GGUF_U8), put_u8(&m, 1);
    put_key(&m, "k", BL_GGUF_U8), put_u8(&m, 2);
    expect_failure(&m, BL_ERR_FORMAT, "key 'k' appears twice");

    put_header(&m, 3, 0, 1);
    put_key(&m, "", BL_GGUF_U32), put_u32(&m, 1);
    expect_failure(&m, BL_ERR_FORMAT, "metadata key of 0 bytes");
    put_header(&m, 3, 0, 1);
    put_u64(&m, 3), put(&m, "a\0b", 3), put_u32(&m, BL_GGUF_U32), put_u32(&m, 1);
    expect_failure(&m, BL_ERR_FORMAT, "none of them NUL");
    put_header(&m, 3, 0, 1);
    put_u64(&m, UINT64_MAX), put_zeros(&m, 64);
    expect_failure(&m, BL_ERR_FORMAT, "expected 18446744073709551615");

    put_header(&m, 3, 0, 1);
    put_key(&m, "k", 13), put_u64(&m, 1);
    expect_failure(&m, BL_ERR_FORMAT, "key 'k': unknown type 13");
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", UINT32_MAX), put_u64(&m, 1);
    expect_failure(&m, BL_ERR_FORMAT, "unknown type 4294967295");
    put_header(&m, 3, 0, 1);
    put_key(&m, "flag", BL_GGUF_BOOL), put_u8(&m, 2);
    expect_failure(&m, BL_ERR_FORMAT, "key 'flag': bool of value 2");
    put_header(&m, 3, 0, 1);
    put_key(&m, "s", BL_GGUF_STRING), put_u64(&m, (uint64_t)1 << 63), put_zeros(&m, 8);
    expect_failure(&m, BL_ERR_FORMAT, "key 's': string");
}

static void test_bad_arrays(void **state) {
    (void)state;
    image m;
    put_header(&m, 3, 0, 1);
    put_key(&m, "a", BL_GGUF_ARRAY), put_array(&m, 77, 0);
    expect_failure(&m, BL_ERR_FORMAT, "array of unknown type 77");
    put_header(&m, 3, 0, 1);
    put_key(&m, "a", BL_GGUF_ARRAY), put_array(&m, BL_GGUF_U64, (uint64_t)1 << 61);
    expect_failure(&m, BL_ERR_FORMAT, "2305843009213693952 elements");
    put_header(&m, 3, 0, 1);
    put_key(&m, "a", BL_GGUF_ARRAY), put_array(&m, BL_GGUF_STRING, 3), put_zeros(&m, 16);
    expect_failure(&m, BL_ERR_FORMAT, "array of 3 elements");
    put_header(&m, 3, 0, 1);
    put_key(&m, "a", BL_GGUF_ARRAY), put_array(&m, BL_GGUF_BOOL, 3);
    put_u8(&m, 0), put_u8(&m, 1), put_u8(&m, 9);
    expect_failure(&m, BL_ERR_FORMAT, "bool of value 9");

    for (int depth = 8; depth <= 9; depth++) { /* arrays around one array of a byte */
        put_header(&m, 3, 0, 1);
        put_key(&m, "deep", BL_GGUF_ARRAY);
        for (int i = 1; i < depth; i++)
            put_array(&m, BL_GGUF_ARRAY, 1);
        put_array(&m, BL_GGUF_U8, 1), put_u8(&m, 5);
        if (depth == 8)
            expect_success(&m);
        else
            expect_failure(&m, BL_ERR_LIMIT, "nested deeper than 8");
    }
}

static void test_alignment(void **state) {
    (void)state;
    image m;
    static const uint32_t bad[] = {0, 3, 48, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_header(&m, 3, 0, 1);
        put_key(&m, "general.alignment", BL_GGUF_U32), put_u32(&m, bad[i]);
        expect_failure(&m, BL_ERR_FORMAT, "expected a power of two");
    }
    put_header(&m, 3, 0, 1);
    put_key(&m, "general.alignment", BL_GGUF_STRING), put_string(&m, "32");
    expect_failure(&m, BL_ERR_FORMAT, "is of type string, expected an integer");

    put_header(&m, 3, 2, 1);
    put_key(&m, "general.alignment", BL_GGUF_U32), put_u32(&m, 128);
    put_tensor(&m, "a", 1, 1, 0, 0);
    put_tensor(&m, "b", 1, 1, 0, 128);
    pad(&m, 128);
    put_zeros(&m, 132);
    expect_success(&m);
    bl__gguf *g = parse_image(&m);
    assert_int_equal(g->alignment, 128);
    assert_int_equal(g->data_offset % 128, 0);
    bl__gguf_free(g);
}

/* One tensor of the given shape and type, with `bytes` of data. */
static void make_tensor(image *m, uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset,
                        size_t bytes) {
    put_header(m, 3, 1, 0);
    put_tensor(m, "t", cols, rows, type, offset);
    pad(m, 32);
    put_zeros(m, bytes);
}

static void test_bad_tensors(void **state) {
    (void)state;
    image m;
    put_header(&m, 3, 2, 0);
    put_tensor(&m, "same", 8, 1, 0, 0), put_tensor(&m, "same", 8, 1, 0, 32);
    pad(&m, 32), put_zeros(&m, 64);
    expect_failure(&m, BL_ERR_FORMAT, "tensor 'same' appears twice");
    put_header(&m, 3, 1, 0);
    put_string(&m, "t"), put_u32(&m, 5), put_zeros(&m, 64);
    expect_failure(&m, BL_ERR_FORMAT, "5 dimensions");

    make_tensor(&m, 0, 4, 0, 0, 64);
    expect_failure(&m, BL_ERR_FORMAT, "dimension 0 is 0");
    make_tensor(&m, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0, 64);
    expect_failure(&m, BL_ERR_LIMIT, "overflow");
    make_tensor(&m, (uint64_t)1 << 62, 1, 0, 0, 64);
    expect_failure(&m, BL_ERR_LIMIT, "tensor 't'");
    make_tensor(&m, (uint64_t)1 << 62, 1, 27, 0, 64);
    expect_failure(&m, BL_ERR_LIMIT, "overflows");
    make_tensor(&m, 8, 1, 0, 1, 64);
    expect_failure(&m, BL_ERR_FORMAT, "offset 1, expected a multiple of 32");
    make_tensor(&m, 8, 1, 0, 64, 64);
    expect_failure(&m, BL_ERR_FORMAT, "32 bytes at offset 64, the data section has 64");
    make_tensor(&m, 8, 1, 0, (uint64_t)-32, 64);
    expect_failure(&m, BL_ERR_FORMAT, "the data section has 64");
    make_tensor(&m, 17, 1, 0, 0, 64);
    expect_failure(&m, BL_ERR_FORMAT, "68 bytes at offset 0");
    make_tensor(&m, 8, 1, 4242, 0, 64);
    expect_failure(&m, BL_ERR_UNSUPPORTED, "tensor 't': unknown tensor type 4242");
    make_tensor(&m, 8, 1, 4, 0, 64); /* q4_2, long gone */
    expect_failure(&m, BL_ERR_UNSUPPORTED, "unknown tensor type 4");
    make_tensor(&m, 250, 1, 35, 0, 512);
    expect_failure(&m, BL_ERR_FORMAT, "tensor 't'");
    make_tensor(&m, 250, 1, 12, 0, 512);
    expect_failure(&m, BL_ERR_FORMAT, "250 columns, type q4_k needs a multiple of 256");

    put_header(&m, 3, 2, 0);
    put_tensor(&m, "late", 9, 1, 0, 32), put_tensor(&m, "early", 9, 1, 0, 0);
    pad(&m, 32), put_zeros(&m, 128);
    expect_failure(&m, BL_ERR_FORMAT, "tensors 'early' and 'late' overlap");
    put_header(&m, 3, 2, 0);
    put_tensor(&m, "x", 8, 1, 0, 32), put_tensor(&m, "y", 8, 1, 0, 32);
    pad(&m, 32), put_zeros(&m, 128);
    expect_failure(&m, BL_ERR_FORMAT, "overlap");
}

static void check_size(uint32_t type, uint64_t cols, uint64_t rows, const char *name,
                       size_t bytes) {
    image m;
    make_tensor(&m, cols, rows, type, 0, bytes);
    bl__gguf *g = parse_image(&m); /* the data fit exactly ... */
    if (name)
        assert_string_equal(g->tensors[0].type_name, name);
    assert_int_equal(g->tensors[0].bytes, bytes);
    bl__gguf_free(g);
    m.len--; /* ... and one byte less does not */
    expect_failure(&m, BL_ERR_FORMAT, "the data section has");
}

static void test_sizes(void **state) {
    (void)state;
    check_size(0, 3, 5, "f32", 60);
    check_size(36, 256, 3, "i2_s", 256 * 3 / 4 + 32);
    check_size(35, 256, 3, "tq2_0", (size_t)66 * 3);
    check_size(4096, 20, 17, NULL, (size_t)2 * (64 + 2 * 64));
    check_size(6, 64, 2, "q5_0", 88);
    check_size(10, 256, 1, "q2_k", 84);
    check_size(21, 512, 1, "iq3_s", 220);
    check_size(26, 7, 3, "i32", 84);
    check_size(28, 1, 1, "f64", 8);
    check_size(38, 64, 4, "tl1", 64);
    check_size(39, 64, 2, "mxfp4", 68);
    check_size(335, 128, 4, "iq2_bn_r4", (size_t)4 * (4 + 32));
}

/* Type 39 with a "<name>_scale" beside it is Microsoft's TL2, not MXFP4. */
static void test_tl2(void **state) {
    (void)state;
    image m;
    put_header(&m, 3, 2, 0);
    put_tensor(&m, "w", 352, 32, 39, 0);
    put_tensor(&m, "w_scale", 1, 1, 0, 4800);
    pad(&m, 32), put_zeros(&m, 4804);
    bl__gguf *g = parse_image(&m);
    assert_string_equal(g->tensors[0].type_name, "tl2");
    assert_int_equal(g->tensors[0].bytes, 96 * 32 / 3 * 5 / 8 + 256 * 32 / 4 + 32);
    bl__gguf_free(g);
}

static void test_getters(void **state) {
    (void)state;
    image m;
    make_sample(&m);
    bl__gguf *g = parse_image(&m);
    bl_error err = {0};
    uint32_t u = 42;
    float f = 42;
    bool b = false;
    bl__string s = {0};
    assert_int_equal(bl__gguf_get_u32(g, "u16", true, &u, &err), BL_OK);
    assert_int_equal(u, 65535);
    assert_int_equal(bl__gguf_get_u32(g, "absent", false, &u, &err), BL_OK);
    assert_int_equal(u, 65535);
    assert_int_equal(bl__gguf_get_u32(g, "absent", true, &u, &err), BL_ERR_NOT_FOUND);
    assert_string_equal(err.message, "key 'absent' is missing");
    assert_int_equal(bl__gguf_get_u32(g, "i8", true, &u, &err), BL_ERR_FORMAT);
    assert_string_equal(err.message, "key 'i8' is -128, expected 0 to 4294967295");
    assert_int_equal(bl__gguf_get_u32(g, "u64", true, &u, &err), BL_ERR_FORMAT);
    assert_int_equal(bl__gguf_get_u32(g, "f32", true, &u, &err), BL_ERR_FORMAT);
    assert_string_equal(err.message, "key 'f32' is of type f32, expected an integer");
    assert_int_equal(u, 65535);
    assert_int_equal(bl__gguf_get_f32(g, "f64", true, &f, &err), BL_OK);
    assert_true(f == -0.125f);
    assert_int_equal(bl__gguf_get_f32(g, "u8", true, &f, &err), BL_ERR_FORMAT);
    assert_int_equal(bl__gguf_get_bool(g, "yes", true, &b, &err), BL_OK);
    assert_true(b);
    assert_int_equal(bl__gguf_get_bool(g, "u8", true, &b, &err), BL_ERR_FORMAT);
    assert_int_equal(bl__gguf_get_string(g, "text", true, &s, &err), BL_OK);
    assert_int_equal(s.len, 8);
    assert_int_equal(bl__gguf_get_string(g, "words", true, &s, &err), BL_ERR_FORMAT);
    bl__gguf_free(g);
}

/* The path of a new temporary file, in a static buffer. */
static const char *temporary_path(void) {
    static char path[256];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bitloom-gguf-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return path;
}

/* Copies a parsed file through the writer: the pairs as values, the tensors in two pieces. */
static bl_status write_copy(const bl__gguf *g, const char *path, bl_error *err) {
    bl__gguf_writer *w = NULL;
    bl__outfile *file = NULL;
    bl_status status = bl__gguf_writer_create(&w, err);
    for (size_t i = 0; i < g->n_pairs && !status; i++) {
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)g->pairs[i].key.len, g->pairs[i].key.data);
        status = bl__gguf_set_value(w, key, &g->pairs[i].value, err);
    }
    for (size_t i = 0; i < g->n_tensors && !status; i++) {
        const bl__gguf_tensor *t = &g->tensors[i];
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
        status = bl__gguf_add_tensor(w, name, t->n_dims, t->dims, t->layout, err);
    }
    if (status || (status = bl__outfile_open(path, &file, err)) ||
        (status = bl__gguf_writer_begin(w, file, err)))
        goto done;
    for (size_t i = 0; i < g->n_tensors && !status; i++) {
        const bl__gguf_tensor *t = &g->tensors[i];
        if (!(status = bl__gguf_write_data(w, t->data, 5, err)))
            status = bl__gguf_write_data(w, t->data + 5, t->bytes - 5, err);
    }
    if (status || (status = bl__gguf_writer_finish(w, err)))
        goto done;
    status = bl__outfile_commit(file, err);
    file = NULL;
done:
    bl__outfile_abort(file);
    bl__gguf_writer_free(w);
    return status;
}

static void test_round_trip(void **state) {
    (void)state;
    image m;
    bl_error err = {0};
    char *bytes;
    size_t len;
    const char *path = temporary_path();
    make_sample(&m);
    for (size_t i = 0; i < 96; i++) /* recognisable data */
        m.data[m.len - 96 + i] = (uint8_t)i;
    bl__gguf *g = parse_image(&m);
    if (write_copy(g, path, &err))
        fail_msg("%s", err.message);
    bl__gguf_free(g);
    assert_int_equal(bl__file_read(path, 1 << 20, &bytes, &len, &err), BL_OK);
    assert_int_equal(len, m.len); /* the sample is laid out as the writer does it */
    assert_memory_equal(bytes, m.data, len);
    assert_int_equal(bl__gguf_parse((const uint8_t *)bytes, len, &g, &err), BL_OK);
    check_sample(g);
    bl__gguf_free(g);
    bl__free(bytes);
    unlink(path);
}

/* Sets one pair of each kind and two tensors under an alignment of 256; writes to `path`. */
static bl_status write_typed(const bl__gguf *unused, const char *path, bl_error *err) {
    static const bl__string words[] = {{"x", 1}, {"", 0}, {"y\0z", 3}};
    static const int32_t ints[] = {-1, 2};
    static const float floats[] = {0.5f, -0.25f, 8.0f};
    static const uint64_t dims[] = {4, 2, 3};
    static const float weights[24] = {1, 2, 3};
    bl__gguf_writer *w = NULL;
    bl__outfile *file = NULL;
    bl_status status;
    (void)unused;
    if ((status = bl__gguf_writer_create(&w, err)) ||
        (status = bl__gguf_set_u32(w, "general.alignment", 256, err)) ||
        (status = bl__gguf_set_u32(w, "u", 7, err)) ||
        (status = bl__gguf_set_f32(w, "f", 0.75f, err)) ||
        (status = bl__gguf_set_bool(w, "b", true, err)) ||
        (status = bl__gguf_set_string(w, "s", "t\0u", 3, err)) ||
        (status = bl__gguf_set_strings(w, "ss", words, 3, err)) ||
        (status = bl__gguf_set_i32s(w, "is", ints, 2, err)) ||
        (status = bl__gguf_set_f32s(w, "fs", floats, 3, err)) ||
        (status = bl__gguf_add_tensor(w, "w0", 3, dims, BL_LAYOUT_F32, err)) ||
        (status = bl__gguf_add_tensor(w, "w1", 1, dims, BL_LAYOUT_F16, err)) ||
        (status = bl__outfile_open(path, &file, err)) ||
        (status = bl__gguf_writer_begin(w, file, err)) ||
        (status = bl__gguf_write_data(w, weights, sizeof weights, err)) ||
        (status = bl__gguf_write_data(w, weights, 8, err)) ||
        (status = bl__gguf_writer_finish(w, err)))
        goto done;
    status = bl__outfile_commit(file, err);
    file = NULL;
done:
    bl__outfile_abort(file);
    bl__gguf_writer_free(w);
    return status;
}

static void test_typed_setters(void **state) {
    (void)state;
    bl_error err = {0};
    bl__gguf *g = NULL;
    char *bytes;
    size_t len;
    uint32_t u;
    float f;
    bool b;
    bl__string s;
    const char *path = temporary_path();
    if (write_typed(NULL, path, &err))
        fail_msg("%s", err.message);
    assert_int_equal(bl__file_read(path, 1 << 20, &bytes, &len, &err), BL_OK);
    assert_int_equal(len % 256, 0);
    assert_int_equal(bl__gguf_parse((const uint8_t *)bytes, len, &g, &err), BL_OK);
    assert_int_equal(g->alignment, 256);
    assert_int_equal(bl__gguf_get_u32(g, "u", true, &u, &err), BL_OK);
    assert_int_equal(u, 7);
    assert_int_equal(bl__gguf_get_f32(g, "f", true, &f, &err), BL_OK);
    assert_true(f == 0.75f);
    assert_int_equal(bl__gguf_get_bool(g, "b", true, &b, &err), BL_OK);
    assert_true(b);
    assert_int_equal(bl__gguf_get_string(g, "s", true, &s, &err), BL_OK);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.data, "t\0u", 3);
    const bl__gguf_value *ss = bl__gguf_find(g, "ss"), *is = bl__gguf_find(g, "is"),
                         *fs = bl__gguf_find(g, "fs");
    assert_int_equal(ss->as.array.count, 3);
    assert_memory_equal(ss->as.array.strings[2].data, "y\0z", 3);
    assert_memory_equal(is->as.array.data, ((int32_t[]){-1, 2}), 8);
    assert_memory_equal(fs->as.array.data, ((float[]){0.5f, -0.25f, 8.0f}), 12);
    const bl__gguf_tensor *w0 = bl__gguf_find_tensor(g, "w0");
    assert_int_equal(w0->n_dims, 3);
    assert_int_equal(w0->rows, 6);
    assert_int_equal(w0->cols, 4);
    assert_int_equal(bl__gguf_find_tensor(g, "w1")->offset, 256);
    bl__gguf_free(g);
    bl__free(bytes);
    unlink(path);
}

static void test_writer_refusals(void **state) {
    (void)state;
    bl_error err = {0};
    bl__gguf_writer *w = NULL;
    bl__outfile *file = NULL;
    uint64_t dims[] = {4, 2};
    uint8_t data[64] = {0};
    bl__gguf_value value = {.type = BL_GGUF_U8, .as.u = 256};
    const char *path = temporary_path();
    assert_int_equal(bl__gguf_writer_create(&w, &err), BL_OK);
    assert_int_equal(bl__gguf_set_u32(w, "k", 1, &err), BL_OK);
    assert_int_equal(bl__gguf_set_bool(w, "k", true, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "key 'k' is set twice");
    assert_int_equal(bl__gguf_set_u32(w, "", 1, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_set_u32(w, "general.alignment", 33, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_set_value(w, "v", &value, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_set_value(w, "general.alignment", &value, &err), BL_ERR_ARGUMENT);
    value = (bl__gguf_value){.type = BL_GGUF_U16, .as.u = 64};
    assert_int_equal(bl__gguf_set_value(w, "general.alignment", &value, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "general.alignment must be of type u32");
    value.type = BL_GGUF_U32; /* as read from another file */
    assert_int_equal(bl__gguf_set_value(w, "general.alignment", &value, &err), BL_OK);
    value.type = (bl__gguf_type)99;
    assert_int_equal(bl__gguf_set_value(w, "v", &value, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_add_tensor(w, "t", 2, dims, BL_LAYOUT_F32, &err), BL_OK);
    assert_int_equal(bl__gguf_add_tensor(w, "t", 2, dims, BL_LAYOUT_F32, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "tensor 't' is added twice");
    assert_int_equal(bl__gguf_add_tensor(w, "h", 2, dims, BL_LAYOUT_HF_U8, &err),
                     BL_ERR_UNSUPPORTED);
    assert_int_equal(bl__gguf_add_tensor(w, "q", 2, dims, BL_LAYOUT_TQ2_0, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_add_tensor(w, "d", 5, dims, BL_LAYOUT_F32, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_add_tensor(w,
                                         "a name of more than sixty-three bytes, which the "
                                         "reader of ggml would refuse",
                                         2, dims, BL_LAYOUT_F32, &err),
                     BL_ERR_ARGUMENT);
    dims[1] = 0;
    assert_int_equal(bl__gguf_add_tensor(w, "z", 2, dims, BL_LAYOUT_F32, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_set_u32(w, "general.alignment", 64, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_write_data(w, data, 1, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_writer_finish(w, &err), BL_ERR_ARGUMENT);

    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(w, file, &err), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(w, file, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_set_u32(w, "late", 1, &err), BL_ERR_ARGUMENT);
    dims[1] = 2;
    assert_int_equal(bl__gguf_add_tensor(w, "late", 2, dims, BL_LAYOUT_F32, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_write_data(w, data, 33, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_write_data(w, data, 31, &err), BL_OK);
    assert_int_equal(bl__gguf_writer_finish(w, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "t: 31 of 32 bytes written");
    assert_int_equal(bl__gguf_write_data(w, data, 1, &err), BL_OK);
    assert_int_equal(bl__gguf_write_data(w, data, 1, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__gguf_writer_finish(w, &err), BL_OK);
    bl__outfile_abort(file);
    bl__gguf_writer_free(w);
    bl__gguf_writer_free(NULL);
    unlink(path);
}

/* Names whose hashes share their low bits are refused, not searched for ever. */
static void test_colliding_names(void **state) {
    (void)state;
    enum { WANTED = 1100, SLOTS = 4096 };
    static char texts[WANTED][9];
    static bl__string strings[WANTED];
    size_t n = 0;
    for (uint32_t i = 0; n < WANTED; i++) {
        uint64_t hash = 0xcbf29ce484222325u;
        snprintf(texts[n], sizeof texts[n], "%08x", i);
        for (int k = 0; k < 8; k++)
            hash = (hash ^ (uint8_t)texts[n][k]) * 0x100000001b3u;
        if (((uint32_t)(hash ^ (hash >> 32)) & (SLOTS - 1)) != 0)
            continue;
        strings[n] = (bl__string){.data = texts[n], .len = 8};
        n++;
    }
    bl__names names = {0};
    bl__names_result result = BL_NAMES_ADDED;
    assert_true(bl__names_reserve(&names, WANTED));
    for (n = 0; n < WANTED && result == BL_NAMES_ADDED; n++)
        result = bl__names_add(&names, strings, sizeof strings[0], n);
    assert_int_equal(result, BL_NAMES_CROWDED);
    assert_int_equal(bl__names_find(&names, strings, sizeof strings[0], strings[77]), 77);
    bl__names_free(&names);
}

static bl_status parse_again(const bl__gguf *unused, const char *path, bl_error *err) {
    image m;
    (void)unused;
    (void)path;
    make_sample(&m);
    return parse_copy(m.data, m.len, err);
}

/* Every allocation fails once; nothing may leak (the sanitizer watches) or succeed by chance. */
static void test_failing_allocations(void **state) {
    (void)state;
    bl_status (*const jobs[])(const bl__gguf *, const char *,
                              bl_error *) = {parse_again, write_typed, write_copy};
    image m;
    const char *path = temporary_path();
    make_sample(&m);
    bl__gguf *g = parse_image(&m);
    for (size_t job = 0; job < sizeof jobs / sizeof jobs[0]; job++) {
        bl_status status = BL_ERR_MEMORY;
        long n = 0;
        while (status) {
            bl_error err = {0};
            bl__alloc_fail_at(++n);
            status = jobs[job](g, path, &err);
            bl__alloc_fail_at(0);
            if (status)
                assert_int_equal(status, BL_ERR_MEMORY);
            assert_true(n < 1000);
        }
        assert_true(n > 5);
    }
    bl__gguf_free(g);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_bad_pairs),
        cmocka_unit_test(test_bad_arrays),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_tl2),
        cmocka_unit_test(test_getters),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_typed_setters),
        cmocka_unit_test(test_writer_refusals),
        cmocka_unit_test(test_colliding_names),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
