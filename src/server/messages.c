/* Owns the way from a request's messages to a prompt. Must not know what is done with it. */
#include "server/messages.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "formats/json.h"

static const size_t MAX_PROMPT = (size_t)1 << 26;

/* Content in parts becomes one text; NULL with the error set. */
static json_t *join_parts(bl__fields *f, json_t *parts, const char *name, size_t at) {
    bl__buffer text = bl__buffer_make(MAX_PROMPT);
    json_t *part, *joined = NULL;
    size_t i;
    json_array_foreach(parts, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *value = json_object_get(part, "text");
        bool is_text = type && (strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 ||
                                strcmp(type, "output_text") == 0);
        if (!is_text || !json_is_string(value)) {
            bl__field_fail(f, name, "message %zu, part %zu: expected text, found %.40s", at, i,
                           type ? type : "no type");
            break;
        }
        bl__buffer_append(&text, json_string_value(value), json_string_length(value));
    }
    if (text.failed)
        bl__field_fail(f, name, "message %zu is too long", at);
    if (!f->failed)
        joined = json_stringn(text.len ? text.data : "", text.len);
    bl__buffer_free(&text);
    return joined;
}

/* Arguments are text in requests and objects in templates; text that is no object stays. */
static void open_arguments(json_t *call) {
    const bl__json_limits limits = {.depth = BL_MAX_REQUEST_JSON_DEPTH, .values = 100000};
    json_t *function = json_object_get(call, "function"), *parsed = NULL;
    json_t *text = json_object_get(function, "arguments");
    if (json_is_string(text) && bl__json_parse(json_string_value(text), json_string_length(text),
                                               limits, &parsed, NULL) == BL_OK) {
        if (json_is_object(parsed))
            json_object_set(function, "arguments", parsed);
        json_decref(parsed);
    }
}

static bool check_calls(bl__fields *f, json_t *calls, const char *name, size_t at) {
    json_t *call;
    size_t i;
    if (!json_is_array(calls)) {
        bl__field_fail(f, name, "message %zu: tool_calls is no array", at);
        return false;
    }
    json_array_foreach(calls, i, call) {
        json_t *function = json_object_get(call, "function");
        if (!json_is_string(json_object_get(function, "name"))) {
            bl__field_fail(f, name, "message %zu: tool call %zu names no function", at, i);
            return false;
        }
        open_arguments(call);
    }
    return true;
}

/* A checked copy of a message; NULL with the error set. */
static json_t *parse_message(bl__fields *f, json_t *message, const char *name, size_t at) {
    const char *role = json_string_value(json_object_get(message, "role"));
    json_t *content = json_object_get(message, "content");
    json_t *calls = json_object_get(message, "tool_calls");
    if (!role || !*role || strlen(role) > 64) {
        bl__field_fail(f, name, "message %zu has no role", at);
        return NULL;
    }
    json_t *copy = json_deep_copy(message);
    if (!copy) {
        bl__field_fail(f, name, "no memory for message %zu", at);
        return NULL;
    }
    if (strcmp(role, "developer") == 0) /* what OpenAI calls system now */
        json_object_set_new(copy, "role", json_string("system"));
    if (json_is_array(content)) {
        json_object_set_new(copy, "content", join_parts(f, content, name, at));
    } else if (!content || json_is_null(content)) {
        json_object_set_new(copy, "content", json_string(""));
        if (!calls)
            bl__field_fail(f, name, "message %zu has no content", at);
    } else if (!json_is_string(content)) {
        bl__field_fail(f, name, "message %zu: content is %s, expected a string or parts", at,
                       bl__json_type_name(content));
    }
    if (calls && json_is_null(calls))
        json_object_del(copy, "tool_calls");
    else if (calls)
        check_calls(f, json_object_get(copy, "tool_calls"), name, at);
    if (!f->failed)
        return copy;
    json_decref(copy);
    return NULL;
}

