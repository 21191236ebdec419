/* What a conversion must refuse, and what must leave nothing behind. */
#include "tiny_model.h"
#include "unit/convert_fixture.h"

/* ---- Refusals ---- */

static void test_refused_tensors(void **state) {
    (void)state;
    spec s = bitnet_spec();
    s.extra = "model.layers.1.self_attn.q_proj.bias";
    write_checkpoint(&s);
    convert_refused(checkpoint, NULL, BL_ERR_UNSUPPORTED, WORDS("q_proj.bias"));
    s.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"; /* of no use, and common */
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    s.extra = "lm_head.weight"; /* beside a tied head */
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    s.extra = NULL;
    s.leave_out = "model.layers.1.mlp.ffn_sub_norm.weight";
    write_checkpoint(&s);
    convert_refused(checkpoint, NULL, BL_ERR_NOT_FOUND, WORDS("mlp.ffn_sub_norm.weight"));
    s.leave_out = "model.layers.1.mlp.up_proj.weight_scale";
    write_checkpoint(&s);
    convert_refused(checkpoint, NULL, BL_ERR_NOT_FOUND, WORDS("up_proj.weight_scale"));
    s.leave_out = NULL;
    s.quantization = "{\"quant_method\":\"bitnet\",\"modules_to_not_convert\":[\"down_proj\"]}";
    write_checkpoint(&s);
    convert_refused(checkpoint, NULL, BL_ERR_UNSUPPORTED, WORDS("down_proj"));
    s.quantization = NULL;
    write_checkpoint(&s);
    convert_refused(checkpoint, NULL, BL_ERR_UNSUPPORTED, WORDS("q_proj", "quantization_config"));
}

static void test_refused_values(void **state) {
    (void)state;
    static const float bad[] = {0, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        spec s = bitnet_spec();
        s.packed_scale = bad[i];
        write_checkpoint(&s);
        convert_refused(checkpoint, NULL, BL_ERR_FORMAT, WORDS("q_proj.weight_scale"));
    }
    /* Shapes: the configuration is another model's. */
    spec s = bitnet_spec();
    write_checkpoint(&s);
    s.ffn_dim = 192;
    write_config(&s);
    convert_refused(checkpoint, NULL, BL_ERR_FORMAT, WORDS("[64,128]", "[48,128]"));

    /* Code 3 in the last byte of packed data of the last linear written. */
    s = bitnet_spec();
    char path[400], *data;
    size_t len;
    write_checkpoint(&s);
    snprintf(path, sizeof path, "%s/model.safetensors", checkpoint);
    assert_int_equal(bl__file_read(path, 1 << 24, &data, &len, NULL), BL_OK);
    /* behind it: its bfloat16 scale and the last norm */
    data[len - 2 * 128 - 2 - 1] = (char)0xff;
    write_file("model.safetensors", data, len);
    bl__free(data);
    convert_refused(checkpoint, NULL, BL_ERR_FORMAT, WORDS("blk.1.ffn_down.weight", "hf_u8"));
}

static void test_refused_types(void **state) {
    (void)state;
    spec s = bitnet_spec(); /* 128 columns */
    write_checkpoint(&s);
    convert_refused(checkpoint, "tq2_0", BL_ERR_UNSUPPORTED,
                    WORDS("blk.0.attn_q.weight", "tq2_0", "128", "256", "native", "i2_s"));
    convert_refused(checkpoint, "q4_k", BL_ERR_ARGUMENT, WORDS("q4_k", "tq2_0"));
    convert_refused(checkpoint, "q4_0", BL_ERR_ARGUMENT, WORDS("q4_0"));
    const bl_convert_params params = {.embed_type = "tq2_0"};
    bl_error err = {0};
    assert_int_equal(bl_convert(checkpoint, output, &params, NULL, &err), BL_ERR_ARGUMENT);
    s.packed_scale = 0x1p-20f; /* below what float16 holds well */
    s.dim = 256;
    s.n_heads = 8;
    write_checkpoint(&s);
    convert_refused(checkpoint, "tq2_0", BL_ERR_UNSUPPORTED, WORDS("attn_q", "float16"));
    convert_ok(checkpoint, output, "iq2_bn", NULL, NULL);
}

static void test_refused_inputs(void **state) {
    (void)state;
    char path[400];
    snprintf(path, sizeof path, "%s/nothing", folder);
    convert_refused(path, NULL, BL_ERR_NOT_FOUND, WORDS("nothing"));
    convert_refused(checkpoint, NULL, BL_ERR_NOT_FOUND, WORDS("config.json"));
    spec s = bitnet_spec();
    size_t len, full = write_checkpoint(&s);
    char *data, *gguf;
    snprintf(path, sizeof path, "%s/model.safetensors", checkpoint);
    assert_int_equal(bl__file_read(path, 1 << 24, &data, &len, NULL), BL_OK);
    assert_int_equal(len, full);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    size_t n_gguf;
    assert_int_equal(bl__file_read(output, 1 << 24, &gguf, &n_gguf, NULL), BL_OK);
    unlink(output);
    for (size_t cut = 0; cut < full; cut += 1 + cut / 40) {
        bl_error err = {0};
        write_file("model.safetensors", data, cut);
        assert_int_not_equal(bl_convert(checkpoint, output, NULL, NULL, &err), BL_OK);
        assert_int_not_equal(err.message[0], 0);
        assert_int_equal(count_outputs(), 0);
    }
    for (size_t cut = 0; cut < n_gguf; cut += 1 + cut / 40) {
        bl_error err = {0};
        write_file("cut.gguf", gguf, cut);
        snprintf(path, sizeof path, "%s/cut.gguf", checkpoint);
        assert_int_not_equal(bl_convert(path, output, NULL, NULL, &err), BL_OK);
        assert_int_not_equal(err.message[0], 0);
        assert_int_equal(count_outputs(), 0);
    }
    bl__free(data);
    bl__free(gguf);
}

