/* Tiny checkpoints of every family, written into a folder of the test's own, and conversions that
 * must succeed or must be refused. */
#ifndef BL_TESTS_CONVERT_FIXTURE_H
#define BL_TESTS_CONVERT_FIXTURE_H

#include <dirent.h>
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/file.h"
#include "base/half.h"
#include "bitloom/convert.h"
#include "formats/gguf.h"
#include "quant/quant.h"

/* ---- A folder of its own for every test ---- */

static char folder[256], checkpoint[300], output[300], second[300];

static int make_folder(void **state) {
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(folder, sizeof folder, "%.200s/bitloom-convert-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    snprintf(checkpoint, sizeof checkpoint, "%s/tiny-model", folder);
    snprintf(output, sizeof output, "%s/out.gguf", folder);
    snprintf(second, sizeof second, "%s/second.gguf", folder);
    return mkdir(checkpoint, 0700);
}

static size_t empty_folder(const char *path) {
    DIR *dir = opendir(path);
    size_t n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char name[600];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        n += unlink(name) == 0;
    }
    if (dir)
        closedir(dir);
    return n;
}

static int remove_folder(void **state) {
    (void)state;
    empty_folder(checkpoint);
    rmdir(checkpoint);
    empty_folder(folder);
    return rmdir(folder);
}

/* Entries of the folder but the checkpoint. */
static size_t count_outputs(void) {
    DIR *dir = opendir(folder);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.' && strcmp(entry->d_name, "tiny-model") != 0;
    closedir(dir);
    return n;
}

static void write_file(const char *name, const void *data, size_t len) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", checkpoint, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

/* ---- Writing checkpoints ---- */

enum { N_LAYERS = 2, VOCAB = 24, MAX_WEIGHTS = 256 * 256 };

/* What a checkpoint is made of. */
typedef enum storage {
    PACKED,  /* U8 and weight_scale */
    MASTERS, /* float masters */
    TERNARY, /* floats that are ternary, one scale a tensor */
    BY_ROWS, /* floats that are ternary, one scale a row */
    PLAIN    /* floats */
} storage;

typedef struct spec {
    const char *architecture, *activation, *quantization; /* the last: JSON or NULL */
    const char *more;                                     /* more JSON of config.json, or "" */
    storage storage;
    const char *dtype; /* of embedding, norms and float weights: "F32", "F16", "BF16" */
    size_t dim, ffn_dim, head_dim, n_heads, n_kv_heads;
    float packed_scale; /* as the file has it */
    bool sub_norms, first_names, linear_norms, tied;
    const char *leave_out; /* a tensor that is not written, or NULL */
    const char *extra;     /* a tensor of one float that is written, or NULL */
} spec;

static const char autobit_offline[] = "{\"quant_method\":\"bitnet\",\"linear_class\":"
                                      "\"autobitlinear\",\"quantization_mode\":\"offline\"}";
__attribute__((unused)) static const char autobit_online[] =
    "{\"quant_method\":\"bitnet\",\"linear_class\":"
    "\"autobitlinear\",\"quantization_mode\":\"online\"}";
static const char bitlinear[] =
    "{\"quant_method\":\"bitnet\",\"modules_to_not_convert\":[\"lm_head\"]}";

static spec bitnet_spec(void) {
    return (spec){.architecture = "BitNetForCausalLM",
                  .activation = "relu2",
                  .quantization = autobit_offline,
                  .more = "",
                  .storage = PACKED,
                  .dtype = "BF16",
                  .dim = 128,
                  .ffn_dim = 256,
                  .head_dim = 32,
                  .n_heads = 4,
                  .n_kv_heads = 2,
                  .packed_scale = 0.375f,
                  .sub_norms = true,
                  .tied = true};
}

static spec llama_spec(void) {
    spec s = bitnet_spec();
    s.architecture = "LlamaForCausalLM";
    s.activation = "silu";
    s.quantization = bitlinear;
    s.sub_norms = false;
    s.tied = false;
    return s;
}

static uint32_t mix(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t h = a * 2654435761u ^ b * 2246822519u ^ c * 3266489917u;
    h = (h ^ (h >> 15)) * 2246822519u;
    return h ^ (h >> 13);
}

static const char *const linear_modules[7] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
static const char *const linear_names[7] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                            "ffn_gate", "ffn_up", "ffn_down"};

static void linear_shape(const spec *s, size_t linear, size_t *rows, size_t *cols) {
    size_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const size_t all_rows[7] = {q, kv, kv, s->dim, s->ffn_dim, s->ffn_dim, s->dim};
    const size_t all_cols[7] = {s->dim, s->dim, s->dim, q, s->dim, s->dim, s->ffn_dim};
    *rows = all_rows[linear];
    *cols = all_cols[linear];
}

