/* Owns the meaning of a Hugging Face checkpoint's JSON files. Must not know tensors, nor what a
 * chat template says. Strings of the result point into the JSON, which the result keeps. */
#include "formats/hf_config.h"

#include <float.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"

enum {
    MAX_FILE = 64 * 1024 * 1024,
    MAX_DEPTH = 32,
    MAX_VALUES = 1 << 20,
    MAX_SIZE = 1 << 24, /* of any one dimension of the model */
    MAX_LAYERS = 1 << 16,
    MAX_CONTEXT = INT32_MAX,
    SHOWN = 60 /* bytes of a value that go into a message */
};

static const bl__json_limits limits = {.depth = MAX_DEPTH, .values = MAX_VALUES};

typedef struct storage {
    json_t *config, *generation, *tokenizer;
    bl__string *not_converted;
    char *chat_template;
    bool add_bos, add_eos;
} storage;

/* One object of one file; `where` is for messages. */
typedef struct source {
    const json_t *object;
    const char *where;
    bl_error *err;
} source;

/* A key's value; null counts as absent. */
static const json_t *get(const source *s, const char *key) {
    const json_t *value = json_object_get(s->object, key);
    return json_is_null(value) ? NULL : value;
}

static bl_status wrong_type(const source *s, const char *key, const json_t *value,
                            const char *expected) {
    return bl__fail(s->err, BL_ERR_FORMAT, "%s: %s is %s, expected %s", s->where, key,
                    bl__json_type_name(value), expected);
}

static bl_status missing(const source *s, const char *key) {
    return bl__fail(s->err, BL_ERR_NOT_FOUND, "%s: %s is missing", s->where, key);
}

static bl_status unsupported(const source *s, const char *key, const char *value,
                             const char *expected) {
    return bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: %s is '%.*s', expected %s", s->where, key,
                    SHOWN, value, expected);
}

/* The getters leave *out alone when the key is absent. */

static bl_status get_u32(const source *s, const char *key, uint32_t max, uint32_t *out) {
    const json_t *value = get(s, key);
    if (!value)
        return BL_OK;
    if (!json_is_integer(value))
        return wrong_type(s, key, value, "an integer");
    json_int_t n = json_integer_value(value);
    if (n < 1 || n > max)
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: %s is %lld, expected 1 to %u", s->where, key,
                        (long long)n, max);
    *out = (uint32_t)n;
    return BL_OK;
}

static bl_status need_u32(const source *s, const char *key, uint32_t max, uint32_t *out) {
    return get(s, key) ? get_u32(s, key, max, out) : missing(s, key);
}

/* A number above 0 that a float holds. */
static bl_status get_f32(const source *s, const char *key, float *out) {
    const json_t *value = get(s, key);
    if (!value)
        return BL_OK;
    if (!json_is_number(value))
        return wrong_type(s, key, value, "a number");
    double number = json_number_value(value);
    float f = number <= FLT_MAX ? (float)number : 0;
    if (!(f > 0))
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: %s is %g, expected a number above 0", s->where,
                        key, number);
    *out = f;
    return BL_OK;
}

static bl_status need_f32(const source *s, const char *key, float *out) {
    return get(s, key) ? get_f32(s, key, out) : missing(s, key);
}

static bl_status get_bool(const source *s, const char *key, bool *out) {
    const json_t *value = get(s, key);
    if (!value)
        return BL_OK;
    if (!json_is_boolean(value))
        return wrong_type(s, key, value, "a boolean");
    *out = json_is_true(value);
    return BL_OK;
}

static bl_status get_text(const source *s, const char *key, const char **out) {
    const json_t *value = get(s, key);
    if (!value)
        return BL_OK;
    if (!json_is_string(value))
        return wrong_type(s, key, value, "a string");
    *out = json_string_value(value);
    return BL_OK;
}

/* An object under a key; object is NULL in *out when it is absent. */
static bl_status get_object(const source *s, const char *key, const char *where, source *out) {
    const json_t *value = get(s, key);
    if (value && !json_is_object(value))
        return wrong_type(s, key, value, "an object");
    *out = (source){.object = value, .where = where, .err = s->err};
    return BL_OK;
}

