/* Owns the files beside a Hugging Face tokenizer: tokenizer_config.json, generation_config.json and
 * their like. Must not know tokenizer.json or tokenizer.model. */
#include "tokenizer/hf_json.h"

#include <string.h>

#include "base/error.h"

bl_status bl__json_parse_object(bl__string bytes, const char *name, json_t **out, bl_error *err) {
    json_error_t error;
    json_t *json = json_loadb(bytes.data ? bytes.data : "", bytes.len, JSON_ALLOW_NUL, &error);
    if (!json) {
        bool memory = json_error_code(&error) == json_error_out_of_memory;
        return bl__fail(err, memory ? BL_ERR_MEMORY : BL_ERR_FORMAT, "%s: line %d: %s", name,
                        error.line, error.text);
    }
    if (!json_is_object(json)) {
        json_decref(json);
        return bl__fail(err, BL_ERR_FORMAT, "%s: expected a JSON object", name);
    }
    *out = json;
    return BL_OK;
}

bl__string bl__json_text(const json_t *value) {
    if (!json_is_string(value))
        return (bl__string){NULL, 0};
    return (bl__string){json_string_value(value), json_string_length(value)};
}

bool bl__json_flag(const json_t *object, const char *key, bool otherwise, const char *where,
                   bl_status *status, bl_error *err) {
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value))
        return otherwise;
    if (!json_is_boolean(value) && !*status)
        *status = bl__fail(err, BL_ERR_FORMAT, "%s: %s: expected true or false", where, key);
    return json_is_true(value);
}

bl_status bl__json_set_added(bl__vocab *vocab, size_t id, const json_t *token, const char *where,
                             bl_error *err) {
    bl_status status = BL_OK;
    bl__string content = bl__json_text(json_object_get(token, "content"));
    if (!content.data)
        return bl__fail(err, BL_ERR_FORMAT, "%s: added token %zu: no content", where, id);
    bool special = bl__json_flag(token, "special", false, where, &status, err);
    bool lstrip = bl__json_flag(token, "lstrip", false, where, &status, err);
    bool rstrip = bl__json_flag(token, "rstrip", false, where, &status, err);
    bool single_word = bl__json_flag(token, "single_word", false, where, &status, err);
    if (!status && single_word)
        status = bl__fail(err, BL_ERR_UNSUPPORTED, "%s: added token \"%.60s\": single_word", where,
                          content.data);
    if (status)
        return status;
    bl__vocab_token *entry = &vocab->tokens[id];
    uint8_t type = entry->type;
    if (type != BL_TOKEN_UNKNOWN && type != BL_TOKEN_CONTROL && type != BL_TOKEN_BYTE)
        type = special ? BL_TOKEN_CONTROL : BL_TOKEN_USER_DEFINED;
    status = bl__vocab_set_token(vocab, id, content, (double)entry->score, type, err);
    entry->lstrip = lstrip;
    entry->rstrip = rstrip;
    return status;
}

void bl__companions_free(bl__companion_json *json) {
    json_decref(json->tokenizer_config);
    json_decref(json->generation_config);
    json_decref(json->special_tokens_map);
    json_decref(json->added_tokens);
    json_decref(json->model_config);
    *json = (bl__companion_json){0};
}

bl_status bl__companions_parse(const bl__vocab_companions *files, bl__companion_json *out,
                               bl_error *err) {
    bl__companion_json json = {0};
    if (files) {
        const struct {
            const char *name;
            bl__string bytes;
            json_t **json;
        } parts[] = {
            {"tokenizer_config.json", files->tokenizer_config, &json.tokenizer_config},
            {"generation_config.json", files->generation_config, &json.generation_config},
            {"special_tokens_map.json", files->special_tokens_map, &json.special_tokens_map},
            {"added_tokens.json", files->added_tokens, &json.added_tokens},
            {"config.json", files->model_config, &json.model_config},
        };
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            bl_status status =
                parts[i].bytes.data
                    ? bl__json_parse_object(parts[i].bytes, parts[i].name, parts[i].json, err)
                    : BL_OK;
            if (status) {
                bl__companions_free(&json);
                return status;
            }
        }
        json.chat_template = files->chat_template;
    }
    *out = json;
    return BL_OK;
}

/* The number that an object key spells. */
static bool parse_id(const char *text, size_t *out) {
    size_t id = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || id > BL_VOCAB_MAX_TOKENS)
            return false;
        id = id * 10 + (size_t)(*text - '0');
    }
    *out = id;
    return true;
}

/* Calls for each added token; either counts (vocab == NULL) or enters it. */
static bl_status visit_added(const bl__companion_json *json, bl__vocab *vocab, size_t *n_tokens,
                             bl_error *err) {
    static const char where[] = "tokenizer_config.json: added_tokens_decoder";
    const char *key;
    json_t *value;
    json_t *decoder = json_object_get(json->tokenizer_config, "added_tokens_decoder");
    json_object_foreach(decoder, key, value) {
        size_t id;
        if (!parse_id(key, &id) || id >= BL_VOCAB_MAX_TOKENS)
            return bl__fail(err, BL_ERR_FORMAT, "%s: \"%.60s\" is no token id", where, key);
        bl_status status = vocab ? bl__json_set_added(vocab, id, value, where, err) : BL_OK;
        if (status)
            return status;
        *n_tokens = id >= *n_tokens ? id + 1 : *n_tokens;
    }
    json_object_foreach(json->added_tokens, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= BL_VOCAB_MAX_TOKENS)
            return bl__fail(err, BL_ERR_FORMAT, "added_tokens.json: \"%.60s\" has no proper id",
                            key);
        if ((size_t)id >= *n_tokens)
            *n_tokens = (size_t)id + 1;
        /* tokenizer_config.json, where it has the token, says more about it. */
        if (!vocab || vocab->tokens[id].text.len)
            continue;
        bl__string text = {key, strlen(key)};
        bl_status status =
            bl__vocab_set_token(vocab, (size_t)id, text, 0, BL_TOKEN_USER_DEFINED, err);
        if (status)
            return status;
    }
    return BL_OK;
}

