/* A server of the OpenAI API over HTTP, and of a page to chat in. docs/server.md has the API.
 *
 * One request never ends the process: what is wrong with it becomes the API's JSON error. All
 * functions may be called from any thread. */
#ifndef BITLOOM_SERVER_H
#define BITLOOM_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_server bl_server;

typedef enum bl_server_log {
    BL_SERVER_LOG_TEXT, /* a line of text for each request */
    BL_SERVER_LOG_JSON, /* a JSON object instead */
    BL_SERVER_LOG_NONE  /* only what goes wrong */
} bl_server_log;

typedef struct bl_server_params {
    const char *host; /* numeric address to listen on; NULL = 127.0.0.1 */
    uint16_t port;    /* 0 = any that is free, see bl_server_port() */

    const char *model;        /* path of a GGUF file; loaded at once. NULL with model_dir: the first
                                 of that folder, when it is first asked for */
    const char *model_dir;    /* a folder of GGUF files, loaded when they are asked for; or NULL */
    uint64_t max_model_bytes; /* of models and sessions together; those used longest ago go first.
                                 0 = no limit; one model is always held */

    uint32_t n_parallel; /* answers written at the same time; 0 = 8 */
    uint32_t max_queued; /* requests that wait for that, beyond which 429 is the answer; 0 = 64 */
    bl_session_params session; /* n_ctx is of each request; n_sequences is not used */
    bl_sparsity sparsity;

    const char *const *api_keys; /* [n_api_keys]: one of them is asked for when there are any */
    size_t n_api_keys;
    const char *tls_certificate, *tls_key; /* PEM text, both or neither */
    const char *cors_origin; /* a page of this origin may call the API; "*" = any; NULL = none */
    uint32_t requests_per_minute; /* of one address; 0 = no limit */
    size_t max_body;              /* bytes; 0 = 8 MiB */
    uint32_t max_connections;     /* 0 = 2048 */
    double patience;              /* seconds for a request to arrive whole and for a client to take
                                     what is sent; 0 = 60 */
    double max_seconds;           /* for an answer, waiting included; 0 = 3600 */

    /* Where the page keeps conversations: an SQLite file, made when it is not there. NULL:
     * bitloom/conversations.db in the user's data folder ($XDG_DATA_HOME, ~/.local/share); when
     * that cannot be used, the log says why and nothing is kept. */
    const char *store;
    bool no_store; /* keep none */

    const char *run_as; /* once it listens, become this user (who starts it is root); or NULL */
    /* Give up what a server never needs: from bl_server_start() on this thread and those that it
     * starts reach only the models and the store (Landlock), and the process starts no program and
     * opens no socket (seccomp); each where the kernel has it. */
    bool sandbox;

    bl_server_log log_format;
    /* Gets a line without newline, any thread, one at a time; NULL = no log. */
    void (*log)(void *user, const char *line);
    void *user;
} bl_server_params;

/* Begins to listen, and to load the model; until that is done requests get status 503. Strings are
 * copied. Errors: BL_ERR_UNSUPPORTED (built without libmicrohttpd), BL_ERR_ARGUMENT, BL_ERR_IO,
 * BL_ERR_NOT_FOUND (no model), BL_ERR_FORMAT (the store is another program's), BL_ERR_MEMORY. */
bl_status bl_server_start(const bl_server_params *params, bl_server **out, bl_error *err);
uint16_t bl_server_port(const bl_server *server);
/* Waits until the model is loaded. Errors: those of loading; the server goes on with status 503. */
bl_status bl_server_wait_loaded(bl_server *server, bl_error *err);
/* Takes no new requests, waits until those under way are done, but no longer than `seconds`, then
 * cuts what is left and frees. NULL is accepted. */
void bl_server_stop(bl_server *server, double seconds);

#ifdef __cplusplus
}
#endif
#endif
