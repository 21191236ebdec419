/* What the JSON files of Hugging Face tokenizers have in common, on top of jansson. */
#ifndef BL_TOKENIZER_HF_JSON_H
#define BL_TOKENIZER_HF_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "tokenizer/vocab_build.h"

/* Parses bytes that must be one JSON object; `name` is the file's, for messages. */
bl_status bl__json_parse_object(bl__string bytes, const char *name, json_t **out, bl_error *err);

/* The text of a string value; .data == NULL for anything else. */
bl__string bl__json_text(const json_t *value);

/* The boolean under a key, or `otherwise` when it is absent or null. A value of another type makes
 * *status BL_ERR_FORMAT. */
bool bl__json_flag(const json_t *object, const char *key, bool otherwise, const char *where,
                   bl_status *status, bl_error *err);

/* One added token: {"content", "special", "lstrip", "rstrip", "single_word"}. Enters it as token
 * `id` < n_tokens; a token that is already there keeps its kind if that is unknown, control or
 * byte. */
bl_status bl__json_set_added(bl__vocab *vocab, size_t id, const json_t *token, const char *where,
                             bl_error *err);

/* The companions, parsed; members are NULL for files that are not there. */
typedef struct bl__companion_json {
    json_t *tokenizer_config, *generation_config, *special_tokens_map, *added_tokens, *model_config;
    bl__string chat_template;
} bl__companion_json;

bl_status bl__companions_parse(const bl__vocab_companions *files, bl__companion_json *out,
                               bl_error *err);
void bl__companions_free(bl__companion_json *json);

/* Added tokens of tokenizer_config.json and added_tokens.json: the number of tokens they ask for
 * (at least n_tokens), and their entry into a vocabulary that is not indexed yet. */
bl_status bl__companions_count(const bl__companion_json *json, size_t n_tokens, size_t *out,
                               bl_error *err);
bl_status bl__companions_add(const bl__companion_json *json, bl__vocab *vocab, bl_error *err);

/* Special ids, end tokens, BOS and EOS flags and chat template, into an indexed vocabulary; what
 * the files do not say stays. */
bl_status bl__companions_apply(const bl__companion_json *json, bl__vocab *vocab, bl_error *err);

#endif
