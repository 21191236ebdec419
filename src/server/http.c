/* Owns sockets: libmicrohttpd's daemon, one exchange per request, the hand-over to workers and
 * back, and the cutting of clients that are slow or gone. Must not know what is served.
 *
 * One thread, libmicrohttpd's, serves all sockets. A request that has arrived is suspended there
 * and given to a worker; when its answer is ready, or bytes of it are, it is resumed. While it is
 * suspended libmicrohttpd does not look at its socket, so a thread here does. */
#include "server/http.h"

#ifdef BITLOOM_HAVE_MICROHTTPD

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "server/workers.h"

enum {
    MAX_PAIRS = 64,
    WATCH_MS = 100,
    STREAM_BLOCK = 4096,
    DISCARD_FACTOR = 4,
    LAST_WORDS_MS = 1000
};

/* A socket, kept by when it became idle: the head of the list has been so for longest. */
typedef struct connection {
    int fd;
    bool arriving; /* a request is awaited or comes in */
    bool cut;
    double since; /* of arriving */
    struct connection *prev, *next;
} connection;

typedef enum state {
    ARRIVING,  /* the body comes in */
    WORKING,   /* suspended, with a worker or in their queue */
    WAITING,   /* suspended, until it is woken: the handler answers later */
    READY,     /* resumed, the answer is there */
    STREAMING, /* libmicrohttpd sends what the source gives */
} state;

typedef struct exchange {
    bl__request request; /* first: handlers hand back its address */
    bl__response response;
    bl__task task;
    bl__http *http;
    struct MHD_Connection *mhd;
    connection *connection;
    bl__match match;
    bl__handler next; /* what the worker calls */
    void *next_user;
    bl__buffer body;
    uint64_t discarded; /* bytes of a body that is not wanted */
    bool refused, logged;
    char method[16], path[BL_MAX_PATH], client[INET6_ADDRSTRLEN];
    bl__pair headers[MAX_PAIRS], query[MAX_PAIRS];
    double start;
    uint64_t bytes_out;
    pthread_mutex_t mutex; /* of what follows */
    state state;
    bool woken, suspended;
    struct exchange *prev_open, *next_open; /* under the server's mutex */
    bool is_listed, cancelled;
} exchange;

struct bl__http {
    bl__http_params params;
    struct MHD_Daemon *daemon;
    int quiet_fd; /* the listening socket after quiescing; -1 before */
    bl__workers *workers;
    pthread_t watcher;
    bool has_watcher;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t stop;
    bool stopping;
    atomic_bool cutting; /* no exchange may be suspended any more */
    exchange *open;      /* those with a worker, waiting or streaming */
    size_t n_open, n_connections;
    connection idle;       /* a ring: all connections, longest `since` first */
    struct pollfd *polled; /* [max_connections]: scratch of the watcher */
};

/* ---- connections ---- */

static void unlink_connection(connection *c) {
    c->prev->next = c->next;
    c->next->prev = c->prev;
}

static void link_last(bl__http *http, connection *c) {
    c->prev = http->idle.prev;
    c->next = &http->idle;
    c->prev->next = c->next->prev = c;
    c->since = bl__seconds_now();
}

static void on_connection(void *user, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    bl__http *http = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        connection *c = bl__calloc(1, sizeof *c);
        *context = c;
        if (!c)
            return; /* its first request is refused */
        c->fd = info ? info->connect_fd : -1;
        c->arriving = true;
        pthread_mutex_lock(&http->mutex);
        link_last(http, c);
        http->n_connections++;
        pthread_mutex_unlock(&http->mutex);
        return;
    }
    connection *c = *context;
    if (!c)
        return;
    pthread_mutex_lock(&http->mutex);
    unlink_connection(c);
    http->n_connections--;
    pthread_mutex_unlock(&http->mutex);
    bl__free(c);
    *context = NULL;
}

