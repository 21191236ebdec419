/* Dummy models: the names of shapes, what is refused, and that what is written loads and runs, in
 * every type, the same for any number of threads. */
#include <dirent.h>
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

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/dummy.h"
#include "bitloom/model.h"
#include "bitloom/tokenizer.h"
#include "formats/gguf.h"

static char directory[64], path[128];

static size_t n_files(void) {
    size_t n = 0;
    DIR *d = opendir(directory);
    assert_non_null(d);
    for (const struct dirent *entry; (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    closedir(d);
    return n;
}

static bl_dummy_shape shape_of(const char *text) {
    bl_dummy_shape shape = {0};
    bl_error err;
    if (bl_dummy_shape_read(text, &shape, &err))
        fail_msg("%s: %s", text, err.message);
    return shape;
}

/* Two layers of 256, with columns that every layout's blocks divide. */
static bl_dummy_params small_params(void) {
    bl_dummy_params params = {.shape = shape_of("2x256x512x4x2"), .seed = 3, .n_threads = 2};
    params.shape.vocab = 320;
    return params;
}

static void write_dummy(const bl_dummy_params *params) {
    bl_error err;
    if (bl_dummy_write(path, params, NULL, &err))
        fail_msg("%s", err.message);
}

static void test_shapes(void **state) {
    (void)state;
    size_t n;
    const bl_dummy_shape *shapes = bl_dummy_shapes(&n);
    for (size_t i = 0; i < n; i++) {
        bl_dummy_shape s = shape_of(shapes[i].name);
        assert_memory_equal(&s, &shapes[i], sizeof s);
        assert_int_equal(s.dim % (2 * s.n_heads), 0);
        assert_int_equal(s.n_heads % s.n_kv_heads, 0);
    }
    bl_dummy_shape s = shape_of("2b4t");
    assert_string_equal(s.name, "2B4T");
    assert_true(s.n_layers == 30 && s.dim == 2560 && s.ffn_dim == 6912 && s.n_heads == 20 &&
                s.n_kv_heads == 5 && s.vocab == 128256 && s.context == 4096);
    s = shape_of("12x768x2048");
    assert_true(s.n_layers == 12 && s.dim == 768 && s.ffn_dim == 2048 && s.n_heads == 6 &&
                s.n_kv_heads == 6);
    assert_true(shape_of("1x96x10").n_heads == 3); /* of 32 */
    s = shape_of("12x768x2048x12");
    assert_true(s.n_heads == 12 && s.n_kv_heads == 12);
    s = shape_of("12x768x2048x12x4");
    assert_true(s.n_heads == 12 && s.n_kv_heads == 4);
}

static void test_bad_shapes(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "8B",
                                      "12x768",
                                      "12x768x2048x12x4x2",
                                      "12x768x2048x",
                                      "x768x2048",
                                      "12x-768x2048",
                                      "12x768x2048x7",
                                      "12x768x2048x12x5",
                                      "12x768x2048x0",
                                      "0x768x2048",
                                      "12x0x2048",
                                      "12x768x0",
                                      "12x767x2048",
                                      "5000x768x2048",
                                      "12x9999999x2048",
                                      "99999999999x768x2048"};
    bl_dummy_shape before = shape_of("125M"), s = before;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bl_error err = {0};
        if (bl_dummy_shape_read(bad[i], &s, &err) != BL_ERR_ARGUMENT)
            fail_msg("%s was taken", bad[i]);
        assert_non_null(strstr(err.message, "shape"));
        assert_memory_equal(&s, &before, sizeof s);
    }
}

