/* Owns the public face of chat templates. Knows the interpreter only through jinja.h. */
#include "bitloom/chat.h"

#include <string.h>

#include "base/error.h"
#include "tokenizer/jinja.h"

enum { VARIABLES_MAX = 64 * 1024 * 1024 }; /* bytes of JSON */

/* A bl_chat_template is a jinja_template under its public name; the type is never completed. */
static const jinja_template *inner(const bl_chat_template *chat_template) {
    return (const jinja_template *)chat_template;
}

bl_status bl_chat_template_compile(const char *source, size_t len, bl_chat_template **out,
                                   bl_error *err) {
    jinja_template *template = NULL;
    if (!source || !out)
        return bl__fail(err, BL_ERR_ARGUMENT, "chat template: no source or no place for it");
    bl_status status = bl__jinja_compile(source, len, &template, err);
    if (status == BL_OK)
        *out = (bl_chat_template *)template;
    return status;
}

void bl_chat_template_free(bl_chat_template *chat_template) {
    bl__jinja_free((jinja_template *)chat_template);
}

static bl_status render(const bl_chat_template *chat_template, const json_t *variables, char **text,
                        size_t *len, bl_error *err) {
    jinja_limits limits = bl__jinja_default_limits();
    char *rendered = NULL;
    size_t n = 0;
    bl_status status =
        bl__jinja_render(inner(chat_template), variables, &limits, &rendered, &n, err);
    if (status != BL_OK)
        return status;
    *text = rendered;
    if (len)
        *len = n;
    return BL_OK;
}

/* A string of any bytes; NULL when memory is short. */
static json_t *new_string(const char *text) {
    return json_stringn_nocheck(text ? text : "", text ? strlen(text) : 0);
}

/* [{"role": ..., "content": ...}, ...]; NULL when memory is short. */
static json_t *new_messages(const bl_chat_message *messages, size_t n_messages) {
    json_t *array = json_array();
    for (size_t i = 0; i < n_messages; i++) {
        json_t *message = json_object();
        if (json_object_set_new_nocheck(message, "role", new_string(messages[i].role)) != 0 ||
            json_object_set_new_nocheck(message, "content", new_string(messages[i].content)) != 0) {
            json_decref(message);
            goto fail;
        }
        if (json_array_append_new(array, message) != 0)
            goto fail;
    }
    return array;
fail:
    json_decref(array);
    return NULL;
}

bl_status bl_chat_template_render(const bl_chat_template *chat_template,
                                  const bl_chat_options *options, const bl_chat_message *messages,
                                  size_t n_messages, char **text, size_t *len, bl_error *err) {
    static const bl_chat_options no_options = {0};
    if (!chat_template || (!messages && n_messages) || !text)
        return bl__fail(err, BL_ERR_ARGUMENT, "chat template: NULL argument");
    if (!options)
        options = &no_options;
    bl_status status = BL_ERR_MEMORY;
    json_t *variables = json_object();
    /* Setting anything in NULL, or NULL in anything, fails. tools and documents are none, not
     * undefined, where there are no such things: templates ask for that. */
    if (json_object_set_new(variables, "messages", new_messages(messages, n_messages)) != 0 ||
        json_object_set_new(variables, "bos_token", new_string(options->bos_token)) != 0 ||
        json_object_set_new(variables, "eos_token", new_string(options->eos_token)) != 0 ||
        json_object_set_new(variables, "tools", json_null()) != 0 ||
        json_object_set_new(variables, "documents", json_null()) != 0 ||
        json_object_set_new(variables, "add_generation_prompt",
                            json_boolean(options->add_generation_prompt)) != 0)
        bl__fail(err, BL_ERR_MEMORY, "chat template: out of memory");
    else
        status = render(chat_template, variables, text, len, err);
    json_decref(variables);
    return status;
}

bl_status bl_chat_template_render_json(const bl_chat_template *chat_template,
                                       const char *variables_json, char **text, size_t *len,
                                       bl_error *err) {
    if (!chat_template || !variables_json || !text)
        return bl__fail(err, BL_ERR_ARGUMENT, "chat template: NULL argument");
    size_t n = strlen(variables_json);
    if (n > VARIABLES_MAX)
        return bl__fail(err, BL_ERR_LIMIT, "chat template: %zu bytes of variables, at most %d", n,
                        VARIABLES_MAX);
    json_error_t where;
    json_t *variables = json_loadb(variables_json, n, JSON_ALLOW_NUL, &where);
    if (!variables)
        return bl__fail(err, BL_ERR_ARGUMENT, "chat template: variables: line %d, column %d: %s",
                        where.line, where.column, where.text);
    bl_status status =
        json_is_object(variables)
            ? render(chat_template, variables, text, len, err)
            : bl__fail(err, BL_ERR_ARGUMENT, "chat template: variables: expected a JSON object");
    json_decref(variables);
    return status;
}
