/* Owns what a checkpoint becomes as a Hugging Face directory. The codes are taken from the network
 * itself, as its forward pass has them, so that they cannot differ from what was trained.
 * Sources: transformers' BitNetConfig, LlamaConfig and integrations/bitnet.py. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/half.h"
#include "bitloom/tokenizer.h"
#include "bitloom/train.h"
#include "formats/json.h"
#include "formats/safetensors_write.h"
#include "quant/quant.h"
#include "tokenizer/vocab.h"
#include "train/trained.h"

enum { MAX_NAME = 96, MAX_COPY = 1 << 30 };

/* An export on its way. */
typedef struct export {
    const char *directory;
    bool masters;
    bl__recipe recipe;
    bl__network *net;
    bl__param *params;
    size_t n_params;
    int32_t bos, eos; /* -1: none */
    bl_error *err;
}
export;

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate for the export");
}

static bool is_packed(const export *e, const bl__param *p) {
    return p->linear && !e->masters && e->recipe.weights != BL_WEIGHTS_FLOAT;
}
/* The rest of a packed model is bfloat16, norms too: transformers multiplies only like with like.
 */
static bool is_rounded(const export *e, const bl__param *p) {
    return !p->linear && !e->masters && e->recipe.weights != BL_WEIGHTS_FLOAT;
}

/* ---- files ---- */

static bl_status write_file(const export *e, const char *name, const char *data, size_t len) {
    bl__outfile *file = NULL;
    char *path = bl__path_join(e->directory, name);
    if (!path)
        return no_memory(e->err);
    bl_status status = bl__outfile_open(path, &file, e->err);
    if (!status && (status = bl__outfile_write(file, data, len, e->err)))
        bl__outfile_abort(file);
    else if (!status)
        status = bl__outfile_commit(file, e->err);
    bl__free(path);
    return status;
}

/* Takes the object over. */
static bl_status write_json(const export *e, const char *name, json_t *object) {
    size_t len;
    char *text = object ? bl__json_write(object, JSON_INDENT(2), &len) : NULL;
    json_decref(object);
    if (!text)
        return no_memory(e->err);
    text[len] = '\n'; /* in place of the NUL */
    bl_status status = write_file(e, name, text, len + 1);
    bl__free(text);
    return status;
}

/* Copies a file; *found is false when there is none. */
static bl_status copy_file(const export *e, const char *from, const char *name, bool *found) {
    char *data = NULL;
    size_t len;
    *found = bl__file_exists(from);
    if (!*found)
        return BL_OK;
    bl_status status = bl__file_read(from, MAX_COPY, &data, &len, e->err);
    if (!status)
        status = write_file(e, name, data, len);
    bl__free(data);
    return status;
}

/* ---- the tokenizer ---- */

/* Names the special tokens for transformers. */
static bl_status write_tokenizer_config(const export *e, const bl_tokenizer *tokenizer) {
    json_t *object = json_pack("{s:s, s:I, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "model_max_length", (json_int_t)e->recipe.context,
                               "clean_up_tokenization_spaces", 0);
    const int32_t ids[] = {e->bos, e->eos};
    static const char *const keys[] = {"bos_token", "eos_token"};
    for (size_t i = 0; i < 2 && object; i++) {
        size_t len;
        const char *piece = bl_tokenizer_piece(tokenizer, ids[i], BL_DETOKENIZE_SPECIAL, &len);
        if (ids[i] >= 0 && len)
            json_object_set_new(object, keys[i], json_stringn(piece, len));
    }
    return write_json(e, "tokenizer_config.json", object);
}

/* The vocabulary of a model in GGUF stays in that form: bl_convert() takes it from there. */
static bl_status write_vocabulary(const export *e, const bl_tokenizer *tokenizer) {
    static const char architecture[] = "general.architecture", name[] = "llama";
    bl__gguf_writer *writer = NULL;
    bl__outfile *file = NULL;
    char *path = bl__path_join(e->directory, "tokenizer.gguf");
    bl_status status = path ? bl__gguf_writer_create(&writer, e->err) : no_memory(e->err);
    if (status ||
        (status = bl__gguf_set_string(writer, architecture, name, strlen(name), e->err)) ||
        (status = bl__vocab_write_gguf(bl__tokenizer_vocab(tokenizer), writer, 0, e->err)) ||
        (status = bl__outfile_open(path, &file, e->err)))
        goto done;
    if (!(status = bl__gguf_writer_begin(writer, file, e->err)))
        status = bl__gguf_writer_finish(writer, e->err);
    if (status)
        bl__outfile_abort(file);
    else
        status = bl__outfile_commit(file, e->err);
done:
    bl__gguf_writer_free(writer);
    bl__free(path);
    return status;
}

