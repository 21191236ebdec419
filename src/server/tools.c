/* Owns the forms of tool calls. Must not know how text is generated. */
#include "server/tools.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "formats/json.h"
#include "server/server.h"

static const char *const OPENERS[] = {"<tool_call>", "[TOOL_CALLS]",
                                      "<function=", "<|python_tag|>"};
enum { N_OPENERS = sizeof OPENERS / sizeof *OPENERS, MAX_CALLS = 64, MAX_NAME = 64 };
static const size_t MAX_TEXT = (size_t)1 << 26;

/* ---- what is offered ---- */

static bool is_name(const char *name) {
    size_t len = name ? strlen(name) : 0;
    return len > 0 && len <= MAX_NAME &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == len;
}

static const char *name_of(const json_t *tool) {
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static const json_t *find_tool(const bl__tools *tools, const char *name) {
    for (size_t i = 0; name && i < json_array_size(tools->list); i++) {
        const json_t *tool = json_array_get(tools->list, i);
        if (strcmp(name_of(tool), name) == 0)
            return tool;
    }
    return NULL;
}

/* A tool as chat has it; those of /v1/responses have no "function" around them. */
static json_t *wrap_tool(json_t *tool) {
    if (json_object_get(tool, "function"))
        return json_incref(tool);
    json_t *function = json_copy(tool);
    json_object_del(function, "type");
    return json_pack("{s:s, s:o}", "type", "function", "function", function);
}

static bool add_tool(bl__fields *f, json_t *tool, size_t i, bl__tools *out) {
    const char *type = json_string_value(json_object_get(tool, "type"));
    if (!type || strcmp(type, "function") != 0) {
        bl__field_fail(f, "tools", "item %zu: type is %.40s, expected function", i,
                       type ? type : "missing");
        return false;
    }
    json_t *wrapped = wrap_tool(tool);
    json_t *parameters = json_object_get(json_object_get(wrapped, "function"), "parameters");
    if (!is_name(name_of(wrapped)))
        bl__field_fail(f, "tools",
                       "item %zu: its function has no name of 1 to %d letters, digits "
                       "and _ - .",
                       i, MAX_NAME);
    else if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
        bl__field_fail(f, "tools", "item %zu: parameters is no object", i);
    else if (json_array_append(out->list, wrapped) != 0)
        bl__field_fail(f, "tools", "no memory");
    json_decref(wrapped);
    return !f->failed;
}

static void parse_choice(bl__fields *f, bl__tools *out) {
    json_t *choice = bl__field(f, "tool_choice");
    const char *word = json_string_value(choice);
    if (f->failed || !choice)
        return;
    if (json_is_object(choice)) {
        const char *name = name_of(choice);
        name = name ? name : json_string_value(json_object_get(choice, "name"));
        if (!find_tool(out, name)) {
            bl__field_fail(f, "tool_choice", "%.80s is none of the tools", name ? name : "no name");
            return;
        }
        out->required = true;
        out->only_name = name;
    } else if (!word || (strcmp(word, "auto") != 0 && strcmp(word, "none") != 0 &&
                         strcmp(word, "required") != 0)) {
        bl__field_fail(f, "tool_choice", "expected none, auto, required or a function");
    } else if (strcmp(word, "none") == 0) {
        json_decref(out->list);
        out->list = NULL;
    } else if (strcmp(word, "required") == 0) {
        out->required = true;
        if (!out->list)
            bl__field_fail(f, "tool_choice", "there are no tools");
    }
}

void bl__tools_parse(bl__fields *f, bl__tools *out) {
    *out = (bl__tools){0};
    json_t *list = bl__field_array(f, "tools"), *tool;
    size_t i;
    if (json_array_size(list) > BL_MAX_TOOLS)
        bl__field_fail(f, "tools", "more than %d", BL_MAX_TOOLS);
    if (!f->failed && json_array_size(list) > 0) {
        out->list = json_array();
        json_array_foreach(list, i, tool) {
            if (!add_tool(f, tool, i, out))
                return;
        }
    }
    parse_choice(f, out);
}

json_t *bl__tools_schema(const bl__tools *tools) {
    json_t *options = json_array(), *tool;
    size_t i;
    json_array_foreach(tools->list, i, tool) {
        json_t *parameters = json_object_get(json_object_get(tool, "function"), "parameters");
        const char *name = name_of(tool);
        if (tools->only_name && strcmp(tools->only_name, name) != 0)
            continue;
        json_t *arguments = json_is_object(parameters) ? json_incref(parameters)
                                                       : json_pack("{s:s}", "type", "object");
        json_array_append_new(options, json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s, s], s:b}", "type",
                                                 "object", "properties", "name", "const", name,
                                                 "arguments", arguments, "required", "name",
                                                 "arguments", "additionalProperties", 0));
    }
    if (json_array_size(options) == 1) {
        json_t *only = json_incref(json_array_get(options, 0));
        json_decref(options);
        return only;
    }
    return json_pack("{s:o}", "anyOf", options);
}

