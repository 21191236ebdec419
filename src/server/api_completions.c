/* Owns /v1/completions: texts or tokens in, their continuations out. */
#include <string.h>

#include "base/alloc.h"
#include "server/answer.h"
#include "server/format.h"
#include "server/generation.h"
#include "server/server.h"
#include "server/sse.h"

enum { MAX_PROMPTS = 64, MAX_CHOICES = 128 };
static const size_t MAX_TEXT = (size_t)1 << 26;

/* One of the n continuations of one of the prompts. */
typedef struct choice {
    bl__buffer text;
    json_t *tokens, *logprobs, *tops, *offsets; /* arrays; NULL when not asked for */
    size_t n_bytes;                             /* of text so far, for the offsets */
    const char *finish_reason;
} choice;

typedef struct completion {
    const bl__served *served;
    char id[BL_ID_SIZE];
    int64_t created;
    bool stream, include_usage, logprobs;
    bl__usage usage;
    bl__job_end failed_end;
    bool has_failed;
    bl__buffer out;
    size_t per_prompt, n_choices;
    choice choices[MAX_CHOICES];
} completion;

static void clear_logprobs(choice *c) {
    json_decref(c->tokens);
    json_decref(c->logprobs);
    json_decref(c->tops);
    json_decref(c->offsets);
    c->tokens = c->logprobs = c->tops = c->offsets = NULL;
}

static void start_logprobs(choice *c) {
    c->tokens = json_array();
    c->logprobs = json_array();
    c->tops = json_array();
    c->offsets = json_array();
}

static void free_completion(void *user) {
    completion *c = user;
    for (size_t i = 0; i < c->n_choices; i++) {
        bl__buffer_free(&c->choices[i].text);
        clear_logprobs(&c->choices[i]);
    }
    bl__buffer_free(&c->out);
    bl__free(c);
}

/* ---- answers ---- */

/* The text of a token as a key; tokens of the same text are one. */
static void set_top(const completion *c, json_t *object, const bl__logprob *entry) {
    json_t *key = bl__token_json(c->served, entry->token);
    if (key)
        json_object_set_new(object, json_string_value(key), json_real((double)entry->logprob));
    json_decref(key);
}

static void add_logprobs(const completion *c, choice *to, const bl__piece *piece) {
    json_t *top = piece->n_logprobs > 1 ? json_object() : NULL;
    for (size_t i = 1; i < piece->n_logprobs; i++)
        set_top(c, top, &piece->logprobs[i]);
    json_array_append_new(to->tokens, bl__token_json(c->served, piece->token));
    json_array_append_new(to->logprobs, piece->n_logprobs
                                            ? json_real((double)piece->logprobs[0].logprob)
                                            : json_null());
    json_array_append_new(to->tops, top ? top : json_null());
    json_array_append_new(to->offsets, json_integer((json_int_t)to->n_bytes));
}

/* What has come since the last call; the next begins with none. */
static json_t *take_logprobs(const completion *c, choice *from) {
    if (!c->logprobs)
        return json_null();
    json_t *all =
        json_pack("{s:O, s:O, s:O, s:O}", "tokens", from->tokens, "token_logprobs", from->logprobs,
                  "top_logprobs", from->tops, "text_offset", from->offsets);
    clear_logprobs(from);
    start_logprobs(from);
    return all;
}

static json_t *wrap(const completion *c, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", c->id, "object", "text_completion",
                     "created", (json_int_t)c->created, "model", c->served->id,
                     "system_fingerprint", "bitloom", "choices", choices);
}

static void put_chunk(completion *c, size_t i, const char *text, size_t len, const char *reason) {
    json_t *one = json_pack("{s:i, s:s%, s:o, s:s?}", "index", (int)i, "text", text, len,
                            "logprobs", take_logprobs(c, &c->choices[i]), "finish_reason", reason);
    json_t *chunk = wrap(c, json_pack("[o]", one));
    if (chunk && c->include_usage)
        json_object_set_new(chunk, "usage", json_null());
    bl__sse_data(&c->out, chunk);
}

static void take_piece(void *user, size_t i, const bl__piece *piece) {
    completion *c = user;
    choice *to = &c->choices[i];
    if (c->logprobs && piece->token >= 0)
        add_logprobs(c, to, piece);
    to->n_bytes += piece->len;
    if (!c->stream)
        bl__buffer_append(&to->text, piece->text, piece->len);
    else
        put_chunk(c, i, piece->text, piece->len, NULL);
}