/* The recipe's tokenizer and, when that is a directory, what lies beside it. */
static bl_status copy_tokenizer(export *e) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "tokenizer.gguf",
                                        "special_tokens_map.json", "tokenizer_config.json"};
    const char *from = e->recipe.tokenizer;
    bl_tokenizer *tokenizer = NULL;
    bool found = false;
    if (!from)
        return BL_OK;
    bl_status status = bl_tokenizer_open(from, &tokenizer, e->err);
    if (status)
        return status;
    e->bos = bl_tokenizer_bos(tokenizer);
    e->eos = bl_tokenizer_eos(tokenizer);
    const char *slash = strrchr(from, '/'), *name = slash ? slash + 1 : from;
    if (!bl__directory_exists(from)) {
        bool model = strlen(name) > 6 && strcmp(name + strlen(name) - 6, ".model") == 0;
        bool json = strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".json") == 0;
        status = model || json ? copy_file(e, from, files[model], &found)
                               : write_vocabulary(e, tokenizer);
        found = false; /* of tokenizer_config.json */
    }
    for (size_t i = 0; i < sizeof files / sizeof *files && !status && bl__directory_exists(from);
         i++) {
        char *path = bl__path_join(from, files[i]);
        status = path ? copy_file(e, path, files[i], &found) : no_memory(e->err);
        bl__free(path);
    }
    if (!status && !found)
        status = write_tokenizer_config(e, tokenizer);
    bl_tokenizer_close(tokenizer);
    return status;
}

/* ---- weights ---- */

static bl_status write_header(const export *e, bl__outfile *file) {
    size_t n = 0;
    bl__safetensor_spec *specs = bl__calloc(e->n_params * 2, sizeof *specs);
    char(*names)[MAX_NAME] = bl__calloc(e->n_params, sizeof *names); /* of scales */
    static const bl__safetensors_note note = {"format", "pt"};
    bl_status status;
    if (!specs || !names) {
        status = no_memory(e->err);
        goto done;
    }
    for (size_t i = 0; i < e->n_params; i++) {
        const bl__param *p = &e->params[i];
        if (!p->rows)
            continue;
        bl__safetensor_spec *s = &specs[n++];
        *s = (bl__safetensor_spec){.name = p->name, .dtype = BL_DTYPE_F32};
        if (is_packed(e, p) || is_rounded(e, p))
            s->dtype = is_packed(e, p) ? BL_DTYPE_U8 : BL_DTYPE_BF16;
        if (p->rows > 1)
            s->dims[s->n_dims++] = is_packed(e, p) ? p->rows / 4 : p->rows;
        s->dims[s->n_dims++] = p->cols;
        if (!is_packed(e, p))
            continue;
        snprintf(names[i], sizeof names[i], "%s_scale", p->name);
        specs[n++] = (bl__safetensor_spec){
            .name = names[i], .dtype = BL_DTYPE_F32, .n_dims = 1, .dims = {1}};
    }
    status = bl__safetensors_begin(file, specs, n, &note, 1, e->err);
done:
    bl__free(specs);
    bl__free(names);
    return status;
}

/* Codes as transformers packs them (quant/hf_u8.c), then the scale. */
static bl_status write_packed(const export *e, bl__outfile *file, const bl__param *p) {
    const linear *l = bl__trained_linear(e->net, p);
    size_t quarter = p->rows / 4, n = quarter * p->cols;
    uint8_t *bytes = bl__calloc(n, 1);
    float *row = bl__malloc_array(p->cols, sizeof *row);
    bl_status status = bytes && row ? BL_OK : no_memory(e->err);
    for (size_t r = 0; r < p->rows && !status; r++) {
        uint8_t *to = bytes + r % quarter * p->cols;
        bl__layout_unpack_row(BL_LAYOUT_T2, l->tiles, p->rows, p->cols, r, row);
        for (size_t i = 0; i < p->cols; i++)
            to[i] |= (uint8_t)((1 + (row[i] > 0) - (row[i] < 0)) << (2 * (r / quarter)));
    }
    if (!status && !(status = bl__outfile_write(file, bytes, n, e->err)))
        status = bl__outfile_write(file, &l->groups[0].gamma, sizeof(float), e->err);
    bl__free(bytes);
    bl__free(row);
    return status;
}

static bl_status write_rounded(const export *e, bl__outfile *file, const bl__param *p) {
    uint16_t *row = bl__malloc_array(p->cols, sizeof *row);
    bl_status status = row ? BL_OK : no_memory(e->err);
    for (size_t r = 0; r < p->rows && !status; r++) {
        for (size_t i = 0; i < p->cols; i++)
            row[i] = bl__f32_to_bf16(p->value[r * p->cols + i]);
        status = bl__outfile_write(file, row, p->cols * sizeof *row, e->err);
    }
    bl__free(row);
    return status;
}