/* Every type loads; the ternary and binary ones as ternary weights, each for itself. */
static void test_types(void **state) {
    (void)state;
    static const struct {
        const char *type, *architecture, *weights;
    } types[] = {
        {"bl_t2", "bitnet", "bl_t2"},  {"i2_s", "bitnet", "bl_t2"},   {"tq1_0", "bitnet", "bl_t2"},
        {"tq2_0", "bitnet", "bl_t2"},  {"q1_0", "bitnet", "bl_t2"},   {"q2_0", "bitnet", "bl_t2"},
        {"iq1_bn", "bitnet", "bl_t2"}, {"iq2_bn", "bitnet", "bl_t2"}, {"f16", "llama", "f16"},
        {"bf16", "llama", "bf16"},     {"f32", "llama", "f32"},       {"q8_0", "llama", "q8_0"},
        {"q4_0", "llama", "q4_0"},     {"q4_1", "llama", "q4_1"},     {"bl_t5", "bitnet", "bl_t5"},
        {"bl_b1", "bitnet", "bl_b1"},  {"native", "bitnet", "bl_t2"}};
    bl_dummy_params params = small_params();
    float first = 0, binary = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        static const bl_token tokens[] = {1, 70, 300};
        bl_model *model = NULL;
        bl_session *session = NULL;
        bl_error err;
        params.type = types[i].type;
        write_dummy(&params);
        if (bl_model_open(path, NULL, &model, &err) ||
            bl_session_create(model, NULL, &session, &err) ||
            bl_session_eval(session, tokens, 2, NULL, &err) ||
            bl_session_eval(session, tokens + 2, 1, NULL, &err))
            fail_msg("%s: %s", types[i].type, err.message);
        const bl_model_info *info = bl_model_get_info(model);
        assert_string_equal(info->architecture, types[i].architecture);
        assert_string_equal(info->weights, types[i].weights);
        assert_string_equal(info->name, "dummy-2x256x512x4x2");
        assert_int_equal(info->vocab, 320);
        assert_int_equal(info->n_kv_heads, 2);
        float logit = bl_session_logits(session)[7];
        assert_true(isfinite(logit) && logit != 0);
        if (i == 0)
            first = logit;
        else if (i < 4 || i == 6 || i == 7 || i == 14 || i == 16)
            assert_true(logit == first); /* the same weights, so the same bits */
        else if (i == 4)
            binary = logit;
        else if (i == 15)
            assert_true(logit == binary);
        bl_session_free(session);
        bl_model_close(model);
    }
    params.shape = shape_of("2B4T");
    params.shape.n_layers = 1;
    params.shape.dim = 40;
    params.shape.vocab = 260;
    params.type = NULL;
    write_dummy(&params);
    bl_model *model = NULL;
    assert_int_equal(bl_model_open(path, NULL, &model, NULL), BL_OK);
    assert_string_equal(bl_model_get_info(model)->activation, "relu2");
    assert_string_equal(bl_model_get_info(model)->architecture, "bitnet-b1.58");
    bl_model_close(model);
}

/* The three values come about equally often, in every row. */
static void test_weights(void **state) {
    (void)state;
    bl_dummy_params params = small_params();
    write_dummy(&params);
    bl__filemap map;
    bl__gguf *gguf = NULL;
    assert_int_equal(bl__filemap_open(path, &map, NULL), BL_OK);
    assert_int_equal(bl__gguf_parse(map.data, map.len, &gguf, NULL), BL_OK);
    const bl__gguf_tensor *t = bl__gguf_find_tensor(gguf, "blk.1.ffn_down.weight");
    assert_non_null(t);
    assert_true(t->rows == 256 && t->cols == 512);
    float row[512], before[512] = {0};
    for (size_t r = 0; r < t->rows; r++) {
        size_t n[3] = {0};
        float scale;
        uint8_t codes[512];
        bl__layout_unpack_row(t->layout, t->data, t->rows, t->cols, r, row);
        assert_true(bl__row_is_ternary(row, 512, codes, &scale));
        assert_true(fabsf(scale - 1 / sqrtf(512 * 2 / 3.0f)) < 0.001f);
        for (size_t i = 0; i < 512; i++)
            n[codes[i]]++;
        for (size_t code = 0; code < 3; code++)
            assert_in_range(n[code], 512 / 3 - 80, 512 / 3 + 80); /* seven deviations */
        assert_memory_not_equal(row, before, sizeof row);
        memcpy(before, row, sizeof row);
    }
    bl__gguf_free(gguf);
    bl__filemap_close(&map);
}

static void test_same_file(void **state) {
    (void)state;
    char *files[3];
    size_t sizes[3];
    bl_dummy_report report;
    for (uint32_t i = 0; i < 3; i++) {
        bl_dummy_params params = small_params();
        params.n_threads = i + 1;
        params.seed += i == 2;
        assert_int_equal(bl_dummy_write(path, &params, &report, NULL), BL_OK);
        assert_int_equal(bl__file_read(path, 1 << 24, &files[i], &sizes[i], NULL), BL_OK);
        assert_int_equal(report.output_bytes, sizes[i]);
    }
    assert_int_equal(report.n_tensors, 2 + 2 * 11);
    assert_int_equal(report.n_weights,
                     320 * 256 + 256 +
                         2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512 + 3 * 256 + 512));
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(files[0], files[1], sizes[0]);
    assert_int_equal(sizes[0], sizes[2]);
    assert_memory_not_equal(files[0], files[2], sizes[0]);
    for (size_t i = 0; i < 3; i++)
        bl__free(files[i]);
}

