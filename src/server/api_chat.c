/* Owns /v1/chat/completions: from messages to prompts, from pieces to answers and chunks. */
#include <string.h>

#include "base/alloc.h"
#include "server/answer.h"
#include "server/constraint.h"
#include "server/format.h"
#include "server/generation.h"
#include "server/messages.h"
#include "server/server.h"
#include "server/sse.h"
#include "server/tools.h"

static const size_t MAX_TEXT = (size_t)1 << 26;

/* One of the n answers. */
typedef struct choice {
    bl__buffer text;  /* of an answer that is given whole, or may be a tool call */
    size_t n_shown;   /* of it, in a stream */
    json_t *logprobs; /* array; NULL when not asked for */
    const char *finish_reason;
    bool trims; /* no text yet, and the template leaves the first blank to the model */
    bool told_role;
} choice;

typedef struct chat {
    const bl__served *served;
    char id[BL_ID_SIZE];
    int64_t created;
    bool stream, include_usage, logprobs;
    bl__tools tools; /* its list is owned */
    bl__usage usage;
    bl__job_end failed_end;
    bool has_failed;
    bl__buffer out;
    size_t n_choices;
    choice choices[BL_MAX_CHOICES];
} chat;

static void free_chat(void *user) {
    chat *c = user;
    for (size_t i = 0; i < c->n_choices; i++) {
        bl__buffer_free(&c->choices[i].text);
        json_decref(c->choices[i].logprobs);
    }
    json_decref(c->tools.list);
    bl__buffer_free(&c->out);
    bl__free(c);
}

/* ---- answers ---- */

static json_t *chunk_json(const chat *c, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", c->id, "object",
                     "chat.completion.chunk", "created", (json_int_t)c->created, "model",
                     c->served->id, "system_fingerprint", "bitloom", "choices", choices);
}

/* A chunk of one choice; takes delta and logprobs over. */
static void put_chunk(chat *c, size_t i, json_t *delta, json_t *logprobs, const char *reason) {
    json_t *choice_json = json_pack(
        "{s:i, s:o, s:o?, s:s?}", "index", (int)i, "delta", delta, "logprobs",
        logprobs ? json_pack("{s:o}", "content", logprobs) : NULL, "finish_reason", reason);
    json_t *chunk = chunk_json(c, json_pack("[o]", choice_json));
    if (chunk && c->include_usage)
        json_object_set_new(chunk, "usage", json_null());
    bl__sse_data(&c->out, chunk);
}

static void tell_role(chat *c, size_t i) {
    if (c->choices[i].told_role)
        return;
    c->choices[i].told_role = true;
    put_chunk(c, i, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL);
}

/* The tool calls of an answer, which end it. */
static json_t *find_calls(const chat *c, choice *from, size_t *n_before) {
    json_t *calls = c->tools.list && from->text.len > 0
                        ? bl__tools_find(&c->tools, from->text.data, from->text.len, n_before)
                        : NULL;
    if (calls)
        from->finish_reason = "tool_calls";
    return calls;
}

static void take_piece(void *user, size_t i, const bl__piece *piece) {
    chat *c = user;
    choice *to = &c->choices[i];
    const char *text = piece->text;
    size_t len = piece->len;
    while (to->trims && len > 0 && strchr(" \t\r\n", *text)) {
        text++;
        len--;
    }
    to->trims = to->trims && len == 0;
    json_t *entry = piece->n_logprobs ? bl__logprob_json(c->served, piece) : NULL;
    if (!c->stream) {
        bl__buffer_append(&to->text, text, len);
        if (entry)
            json_array_append_new(to->logprobs, entry);
        return;
    }
    tell_role(c, i);
    if (c->tools.list) { /* what may become a call is not shown yet */
        bl__buffer_append(&to->text, text, len);
        size_t n = to->text.len ? bl__tools_shown(to->text.data, to->text.len) : 0;
        text = to->text.data + to->n_shown;
        len = n > to->n_shown ? n - to->n_shown : 0;
        to->n_shown += len;
    }
    if (len > 0 || entry)
        put_chunk(c, i, json_pack("{s:s%}", "content", text, len),
                  entry ? json_pack("[o]", entry) : NULL, NULL);
}

