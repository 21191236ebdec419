/* Owns the names and layouts of tensors in models to start from. */
#include "train/source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "formats/hf_config.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "train/checkpoint.h"
#include "train/run_directory.h"

enum { MAX_NAME = 128, SHOWN = 80 };

struct bl__source {
    char *path;
    char *recipe; /* JSON */
    /* one of the three */
    bl__filemap map;
    bl__gguf *gguf;
    bl__hf_config *config;
    bl__checkpoint *checkpoint;
    bl__tensor_set *set; /* of the last two */
    size_t n_layers;
    size_t head_dim;    /* GGUF only */
    bool pairs;         /* Q and K lie permuted for RoPE on adjacent pairs */
    bool has_tokenizer; /* beside the weights or among them */
};

/* A tensor wherever it lies. */
typedef struct tensor {
    bl__layout layout; /* BL_LAYOUT_COUNT: none that can be read */
    const char *type;
    const uint8_t *data;
    size_t rows, cols, bytes;
} tensor;

/* Parts of layers but vectors, in the network's order: as transformers names them, as 1bitLLM did,
 * as GGUF does.
 */
static const struct {
    const char *hf, *first, *gguf;
} PARTS[] = {{"input_layernorm", NULL, "attn_norm"},
             {"self_attn.q_proj", NULL, "attn_q"},
             {"self_attn.k_proj", NULL, "attn_k"},
             {"self_attn.v_proj", NULL, "attn_v"},
             {"self_attn.attn_sub_norm", "self_attn.inner_attn_ln", "attn_sub_norm"},
             {"self_attn.o_proj", NULL, "attn_output"},
             {"post_attention_layernorm", NULL, "ffn_norm"},
             {"mlp.gate_proj", NULL, "ffn_gate"},
             {"mlp.up_proj", NULL, "ffn_up"},
             {"mlp.ffn_sub_norm", "mlp.ffn_layernorm", "ffn_sub_norm"},
             {"mlp.down_proj", NULL, "ffn_down"}};
enum { N_PARTS = sizeof PARTS / sizeof *PARTS };
/* Of onebit linears, in checkpoints. */
static const char *const VECTORS[2] = {"input_factor", "weight_scale"};
static const char *const ENDS[3][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                       {"model.norm.weight", "output_norm.weight"},
                                       {"lm_head.weight", "output.weight"}};

static bl_status no_memory(const char *path, bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", path);
}

/* How a file calls part `part` of a layer; ".weight" or ".scale" follows. */
static void part_name(const bl__source *s, size_t layer, size_t part, const char *suffix,
                      char out[MAX_NAME]) {
    bool first = s->config && s->config->architecture == BL_HF_BITNET_1B && PARTS[part].first;
    if (s->gguf)
        snprintf(out, MAX_NAME, "blk.%zu.%s.%s", layer, PARTS[part].gguf, suffix);
    else
        snprintf(out, MAX_NAME, "model.layers.%zu.%s.%s", layer,
                 first ? PARTS[part].first : PARTS[part].hf, suffix);
}

/* ---- tensors of either kind of file ---- */

static tensor from_gguf(const bl__gguf_tensor *t) {
    return (tensor){.layout = t->layout,
                    .type = t->type_name,
                    .data = t->data,
                    .rows = t->rows,
                    .cols = t->cols,
                    .bytes = t->bytes};
}

static tensor from_safetensor(const bl__safetensor *t) {
    tensor out = {.layout = BL_LAYOUT_COUNT,
                  .type = bl__dtype_name(t->dtype),
                  .data = t->data,
                  .rows = t->n_dims == 2 ? (size_t)t->dims[0] : 1,
                  .cols = t->n_dims ? (size_t)t->dims[t->n_dims - 1] : 0,
                  .bytes = t->bytes};
    if (t->n_dims > 2)
        return out;
    if (t->dtype == BL_DTYPE_F32)
        out.layout = BL_LAYOUT_F32;
    else if (t->dtype == BL_DTYPE_F16)
        out.layout = BL_LAYOUT_F16;
    else if (t->dtype == BL_DTYPE_BF16)
        out.layout = BL_LAYOUT_BF16;
    else if (t->dtype == BL_DTYPE_U8)
        out.layout = BL_LAYOUT_HF_U8;
    return out;
}

static bool find(const bl__source *s, const char *name, tensor *out) {
    if (s->gguf) {
        const bl__gguf_tensor *t = bl__gguf_find_tensor(s->gguf, name);
        if (t)
            *out = from_gguf(t);
        return t != NULL;
    }
    const bl__safetensor *t = bl__tensor_set_find(s->set, name);
    if (t)
        *out = from_safetensor(t);
    return t != NULL;
}