static void set_arriving(bl__http *http, connection *c, bool arriving) {
    pthread_mutex_lock(&http->mutex);
    unlink_connection(c);
    link_last(http, c);
    c->arriving = arriving;
    pthread_mutex_unlock(&http->mutex);
}

/* ---- the way of an exchange between threads ---- */

static void set_open(exchange *x, bool open) {
    bl__http *http = x->http;
    pthread_mutex_lock(&http->mutex);
    if (open && !x->is_listed) {
        x->prev_open = NULL;
        x->next_open = http->open;
        if (http->open)
            http->open->prev_open = x;
        http->open = x;
        http->n_open++;
    } else if (!open && x->is_listed) {
        if (x->prev_open)
            x->prev_open->next_open = x->next_open;
        else
            http->open = x->next_open;
        if (x->next_open)
            x->next_open->prev_open = x->prev_open;
        http->n_open--;
    }
    x->is_listed = open;
    pthread_mutex_unlock(&http->mutex);
}

/* With the exchange's mutex held. */
static void suspend(exchange *x) {
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
}
static void resume(exchange *x) {
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

/* What a worker does: the handler, or what it left for later. */
static void run_handler(bl__task *task) {
    exchange *x = (exchange *)((char *)task - offsetof(exchange, task));
    for (;;) {
        bl__handler handler = x->next;
        x->response.later = NULL;
        handler(x->next_user, &x->request, &x->response);
        x->next = x->response.later;
        x->next_user = x->response.later_user;
        pthread_mutex_lock(&x->mutex);
        if (!x->next) {
            x->state = READY;
            resume(x);
            break;
        }
        if (!x->woken) {
            x->state = WAITING;
            break;
        }
        x->woken = false;
        pthread_mutex_unlock(&x->mutex);
    }
    pthread_mutex_unlock(&x->mutex);
}

static void wake(bl__request *request) {
    exchange *x = (exchange *)request;
    pthread_mutex_lock(&x->mutex);
    if (x->state == WAITING) {
        x->state = WORKING;
        bl__workers_add(x->http->workers, &x->task);
    } else if (x->state == STREAMING && x->suspended) {
        resume(x);
    } else {
        x->woken = true;
    }
    pthread_mutex_unlock(&x->mutex);
}

static ssize_t pull_bytes(void *user, uint64_t at, char *out, size_t max) {
    exchange *x = user;
    (void)at;
    for (;;) {
        long n = x->response.source.pull(x->response.source.user, out, max);
        if (n > 0) {
            x->bytes_out += (uint64_t)n;
            return n;
        }
        if (n == BL_SOURCE_END)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (n < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        pthread_mutex_lock(&x->mutex);
        bool again = x->woken, cut = atomic_load(&x->http->cutting);
        x->woken = false;
        if (!again && !cut)
            suspend(x);
        pthread_mutex_unlock(&x->mutex);
        if (!again)
            return cut ? MHD_CONTENT_READER_END_WITH_ERROR : 0;
    }
}

/* ---- requests ---- */

typedef struct pairs {
    bl__pair *items; /* [MAX_PAIRS] */
    size_t n;
} pairs;

static enum MHD_Result take_pair(void *user, enum MHD_ValueKind kind, const char *name,
                                 const char *value) {
    pairs *list = user;
    (void)kind;
    if (list->n == MAX_PAIRS)
        return MHD_NO;
    list->items[list->n++] = (bl__pair){name, value ? value : ""};
    return MHD_YES;
}

static void set_client(exchange *x) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    const void *bytes = NULL;
    if (address && address->sa_family == AF_INET)
        bytes = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
    else if (address && address->sa_family == AF_INET6)
        bytes = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    if (!bytes || !inet_ntop(address->sa_family, bytes, x->client, sizeof x->client))
        snprintf(x->client, sizeof x->client, "-");
}

static exchange *create_exchange(bl__http *http, struct MHD_Connection *mhd, const char *url,
                                 const char *method) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    connection *c = info ? info->socket_context : NULL;
    exchange *x = c ? bl__calloc(1, sizeof *x) : NULL;
    if (!x)
        return NULL;
    x->http = http;
    x->mhd = mhd;
    x->connection = c;
    x->start = bl__seconds_now();
    x->body = bl__buffer_make(http->params.max_body);
    x->task.run = run_handler;
    pthread_mutex_init(&x->mutex, NULL);
    bl__response_init(&x->response);
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", url);
    set_client(x);
    pairs headers = {x->headers, 0}, query = {x->query, 0};
    MHD_get_connection_values(mhd, MHD_HEADER_KIND, take_pair, &headers);
    MHD_get_connection_values(mhd, MHD_GET_ARGUMENT_KIND, take_pair, &query);
    x->request = (bl__request){.method = x->method,
                               .path = x->path,
                               .headers = x->headers,
                               .n_headers = headers.n,
                               .query = x->query,
                               .n_query = query.n,
                               .body = "",
                               .client = x->client,
                               .wake = wake};
    return x;
}

