/* Conversions of every family of checkpoints, read back from the GGUF weight by weight. */
#include "unit/convert_fixture.h"

#include "convert/plan.h"

/* ---- Reading results ---- */

typedef struct result {
    bl__filemap map;
    bl__gguf *gguf;
} result;

static result open_result(const char *path) {
    result r = {0};
    bl_error err = {0};
    assert_int_equal(bl__filemap_open(path, &r.map, &err), BL_OK);
    if (bl__gguf_parse(r.map.data, r.map.len, &r.gguf, &err))
        fail_msg("%s", err.message);
    return r;
}

static void close_result(result *r) {
    bl__gguf_free(r->gguf);
    bl__filemap_close(&r->map);
}

static void expect_key_string(const result *r, const char *key, const char *text) {
    bl__string s = {0};
    assert_int_equal(bl__gguf_get_string(r->gguf, key, true, &s, NULL), BL_OK);
    if (!bl__string_is(s, text))
        fail_msg("%s is %.*s, expected %s", key, (int)s.len, s.data, text);
}

static void expect_key_u32(const result *r, const char *key, uint32_t value) {
    uint32_t u = 0;
    assert_int_equal(bl__gguf_get_u32(r->gguf, key, true, &u, NULL), BL_OK);
    assert_int_equal(u, value);
}

static void expect_key_f32(const result *r, const char *key, float value) {
    float f = 0;
    assert_int_equal(bl__gguf_get_f32(r->gguf, key, true, &f, NULL), BL_OK);
    assert_true(f == value);
}

static const bl__gguf_tensor *get_tensor(const result *r, const char *name, bl__layout layout) {
    const bl__gguf_tensor *t = bl__gguf_find_tensor(r->gguf, name);
    if (!t)
        fail_msg("no tensor %s", name);
    if (t->layout != layout)
        fail_msg("%s is of type %s", name, t->type_name);
    return t;
}

static void expect_norm(const result *r, const char *name, size_t n) {
    const bl__gguf_tensor *t = get_tensor(r, name, BL_LAYOUT_F32);
    float x[512];
    assert_int_equal(t->n_dims, 1);
    assert_int_equal(t->cols, n);
    bl__layout_unpack_row(t->layout, t->data, 1, n, 0, x);
    for (size_t i = 0; i < n; i++)
        assert_true(x[i] == norm_at(i));
}

/* The magnitude that the b1.58 rule gives masters, computed the plain way. */
static float master_magnitude(const spec *s, size_t id, size_t rows, size_t cols) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            sum += fabs((double)stored_at(s, id, r, c));
    return 1.0f / (float)(sum / (double)(rows * cols));
}

/* Compares every weight of a linear with what the checkpoint means. */
static void expect_linear(const result *r, const spec *s, size_t layer, size_t linear,
                          bl__layout layout) {
    size_t rows, cols, id = layer * 7 + linear;
    char name[100];
    float row[512];
    linear_shape(s, linear, &rows, &cols);
    snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, linear_names[linear]);
    const bl__gguf_tensor *t = get_tensor(r, name, layout);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->cols, cols);
    float inverse = s->storage == MASTERS ? master_magnitude(s, id, rows, cols) : 0;
    bool divides = s->quantization && !strstr(s->quantization, "autobitlinear");
    float scale = divides ? 1.0f / s->packed_scale : s->packed_scale;
    bool permuted = strcmp(s->architecture, "LlamaForCausalLM") == 0 && linear < 2;
    for (size_t i = 0; i < rows; i++) {
        size_t d = s->head_dim, k = i % d;
        size_t from = permuted ? i - k + (k % 2) * (d / 2) + k / 2 : i;
        bl__layout_unpack_row(layout, t->data, rows, cols, i, row);
        for (size_t c = 0; c < cols; c++) {
            float expected = stored_at(s, id, from, c);
            if (s->storage == PACKED) {
                expected = scale * (float)code_at(id, from, c);
            } else if (s->storage == MASTERS) {
                float q = nearbyintf(expected * inverse);
                expected = (q > 1 ? 1 : q < -1 ? -1 : q) / inverse;
            }
            if (row[c] != expected)
                fail_msg("%s[%zu][%zu] is %g, expected %g", name, i, c, (double)row[c],
                         (double)expected);
        }
    }
}