/* ---- is every tensor one of the network's? ---- */

/* Tables that old files stored, and what only trainers or a tied head need. */
static bool is_useless(const bl__source *s, const char *name) {
    static const char table[] = ".rotary_emb.inv_freq";
    size_t len = strlen(name), n = sizeof table - 1;
    if (s->checkpoint)
        return strncmp(name, "first.", 6) == 0 || strncmp(name, "second.", 7) == 0;
    return s->config && len >= n && strcmp(name + len - n, table) == 0;
}

static bool is_known(const bl__source *s, const char *name) {
    char known[MAX_NAME];
    unsigned long long layer = 0;
    for (size_t i = 0; i < 3; i++)
        if (strcmp(name, ENDS[i][s->gguf != NULL]) == 0)
            return true;
    if (sscanf(name, s->gguf ? "blk.%9llu." : "model.layers.%9llu.", &layer) != 1 ||
        layer >= s->n_layers)
        return is_useless(s, name);
    for (size_t i = 0; i < N_PARTS; i++) {
        part_name(s, (size_t)layer, i, "weight", known);
        if (strcmp(name, known) == 0)
            return true;
        part_name(s, (size_t)layer, i, "scale", known);
        if (s->gguf && strcmp(name, known) == 0)
            return true;
        for (size_t k = 0; s->checkpoint && k < 2; k++) {
            part_name(s, (size_t)layer, i, VECTORS[k], known);
            if (strcmp(name, known) == 0)
                return true;
        }
    }
    return is_useless(s, name);
}

static bl_status check_name(const bl__source *s, bl__string name, bl_error *err) {
    char text[MAX_NAME];
    snprintf(text, sizeof text, "%.*s", (int)(name.len < MAX_NAME ? name.len : MAX_NAME - 1),
             name.data);
    if (name.len < sizeof text && is_known(s, text))
        return BL_OK;
    size_t n = strlen("_scale");
    if (name.len > n && memcmp(name.data + name.len - n, "_scale", n) == 0)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%.*s: the scale of packed ternary weights, which cannot be trained on; "
                        "start from the model's masters",
                        SHOWN, text);
    return bl__fail(err, BL_ERR_UNSUPPORTED, "%.*s: a tensor that the trainer's network has not",
                    SHOWN, text);
}

/* The head must be the embedding: absent, or the same bytes. */
static bl_status check_head(const bl__source *s, bl_error *err) {
    tensor head, embedding;
    const char *name = ENDS[2][s->gguf != NULL];
    bool tied = s->config && s->config->tied_head;
    if (!find(s, name, &head) || tied)
        return s->config && !tied ? bl__fail(err, BL_ERR_NOT_FOUND, "%s: not in the model", name)
                                  : BL_OK;
    if (find(s, ENDS[0][s->gguf != NULL], &embedding) && head.layout == embedding.layout &&
        head.bytes == embedding.bytes && memcmp(head.data, embedding.data, head.bytes) == 0)
        return BL_OK;
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%s: a head of its own; the trainer's network has the embedding for it", name);
}

static bl_status check_tensors(const bl__source *s, bl_error *err) {
    size_t n = s->gguf ? s->gguf->n_tensors : s->set->n_tensors;
    for (size_t i = 0; i < n; i++) {
        bl_status status =
            check_name(s, s->gguf ? s->gguf->tensors[i].name : s->set->tensors[i].name, err);
        if (status)
            return status;
    }
    return check_head(s, err);
}

/* ---- what the model says of itself ---- */

typedef struct shape {
    uint32_t layers, dim, ffn_dim, heads, kv_heads, head_dim, vocab, context;
    bool relu2, quantized, layer_norm;
    double rope_base, norm_eps;
} shape;

static bl_status write_recipe(bl__source *s, const shape *h, bl_error *err) {
    char name[MAX_NAME];
    tensor unused;
    part_name(s, 0, BL_PARAM_ATTN_SUB_NORM, "weight", name);
    json_t *root = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:f, s:f}",
                             "layers", (json_int_t)h->layers, "dim", (json_int_t)h->dim, "ffn_dim",
                             (json_int_t)h->ffn_dim, "heads", (json_int_t)h->heads, "kv_heads",
                             (json_int_t)h->kv_heads, "head_dim", (json_int_t)h->head_dim, "vocab",
                             (json_int_t)h->vocab, "context", (json_int_t)h->context, "activation",
                             h->relu2 ? "relu2" : "silu", "norm", h->layer_norm ? "layer" : "rms",
                             "sub_norms", h->layer_norm || find(s, name, &unused), "rope_base",
                             h->rope_base, "norm_eps", h->norm_eps);
    bool good = root != NULL;
    if (good && s->has_tokenizer)
        good = json_object_set_new(root, "tokenizer", json_string(s->path)) == 0;
    if (good && h->quantized) /* it has been trained as it will be: nothing to warm up to */
        good = json_object_set_new(root, "weights", json_string("ternary")) == 0 &&
               json_object_set_new(root, "lambda_steps", json_integer(0)) == 0;
    s->recipe = good ? bl__json_write(root, 0, NULL) : NULL;
    json_decref(root);
    return s->recipe ? BL_OK : no_memory(s->path, err);
}