static void take_end(void *user, size_t i, const bl__job_end *end) {
    completion *c = user;
    if (i % c->per_prompt == 0) { /* what choices share counts once */
        c->usage.n_prompt += end->n_prompt;
        c->usage.n_cached += end->n_cached;
    }
    bl__usage_add(&c->usage, end);
    c->choices[i].finish_reason = bl__finish_reason(end);
    if (end->outcome != BL_JOB_FINISHED && !c->has_failed) {
        c->has_failed = true;
        c->failed_end = *end;
    }
    if (c->stream && end->outcome == BL_JOB_FINISHED)
        put_chunk(c, i, "", 0, c->choices[i].finish_reason);
}

static void finish_stream(completion *c) {
    if (c->has_failed) {
        bl__sse_data(&c->out, bl__end_error(&c->failed_end));
    } else if (c->include_usage) {
        json_t *chunk = wrap(c, json_array());
        bl__put_usage(chunk, &c->usage);
        bl__sse_data(&c->out, chunk);
    }
    bl__sse_done(&c->out);
}

static void finish(void *user, bl__response *response) {
    completion *c = user;
    if (!response) {
        finish_stream(c);
        return;
    }
    if (c->has_failed) {
        bl__respond_end(response, &c->failed_end);
        return;
    }
    json_t *choices = json_array();
    for (size_t i = 0; i < c->n_choices; i++) {
        choice *from = &c->choices[i];
        json_array_append_new(choices, json_pack("{s:i, s:s%, s:o, s:s}", "index", (int)i, "text",
                                                 from->text.len ? from->text.data : "",
                                                 from->text.len, "logprobs", take_logprobs(c, from),
                                                 "finish_reason", from->finish_reason));
    }
    json_t *whole = wrap(c, choices);
    bl__put_usage(whole, &c->usage);
    bl__respond_json(response, 200, whole);
}

/* ---- requests ---- */

typedef struct prompt {
    bl_token *ids; /* bl_free() */
    size_t n;
} prompt;

typedef struct asked {
    bl__generation generation;
    bool echo, logprobs;
    size_t n_top;
    size_t n_prompts;
    prompt prompts[MAX_PROMPTS];
} asked;

static void parse(bl__fields *f, asked *what) {
    static const char *const lengths[] = {"max_tokens", "n_predict"};
    bl__generation_parse(f, &what->generation);
    bl__generation_parse_length(f, lengths, 2, &what->generation);
    const json_t *most = bl__field(f, "max_tokens");
    what->echo = bl__field_bool(f, "echo", false);
    if (most && json_is_integer(most) && json_integer_value(most) == 0 && what->echo)
        what->generation.max_tokens = SIZE_MAX; /* score the prompt and write nothing */
    else if (what->generation.max_tokens == 0)
        what->generation.max_tokens = 16; /* as OpenAI has it */
    json_t *logprobs = bl__field(f, "logprobs");
    if (json_is_boolean(logprobs)) {
        what->logprobs = json_is_true(logprobs);
    } else if (logprobs) {
        what->logprobs = true;
        what->n_top = (size_t)bl__field_integer(f, "logprobs", 0, BL_MAX_TOP_LOGPROBS, 0);
    }
    if (bl__field(f, "suffix") && *bl__field_string(f, "suffix", ""))
        bl__field_fail(f, "suffix", "writing in front of a text is not supported");
}

static bool is_ids(const json_t *value) {
    return json_is_array(value) && json_array_size(value) > 0 &&
           json_is_integer(json_array_get(value, 0));
}

/* Adds a prompt that is text, or ids. */
static bool add_prompt(bl__fields *f, const bl__served *served, const json_t *value, asked *what) {
    prompt *to = &what->prompts[what->n_prompts];
    if (what->n_prompts == MAX_PROMPTS ||
        (what->n_prompts + 1) * what->generation.n_choices > MAX_CHOICES) {
        bl__field_fail(f, "prompt", "more than %d prompts, or %d texts to write", MAX_PROMPTS,
                       MAX_CHOICES);
        return false;
    }
    if (json_is_string(value)) {
        if (!bl__encode_prompt(served, json_string_value(value), json_string_length(value), true,
                               &to->ids, &to->n, "prompt", f->response))
            return false;
        what->n_prompts++;
        return true;
    }
    size_t n = is_ids(value) ? json_array_size(value) : 0;
    size_t n_ctx = bl__scheduler_n_ctx(served->scheduler);
    uint32_t vocab = bl_model_get_info(served->model)->vocab;
    if (n == 0 || n > n_ctx) {
        bl__field_fail(f, "prompt", "expected text, or 1 to %zu tokens, or an array of these",
                       n_ctx);
        return false;
    }
    to->ids = bl__malloc_array(n, sizeof *to->ids);
    if (!to->ids) {
        bl__respond_json(f->response, 500, NULL);
        return false;
    }
    what->n_prompts++;
    for (to->n = 0; to->n < n; to->n++) {
        const json_t *id = json_array_get(value, to->n);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)vocab) {
            bl__field_fail(f, "prompt", "item %zu is no token, expected 0 to %u", to->n, vocab - 1);
            return false;
        }
        to->ids[to->n] = (bl_token)json_integer_value(id);
    }
    return true;
}