json_t *bl__messages_parse(bl__fields *f, json_t *messages, const char *name) {
    json_t *message, *list;
    size_t i;
    if (f->failed)
        return NULL;
    if (!json_is_array(messages) || json_array_size(messages) == 0 ||
        json_array_size(messages) > BL_MAX_MESSAGES) {
        bl__field_fail(f, name, "expected an array of 1 to %d messages", BL_MAX_MESSAGES);
        return NULL;
    }
    list = json_array();
    json_array_foreach(messages, i, message) {
        if (!json_is_object(message)) {
            bl__field_fail(f, name, "message %zu is %s, expected an object", i,
                           bl__json_type_name(message));
            break;
        }
        json_t *copy = parse_message(f, message, name, i);
        if (!copy)
            break;
        if (json_array_append_new(list, copy) != 0)
            bl__field_fail(f, name, "no memory for message %zu", i);
    }
    if (!f->failed && list)
        return list;
    json_decref(list);
    return NULL;
}

/* The text that the assistant's answer is to begin with; NULL when there is none. */
static json_t *prefill_of(json_t *messages) {
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (json_array_size(messages) < 2 || strcmp(role, "assistant") != 0 ||
        json_object_get(last, "tool_calls"))
        return NULL;
    return json_object_get(last, "content");
}

static json_t *make_variables(const bl__served *served, json_t *messages, json_t *tools,
                              json_t *kwargs) {
    json_t *variables = json_pack(
        "{s:O, s:b, s:s%, s:s%}", "messages", messages, "add_generation_prompt", 1, "bos_token",
        served->bos, strlen(served->bos), "eos_token", served->eos, strlen(served->eos));
    if (variables && tools)
        json_object_set(variables, "tools", tools);
    if (variables && kwargs)
        json_object_update_missing(variables, kwargs);
    return variables;
}

/* The messages as the template is to see them, a new reference: with what it does not know of tools
 * written out. */
static json_t *for_template(const bl__served *served, json_t *messages, const bl__tools *tools) {
    bool any = tools && tools->list;
    for (size_t i = 0; i < json_array_size(messages) && !any; i++) {
        const json_t *message = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        any = strcmp(role, "tool") == 0 || json_object_get(message, "tool_calls");
    }
    const bl__tools none = {0};
    return any && !served->knows_tools ? bl__tools_tell(tools ? tools : &none, messages)
                                       : json_copy(messages);
}

bool bl__messages_render(const bl__served *served, json_t *messages, const bl__tools *tools,
                         json_t *kwargs, char **text, size_t *len, bl__response *response) {
    bl_error err = {.code = BL_ERR_MEMORY, .message = "out of memory"};
    json_t *prefill = prefill_of(messages), *asked = for_template(served, messages, tools);
    json_t *list = tools && served->knows_tools ? tools->list : NULL;
    bl__buffer out = bl__buffer_make(MAX_PROMPT);
    bool ok = false;
    if (prefill && asked)
        json_array_remove(asked, json_array_size(asked) - 1);
    json_t *variables = asked ? make_variables(served, asked, list, kwargs) : NULL;
    char *json = variables ? bl__json_write(variables, JSON_COMPACT, NULL) : NULL;
    char *rendered = NULL;
    size_t n = 0;
    if (!json || bl_chat_template_render_json(served->chat_template, json, &rendered, &n, &err)) {
        bl__make_utf8(err.message);
        bl__respond_failure(response, &err, "messages");
    } else {
        bl__buffer_append(&out, rendered, n);
        if (prefill)
            bl__buffer_append(&out, json_string_value(prefill), json_string_length(prefill));
        else if (tools && tools->required && served->marks_calls)
            bl__buffer_puts(&out, "<tool_call>\n");
        ok = !out.failed && (*text = bl__buffer_take(&out, len));
        if (!ok)
            bl__respond_json(response, 500, NULL);
    }
    bl_free(rendered);
    bl__free(json);
    json_decref(variables);
    json_decref(asked);
    bl__buffer_free(&out);
    return ok;
}
