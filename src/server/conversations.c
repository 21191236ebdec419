/* Owns what the routes of conversations take and answer. Must not know how they are stored, nor
 * how the page shows them. */
#include "server/conversations.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "formats/json.h"
#include "tokenizer/utf8.h"

enum { DEFAULT_ROWS = 50 };

/* The error of the store's as the API's. Messages about a field begin with its name and a colon. */
static void respond_store_error(bl__response *response, const bl_error *err) {
    static const struct {
        bl_status code;
        int status;
        const char *name;
    } answers[] = {
        {BL_ERR_ARGUMENT, 400, NULL},          {BL_ERR_LIMIT, 413, "too_large"},
        {BL_ERR_NOT_FOUND, 404, "not_found"},  {BL_ERR_CANCELLED, 409, "conflict"},
        {BL_ERR_IO, 503, "store_unavailable"},
    };
    char param[64] = "";
    int status = 500;
    const char *code = NULL;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (err->code == answers[i].code) {
            status = answers[i].status;
            code = answers[i].name;
        }
    size_t len = strcspn(err->message, ":");
    if ((status == 400 || status == 409 || status == 413) && err->message[len] &&
        len < sizeof param) {
        memcpy(param, err->message, len);
        param[len] = '\0';
    }
    bl__respond_error(response, status, status < 500 ? "invalid_request_error" : "server_error",
                      param[0] ? param : NULL, code, "%s", err->message);
}

static void respond_bad(bl__response *response, const char *param, const json_t *found,
                        const char *expected) {
    bl__respond_error(response, 400, "invalid_request_error", param, NULL, "%s: %s, expected %s",
                      param, bl__json_type_name(found), expected);
}

/* --- What comes in -------------------------------------------------------------------------- */

/* What a body says; texts are borrowed from it, but for those of objects. */
typedef struct input {
    json_t *root;
    bl__store_fields fields;
    bl__store_message *messages; /* [n_messages] */
    size_t n_messages;
    int64_t revision; /* -1: not given */
    size_t from;      /* BL_STORE_END: not given */
} input;

static void clear_input(input *in) {
    for (size_t i = 0; i < in->n_messages; i++)
        bl__free((char *)in->messages[i].details.data);
    bl__free(in->messages);
    bl__free((char *)in->fields.settings.data);
    json_decref(in->root);
    *in = (input){0};
}

static bool take_text(const json_t *object, const char *name, const char *param,
                      bl__store_text *out, bl__response *response) {
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return true;
    if (!json_is_string(value)) {
        respond_bad(response, param, value, "a string");
        return false;
    }
    *out = (bl__store_text){json_string_value(value), json_string_length(value)};
    return true;
}

/* An object, as text of its own. */
static bool take_object(const json_t *object, const char *name, const char *param,
                        bl__store_text *out, bl__response *response) {
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return true;
    if (!json_is_object(value)) {
        respond_bad(response, param, value, "an object");
        return false;
    }
    size_t len = 0;
    char *text = bl__json_write(value, JSON_COMPACT, &len);
    if (!text) {
        bl__respond_json(response, 500, NULL);
        return false;
    }
    *out = (bl__store_text){text, len};
    return true;
}

/* A count that is not negative; *out stays when it is not given. */
static bool take_count(const json_t *object, const char *name, int64_t *out,
                       bl__response *response) {
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        respond_bad(response, name, value, "an integer from 0");
        return false;
    }
    *out = json_integer_value(value);
    return true;
}

static bool take_message(const json_t *object, size_t index, bl__store_message *out,
                         bl__response *response) {
    char name[48];
    bl__store_text role = {0};
    snprintf(name, sizeof name, "messages[%zu]", index);
    if (!json_is_object(object)) {
        respond_bad(response, name, object, "an object");
        return false;
    }
    snprintf(name, sizeof name, "messages[%zu].role", index);
    if (!take_text(object, "role", name, &role, response))
        return false;
    out->role = role.data ? role.data : "";
    snprintf(name, sizeof name, "messages[%zu].content", index);
    if (!take_text(object, "content", name, &out->content, response))
        return false;
    if (!out->content.data) {
        respond_bad(response, name, NULL, "a string");
        return false;
    }
    snprintf(name, sizeof name, "messages[%zu].details", index);
    return take_object(object, "details", name, &out->details, response);
}

