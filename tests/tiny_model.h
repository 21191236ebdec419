/* A small random model written to a GGUF file, for tests that need any model at all. */
#ifndef BL_TESTS_TINY_MODEL_H
#define BL_TESTS_TINY_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "formats/gguf.h"

typedef struct tiny_model {
    const char *architecture; /* "bitnet-b1.58", "llama", ... */
    const char *activation;   /* hidden_act, or NULL to leave the key out */
    const char *quantization; /* bitloom.activation_quantization, or NULL */
    const char *norm;         /* bitloom.norm, or NULL */
    bl__layout layout;        /* of the linears, which hold ternary weights */
    uint32_t dim, ffn_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab, context;
    uint32_t n_groups; /* bitloom.groups; 0: no key, and one group */
    bool sub_norms;
    const uint32_t *wrong_groups; /* bitloom.groups that the tensors do not have, or NULL */
    const char *skip_tensor;      /* a tensor to leave out, or NULL */
    const char *wrong_tensor;     /* a tensor to give one row too many, or NULL */
    bool bad_code;                /* break the first linear's bytes */
} tiny_model;

static inline tiny_model tiny_model_default(void) {
    return (tiny_model){.architecture = "bitnet-b1.58",
                        .layout = BL_LAYOUT_T2,
                        .dim = 40,
                        .ffn_dim = 56,
                        .n_layers = 2,
                        .n_heads = 4,
                        .n_kv_heads = 2,
                        .head_dim = 10,
                        .vocab = 50,
                        .context = 64,
                        .sub_norms = true};
}

typedef struct tiny_tensor {
    char name[48];
    size_t rows, cols;
    bl__layout layout;
} tiny_tensor;

enum { TINY_MAX_TENSORS = 96 };

static inline size_t tiny_tensors(const tiny_model *m, tiny_tensor *out) {
    size_t n = 0, q = (size_t)m->n_heads * m->head_dim, kv = (size_t)m->n_kv_heads * m->head_dim;
#define TINY_ADD(text, r, c, l)                                                                    \
    do {                                                                                           \
        tiny_tensor t = {.rows = (r), .cols = (c), .layout = (l)};                                 \
        snprintf(t.name, sizeof t.name, "%s", text);                                               \
        if (m->wrong_tensor && strcmp(m->wrong_tensor, t.name) == 0)                               \
            t.rows++;                                                                              \
        if (!m->skip_tensor || strcmp(m->skip_tensor, t.name) != 0)                                \
            out[n++] = t;                                                                          \
    } while (0)
    TINY_ADD("token_embd.weight", m->vocab, m->dim, BL_LAYOUT_F16);
    TINY_ADD("output_norm.weight", 1, m->dim, BL_LAYOUT_F32);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct {
            const char *name;
            size_t rows, cols;
        } linears[] = {{"attn_q", q, m->dim},
                       {"attn_k", kv, m->dim},
                       {"attn_v", kv, m->dim},
                       {"attn_output", m->dim, q},
                       {"ffn_gate", m->ffn_dim, m->dim},
                       {"ffn_up", m->ffn_dim, m->dim},
                       {"ffn_down", m->dim, m->ffn_dim},
                       {"attn_norm", 1, m->dim},
                       {"ffn_norm", 1, m->dim},
                       {"attn_sub_norm", 1, q},
                       {"ffn_sub_norm", 1, m->ffn_dim}};
        for (size_t l = 0; l < 11; l++) {
            char name[48];
            bool split = m->n_groups > 1 && (l == 3 || l == 6);
            for (uint32_t g = 0; split && g < m->n_groups; g++) {
                snprintf(name, sizeof name, "blk.%u.%s.%u.weight", i, linears[l].name, g);
                TINY_ADD(name, linears[l].rows, linears[l].cols / m->n_groups, m->layout);
            }
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, linears[l].name);
            if (!split && (l < 9 || m->sub_norms))
                TINY_ADD(name, linears[l].rows, linears[l].cols, l < 7 ? m->layout : BL_LAYOUT_F32);
        }
    }
#undef TINY_ADD
    return n;
}