/* What can be said once the headers are there. */
static void check_headers(exchange *x, size_t url_len) {
    const bl__http_params *p = &x->http->params;
    const char *length = bl__request_header(&x->request, "Content-Length");
    x->match = bl__router_find(p->router, &x->request);
    if (url_len >= sizeof x->path) {
        bl__respond_error(&x->response, 414, "invalid_request_error", NULL, NULL,
                          "the path is longer than %zu bytes", sizeof x->path - 1);
        x->refused = true;
        return;
    }
    x->refused = !p->admit(p->user, &x->request, &x->match, &x->response);
    if (!x->refused && !x->match.route) {
        bl__respond_no_route(&x->response, &x->request, &x->match);
        x->refused = true;
    }
    /* Digits only, as libmicrohttpd has checked. */
    if (length && (strlen(length) > 15 || strtoull(length, NULL, 10) > p->max_body)) {
        bl__respond_error(&x->response, 413, "invalid_request_error", NULL, "body_too_large",
                          "the body is larger than %zu bytes", p->max_body);
        x->refused = true;
        x->discarded = UINT64_MAX; /* not even read */
    }
}

/* Takes part of the body; false to cut the connection. */
static bool take_body(exchange *x, const char *data, size_t len) {
    size_t max = x->http->params.max_body;
    if (!x->refused && bl__buffer_append(&x->body, data, len))
        return true;
    if (!x->refused) {
        bl__respond_error(&x->response, x->body.too_large ? 413 : 500,
                          x->body.too_large ? "invalid_request_error" : "server_error", NULL,
                          x->body.too_large ? "body_too_large" : NULL,
                          x->body.too_large ? "the body is larger than %zu bytes"
                                            : "no memory for a body of %zu bytes",
                          max);
        x->refused = true;
    }
    x->discarded += len;
    return x->discarded <= (uint64_t)max * DISCARD_FACTOR;
}

static struct MHD_Response *make_response(exchange *x) {
    bl__response *r = &x->response;
    struct MHD_Response *out;
    if (r->source.pull) {
        out =
            MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, pull_bytes, x, NULL);
    } else {
        size_t len = r->fixed ? r->fixed_len : r->body.len;
        const void *data = r->fixed ? r->fixed : r->body.data ? r->body.data : "";
        x->bytes_out = len;
        /* The exchange, and the bytes with it, lives until the response has gone. */
        out = MHD_create_response_from_buffer(len, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT);
    }
    if (!out)
        return NULL;
    MHD_add_response_header(out, "Content-Type", r->content_type);
    for (size_t i = 0; i < r->n_headers; i++)
        MHD_add_response_header(out, r->headers[i].name, r->headers[i].value);
    return out;
}