static bl_status read_architecture(const source *s, bl__hf_config *c) {
    static const struct {
        const char *name, *model_type;
        bl__hf_architecture architecture;
    } known[] = {{"LlamaForCausalLM", "llama", BL_HF_LLAMA},
                 {"BitNetForCausalLM", "bitnet", BL_HF_BITNET},
                 {"BitnetForCausalLM", "bitnet", BL_HF_BITNET_1B},
                 {"BitLlamaForCausalLMInf", "bitllama", BL_HF_ONEBIT},
                 {"BitLlamaForCausalLM", "bitllama", BL_HF_ONEBIT},
                 {"BitNetV1ForCausalLM", "bitnet_v1", BL_HF_BITNET_V1}};
    const json_t *list = get(s, "architectures");
    bl_status status = get_text(s, "model_type", &c->model_type);
    if (status)
        return status;
    if (list && (!json_is_array(list) || json_array_size(list) != 1 ||
                 !json_is_string(json_array_get(list, 0))))
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: architectures must be a list of one name",
                        s->where);
    const char *name = list ? json_string_value(json_array_get(list, 0)) : NULL;
    if (!name && !c->model_type)
        return missing(s, "architectures");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(name ? name : c->model_type, name ? known[i].name : known[i].model_type) != 0)
            continue;
        c->architecture = known[i].architecture;
        c->architecture_name = known[i].name;
        if (!c->model_type)
            c->model_type = known[i].model_type;
        return BL_OK;
    }
    return unsupported(s, name ? "architectures" : "model_type", name ? name : c->model_type,
                       name ? "LlamaForCausalLM, BitNetForCausalLM, BitnetForCausalLM, "
                              "BitLlamaForCausalLM, BitLlamaForCausalLMInf or "
                              "BitNetV1ForCausalLM"
                            : "llama, bitnet, bitllama or bitnet_v1");
}

static bl_status read_sizes(const source *s, bl__hf_config *c) {
    bl_status status;
    c->context_length = 2048;
    if ((status = need_u32(s, "vocab_size", MAX_SIZE, &c->vocab)) ||
        (status = need_u32(s, "hidden_size", MAX_SIZE, &c->dim)) ||
        (status = need_u32(s, "intermediate_size", MAX_SIZE, &c->ffn_dim)) ||
        (status = need_u32(s, "num_hidden_layers", MAX_LAYERS, &c->n_layers)) ||
        (status = need_u32(s, "num_attention_heads", MAX_SIZE, &c->n_heads)) ||
        (status = get_u32(s, "max_position_embeddings", MAX_CONTEXT, &c->context_length)))
        return status;
    c->n_kv_heads = c->n_heads;
    if ((status = get_u32(s, "num_key_value_heads", MAX_SIZE, &c->n_kv_heads)) ||
        (status = get_u32(s, "head_dim", MAX_SIZE, &c->head_dim)))
        return status;
    if (c->n_heads % c->n_kv_heads)
        return bl__fail(s->err, BL_ERR_FORMAT,
                        "%s: num_attention_heads %u is not a multiple of num_key_value_heads %u",
                        s->where, c->n_heads, c->n_kv_heads);
    if (!c->head_dim) {
        if (c->dim % c->n_heads)
            return bl__fail(s->err, BL_ERR_FORMAT,
                            "%s: hidden_size %u is not a multiple of num_attention_heads %u",
                            s->where, c->dim, c->n_heads);
        c->head_dim = c->dim / c->n_heads;
    }
    if (c->head_dim % 2)
        return bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: heads of %u, RoPE needs an even size",
                        s->where, c->head_dim);
    return BL_OK;
}

static bl_status read_graph(const source *s, bl__hf_config *c) {
    bool bitnet = c->architecture == BL_HF_BITNET;
    const char *activation = bitnet ? "relu2" : "silu";
    const char *torch_dtype = NULL;
    bl_status status;
    const char *eps = c->architecture == BL_HF_BITNET_V1 ? "layer_norm_eps" : "rms_norm_eps";
    bool llama = c->architecture == BL_HF_LLAMA || c->architecture == BL_HF_ONEBIT;
    c->rms_norm_eps = llama ? 1e-6f : 1e-5f;
    if ((status = get_text(s, "hidden_act", &activation)) ||
        (status = get_f32(s, eps, &c->rms_norm_eps)) ||
        (status = get_bool(s, "tie_word_embeddings", &c->tied_head)) ||
        (status = get_bool(s, "is_bitnet_config", &c->is_bitnet_config)) ||
        (status = get_text(s, "torch_dtype", &torch_dtype)) ||
        (status = get_text(s, "dtype", &c->dtype)))
        return status;
    if (!c->dtype)
        c->dtype = torch_dtype;
    /* The names that transformers knows these two by. */
    if (strcmp(activation, "silu") == 0 || strcmp(activation, "swish") == 0)
        c->activation = BL_HF_SILU;
    else if (strcmp(activation, "relu2") == 0)
        c->activation = BL_HF_RELU2;
    else
        return unsupported(s, "hidden_act", activation, "silu or relu2");
    return BL_OK;
}