static void test_tokenizer(void **state) {
    (void)state;
    static const char text[] = "Three w\xc3\xb6rds,\n\xff\x01.";
    bl_dummy_params params = small_params();
    bl_tokenizer *tokenizer = NULL;
    bl_token *ids;
    size_t n, len;
    char *again;
    bl_error err;
    write_dummy(&params);
    if (bl_tokenizer_open(path, &tokenizer, &err))
        fail_msg("%s", err.message);
    assert_int_equal(bl_tokenizer_vocab_size(tokenizer), 320);
    assert_int_equal(bl_tokenizer_bos(tokenizer), 1);
    assert_true(bl_tokenizer_is_end(tokenizer, 2));
    assert_int_equal(bl_tokenizer_encode(tokenizer, text, sizeof text - 1, 0, &ids, &n, NULL),
                     BL_OK);
    assert_int_equal(n, sizeof text - 1); /* a token for each byte */
    assert_int_equal(bl_tokenizer_decode(tokenizer, ids, n, 0, &again, &len, NULL), BL_OK);
    assert_int_equal(len, sizeof text - 1);
    assert_memory_equal(again, text, len);
    bl_free(again);
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
}

static bool cancel(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                   uint64_t n_bytes) {
    uint64_t *most = user;
    assert_true(tensors_done <= n_tensors && bytes_done <= n_bytes && bytes_done >= *most);
    *most = bytes_done;
    return tensors_done < 5;
}

static void refuse(const bl_dummy_params *params, bl_status expected, const char *words) {
    bl_error err = {0};
    unlink(path);
    bl_status status = bl_dummy_write(path, params, NULL, &err);
    if (status != expected || !strstr(err.message, words))
        fail_msg("status %d, %s; expected %d, %s", status, err.message, expected, words);
    assert_int_equal(n_files(), 0);
}

static void test_refusals(void **state) {
    (void)state;
    bl_dummy_params p = small_params();
    p.type = "frob";
    refuse(&p, BL_ERR_ARGUMENT, "type \"frob\"");
    p.type = "hf_u8";
    refuse(&p, BL_ERR_ARGUMENT, "type \"hf_u8\"");
    p.type = "q6_k";
    refuse(&p, BL_ERR_UNSUPPORTED, "q6_k");
    p = small_params();
    p.embed_type = "frob";
    refuse(&p, BL_ERR_ARGUMENT, "embedding type \"frob\"");
    p = small_params();
    p.shape.vocab = 100;
    refuse(&p, BL_ERR_ARGUMENT, "a vocabulary of 100 tokens");
    p = small_params();
    p.shape.ffn_dim = 200;
    p.type = "i2_s";
    refuse(&p, BL_ERR_ARGUMENT, "blk.0.ffn_down.weight: i2_s: 200 columns");
    p = small_params();
    p.shape = shape_of("4096x1048576x1048576"); /* 7 PB at 2 bits */
    refuse(&p, BL_ERR_IO, "room for");
    p = small_params();
    uint64_t most = 0;
    p.progress = cancel;
    p.user = &most;
    refuse(&p, BL_ERR_CANCELLED, "cancelled at");
    assert_true(most > 0);
}

static void test_no_memory(void **state) {
    (void)state;
    bl_dummy_params params = small_params();
    params.shape.n_layers = 1;
    int failures = 0;
    unlink(path);
    for (long nth = 1;; nth++) {
        bl_error err = {0};
        bl__alloc_fail_at(nth);
        bl_status status = bl_dummy_write(path, &params, NULL, &err);
        bl__alloc_fail_at(0);
        if (!status)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_int_equal(n_files(), 0);
        failures++;
    }
    assert_true(failures > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),    cmocka_unit_test(test_bad_shapes),
        cmocka_unit_test(test_types),     cmocka_unit_test(test_weights),
        cmocka_unit_test(test_same_file), cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_no_memory),
    };
    snprintf(directory, sizeof directory, "/tmp/bitloom-dummy-XXXXXX");
    if (!mkdtemp(directory))
        return 1;
    snprintf(path, sizeof path, "%s/out.gguf", directory);
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(directory);
    return result;
}