/* At the end of a stream: the calls, or what was held back because it looked like one. */
static void put_rest(chat *c, size_t i) {
    choice *from = &c->choices[i];
    size_t n_before;
    json_t *calls = find_calls(c, from, &n_before), *call;
    size_t n = calls ? n_before : from->text.len, index;
    if (n > from->n_shown)
        put_chunk(
            c, i,
            json_pack("{s:s%}", "content", from->text.data + from->n_shown, n - from->n_shown),
            NULL, NULL);
    json_array_foreach(calls, index, call) {
        json_object_set_new(call, "index", json_integer((json_int_t)index));
        put_chunk(c, i, json_pack("{s:[O]}", "tool_calls", call), NULL, NULL);
    }
    json_decref(calls);
}

static void take_end(void *user, size_t i, const bl__job_end *end) {
    chat *c = user;
    choice *to = &c->choices[i];
    c->usage.n_prompt = end->n_prompt; /* the same for all */
    c->usage.n_cached += i == 0 ? end->n_cached : 0;
    bl__usage_add(&c->usage, end);
    to->finish_reason = bl__finish_reason(end);
    if (end->outcome != BL_JOB_FINISHED && !c->has_failed) {
        c->has_failed = true;
        c->failed_end = *end;
    }
    if (!c->stream)
        return;
    tell_role(c, i);
    if (end->outcome != BL_JOB_FINISHED)
        return;
    put_rest(c, i);
    put_chunk(c, i, json_object(), NULL, to->finish_reason);
}

static json_t *choice_json(const chat *c, choice *from, size_t i) {
    size_t n = from->text.len, n_before = 0;
    json_t *calls = find_calls(c, from, &n_before);
    n = calls ? n_before : n;
    json_t *message = json_pack("{s:s, s:s%, s:n}", "role", "assistant", "content",
                                n ? from->text.data : "", n, "refusal");
    if (message && calls) {
        json_object_set(message, "tool_calls", calls);
        if (n == 0)
            json_object_set_new(message, "content", json_null());
    }
    json_decref(calls);
    return json_pack("{s:i, s:o, s:o, s:s}", "index", (int)i, "message", message, "logprobs",
                     from->logprobs ? json_pack("{s:O}", "content", from->logprobs) : json_null(),
                     "finish_reason", from->finish_reason);
}

static void finish_stream(chat *c) {
    if (c->has_failed) {
        bl__sse_data(&c->out, bl__end_error(&c->failed_end));
    } else if (c->include_usage) {
        json_t *chunk = chunk_json(c, json_array());
        bl__put_usage(chunk, &c->usage);
        bl__sse_data(&c->out, chunk);
    }
    bl__sse_done(&c->out);
}

static void finish(void *user, bl__response *response) {
    chat *c = user;
    if (!response) {
        finish_stream(c);
        return;
    }
    if (c->has_failed) {
        bl__respond_end(response, &c->failed_end);
        return;
    }
    json_t *choices = json_array();
    for (size_t i = 0; i < c->n_choices; i++)
        json_array_append_new(choices, choice_json(c, &c->choices[i], i));
    json_t *whole = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", c->id, "object",
                              "chat.completion", "created", (json_int_t)c->created, "model",
                              c->served->id, "system_fingerprint", "bitloom", "choices", choices);
    bl__put_usage(whole, &c->usage);
    bl__respond_json(response, 200, whole);
}

/* ---- requests ---- */

/* What a request asks for, read from its JSON. */
typedef struct asked {
    bl__generation generation;
    json_t *messages, *kwargs;
    bl__tools tools;
    bl__constraint *constraint;
    bool logprobs;
    size_t n_top;
} asked;

static chat *make_chat(const bl__served *served, const asked *what) {
    const bl__generation *g = &what->generation;
    chat *c = bl__calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->served = served;
    c->created = bl__unix_time();
    c->stream = g->stream;
    c->include_usage = g->include_usage;
    c->logprobs = what->logprobs;
    c->tools = what->tools;
    json_incref(c->tools.list);
    c->n_choices = g->n_choices;
    c->out = bl__buffer_make(MAX_TEXT);
    bl__make_id("chatcmpl-", c->id);
    for (size_t i = 0; i < c->n_choices; i++) {
        c->choices[i].text = bl__buffer_make(MAX_TEXT);
        c->choices[i].logprobs = what->logprobs ? json_array() : NULL;
        c->choices[i].trims = !served->has_template;
    }
    return c;
}