/* What would change the computation and is not implemented. */
static bl_status refuse_variants(const source *s) {
    static const char *const flags[] = {"attention_bias", "mlp_bias", "rope_interleaved"};
    static const struct {
        const char *key;
        uint32_t expected;
    } bits[] = {{"weight_bits", 1}, {"input_bits", 8}}; /* of 1bitLLM's class */
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool set = false;
        bl_status status = get_bool(s, flags[i], &set);
        if (status)
            return status;
        if (set)
            return bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: %s is true, expected false", s->where,
                            flags[i]);
    }
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        uint32_t n = bits[i].expected;
        bl_status status = get_u32(s, bits[i].key, 32, &n);
        if (status)
            return status;
        if (n != bits[i].expected)
            return bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: %s is %u, expected %u", s->where,
                            bits[i].key, n, bits[i].expected);
    }
    return BL_OK;
}

/* RoPE on a part of each head; either place may say so. */
static bl_status refuse_partial_rope(const source *s) {
    float part = 1;
    bl_status status = get_f32(s, "partial_rotary_factor", &part);
    if (!status && part != 1)
        status = bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: partial_rotary_factor is %g, expected 1",
                          s->where, (double)part);
    return status;
}

/* The kind of scaling and its parameters, from either spelling. */
static bl_status read_rope_scaling(const source *s, bl__hf_config *c) {
    const char *type = "default", *old_type = NULL;
    bl_status status;
    if ((status = get_text(s, "type", &old_type)))
        return status;
    if (old_type)
        type = old_type;
    if ((status = get_text(s, "rope_type", &type)))
        return status;
    if (strcmp(type, "default") == 0)
        return BL_OK;
    if (strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
        return unsupported(s, "rope_type", type, "default, linear or llama3");
    if ((status = need_f32(s, "factor", &c->rope_factor)))
        return status;
    if (c->rope_factor < 1)
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: factor is %g, expected 1 or more", s->where,
                        (double)c->rope_factor);
    c->rope = BL_HF_ROPE_LINEAR;
    if (strcmp(type, "linear") == 0)
        return BL_OK;
    c->rope = BL_HF_ROPE_LLAMA3;
    if ((status = need_f32(s, "low_freq_factor", &c->rope_low_freq_factor)) ||
        (status = need_f32(s, "high_freq_factor", &c->rope_high_freq_factor)) ||
        (status = need_u32(s, "original_max_position_embeddings", MAX_CONTEXT,
                           &c->rope_original_context)))
        return status;
    if (!(c->rope_low_freq_factor < c->rope_high_freq_factor))
        return bl__fail(s->err, BL_ERR_FORMAT,
                        "%s: low_freq_factor %g is not below high_freq_factor %g", s->where,
                        (double)c->rope_low_freq_factor, (double)c->rope_high_freq_factor);
    return BL_OK;
}

/* Parameters of their own for kinds of layers: objects in the object. */
static bl_status refuse_layer_kinds(const source *s) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)s->object, key, value) {
        if (json_is_object(value))
            return bl__fail(s->err, BL_ERR_UNSUPPORTED, "%s: '%.*s' has parameters of its own",
                            s->where, SHOWN, key);
    }
    return BL_OK;
}

/* transformers 4 writes rope_theta and rope_scaling, 5 writes rope_parameters; a file may have
 * both as long as they agree. */
