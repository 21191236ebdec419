/* Owns what tells about the server: models, health, metrics. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "bitloom/system.h"
#include "server/page.h"
#include "server/server.h"

/* As OpenAI's, with what is known of a loaded one in "meta". */
static json_t *model_json(bl_server *server, size_t i) {
    const bl__served *s = bl__models_get(server->models, i);
    return json_pack("{s:s, s:s, s:I, s:s, s:o*}", "id", s->id, "object", "model", "created",
                     (json_int_t)s->created, "owned_by", "bitloom", "meta",
                     bl__models_facts(server->models, i));
}

static void list_models(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *list = json_array();
    (void)request;
    for (size_t i = 0; i < bl__models_count(server->models); i++)
        json_array_append_new(list, model_json(server, i));
    bl__respond_json(response, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

static void get_model(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    for (size_t i = 0; i < bl__models_count(server->models); i++) {
        const bl__served *s = bl__models_get(server->models, i);
        if (strcmp(s->id, request->captures[0]) == 0) {
            bl__respond_json(response, 200, model_json(server, i));
            return;
        }
    }
    bl__respond_error(response, 404, "invalid_request_error", "model", "model_not_found",
                      "there is no model %.200s here", request->captures[0]);
}

static void get_health(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    (void)request;
    if (atomic_load(&server->stopping)) {
        bl__respond_error(response, 503, "server_error", NULL, "stopping",
                          "the server is stopping");
        return;
    }
    switch (bl__models_state(server->models)) {
    case BL_MODEL_READY:
        bl__respond_json(response, 200, json_pack("{s:s}", "status", "ok"));
        return;
    case BL_MODEL_FAILED:
        bl__respond_error(response, 503, "server_error", NULL, "model_failed",
                          "the model cannot be loaded");
        return;
    default:
        bl__respond_error(response, 503, "server_error", NULL, "loading",
                          "the model is being loaded");
        bl__response_header(response, "Retry-After", "1");
    }
}

/* ---- metrics: the text format of Prometheus, version 0.0.4 ---- */

static void head(bl__buffer *out, const char *name, const char *type, const char *help) {
    bl__buffer_printf(out, "# HELP bitloom_%s %s\n# TYPE bitloom_%s %s\n", name, help, name, type);
}

static void one(bl__buffer *out, const char *name, const char *type, const char *help,
                double value) {
    head(out, name, type, help);
    bl__buffer_printf(out, "bitloom_%s %.15g\n", name, value);
}

static void put_histogram(bl__buffer *out, const char *name, const char *help,
                          const bl__histogram *h) {
    uint64_t n = 0;
    head(out, name, "histogram", help);
    for (size_t i = 0; i <= BL_N_BUCKETS; i++) {
        n += h->counts[i];
        if (i < BL_N_BUCKETS)
            bl__buffer_printf(out, "bitloom_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                              bl__scheduler_buckets[i], n);
        else
            bl__buffer_printf(out, "bitloom_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    }
    bl__buffer_printf(out, "bitloom_%s_sum %.9g\nbitloom_%s_count %" PRIu64 "\n", name, h->sum,
                      name, n);
}

static void add_histogram(bl__histogram *sum, const bl__histogram *h) {
    for (size_t i = 0; i <= BL_N_BUCKETS; i++)
        sum->counts[i] += h->counts[i];
    sum->sum += h->sum;
}

/* The figures of all loaded models together. */
static bl__scheduler_figures add_up(bl_server *server, size_t *n_loaded) {
    bl__scheduler_figures sum = {0}, f;
    *n_loaded = 0;
    for (size_t i = 0; i < bl__models_count(server->models); i++) {
        if (!bl__models_figures(server->models, i, &f))
            continue;
        ++*n_loaded;
        sum.n_jobs += f.n_jobs;
        sum.n_finished += f.n_finished;
        sum.n_cancelled += f.n_cancelled;
        sum.n_timed_out += f.n_timed_out;
        sum.n_failed += f.n_failed;
        sum.n_refused += f.n_refused;
        sum.n_prompt += f.n_prompt;
        sum.n_cached += f.n_cached;
        sum.n_generated += f.n_generated;
        sum.n_steps += f.n_steps;
        sum.n_rows += f.n_rows;
        sum.busy_seconds += f.busy_seconds;
        sum.n_queued += f.n_queued;
        sum.n_active += f.n_active;
        sum.n_held += f.n_held;
        sum.n_room += f.n_room;
        add_histogram(&sum.first_token, &f.first_token);
        add_histogram(&sum.between_tokens, &f.between_tokens);
    }
    return sum;
}

static void put_metrics(bl_server *server, bl__buffer *out) {
    size_t n_loaded;
    bl__scheduler_figures f = add_up(server, &n_loaded);
    head(out, "http_responses_total", "counter", "Answers by the first digit of their status.");
    for (int i = 0; i < 6; i++)
        bl__buffer_printf(out, "bitloom_http_responses_total{class=\"%s\"} %" PRIuFAST64 "\n",
                          (const char *[]){"gone", "1xx", "2xx", "3xx", "4xx", "5xx"}[i],
                          atomic_load(&server->counts.by_status[i]));
    head(out, "jobs_total", "counter", "Texts asked for, by how they ended.");
    const struct {
        const char *how;
        uint64_t n;
    } ends[] = {{"finished", f.n_finished},
                {"cancelled", f.n_cancelled},
                {"timed_out", f.n_timed_out},
                {"failed", f.n_failed},
                {"refused", f.n_refused}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        bl__buffer_printf(out, "bitloom_jobs_total{end=\"%s\"} %" PRIu64 "\n", ends[i].how,
                          ends[i].n);
    one(out, "jobs_active", "gauge", "Texts being written.", (double)f.n_active);
    one(out, "jobs_queued", "gauge", "Texts waiting.", (double)f.n_queued);
    one(out, "prompt_tokens_total", "counter", "Prompt tokens evaluated.", (double)f.n_prompt);
    one(out, "cached_tokens_total", "counter", "Prompt tokens found in the cache.",
        (double)f.n_cached);
    one(out, "generated_tokens_total", "counter", "Tokens written.", (double)f.n_generated);
    one(out, "steps_total", "counter", "Evaluations of a batch.", (double)f.n_steps);
    one(out, "step_tokens_total", "counter", "Tokens in those batches.", (double)f.n_rows);
    one(out, "step_seconds_total", "counter", "Time spent evaluating.", f.busy_seconds);
    one(out, "cache_tokens", "gauge", "Tokens in the cache, in whole pages.", (double)f.n_held);
    one(out, "cache_tokens_max", "gauge", "Tokens that the cache can hold.", (double)f.n_room);
    one(out, "models_loaded", "gauge", "Models in memory.", (double)n_loaded);
    one(out, "uptime_seconds", "gauge", "Time since the start.",
        bl__seconds_now() - server->started);
    put_histogram(out, "first_token_seconds", "From a request to its first token.", &f.first_token);
    put_histogram(out, "between_tokens_seconds", "From a token to the next of its text.",
                  &f.between_tokens);
}

static void get_metrics(void *user, bl__request *request, bl__response *response) {
    bl__buffer out = bl__buffer_make(1 << 20);
    (void)request;
    put_metrics(user, &out);
    if (out.failed)
        bl__respond_json(response, 500, NULL);
    else
        bl__respond_bytes(response, 200, "text/plain; version=0.0.4; charset=utf-8", out.data,
                          out.len);
    bl__buffer_free(&out);
}

static void get_document(void *user, bl__request *request, bl__response *response) {
    (void)user, (void)request;
    for (size_t i = 0; i < bl__page_n_files; i++)
        if (strcmp(bl__page_files[i].name, "openapi.json") == 0)
            bl__respond_fixed(response, "application/json", bl__page_files[i].data,
                              bl__page_files[i].len);
}

bl_status bl__api_meta_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {
        {"GET", "/health", get_health, BL_ROUTE_QUICK | BL_ROUTE_PUBLIC},
        {"GET", "/v1/models", list_models, BL_ROUTE_QUICK},
        {"GET", "/v1/models/{model+}", get_model, BL_ROUTE_QUICK},
        {"GET", "/openapi.json", get_document, BL_ROUTE_QUICK | BL_ROUTE_PUBLIC},
        {"GET", "/models", list_models, BL_ROUTE_QUICK | BL_ROUTE_HIDDEN},
        {"GET", "/metrics", get_metrics, BL_ROUTE_QUICK},
    };
    return bl__router_add(&server->router, routes, sizeof routes / sizeof *routes, server, err);
}