/* skips: up and down are in the layouts of which rows and columns can be left out. */
static void expect_model_as(const char *path, const spec *s, bl__layout linears, bool skips) {
    result r = open_result(path);
    for (size_t layer = 0; layer < N_LAYERS; layer++) {
        char name[100];
        for (size_t linear = 0; linear < 7; linear++)
            expect_linear(&r, s, layer, linear,
                          skips && linear == 5   ? BL_LAYOUT_R2
                          : skips && linear == 6 ? BL_LAYOUT_C2
                                                 : linears);
        snprintf(name, sizeof name, "blk.%zu.attn_norm.weight", layer);
        expect_norm(&r, name, s->dim);
        snprintf(name, sizeof name, "blk.%zu.ffn_norm.weight", layer);
        expect_norm(&r, name, s->dim);
        snprintf(name, sizeof name, "blk.%zu.attn_sub_norm.weight", layer);
        if (s->sub_norms)
            expect_norm(&r, name, s->n_heads * s->head_dim);
        else
            assert_null(bl__gguf_find_tensor(r.gguf, name));
        snprintf(name, sizeof name, "blk.%zu.ffn_sub_norm.weight", layer);
        if (s->sub_norms)
            expect_norm(&r, name, s->ffn_dim);
    }
    expect_norm(&r, "output_norm.weight", s->dim);
    assert_true(!bl__gguf_find_tensor(r.gguf, "output.weight") == s->tied);
    close_result(&r);
}

static void expect_model(const char *path, const spec *s, bl__layout linears) {
    expect_model_as(path, s, linears, false);
}

/* ---- Families ---- */

static void test_packed_multiply(void **state) {
    (void)state;
    spec s = bitnet_spec();
    bl_convert_report report;
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, &report);
    expect_model(output, &s, BL_LAYOUT_T2);
    assert_int_equal(report.n_tensors, 2 + N_LAYERS * 11);
    assert_int_equal(report.n_ternary_weights,
                     N_LAYERS * (128 * 128 * 2 + 64 * 128 * 2 + 128 * 256 * 3));

    result r = open_result(output);
    assert_int_equal(report.output_bytes, r.map.len);
    expect_key_string(&r, "general.architecture", "bitnet-b1.58");
    expect_key_string(&r, "general.name", "tiny-model");
    expect_key_string(&r, "bitnet-b1.58.hidden_act", "relu2");
    expect_key_string(&r, "bitloom.activation_quantization", "int8_token");
    expect_key_u32(&r, "bitnet-b1.58.embedding_length", 128);
    expect_key_u32(&r, "bitnet-b1.58.feed_forward_length", 256);
    expect_key_u32(&r, "bitnet-b1.58.block_count", N_LAYERS);
    expect_key_u32(&r, "bitnet-b1.58.context_length", 64);
    expect_key_u32(&r, "bitnet-b1.58.attention.head_count", 4);
    expect_key_u32(&r, "bitnet-b1.58.attention.head_count_kv", 2);
    expect_key_u32(&r, "bitnet-b1.58.rope.dimension_count", 32);
    expect_key_u32(&r, "bitnet-b1.58.vocab_size", VOCAB);
    expect_key_u32(&r, "general.quantization_version", 2);
    expect_key_u32(&r, "general.file_type", 4096);
    expect_key_f32(&r, "bitnet-b1.58.attention.layer_norm_rms_epsilon", 1e-5f);
    expect_key_f32(&r, "bitnet-b1.58.rope.freq_base", 10000);
    assert_null(bl__gguf_find(r.gguf, "bitnet-b1.58.attention.key_length"));
    assert_null(bl__gguf_find(r.gguf, "bitloom.linear_norm_epsilon"));
    const bl__gguf_tensor *t = get_tensor(&r, "token_embd.weight", BL_LAYOUT_BF16);
    float row[128];
    for (size_t i = 0; i < VOCAB; i++) {
        bl__layout_unpack_row(t->layout, t->data, VOCAB, 128, i, row);
        for (size_t c = 0; c < 128; c++)
            assert_true(row[c] == embed_at(i, c));
    }
    close_result(&r);
}

static void test_all_types(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bl__layout layout;
        uint32_t file_type;
    } types[] = {{"bl_t2", BL_LAYOUT_T2, 4096},     {"bl_t5", BL_LAYOUT_T5, 4097},
                 {"i2_s", BL_LAYOUT_I2_S, 40},      {"tq1_0", BL_LAYOUT_TQ1_0, 36},
                 {"tq2_0", BL_LAYOUT_TQ2_0, 37},    {"iq1_bn", BL_LAYOUT_IQ1_BN, 128},
                 {"iq2_bn", BL_LAYOUT_IQ2_BN, 129}, {"f32", BL_LAYOUT_F32, 0},
                 {"f16", BL_LAYOUT_F16, 1},         {"bf16", BL_LAYOUT_BF16, 32}};
    spec s = bitnet_spec();
    s.dim = 256;
    s.n_heads = 8;
    write_checkpoint(&s);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        convert_ok(checkpoint, output, types[i].name, NULL, NULL);
        expect_model(output, &s, types[i].layout);
        result r = open_result(output);
        expect_key_u32(&r, "general.file_type", types[i].file_type);
        close_result(&r);
        /* and from there to every other type, exactly: the scale is one that all of them hold */
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            convert_ok(output, second, types[k].name, NULL, NULL);
            expect_model(second, &s, types[k].layout);
        }
        convert_ok(output, second, "native", NULL, NULL);
        expect_model_as(second, &s, BL_LAYOUT_T2, true);
        convert_ok(second, output, types[i].name, NULL, NULL);
        expect_model(output, &s, types[i].layout);
    }
}