/* ---- GGUF ---- */

static bl_status open_gguf(bl__source *s, bl_error *err) {
    bl__hparams h;
    bl_status status;
    if ((status = bl__filemap_open(s->path, &s->map, err)))
        return status; /* names the path */
    if ((status = bl__gguf_parse(s->map.data, s->map.len, &s->gguf, err)) ||
        (status = bl__hparams_read(s->gguf, &h, err)))
        goto fail;
    s->n_layers = h.n_layers;
    s->head_dim = h.head_dim;
    s->pairs = !h.rope_halves;
    s->has_tokenizer = bl__gguf_find(s->gguf, "tokenizer.ggml.tokens") != NULL;
    if (h.n_rot != h.head_dim || h.rope_factor != 1.0f)
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "RoPE of %u elements of heads of %u, positions over %g: the trainer's "
                          "network rotates whole heads by whole positions",
                          h.n_rot, h.head_dim, (double)h.rope_factor);
    else if (h.n_groups > 1)
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "linears in %u groups; expected the run that the model comes from",
                          h.n_groups);
    const shape sizes = {.layers = h.n_layers,
                         .dim = h.dim,
                         .ffn_dim = h.ffn_dim,
                         .heads = h.n_heads,
                         .kv_heads = h.n_kv_heads,
                         .head_dim = h.head_dim,
                         .vocab = h.vocab,
                         .context = h.context_length,
                         .relu2 = h.activation == BL_ACTIVATION_RELU2,
                         .quantized = h.int8_activations,
                         .layer_norm = h.layer_norm,
                         .rope_base = (double)h.rope_base,
                         .norm_eps = (double)h.norm_eps};
    if (!status && !(status = check_tensors(s, err)))
        status = write_recipe(s, &sizes, err);
fail:
    if (status)
        bl__error_prefix(err, s->path);
    return status;
}

/* ---- Hugging Face ---- */

static bl_status has_file(const bl__source *s, const char *name, bool *found, bl_error *err) {
    char *path = bl__path_join(s->path, name);
    if (!path)
        return no_memory(s->path, err);
    *found |= bl__file_exists(path);
    bl__free(path);
    return BL_OK;
}

static bl_status check_config(const bl__hf_config *c, bl_error *err) {
    if (c->rope != BL_HF_ROPE_DEFAULT)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "config.json: scaled RoPE, which the trainer's network has not");
    if (c->architecture == BL_HF_ONEBIT)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "config.json: %s: norms after linears, which the trainer's network has not",
                        c->architecture_name);
    if (c->quantized && c->use_rms_norm)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "config.json: use_rms_norm: linears with a norm of their own, which the "
                        "trainer's network has not");
    return BL_OK;
}

static bl_status open_hf(bl__source *s, bl_error *err) {
    bl_status status;
    if ((status = bl__hf_config_read(s->path, &s->config, err)) ||
        (status = bl__tensor_set_open(s->path, &s->set, err)))
        return status; /* names the path */
    const bl__hf_config *c = s->config;
    s->n_layers = c->n_layers;
    const shape sizes = {.layers = c->n_layers,
                         .dim = c->dim,
                         .ffn_dim = c->ffn_dim,
                         .heads = c->n_heads,
                         .kv_heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .vocab = c->vocab,
                         .context = c->context_length,
                         .relu2 = c->activation == BL_HF_RELU2,
                         .quantized = c->quantized || c->is_bitnet_config ||
                                      c->architecture == BL_HF_BITNET_1B,
                         .layer_norm = c->architecture == BL_HF_BITNET_V1,
                         .rope_base = (double)c->rope_theta,
                         .norm_eps = (double)c->rms_norm_eps};
    if ((status = has_file(s, "tokenizer.json", &s->has_tokenizer, err)) ||
        (status = has_file(s, "tokenizer.model", &s->has_tokenizer, err)) ||
        (status = has_file(s, "tokenizer.gguf", &s->has_tokenizer, err)))
        return status;
    if ((status = check_config(c, err)) || (status = check_tensors(s, err)) ||
        (status = write_recipe(s, &sizes, err)))
        bl__error_prefix(err, s->path);
    return status;
}

