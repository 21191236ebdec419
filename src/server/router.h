/* Requests and responses as handlers see them, and the table of routes. Knows nothing of sockets:
 * src/server/http.c feeds it, and tests feed it by hand.
 *
 * How to add routes: write handlers of type bl__handler, list them in an array of bl__route, and
 * give it to bl__router_add() before the server starts (see bl_server_create() in server.c). Each
 * route must also be in docs/openapi.json, which unit_openapi compares with the table, unless it
 * is flagged BL_ROUTE_HIDDEN.
 *
 * A handler runs on one of a few worker threads. It may compute, take locks and use the disk, but
 * must not wait for a client or for a model: an answer that needs either is given piece by piece
 * (bl__respond_stream) or later (bl__respond_later). Handlers flagged BL_ROUTE_QUICK run on the
 * thread that serves all sockets and must take microseconds. */
#ifndef BL_SERVER_ROUTER_H
#define BL_SERVER_ROUTER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "bitloom/status.h"

enum {
    BL_MAX_CAPTURES = 3,
    BL_MAX_PATH = 1024,
    BL_MAX_ROUTES = 96,
    BL_MAX_RESPONSE_HEADERS = 16,
    BL_MAX_HEADER_VALUE = 512,
    BL_MAX_REQUEST_JSON_DEPTH = 64,
    BL_MAX_REQUEST_JSON_VALUES = 400000,
    BL_MAX_RESPONSE = 1 << 28,
};

typedef struct bl__pair {
    const char *name, *value; /* NUL-terminated; the value is "" when there is none */
} bl__pair;

typedef struct bl__request bl__request;
typedef struct bl__response bl__response;

struct bl__request {
    const char *method; /* "GET", "POST", ... */
    const char *path;   /* percent-decoded, without the query */
    const bl__pair *headers, *query;
    size_t n_headers, n_query;
    const char *body; /* body[body_len], followed by a NUL; "" when there is none */
    size_t body_len;
    const char *client; /* the address it came from, as text */
    /* What each {name} of the route's pattern matched, in order; "" beyond them. */
    const char *captures[BL_MAX_CAPTURES];
    char capture_text[BL_MAX_PATH];
    /* Set by whoever dispatches: see bl__request_wake(). */
    void (*wake)(bl__request *request);
};

/* The value of a header (case does not matter) or of a query argument; NULL when absent. */
const char *bl__request_header(const bl__request *request, const char *name);
const char *bl__request_query(const bl__request *request, const char *name);

/* Parses the body, which must be a JSON object. On failure fills the response with the error and
 * returns NULL. Release with json_decref(). */
json_t *bl__request_json(const bl__request *request, bl__response *response);

/* Where the bytes of a streamed response come from. All three may be called from threads other
 * than the handler's, one at a time, except for cancel, which may come at any time between. */
typedef struct bl__source {
    /* Writes at most max bytes to out and returns how many; 0: none now, bl__request_wake() will
     * tell when; BL_SOURCE_END; BL_SOURCE_BROKEN: cut the connection. Must not block. */
    long (*pull)(void *user, char *out, size_t max);
    /* The client went away, or the server stops: finish early. May be NULL. */
    void (*cancel)(void *user);
    /* Last call: the exchange is over, and the request must not be woken any more. */
    void (*close)(void *user);
    void *user;
} bl__source;
enum { BL_SOURCE_END = -1, BL_SOURCE_BROKEN = -2 };

typedef void (*bl__handler)(void *user, bl__request *request, bl__response *response);

/* What goes into the log of accesses beside the usual. */
typedef struct bl__usage {
    uint64_t n_prompt, n_cached, n_generated;
    double prompt_seconds, generate_seconds;
    double joules; /* 0: not measured */
} bl__usage;

