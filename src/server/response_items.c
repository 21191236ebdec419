/* Owns the forms of items. Must not know how they travel. */
#include "server/response_items.h"

#include <string.h>

#include "formats/json.h"
#include "server/messages.h"
#include "server/server.h"

json_t *bl__item_text(const char *text, size_t len) {
    return json_pack("{s:s, s:s%, s:[], s:[]}", "type", "output_text", "text", text, len,
                     "annotations", "logprobs");
}

json_t *bl__item_message(const char *id, const char *status, const char *text, size_t len) {
    json_t *content = json_array();
    if (text)
        json_array_append_new(content, bl__item_text(text, len));
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "type", "message", "id", id, "status", status,
                     "role", "assistant", "content", content);
}

json_t *bl__item_call(const json_t *call) {
    const json_t *function = json_object_get(call, "function");
    char id[BL_ID_SIZE];
    bl__make_id("fc_", id);
    return json_pack("{s:s, s:s, s:O, s:O, s:O, s:s}", "type", "function_call", "id", id, "call_id",
                     json_object_get(call, "id"), "name", json_object_get(function, "name"),
                     "arguments", json_object_get(function, "arguments"), "status", "completed");
}

void bl__messages_add_answer(json_t *messages, const char *text, size_t len, const json_t *calls) {
    json_t *message = json_pack("{s:s, s:s%}", "role", "assistant", "content", text, len);
    if (message && calls)
        json_object_set_new(message, "tool_calls", json_deep_copy(calls));
    json_array_append_new(messages, message);
}

/* A call that an earlier answer made joins the assistant's message before it. */
static void add_call(json_t *messages, const json_t *item) {
    const char *name = json_string_value(json_object_get(item, "name"));
    const char *arguments = json_string_value(json_object_get(item, "arguments"));
    const char *id = json_string_value(json_object_get(item, "call_id"));
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) {
        last = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        json_array_append_new(messages, last);
    }
    if (!json_object_get(last, "tool_calls"))
        json_object_set_new(last, "tool_calls", json_array());
    json_array_append_new(json_object_get(last, "tool_calls"),
                          json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id ? id : "", "type",
                                    "function", "function", "name", name ? name : "", "arguments",
                                    arguments ? arguments : "{}"));
}

static bool add_item(bl__fields *f, const char *name, json_t *item, size_t i, json_t *messages) {
    const char *type = json_string_value(json_object_get(item, "type"));
    if (type && strcmp(type, "function_call") == 0) {
        add_call(messages, item);
    } else if (type && strcmp(type, "function_call_output") == 0) {
        json_t *output = json_object_get(item, "output"), *id = json_object_get(item, "call_id");
        json_array_append_new(messages,
                              json_pack("{s:s, s:O?, s:O?}", "role", "tool", "content", output,
                                        "tool_call_id", json_is_string(id) ? id : NULL));
    } else if (type && strcmp(type, "reasoning") == 0) {
        return true; /* of other models */
    } else if (json_is_object(item) && (!type || strcmp(type, "message") == 0)) {
        json_array_append(messages, item);
    } else {
        bl__field_fail(f, name,
                       "item %zu: %.40s, expected a message, a function_call or its output", i,
                       type ? type : bl__json_type_name(item));
    }
    return !f->failed;
}

json_t *bl__items_to_messages(bl__fields *f, const char *name, const json_t *before) {
    json_t *input = bl__field(f, name), *item, *parsed = NULL;
    json_t *messages = before ? json_deep_copy(before) : json_array();
    size_t i;
    if (f->failed) {
        json_decref(messages);
        return NULL;
    }
    if (json_is_string(input)) {
        json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content", input));
    } else if (!json_is_array(input) || json_array_size(input) > BL_MAX_MESSAGES) {
        bl__field_fail(f, name, "expected text, or an array of at most %d items", BL_MAX_MESSAGES);
    } else {
        json_array_foreach(input, i, item) {
            if (!add_item(f, name, item, i, messages))
                break;
        }
    }
    if (!f->failed)
        parsed = bl__messages_parse(f, messages, name);
    json_decref(messages);
    return parsed;
}
