/* Owns /v1/responses: a conversation that the server may remember, answered by items. What is
 * said, item by item, is in response_items.c; this file has requests, events and storage. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "server/answer.h"
#include "server/constraint.h"
#include "server/format.h"
#include "server/generation.h"
#include "server/messages.h"
#include "server/replies.h"
#include "server/response_items.h"
#include "server/server.h"
#include "server/sse.h"
#include "server/tools.h"

static const size_t MAX_TEXT = (size_t)1 << 26;

typedef struct answering {
    const bl__served *served;
    bl__replies *replies; /* NULL: not to be stored */
    json_t *response;     /* the object as it stands */
    json_t *messages;     /* the conversation so far, without instructions */
    bl__tools tools;      /* its list is owned */
    char message_id[BL_ID_SIZE];
    bool stream, trims, has_message;
    int sequence; /* number of the next event */
    bl__buffer text, out;
    size_t n_shown; /* of the text */
    bl__job_end end;
} answering;

static void free_answering(void *user) {
    answering *a = user;
    json_decref(a->response);
    json_decref(a->messages);
    json_decref(a->tools.list);
    bl__buffer_free(&a->text);
    bl__buffer_free(&a->out);
    bl__free(a);
}

/* ---- events ---- */

/* Writes an event; takes the object over and completes it. */
static void put_event(answering *a, const char *type, json_t *object) {
    if (object) {
        json_object_set_new(object, "type", json_string(type));
        json_object_set_new(object, "sequence_number", json_integer(a->sequence++));
    }
    bl__sse_event(&a->out, type, object);
}

static void put_state(answering *a, const char *type) {
    put_event(a, type, json_pack("{s:O}", "response", a->response));
}

static json_t *part_event(const answering *a) {
    return json_pack("{s:s, s:i, s:i}", "item_id", a->message_id, "output_index", 0,
                     "content_index", 0);
}

static void open_message(answering *a) {
    if (a->has_message)
        return;
    a->has_message = true;
    put_event(a, "response.output_item.added",
              json_pack("{s:i, s:o}", "output_index", 0, "item",
                        bl__item_message(a->message_id, "in_progress", NULL, 0)));
    json_t *event = part_event(a);
    json_object_set_new(event, "part", bl__item_text("", 0));
    put_event(a, "response.content_part.added", event);
}

static void put_delta(answering *a, const char *text, size_t len) {
    open_message(a);
    json_t *event = part_event(a);
    json_object_set_new(event, "delta", json_stringn(text, len));
    json_object_set_new(event, "logprobs", json_array());
    put_event(a, "response.output_text.delta", event);
}

static void close_message(answering *a, json_t *item) {
    const char *text = a->text.len ? a->text.data : "";
    open_message(a);
    json_t *event = part_event(a);
    json_object_set_new(event, "text", json_stringn(text, a->text.len));
    json_object_set_new(event, "logprobs", json_array());
    put_event(a, "response.output_text.done", event);
    event = part_event(a);
    json_object_set_new(event, "part", bl__item_text(text, a->text.len));
    put_event(a, "response.content_part.done", event);
    put_event(a, "response.output_item.done",
              json_pack("{s:i, s:O}", "output_index", 0, "item", item));
}

static void put_call(answering *a, json_t *item, int index) {
    const char *id = json_string_value(json_object_get(item, "id"));
    json_t *arguments = json_object_get(item, "arguments"), *opened = json_copy(item);
    json_object_set_new(opened, "arguments", json_string(""));
    json_object_set_new(opened, "status", json_string("in_progress"));
    put_event(a, "response.output_item.added",
              json_pack("{s:i, s:o}", "output_index", index, "item", opened));
    put_event(
        a, "response.function_call_arguments.delta",
        json_pack("{s:s, s:i, s:O}", "item_id", id, "output_index", index, "delta", arguments));
    put_event(
        a, "response.function_call_arguments.done",
        json_pack("{s:s, s:i, s:O}", "item_id", id, "output_index", index, "arguments", arguments));
    put_event(a, "response.output_item.done",
              json_pack("{s:i, s:O}", "output_index", index, "item", item));
}

