/* Owns the meaning of a GGUF file's hyper-parameters: the graph comes from here. Unknown values
 * are refused by name. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/model.h"

enum {
    MAX_LAYERS = 4096,
    MAX_WIDTH = 1 << 22, /* of any vector; integer dot products stay exact up to 2^23 columns */
    MAX_HEADS = 1 << 14,
    MAX_VOCAB = 1 << 24,
    MAX_CONTEXT = 1 << 28
};

typedef struct architecture {
    const char *name;
    bl__activation activation; /* when the file does not say */
    bool int8;                 /* activations, when the file does not say */
    bool rope_halves;
} architecture;

/* Sources: microsoft/BitNet and ggml conversions; Llama files keep Q and K permuted for pairs. */
static const architecture architectures[] = {
    {"bitnet-b1.58", BL_ACTIVATION_RELU2, true, true},
    {"bitnet-25", BL_ACTIVATION_RELU2, true, true},
    {"bitnet", BL_ACTIVATION_SILU, true, true},
    {"llama", BL_ACTIVATION_SILU, false, false},
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

/* "architecture.name" in a static-size buffer. */
typedef struct key {
    char text[96];
} key;

static key key_of(const bl__hparams *h, const char *name) {
    key k;
    snprintf(k.text, sizeof k.text, "%s.%s", h->architecture, name);
    return k;
}

static bl_status read_size(const bl__gguf *gguf, const bl__hparams *h, const char *name,
                           bool required, uint32_t max, uint32_t *out, bl_error *err) {
    key k = key_of(h, name);
    bl_status status = bl__gguf_get_u32(gguf, k.text, required, out, err);
    if (!status && (*out < 1 || *out > max))
        status = bl__fail(err, BL_ERR_FORMAT, "%s: %u, expected 1 to %u", k.text, *out, max);
    return status;
}

static bl_status read_positive(const bl__gguf *gguf, const char *name, bool required, float *out,
                               bl_error *err) {
    bl_status status = bl__gguf_get_f32(gguf, name, required, out, err);
    if (!status && !(*out > 0.0f && *out < 1e30f))
        status =
            bl__fail(err, BL_ERR_FORMAT, "%s: %g, expected a positive number", name, (double)*out);
    return status;
}

static bl_status read_architecture(const bl__gguf *gguf, bl__hparams *h, const architecture **found,
                                   bl_error *err) {
    bl__string name;
    bl_status status = bl__gguf_get_string(gguf, "general.architecture", true, &name, err);
    if (status)
        return status;
    for (size_t i = 0; i < N_ARCHITECTURES; i++)
        if (bl__string_is(name, architectures[i].name)) {
            *found = &architectures[i];
            snprintf(h->architecture, sizeof h->architecture, "%s", architectures[i].name);
            return BL_OK;
        }
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "general.architecture: \"%.*s\", expected bitnet-b1.58, bitnet-25, bitnet or "
                    "llama",
                    (int)(name.len < 64 ? name.len : 64), name.data);
}

static bl_status read_sizes(const bl__gguf *gguf, bl__hparams *h, bl_error *err) {
    bl_status status;
    if ((status = read_size(gguf, h, "block_count", true, MAX_LAYERS, &h->n_layers, err)) ||
        (status = read_size(gguf, h, "embedding_length", true, MAX_WIDTH, &h->dim, err)) ||
        (status = read_size(gguf, h, "feed_forward_length", true, MAX_WIDTH, &h->ffn_dim, err)) ||
        (status = read_size(gguf, h, "attention.head_count", true, MAX_HEADS, &h->n_heads, err)) ||
        (status = read_size(gguf, h, "context_length", true, MAX_CONTEXT, &h->context_length, err)))
        return status;
    h->n_kv_heads = h->n_heads;
    if ((status =
             read_size(gguf, h, "attention.head_count_kv", false, MAX_HEADS, &h->n_kv_heads, err)))
        return status;
    if (h->n_heads % h->n_kv_heads)
        return bl__fail(err, BL_ERR_FORMAT,
                        "%s.attention.head_count_kv: %u does not divide %u heads", h->architecture,
                        h->n_kv_heads, h->n_heads);
    h->head_dim = h->dim / h->n_heads;
    uint32_t value_length = 0;
    if ((status = read_size(gguf, h, "attention.key_length", h->dim % h->n_heads != 0, MAX_WIDTH,
                            &h->head_dim, err)))
        return status;
    value_length = h->head_dim;
    if ((status =
             read_size(gguf, h, "attention.value_length", false, MAX_WIDTH, &value_length, err)))
        return status;
    if (value_length != h->head_dim)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s.attention.value_length: %u, key_length is %u",
                        h->architecture, value_length, h->head_dim);
    if ((uint64_t)h->n_heads * h->head_dim > MAX_WIDTH)
        return bl__fail(err, BL_ERR_LIMIT, "%u heads of %u, at most %d in all", h->n_heads,
                        h->head_dim, MAX_WIDTH);
    return BL_OK;
}

