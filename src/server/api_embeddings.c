/* Owns /v1/embeddings: texts in, the mean (or the last) of the states before the output head out,
 * of length 1. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "server/answer.h"
#include "server/format.h"
#include "server/generation.h"
#include "server/server.h"

enum { MAX_INPUTS = 256 };

typedef struct embeddings {
    const bl__served *served;
    size_t dim, n_inputs;
    bool base64;
    bl__usage usage;
    bl__job_end failed_end;
    bool has_failed;
    json_t *items[MAX_INPUTS];
} embeddings;

static void free_embeddings(void *user) {
    embeddings *e = user;
    for (size_t i = 0; i < e->n_inputs; i++)
        json_decref(e->items[i]);
    bl__free(e);
}

/* float[dim], little-endian, as text (RFC 4648, section 4). */
static json_t *to_base64(const float *x, size_t dim) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *bytes = (const unsigned char *)x;
    size_t n = dim * sizeof *x;
    bl__buffer out = bl__buffer_make(1 << 24);
    for (size_t i = 0; i < n; i += 3) {
        unsigned b = (unsigned)bytes[i] << 16 | (i + 1 < n ? (unsigned)bytes[i + 1] << 8 : 0) |
                     (i + 2 < n ? bytes[i + 2] : 0);
        bl__buffer_putc(&out, digits[b >> 18]);
        bl__buffer_putc(&out, digits[b >> 12 & 63]);
        bl__buffer_putc(&out, i + 1 < n ? digits[b >> 6 & 63] : '=');
        bl__buffer_putc(&out, i + 2 < n ? digits[b & 63] : '=');
    }
    json_t *text = out.failed ? NULL : json_stringn(out.len ? out.data : "", out.len);
    bl__buffer_free(&out);
    return text;
}

static json_t *to_array(const float *x, size_t dim) {
    json_t *list = json_array();
    for (size_t i = 0; i < dim; i++)
        json_array_append_new(list, json_real((double)x[i]));
    return list;
}

static void take_end(void *user, size_t i, const bl__job_end *end) {
    embeddings *e = user;
    e->usage.n_prompt += end->n_prompt;
    if (end->outcome != BL_JOB_FINISHED || !end->embedding) {
        e->has_failed = true;
        e->failed_end = *end;
        return;
    }
    double sum = 0;
    for (size_t d = 0; d < e->dim; d++)
        sum += (double)end->embedding[d] * (double)end->embedding[d];
    float *x = bl__malloc_array(e->dim, sizeof *x);
    double scale = sum > 0 && isfinite(sum) ? 1 / sqrt(sum) : 0;
    for (size_t d = 0; x && d < e->dim; d++)
        x[d] = (float)((double)end->embedding[d] * scale);
    if (x)
        e->items[i] =
            json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", (int)i, "embedding",
                      e->base64 ? to_base64(x, e->dim) : to_array(x, e->dim));
    bl__free(x);
}

static void finish(void *user, bl__response *response) {
    embeddings *e = user;
    if (e->has_failed) {
        if (!bl__respond_end(response, &e->failed_end))
            bl__respond_json(response, 500, NULL);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < e->n_inputs; i++)
        json_array_append(data, e->items[i]);
    bl__respond_json(response, 200,
                     json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data,
                               "model", e->served->id, "usage", "prompt_tokens",
                               (json_int_t)e->usage.n_prompt, "total_tokens",
                               (json_int_t)e->usage.n_prompt));
}

/* ---- requests ---- */