/* ---- answers ---- */

static void take_piece(void *user, size_t i, const bl__piece *piece) {
    answering *a = user;
    const char *text = piece->text;
    size_t len = piece->len;
    (void)i;
    while (a->trims && len > 0 && strchr(" \t\r\n", *text)) {
        text++;
        len--;
    }
    a->trims = a->trims && len == 0;
    bl__buffer_append(&a->text, text, len);
    if (!a->stream || a->text.len == 0)
        return;
    size_t n = a->tools.list ? bl__tools_shown(a->text.data, a->text.len) : a->text.len;
    if (n > a->n_shown)
        put_delta(a, a->text.data + a->n_shown, n - a->n_shown);
    a->n_shown = n > a->n_shown ? n : a->n_shown;
}

static void take_end(void *user, size_t i, const bl__job_end *end) {
    answering *a = user;
    (void)i;
    a->end = *end;
}

/* Fills the output and the figures of the response, and tells of them. */
static void complete(answering *a) {
    size_t n_before = a->text.len;
    bool cut = bl__finish_reason(&a->end)[0] == 'l';
    json_t *output = json_array(), *item, *call;
    json_t *calls = a->tools.list && a->text.len > 0
                        ? bl__tools_find(&a->tools, a->text.data, a->text.len, &n_before)
                        : NULL;
    if (calls)
        a->text.len = n_before > a->n_shown ? n_before : a->n_shown;
    if (a->stream && a->text.len > a->n_shown)
        put_delta(a, a->text.data + a->n_shown, a->text.len - a->n_shown);
    if (a->text.len > 0 || !calls) {
        item = bl__item_message(a->message_id, cut ? "incomplete" : "completed",
                                a->text.len ? a->text.data : "", a->text.len);
        if (a->stream)
            close_message(a, item);
        json_array_append_new(output, item);
    }
    size_t index;
    json_array_foreach(calls, index, call) {
        item = bl__item_call(call);
        if (a->stream)
            put_call(a, item, (int)json_array_size(output));
        json_array_append_new(output, item);
    }
    bl__messages_add_answer(a->messages, a->text.len ? a->text.data : "", a->text.len, calls);
    json_decref(calls);
    json_object_set_new(a->response, "output", output);
    json_object_set_new(a->response, "status", json_string(cut ? "incomplete" : "completed"));
    if (cut)
        json_object_set_new(a->response, "incomplete_details",
                            json_pack("{s:s}", "reason", "max_output_tokens"));
    json_object_set_new(a->response, "usage",
                        json_pack("{s:I, s:{s:I}, s:I, s:{s:i}, s:I}", "input_tokens",
                                  (json_int_t)a->end.n_prompt, "input_tokens_details",
                                  "cached_tokens", (json_int_t)a->end.n_cached, "output_tokens",
                                  (json_int_t)a->end.n_generated, "output_tokens_details",
                                  "reasoning_tokens", 0, "total_tokens",
                                  (json_int_t)(a->end.n_prompt + a->end.n_generated)));
    if (a->replies)
        bl__replies_put(a->replies, a->response, a->messages);
    if (a->stream)
        put_state(a, cut ? "response.incomplete" : "response.completed");
}

static void finish(void *user, bl__response *response) {
    answering *a = user;
    if (a->end.outcome == BL_JOB_FINISHED) {
        complete(a);
        if (response)
            bl__respond_json(response, 200, json_incref(a->response));
    } else if (response) {
        bl__respond_end(response, &a->end);
    } else {
        json_t *error = bl__end_error(&a->end);
        json_object_set_new(a->response, "status", json_string("failed"));
        json_object_set(a->response, "error", json_object_get(error, "error"));
        json_decref(error);
        put_state(a, "response.failed");
    }
}

/* ---- requests ---- */

typedef struct asked {
    bl__generation generation;
    json_t *messages; /* with what went before, without instructions */
    bl__tools tools;
    bl__constraint *constraint;
    const char *instructions, *previous;
    bool stores;
} asked;