static bool parse_prompts(bl__fields *f, const bl__served *served, asked *what) {
    json_t *value = bl__field(f, "prompt");
    if (!json_is_array(value) || is_ids(value))
        return add_prompt(f, served, value, what);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!add_prompt(f, served, json_array_get(value, i), what))
            return false;
    if (what->n_prompts == 0)
        bl__field_fail(f, "prompt", "the array is empty");
    return what->n_prompts > 0;
}

static completion *make_completion(const bl__served *served, const asked *what) {
    completion *c = bl__calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->served = served;
    c->created = bl__unix_time();
    c->stream = what->generation.stream;
    c->include_usage = what->generation.include_usage;
    c->logprobs = what->logprobs;
    c->out = bl__buffer_make(MAX_TEXT);
    c->per_prompt = what->generation.n_choices;
    c->n_choices = what->n_prompts * c->per_prompt;
    bl__make_id("cmpl-", c->id);
    for (size_t i = 0; i < c->n_choices; i++) {
        c->choices[i].text = bl__buffer_make(MAX_TEXT);
        if (c->logprobs)
            start_logprobs(&c->choices[i]);
    }
    return c;
}

/* Takes the model over. */
static void start(bl_server *server, bl__served *served, const asked *what, bl__request *request,
                  bl__response *response) {
    const bl__generation *g = &what->generation;
    completion *c = make_completion(served, what);
    if (!c) {
        bl__models_release(server->models, served);
        bl__respond_json(response, 500, NULL);
        return;
    }
    const bl__taker taker = {.piece = take_piece,
                             .end = take_end,
                             .finish = finish,
                             .free = free_completion,
                             .user = c,
                             .out = g->stream ? &c->out : NULL,
                             .every_token = g->stream};
    size_t n_choices = c->n_choices, per_prompt = c->per_prompt;
    bl__answer *answer =
        bl__answer_create(server->models, served, request, n_choices, &taker, response);
    for (size_t i = 0; answer && i < n_choices; i++) {
        bl__job_params job = bl__generation_job(g, i % per_prompt);
        job.prompt = what->prompts[i / per_prompt].ids;
        job.n_prompt = what->prompts[i / per_prompt].n;
        job.only_prompt = g->max_tokens == SIZE_MAX;
        job.score_prompt = what->echo;
        job.logprobs = what->logprobs;
        job.n_top = what->n_top;
        job.client = bl__client_number(request);
        job.seconds = bl__server_seconds(server, g->seconds);
        if (!bl__answer_submit(answer, &job, response)) {
            bl__answer_abandon(answer);
            answer = NULL;
        }
    }
    if (answer)
        bl__answer_respond(answer, response);
}

static void handle(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    if (!root)
        return;
    bl__fields fields = bl__fields_of(root, response);
    asked *what = bl__calloc(1, sizeof *what);
    if (!what) {
        bl__respond_json(response, 500, NULL);
        json_decref(root);
        return;
    }
    parse(&fields, what);
    const char *model = bl__field_string(&fields, "model", NULL);
    bl__served *served = fields.failed ? NULL : bl__models_acquire(server->models, model, response);
    if (served && parse_prompts(&fields, served, what))
        start(server, served, what, request, response);
    else
        bl__models_release(server->models, served);
    for (size_t i = 0; i < what->n_prompts; i++)
        bl_free(what->prompts[i].ids);
    bl__generation_clear(&what->generation);
    bl__free(what);
    json_decref(root);
}

bl_status bl__api_completions_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {
        {"POST", "/v1/completions", handle, 0},
        {"POST", "/completions", handle, BL_ROUTE_HIDDEN},
    };
    return bl__router_add(&server->router, routes, sizeof routes / sizeof *routes, server, err);
}