bl_status bl__companions_count(const bl__companion_json *json, size_t n_tokens, size_t *out,
                               bl_error *err) {
    bl_status status = visit_added(json, NULL, &n_tokens, err);
    if (!status)
        *out = n_tokens;
    return status;
}

bl_status bl__companions_add(const bl__companion_json *json, bl__vocab *vocab, bl_error *err) {
    size_t n_tokens = vocab->n_tokens;
    return visit_added(json, vocab, &n_tokens, err);
}

/* A special token's text, given as a string or as an added token; .data == NULL when not there. */
static bl__string special_text(const json_t *file, const char *key) {
    const json_t *value = json_object_get(file, key);
    return bl__json_text(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* The first id under a key that holds one id or several; -1 when there is none in range. */
static bl_token first_id(const bl__vocab *vocab, const json_t *file, const char *key) {
    const json_t *value = json_object_get(file, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && (size_t)id < vocab->n_tokens ? (bl_token)id : -1;
}

/* One special id, from the file that says it most plainly. */
static void apply_special(const bl__companion_json *json, const bl__vocab *vocab,
                          const char *text_key, const char *id_key, bl_token *id) {
    const json_t *texts[] = {json->tokenizer_config, json->special_tokens_map};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bl__string text = special_text(texts[i], text_key);
        bl_token found = text.data ? bl__vocab_find(vocab, text.data, text.len) : -1;
        if (found >= 0) {
            *id = found;
            return;
        }
    }
    const json_t *ids[] = {json->generation_config, json->model_config};
    for (size_t i = 0; *id < 0 && i < sizeof ids / sizeof *ids; i++)
        *id = first_id(vocab, ids[i], id_key);
}

/* All ids of eos_token_id. The list of config.json counts where generation_config.json is silent.
 */
static bl_status apply_ends(const bl__companion_json *json, bl__vocab *vocab, bl_error *err) {
    const char *where = "generation_config.json: eos_token_id";
    const json_t *ends = json_object_get(json->generation_config, "eos_token_id");
    if (!ends || json_is_null(ends)) {
        where = "config.json: eos_token_id";
        ends = json_object_get(json->model_config, "eos_token_id");
    }
    if (!ends || json_is_null(ends))
        return BL_OK;
    size_t n = json_is_array(ends) ? json_array_size(ends) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(ends) ? json_array_get(ends, i) : ends;
        if (!json_is_integer(id))
            return bl__fail(err, BL_ERR_FORMAT, "%s: expected ids", where);
        if (json_integer_value(id) < 0) /* says that there is none */
            continue;
        bl_status status = bl__vocab_add_end(vocab, json_integer_value(id), where, err);
        if (status)
            return status;
    }
    return BL_OK;
}

/* chat_template.jinja; else chat_template of tokenizer_config.json: a text, or several by name. */
static bl_status apply_template(const bl__companion_json *json, bl__vocab *vocab, bl_error *err) {
    bl__string text = json->chat_template;
    const json_t *value = json_object_get(json->tokenizer_config, "chat_template");
    if (!text.data && json_is_array(value)) {
        size_t i;
        const json_t *item;
        json_array_foreach(value, i, item) {
            bool is_default =
                bl__string_is(bl__json_text(json_object_get(item, "name")), "default");
            if (!text.data || is_default)
                text = bl__json_text(json_object_get(item, "template"));
            if (is_default)
                break;
        }
    } else if (!text.data) {
        text = bl__json_text(value);
    }
    if (!text.data)
        return BL_OK;
    return bl__vocab_keep(vocab, text.data, text.len, &vocab->chat_template, err);
}

bl_status bl__companions_apply(const bl__companion_json *json, bl__vocab *vocab, bl_error *err) {
    static const char where[] = "tokenizer_config.json";
    apply_special(json, vocab, "bos_token", "bos_token_id", &vocab->bos);
    apply_special(json, vocab, "eos_token", "eos_token_id", &vocab->eos);
    apply_special(json, vocab, "unk_token", "unk_token_id", &vocab->unk);
    apply_special(json, vocab, "pad_token", "pad_token_id", &vocab->pad);
    bl_status status = BL_OK;
    const json_t *config = json->tokenizer_config;
    vocab->add_bos = bl__json_flag(config, "add_bos_token", vocab->add_bos, where, &status, err);
    vocab->add_eos = bl__json_flag(config, "add_eos_token", vocab->add_eos, where, &status, err);
    /* Files ask for tokens that they do not have. */
    vocab->add_bos = vocab->add_bos && vocab->bos >= 0;
    vocab->add_eos = vocab->add_eos && vocab->eos >= 0;
    if (!status)
        status = apply_ends(json, vocab, err);
    if (!status)
        status = apply_template(json, vocab, err);
    return status;
}