static bl_status write_weights(const export *e) {
    bl__outfile *file = NULL;
    char *path = bl__path_join(e->directory, "model.safetensors");
    if (!path)
        return no_memory(e->err);
    bl_status status = bl__outfile_open(path, &file, e->err);
    bl__free(path);
    if (status)
        return status;
    status = write_header(e, file);
    for (size_t i = 0; i < e->n_params && !status; i++) {
        const bl__param *p = &e->params[i];
        if (is_packed(e, p))
            status = write_packed(e, file, p);
        else if (is_rounded(e, p))
            status = write_rounded(e, file, p);
        else
            status = bl__outfile_write(file, p->value, p->rows * p->cols * sizeof(float), e->err);
    }
    if (!status)
        return bl__outfile_commit(file, e->err);
    bl__outfile_abort(file);
    return status;
}

/* ---- configuration ---- */

/* null where there is none: transformers would take the ids of its default model. */
static void set_ends(const export *e, json_t *c) {
    json_object_set_new(c, "bos_token_id", e->bos >= 0 ? json_integer(e->bos) : json_null());
    json_object_set_new(c, "eos_token_id", e->eos >= 0 ? json_integer(e->eos) : json_null());
}

/* transformers knows the first two, and refuses the third by its name: with LayerNorms there is no
 * class of its own to load. */
typedef struct model_class {
    const char *architecture, *model_type, *eps;
} model_class;

static const model_class *class_of(const bl__recipe *r) {
    static const model_class llama = {"LlamaForCausalLM", "llama", "rms_norm_eps"},
                             bitnet = {"BitNetForCausalLM", "bitnet", "rms_norm_eps"},
                             first = {"BitNetV1ForCausalLM", "bitnet_v1", "layer_norm_eps"};
    return r->norm == 1 ? &first : r->sub_norms ? &bitnet : &llama;
}

static bl_status write_config(const export *e) {
    const bl__recipe *r = &e->recipe;
    const model_class *kind = class_of(r);
    bool quantized = r->weights != BL_WEIGHTS_FLOAT;
    json_t *c = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:f, s:f, s:b, s:b, s:s}",
        "architectures", kind->architecture, "model_type", kind->model_type, "vocab_size",
        (json_int_t)r->vocab, "hidden_size", (json_int_t)r->dim, "intermediate_size",
        (json_int_t)r->ffn_dim, "num_hidden_layers", (json_int_t)r->layers, "num_attention_heads",
        (json_int_t)r->heads, "num_key_value_heads", (json_int_t)r->kv_heads, "head_dim",
        (json_int_t)r->head_dim, "hidden_act", r->activation == 1 ? "relu2" : "silu",
        "max_position_embeddings", (json_int_t)r->context, kind->eps, r->norm_eps, "rope_theta",
        r->rope_base, "tie_word_embeddings", 1, "attention_bias", 0, "torch_dtype",
        quantized && !e->masters ? "bfloat16" : "float32");
    set_ends(e, c);
    if (c && quantized)
        json_object_set_new(c, "quantization_config",
                            json_pack("{s:s, s:s, s:s, s:[s]}", "quant_method", "bitnet",
                                      "linear_class", "autobitlinear", "quantization_mode",
                                      e->masters ? "online" : "offline", "modules_to_not_convert",
                                      "lm_head"));
    return write_json(e, "config.json", c);
}

static bl_status write_generation(const export *e) {
    json_t *c = json_object();
    set_ends(e, c);
    return write_json(e, "generation_config.json", c);
}

/* ---- the whole ---- */

static bl_status load(export *e, const char *run) {
    bl__trained trained;
    bl_status status = bl__trained_load(run, &trained, e->err);
    e->recipe = trained.recipe;
    e->net = trained.net;
    if (!status)
        e->params = bl__network_params(e->net, &e->n_params);
    return status;
}

bl_status bl_train_export(const char *run, const char *directory, bool masters, bl_error *err) {
    export e = {.directory = directory, .masters = masters, .bos = -1, .eos = -1, .err = err};
    bl_status status = load(&e, run);
    if (!status && masters && e.recipe.weights == BL_WEIGHTS_BINARY)
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "%s: masters of a binary model: no configuration says that weights "
                          "become binary on loading; export them packed",
                          run);
    if (!status && e.recipe.weights == BL_WEIGHTS_ONEBIT)
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "%s: onebit linears, which no Hugging Face configuration can say without "
                          "LayerNorms behind them; export to a GGUF file",
                          run);
    if (!status && e.recipe.groups > 1)
        status =
            bl__fail(err, BL_ERR_UNSUPPORTED,
                     "%s: linears in %lld groups, which no Hugging Face configuration can say; "
                     "export to a GGUF file",
                     run, (long long)e.recipe.groups);
    if (!status && mkdir(directory, 0777) != 0 && errno != EEXIST)
        status = bl__fail(err, BL_ERR_IO, "%s: cannot make the directory: %s", directory,
                          strerror(errno));
    if (!status && !(status = copy_tokenizer(&e)) && !(status = write_weights(&e)) &&
        !(status = write_generation(&e)))
        status = write_config(&e);
    bl__network_free(e.net);
    bl__recipe_free(&e.recipe);
    return status;
}
