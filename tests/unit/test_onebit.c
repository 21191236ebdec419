/* OneBit's checkpoints, packed and with latent weights, become the same model: signs between two
 * vectors, a LayerNorm after each linear. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/random.h"
#include "bitloom/convert.h"
#include "bitloom/model.h"
#include "formats/gguf.h"
#include "formats/safetensors_write.h"
#include "kernels/kernels.h"

enum {
    DIM = 32,
    FFN = 40,
    HEAD_DIM = 8,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    VOCAB = 24,
    MAX_TENSORS = 32
};

static char folder[256], checkpoint[300], output[300];

static int make_folder(void **state) {
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(folder, sizeof folder, "%.200s/bitloom-onebit-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    snprintf(checkpoint, sizeof checkpoint, "%s/model", folder);
    snprintf(output, sizeof output, "%s/out.gguf", folder);
    return mkdir(checkpoint, 0700);
}

static int remove_folder(void **state) {
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[400];
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", checkpoint, names[i]);
        unlink(path);
    }
    unlink(output);
    rmdir(checkpoint);
    return rmdir(folder);
}

static void write_config(const char *architecture) {
    char path[400];
    snprintf(path, sizeof path, "%s/config.json", checkpoint);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "{\"architectures\":[\"%s\"],\"model_type\":\"bitllama\",\"vocab_size\":%d,"
            "\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":1,"
            "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"hidden_act\":\"silu\","
            "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":false}",
            architecture, VOCAB, DIM, FFN, N_HEADS, N_KV_HEADS);
    assert_int_equal(fclose(file), 0);
}

/* One linear of the checkpoint. */
static const struct linear {
    const char *module, *name;
    size_t rows, cols;
} linears[] = {
    {"self_attn.q_proj", "attn_q", DIM, DIM},
    {"self_attn.k_proj", "attn_k", N_KV_HEADS *HEAD_DIM, DIM},
    {"self_attn.v_proj", "attn_v", N_KV_HEADS *HEAD_DIM, DIM},
    {"self_attn.o_proj", "attn_output", DIM, DIM},
    {"mlp.gate_proj", "ffn_gate", FFN, DIM},
    {"mlp.up_proj", "ffn_up", FFN, DIM},
    {"mlp.down_proj", "ffn_down", DIM, FFN},
};
enum { N_LINEARS = sizeof linears / sizeof linears[0] };

typedef struct writing {
    bl__safetensor_spec specs[MAX_TENSORS];
    char names[MAX_TENSORS][80];
    size_t n;
    bl__outfile *file;
    bl__random random;
} writing;

static void declare(writing *w, const char *name, bl__dtype dtype, size_t rows, size_t cols) {
    snprintf(w->names[w->n], sizeof w->names[0], "%s", name);
    w->specs[w->n] = (bl__safetensor_spec){
        .name = w->names[w->n], .dtype = dtype, .n_dims = cols ? 2 : 1, .dims = {rows, cols}};
    w->n++;
}

/* float16 numbers around `middle`; some negative when it is 0. */
static void write_halves(writing *w, size_t n, float middle) {
    for (size_t i = 0; i < n; i++) {
        uint16_t half = bl__f32_to_f16(middle + (float)bl__random_f64(&w->random) - 0.5f);
        assert_int_equal(bl__outfile_write(w->file, &half, 2, NULL), BL_OK);
    }
}

/* A latent weight of 0 counts as +. */
static void write_signs(writing *w, size_t n, bool packed) {
    for (size_t i = 0; i < n; i += 8) {
        uint8_t byte = (uint8_t)bl__random_below(&w->random, 256);
        for (size_t k = 0; k < 8 && !packed; k++) {
            float latent = byte >> k & 1 ? -0.01f : k == 3 ? 0.0f : 0.02f;
            assert_int_equal(bl__outfile_write(w->file, &latent, 4, NULL), BL_OK);
        }
        if (packed)
            assert_int_equal(bl__outfile_write(w->file, &byte, 1, NULL), BL_OK);
    }
}