static void test_packed_divide(void **state) {
    (void)state;
    spec s = llama_spec();
    s.packed_scale = 3.0f; /* 1/3 in float32, which float16 would round */
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
    convert_ok(checkpoint, second, "i2_s", NULL, NULL);
    expect_model(second, &s, BL_LAYOUT_I2_S);
    result r = open_result(output);
    expect_key_string(&r, "general.architecture", "llama");
    expect_key_string(&r, "llama.hidden_act", "silu");
    expect_key_string(&r, "bitloom.activation_quantization", "int8_token");
    close_result(&r);
}

static void test_masters(void **state) {
    (void)state;
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    for (size_t i = 0; i < 3; i++) {
        spec s = bitnet_spec();
        s.storage = MASTERS;
        s.quantization = autobit_online;
        s.activation = "silu";
        s.dtype = dtypes[i];
        write_checkpoint(&s);
        convert_ok(checkpoint, output, NULL, NULL, NULL);
        expect_model(output, &s, BL_LAYOUT_T2);
        convert_ok(checkpoint, output, "i2_s", NULL, NULL);
        expect_model(output, &s, BL_LAYOUT_I2_S);
        result r = open_result(output);
        expect_key_string(&r, "general.architecture", "bitnet");
        close_result(&r);
    }
}

static void test_first_reproduction(void **state) { /* 1bitLLM's class and names */
    (void)state;
    spec s = bitnet_spec();
    s.architecture = "BitnetForCausalLM";
    s.activation = "silu";
    s.storage = MASTERS;
    s.quantization = NULL;
    s.dtype = "F16";
    s.first_names = true;
    s.tied = false;
    s.dim = 100; /* heads of 100, as in the 3B model */
    s.head_dim = 100;
    s.n_heads = 1;
    s.n_kv_heads = 1;
    s.ffn_dim = 70;
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
    result r = open_result(output);
    expect_key_string(&r, "general.architecture", "bitnet");
    expect_key_string(&r, "bitloom.activation_quantization", "int8_token");
    close_result(&r);
}

static void test_falcon_e(void **state) { /* its two unpacked revisions */
    (void)state;
    spec s = llama_spec();
    s.quantization = NULL;
    s.more = ",\"is_bitnet_config\":true";
    s.dtype = "BF16";
    s.storage = MASTERS;
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
    s.storage = TERNARY;
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
}

static void test_linear_norms(void **state) {
    (void)state;
    spec s = llama_spec();
    s.quantization = "{\"quant_method\":\"bitnet\",\"use_rms_norm\":true,\"rms_norm_eps\":1e-4}";
    s.linear_norms = true;
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
    result r = open_result(output);
    expect_key_f32(&r, "bitloom.linear_norm_epsilon", 1e-4f);
    expect_norm(&r, "blk.0.attn_q_norm_in.weight", s.dim);
    expect_norm(&r, "blk.1.ffn_down_norm_in.weight", s.ffn_dim);
    close_result(&r);
}

static void test_plain_floats(void **state) {
    (void)state;
    spec s = llama_spec();
    s.quantization = NULL;
    s.storage = PLAIN;
    s.dtype = "F16";
    s.head_dim = 48; /* not dim / heads */
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_F16);
    result r = open_result(output);
    expect_key_string(&r, "bitloom.activation_quantization", "none");
    expect_key_u32(&r, "llama.attention.key_length", 48);
    expect_key_u32(&r, "llama.attention.value_length", 48);
    expect_key_u32(&r, "general.file_type", 1);
    close_result(&r);
    convert_ok(checkpoint, output, "f32", NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_F32);
    convert_refused(checkpoint, "iq2_bn", BL_ERR_UNSUPPORTED,
                    WORDS("blk.0.attn_q.weight", "iq2_bn", "several magnitudes"));
    convert_refused(checkpoint, "i2_s", BL_ERR_UNSUPPORTED, WORDS("blk.0.attn_q.weight", "i2_s"));
    /* From GGUF nothing is rounded: these floats came from float16, so bfloat16 would. */
    convert_ok(output, second, "f16", NULL, NULL);
    expect_model(second, &s, BL_LAYOUT_F16);
    convert_refused(output, "bf16", BL_ERR_UNSUPPORTED,
                    WORDS("blk.0.attn_q.weight", "bf16", "exactly"));
}

