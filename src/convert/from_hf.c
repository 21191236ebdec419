/* Owns what the tensors of a Hugging Face checkpoint become: names, scale rules, the order of rows.
 * Must not know how tensors are packed. Every tensor of the checkpoint is used, is known to be
 * of no use, or is refused by name.
 * Sources: transformers' integrations/bitnet.py, 1bitLLM's modelling code, llama.cpp's
 * convert_hf_to_gguf.py for the names and the order of rows. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "convert/convert.h"
#include "convert/hf_metadata.h"
#include "convert/onebit.h"
#include "formats/hf_config.h"
#include "formats/safetensors.h"
#include "tokenizer/vocab.h"

enum { MAX_HF_NAME = 128, N_LINEARS = 7 /* of a layer */ };

struct bl__hf_source {
    bl__hf_config *config;
    bl__tensor_set *set;
    bool *used;           /* bool[set->n_tensors] */
    float *rope_divisors; /* float[head_dim / 2], for llama3 scaling */
    bl__onebit *onebit;   /* bl__onebit[n_layers * N_LINEARS] of OneBit's checkpoints, or NULL */
    size_t n_onebit;
};

/* Everything the planning functions pass on. */
typedef struct planner {
    const bl__hf_config *config;
    bl__hf_source *source;
    const bl__plan_options *options;
    bl__pool *pool;
    bl__plan *plan;
    bl_error *err;
} planner;

void bl__hf_source_close(bl__hf_source *source) {
    if (!source)
        return;
    bl__hf_config_free(source->config);
    bl__tensor_set_close(source->set);
    bl__free(source->used);
    bl__free(source->rope_divisors);
    bl__free(source->onebit);
    bl__free(source);
}

/* ---- Tensors of the checkpoint ---- */

/* Finds a tensor and counts it as used; NULL when absent. */
static const bl__safetensor *use_tensor(const planner *p, const char *name) {
    const bl__safetensor *tensor = bl__tensor_set_find(p->source->set, name);
    if (tensor)
        p->source->used[tensor - p->source->set->tensors] = true;
    return tensor;
}

static bl_status require_tensor(const planner *p, const char *name, const bl__safetensor **out) {
    *out = use_tensor(p, name);
    return *out ? BL_OK : bl__fail(p->err, BL_ERR_NOT_FOUND, "%s: not in the checkpoint", name);
}

/* The layout of a float tensor. */
static bl_status float_layout(const planner *p, const bl__safetensor *t, bl__layout *out) {
    switch (t->dtype) {
    case BL_DTYPE_F32:
        *out = BL_LAYOUT_F32;
        return BL_OK;
    case BL_DTYPE_F16:
        *out = BL_LAYOUT_F16;
        return BL_OK;
    case BL_DTYPE_BF16:
        *out = BL_LAYOUT_BF16;
        return BL_OK;
    default:
        return bl__fail(p->err, BL_ERR_UNSUPPORTED, "%s: dtype %s, expected F32, F16 or BF16",
                        t->name.data, bl__dtype_name(t->dtype));
    }
}

/* cols 0: one dimension of `rows`. */
static bl_status check_shape(const planner *p, const bl__safetensor *t, uint64_t rows,
                             uint64_t cols) {
    uint32_t n_dims = cols ? 2 : 1;
    if (t->n_dims == n_dims && t->dims[0] == rows && (!cols || t->dims[1] == cols))
        return BL_OK;
    char found[64] = "", expected[64];
    size_t at = 0;
    for (uint32_t i = 0; i < t->n_dims && at < sizeof found; i++)
        at += (size_t)snprintf(found + at, sizeof found - at, "%s%llu", i ? "," : "",
                               (unsigned long long)t->dims[i]);
    if (cols)
        snprintf(expected, sizeof expected, "%llu,%llu", (unsigned long long)rows,
                 (unsigned long long)cols);
    else
        snprintf(expected, sizeof expected, "%llu", (unsigned long long)rows);
    return bl__fail(p->err, BL_ERR_FORMAT, "%s: shape [%s], expected [%s]", t->name.data, found,
                    expected);
}

/* Adds a float tensor as it is; cols 0: a vector. */
static bl_status add_floats(const planner *p, const char *name, const bl__safetensor *t,
                            uint64_t rows, uint64_t cols, bl__plan_tensor **out) {
    bl__layout layout;
    bl_status status;
    if ((status = check_shape(p, t, rows, cols)) || (status = float_layout(p, t, &layout)))
        return status;
    const uint64_t dims[2] = {cols ? cols : rows, rows};
    status = bl__plan_add(p->plan, (bl__string){.data = name, .len = strlen(name)}, cols ? 2 : 1,
                          dims, layout, t->data, t->bytes, out, p->err);
    if (!status)
        (*out)->origin = t;
    return status;
}