static bool take_messages(input *in, bl__response *response) {
    const json_t *list = json_object_get(in->root, "messages");
    if (!list)
        return true;
    if (!json_is_array(list)) {
        respond_bad(response, "messages", list, "an array");
        return false;
    }
    size_t n = json_array_size(list);
    in->messages = bl__calloc(n, sizeof *in->messages);
    if (!in->messages) {
        bl__respond_json(response, 500, NULL);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        in->n_messages = i + 1;
        if (!take_message(json_array_get(list, i), i, &in->messages[i], response))
            return false;
    }
    return true;
}

/* Reads a body. On failure the response is filled and nothing is held. */
static bool take_input(const bl__request *request, input *in, bl__response *response) {
    int64_t from = -1;
    *in = (input){.revision = -1, .root = bl__request_json(request, response)};
    if (!in->root)
        return false;
    bool ok = take_text(in->root, "title", "title", &in->fields.title, response) &&
              take_text(in->root, "model", "model", &in->fields.model, response) &&
              take_object(in->root, "settings", "settings", &in->fields.settings, response) &&
              take_count(in->root, "revision", &in->revision, response) &&
              take_count(in->root, "from", &from, response) && take_messages(in, response);
    in->from = from < 0 ? BL_STORE_END : (size_t)from;
    if (!ok)
        clear_input(in);
    return ok;
}

/* --- What goes out -------------------------------------------------------------------------- */

static json_t *text_json(bl__store_text text) {
    if (bl__utf8_valid_prefix(text.data, text.len) < text.len)
        return json_string("\xef\xbf\xbd"); /* some other hand has been in the database */
    return json_stringn(text.data, text.len);
}

/* An object that was stored as text. */
static json_t *object_json(bl__store_text text) {
    json_t *value = json_loadb(text.data, text.len, 0, NULL);
    return value ? value : json_object();
}

static json_t *mark_json(const bl__store_mark *mark) {
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "id", mark->id, "object", "conversation",
                     "created_at", (json_int_t)mark->created, "updated_at",
                     (json_int_t)mark->updated, "revision", (json_int_t)mark->revision,
                     "message_count", (json_int_t)mark->n_messages);
}

static json_t *row_json(const bl__store_row *row) {
    json_t *object = mark_json(&row->mark);
    int failed = json_object_set_new(object, "title", text_json(row->fields.title)) |
                 json_object_set_new(object, "model", text_json(row->fields.model)) |
                 json_object_set_new(object, "settings", object_json(row->fields.settings));
    if (row->excerpt.data)
        failed |= json_object_set_new(object, "excerpt", text_json(row->excerpt));
    if (!failed)
        return object;
    json_decref(object);
    return NULL;
}

static bool add_row(void *user, const bl__store_row *row) {
    return json_array_append_new(user, row_json(row)) == 0;
}

static void respond_off(bl__response *response) {
    bl__respond_error(response, 404, "invalid_request_error", NULL, "store_off",
                      "conversations are not kept: the server runs without a store");
}

static void respond_mark(bl__response *response, int status, const bl__store_mark *mark) {
    bl__respond_json(response, status, mark_json(mark));
}

static bool take_rows(const bl__request *request, size_t *rows, bl__response *response) {
    const char *text = bl__request_query(request, "limit");
    *rows = DEFAULT_ROWS;
    if (!text)
        return true;
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 1 || value > BL_STORE_MAX_ROWS) {
        bl__respond_error(response, 400, "invalid_request_error", "limit", NULL,
                          "limit: \"%.40s\", expected 1 to %d", text, BL_STORE_MAX_ROWS);
        return false;
    }
    *rows = (size_t)value;
    return true;
}

