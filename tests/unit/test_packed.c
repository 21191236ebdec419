/* Models whose linears are made of signs: their logits are those of the weights that these stand
 * for, batches and threads change no bit, scales and switches are read, and what is wrong is
 * refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "bitloom/inspect.h"
#include "bitloom/model.h"
#include "packed_model.h"
#include "tiny_model.h"

static char float_path[256], path[256], dense_path[256];
static const bl_token text[] = {1, 7, 3, 44, 12, 9, 30, 2, 21, 5, 17, 48, 0, 11, 26, 33};
enum { N_TEXT = sizeof text / sizeof text[0], VOCAB = 50 };

static const packed_options kinds[] = {
    {.layout = BL_LAYOUT_L1},
    {.layout = BL_LAYOUT_L2, .col_scale = true},
    {.layout = BL_LAYOUT_S2},
    {.layout = BL_LAYOUT_S2, .col_scale = true},
    {.layout = BL_LAYOUT_L2, .haar = true},
    {.layout = BL_LAYOUT_S2, .col_scale = true, .haar = true},
    {.layout = BL_LAYOUT_B1},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* Sizes with tails of rows, of blocks and of columns. */
static void write_float_model(void) {
    tiny_model m = tiny_model_default();
    m.architecture = "llama";
    m.sub_norms = false;
    m.layout = BL_LAYOUT_F32;
    m.dim = 148;
    m.ffn_dim = 276;
    m.head_dim = 37 * 2;
    m.n_heads = 2;
    m.n_kv_heads = 1;
    tiny_model_write(&m, 5, float_path);
}

static bl_model *open_model(const char *from) {
    bl_model *model = NULL;
    bl_error err = {0};
    if (bl_model_open(from, &(bl_model_params){.n_threads = 1}, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static void eval(const bl_model *model, uint32_t n_batch, uint32_t n_threads, const char *level,
                 float *logits) {
    bl_error err = {0};
    bl_session *s = NULL;
    bl_session_params params = {
        .n_batch = n_batch, .n_threads = n_threads, .kernels = level, .cache_type = BL_CACHE_F32};
    if (bl_session_create(model, &params, &s, &err) ||
        bl_session_eval(s, text, N_TEXT, logits, &err))
        fail_msg("%s", err.message);
    bl_session_free(s);
}

static float largest_distance(const float *a, const float *b, size_t n) {
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fabsf(a[i] - b[i]) <= most ? most : fabsf(a[i] - b[i]);
    return most;
}

/* The same logits as the dense reconstruction's, but for the rounding of float sums, with a cache
 * that rounds nothing; the same bits whatever the batch, threads and kernels. */
static void test_logits(void **state) {
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        float packed[N_TEXT * VOCAB], dense[N_TEXT * VOCAB], other[N_TEXT * VOCAB];
        packed_options o = kinds[k];
        packed_model_write(float_path, &o, path);
        o.dense = true;
        packed_model_write(float_path, &o, dense_path);
        bl_model *model = open_model(path), *reference = open_model(dense_path);
        assert_true(bl_model_get_info(model)->repacked_bytes == 0); /* as it lies in the file */
        eval(model, 0, 1, NULL, packed);
        eval(reference, 0, 1, NULL, dense);
        float most = largest_distance(packed, dense, N_TEXT * VOCAB);
        if (!(most < 1e-4f))
            fail_msg("kind %zu: logits differ by %g", k, (double)most);
        assert_true(largest_distance(dense, dense + VOCAB, VOCAB) > 0.01f); /* and say something */
        eval(model, 3, 2, NULL, other);
        assert_memory_equal(packed, other, sizeof packed);
        eval(model, 1, 1, "ref", other);
        assert_memory_equal(packed, other, sizeof packed);
        bl_model_close(model);
        bl_model_close(reference);
    }
}

/* A file may ask for int8: faster, and off by what int8 costs. */
static void test_int8(void **state) {
    (void)state;
    float exact[N_TEXT * VOCAB], int8[N_TEXT * VOCAB];
    packed_options o = {.layout = BL_LAYOUT_S2, .col_scale = true};
    packed_model_write(float_path, &o, path);
    bl_model *model = open_model(path);
    eval(model, 0, 1, NULL, exact);
    bl_model_close(model);
    o.quantization = "int8_token";
    packed_model_write(float_path, &o, path);
    model = open_model(path);
    eval(model, 0, 1, NULL, int8);
    bl_model_close(model);
    float most = largest_distance(exact, int8, N_TEXT * VOCAB);
    assert_true(most > 1e-3f && most < 3.0f); /* logits are up to 13 */
}

/* True bits: scales of columns count for the matrix that they belong to. */
static void test_inspect(void **state) {
    (void)state;
    char *json;
    size_t len, want = 0, n_weights = 0, found = 0;
    bl_error err = {0};
    packed_options o = {.layout = BL_LAYOUT_S2, .col_scale = true};
    packed_model_write(float_path, &o, path);
    if (bl_inspect(path, &json, &len, &err))
        fail_msg("%s", err.message);
    json_t *root = json_loadb(json, len, 0, NULL), *tensor;
    size_t i;
    json_array_foreach(json_object_get(root, "tensors"), i, tensor) {
        const char *name = json_string_value(json_object_get(tensor, "name"));
        const json_t *shape = json_object_get(tensor, "shape");
        size_t rows = (size_t)json_integer_value(json_array_get(shape, 0)), cols, bytes;
        if (json_array_size(shape) != 2 || strncmp(name, "blk.", 4) != 0)
            continue;
        cols = (size_t)json_integer_value(json_array_get(shape, 1));
        assert_int_equal(bl__layout_bytes(BL_LAYOUT_S2, rows, cols, &bytes, NULL), BL_OK);
        bytes += 2 * cols;
        assert_true(fabs(json_real_value(json_object_get(tensor, "bits_per_weight")) -
                         8.0 * (double)bytes / (double)(rows * cols)) < 1e-12);
        want += bytes;
        n_weights += rows * cols;
        found++;
    }
    const json_t *totals = json_object_get(root, "totals");
    const json_t *linears = json_object_get(totals, "linears");
    assert_int_equal(found, 14);
    assert_int_equal(json_integer_value(json_object_get(linears, "bytes")), want);
    assert_int_equal(json_integer_value(json_object_get(linears, "weights")), n_weights);
    assert_true(json_real_value(json_object_get(totals, "file_bits_per_weight")) > 2.5);
    json_decref(root);
    bl_free(json);
}

static void test_memory(void **state) {
    (void)state;
    bl_status status = BL_ERR_MEMORY;
    packed_model_write(float_path, &kinds[3], path);
    for (long nth = 1; status; nth++) {
        bl_model *model = NULL;
        bl_session *s = NULL;
        bl__alloc_fail_at(nth);
        status = bl_model_open(path, &(bl_model_params){.n_threads = 1}, &model, NULL);
        if (!status)
            status = bl_session_create(model, &(bl_session_params){.n_threads = 1}, &s, NULL);
        bl__alloc_fail_at(0);
        assert_true(status == BL_OK || status == BL_ERR_MEMORY);
        bl_session_free(s);
        bl_model_close(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_memory),
    };
    snprintf(float_path, sizeof float_path, "/tmp/bitloom_packed_%d_float.gguf", (int)getpid());
    snprintf(path, sizeof path, "/tmp/bitloom_packed_%d.gguf", (int)getpid());
    snprintf(dense_path, sizeof dense_path, "/tmp/bitloom_packed_%d_dense.gguf", (int)getpid());
    write_float_model();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(float_path);
    unlink(path);
    unlink(dense_path);
    return failed;
}