static enum MHD_Result send_response(exchange *x) {
    bl__http_params *p = &x->http->params;
    p->decorate(p->user, &x->request, &x->response);
    struct MHD_Response *response = make_response(x);
    if (!response)
        return MHD_NO;
    if (x->response.source.pull) {
        pthread_mutex_lock(&x->mutex);
        x->state = STREAMING;
        pthread_mutex_unlock(&x->mutex);
    }
    enum MHD_Result result = MHD_queue_response(x->mhd, (unsigned)x->response.status, response);
    MHD_destroy_response(response);
    return result;
}

/* The request is whole. */
static enum MHD_Result begin(exchange *x) {
    set_arriving(x->http, x->connection, false);
    x->request.body = x->body.len ? x->body.data : "";
    x->request.body_len = x->body.len;
    if (!x->refused && (x->match.route->flags & BL_ROUTE_QUICK))
        x->match.route->handler(x->match.user, &x->request, &x->response);
    if (x->refused || (x->match.route->flags & BL_ROUTE_QUICK)) {
        x->state = READY;
        return send_response(x);
    }
    x->next = x->match.route->handler;
    x->next_user = x->match.user;
    set_open(x, true);
    pthread_mutex_lock(&x->mutex);
    x->state = WORKING;
    suspend(x);
    pthread_mutex_unlock(&x->mutex);
    bl__workers_add(x->http->workers, &x->task);
    return MHD_YES;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_len, void **context) {
    bl__http *http = user;
    exchange *x = *context;
    (void)version;
    if (!x) {
        pthread_mutex_lock(&http->mutex);
        bool stopping = http->stopping;
        pthread_mutex_unlock(&http->mutex);
        x = stopping ? NULL : create_exchange(http, mhd, url, method);
        if (!x)
            return MHD_NO;
        *context = x;
        check_headers(x, strlen(url));
        return x->discarded == UINT64_MAX ? send_response(x) : MHD_YES;
    }
    if (*data_len > 0) {
        bool ok = take_body(x, data, *data_len);
        *data_len = 0;
        return ok ? MHD_YES : MHD_NO;
    }
    pthread_mutex_lock(&x->mutex);
    state now = x->state;
    pthread_mutex_unlock(&x->mutex);
    if (now == ARRIVING)
        return begin(x);
    return now == READY ? send_response(x) : MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code) {
    bl__http *http = user;
    exchange *x = *context;
    (void)mhd;
    if (!x)
        return;
    *context = NULL;
    pthread_mutex_lock(&x->mutex); /* whoever resumed it may hold it yet */
    pthread_mutex_unlock(&x->mutex);
    set_open(x, false);
    set_arriving(http, x->connection, true);
    bool sent = x->state == READY || x->state == STREAMING || x->discarded == UINT64_MAX;
    const bl__access access = {
        .client = x->client,
        .method = x->method,
        .path = x->path,
        .status = sent && (code == MHD_REQUEST_TERMINATED_COMPLETED_OK || x->state == STREAMING)
                      ? x->response.status
                      : 0,
        .bytes_in = x->body.len,
        .bytes_out = x->bytes_out,
        .seconds = bl__seconds_now() - x->start};
    /* Closing the source makes its figures final. */
    if (x->response.source.close)
        x->response.source.close(x->response.source.user);
    x->response.source.close = NULL;
    bl__access whole = access;
    whole.usage = x->response.usage;
    http->params.log(http->params.user, &whole);
    bl__response_clear(&x->response);
    bl__buffer_free(&x->body);
    pthread_mutex_destroy(&x->mutex);
    bl__free(x);
}

/* ---- watching ---- */

/* Requests that are too slow to arrive, and idle connections when there are too many. */
static void cut_slow(bl__http *http) {
    double now = bl__seconds_now();
    size_t crowd = http->params.max_connections - http->params.max_connections / 8;
    size_t n_too_many = http->n_connections > crowd ? http->n_connections - crowd : 0;
    for (connection *c = http->idle.next; c != &http->idle; c = c->next) {
        bool late = now - c->since > http->params.patience;
        if (!late && (n_too_many == 0 || now - c->since < 1))
            break; /* those behind it are younger */
        if (!c->arriving || c->cut)
            continue;
        if (!late)
            n_too_many--;
        c->cut = true;
        shutdown(c->fd, SHUT_RDWR);
    }
}