static void test_ternary_floats(void **state) { /* TriLM: float activations, scales by rows */
    (void)state;
    spec s = llama_spec();
    s.quantization = NULL;
    s.storage = BY_ROWS;
    s.dtype = "F16";
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_T2);
    result r = open_result(output);
    expect_key_string(&r, "bitloom.activation_quantization", "none");
    close_result(&r);
    convert_ok(checkpoint, output, "iq1_bn", NULL, NULL);
    expect_model(output, &s, BL_LAYOUT_IQ1_BN);
    convert_refused(checkpoint, "i2_s", BL_ERR_UNSUPPORTED,
                    WORDS("blk.0.attn_q.weight", "one scale", "iq2_bn"));
    convert_refused(output, "i2_s", BL_ERR_UNSUPPORTED, WORDS("one scale"));
}

static void test_rope_scaling(void **state) {
    (void)state;
    spec s = llama_spec();
    s.more = ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
             "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":2048}";
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    result r = open_result(output);
    assert_null(bl__gguf_find(r.gguf, "llama.rope.scaling.type"));
    assert_null(bl__gguf_find(r.gguf, "llama.rope.scaling.factor"));
    const bl__gguf_tensor *t = get_tensor(&r, "rope_freqs.weight", BL_LAYOUT_F32);
    float f[16];
    assert_int_equal(t->cols, 16);
    memcpy(f, t->data, sizeof f);
    /* Wavelengths 2 pi 10000^(i/16): below 512 unchanged, above 2048 divided by 8. At i = 8 it is
     * 628.3: smooth = (2048/628.3 - 1)/3 = 0.75315, divisor 1/((1 - 0.75315)/8 + 0.75315). */
    for (size_t i = 0; i < 8; i++)
        assert_true(f[i] == 1);
    assert_true(fabsf(f[8] - 1.27553f) < 1e-4f);
    for (size_t i = 11; i < 16; i++)
        assert_true(f[i] == 8);
    close_result(&r);

    s.more = ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}";
    write_checkpoint(&s);
    convert_ok(checkpoint, output, NULL, NULL, NULL);
    r = open_result(output);
    expect_key_string(&r, "llama.rope.scaling.type", "linear");
    expect_key_f32(&r, "llama.rope.scaling.factor", 4);
    assert_null(bl__gguf_find_tensor(r.gguf, "rope_freqs.weight"));
    close_result(&r);
}

static void test_embedding_types(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bl__layout layout;
        float tolerance;
    } types[] = {
        {"f32", BL_LAYOUT_F32, 0}, {"f16", BL_LAYOUT_F16, 0}, {"q8_0", BL_LAYOUT_Q8_0, 0.01f}};
    spec s = llama_spec();
    write_checkpoint(&s);
    for (size_t i = 0; i < 3; i++) {
        convert_ok(checkpoint, output, NULL, types[i].name, NULL);
        result r = open_result(output);
        for (size_t table = 0; table < 2; table++) {
            const bl__gguf_tensor *t =
                get_tensor(&r, table ? "output.weight" : "token_embd.weight", types[i].layout);
            float row[128];
            for (size_t k = 0; k < VOCAB; k++) {
                bl__layout_unpack_row(t->layout, t->data, VOCAB, 128, k, row);
                for (size_t c = 0; c < 128; c++)
                    assert_true(fabsf(row[c] - embed_at(k, c)) <= types[i].tolerance);
            }
        }
        close_result(&r);
    }
}

static void test_threads(void **state) {
    (void)state;
    spec s = bitnet_spec();
    s.storage = MASTERS;
    s.quantization = autobit_online;
    write_checkpoint(&s);
    char *first = NULL, *again;
    size_t n_first = 0, n_again;
    for (uint32_t threads = 1; threads <= 5; threads += 2) {
        const bl_convert_params params = {.n_threads = threads};
        assert_int_equal(bl_convert(checkpoint, output, &params, NULL, NULL), BL_OK);
        assert_int_equal(bl__file_read(output, 1 << 24, &again, &n_again, NULL), BL_OK);
        if (first) {
            assert_int_equal(n_first, n_again);
            assert_memory_equal(first, again, n_first);
            bl__free(again);
        } else {
            first = again;
            n_first = n_again;
        }
    }
    bl__free(first);
}