/* A norm's weights, float32 whatever they were. */
static bl_status plan_norm(const planner *p, const char *hf_name, const char *name, uint64_t n) {
    const bl__safetensor *t;
    bl__plan_tensor *tensor;
    bl_status status;
    if ((status = require_tensor(p, hf_name, &t)) ||
        (status = add_floats(p, name, t, n, 0, &tensor)))
        return status;
    tensor->target = BL_LAYOUT_F32;
    return BL_OK;
}

/* The embedding or the output head. */
static bl_status plan_table(const planner *p, const char *hf_name, const char *name) {
    const bl__safetensor *t;
    bl__plan_tensor *tensor;
    bl_status status;
    if ((status = require_tensor(p, hf_name, &t)) ||
        (status = add_floats(p, name, t, p->config->vocab, p->config->dim, &tensor)))
        return status;
    return bl__plan_embedding(tensor, p->options, p->err);
}

/* ---- Linears ---- */

/* The magnitude of packed weights: weight_scale, or its inverse where the model divides by it. */
static bl_status read_scale(const planner *p, const char *name, float *out) {
    const bl__safetensor *t;
    float scale;
    bl__layout layout;
    bl_status status;
    if ((status = require_tensor(p, name, &t)) || (status = float_layout(p, t, &layout)))
        return status;
    if (t->n_elements != 1)
        return bl__fail(p->err, BL_ERR_FORMAT, "%s: %zu values, expected 1", name, t->n_elements);
    bl__layout_unpack_row(layout, t->data, 1, 1, 0, &scale);
    if (!isfinite(scale) || scale == 0)
        return bl__fail(p->err, BL_ERR_FORMAT, "%s: %g, expected a number that is not 0", name,
                        (double)scale);
    *out = p->config->scale_multiplies ? scale : 1.0f / scale;
    if (!isfinite(*out))
        return bl__fail(p->err, BL_ERR_FORMAT, "%s: %g, too small to divide by", name,
                        (double)scale);
    return BL_OK;
}

static bl_status add_packed(const planner *p, const char *name, const char *scale_name,
                            const bl__safetensor *t, uint64_t rows, uint64_t cols,
                            bl__plan_tensor **out) {
    const uint64_t dims[2] = {cols, rows};
    float scale;
    bl_status status;
    if (!bl__hf_int8_activations(p->config))
        return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                        "%s: packed weights, but config.json has no quantization_config",
                        t->name.data);
    if (rows % 4 != 0)
        return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                        "%s: packed weights of %llu rows, expected a "
                        "multiple of 4",
                        t->name.data, (unsigned long long)rows);
    if ((status = check_shape(p, t, rows / 4, cols)) ||
        (status = read_scale(p, scale_name, &scale)) ||
        (status = bl__plan_add(p->plan, (bl__string){.data = name, .len = strlen(name)}, 2, dims,
                               BL_LAYOUT_HF_U8, t->data, t->bytes, out, p->err)))
        return status;
    (*out)->origin = t;
    (*out)->scale = scale;
    (*out)->tensor_scale = fabsf(scale);
    (*out)->ternary = true;
    return BL_OK;
}

/* Weights that become ternary on loading: finds the mean that makes them so. */
static bl_status measure_masters(const planner *p, bl__plan_tensor *tensor) {
    bl__absmean mean = {0};
    float *row = bl__malloc_array(tensor->cols, sizeof *row);
    if (!row)
        return bl__fail(p->err, BL_ERR_MEMORY, "%s: cannot allocate a row", tensor->name);
    for (size_t r = 0; r < tensor->rows; r++) {
        bl__layout_unpack_row(tensor->source, tensor->data, tensor->rows, tensor->cols, r, row);
        bl__absmean_add(&mean, row, tensor->cols);
    }
    bl__free(row);
    float inverse = bl__absmean_inverse(&mean);
    if (isnan(inverse))
        return bl__fail(p->err, BL_ERR_FORMAT, "%s: weights that are not finite", tensor->name);
    tensor->inverse = inverse;
    tensor->tensor_scale = 1.0f / inverse;
    tensor->ternary = true;
    return BL_OK;
}

/* Float weights: masters, an unpacked ternary checkpoint, or a plain float model. */
static bl_status prepare_floats(const planner *p, bl__plan_tensor *tensor) {
    const bl__hf_config *c = p->config;
    bool ternary = false;
    if (c->online || c->architecture == BL_HF_BITNET_1B)
        return measure_masters(p, tensor);
    if (!bl__hf_int8_activations(c))
        return BL_OK;
    bl_status status = bl__plan_is_ternary(tensor, p->pool, &ternary, p->err);
    return status || ternary ? status : measure_masters(p, tensor);
}

