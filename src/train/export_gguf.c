/* Owns what a checkpoint becomes as a GGUF file in the native layout: the same bytes as by way of a
 * Hugging Face directory and bl_convert() (a test compares them), and, as those cannot say it,
 * models in groups. Must not know how networks compute.
 * Sources of the keys: llama.cpp's docs/gguf.md and llama-arch.cpp; docs/model.md for ours. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"
#include "bitloom/train.h"
#include "bitloom/verify.h"
#include "formats/gguf.h"
#include "formats/known_answer.h"
#include "quant/quant.h"
#include "quant/skip.h"
#include "tokenizer/vocab.h"
#include "train/trained.h"

enum { QUANTIZATION_VERSION = 2, ALIGNMENT = 32, MAX_KEY = 96, MAX_NAME = 64 };

/* An export on its way. */
typedef struct gguf_export {
    bl__trained trained;
    bool masters;
    const char *architecture;
    bl__gguf_writer *writer;
    bl_error *err;
} gguf_export;

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate for the export");
}

static bool is_onebit(const gguf_export *e) {
    return e->trained.recipe.weights == BL_WEIGHTS_ONEBIT;
}
static bool is_quantized_model(const gguf_export *e) {
    return e->trained.recipe.weights != BL_WEIGHTS_FLOAT;
}

/* The layout of all linears; that of a float model is floats. Onebit linears are signs and a scale
 * a row, which is the vector of outputs; that of inputs is a tensor beside them. */
static bl__layout linear_layout(const gguf_export *e) {
    uint64_t n_weights = 0;
    size_t n;
    const bl__param *params = bl__network_params(e->trained.net, &n);
    for (size_t i = 0; i < n; i++)
        if (params[i].linear)
            n_weights += (uint64_t)params[i].rows * params[i].cols;
    bool binary = e->trained.recipe.weights == BL_WEIGHTS_BINARY;
    if (is_onebit(e))
        return BL_LAYOUT_B1;
    return is_quantized_model(e) ? bl__layout_choose_native(binary, n_weights) : BL_LAYOUT_F32;
}

/* ---- metadata ---- */

static bl_status set_text(const gguf_export *e, const char *key, const char *text) {
    return bl__gguf_set_string(e->writer, key, text, strlen(text), e->err);
}

/* A key below the architecture's name. */
static const char *make_key(const gguf_export *e, const char *name, char text[MAX_KEY]) {
    snprintf(text, MAX_KEY, "%s.%s", e->architecture, name);
    return text;
}

static bl_status write_general(const gguf_export *e, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name), suffix = strlen(".gguf");
    if (len > suffix && strcmp(name + len - suffix, ".gguf") == 0)
        len -= suffix;
    bl_status status;
    if ((status = set_text(e, "general.architecture", e->architecture)) ||
        (status = set_text(e, "general.type", "model")) ||
        (status = bl__gguf_set_string(e->writer, "general.name", name, len, e->err)) ||
        (status = bl__gguf_set_u32(e->writer, "general.alignment", ALIGNMENT, e->err)))
        return status;
    return bl__gguf_set_u32(e->writer, "general.quantization_version", QUANTIZATION_VERSION,
                            e->err);
}

static bl_status write_sizes(const gguf_export *e) {
    const bl__recipe *r = &e->trained.recipe;
    bool odd_heads = r->head_dim * r->heads != r->dim;
    const struct {
        const char *name;
        int64_t value;
        bool wanted;
    } sizes[] = {{"vocab_size", r->vocab, true},
                 {"context_length", r->context, true},
                 {"embedding_length", r->dim, true},
                 {"block_count", r->layers, true},
                 {"feed_forward_length", r->ffn_dim, true},
                 {"attention.head_count", r->heads, true},
                 {"attention.head_count_kv", r->kv_heads, true},
                 {"attention.key_length", r->head_dim, odd_heads},
                 {"attention.value_length", r->head_dim, odd_heads},
                 {"rope.dimension_count", r->head_dim, true}};
    char key[MAX_KEY];
    bl_status status = BL_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !status; i++)
        if (sizes[i].wanted)
            status = bl__gguf_set_u32(e->writer, make_key(e, sizes[i].name, key),
                                      (uint32_t)sizes[i].value, e->err);
    return status;
}