/* ---- ours ---- */

/* Its recipe's keys; the kind of weights only where they were quantized to the full. */
static bl_status write_own_recipe(bl__source *s, bl_error *err) {
    const bl__recipe *r = bl__checkpoint_recipe(s->checkpoint);
    char *text = bl__recipe_base_text(r);
    json_t *root = text ? json_loads(text, 0, NULL) : NULL;
    bool good = root != NULL;
    if (good && r->weights != BL_WEIGHTS_FLOAT &&
        bl__checkpoint_progress(s->checkpoint)->step >= (uint64_t)r->lambda_steps)
        good = json_object_set_new(root, "lambda_steps", json_integer(0)) == 0;
    else if (good)
        good = json_object_del(root, "weights") == 0 && json_object_del(root, "lambda_steps") == 0;
    s->recipe = good ? bl__json_write(root, 0, NULL) : NULL;
    json_decref(root);
    bl__free(text);
    return s->recipe ? BL_OK : no_memory(s->path, err);
}

static bl_status open_checkpoint(bl__source *s, bl_error *err) {
    char file[BL_RUN_MAX_PATH];
    bl_status status;
    if ((status = bl__run_find_checkpoint(s->path, file, err)) ||
        (status = bl__checkpoint_open(file, &s->checkpoint, err)) ||
        (status = bl__tensor_set_open(file, &s->set, err)))
        return status;
    s->n_layers = (size_t)bl__checkpoint_recipe(s->checkpoint)->layers;
    if ((status = check_tensors(s, err)))
        bl__error_prefix(err, s->path);
    return status ? status : write_own_recipe(s, err);
}

/* ---- opening ---- */

static bl_status looks_like_gguf(const char *path, bool *is_gguf, bl_error *err) {
    bl__filemap map;
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status;
    *is_gguf = map.len >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    bl__filemap_close(&map);
    return BL_OK;
}

bl_status bl__source_open(const char *path, bl__source **out, bl_error *err) {
    bool is_hf = false, is_gguf = false;
    bl_status status = BL_ERR_MEMORY;
    bl__source *s = bl__calloc(1, sizeof *s);
    if (!s || !(s->path = bl__strndup(path, strlen(path)))) {
        no_memory(path, err);
        goto fail;
    }
    if (!bl__directory_exists(path)) {
        if ((status = looks_like_gguf(path, &is_gguf, err)))
            goto fail;
    } else if ((status = has_file(s, "config.json", &is_hf, err)))
        goto fail;
    status = is_gguf ? open_gguf(s, err) : is_hf ? open_hf(s, err) : open_checkpoint(s, err);
    if (status)
        goto fail;
    *out = s;
    return BL_OK;
fail:
    bl__source_close(s);
    return status;
}

void bl__source_close(bl__source *s) {
    if (!s)
        return;
    bl__gguf_free(s->gguf);
    bl__filemap_close(&s->map);
    bl__hf_config_free(s->config);
    bl__tensor_set_close(s->set);
    bl__checkpoint_close(s->checkpoint);
    bl__free(s->recipe);
    bl__free(s->path);
    bl__free(s);
}

const char *bl__source_recipe(const bl__source *s) {
    return s->recipe;
}

bool bl__source_is_onebit(const bl__source *s) {
    char name[MAX_NAME];
    tensor t;
    part_name(s, 0, BL_PARAM_Q, VECTORS[0], name);
    return s->checkpoint && find(s, name, &t);
}

/* ---- weights ---- */

static bl_status check_tensor(const tensor *t, const bl__param *p, const char *name,
                              bl_error *err) {
    if (t->layout == BL_LAYOUT_COUNT)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: type %s cannot be read", name, t->type);
    if (bl__layout_get(t->layout)->ternary)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: weights that are %s already (%s) cannot be trained on; start from the "
                        "model's masters",
                        name, t->layout == BL_LAYOUT_Q1_0 ? "binary" : "ternary", t->type);
    if (t->rows != p->whole_rows || t->cols != p->whole_cols)
        return bl__fail(err, BL_ERR_FORMAT, "%s: shape [%zu,%zu], expected [%zu,%zu]", name,
                        t->rows, t->cols, p->whole_rows, p->whole_cols);
    return BL_OK;
}