static bl_status read_rope(const source *s, bl__hf_config *c) {
    float old_theta = 0, theta = 0;
    source scaling = {0}, parameters = {0};
    bl_status status;
    c->rope_factor = 1;
    if ((status = refuse_partial_rope(s)) || (status = get_f32(s, "rope_theta", &old_theta)) ||
        (status = get_object(s, "rope_scaling", "config.json: rope_scaling", &scaling)) ||
        (status = get_object(s, "rope_parameters", "config.json: rope_parameters", &parameters)))
        return status;
    if (scaling.object && parameters.object && !json_equal(scaling.object, parameters.object))
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: rope_scaling and rope_parameters differ",
                        s->where);
    const source *both = parameters.object ? &parameters : &scaling;
    if (both->object &&
        ((status = get_f32(both, "rope_theta", &theta)) || (status = refuse_partial_rope(both)) ||
         (status = refuse_layer_kinds(both)) || (status = read_rope_scaling(both, c))))
        return status;
    if (theta > 0 && old_theta > 0 && theta != old_theta)
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: rope_theta is %g, but %g in rope_parameters",
                        s->where, (double)old_theta, (double)theta);
    c->rope_theta = theta > 0                         ? theta
                    : old_theta > 0                   ? old_theta
                    : c->architecture == BL_HF_BITNET ? 500000.0f
                                                      : 10000.0f;
    return BL_OK;
}

static bl_status read_not_converted(const source *s, bl__hf_config *c, storage *st) {
    const json_t *list = get(s, "modules_to_not_convert");
    if (!list)
        return BL_OK;
    if (!json_is_array(list))
        return wrong_type(s, "modules_to_not_convert", list, "a list");
    size_t n = json_array_size(list);
    st->not_converted = bl__malloc_array(n, sizeof *st->not_converted);
    if (!st->not_converted)
        return bl__fail(s->err, BL_ERR_MEMORY, "cannot allocate %zu module names", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *name = json_array_get(list, i);
        if (!json_is_string(name))
            return wrong_type(s, "an entry of modules_to_not_convert", name, "a string");
        st->not_converted[i] =
            (bl__string){.data = json_string_value(name), .len = json_string_length(name)};
    }
    c->not_converted = st->not_converted;
    c->n_not_converted = n;
    return BL_OK;
}

static bl_status read_quantization(const source *config, bl__hf_config *c, storage *st) {
    const char *method = NULL, *linear = "bitlinear", *mode = "offline";
    source s = {0};
    bl_status status;
    c->linear_rms_norm_eps = 1e-6f;
    if ((status =
             get_object(config, "quantization_config", "config.json: quantization_config", &s)) ||
        !s.object)
        return status;
    if ((status = get_text(&s, "quant_method", &method)) ||
        (status = get_text(&s, "linear_class", &linear)) ||
        (status = get_text(&s, "quantization_mode", &mode)) ||
        (status = get_bool(&s, "use_rms_norm", &c->use_rms_norm)) ||
        (status = get_f32(&s, "rms_norm_eps", &c->linear_rms_norm_eps)))
        return status;
    if (!method)
        return missing(&s, "quant_method");
    if (strcmp(method, "bitnet") != 0)
        return unsupported(&s, "quant_method", method, "bitnet");
    c->scale_multiplies = strcmp(linear, "autobitlinear") == 0;
    if (!c->scale_multiplies && strcmp(linear, "bitlinear") != 0)
        return unsupported(&s, "linear_class", linear, "bitlinear or autobitlinear");
    c->online = strcmp(mode, "online") == 0;
    if (!c->online && strcmp(mode, "offline") != 0)
        return unsupported(&s, "quantization_mode", mode, "offline or online");
    c->quantized = true;
    return read_not_converted(&s, c, st);
}

/* A token id below the vocabulary's size; -1 means none, as in some files. */
static bl_status check_id(const source *s, const char *key, const json_t *value, uint32_t vocab,
                          int32_t *out) {
    if (!json_is_integer(value))
        return wrong_type(s, key, value, "a token id");
    json_int_t id = json_integer_value(value);
    if (id < BL_HF_NO_TOKEN || id >= (json_int_t)vocab)
        return bl__fail(s->err, BL_ERR_FORMAT, "%s: %s is %lld, the vocabulary has %u", s->where,
                        key, (long long)id, vocab);
    *out = (int32_t)id;
    return BL_OK;
}