/* The scales of OneBit's columns, as a tensor of their own. */
static bl_status plan_in_scale(const planner *p, uint32_t layer, const char *module,
                               const char *linear, uint64_t cols) {
    char hf_name[MAX_HF_NAME], name[BL_PLAN_MAX_NAME];
    const bl__safetensor *t;
    bl__plan_tensor *tensor;
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.input_factor", layer, module);
    snprintf(name, sizeof name, "blk.%u.%s.in_scale", layer, linear);
    bl_status status = require_tensor(p, hf_name, &t);
    if (status || (status = add_floats(p, name, t, cols, 0, &tensor)))
        return status;
    if (tensor->source == BL_LAYOUT_BF16)
        tensor->target = BL_LAYOUT_F32;
    return BL_OK;
}

/* A linear of OneBit: signs, packed or of latent weights, between the scales of rows and columns.
 */
static bl_status plan_onebit(const planner *p, uint32_t layer, const char *module,
                             const char *linear, uint64_t rows, uint64_t cols) {
    char hf_name[MAX_HF_NAME], name[BL_PLAN_MAX_NAME];
    const uint64_t dims[2] = {cols, rows};
    bl__onebit *o = &p->source->onebit[p->source->n_onebit++];
    bl__plan_tensor *tensor;
    bl_status status;
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.weight", layer, module);
    if ((status = require_tensor(p, hf_name, &o->weight)))
        return status;
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, linear);
    if (!p->options->native && p->options->type != BL_LAYOUT_B1)
        return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                        "%s: %s: signs between vectors, which no other program's layout says; "
                        "possible here: native, %s",
                        name, bl__layout_get(p->options->type)->name,
                        bl__layout_get(BL_LAYOUT_B1)->name);
    bool packed = o->weight->dtype == BL_DTYPE_I8;
    if (packed && cols % 8 != 0)
        return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                        "%s: packed signs of %llu columns, expected a multiple of 8", hf_name,
                        (unsigned long long)cols);
    if ((status = check_shape(p, o->weight, rows, packed ? cols / 8 : cols)) ||
        (!packed && (status = float_layout(p, o->weight, &o->weight_layout))))
        return status;
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.weight_scale", layer, module);
    if ((status = require_tensor(p, hf_name, &o->scale)) ||
        (status = check_shape(p, o->scale, rows, 0)) ||
        (status = float_layout(p, o->scale, &o->scale_layout)) ||
        (status = bl__plan_add(p->plan, (bl__string){.data = name, .len = strlen(name)}, 2, dims,
                               BL_LAYOUT_F32, NULL, 0, &tensor, p->err)))
        return status;
    tensor->make = bl__onebit_make;
    tensor->origin = o;
    tensor->linear = true;
    tensor->ternary = tensor->binary = true;
    tensor->target = BL_LAYOUT_B1;
    if (strcmp(linear, "attn_q") == 0 || strcmp(linear, "attn_k") == 0)
        tensor->head_dim = p->config->head_dim;
    return plan_in_scale(p, layer, module, linear, cols);
}

/* One linear of layer `layer`: module such as "self_attn.q_proj". */
static bl_status plan_linear(const planner *p, uint32_t layer, const char *module,
                             const char *linear, uint64_t rows, uint64_t cols) {
    const bl__hf_config *c = p->config;
    char hf_name[MAX_HF_NAME], scale_name[MAX_HF_NAME], name[BL_PLAN_MAX_NAME];
    const bl__safetensor *t;
    bl__plan_tensor *tensor;
    if (c->architecture == BL_HF_ONEBIT)
        return plan_onebit(p, layer, module, linear, rows, cols);
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.weight", layer, module);
    snprintf(scale_name, sizeof scale_name, "model.layers.%u.%s.weight_scale", layer, module);
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, linear);
    bl_status status = require_tensor(p, hf_name, &t);
    if (status)
        return status;
    status = t->dtype == BL_DTYPE_U8 ? add_packed(p, name, scale_name, t, rows, cols, &tensor)
                                     : add_floats(p, name, t, rows, cols, &tensor);
    if (!status && t->dtype != BL_DTYPE_U8)
        status = prepare_floats(p, tensor);
    if (status)
        return status;
    /* llama.cpp's architecture llama rotates adjacent pairs, transformers pairs of halves. */
    bool rotated = strcmp(linear, "attn_q") == 0 || strcmp(linear, "attn_k") == 0;
    if (c->architecture == BL_HF_LLAMA && rotated)
        tensor->head_dim = c->head_dim;
    if ((status = bl__plan_linear(tensor, p->options, false, p->pool, p->err)))
        return status;
    bl__tensor_set_release(t); /* what was read to choose is read again only much later */
    if (!c->quantized || !c->use_rms_norm)
        return BL_OK;
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.rms_norm.weight", layer, module);
    snprintf(name, sizeof name, "blk.%u.%s_norm_in.weight", layer, linear);
    return plan_norm(p, hf_name, name, cols);
}

