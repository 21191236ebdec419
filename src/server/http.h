/* The HTTP side of the server: sockets, TLS, threads, slow clients. Private to server/. */
#ifndef BL_SERVER_HTTP_H
#define BL_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/router.h"

typedef struct bl__http bl__http;

/* One finished exchange, for the log. */
typedef struct bl__access {
    const char *client, *method, *path; /* as they came: bytes of a stranger */
    int status;                         /* 0: the client was gone before an answer */
    uint64_t bytes_in, bytes_out;       /* of the bodies */
    double seconds;
    bl__usage usage;
} bl__access;

typedef struct bl__http_params {
    const char *host;                      /* numeric address to bind to */
    uint16_t port;                         /* 0: any that is free */
    const char *tls_certificate, *tls_key; /* PEM, NUL-terminated; both or neither */
    size_t max_body, max_headers;          /* bytes */
    uint32_t max_connections, n_workers;
    double patience; /* seconds for a request to arrive, and without progress in sending */
    const bl__router *router;
    /* Asked when the headers are there: fills the response and returns false to refuse. Quick. */
    bool (*admit)(void *user, const bl__request *request, const bl__match *match,
                  bl__response *response);
    /* Adds to every response what all should have. */
    void (*decorate)(void *user, const bl__request *request, bl__response *response);
    void (*log)(void *user, const bl__access *access);
    void *user;
} bl__http_params;

/* Begins to listen. params is copied, what it points to borrowed. Errors: BL_ERR_UNSUPPORTED (built
 * without libmicrohttpd, or without TLS there), BL_ERR_IO (the address), BL_ERR_ARGUMENT,
 * BL_ERR_MEMORY. */
bl_status bl__http_start(const bl__http_params *params, bl__http **out, bl_error *err);
uint16_t bl__http_port(const bl__http *http);
/* Takes no more connections; requests on those that are open are refused by `admit`. */
void bl__http_quiesce(bl__http *http);
size_t bl__http_n_open(bl__http *http); /* requests whose answers are not finished */
/* Tells every source to finish early. */
void bl__http_cancel_all(bl__http *http);
/* Waits for open requests, which cancel_all must have ended, and frees. NULL is accepted. */
void bl__http_stop(bl__http *http);

#endif