static void cancel(exchange *x) {
    if (x->cancelled)
        return;
    pthread_mutex_lock(&x->mutex);
    bool can = x->response.source.cancel && (x->state == WAITING || x->state == STREAMING);
    pthread_mutex_unlock(&x->mutex);
    if (!can)
        return; /* asked again next time */
    x->cancelled = true;
    x->response.source.cancel(x->response.source.user);
}

/* Open exchanges whose client has closed its side. */
static void cancel_gone(bl__http *http) {
    size_t n = 0;
    for (exchange *x = http->open; x && n < http->params.max_connections; x = x->next_open)
        http->polled[n++] = (struct pollfd){.fd = x->connection->fd, .events = POLLRDHUP};
    if (n == 0 || poll(http->polled, n, 0) <= 0)
        return;
    exchange *x = http->open;
    for (size_t i = 0; i < n; i++, x = x->next_open)
        if (http->polled[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
            cancel(x);
}

static void *watch(void *user) {
    bl__http *http = user;
    pthread_mutex_lock(&http->mutex);
    while (!http->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += WATCH_MS * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&http->stop, &http->mutex, &until);
        cut_slow(http);
        cancel_gone(http);
    }
    pthread_mutex_unlock(&http->mutex);
    return NULL;
}

/* ---- start and stop ---- */

static bl_status parse_address(const bl__http_params *p, struct sockaddr_storage *out, bool *is_v6,
                               bl_error *err) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(p->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(p->port)};
    *is_v6 = false;
    if (inet_pton(AF_INET, p->host, &v4.sin_addr) == 1) {
        memcpy(out, &v4, sizeof v4);
        return BL_OK;
    }
    *is_v6 = true;
    if (inet_pton(AF_INET6, p->host, &v6.sin6_addr) == 1) {
        memcpy(out, &v6, sizeof v6);
        return BL_OK;
    }
    return bl__fail(err, BL_ERR_ARGUMENT,
                    "host \"%.64s\", expected an address such as 127.0.0.1, 0.0.0.0 or ::1",
                    p->host);
}

static void ignore_log(void *user, const char *format, va_list args) {
    (void)user, (void)format, (void)args;
}

static bl_status start_daemon(bl__http *http, bl_error *err) {
    const bl__http_params *p = &http->params;
    struct sockaddr_storage address = {0};
    bool is_v6;
    bl_status status = parse_address(p, &address, &is_v6, err);
    if (status != BL_OK)
        return status;
    if (p->tls_certificate && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "this libmicrohttpd was built without TLS");
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC |
                     (is_v6 ? (unsigned)MHD_USE_DUAL_STACK : 0u) |
                     (p->tls_certificate ? (unsigned)MHD_USE_TLS : 0u);
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)p->tls_certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)p->tls_key},
        {MHD_OPTION_END, 0, NULL}};
    errno = 0;
    http->daemon = MHD_start_daemon(
        flags, p->port, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, ignore_log, NULL,
        MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_CONNECTION_LIMIT, p->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)p->patience + 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT, p->max_headers,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024u,
        MHD_OPTION_ARRAY, p->tls_certificate ? tls : tls + 2, MHD_OPTION_END);
    if (http->daemon)
        return BL_OK;
    const char *why = errno ? strerror(errno) : "libmicrohttpd refused";
    if (p->tls_certificate && errno != EADDRINUSE && errno != EACCES)
        why = "is the certificate, or its key, not PEM?";
    return bl__fail(err, BL_ERR_IO, "cannot listen on %s port %u: %s", p->host, p->port, why);
}