/* The number `stored` as it comes back from a dtype. */
static float through(const char *dtype, float x) {
    if (strcmp(dtype, "BF16") == 0)
        return bl__bf16_to_f32(bl__f32_to_bf16(x));
    return strcmp(dtype, "F16") == 0 ? bl__f16_to_f32(bl__f32_to_f16(x)) : x;
}

/* -1, 0 or +1 */
static int code_at(size_t id, size_t r, size_t c) {
    return (int)(mix((uint32_t)id, (uint32_t)r, (uint32_t)c) % 3) - 1;
}

/* A float weight as the checkpoint stores it. id: layer * 7 + linear. */
static float stored_at(const spec *s, size_t id, size_t r, size_t c) {
    float code = (float)code_at(id, r, c);
    switch (s->storage) {
    case TERNARY:
        return code * 0.375f;
    case BY_ROWS:
        return code * (0.25f + 0.0625f * (float)(r % 5));
    default:
        return through(
            s->dtype,
            (float)((int)(mix(77 + (uint32_t)id, (uint32_t)r, (uint32_t)c) % 2001) - 1000) * 3e-4f);
    }
}

typedef struct builder {
    bl__buffer header, data;
    const spec *spec;
} builder;

static void add_tensor(builder *b, const char *name, const char *dtype, const char *shape,
                       const void *data, size_t bytes) {
    if (b->spec->leave_out && strcmp(name, b->spec->leave_out) == 0)
        return;
    bl__buffer_printf(&b->header,
                      "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,"
                      "%zu]}",
                      b->header.len ? "," : "", name, dtype, shape, b->data.len,
                      b->data.len + bytes);
    bl__buffer_append(&b->data, data, bytes);
}

static void add_floats(builder *b, const char *name, const char *shape, const float *x, size_t n) {
    static uint16_t halves[MAX_WEIGHTS];
    const char *dtype = b->spec->dtype;
    if (strcmp(dtype, "F32") == 0) {
        add_tensor(b, name, dtype, shape, x, n * 4);
        return;
    }
    for (size_t i = 0; i < n; i++)
        halves[i] = strcmp(dtype, "F16") == 0 ? bl__f32_to_f16(x[i]) : bl__f32_to_bf16(x[i]);
    add_tensor(b, name, dtype, shape, halves, n * 2);
}

static float norm_at(size_t i) {
    return 0.5f + (float)(i % 7) * 0.125f;
}
static float embed_at(size_t r, size_t c) {
    return (float)((int)((r * 31 + c * 7) % 255) - 127) / 128.0f;
}

static void add_norm(builder *b, const char *name, size_t n) {
    float x[512];
    char shape[32];
    for (size_t i = 0; i < n; i++)
        x[i] = norm_at(i);
    snprintf(shape, sizeof shape, "%zu", n);
    add_floats(b, name, shape, x, n);
}

static void add_table(builder *b, const char *name) {
    static float x[MAX_WEIGHTS];
    char shape[32];
    size_t dim = b->spec->dim;
    for (size_t r = 0; r < VOCAB; r++)
        for (size_t c = 0; c < dim; c++)
            x[r * dim + c] = embed_at(r, c);
    snprintf(shape, sizeof shape, "%d,%zu", VOCAB, dim);
    add_floats(b, name, shape, x, VOCAB * dim);
}

static void add_linear(builder *b, size_t layer, size_t linear) {
    static float x[MAX_WEIGHTS];
    static uint8_t packed[MAX_WEIGHTS / 4];
    const spec *s = b->spec;
    size_t rows, cols, id = layer * 7 + linear;
    char name[100], shape[32];
    linear_shape(s, linear, &rows, &cols);
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, linear_modules[linear]);
    if (s->storage == PACKED) { /* by the formula of transformers, not by our packer */
        memset(packed, 0, sizeof packed);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                packed[r % (rows / 4) * cols + c] |=
                    (uint8_t)((code_at(id, r, c) + 1) << 2 * (r / (rows / 4)));
        snprintf(shape, sizeof shape, "%zu,%zu", rows / 4, cols);
        add_tensor(b, name, "U8", shape, packed, rows * cols / 4);
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight_scale", layer,
                 linear_modules[linear]);
        add_floats(b, name, "1", &s->packed_scale, 1);
    } else {
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                x[r * cols + c] = stored_at(s, id, r, c);
        snprintf(shape, sizeof shape, "%zu,%zu", rows, cols);
        add_floats(b, name, shape, x, rows * cols);
    }
    if (s->linear_norms) {
        snprintf(name, sizeof name, "model.layers.%zu.%s.rms_norm.weight", layer,
                 linear_modules[linear]);
        add_norm(b, name, cols);
    }
}

