/* The readers on real files: published vocabularies and checkpoints saved by transformers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "assets.h"
#include "base/alloc.h"
#include "formats/gguf.h"
#include "formats/hf_config.h"
#include "formats/safetensors.h"

static void test_vocabularies(void **state) {
    (void)state;
    static const struct {
        const char *file;
        size_t n_tokens, n_merges;
    } cases[] = {
        {"vocabs/ggml-vocab-llama-bpe.gguf", 128256, 280147},
        {"vocabs/ggml-vocab-llama-spm.gguf", 32000, 0},
        {"vocabs/ggml-vocab-gpt-2.gguf", 50257, 50000},
        {"vocabs/ggml-vocab-qwen2.gguf", 151936, 151387},
        {"vocabs/ggml-vocab-falcon.gguf", 65024, 64784},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bl_error err = {0};
        bl__filemap map;
        bl__gguf *g = NULL;
        assert_int_equal(bl__filemap_open(require_asset(cases[i].file), &map, &err), BL_OK);
        long before = bl__alloc_count();
        if (bl__gguf_parse(map.data, map.len, &g, &err))
            fail_msg("%s: %s", cases[i].file, err.message);
        assert_true(bl__alloc_count() - before < 20); /* not one a token */
        const bl__gguf_value *tokens = bl__gguf_find(g, "tokenizer.ggml.tokens");
        const bl__gguf_value *merges = bl__gguf_find(g, "tokenizer.ggml.merges");
        assert_int_equal(g->n_tensors, 0);
        assert_int_equal(tokens->as.array.type, BL_GGUF_STRING);
        assert_int_equal(tokens->as.array.count, cases[i].n_tokens);
        assert_int_equal(merges ? merges->as.array.count : 0, cases[i].n_merges);
        bl__gguf_free(g);
        bl__filemap_close(&map);
    }
}

typedef struct checkpoint {
    const char *directory;
    size_t n_tensors;
    bl__hf_architecture architecture;
    bl__hf_activation activation;
    bool multiplies, online;
    const char *packed; /* a ternary weight, and what it is stored as */
    bl__dtype dtype;
} checkpoint;

static void check_checkpoint(const checkpoint *expected) {
    bl_error err = {0};
    bl__tensor_set *set = NULL;
    bl__hf_config *c = NULL;
    char directory[4096];
    snprintf(directory, sizeof directory, "%s", require_asset(expected->directory));
    if (bl__hf_config_read(directory, &c, &err) || bl__tensor_set_open(directory, &set, &err))
        fail_msg("%s", err.message);
    assert_int_equal(c->architecture, expected->architecture);
    assert_int_equal(c->activation, expected->activation);
    assert_true(c->quantized);
    assert_int_equal(c->scale_multiplies, expected->multiplies);
    assert_int_equal(c->online, expected->online);
    assert_true(c->tied_head);
    assert_int_equal(c->n_end_ids, 1);
    assert_int_equal(set->n_tensors, expected->n_tensors);
    const bl__safetensor *w = bl__tensor_set_find(set, expected->packed);
    assert_non_null(w);
    assert_int_equal(w->dtype, expected->dtype);
    assert_int_equal(w->dims[0], w->dtype == BL_DTYPE_U8 ? c->ffn_dim / 4 : c->ffn_dim);
    assert_int_equal(w->dims[1], c->dim);
    bl__tensor_set_close(set);
    bl__hf_config_free(c);
}

static void test_checkpoints(void **state) {
    (void)state;
    static const char gate[] = "model.layers.1.mlp.gate_proj.weight";
    static const checkpoint cases[] = {
        {"oracle/bitnet-offline-f32", 38, BL_HF_BITNET, BL_HF_RELU2, true, false, gate,
         BL_DTYPE_U8},
        {"oracle/bitnet-online-f32", 24, BL_HF_BITNET, BL_HF_RELU2, true, true, gate, BL_DTYPE_F32},
        {"oracle/llama-bitlinear-f32", 34, BL_HF_LLAMA, BL_HF_SILU, false, false, gate,
         BL_DTYPE_U8},
        {"models/tinystories-3m-hf", 146, BL_HF_BITNET, BL_HF_SILU, true, false, gate, BL_DTYPE_U8},
        {"models/novels-3m", 74, BL_HF_BITNET, BL_HF_RELU2, true, false, gate, BL_DTYPE_U8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_checkpoint(&cases[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabularies),
        cmocka_unit_test(test_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