static bl_status add_end_id(const source *s, const json_t *value, bl__hf_config *c) {
    int32_t id;
    bl_status status = check_id(s, "eos_token_id", value, c->vocab, &id);
    if (status || id == BL_HF_NO_TOKEN)
        return status;
    for (size_t i = 0; i < c->n_end_ids; i++)
        if (c->end_ids[i] == id)
            return BL_OK;
    if (c->n_end_ids == BL_HF_MAX_END_IDS)
        return bl__fail(s->err, BL_ERR_LIMIT, "%s: more than %d eos_token_id", s->where,
                        BL_HF_MAX_END_IDS);
    c->end_ids[c->n_end_ids++] = id;
    return BL_OK;
}

static bl_status read_token_ids(const source *s, bl__hf_config *c) {
    const json_t *bos = get(s, "bos_token_id"), *pad = get(s, "pad_token_id");
    const json_t *eos = get(s, "eos_token_id");
    bl_status status = BL_OK;
    if (bos && c->bos_id == BL_HF_NO_TOKEN &&
        (status = check_id(s, "bos_token_id", bos, c->vocab, &c->bos_id)))
        return status;
    /* Padding beyond the vocabulary is common and harmless: nothing here ever pads. */
    if (json_is_integer(pad) && json_integer_value(pad) >= 0 &&
        json_integer_value(pad) < (json_int_t)c->vocab)
        c->pad_id = (int32_t)json_integer_value(pad);
    if (!json_is_array(eos))
        return eos ? add_end_id(s, eos, c) : BL_OK;
    for (size_t i = 0; i < json_array_size(eos) && !status; i++)
        status = add_end_id(s, json_array_get(eos, i), c);
    return status;
}

/* A token's text: a string, or an object with its content. */
static bl_status read_token_text(const source *s, const char *key, const char **out) {
    const json_t *value = get(s, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!value)
        return BL_OK;
    if (!json_is_string(value))
        return wrong_type(s, key, value, "a string or an object with content");
    *out = json_string_value(value);
    return BL_OK;
}

/* A flag that may be left unsaid: *out points at *value once it is said. */
static bl_status read_flag(const source *s, const char *key, bool *value, const bool **out) {
    bl_status status = get_bool(s, key, value);
    if (!status && get(s, key))
        *out = value;
    return status;
}

/* One template, or a list of named ones of which "default" is taken. */
static bl_status read_template(const source *s, bl__string *out) {
    const json_t *value = get(s, "chat_template");
    if (json_is_array(value)) {
        const json_t *list = value;
        value = NULL;
        for (size_t i = 0; i < json_array_size(list) && !value; i++) {
            const json_t *entry = json_array_get(list, i);
            const char *name = json_string_value(json_object_get(entry, "name"));
            if (!name)
                return wrong_type(s, "the name of a chat_template", json_object_get(entry, "name"),
                                  "a string");
            if (strcmp(name, "default") == 0 && !(value = json_object_get(entry, "template")))
                return missing(s, "chat_template: template");
        }
    }
    if (!value)
        return BL_OK;
    if (!json_is_string(value))
        return wrong_type(s, "chat_template", value, "a string or a list");
    *out = (bl__string){.data = json_string_value(value), .len = json_string_length(value)};
    return BL_OK;
}

static bl_status read_tokenizer(const source *s, bl__hf_config *c, storage *st) {
    bl_status status;
    if ((status = get_text(s, "tokenizer_class", &c->tokenizer_class)) ||
        (status = read_token_text(s, "bos_token", &c->bos_token)) ||
        (status = read_token_text(s, "eos_token", &c->eos_token)) ||
        (status = read_flag(s, "add_bos_token", &st->add_bos, &c->add_bos)) ||
        (status = read_flag(s, "add_eos_token", &st->add_eos, &c->add_eos)))
        return status;
    return read_template(s, &c->chat_template);
}

static bl_status parse_object(bl__string text, const char *name, bool as_reals, json_t **out,
                              bl_error *err) {
    bl__json_limits with = limits;
    with.as_reals = as_reals;
    bl_status status = bl__json_parse(text.data, text.len, with, out, err);
    if (status) {
        bl__error_prefix(err, name);
        return status;
    }
    if (!json_is_object(*out))
        return bl__fail(err, BL_ERR_FORMAT, "%s is %s, expected an object", name,
                        bl__json_type_name(*out));
    return BL_OK;
}