static bl_status write_graph(const gguf_export *e) {
    const bl__recipe *r = &e->trained.recipe;
    const char *eps =
        r->norm == 1 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    char key[MAX_KEY];
    bl_status status;
    if ((status = bl__gguf_set_f32(e->writer, make_key(e, "rope.freq_base", key),
                                   (float)r->rope_base, e->err)) ||
        (status = bl__gguf_set_f32(e->writer, make_key(e, eps, key), (float)r->norm_eps, e->err)) ||
        (r->norm == 1 && (status = set_text(e, "bitloom.norm", "layer"))) ||
        (status = set_text(e, make_key(e, "hidden_act", key), r->activation ? "relu2" : "silu")) ||
        (status = set_text(e, "bitloom.activation_quantization",
                           is_quantized_model(e) && !is_onebit(e) ? "int8_token" : "none")))
        return status;
    return r->groups > 1
               ? bl__gguf_set_u32(e->writer, "bitloom.groups", (uint32_t)r->groups, e->err)
               : BL_OK;
}

static bl_status write_vocab(const gguf_export *e) {
    const bl__recipe *r = &e->trained.recipe;
    bl__vocab *vocab = NULL;
    if (!r->tokenizer)
        return BL_OK;
    bl_status status = bl__vocab_open(r->tokenizer, &vocab, e->err);
    if (status)
        return status;
    if (vocab->n_tokens > (size_t)r->vocab)
        status =
            bl__fail(e->err, BL_ERR_FORMAT, "%s: the tokenizer has %zu tokens, the model's is %lld",
                     r->tokenizer, vocab->n_tokens, (long long)r->vocab);
    else
        status = bl__vocab_write_gguf(vocab, e->writer, (size_t)r->vocab, e->err);
    bl__vocab_free(vocab);
    return status;
}

static bl_status write_metadata(const gguf_export *e, const char *path) {
    bl_status status;
    if ((status = write_general(e, path)) || (status = write_sizes(e)) ||
        (status = write_graph(e)) || (status = write_vocab(e)))
        return status;
    int32_t type = bl__layout_get(linear_layout(e))->file_type;
    return type < 0 ? BL_OK
                    : bl__gguf_set_u32(e->writer, "general.file_type", (uint32_t)type, e->err);
}

/* ---- tensors ---- */

/* As convert chooses it: rows of up and columns of down can be left out with ReLU^2. */
static bl__layout layout_of(const gguf_export *e, size_t which) {
    const bl__recipe *r = &e->trained.recipe;
    bool skips = r->activation && r->groups == 1 && r->weights == BL_WEIGHTS_TERNARY &&
                 bl__skip_suits((size_t)r->dim);
    return skips && which == BL_PARAM_UP     ? BL_LAYOUT_R2
           : skips && which == BL_PARAM_DOWN ? BL_LAYOUT_C2
                                             : linear_layout(e);
}

/* One tensor of the file: a parameter, or a group of its columns. */
typedef struct piece {
    const bl__param *param;
    const linear *linear; /* NULL: no linear */
    size_t group, first, cols;
    size_t head_dim; /* not 0: rows of each head go from RoPE halves to adjacent pairs */
    bl__layout layout;
    char name[MAX_NAME];
} piece;

/* Names in the order of BL_PARAM_*. */
static const char *const names[BL_PARAM_VECTORS] = {
    "attn_norm", "attn_q",   "attn_k", "attn_v",       "attn_sub_norm", "attn_output",
    "ffn_norm",  "ffn_gate", "ffn_up", "ffn_sub_norm", "ffn_down"};