struct bl__response {
    int status;               /* of HTTP; 200 unless set */
    const char *content_type; /* static text */
    bl__buffer body;
    const void *fixed; /* with fixed: these bytes, which outlive the server, instead of body */
    size_t fixed_len;
    bl__source source; /* with pull: a streamed response; with close alone: one given later */
    bl__handler later; /* what to call next, after bl__request_wake(); NULL: the answer is ready */
    void *later_user;
    size_t n_headers;
    struct {
        const char *name; /* static text */
        char value[BL_MAX_HEADER_VALUE];
    } headers[BL_MAX_RESPONSE_HEADERS];
    bl__usage usage;
};

void bl__response_init(bl__response *response);
/* Frees what it holds and closes its source. */
void bl__response_clear(bl__response *response);

/* Values with control characters, or too long, are left out. */
void bl__response_header(bl__response *response, const char *name, const char *value);
/* A JSON body; takes over the reference. NULL, and what cannot be written, give status 500. */
void bl__respond_json(bl__response *response, int status, json_t *value);
/* Copies. content_type is static text. */
void bl__respond_bytes(bl__response *response, int status, const char *content_type,
                       const void *data, size_t len);
/* Borrows data that outlives the server, such as an embedded page. */
void bl__respond_fixed(bl__response *response, const char *content_type, const void *data,
                       size_t len);
/* The API's JSON error. type and code as OpenAI's: "invalid_request_error", ... ; param names the
 * field, or is NULL; code may be NULL. */
void bl__respond_error(bl__response *response, int status, const char *type, const char *param,
                       const char *code, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
/* The error that a library call gave, with the status that fits its code. */
void bl__respond_failure(bl__response *response, const bl_error *err, const char *param);
/* The same object as JSON, for errors inside a stream; NULL when memory is short. */
json_t *bl__error_json(const char *type, const char *param, const char *code, const char *message);
/* Text for people that goes into JSON: what is not UTF-8 becomes '?'. In place. */
void bl__make_utf8(char *text);

/* A body that comes piece by piece; the response takes the source over. */
void bl__respond_stream(bl__response *response, const char *content_type, bl__source source);
/* Calls `later` on a worker thread once bl__request_wake() has been called, now or before. The
 * source's close is called at the very end, its cancel when the client goes away; no pull. */
void bl__respond_later(bl__response *response, bl__handler later, bl__source source);
/* From any thread, between the handler's start and the source's close: bytes can be pulled, or
 * `later` can be called. */
void bl__request_wake(bl__request *request);

enum {
    BL_ROUTE_QUICK = 1,  /* handled on the thread of the sockets */
    BL_ROUTE_PUBLIC = 2, /* needs no API key */
    BL_ROUTE_HIDDEN = 4, /* not part of the API's document */
};

/* pattern: segments, of which "{name}" matches any one that is not empty, and "{name+}", last, all
 * that is left of the path. The first route that matches wins. */
typedef struct bl__route {
    const char *method, *pattern;
    bl__handler handler;
    unsigned flags;
} bl__route;

typedef struct bl__router {
    bl__route routes[BL_MAX_ROUTES];
    void *users[BL_MAX_ROUTES];
    size_t n;
} bl__router;

/* Adds routes[n], whose handlers get `user`. Error: BL_ERR_LIMIT. */
bl_status bl__router_add(bl__router *router, const bl__route *routes, size_t n, void *user,
                         bl_error *err);

/* What a path and a method meet. */
typedef struct bl__match {
    const bl__route *route; /* NULL: no such path (n_allowed 0), or not with this method */
    void *user;
    size_t n_allowed;
    char allowed[96]; /* the methods that the path takes: "GET, POST" */
} bl__match;

/* Fills the captures of the request. HEAD is taken for GET. */
bl__match bl__router_find(const bl__router *router, bl__request *request);
/* Finds the route and calls its handler here; 404 and 405 when there is none. */
void bl__router_dispatch(const bl__router *router, bl__request *request, bl__response *response);
/* Fills the response for a match without a route. */
void bl__respond_no_route(bl__response *response, const bl__request *request,
                          const bl__match *match);

#endif