/* ---- The whole ---- */

static bl_status plan_layer_norm(const planner *p, uint32_t layer, const char *module,
                                 const char *name, uint64_t n) {
    char hf_name[MAX_HF_NAME], gguf_name[BL_PLAN_MAX_NAME];
    if (p->config->architecture == BL_HF_BITNET_V1)
        return BL_OK; /* without weights */
    snprintf(hf_name, sizeof hf_name, "model.layers.%u.%s.weight", layer, module);
    snprintf(gguf_name, sizeof gguf_name, "blk.%u.%s.weight", layer, name);
    return plan_norm(p, hf_name, gguf_name, n);
}

static bl_status plan_layer(const planner *p, uint32_t layer) {
    const bl__hf_config *c = p->config;
    uint64_t dim = c->dim, ffn_dim = c->ffn_dim;
    uint64_t q_dim = (uint64_t)c->n_heads * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->n_kv_heads * c->head_dim;
    bool sub_norms = c->architecture != BL_HF_LLAMA && c->architecture != BL_HF_ONEBIT;
    bool first = c->architecture == BL_HF_BITNET_1B; /* the first published code's names */
    const char *attn_sub_norm = first ? "self_attn.inner_attn_ln" : "self_attn.attn_sub_norm";
    const char *ffn_sub_norm = first ? "mlp.ffn_layernorm" : "mlp.ffn_sub_norm";
    bl_status status;
    if ((status = plan_layer_norm(p, layer, "input_layernorm", "attn_norm", dim)) ||
        (status = plan_linear(p, layer, "self_attn.q_proj", "attn_q", q_dim, dim)) ||
        (status = plan_linear(p, layer, "self_attn.k_proj", "attn_k", kv_dim, dim)) ||
        (status = plan_linear(p, layer, "self_attn.v_proj", "attn_v", kv_dim, dim)) ||
        (status = plan_linear(p, layer, "self_attn.o_proj", "attn_output", dim, q_dim)))
        return status;
    if (sub_norms && (status = plan_layer_norm(p, layer, attn_sub_norm, "attn_sub_norm", q_dim)))
        return status;
    if ((status = plan_layer_norm(p, layer, "post_attention_layernorm", "ffn_norm", dim)) ||
        (status = plan_linear(p, layer, "mlp.gate_proj", "ffn_gate", ffn_dim, dim)) ||
        (status = plan_linear(p, layer, "mlp.up_proj", "ffn_up", ffn_dim, dim)) ||
        (status = plan_linear(p, layer, "mlp.down_proj", "ffn_down", dim, ffn_dim)))
        return status;
    return sub_norms ? plan_layer_norm(p, layer, ffn_sub_norm, "ffn_sub_norm", ffn_dim) : BL_OK;
}

static bl_status plan_rope(const planner *p) {
    static const char name[] = "rope_freqs.weight";
    bl__plan_tensor *tensor;
    size_t n = p->config->head_dim / 2;
    const uint64_t dims[1] = {n};
    if (p->config->rope != BL_HF_ROPE_LLAMA3)
        return BL_OK;
    float *divisors = bl__malloc_array(n, sizeof *divisors);
    if (!divisors)
        return bl__fail(p->err, BL_ERR_MEMORY, "%s: cannot allocate", name);
    p->source->rope_divisors = divisors;
    bl__hf_rope_divisors(p->config, divisors);
    return bl__plan_add(p->plan, (bl__string){.data = name, .len = strlen(name)}, 1, dims,
                        BL_LAYOUT_F32, divisors, n * sizeof *divisors, &tensor, p->err);
}

/* Tensors that no graph needs: tables that old checkpoints stored, a head beside a tied one. */
static bool is_useless(const planner *p, bl__string name) {
    static const char table[] = ".rotary_emb.inv_freq";
    size_t n = sizeof table - 1;
    return (name.len >= n && memcmp(name.data + name.len - n, table, n) == 0) ||
           (p->config->tied_head && bl__string_is(name, "lm_head.weight"));
}