/* The factor that some GGUF files keep beside a linear's weights. */
static bl_status read_scale(const bl__source *s, const char *name, float *out, bl_error *err) {
    tensor t;
    *out = 1.0f;
    if (!s->gguf || !find(s, name, &t))
        return BL_OK;
    if (t.layout != BL_LAYOUT_F32 || t.rows != 1 || t.cols != 1)
        return bl__fail(err, BL_ERR_FORMAT, "%s: %s [%zu,%zu], expected one f32", name, t.type,
                        t.rows, t.cols);
    memcpy(out, t.data, sizeof *out);
    return BL_OK;
}

/* Row `row` in halves order: pair i of a head is rows i and i + d/2 here, 2i and 2i + 1 there. */
static size_t source_row(const bl__source *s, bool rotates, size_t row) {
    if (!s->pairs || !rotates)
        return row;
    size_t d = s->head_dim, within = row % d, half = d / 2;
    return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

/* rotates: the rows are those of Q or K. */
static bl_status read_tensor(const bl__source *s, const char *name, const char *scale_name,
                             bool rotates, bl__param *p, bl_error *err) {
    tensor t;
    float scale = 1.0f, magnitude;
    if (!find(s, name, &t))
        return bl__fail(err, BL_ERR_NOT_FOUND, "%s: not in the model", name);
    bl_status status = check_tensor(&t, p, name, err);
    if (status || (scale_name && (status = read_scale(s, scale_name, &scale, err))))
        return status;
    /* Rows are read whole, also where the network has a part of their columns. */
    float *row = bl__malloc_array(p->whole_cols, sizeof *row);
    if (!row)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a row", name);
    for (size_t r = 0; r < p->rows && !status; r++) {
        float sum = 0;
        bl__layout_unpack_row(t.layout, t.data, t.rows, t.cols,
                              source_row(s, rotates, p->first_row + r), row);
        for (size_t i = 0; i < p->whole_cols; i++) {
            row[i] *= scale;
            sum += row[i] * 0.0f;
        }
        memcpy(p->value + r * p->cols, row + p->first_col, p->cols * sizeof *row);
        if (sum != 0)
            status = bl__fail(err, BL_ERR_FORMAT, "%s: row %zu: a weight that is not finite", name,
                              p->first_row + r);
        else if (r == 0 && p->linear && p->whole_cols > 2 &&
                 bl__row_is_ternary(row, p->whole_cols, NULL, &magnitude) && magnitude > 0)
            status =
                bl__fail(err, BL_ERR_UNSUPPORTED,
                         "%s: weights that are ternary already cannot be trained on; start from "
                         "the model's masters",
                         name);
    }
    bl__free(row);
    return status;
}

static bl_status read_part(const bl__source *s, bl__param *p, size_t layer, size_t part,
                           bl_error *err) {
    char name[MAX_NAME], scale[MAX_NAME];
    tensor t;
    bool is_sub_norm = part == BL_PARAM_ATTN_SUB_NORM || part == BL_PARAM_FFN_SUB_NORM;
    bool is_missing;
    part_name(s, layer, part, "weight", name);
    part_name(s, layer, part, "scale", scale);
    is_missing = !find(s, name, &t);
    if (is_missing && (is_sub_norm || !p->rows))
        return BL_OK; /* as it was initialized: ones, or without weights */
    if (!p->rows)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: weights of a norm that the network has not",
                        name);
    return read_tensor(s, name, p->linear ? scale : NULL, part == BL_PARAM_Q || part == BL_PARAM_K,
                       p, err);
}

static bl_status read_vector(const bl__source *s, bl__param *p, bl_error *err) {
    tensor t;
    if (!s->checkpoint || !find(s, p->name, &t))
        return BL_OK; /* the network finds them */
    if (!p->rows)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: of a onebit model, whose weights are signs: other kinds cannot start "
                        "from them",
                        p->name);
    return read_tensor(s, p->name, NULL, false, p, err);
}

bl_status bl__source_read(const bl__source *s, bl__param *params, size_t n_params, bl_error *err) {
    size_t gguf = s->gguf != NULL;
    bl_status status = read_tensor(s, ENDS[0][gguf], NULL, false, &params[0], err);
    for (size_t i = 1; i + 1 < n_params && !status; i++)
        status = params[i].vector ? read_vector(s, &params[i], err)
                                  : read_part(s, &params[i], (i - 1) / BL_PARAMS_PER_LAYER,
                                              (i - 1) % BL_PARAMS_PER_LAYER, err);
    if (!status && params[n_params - 1].rows)
        status = read_tensor(s, ENDS[1][gguf], NULL, false, &params[n_params - 1], err);
    if (status)
        bl__error_prefix(err, s->path);
    return status;
}
