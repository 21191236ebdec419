/* Owns the table of routes and the making of responses. Must not know what the routes do, nor how
 * bytes travel. */
#include "server/router.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/error.h"
#include "formats/json.h"
#include "tokenizer/utf8.h"

static const char JSON_TYPE[] = "application/json";

static const char *find_pair(const bl__pair *pairs, size_t n, const char *name, bool any_case) {
    for (size_t i = 0; i < n; i++)
        if ((any_case ? strcasecmp : strcmp)(pairs[i].name, name) == 0)
            return pairs[i].value;
    return NULL;
}

const char *bl__request_header(const bl__request *request, const char *name) {
    return find_pair(request->headers, request->n_headers, name, true);
}

const char *bl__request_query(const bl__request *request, const char *name) {
    return find_pair(request->query, request->n_query, name, false);
}

json_t *bl__request_json(const bl__request *request, bl__response *response) {
    const bl__json_limits limits = {.depth = BL_MAX_REQUEST_JSON_DEPTH,
                                    .values = BL_MAX_REQUEST_JSON_VALUES};
    bl_error err = {0};
    json_t *root = NULL;
    if (bl__json_parse(request->body, request->body_len, limits, &root, &err) != BL_OK) {
        bl__make_utf8(err.message);
        bl__respond_error(response, err.code == BL_ERR_MEMORY ? 500 : 400,
                          err.code == BL_ERR_MEMORY ? "server_error" : "invalid_request_error",
                          NULL, "invalid_json", "the body is not JSON that can be read: %s",
                          err.message);
        return NULL;
    }
    if (!json_is_object(root)) {
        bl__respond_error(response, 400, "invalid_request_error", NULL, NULL,
                          "the body is %s, expected an object", bl__json_type_name(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

void bl__response_init(bl__response *response) {
    *response = (bl__response){
        .status = 200, .content_type = JSON_TYPE, .body = bl__buffer_make(BL_MAX_RESPONSE)};
}

void bl__response_clear(bl__response *response) {
    if (response->source.close)
        response->source.close(response->source.user);
    bl__buffer_free(&response->body);
    bl__response_init(response);
}

void bl__response_header(bl__response *response, const char *name, const char *value) {
    size_t len = strlen(value);
    if (response->n_headers == BL_MAX_RESPONSE_HEADERS || len >= BL_MAX_HEADER_VALUE)
        return;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return;
    response->headers[response->n_headers].name = name;
    memcpy(response->headers[response->n_headers].value, value, len + 1);
    response->n_headers++;
}

/* The body so far is replaced. */
static void start_body(bl__response *response, int status, const char *content_type) {
    response->status = status;
    response->content_type = content_type;
    response->body.len = 0;
    response->fixed = NULL;
    response->later = NULL;
}

static int append_text(const char *text, size_t len, void *user) {
    return bl__buffer_append(user, text, len) ? 0 : -1;
}

void bl__respond_json(bl__response *response, int status, json_t *value) {
    start_body(response, status, JSON_TYPE);
    if (!value ||
        json_dump_callback(value, append_text, &response->body, JSON_COMPACT | JSON_ENCODE_ANY)) {
        static const char failure[] = "{\"error\":{\"message\":\"out of memory\",\"type\":"
                                      "\"server_error\",\"param\":null,\"code\":null}}";
        start_body(response, 500, JSON_TYPE);
        response->fixed = failure;
        response->fixed_len = sizeof failure - 1;
    }
    json_decref(value);
}

void bl__respond_bytes(bl__response *response, int status, const char *content_type,
                       const void *data, size_t len) {
    start_body(response, status, content_type);
    if (!bl__buffer_append(&response->body, data, len))
        bl__respond_json(response, 500, NULL);
}

void bl__respond_fixed(bl__response *response, const char *content_type, const void *data,
                       size_t len) {
    start_body(response, 200, content_type);
    response->fixed = data;
    response->fixed_len = len;
}

json_t *bl__error_json(const char *type, const char *param, const char *code, const char *message) {
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", message, "type", type,
                     "param", param, "code", code);
}

void bl__make_utf8(char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        size_t n = bl__utf8_len(text + i, len - i);
        if (n == 0)
            text[i++] = '?';
        else
            i += n;
    }
}

void bl__respond_error(bl__response *response, int status, const char *type, const char *param,
                       const char *code, const char *format, ...) {
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    bl__make_utf8(message);
    bl__respond_json(response, status, bl__error_json(type, param, code, message));
}

void bl__respond_failure(bl__response *response, const bl_error *err, const char *param) {
    switch (err->code) {
    case BL_ERR_CONTEXT_FULL:
        bl__respond_error(response, 400, "invalid_request_error", param, "context_length_exceeded",
                          "%s", err->message);
        return;
    case BL_ERR_ARGUMENT:
    case BL_ERR_FORMAT:
    case BL_ERR_LIMIT:
        bl__respond_error(response, 400, "invalid_request_error", param, NULL, "%s", err->message);
        return;
    case BL_ERR_UNSUPPORTED:
        bl__respond_error(response, 400, "invalid_request_error", param, "unsupported", "%s",
                          err->message);
        return;
    case BL_ERR_NOT_FOUND:
        bl__respond_error(response, 404, "invalid_request_error", param, "not_found", "%s",
                          err->message);
        return;
    case BL_ERR_CANCELLED:
        bl__respond_error(response, 503, "server_error", param, "unavailable", "%s", err->message);
        return;
    default:
        bl__respond_error(response, 500, "server_error", param, NULL, "%s", err->message);
    }
}

void bl__respond_stream(bl__response *response, const char *content_type, bl__source source) {
    start_body(response, 200, content_type);
    response->source = source;
}

void bl__respond_later(bl__response *response, bl__handler later, bl__source source) {
    response->source = source;
    response->later = later;
    response->later_user = source.user;
}

void bl__request_wake(bl__request *request) {
    request->wake(request);
}

bl_status bl__router_add(bl__router *router, const bl__route *routes, size_t n, void *user,
                         bl_error *err) {
    if (n > BL_MAX_ROUTES - router->n)
        return bl__fail(err, BL_ERR_LIMIT, "more than %d routes", BL_MAX_ROUTES);
    for (size_t i = 0; i < n; i++) {
        router->routes[router->n] = routes[i];
        router->users[router->n++] = user;
    }
    return BL_OK;
}

/* Whether the path fits the pattern; what it captures goes to the request. */
static bool matches(const char *pattern, bl__request *request) {
    const char *path = request->path;
    char *text = request->capture_text;
    size_t room = sizeof request->capture_text, n_captured = 0;
    while (*pattern && *path) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        const char *close = strchr(pattern, '}');
        bool rest = close[-1] == '+';
        size_t len = rest ? strlen(path) : strcspn(path, "/");
        if (len == 0 || len >= room || n_captured == BL_MAX_CAPTURES)
            return false;
        memcpy(text, path, len);
        text[len] = '\0';
        request->captures[n_captured++] = text;
        text += len + 1;
        room -= len + 1;
        path += len;
        pattern = close + 1;
    }
    return *pattern == *path;
}

static void add_allowed(bl__match *match, const char *method) {
    size_t len = strlen(match->allowed);
    snprintf(match->allowed + len, sizeof match->allowed - len, "%s%s", len ? ", " : "", method);
    match->n_allowed++;
}

bl__match bl__router_find(const bl__router *router, bl__request *request) {
    bl__match match = {0};
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    for (size_t i = 0; i < router->n && !match.route; i++) {
        for (size_t c = 0; c < BL_MAX_CAPTURES; c++)
            request->captures[c] = "";
        if (!matches(router->routes[i].pattern, request))
            continue;
        if (strcmp(router->routes[i].method, method) == 0) {
            match.route = &router->routes[i];
            match.user = router->users[i];
        } else {
            add_allowed(&match, router->routes[i].method);
        }
    }
    return match;
}

void bl__respond_no_route(bl__response *response, const bl__request *request,
                          const bl__match *match) {
    if (match->n_allowed == 0) {
        bl__respond_error(response, 404, "invalid_request_error", NULL, "not_found",
                          "there is no %.200s here; /openapi.json lists what there is",
                          request->path);
        return;
    }
    bl__respond_error(response, 405, "invalid_request_error", NULL, "method_not_allowed",
                      "%.200s takes %s, not %.32s", request->path, match->allowed, request->method);
    bl__response_header(response, "Allow", match->allowed);
}

void bl__router_dispatch(const bl__router *router, bl__request *request, bl__response *response) {
    bl__match match = bl__router_find(router, request);
    if (match.route)
        match.route->handler(match.user, request, response);
    else
        bl__respond_no_route(response, request, &match);
}