/* ---- templates that do not know tools ---- */

static void put_json(bl__buffer *out, const json_t *value) {
    char *text = bl__json_write(value, JSON_ENCODE_ANY, NULL);
    if (!text || !bl__buffer_puts(out, text))
        out->failed = true;
    bl__free(text);
}

static void tell_functions(const bl__tools *tools, bl__buffer *out) {
    bl__buffer_puts(out, "You can call functions. To call one, answer with nothing but\n"
                         "<tool_call>{\"name\": NAME, \"arguments\": OBJECT}</tool_call>\n"
                         "These are the functions:\n");
    for (size_t i = 0; i < json_array_size(tools->list); i++) {
        put_json(out, json_object_get(json_array_get(tools->list, i), "function"));
        bl__buffer_putc(out, '\n');
    }
}

/* Takes the buffer's text. */
static json_t *message(const char *role, bl__buffer *text) {
    json_t *made = text->failed ? NULL
                                : json_pack("{s:s, s:s%}", "role", role, "content",
                                            text->len ? text->data : "", text->len);
    bl__buffer_free(text);
    return made;
}

static json_t *write_out(const json_t *from) {
    const char *role = json_string_value(json_object_get(from, "role"));
    const json_t *content = json_object_get(from, "content"), *call;
    json_t *calls = json_object_get(from, "tool_calls");
    bl__buffer text = bl__buffer_make(MAX_TEXT);
    size_t i;
    bool is_result = strcmp(role, "tool") == 0;
    bl__buffer_puts(&text, is_result ? "<tool_response>" : "");
    bl__buffer_append(&text, json_string_value(content), json_string_length(content));
    bl__buffer_puts(&text, is_result ? "</tool_response>" : "");
    json_array_foreach(calls, i, call) {
        bl__buffer_puts(&text, "<tool_call>");
        json_t *function = json_copy(json_object_get(call, "function"));
        put_json(&text, function);
        json_decref(function);
        bl__buffer_puts(&text, "</tool_call>");
    }
    return message(is_result ? "user" : role, &text);
}

json_t *bl__tools_tell(const bl__tools *tools, const json_t *messages) {
    json_t *list = json_array();
    bool ok = list != NULL;
    bl__buffer text = bl__buffer_make(MAX_TEXT);
    const json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    bool has_system = role && strcmp(role, "system") == 0;
    if (has_system) {
        bl__buffer_puts(&text, json_string_value(json_object_get(first, "content")));
        bl__buffer_puts(&text, "\n\n");
    }
    if (tools->list)
        tell_functions(tools, &text);
    if (text.len > 0)
        ok = ok && json_array_append_new(list, message("system", &text)) == 0;
    for (size_t i = has_system; ok && i < json_array_size(messages); i++)
        ok = json_array_append_new(list, write_out(json_array_get(messages, i))) == 0;
    bl__buffer_free(&text);
    if (ok)
        return list;
    json_decref(list);
    return NULL;
}

/* ---- calls in a text ---- */

static size_t skip_blank(const char *text, size_t len, size_t at) {
    while (at < len && strchr(" \t\r\n", text[at]))
        at++;
    return at;
}

static bool starts(const char *text, size_t len, const char *word) {
    size_t n = strlen(word);
    return n <= len && memcmp(text, word, n) == 0;
}

/* Reads one JSON value at text[*at]; what follows it is left. */
static json_t *read_json(const char *text, size_t len, size_t *at) {
    const bl__json_limits limits = {.depth = BL_MAX_REQUEST_JSON_DEPTH, .values = 100000};
    size_t depth = 0, i = *at;
    bool in_string = false;
    for (; i < len; i++) { /* to the bracket that closes it */
        char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0 || --depth == 0)
                break;
        } else if (depth == 0) {
            return NULL; /* calls are objects, or arrays of them */
        }
    }
    json_t *value = NULL;
    if (i >= len || bl__json_parse(text + *at, i + 1 - *at, limits, &value, NULL) != BL_OK)
        return NULL;
    *at = i + 1;
    return value;
}