static void write_config(const spec *s) {
    bl__buffer text = bl__buffer_make(4096);
    bl__buffer_printf(&text,
                      "{\"architectures\":[\"%s\"],\"hidden_act\":\"%s\",\"vocab_size\":%d,"
                      "\"hidden_size\":%zu,\"intermediate_size\":%zu,\"num_hidden_layers\":%d,"
                      "\"num_attention_heads\":%zu,\"num_key_value_heads\":%zu,\"head_dim\":%zu,"
                      "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,"
                      "\"rope_theta\":10000.0,\"tie_word_embeddings\":%s%s",
                      s->architecture, s->activation, VOCAB, s->dim, s->ffn_dim, N_LAYERS,
                      s->n_heads, s->n_kv_heads, s->head_dim, s->tied ? "true" : "false", s->more);
    if (s->quantization)
        bl__buffer_printf(&text, ",\"quantization_config\":%s", s->quantization);
    bl__buffer_puts(&text, "}");
    assert_false(text.failed);
    write_file("config.json", text.data, text.len);
    bl__buffer_free(&text);
}

static void add_layer(builder *b, size_t layer) {
    const spec *s = b->spec;
    char name[100];
    const char *attn = s->first_names ? "self_attn.inner_attn_ln" : "self_attn.attn_sub_norm";
    const char *ffn = s->first_names ? "mlp.ffn_layernorm" : "mlp.ffn_sub_norm";
    snprintf(name, sizeof name, "model.layers.%zu.input_layernorm.weight", layer);
    add_norm(b, name, s->dim);
    snprintf(name, sizeof name, "model.layers.%zu.post_attention_layernorm.weight", layer);
    add_norm(b, name, s->dim);
    if (s->sub_norms) {
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, attn);
        add_norm(b, name, s->n_heads * s->head_dim);
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, ffn);
        add_norm(b, name, s->ffn_dim);
    }
    for (size_t linear = 0; linear < 7; linear++)
        add_linear(b, layer, linear);
}

/* Writes the checkpoint and returns the bytes of model.safetensors. */
static size_t write_checkpoint(const spec *s) {
    builder b = {.header = bl__buffer_make(1 << 20), .data = bl__buffer_make(1 << 24), .spec = s};
    const float one = 1;
    empty_folder(checkpoint);
    write_config(s);
    add_table(&b, "model.embed_tokens.weight");
    for (size_t layer = 0; layer < N_LAYERS; layer++)
        add_layer(&b, layer);
    add_norm(&b, "model.norm.weight", s->dim);
    if (!s->tied)
        add_table(&b, "lm_head.weight");
    if (s->extra)
        add_floats(&b, s->extra, "1", &one, 1);
    bl__buffer file = bl__buffer_make(1 << 25);
    uint64_t n = b.header.len + 2;
    bl__buffer_append(&file, &n, 8);
    bl__buffer_puts(&file, "{");
    bl__buffer_append(&file, b.header.data, b.header.len);
    bl__buffer_puts(&file, "}");
    bl__buffer_append(&file, b.data.data, b.data.len);
    assert_false(file.failed);
    size_t len = file.len;
    write_file("model.safetensors", file.data, len);
    bl__buffer_free(&b.header);
    bl__buffer_free(&b.data);
    bl__buffer_free(&file);
    return len;
}

/* ---- Converting ---- */

static void convert_ok(const char *from, const char *to, const char *type, const char *embed,
                       bl_convert_report *report) {
    const bl_convert_params params = {.type = type, .embed_type = embed, .n_threads = 2};
    bl_error err = {0};
    if (bl_convert(from, to, &params, report, &err))
        fail_msg("%s", err.message);
}

static void convert_refused(const char *from, const char *type, bl_status code,
                            const char *const *words) {
    const bl_convert_params params = {.type = type, .n_threads = 2};
    bl_error err = {0};
    size_t before = count_outputs();
    bl_status status = bl_convert(from, second, &params, NULL, &err);
    if (status != code)
        fail_msg("status %d, expected %d: %s", status, code, err.message);
    for (; *words; words++)
        if (!strstr(err.message, *words))
            fail_msg("no \"%s\" in: %s", *words, err.message);
    assert_int_equal(count_outputs(), before);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

#endif