static bl_status read_rope(const bl__gguf *gguf, bl__hparams *h, bl_error *err) {
    bl_status status;
    bl__string type = {0};
    h->n_rot = h->head_dim;
    h->rope_base = 10000.0f;
    h->rope_factor = 1.0f;
    if ((status = read_size(gguf, h, "rope.dimension_count", false, h->head_dim, &h->n_rot, err)) ||
        (status =
             read_positive(gguf, key_of(h, "rope.freq_base").text, false, &h->rope_base, err)) ||
        (status =
             bl__gguf_get_string(gguf, key_of(h, "rope.scaling.type").text, false, &type, err)))
        return status;
    if (h->n_rot % 2)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s.rope.dimension_count: %u is odd",
                        h->architecture, h->n_rot);
    bool none = !type.data || bl__string_is(type, "none");
    if (!none && !bl__string_is(type, "linear"))
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s.rope.scaling.type: \"%.*s\", expected none or linear", h->architecture,
                        (int)(type.len < 64 ? type.len : 64), type.data);
    if (none)
        return read_positive(gguf, key_of(h, "rope.scale_linear").text, false, &h->rope_factor,
                             err);
    return read_positive(gguf, key_of(h, "rope.scaling.factor").text, true, &h->rope_factor, err);
}

/* Llama files do not say whether their linears take int8 activations. Ternary ones were trained
 * that way (Llama3-8B-1.58, Falcon3-1.58, Falcon-E); Q1_0 and Q2_0 models were not. */
static bool looks_int8(const bl__gguf *gguf) {
    const bl__gguf_tensor *t = bl__gguf_find_tensor(gguf, "blk.0.attn_q.weight");
    return t && t->layout != BL_LAYOUT_COUNT && bl__layout_get(t->layout)->ternary &&
           t->layout != BL_LAYOUT_Q2_0;
}

/* Which norms the graph has, and their eps. */
static bl_status read_norm(const bl__gguf *gguf, bl__hparams *h, bl_error *err) {
    bl__string kind = {0};
    bl_status status = bl__gguf_get_string(gguf, "bitloom.norm", false, &kind, err);
    if (status)
        return status;
    h->layer_norm = kind.data && bl__string_is(kind, "layer");
    if (kind.data && !h->layer_norm && !bl__string_is(kind, "rms"))
        return bl__fail(err, BL_ERR_UNSUPPORTED, "bitloom.norm: \"%.*s\", expected rms or layer",
                        (int)(kind.len < 64 ? kind.len : 64), kind.data);
    return read_positive(gguf,
                         key_of(h, h->layer_norm ? "attention.layer_norm_epsilon"
                                                 : "attention.layer_norm_rms_epsilon")
                             .text,
                         true, &h->norm_eps, err);
}