static void get_list(void *user, bl__request *request, bl__response *response) {
    bl__store *store = user;
    const char *query = bl__request_query(request, "query");
    bl__store_text words = {query, query ? strlen(query) : 0};
    bool more = false;
    bl_error err;
    size_t rows;
    if (!take_rows(request, &rows, response))
        return;
    json_t *list = json_array();
    bl_status status = !store || !list
                           ? BL_OK
                           : bl__store_list(store, words, bl__request_query(request, "after"), rows,
                                            add_row, list, &more, &err);
    if (status) {
        json_decref(list);
        respond_store_error(response, &err);
        return;
    }
    bl__respond_json(response, 200,
                     json_pack("{s:s, s:b, s:o, s:b}", "object", "list", "stored", store != NULL,
                               "data", list, "has_more", more));
}

static void post_conversation(void *user, bl__request *request, bl__response *response) {
    bl__store_mark mark;
    bl_error err;
    input in;
    if (!user) {
        respond_off(response);
        return;
    }
    if (!take_input(request, &in, response))
        return;
    if (bl__store_create(user, &in.fields, in.messages, in.n_messages, &mark, &err))
        respond_store_error(response, &err);
    else
        respond_mark(response, 201, &mark);
    clear_input(&in);
}

/* A whole conversation as JSON, as it is read. */
typedef struct whole {
    json_t *object, *messages; /* messages: borrowed from object */
} whole;

static bool start_whole(void *user, const bl__store_row *row) {
    whole *all = user;
    all->object = row_json(row);
    all->messages = json_array();
    return json_object_set_new(all->object, "messages", all->messages) == 0;
}

static bool add_message(void *user, size_t position, const bl__store_message *message) {
    whole *all = user;
    json_t *object =
        json_pack("{s:I, s:s, s:o, s:I, s:o}", "position", (json_int_t)position, "role",
                  message->role, "content", text_json(message->content), "created_at",
                  (json_int_t)message->created, "details", object_json(message->details));
    return json_array_append_new(all->messages, object) == 0;
}

/* Answers with the conversation; false when that failed. */
static bool respond_whole(bl__store *store, const char *id, bl__response *response) {
    whole all = {0};
    bl_error err;
    if (bl__store_read(store, id, start_whole, add_message, &all, &err)) {
        json_decref(all.object);
        respond_store_error(response, &err);
        return false;
    }
    bl__respond_json(response, 200, all.object);
    return true;
}

static void get_conversation(void *user, bl__request *request, bl__response *response) {
    if (user)
        respond_whole(user, request->captures[0], response);
    else
        respond_off(response);
}

static void patch_conversation(void *user, bl__request *request, bl__response *response) {
    bl__store_mark mark;
    bl_error err;
    input in;
    if (!user) {
        respond_off(response);
        return;
    }
    if (!take_input(request, &in, response))
        return;
    if (bl__store_edit(user, request->captures[0], &in.fields, &mark, &err))
        respond_store_error(response, &err);
    else
        respond_mark(response, 200, &mark);
    clear_input(&in);
}

static void delete_conversation(void *user, bl__request *request, bl__response *response) {
    bl_error err;
    if (!user)
        respond_off(response);
    else if (bl__store_delete(user, request->captures[0], &err))
        respond_store_error(response, &err);
    else
        bl__respond_json(response, 200,
                         json_pack("{s:s, s:s, s:b}", "id", request->captures[0], "object",
                                   "conversation.deleted", "deleted", true));
}

static void write_messages(bl__store *store, bl__request *request, bool replace,
                           bl__response *response) {
    bl__store_mark mark;
    bl_error err;
    input in;
    if (!store) {
        respond_off(response);
        return;
    }
    if (!take_input(request, &in, response))
        return;
    if (!in.messages)
        respond_bad(response, "messages", NULL, "an array");
    else if (replace && in.from == BL_STORE_END)
        respond_bad(response, "from", NULL, "the position of the first message to replace");
    else if (bl__store_write(store, request->captures[0], in.revision,
                             replace ? in.from : BL_STORE_END, in.messages, in.n_messages, &mark,
                             &err))
        respond_store_error(response, &err);
    else
        respond_mark(response, 200, &mark);
    clear_input(&in);
}