/* Adds the call of a function, which must be one of the tools. */
static bool add_call(const bl__tools *tools, const char *name, const json_t *arguments,
                     json_t *calls) {
    char id[BL_ID_SIZE], *text = NULL;
    if (!find_tool(tools, name) || json_array_size(calls) == MAX_CALLS)
        return false;
    if (json_is_string(arguments)) /* some models write them as text */
        text = bl__strndup(json_string_value(arguments), json_string_length(arguments));
    else
        text = arguments ? bl__json_write(arguments, JSON_COMPACT, NULL) : bl__strndup("{}", 2);
    if (!text)
        return false;
    bl__make_id("call_", id);
    json_t *call = json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function", "function",
                             "name", name, "arguments", text);
    bl__free(text);
    return json_array_append_new(calls, call) == 0;
}

/* Adds what a value that was written stands for: one call, or an array of them. */
static bool add_value(const bl__tools *tools, const json_t *value, json_t *calls) {
    if (json_is_array(value)) {
        bool ok = json_array_size(value) > 0;
        for (size_t i = 0; ok && i < json_array_size(value); i++)
            ok = json_is_object(json_array_get(value, i)) &&
                 add_value(tools, json_array_get(value, i), calls);
        return ok;
    }
    const json_t *inner = json_object_get(value, "function");
    if (json_is_object(inner))
        return add_value(tools, inner, calls);
    const json_t *arguments = json_object_get(value, "arguments");
    return add_call(tools, json_string_value(json_object_get(value, "name")),
                    arguments ? arguments : json_object_get(value, "parameters"), calls);
}

/* "<function=NAME>{...}" at text[*at]. */
static bool read_function(const bl__tools *tools, const char *text, size_t len, size_t *at,
                          json_t *calls) {
    char name[MAX_NAME + 1];
    size_t from = *at + strlen("<function="), n = 0;
    while (from + n < len && n < MAX_NAME && text[from + n] != '>')
        n++;
    if (from + n >= len || text[from + n] != '>')
        return false;
    memcpy(name, text + from, n);
    name[n] = '\0';
    *at = skip_blank(text, len, from + n + 1);
    json_t *arguments = read_json(text, len, at);
    bool ok = arguments && add_call(tools, name, arguments, calls);
    json_decref(arguments);
    if (ok && starts(text + *at, len - *at, "</function>"))
        *at += strlen("</function>");
    return ok;
}

/* One call, or an array of them, at text[*at]; marks around it are skipped. */
static bool read_call(const bl__tools *tools, const char *text, size_t len, size_t *at,
                      json_t *calls) {
    if (starts(text + *at, len - *at, "<function="))
        return read_function(tools, text, len, at, calls);
    for (size_t i = 0; i < N_OPENERS; i++)
        if (starts(text + *at, len - *at, OPENERS[i])) {
            *at = skip_blank(text, len, *at + strlen(OPENERS[i]));
            break;
        }
    json_t *value = read_json(text, len, at);
    bool ok = value && add_value(tools, value, calls);
    json_decref(value);
    *at = skip_blank(text, len, *at);
    if (ok && starts(text + *at, len - *at, "</tool_call>"))
        *at += strlen("</tool_call>");
    return ok;
}

/* Where the first call may begin; len when there is none. *open: it may also begin just there, with
 * what is still to come. */
static size_t find_opening(const char *text, size_t len, bool *open) {
    size_t start = skip_blank(text, len, 0);
    *open = start == len;
    if (start < len && (text[start] == '{' || text[start] == '['))
        return start;
    for (size_t at = start; at < len; at++) {
        if (text[at] != '<' && text[at] != '[')
            continue;
        for (size_t i = 0; i < N_OPENERS; i++) {
            size_t n = strlen(OPENERS[i]), left = len - at;
            if (memcmp(text + at, OPENERS[i], left < n ? left : n) == 0) {
                *open = left < n;
                return at;
            }
        }
    }
    return len;
}

json_t *bl__tools_find(const bl__tools *tools, const char *text, size_t len, size_t *n_before) {
    bool open;
    size_t at = find_opening(text, len, &open), before = at;
    json_t *calls = json_array();
    while (at < len && read_call(tools, text, len, &at, calls))
        at = skip_blank(text, len, at);
    if (json_array_size(calls) == 0) {
        json_decref(calls);
        return NULL;
    }
    while (before > 0 && strchr(" \t\r\n", text[before - 1]))
        before--;
    *n_before = before;
    return calls;
}

size_t bl__tools_shown(const char *text, size_t len) {
    bool open;
    size_t at = find_opening(text, len, &open);
    if (open && at == len)
        return 0;                                     /* only blanks so far */
    while (at > 0 && strchr(" \t\r\n", text[at - 1])) /* blanks before a call are not shown */
        at--;
    return at;
}