static inline void tiny_check(bl_status status, const bl_error *err) {
    if (status) {
        fprintf(stderr, "tiny model: %s\n", err->message);
        exit(1);
    }
}

static inline void tiny_write_tensor(const tiny_tensor *t, bool spoil, bl__random *random,
                                     bl__gguf_writer *writer, bl_error *err) {
    size_t bytes, n = t->rows * t->cols;
    float *w = malloc(n * sizeof *w);
    for (size_t i = 0; i < n; i++)
        w[i] = t->rows == 1 ? (float)(0.5 + bl__random_f64(random))
               : strcmp(t->name, "token_embd.weight") == 0
                   ? (float)(bl__random_f64(random) - 0.5)
                   : 0.125f * (float)((int)bl__random_below(random, 3) - 1);
    tiny_check(bl__layout_bytes(t->layout, t->rows, t->cols, &bytes, err), err);
    uint8_t *packed = calloc(1, bytes);
    tiny_check(
        bl__layout_pack_rows(t->layout, w, t->rows, t->cols, 0, t->rows, 0.125f, packed, err), err);
    if (spoil)
        memset(packed, 0xff, bytes);
    tiny_check(bl__gguf_write_data(writer, packed, bytes, err), err);
    free(packed);
    free(w);
}

/* Writes the model; seed chooses its weights. */
static inline void tiny_model_write(const tiny_model *m, uint64_t seed, const char *path) {
    bl_error err;
    bl__gguf_writer *writer;
    bl__outfile *file;
    tiny_tensor tensors[TINY_MAX_TENSORS];
    size_t n = tiny_tensors(m, tensors);
    char key[64];
    const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"block_count", m->n_layers},
                 {"embedding_length", m->dim},
                 {"feed_forward_length", m->ffn_dim},
                 {"attention.head_count", m->n_heads},
                 {"attention.head_count_kv", m->n_kv_heads},
                 {"attention.key_length", m->head_dim},
                 {"attention.value_length", m->head_dim},
                 {"context_length", m->context}};
    tiny_check(bl__gguf_writer_create(&writer, &err), &err);
    tiny_check(bl__gguf_set_string(writer, "general.architecture", m->architecture,
                                   strlen(m->architecture), &err),
               &err);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", m->architecture, sizes[i].name);
        tiny_check(bl__gguf_set_u32(writer, key, sizes[i].value, &err), &err);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->architecture);
    tiny_check(bl__gguf_set_f32(writer, key, 1e-5f, &err), &err);
    snprintf(key, sizeof key, "%s.hidden_act", m->architecture);
    if (m->activation)
        tiny_check(bl__gguf_set_string(writer, key, m->activation, strlen(m->activation), &err),
                   &err);
    if (m->quantization)
        tiny_check(bl__gguf_set_string(writer, "bitloom.activation_quantization", m->quantization,
                                       strlen(m->quantization), &err),
                   &err);
    uint32_t groups = m->wrong_groups ? *m->wrong_groups : m->n_groups;
    if (m->wrong_groups || m->n_groups)
        tiny_check(bl__gguf_set_u32(writer, "bitloom.groups", groups, &err), &err);
    if (m->norm) {
        tiny_check(bl__gguf_set_string(writer, "bitloom.norm", m->norm, strlen(m->norm), &err),
                   &err);
        snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", m->architecture);
        tiny_check(bl__gguf_set_f32(writer, key, 1e-5f, &err), &err);
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t dims[2] = {tensors[i].cols, tensors[i].rows};
        tiny_check(bl__gguf_add_tensor(writer, tensors[i].name, tensors[i].rows == 1 ? 1 : 2, dims,
                                       tensors[i].layout, &err),
                   &err);
    }
    tiny_check(bl__outfile_open(path, &file, &err), &err);
    tiny_check(bl__gguf_writer_begin(writer, file, &err), &err);
    bl__random random;
    bl__random_seed(&random, seed);
    for (size_t i = 0; i < n; i++)
        tiny_write_tensor(&tensors[i], m->bad_code && i == 2, &random, writer, &err);
    tiny_check(bl__gguf_writer_finish(writer, &err), &err);
    tiny_check(bl__outfile_commit(file, &err), &err);
    bl__gguf_writer_free(writer);
}

#endif