static bl_status read_graph(const bl__gguf *gguf, const architecture *arch, bl__hparams *h,
                            bl_error *err) {
    bl_status status;
    bl__string act = {0}, quant = {0};
    h->activation = arch->activation;
    h->rope_halves = arch->rope_halves;
    h->int8_activations = arch->int8 || looks_int8(gguf);
    h->norm_eps = 1e-5f;
    h->linear_norm_eps = 1e-6f;
    if ((status = bl__gguf_get_string(gguf, key_of(h, "hidden_act").text, false, &act, err)) ||
        (status =
             bl__gguf_get_string(gguf, "bitloom.activation_quantization", false, &quant, err)) ||
        (status = read_norm(gguf, h, err)) ||
        (status =
             read_positive(gguf, "bitloom.linear_norm_epsilon", false, &h->linear_norm_eps, err)))
        return status;
    if (act.data && bl__string_is(act, "relu2"))
        h->activation = BL_ACTIVATION_RELU2;
    else if (act.data && bl__string_is(act, "silu"))
        h->activation = BL_ACTIVATION_SILU;
    else if (act.data)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s.hidden_act: \"%.*s\", expected silu or relu2",
                        h->architecture, (int)(act.len < 64 ? act.len : 64), act.data);
    if (quant.data && bl__string_is(quant, "int8_token"))
        h->int8_activations = true;
    else if (quant.data && bl__string_is(quant, "none"))
        h->int8_activations = false;
    else if (quant.data)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "bitloom.activation_quantization: \"%.*s\", expected int8_token or none",
                        (int)(quant.len < 64 ? quant.len : 64), quant.data);
    return BL_OK;
}

/* What linears do besides multiplying, in models made of signs: the Haar transform of their input,
 * LayerNorm of their output. */
static bl_status read_linears(const bl__gguf *gguf, bl__hparams *h, bl_error *err) {
    const struct {
        const char *key, *value;
        bool *out;
    } switches[] = {{"bitloom.input_transform", "haar", &h->haar},
                    {"bitloom.linear_output_norm", "layer", &h->output_layer_norm}};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        bl__string text = {0};
        bl_status status = bl__gguf_get_string(gguf, switches[i].key, false, &text, err);
        if (status)
            return status;
        *switches[i].out = text.data && bl__string_is(text, switches[i].value);
        if (text.data && !*switches[i].out && !bl__string_is(text, "none"))
            return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: \"%.*s\", expected %s or none",
                            switches[i].key, (int)(text.len < 64 ? text.len : 64), text.data,
                            switches[i].value);
    }
    return BL_OK;
}

/* Groups are whole KV heads, so q, k and v can be split as o is. */
static bl_status read_groups(const bl__gguf *gguf, bl__hparams *h, bl_error *err) {
    static const char name[] = "bitloom.groups";
    h->n_groups = 1;
    bl_status status = bl__gguf_get_u32(gguf, name, false, &h->n_groups, err);
    if (status)
        return status;
    if (h->n_groups < 1 || h->n_kv_heads % h->n_groups || h->ffn_dim % h->n_groups)
        return bl__fail(err, BL_ERR_FORMAT,
                        "%s: %u, expected a divisor of attention.head_count_kv, %u, and "
                        "feed_forward_length, %u",
                        name, h->n_groups, h->n_kv_heads, h->ffn_dim);
    return BL_OK;
}

bl_status bl__hparams_read(const bl__gguf *gguf, bl__hparams *out, bl_error *err) {
    bl__hparams h = {0};
    const architecture *arch = NULL;
    bl_status status;
    if ((status = read_architecture(gguf, &h, &arch, err)) ||
        (status = read_sizes(gguf, &h, err)) || (status = read_rope(gguf, &h, err)) ||
        (status = read_graph(gguf, arch, &h, err)) || (status = read_linears(gguf, &h, err)) ||
        (status = read_groups(gguf, &h, err)))
        return status;
    const bl__gguf_tensor *embedding = bl__gguf_find_tensor(gguf, "token_embd.weight");
    if (!embedding)
        return bl__fail(err, BL_ERR_NOT_FOUND, "tensor token_embd.weight is missing");
    if (embedding->rows < 1 || embedding->rows > MAX_VOCAB)
        return bl__fail(err, BL_ERR_FORMAT, "token_embd.weight: %zu rows, expected 1 to %d",
                        embedding->rows, MAX_VOCAB);
    h.vocab = (uint32_t)embedding->rows;
    *out = h;
    return BL_OK;
}