/* Embedding and norms: bfloat16 is what a packed Hugging Face export has. */
static piece make_plain(const gguf_export *e, const bl__param *p, const char *name) {
    piece t = {.param = p, .cols = p->cols, .layout = BL_LAYOUT_F32};
    if (p->rows > 1 && is_quantized_model(e) && !e->masters)
        t.layout = BL_LAYOUT_BF16;
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static piece make_layer_piece(const gguf_export *e, size_t index, size_t which, size_t group) {
    const bl__recipe *r = &e->trained.recipe;
    const bl__param *p = bl__layer_param(e->trained.net, index, which);
    char name[MAX_NAME];
    snprintf(name, sizeof name, "blk.%zu.%s.weight", index, names[which]);
    if (!p->linear)
        return make_plain(e, p, name);
    bool split = r->groups > 1 && (which == BL_PARAM_O || which == BL_PARAM_DOWN);
    piece t = {.param = p, .linear = bl__trained_linear(e->trained.net, p), .group = group};
    t.cols = split ? p->cols / (size_t)r->groups : p->cols;
    t.first = group * t.cols;
    t.layout = layout_of(e, which);
    if (!r->sub_norms && (which == BL_PARAM_Q || which == BL_PARAM_K))
        t.head_dim = (size_t)r->head_dim;
    if (split)
        snprintf(t.name, sizeof t.name, "blk.%zu.%s.%zu.weight", index, names[which], group);
    else
        memcpy(t.name, name, sizeof t.name);
    return t;
}

/* What multiplies the inputs of a onebit linear. */
static piece make_vector_piece(const gguf_export *e, const linear *l, size_t index, size_t which) {
    piece t = {.param = l->in_vector, .cols = l->cols};
    t.layout = e->masters ? BL_LAYOUT_F32 : BL_LAYOUT_F16;
    snprintf(t.name, sizeof t.name, "blk.%zu.%s.in_scale", index, names[which]);
    return t;
}

/* Calls `visit` for every tensor in the order of the file. */
static bl_status visit_pieces(const gguf_export *e,
                              bl_status (*visit)(const gguf_export *, const piece *)) {
    /* where o and down come in converted files: before their sub-norms */
    static const unsigned char order[BL_PARAM_VECTORS] = {
        BL_PARAM_ATTN_NORM,     BL_PARAM_Q,        BL_PARAM_K,    BL_PARAM_V,  BL_PARAM_O,
        BL_PARAM_ATTN_SUB_NORM, BL_PARAM_FFN_NORM, BL_PARAM_GATE, BL_PARAM_UP, BL_PARAM_DOWN,
        BL_PARAM_FFN_SUB_NORM};
    size_t n_params;
    const bl__param *params = bl__network_params(e->trained.net, &n_params);
    piece t = make_plain(e, &params[0], "token_embd.weight");
    bl_status status = visit(e, &t);
    for (size_t i = 0; i < (size_t)e->trained.recipe.layers && !status; i++)
        for (size_t k = 0; k < BL_PARAM_VECTORS && !status; k++) {
            t = make_layer_piece(e, i, order[k], 0);
            size_t n_groups = t.param->rows ? t.param->cols / t.cols : 0;
            for (size_t g = 0; g < n_groups && !status; g++) {
                t = make_layer_piece(e, i, order[k], g);
                status = visit(e, &t);
            }
            if (!status && t.linear && t.linear->signs) {
                t = make_vector_piece(e, t.linear, i, order[k]);
                status = visit(e, &t);
            }
        }
    if (status || !params[n_params - 1].rows)
        return status;
    t = make_plain(e, &params[n_params - 1], "output_norm.weight");
    return visit(e, &t);
}

static bl_status declare(const gguf_export *e, const piece *t) {
    const uint64_t dims[2] = {t->cols, t->param->rows};
    return bl__gguf_add_tensor(e->writer, t->name, t->param->rows > 1 ? 2 : 1, dims, t->layout,
                               e->err);
}

/* Row `row` of the tensor as floats, taken from the codes of the forward pass where there are any.
 */
static void read_row(const gguf_export *e, const piece *t, size_t row, float *out) {
    const bl__param *p = t->param;
    if (t->head_dim) { /* pair i of a head is made of its rows i and i + d/2 */
        size_t within = row % t->head_dim;
        row = row - within + within % 2 * (t->head_dim / 2) + within / 2;
    }
    if (t->linear && t->linear->tiles) {
        bl__layout_unpack_row(BL_LAYOUT_T2, t->linear->tiles + t->group * t->linear->group_tiles,
                              p->rows, t->cols, row, out);
        return;
    }
    memcpy(out, p->value + row * p->cols + t->first, t->cols * sizeof *out);
    for (size_t c = 0; t->linear && t->linear->signs && c < t->cols; c++)
        out[c] =
            out[c] < 0 ? -t->linear->out_vector->value[row] : t->linear->out_vector->value[row];
    for (size_t i = 0;
         p->rows == 1 && !p->vector && is_quantized_model(e) && !e->masters && i < t->cols; i++)
        out[i] = bl__bf16_to_f32(bl__f32_to_bf16(out[i]));
}

static bl_status write_piece(const gguf_export *e, const piece *t) {
    size_t rows = t->param->rows, bytes;
    bl_status status = bl__layout_bytes(t->layout, rows, t->cols, &bytes, e->err);
    if (status)
        return status;
    uint8_t *packed = bl__malloc(bytes);
    float *row = bl__malloc_array(t->cols, sizeof *row);
    if (!packed || !row)
        status = no_memory(e->err);
    for (size_t r = 0; r < rows && !status; r++) {
        read_row(e, t, r, row);
        status = bl__layout_pack_rows(t->layout, row, rows, t->cols, r, 1, 0, packed, e->err);
        if (status)
            bl__error_prefix(e->err, t->name);
    }
    if (!status)
        status = bl__gguf_write_data(e->writer, packed, bytes, e->err);
    bl__free(packed);
    bl__free(row);
    return status;
}

/* ---- the whole ---- */

/* Runs the file as it will be, and keeps what the model says. */
static bl_status add_answer(const gguf_export *e, bl__outfile *file) {
    bl_known_answer answer;
    const char *path;
    bl_status status = bl__outfile_flush(file, &path, e->err);
    if (status || (status = bl_known_answer_make(path, 0, &answer, e->err)))
        return status;
    return bl__known_answer_fill(e->writer, &answer, e->err);
}

static bl_status write_file(const gguf_export *e, const char *path) {
    bl__outfile *file = NULL;
    bl_status status;
    if ((status = bl__known_answer_reserve(e->writer, e->err)) ||
        (status = bl__gguf_writer_checksums(e->writer, e->err)) ||
        (status = bl__outfile_open(path, &file, e->err)))
        return status;
    if (!(status = bl__gguf_writer_begin(e->writer, file, e->err)) &&
        !(status = visit_pieces(e, write_piece)) &&
        !(status = bl__gguf_writer_finish(e->writer, e->err)) && !(status = add_answer(e, file)))
        return bl__outfile_commit(file, e->err);
    bl__outfile_abort(file);
    return status;
}

bl_status bl_train_export_gguf(const char *run, const char *path, bool masters, bl_error *err) {
    gguf_export e = {.masters = masters, .err = err};
    bl_status status = bl__trained_load(run, &e.trained, err);
    const bl__recipe *r = &e.trained.recipe;
    e.architecture = !r->sub_norms ? "llama" : r->activation ? "bitnet-b1.58" : "bitnet";
    if (!status && !(status = bl__gguf_writer_create(&e.writer, err)) &&
        !(status = write_metadata(&e, path)) && !(status = visit_pieces(&e, declare)))
        status = write_file(&e, path);
    bl__gguf_writer_free(e.writer);
    bl__trained_free(&e.trained);
    return status;
}