static void parse(bl__fields *f, asked *out) {
    static const char *const lengths[] = {"max_tokens", "max_completion_tokens", "n_predict"};
    *out = (asked){0};
    bl__generation_parse(f, &out->generation);
    bl__generation_parse_length(f, lengths, 3, &out->generation);
    out->logprobs = bl__field_bool(f, "logprobs", false);
    out->n_top = (size_t)bl__field_integer(f, "top_logprobs", 0, BL_MAX_TOP_LOGPROBS, 0);
    if (out->n_top > 0 && !out->logprobs)
        bl__field_fail(f, "top_logprobs", "needs logprobs to be true");
    out->kwargs = bl__field_object(f, "chat_template_kwargs");
    out->messages = bl__messages_parse(f, bl__field(f, "messages"), "messages");
    bl__tools_parse(f, &out->tools);
    bl__constraint_parse(f, "response_format", &out->tools, &out->constraint);
}

static void clear_asked(asked *what) {
    bl__generation_clear(&what->generation);
    bl__constraint_release(what->constraint);
    json_decref(what->tools.list);
    json_decref(what->messages);
}

/* Starts the jobs of a request that is read; false with the response filled. */
static bool start(bl_server *server, bl__served *served, const asked *what, bl__request *request,
                  bl__response *response) {
    const bl__generation *g = &what->generation;
    char *text = NULL;
    size_t len = 0, n_ids = 0;
    bl_token *ids = NULL;
    bool ok = bl__messages_render(served, what->messages, &what->tools, what->kwargs, &text, &len,
                                  response) &&
              bl__encode_prompt(served, text, len, true, &ids, &n_ids, "messages", response);
    bl_free(text);
    chat *c = ok ? make_chat(served, what) : NULL;
    if (!c) {
        if (ok)
            bl__respond_json(response, 500, NULL);
        bl__models_release(server->models, served);
        bl_free(ids);
        return false;
    }
    const bl__taker taker = {.piece = take_piece,
                             .end = take_end,
                             .finish = finish,
                             .free = free_chat,
                             .user = c,
                             .out = g->stream ? &c->out : NULL};
    bl__answer *answer =
        bl__answer_create(server->models, served, request, g->n_choices, &taker, response);
    for (size_t i = 0; answer && i < g->n_choices; i++) {
        bl__job_params job = bl__generation_job(g, i);
        job.prompt = ids;
        job.n_prompt = n_ids;
        job.logprobs = what->logprobs;
        job.n_top = what->n_top;
        job.client = bl__client_number(request);
        job.seconds = bl__server_seconds(server, g->seconds);
        job.show_special = what->tools.list != NULL; /* calls begin with one in some models */
        if (!bl__constraint_set(server->models, served, what->constraint, &job, response) ||
            !bl__answer_submit(answer, &job, response)) {
            bl__answer_abandon(answer);
            answer = NULL;
        }
    }
    if (answer)
        bl__answer_respond(answer, response);
    bl_free(ids);
    return answer != NULL;
}

static void handle(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    if (!root)
        return;
    bl__fields fields = bl__fields_of(root, response);
    asked what;
    parse(&fields, &what);
    const char *model = bl__field_string(&fields, "model", NULL);
    bl__served *served = fields.failed ? NULL : bl__models_acquire(server->models, model, response);
    if (served && !served->has_template)
        bl__generation_add_stop(&what.generation, "\nUser:");
    if (served)
        start(server, served, &what, request, response);
    clear_asked(&what);
    json_decref(root);
}

bl_status bl__api_chat_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {
        {"POST", "/v1/chat/completions", handle, 0},
        {"POST", "/chat/completions", handle, BL_ROUTE_HIDDEN},
    };
    return bl__router_add(&server->router, routes, sizeof routes / sizeof *routes, server, err);
}