static bl_status check_all_used(const planner *p) {
    const bl__tensor_set *set = p->source->set;
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!p->source->used[i] && !is_useless(p, set->tensors[i].name))
            return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                            "%s: a tensor that %s of this configuration does not have",
                            set->tensors[i].name.data, p->config->architecture_name);
    return BL_OK;
}

/* modules_to_not_convert may only name what is never quantized. */
static bl_status check_not_converted(const planner *p) {
    static const char *const harmless[] = {"lm_head", "embed_tokens", "norm"};
    for (size_t i = 0; i < p->config->n_not_converted; i++) {
        bl__string name = p->config->not_converted[i];
        bool found = false;
        for (size_t k = 0; k < sizeof harmless / sizeof *harmless; k++) {
            size_t n = strlen(harmless[k]);
            found |= name.len >= n && memcmp(name.data + name.len - n, harmless[k], n) == 0;
        }
        if (!found)
            return bl__fail(p->err, BL_ERR_UNSUPPORTED,
                            "config.json: modules_to_not_convert has '%.*s', expected lm_head, "
                            "embeddings and norms only",
                            (int)(name.len < 60 ? name.len : 60), name.data);
    }
    return BL_OK;
}

static bl_status make_plan(const planner *p) {
    bl_status status;
    if ((status = check_not_converted(p)) ||
        (status = plan_table(p, "model.embed_tokens.weight", "token_embd.weight")))
        return status;
    for (uint32_t i = 0; i < p->config->n_layers; i++)
        if ((status = plan_layer(p, i)))
            return status;
    if (p->config->architecture != BL_HF_BITNET_V1 &&
        (status = plan_norm(p, "model.norm.weight", "output_norm.weight", p->config->dim)))
        return status;
    if (!p->config->tied_head && (status = plan_table(p, "lm_head.weight", "output.weight")))
        return status;
    if ((status = plan_rope(p)))
        return status;
    return check_all_used(p);
}

/* The tokenizer, where the checkpoint has one: some have only weights, and run by token ids. */
static bl_status write_vocab(const char *path, const bl__hf_config *config, bl__gguf_writer *writer,
                             bl_error *err) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "tokenizer.gguf"};
    bool found = false;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *file = bl__path_join(path, files[i]);
        if (!file)
            return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a path", path);
        found |= bl__file_exists(file);
        bl__free(file);
    }
    bl__vocab *vocab = NULL;
    if (!found)
        return BL_OK;
    bl_status status = bl__vocab_open(path, &vocab, err);
    if (status)
        return status;
    if (vocab->n_tokens > config->vocab)
        status = bl__fail(err, BL_ERR_FORMAT, "%s: the tokenizer has %zu tokens, vocab_size is %u",
                          path, vocab->n_tokens, config->vocab);
    else
        status = bl__vocab_write_gguf(vocab, writer, config->vocab, err);
    bl__vocab_free(vocab);
    return status;
}

static void release_tensor(const bl__plan_tensor *tensor) {
    const bl__onebit *onebit = tensor->make ? tensor->origin : NULL;
    if (tensor->origin)
        bl__tensor_set_release(onebit ? onebit->weight : tensor->origin);
}

bl_status bl__hf_source_open(const char *path, const bl__plan_options *options, bl__pool *pool,
                             bl__gguf_writer *writer, bl__plan *plan, bl__hf_source **out,
                             bl_error *err) {
    bl_status status;
    bl__hf_source *source = bl__calloc(1, sizeof *source);
    if (!source)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", path);
    if ((status = bl__hf_config_read(path, &source->config, err)) ||
        (status = bl__tensor_set_open(path, &source->set, err)))
        goto fail;
    if (source->config->architecture == BL_HF_ONEBIT)
        source->onebit =
            bl__calloc((size_t)source->config->n_layers * N_LINEARS, sizeof *source->onebit);
    bool complete = source->onebit || source->config->architecture != BL_HF_ONEBIT;
    if (!(source->used = bl__calloc(source->set->n_tensors, sizeof *source->used)) || !complete) {
        status = bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", path);
        goto fail;
    }
    const planner p = {.config = source->config,
                       .source = source,
                       .options = options,
                       .pool = pool,
                       .plan = plan,
                       .err = err};
    plan->release = release_tensor;
    plan->may_skip = source->config->activation == BL_HF_RELU2 && source->config->quantized &&
                     !source->config->use_rms_norm;
    if ((status = bl__hf_write_metadata(source->config, path, writer, err)) ||
        (status = write_vocab(path, source->config, writer, err)))
        goto fail;
    if ((status = make_plan(&p)))
        goto fail;
    *out = source;
    return BL_OK;
fail:
    bl__hf_source_close(source);
    return status;
}