/* The format is one level deeper than in chat. */
static void parse_format(bl__fields *f, asked *what) {
    json_t *text = bl__field_object(f, "text");
    bl__fields inner = {
        .root = text ? text : f->root, .response = f->response, .prefix = text ? "text." : ""};
    bl__constraint_parse(&inner, text ? "format" : "response_format", &what->tools,
                         &what->constraint);
    f->failed = f->failed || inner.failed;
}

static void parse(bl_server *server, bl__fields *f, asked *what) {
    static const char *const lengths[] = {"max_output_tokens"};
    *what = (asked){0};
    bl__generation_parse(f, &what->generation);
    bl__generation_parse_length(f, lengths, 1, &what->generation);
    what->generation.n_choices = 1;
    what->instructions = bl__field_string(f, "instructions", NULL);
    what->previous = bl__field_string(f, "previous_response_id", NULL);
    what->stores = bl__field_bool(f, "store", true);
    if (bl__field_bool(f, "background", false))
        bl__field_fail(f, "background", "answers in the background are not supported");
    bl__tools_parse(f, &what->tools);
    if (!f->failed)
        parse_format(f, what);
    json_t *before = NULL;
    if (!f->failed && what->previous &&
        !bl__replies_get(server->replies, what->previous, NULL, &before)) {
        bl__respond_error(f->response, 404, "invalid_request_error", "previous_response_id",
                          "not_found", "there is no response %.80s (any more)", what->previous);
        f->failed = true;
    }
    what->messages = bl__items_to_messages(f, "input", before);
    json_decref(before);
}

static void clear_asked(asked *what) {
    bl__generation_clear(&what->generation);
    bl__constraint_release(what->constraint);
    json_decref(what->tools.list);
    json_decref(what->messages);
}

/* A float as somebody would have written it. */
static double as_written(float x) {
    return round((double)x * 1e6) / 1e6;
}

static json_t *first_state(const bl__served *served, const asked *what, json_t *root) {
    const bl__generation *g = &what->generation;
    char id[BL_ID_SIZE];
    bl__make_id("resp_", id);
    json_t *tools = json_object_get(root, "tools"), *metadata = json_object_get(root, "metadata");
    json_t *choice = json_object_get(root, "tool_choice"), *text = json_object_get(root, "text");
    return json_pack(
        "{s:s, s:s, s:I, s:s, s:n, s:n, s:s?, s:o, s:s, s:[], s:b, s:s?, s:b, s:f, s:f, s:o, s:o, "
        "s:o, s:s, s:n, s:o}",
        "id", id, "object", "response", "created_at", (json_int_t)bl__unix_time(), "status",
        "in_progress", "error", "incomplete_details", "instructions", what->instructions,
        "max_output_tokens", g->max_tokens ? json_integer((json_int_t)g->max_tokens) : json_null(),
        "model", served->id, "output", "parallel_tool_calls", 1, "previous_response_id",
        what->previous, "store", what->stores, "temperature", as_written(g->sampling.temperature),
        "top_p", as_written(g->sampling.top_p), "tools",
        json_is_array(tools) ? json_incref(tools) : json_array(), "tool_choice",
        choice ? json_incref(choice) : json_string("auto"), "text",
        json_is_object(text) ? json_incref(text) : json_pack("{s:{s:s}}", "format", "type", "text"),
        "truncation", "disabled", "usage", "metadata",
        json_is_object(metadata) ? json_incref(metadata) : json_object());
}

static answering *make_answering(bl_server *server, const bl__served *served, const asked *what,
                                 json_t *root) {
    answering *a = bl__calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->served = served;
    a->replies = what->stores ? server->replies : NULL;
    a->stream = what->generation.stream;
    a->trims = !served->has_template;
    a->tools = what->tools;
    json_incref(a->tools.list);
    a->messages = json_incref(what->messages);
    a->text = bl__buffer_make(MAX_TEXT);
    a->out = bl__buffer_make(MAX_TEXT);
    a->response = first_state(served, what, root);
    bl__make_id("msg_", a->message_id);
    if (a->response)
        return a;
    free_answering(a);
    return NULL;
}