bl_status bl__http_start(const bl__http_params *params, bl__http **out, bl_error *err) {
    bl_status status = BL_ERR_MEMORY;
    bl__http *http = bl__calloc(1, sizeof *http);
    if (!http)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a server");
    http->params = *params;
    http->quiet_fd = -1;
    http->idle.prev = http->idle.next = &http->idle;
    pthread_mutex_init(&http->mutex, NULL);
    pthread_cond_init(&http->stop, NULL);
    http->polled = bl__malloc_array(params->max_connections, sizeof *http->polled);
    if (!http->polled) {
        bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u connections", params->max_connections);
        goto fail;
    }
    status = bl__workers_create(params->n_workers, &http->workers, err);
    if (status != BL_OK)
        goto fail;
    if (pthread_create(&http->watcher, NULL, watch, http) != 0) {
        status = bl__fail(err, BL_ERR_MEMORY, "cannot start a thread");
        goto fail;
    }
    http->has_watcher = true;
    status = start_daemon(http, err);
    if (status != BL_OK)
        goto fail;
    *out = http;
    return BL_OK;
fail:
    bl__http_stop(http);
    return status;
}

uint16_t bl__http_port(const bl__http *http) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : 0;
}

void bl__http_quiesce(bl__http *http) {
    if (http->quiet_fd < 0)
        http->quiet_fd = MHD_quiesce_daemon(http->daemon);
}

size_t bl__http_n_open(bl__http *http) {
    pthread_mutex_lock(&http->mutex);
    size_t n = http->n_open;
    pthread_mutex_unlock(&http->mutex);
    return n;
}

void bl__http_cancel_all(bl__http *http) {
    pthread_mutex_lock(&http->mutex);
    for (exchange *x = http->open; x; x = x->next_open)
        cancel(x);
    pthread_mutex_unlock(&http->mutex);
}

/* Whether some exchange is where libmicrohttpd must not be stopped; streams are resumed, and then
 * find that they are cut. */
static bool any_suspended(bl__http *http) {
    bool any = false;
    pthread_mutex_lock(&http->mutex);
    for (exchange *x = http->open; x; x = x->next_open) {
        pthread_mutex_lock(&x->mutex);
        any = any || x->suspended;
        if (x->suspended && x->state == STREAMING)
            resume(x);
        pthread_mutex_unlock(&x->mutex);
    }
    pthread_mutex_unlock(&http->mutex);
    return any;
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

void bl__http_stop(bl__http *http) {
    if (!http)
        return;
    pthread_mutex_lock(&http->mutex);
    http->stopping = true;
    pthread_cond_signal(&http->stop);
    pthread_mutex_unlock(&http->mutex);
    if (http->has_watcher)
        pthread_join(http->watcher, NULL);
    if (http->daemon) {
        /* First every answer gets the time to say that it was cut short. */
        for (int i = 0; i < LAST_WORDS_MS / 5 && bl__http_n_open(http) > 0; i++) {
            bl__http_cancel_all(http);
            sleep_ms(5);
        }
        atomic_store(&http->cutting, true);
        while (any_suspended(http)) {
            bl__http_cancel_all(http);
            sleep_ms(5);
        }
        MHD_stop_daemon(http->daemon);
    }
    if (http->quiet_fd >= 0)
        close(http->quiet_fd);
    bl__workers_free(http->workers);
    bl__free(http->polled);
    pthread_cond_destroy(&http->stop);
    pthread_mutex_destroy(&http->mutex);
    bl__free(http);
}

#else

#include "base/error.h"

bl_status bl__http_start(const bl__http_params *params, bl__http **out, bl_error *err) {
    (void)params, (void)out;
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "this program was built without libmicrohttpd: install libmicrohttpd-dev (or "
                    "libmicrohttpd-devel) and build again");
}
uint16_t bl__http_port(const bl__http *http) {
    (void)http;
    return 0;
}
void bl__http_quiesce(bl__http *http) {
    (void)http;
}
size_t bl__http_n_open(bl__http *http) {
    (void)http;
    return 0;
}
void bl__http_cancel_all(bl__http *http) {
    (void)http;
}
void bl__http_stop(bl__http *http) {
    (void)http;
}

#endif