static bl_status read_config(const bl__hf_files *files, bl__hf_config *c, storage *st,
                             bl_error *err) {
    source s = {.where = "config.json", .err = err};
    bl_status status;
    if (!files->config.data)
        return bl__fail(err, BL_ERR_NOT_FOUND, "config.json is missing");
    if ((status = parse_object(files->config, s.where, false, &st->config, err)))
        return status;
    s.object = st->config;
    if ((status = read_architecture(&s, c)) || (status = read_sizes(&s, c)) ||
        (status = read_graph(&s, c)) || (status = refuse_variants(&s)) ||
        (status = read_rope(&s, c)) || (status = read_quantization(&s, c, st)))
        return status;
    return read_token_ids(&s, c);
}

/* The files beside config.json. */
static bl_status read_others(const bl__hf_files *files, bl__hf_config *c, storage *st,
                             bl_error *err) {
    bl_status status;
    if (files->generation.data) {
        source s = {.where = "generation_config.json", .err = err};
        if ((status = parse_object(files->generation, s.where, false, &st->generation, err)))
            return status;
        s.object = st->generation;
        if ((status = read_token_ids(&s, c)))
            return status;
    }
    if (files->tokenizer_config.data) {
        /* model_max_length is often 1e30 written as an integer. */
        source s = {.where = "tokenizer_config.json", .err = err};
        if ((status = parse_object(files->tokenizer_config, s.where, true, &st->tokenizer, err)))
            return status;
        s.object = st->tokenizer;
        if ((status = read_tokenizer(&s, c, st)))
            return status;
    }
    if (files->chat_template.data) {
        st->chat_template = bl__strndup(files->chat_template.data, files->chat_template.len);
        if (!st->chat_template)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the chat template");
        c->chat_template = (bl__string){.data = st->chat_template, .len = files->chat_template.len};
    }
    return BL_OK;
}

bl_status bl__hf_config_parse(const bl__hf_files *files, bl__hf_config **out, bl_error *err) {
    bl__hf_config *c = bl__calloc(1, sizeof *c);
    storage *st = bl__calloc(1, sizeof *st);
    if (!c || !st) {
        bl__free(c);
        bl__free(st);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a configuration");
    }
    c->storage = st;
    c->bos_id = c->pad_id = BL_HF_NO_TOKEN;
    bl_status status = read_config(files, c, st, err);
    if (!status)
        status = read_others(files, c, st, err);
    if (status) {
        bl__hf_config_free(c);
        return status;
    }
    *out = c;
    return BL_OK;
}

/* Reads a file of the directory into *out; without one, *out stays empty. */
static bl_status read_file(const char *directory, const char *name, bl__string *out,
                           bl_error *err) {
    char *path = bl__path_join(directory, name), *data;
    size_t len;
    if (!path)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a path");
    bl_status status = BL_OK;
    if (bl__file_exists(path) && !(status = bl__file_read(path, MAX_FILE, &data, &len, err)))
        *out = (bl__string){.data = data, .len = len};
    bl__free(path);
    return status;
}

bl_status bl__hf_config_read(const char *directory, bl__hf_config **out, bl_error *err) {
    bl__hf_files files = {0};
    bl_status status;
    if ((status = read_file(directory, "config.json", &files.config, err)) ||
        (status = read_file(directory, "generation_config.json", &files.generation, err)) ||
        (status = read_file(directory, "tokenizer_config.json", &files.tokenizer_config, err)) ||
        (status = read_file(directory, "chat_template.jinja", &files.chat_template, err)))
        goto done;
    if ((status = bl__hf_config_parse(&files, out, err)))
        bl__error_prefix(err, directory);
done:
    bl__free((void *)(uintptr_t)files.config.data);
    bl__free((void *)(uintptr_t)files.generation.data);
    bl__free((void *)(uintptr_t)files.tokenizer_config.data);
    bl__free((void *)(uintptr_t)files.chat_template.data);
    return status;
}

void bl__hf_config_free(bl__hf_config *config) {
    if (!config)
        return;
    storage *st = config->storage;
    json_decref(st->config);
    json_decref(st->generation);
    json_decref(st->tokenizer);
    bl__free(st->not_converted);
    bl__free(st->chat_template);
    bl__free(st);
    bl__free(config);
}
