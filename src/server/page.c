/* Owns how the page is served: types, caching, and what it may do. Must not know what is on it. */
#include "server/page.h"

#include <string.h>

static const struct {
    const char *ending, *type;
} types[] = {
    {".html", "text/html; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".svg", "image/svg+xml"},
};

/* The page loads nothing from elsewhere, runs no script that stands in a document, talks to this
 * server only, and cannot be put into a frame. */
static const struct {
    const char *name, *value;
} headers[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"Referrer-Policy", "no-referrer"},
    {"X-Frame-Options", "DENY"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
    {"Cache-Control", "no-cache"}, /* ask each time, and be told 304 */
};

static const char *type_of(const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t n = strlen(types[i].ending);
        if (len > n && strcmp(name + len - n, types[i].ending) == 0)
            return types[i].type;
    }
    return "application/octet-stream";
}

static void serve(const char *name, const bl__request *request, bl__response *response) {
    const bl__page_file *file = NULL;
    for (size_t i = 0; i < bl__page_n_files && !file; i++)
        if (strcmp(bl__page_files[i].name, name) == 0)
            file = &bl__page_files[i];
    if (!file) {
        bl__respond_error(response, 404, "invalid_request_error", NULL, "not_found",
                          "the page has no file %.100s", name);
        return;
    }
    const char *known = bl__request_header(request, "If-None-Match");
    if (known && strstr(known, file->tag)) {
        bl__respond_fixed(response, type_of(name), "", 0);
        response->status = 304;
    } else {
        bl__respond_fixed(response, type_of(name), file->data, file->len);
    }
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        bl__response_header(response, headers[i].name, headers[i].value);
    bl__response_header(response, "ETag", file->tag);
}

static void get_index(void *user, bl__request *request, bl__response *response) {
    (void)user;
    serve("index.html", request, response);
}

static void get_file(void *user, bl__request *request, bl__response *response) {
    (void)user;
    serve(request->captures[0], request, response);
}

bl_status bl__page_add(bl__router *router, bl_error *err) {
    static const bl__route routes[] = {
        {"GET", "/", get_index, BL_ROUTE_QUICK | BL_ROUTE_PUBLIC | BL_ROUTE_HIDDEN},
        {"GET", "/page/{name}", get_file, BL_ROUTE_QUICK | BL_ROUTE_PUBLIC | BL_ROUTE_HIDDEN},
    };
    return bl__router_add(router, routes, sizeof routes / sizeof *routes, NULL, err);
}