/* The ids of an input, which is text or ids; *ids: bl_free(). */
static bool read_input(bl__fields *f, const bl__served *served, const json_t *input, size_t i,
                       bl_token **ids, size_t *n) {
    if (json_is_string(input))
        return bl__encode_prompt(served, json_string_value(input), json_string_length(input), false,
                                 ids, n, "input", f->response);
    uint32_t vocab = bl_model_get_info(served->model)->vocab;
    size_t len = json_array_size(input), n_ctx = bl__scheduler_n_ctx(served->scheduler);
    if (len == 0 || len > n_ctx) {
        bl__field_fail(f, "input", "item %zu: expected text, or 1 to %zu tokens", i, n_ctx);
        return false;
    }
    bl_token *list = bl__malloc_array(len, sizeof *list);
    if (!list) {
        bl__respond_json(f->response, 500, NULL);
        return false;
    }
    for (size_t t = 0; t < len; t++) {
        const json_t *id = json_array_get(input, t);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)vocab) {
            bl__field_fail(f, "input", "item %zu: token %zu is none", i, t);
            bl__free(list);
            return false;
        }
        list[t] = (bl_token)json_integer_value(id);
    }
    *ids = list;
    *n = len;
    return true;
}

/* Submits one job for each input; false with the response filled. */
static bool submit(bl_server *server, bl__fields *f, bl__served *served, const json_t *inputs,
                   bool last, bl__request *request, bl__answer *answer) {
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        bl_token *ids = NULL;
        size_t n = 0;
        if (!read_input(f, served, json_array_get(inputs, i), i, &ids, &n))
            return false;
        bl__job_params job = {.prompt = ids,
                              .n_prompt = n,
                              .sampling = bl_sampler_default_params(),
                              .pool = last ? BL_POOL_LAST : BL_POOL_MEAN,
                              .client = bl__client_number(request),
                              .seconds = bl__server_seconds(server, 0)};
        bool ok = bl__answer_submit(answer, &job, f->response);
        bl_free(ids);
        if (!ok)
            return false;
    }
    return true;
}

/* A list of inputs, as a new reference; NULL with the error set. */
static json_t *list_inputs(bl__fields *f) {
    json_t *input = bl__field(f, "input");
    bool one = json_is_string(input) ||
               (json_is_array(input) && json_is_integer(json_array_get(input, 0)));
    size_t n = one ? 1 : json_array_size(input);
    if (!f->failed && (n == 0 || n > MAX_INPUTS))
        bl__field_fail(f, "input", "expected text, or an array of 1 to %d", MAX_INPUTS);
    if (f->failed)
        return NULL;
    return one ? json_pack("[O]", input) : json_incref(input);
}

static void handle(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    if (!root)
        return;
    bl__fields f = bl__fields_of(root, response);
    const char *format = bl__field_string(&f, "encoding_format", "float");
    const char *pooling = bl__field_string(&f, "pooling", "mean");
    const char *model = bl__field_string(&f, "model", NULL);
    if (strcmp(format, "float") != 0 && strcmp(format, "base64") != 0)
        bl__field_fail(&f, "encoding_format", "expected float or base64");
    if (strcmp(pooling, "mean") != 0 && strcmp(pooling, "last") != 0)
        bl__field_fail(&f, "pooling", "expected mean or last");
    json_t *inputs = list_inputs(&f);
    bl__served *served = inputs ? bl__models_acquire(server->models, model, response) : NULL;
    if (served) {
        uint32_t dim = bl_model_get_info(served->model)->dim;
        bl__field_integer(&f, "dimensions", dim, dim, dim);
    }
    embeddings *e = served && !f.failed ? bl__calloc(1, sizeof *e) : NULL;
    if (e) {
        e->served = served;
        e->dim = bl_model_get_info(served->model)->dim;
        e->n_inputs = json_array_size(inputs);
        e->base64 = strcmp(format, "base64") == 0;
        const bl__taker taker = {
            .end = take_end, .finish = finish, .free = free_embeddings, .user = e};
        bl__answer *answer =
            bl__answer_create(server->models, served, request, e->n_inputs, &taker, response);
        if (answer &&
            submit(server, &f, served, inputs, strcmp(pooling, "last") == 0, request, answer))
            bl__answer_respond(answer, response);
        else if (answer)
            bl__answer_abandon(answer);
    } else {
        if (served && !f.failed)
            bl__respond_json(response, 500, NULL);
        bl__models_release(server->models, served);
    }
    json_decref(inputs);
    json_decref(root);
}

bl_status bl__api_embeddings_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {{"POST", "/v1/embeddings", handle, 0}};
    return bl__router_add(&server->router, routes, 1, server, err);
}