/* The prompt of a conversation with its instructions. */
static bool encode(const bl__served *served, const asked *what, bl_token **ids, size_t *n_ids,
                   bl__response *response) {
    json_t *messages = json_copy(what->messages);
    char *text = NULL;
    size_t len = 0;
    if (what->instructions && messages)
        json_array_insert_new(
            messages, 0, json_pack("{s:s, s:s}", "role", "system", "content", what->instructions));
    bool ok = messages &&
              bl__messages_render(served, messages, &what->tools, NULL, &text, &len, response) &&
              bl__encode_prompt(served, text, len, true, ids, n_ids, "input", response);
    json_decref(messages);
    bl_free(text);
    return ok;
}

/* Takes the model over. */
static void start(bl_server *server, bl__served *served, const asked *what, json_t *root,
                  bl__request *request, bl__response *response) {
    bl_token *ids = NULL;
    size_t n_ids = 0;
    bool ok = encode(served, what, &ids, &n_ids, response);
    answering *a = ok ? make_answering(server, served, what, root) : NULL;
    if (!a) {
        if (ok)
            bl__respond_json(response, 500, NULL);
        bl__models_release(server->models, served);
        bl_free(ids);
        return;
    }
    if (a->stream) {
        put_state(a, "response.created");
        put_state(a, "response.in_progress");
    }
    const bl__taker taker = {.piece = take_piece,
                             .end = take_end,
                             .finish = finish,
                             .free = free_answering,
                             .user = a,
                             .out = a->stream ? &a->out : NULL};
    bl__answer *answer = bl__answer_create(server->models, served, request, 1, &taker, response);
    bl__job_params job = bl__generation_job(&what->generation, 0);
    job.prompt = ids;
    job.n_prompt = n_ids;
    job.client = bl__client_number(request);
    job.seconds = bl__server_seconds(server, what->generation.seconds);
    job.show_special = what->tools.list != NULL;
    if (answer && bl__constraint_set(server->models, served, what->constraint, &job, response) &&
        bl__answer_submit(answer, &job, response))
        bl__answer_respond(answer, response);
    else if (answer)
        bl__answer_abandon(answer);
    bl_free(ids);
}

static void create_response(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    if (!root)
        return;
    bl__fields fields = bl__fields_of(root, response);
    asked what;
    parse(server, &fields, &what);
    const char *model = bl__field_string(&fields, "model", NULL);
    bl__served *served = fields.failed ? NULL : bl__models_acquire(server->models, model, response);
    if (served && !served->has_template)
        bl__generation_add_stop(&what.generation, "\nUser:");
    if (served)
        start(server, served, &what, root, request, response);
    clear_asked(&what);
    json_decref(root);
}

static void respond_unknown(bl__response *response, const char *id) {
    bl__respond_error(response, 404, "invalid_request_error", "response_id", "not_found",
                      "there is no response %.80s (any more)", id);
}

static void get_response(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *stored = NULL;
    if (bl__replies_get(server->replies, request->captures[0], &stored, NULL))
        bl__respond_json(response, 200, stored);
    else
        respond_unknown(response, request->captures[0]);
}

static void delete_response(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    if (bl__replies_delete(server->replies, request->captures[0]))
        bl__respond_json(response, 200,
                         json_pack("{s:s, s:s, s:b}", "id", request->captures[0], "object",
                                   "response.deleted", "deleted", 1));
    else
        respond_unknown(response, request->captures[0]);
}

bl_status bl__api_responses_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {
        {"POST", "/v1/responses", create_response, 0},
        {"GET", "/v1/responses/{response_id}", get_response, 0},
        {"DELETE", "/v1/responses/{response_id}", delete_response, 0},
    };
    return bl__router_add(&server->router, routes, sizeof routes / sizeof *routes, server, err);
}