/* A model in groups becomes the native layout, group by group, and no other. */
static void test_groups(void **state) {
    (void)state;
    tiny_model m = tiny_model_default();
    m.n_groups = 2;
    m.layout = BL_LAYOUT_F32;
    tiny_model_write(&m, 7, output);
    convert_refused(output, "f32", BL_ERR_UNSUPPORTED, WORDS("2 groups", "native"));
    convert_refused(output, "tq1_0", BL_ERR_UNSUPPORTED, WORDS("2 groups", "native"));
    convert_ok(output, second, NULL, NULL, NULL);
    m.layout = BL_LAYOUT_T2;
    char want[320];
    snprintf(want, sizeof want, "%s/want.gguf", folder);
    tiny_model_write(&m, 7, want);
    bl__filemap a, b;
    bl__gguf *x, *y;
    assert_int_equal(bl__filemap_open(second, &a, NULL), BL_OK);
    assert_int_equal(bl__filemap_open(want, &b, NULL), BL_OK);
    assert_int_equal(bl__gguf_parse(a.data, a.len, &x, NULL), BL_OK);
    assert_int_equal(bl__gguf_parse(b.data, b.len, &y, NULL), BL_OK);
    const bl__gguf_tensor *from = bl__gguf_find_tensor(x, "blk.1.ffn_down.1.weight");
    const bl__gguf_tensor *to = bl__gguf_find_tensor(y, "blk.1.ffn_down.1.weight");
    assert_true(from && to && from->layout == BL_LAYOUT_T2 && from->bytes == to->bytes);
    assert_memory_equal(from->data, to->data, to->bytes);
    bl__gguf_free(x);
    bl__gguf_free(y);
    bl__filemap_close(&a);
    bl__filemap_close(&b);
    unlink(output);
    m.wrong_groups = &(uint32_t){0};
    tiny_model_write(&m, 7, output);
    convert_refused(output, "f32", BL_ERR_UNSUPPORTED, WORDS("0 groups"));
}

/* ---- What must leave nothing behind ---- */

typedef struct progress_seen {
    size_t calls, tensors;
    uint64_t bytes;
} progress_seen;

/* Progress only ever grows; the fifth report cancels. */
static bool cancel_at(void *user, size_t done, size_t n, uint64_t bytes, uint64_t n_bytes) {
    progress_seen *seen = user;
    assert_true(done <= n && bytes <= n_bytes && done >= seen->tensors && bytes >= seen->bytes);
    seen->tensors = done;
    seen->bytes = bytes;
    return ++seen->calls < 5;
}

static void test_cancel(void **state) {
    (void)state;
    progress_seen seen = {0};
    spec s = bitnet_spec();
    bl_error err = {0};
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    struct stat before, after;
    stat(output, &before);
    const bl_convert_params params = {.type = "f32", .progress = cancel_at, .user = &seen};
    assert_int_equal(bl_convert(checkpoint, output, &params, NULL, &err), BL_ERR_CANCELLED);
    assert_int_equal(seen.calls, 5);
    assert_true(seen.bytes > 0);
    assert_int_equal(count_outputs(), 1); /* the older file, as it was */
    stat(output, &after);
    assert_int_equal(before.st_ino, after.st_ino);
}

static void test_full_disk(void **state) {
    (void)state;
    spec s = bitnet_spec();
    struct rlimit old, small;
    write_checkpoint(&s);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 50000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    bl_error err = {0};
    bl_status status = bl_convert(checkpoint, output, NULL, NULL, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, BL_ERR_IO);
    assert_non_null(strstr(err.message, "out.gguf"));
    assert_int_equal(count_outputs(), 0);
    assert_int_not_equal(bl_convert(checkpoint, "/dev/full", NULL, NULL, &err), BL_OK);
    char missing[400];
    snprintf(missing, sizeof missing, "%s/no/such/folder.gguf", folder);
    assert_int_not_equal(bl_convert(checkpoint, missing, NULL, NULL, &err), BL_OK);
}

/* Fails every allocation in turn; sanitizers see what leaks. */
static void fail_every_allocation(const char *from, const char *type) {
    const bl_convert_params params = {.type = type, .n_threads = 2};
    for (long nth = 1;; nth++) {
        bl_error err = {0};
        bl__alloc_fail_at(nth);
        bl_status status = bl_convert(from, second, &params, NULL, &err);
        bl__alloc_fail_at(0);
        if (status == BL_OK)
            break;
        if (status != BL_ERR_MEMORY || !err.message[0])
            fail_msg("allocation %ld: status %d: %s", nth, status, err.message);
        assert_int_equal(access(second, F_OK), -1);
        assert_true(nth < 100000);
    }
    unlink(second);
}

static void test_no_memory(void **state) {
    (void)state;
    spec s = llama_spec();
    s.dim = 32;
    s.head_dim = 8;
    s.ffn_dim = 32;
    s.more = ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
             "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":2048}";
    write_checkpoint(&s);
    fail_every_allocation(checkpoint, NULL);
    s.storage = MASTERS;
    write_checkpoint(&s);
    fail_every_allocation(checkpoint, "f32");
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    fail_every_allocation(output, "f16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_refused_tensors), IN_FOLDER(test_refused_values),
        IN_FOLDER(test_refused_types),   IN_FOLDER(test_refused_inputs),
        IN_FOLDER(test_cancel),          IN_FOLDER(test_full_disk),
        IN_FOLDER(test_no_memory),       IN_FOLDER(test_groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