/* ---- GGUF in ---- */

static void test_gguf_metadata_survives(void **state) {
    (void)state;
    spec s = bitnet_spec();
    write_checkpoint(&s);
    convert_ok(checkpoint, output, "i2_s", NULL, NULL);
    convert_ok(output, second, "native", NULL, NULL);
    result a = open_result(output), b = open_result(second);
    assert_int_equal(a.gguf->n_pairs, b.gguf->n_pairs);
    assert_int_equal(a.gguf->n_tensors, b.gguf->n_tensors);
    expect_key_string(&b, "general.name", "tiny-model");
    expect_key_u32(&b, "general.file_type", 4096);
    close_result(&a);
    close_result(&b);
}

/* bitnet.cpp's files say nothing of activations; its layout does. */
static void test_gguf_int8_is_told(void **state) {
    (void)state;
    bl__gguf_writer *writer;
    bl__outfile *file;
    const uint64_t dims[2] = {128, 1};
    uint8_t packed[64] = {0x55};
    memset(packed, 0x55, 32);
    assert_int_equal(bl__gguf_writer_create(&writer, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_string(writer, "general.architecture", "llama", 5, NULL), BL_OK);
    assert_int_equal(
        bl__gguf_add_tensor(writer, "blk.0.attn_q.weight", 2, dims, BL_LAYOUT_I2_S, NULL), BL_OK);
    assert_int_equal(bl__outfile_open(output, &file, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(writer, file, NULL), BL_OK);
    assert_int_equal(bl__gguf_write_data(writer, packed, sizeof packed, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_finish(writer, NULL), BL_OK);
    assert_int_equal(bl__outfile_commit(file, NULL), BL_OK);
    bl__gguf_writer_free(writer);
    convert_ok(output, second, NULL, NULL, NULL);
    result r = open_result(second);
    expect_key_string(&r, "bitloom.activation_quantization", "int8_token");
    get_tensor(&r, "blk.0.attn_q.weight", BL_LAYOUT_T2);
    close_result(&r);
}

/* What "native" is for a model of one matrix, of which nothing is read. */
static bl__layout native_choice(bl__pool *pool, uint64_t rows, bool binary) {
    bl__plan_tensor tensor = {.rows = rows, .cols = 1 << 14, .native = true, .binary = binary};
    bl__plan plan = {.tensors = &tensor, .n_tensors = 1};
    bl__plan_choose_native(&plan, pool);
    return tensor.target;
}

/* By size, and where that is beyond the second caches by what this machine is found to do, which a
 * test cannot know; without memory to find out, by the rule. */
static void test_native_by_machine(void **state) {
    (void)state;
    bl__pool *pool = NULL;
    assert_int_equal(bl__pool_create(2, false, &pool, NULL), BL_OK);
    assert_int_equal(native_choice(pool, (1 << 11) - 1, false), BL_LAYOUT_T2);
    assert_int_equal(native_choice(pool, 1 << 13, true), BL_LAYOUT_B1);
    assert_int_equal(native_choice(pool, 1 << 14, true), BL_LAYOUT_B1);
    for (uint64_t rows = 1 << 11; rows <= 1 << 15; rows *= 2) {
        bl__layout found = native_choice(pool, rows, false);
        assert_true(found == BL_LAYOUT_T2 || found == BL_LAYOUT_T5);
        for (long nth = 1; nth <= 2; nth++) {
            bl__alloc_fail_at(nth);
            assert_int_equal(native_choice(pool, rows, false),
                             rows <= 1 << 13 ? BL_LAYOUT_T2 : BL_LAYOUT_T5);
            bl__alloc_fail_at(0);
        }
    }
    bl__pool_free(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {IN_FOLDER(test_packed_multiply),
                                       IN_FOLDER(test_all_types),
                                       IN_FOLDER(test_packed_divide),
                                       IN_FOLDER(test_masters),
                                       IN_FOLDER(test_first_reproduction),
                                       IN_FOLDER(test_falcon_e),
                                       IN_FOLDER(test_linear_norms),
                                       IN_FOLDER(test_plain_floats),
                                       IN_FOLDER(test_ternary_floats),
                                       IN_FOLDER(test_rope_scaling),
                                       IN_FOLDER(test_embedding_types),
                                       IN_FOLDER(test_threads),
                                       IN_FOLDER(test_gguf_metadata_survives),
                                       IN_FOLDER(test_gguf_int8_is_told),
                                       cmocka_unit_test(test_native_by_machine)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