static void post_messages(void *user, bl__request *request, bl__response *response) {
    write_messages(user, request, false, response);
}

static void put_messages(void *user, bl__request *request, bl__response *response) {
    write_messages(user, request, true, response);
}

/* --- Export --------------------------------------------------------------------------------- */

static bool append_text(bl__buffer *out, bl__store_text text) {
    return bl__buffer_append(out, text.data, text.len);
}

static bool start_markdown(void *user, const bl__store_row *row) {
    bl__buffer *out = user;
    time_t seconds = (time_t)(row->mark.created / 1000);
    struct tm date;
    char day[32] = "";
    if (gmtime_r(&seconds, &date))
        strftime(day, sizeof day, "%Y-%m-%d", &date);
    bl__buffer_puts(out, "# ");
    append_text(out,
                row->fields.title.len ? row->fields.title : (bl__store_text){"Conversation", 12});
    bl__buffer_printf(out, "\n\n%s", day);
    if (row->fields.model.len) {
        bl__buffer_puts(out, ", ");
        append_text(out, row->fields.model);
    }
    return bl__buffer_puts(out, "\n");
}

static bool add_markdown(void *user, size_t position, const bl__store_message *message) {
    bl__buffer *out = user;
    (void)position;
    bl__buffer_puts(out, strcmp(message->role, "user") == 0        ? "\n## You\n\n"
                         : strcmp(message->role, "assistant") == 0 ? "\n## Assistant\n\n"
                         : strcmp(message->role, "tool") == 0      ? "\n## Tool\n\n"
                                                                   : "\n## System\n\n");
    append_text(out, message->content);
    return bl__buffer_puts(out, "\n");
}

static void respond_markdown(bl__store *store, const char *id, bl__response *response) {
    bl__buffer text = bl__buffer_make(BL_MAX_RESPONSE);
    bl_error err;
    if (bl__store_read(store, id, start_markdown, add_markdown, &text, &err))
        respond_store_error(response, &err);
    else
        bl__respond_bytes(response, 200, "text/markdown; charset=utf-8", text.data, text.len);
    bl__buffer_free(&text);
}

static void get_export(void *user, bl__request *request, bl__response *response) {
    const char *format = bl__request_query(request, "format");
    const char *id = request->captures[0];
    bool markdown = format && strcmp(format, "markdown") == 0;
    char name[100];
    if (!user) {
        respond_off(response);
        return;
    }
    if (format && !markdown && strcmp(format, "json") != 0) {
        bl__respond_error(response, 400, "invalid_request_error", "format", NULL,
                          "format: \"%.40s\", expected json or markdown", format);
        return;
    }
    if (markdown)
        respond_markdown(user, id, response);
    else
        respond_whole(user, id, response);
    if (response->status != 200)
        return;
    snprintf(name, sizeof name, "attachment; filename=\"conversation-%.8s.%s\"", id,
             markdown ? "md" : "json");
    bl__response_header(response, "Content-Disposition", name);
}

bl_status bl__conversations_add(bl__router *router, bl__store *store, bl_error *err) {
    static const bl__route routes[] = {
        {"GET", "/api/conversations", get_list, 0},
        {"POST", "/api/conversations", post_conversation, 0},
        {"GET", "/api/conversations/{id}", get_conversation, 0},
        {"PATCH", "/api/conversations/{id}", patch_conversation, 0},
        {"DELETE", "/api/conversations/{id}", delete_conversation, 0},
        {"POST", "/api/conversations/{id}/messages", post_messages, 0},
        {"PUT", "/api/conversations/{id}/messages", put_messages, 0},
        {"GET", "/api/conversations/{id}/export", get_export, 0},
    };
    return bl__router_add(router, routes, sizeof routes / sizeof *routes, store, err);
}