/* The same numbers either way. */
static void write_checkpoint(bool packed) {
    char path[400], name[80];
    writing w = {0};
    bl__random_seed(&w.random, 3);
    write_config(packed ? "BitLlamaForCausalLMInf" : "BitLlamaForCausalLM");
    declare(&w, "model.embed_tokens.weight", BL_DTYPE_F16, VOCAB, DIM);
    declare(&w, "lm_head.weight", BL_DTYPE_F16, VOCAB, DIM);
    declare(&w, "model.norm.weight", BL_DTYPE_F16, DIM, 0);
    declare(&w, "model.layers.0.input_layernorm.weight", BL_DTYPE_F16, DIM, 0);
    declare(&w, "model.layers.0.post_attention_layernorm.weight", BL_DTYPE_F16, DIM, 0);
    for (size_t i = 0; i < N_LINEARS; i++) {
        const struct linear *l = &linears[i];
        snprintf(name, sizeof name, "model.layers.0.%s.weight", l->module);
        declare(&w, name, packed ? BL_DTYPE_I8 : BL_DTYPE_F32, l->rows,
                packed ? l->cols / 8 : l->cols);
        snprintf(name, sizeof name, "model.layers.0.%s.weight_scale", l->module);
        declare(&w, name, BL_DTYPE_F16, l->rows, 0);
        snprintf(name, sizeof name, "model.layers.0.%s.input_factor", l->module);
        declare(&w, name, BL_DTYPE_F16, l->cols, 0);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", checkpoint);
    assert_int_equal(bl__outfile_open(path, &w.file, NULL), BL_OK);
    assert_int_equal(bl__safetensors_begin(w.file, w.specs, w.n, NULL, 0, NULL), BL_OK);
    write_halves(&w, 2 * VOCAB * DIM, 0.0f);
    write_halves(&w, 3 * DIM, 1.0f);
    for (size_t i = 0; i < N_LINEARS; i++) {
        write_signs(&w, linears[i].rows * linears[i].cols, packed);
        write_halves(&w, linears[i].rows, 0.0f);
        write_halves(&w, linears[i].cols, 1.0f);
    }
    assert_int_equal(bl__outfile_commit(w.file, NULL), BL_OK);
}

static bl_status convert(const char *type, bl_error *err) {
    const bl_convert_params params = {.type = type, .n_threads = 1};
    return bl_convert(checkpoint, output, &params, NULL, err);
}

static void eval(float *logits) {
    static const bl_token text[] = {3, 1, 20, 7, 7, 11};
    bl_model *model = NULL;
    bl_session *s = NULL;
    bl_error err = {0};
    if (bl_model_open(output, &(bl_model_params){.n_threads = 1}, &model, &err) ||
        bl_session_create(model, &(bl_session_params){.n_threads = 1}, &s, &err) ||
        bl_session_eval(s, text, 6, logits, &err))
        fail_msg("%s", err.message);
    bl_session_free(s);
    bl_model_close(model);
}

/* Row r of q: the checkpoint's row of the pair, its scale times its signs. */
static void check_rows(void) {
    char name[64], path[400];
    bl__filemap map, source;
    bl__gguf *gguf;
    bl__string norm = {0};
    bl__safetensors *set;
    snprintf(path, sizeof path, "%s/model.safetensors", checkpoint);
    assert_int_equal(bl__filemap_open(output, &map, NULL), BL_OK);
    assert_int_equal(bl__gguf_parse(map.data, map.len, &gguf, NULL), BL_OK);
    assert_int_equal(bl__filemap_open(path, &source, NULL), BL_OK);
    assert_int_equal(bl__safetensors_parse(source.data, source.len, &set, NULL), BL_OK);
    assert_int_equal(bl__gguf_get_string(gguf, "bitloom.linear_output_norm", true, &norm, NULL),
                     BL_OK);
    assert_true(bl__string_is(norm, "layer"));
    for (size_t i = 0; i < N_LINEARS; i++) {
        const struct linear *l = &linears[i];
        snprintf(name, sizeof name, "blk.0.%s.weight", l->name);
        const bl__gguf_tensor *t = bl__gguf_find_tensor(gguf, name);
        assert_non_null(t);
        assert_int_equal(t->layout, BL_LAYOUT_B1);
        snprintf(name, sizeof name, "model.layers.0.%s.weight", l->module);
        const uint8_t *bits = bl__safetensors_find(set, name)->data;
        snprintf(name, sizeof name, "model.layers.0.%s.weight_scale", l->module);
        const uint16_t *scale =
            (const uint16_t *)(const void *)bl__safetensors_find(set, name)->data;
        for (size_t r = 0; r < l->rows; r++) {
            float row[FFN];
            size_t within = r % HEAD_DIM, from = r;
            if (i < 2)
                from = r - within + within % 2 * (HEAD_DIM / 2) + within / 2;
            bl__layout_unpack_row(t->layout, t->data, t->rows, t->cols, r, row);
            for (size_t c = 0; c < l->cols; c++) {
                float h = bl__f16_to_f32(scale[from]);
                bool minus = bits[from * (l->cols / 8) + c / 8] >> c % 8 & 1;
                assert_true(row[c] == (minus ? -h : h));
            }
        }
    }
    bl__safetensors_free(set);
    bl__filemap_close(&source);
    bl__gguf_free(gguf);
    bl__filemap_close(&map);
}

static void test_checkpoints(void **state) {
    (void)state;
    float packed[6 * VOCAB], latent[6 * VOCAB];
    bl_error err = {0};
    write_checkpoint(true);
    if (convert(NULL, &err))
        fail_msg("%s", err.message);
    check_rows();
    eval(packed);
    write_checkpoint(false);
    if (convert("bl_b1", &err))
        fail_msg("%s", err.message);
    eval(latent);
    assert_memory_equal(packed, latent, sizeof packed);
    for (size_t i = 0; i < 6 * VOCAB; i++)
        assert_true(isfinite(packed[i]));
}

static void test_refusals(void **state) {
    (void)state;
    bl_error err = {0};
    write_checkpoint(true);
    assert_int_equal(convert("tq2_0", &err), BL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "native, bl_b1"));
    write_config("LlamaForCausalLM"); /* whose linears have no vectors */
    assert_int_not_equal(convert(NULL, &err), BL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_checkpoints, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_refusals, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
