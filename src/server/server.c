/* Owns the start and the end of a server, and what all requests have in common. Must not know
 * single endpoints. */
#include "server/server.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "bitloom/system.h"
#include "server/conversations.h"
#include "server/limits.h"
#include "server/page.h"
#include "server/replies.h"
#include "server/sandbox.h"

enum { DEFAULT_BODY = 8 << 20, DEFAULT_CONNECTIONS = 2048, MAX_HEADERS = 32 << 10, N_WORKERS = 4 };
enum { STORE_WAIT_MS = 5000 /* for another process that writes conversations */ };
static const double DEFAULT_PATIENCE = 60, DEFAULT_SECONDS = 3600;

/* ---- common needs of endpoints ---- */

int64_t bl__unix_time(void) {
    return (int64_t)time(NULL);
}

void bl__make_id(const char *prefix, char out[BL_ID_SIZE]) {
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    unsigned char bytes[24];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)(bl__seconds_now() * 1e9 / (double)(i + 1));
    int n = snprintf(out, BL_ID_SIZE, "%s", prefix);
    for (size_t i = 0; i < sizeof bytes && n < BL_ID_SIZE - 1; i++)
        out[n++] = digits[bytes[i] % (sizeof digits - 1)];
    out[n] = '\0';
}

uint64_t bl__client_number(const bl__request *request) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = request->client; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    return hash;
}

double bl__server_seconds(const bl_server *server, double asked) {
    double most = server->params.max_seconds;
    return asked > 0 && asked < most ? asked : most;
}

void bl__server_log(bl_server *server, const char *line) {
    if (!server->params.log)
        return;
    pthread_mutex_lock(&server->log_mutex);
    server->params.log(server->params.user, line);
    pthread_mutex_unlock(&server->log_mutex);
}

static void log_line(void *user, const char *line) {
    bl__server_log(user, line);
}

/* ---- what every request meets ---- */

static bool admit(void *user, const bl__request *request, const bl__match *match,
                  bl__response *response) {
    bl_server *server = user;
    if (atomic_load(&server->stopping)) {
        bl__respond_error(response, 503, "server_error", NULL, "stopping",
                          "the server is stopping");
        bl__response_header(response, "Connection", "close");
        return false;
    }
    return bl__limits_admit(server->limits, request, match, response);
}

/* Adds a header that the handler has not set. */
static void add_header(bl__response *response, const char *name, const char *value) {
    for (size_t i = 0; i < response->n_headers; i++)
        if (strcmp(response->headers[i].name, name) == 0)
            return;
    bl__response_header(response, name, value);
}

static void decorate(void *user, const bl__request *request, bl__response *response) {
    bl_server *server = user;
    add_header(response, "X-Content-Type-Options", "nosniff");
    add_header(response, "Cache-Control", "no-store");
    bl__limits_allow_origin(server->limits, request, response);
}

/* A stranger's text in one line of a log. */
static void make_printable(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text && n + 1 < size; text++)
        out[n++] = (unsigned char)*text < 0x21 || *text == 0x7f || *text == '"' ? '?' : *text;
    out[n] = '\0';
}

static void format_text(const bl__access *a, const char *path, const char *when, char *line,
                        size_t size) {
    int n = snprintf(line, size, "%s %s %s %s %d %llu B in %llu B out %.1f ms", when, a->client,
                     a->method, path, a->status, (unsigned long long)a->bytes_in,
                     (unsigned long long)a->bytes_out, a->seconds * 1e3);
    if (n > 0 && (size_t)n < size && a->usage.n_prompt > 0)
        snprintf(line + n, size - (size_t)n, " %llu+%llu tokens, %llu cached",
                 (unsigned long long)a->usage.n_prompt, (unsigned long long)a->usage.n_generated,
                 (unsigned long long)a->usage.n_cached);
}

static char *format_json(const bl__access *a, const char *when) {
    char path[BL_MAX_PATH], *text = NULL;
    snprintf(path, sizeof path, "%s", a->path);
    bl__make_utf8(path);
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:I, s:I, s:I}", "time", when, "client",
        a->client, "method", a->method, "path", path, "status", a->status, "bytes_in",
        (json_int_t)a->bytes_in, "bytes_out", (json_int_t)a->bytes_out, "seconds", a->seconds,
        "prompt_tokens", (json_int_t)a->usage.n_prompt, "cached_tokens",
        (json_int_t)a->usage.n_cached, "generated_tokens", (json_int_t)a->usage.n_generated);
    bl__buffer out = bl__buffer_make(1 << 16);
    size_t len = object ? json_dumpb(object, NULL, 0, JSON_COMPACT) : 0;
    if (len > 0 && bl__buffer_reserve(&out, len)) {
        out.len = json_dumpb(object, out.data, len, JSON_COMPACT);
        out.data[out.len] = '\0';
        text = bl__buffer_take(&out, NULL);
    }
    bl__buffer_free(&out);
    json_decref(object);
    return text;
}

static void log_access(void *user, const bl__access *access) {
    bl_server *server = user;
    int class = access->status >= 100 && access->status < 600 ? access->status / 100 : 0;
    atomic_fetch_add(&server->counts.by_status[class], 1);
    atomic_fetch_add(&server->counts.bytes_out, access->bytes_out);
    if (server->params.log_format == BL_SERVER_LOG_NONE)
        return;
    char when[32], path[256], line[512];
    time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (server->params.log_format == BL_SERVER_LOG_JSON) {
        char *json = format_json(access, when);
        bl__server_log(server, json ? json : "{}");
        bl__free(json);
        return;
    }
    make_printable(access->path, path, sizeof path);
    format_text(access, path, when, line, sizeof line);
    bl__server_log(server, line);
}

/* ---- start and stop ---- */

/* A copy that lives as long as the server; NULL stays NULL. */
static const char *keep(bl_server *server, const char *text, bool *ok) {
    if (!text)
        return NULL;
    char *copy = bl__strndup(text, strlen(text));
    char **list =
        copy ? bl__realloc_array(server->strings, server->n_strings + 1, sizeof *list) : NULL;
    if (!list) {
        bl__free(copy);
        *ok = false;
        return NULL;
    }
    server->strings = list;
    list[server->n_strings++] = copy;
    return copy;
}

static bl_status keep_params(bl_server *server, const bl_server_params *given, bl_error *err) {
    bl_server_params *p = &server->params;
    bool ok = true;
    *p = *given;
    p->api_keys = NULL;
    p->host = keep(server, given->host ? given->host : "127.0.0.1", &ok);
    p->model = keep(server, given->model, &ok);
    p->model_dir = keep(server, given->model_dir, &ok);
    p->store = keep(server, given->store, &ok);
    p->tls_certificate = keep(server, given->tls_certificate, &ok);
    p->tls_key = keep(server, given->tls_key, &ok);
    p->run_as = keep(server, given->run_as, &ok);
    p->cors_origin = keep(server, given->cors_origin, &ok);
    p->session.kernels = keep(server, given->session.kernels, &ok);
    const char **keys = bl__calloc(given->n_api_keys, sizeof *keys);
    for (size_t i = 0; keys && i < given->n_api_keys; i++)
        keys[i] = keep(server, given->api_keys[i], &ok);
    p->api_keys = keys;
    if (!ok || !keys)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    if (!p->tls_certificate != !p->tls_key)
        return bl__fail(err, BL_ERR_ARGUMENT, "TLS needs a certificate and its key");
    p->max_body = p->max_body ? p->max_body : DEFAULT_BODY;
    p->max_connections = p->max_connections ? p->max_connections : DEFAULT_CONNECTIONS;
    p->patience = p->patience > 0 ? p->patience : DEFAULT_PATIENCE;
    p->max_seconds = p->max_seconds > 0 ? p->max_seconds : DEFAULT_SECONDS;
    return BL_OK;
}

/* Without a place that was asked for by name, a store that cannot be had is no reason not to serve.
 */
static bl_status open_store(bl_server *server, bl_error *err) {
    bl_error why = {0};
    char *path = NULL, line[400];
    if (server->params.no_store)
        return BL_OK;
    if (server->params.store)
        return bl__store_open(server->params.store, STORE_WAIT_MS, &server->store, err);
    bl_status status = bl__store_default_path(&path, &why);
    if (status == BL_OK)
        status = bl__store_open(path, STORE_WAIT_MS, &server->store, &why);
    bl__free(path);
    if (status == BL_ERR_MEMORY)
        return bl__fail(err, status, "%s", why.message);
    if (status != BL_OK) {
        snprintf(line, sizeof line, "conversations are not kept: %s", why.message);
        bl__server_log(server, line);
    }
    return BL_OK;
}

bl_status bl__server_add_routes(bl_server *server, bl_error *err) {
    bl_status status = bl__api_meta_add(server, err);
    if (status == BL_OK)
        status = bl__conversations_add(&server->router, server->store, err);
    if (status == BL_OK)
        status = bl__page_add(&server->router, err);
    if (status == BL_OK)
        status = bl__api_tokens_add(server, err);
    if (status == BL_OK)
        status = bl__api_chat_add(server, err);
    if (status == BL_OK)
        status = bl__api_completions_add(server, err);
    if (status == BL_OK)
        status = bl__api_embeddings_add(server, err);
    if (status == BL_OK)
        status = bl__api_responses_add(server, err);
    return status;
}

/* Before any other thread is there. */
static bl_status confine_files(bl_server *server, bl_error *err) {
    const bl_server_params *p = &server->params;
    char *folder = NULL;
    const char *store = server->store ? bl__store_path(server->store) : NULL;
    const char *slash = store ? strrchr(store, '/') : NULL;
    if (store &&
        !(folder = slash ? bl__strndup(store, (size_t)(slash - store) + 1) : bl__strndup(".", 1)))
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    const bl__sandbox_path paths[] = {
        {p->model, false},         {p->model_dir, false},     {folder, true},
        {"/proc/self", false},     {"/proc/meminfo", false},  {"/proc/cpuinfo", false},
        {"/sys/devices", false},   {"/sys/fs/cgroup", false}, {"/sys/class/powercap", false},
        {"/sys/kernel/mm", false},
    };
    bl_status status =
        bl__sandbox_files(paths, sizeof paths / sizeof *paths, &server->has_file_sandbox, err);
    bl__free(folder);
    return status;
}

/* Once it listens. */
static bl_status confine_process(bl_server *server, const bl__sandbox_user *user, bl_error *err) {
    char line[128];
    bool has_call_sandbox = false;
    bl_status status = server->params.run_as ? bl__sandbox_become(user, err) : BL_OK;
    if (status == BL_OK && server->params.sandbox)
        status = bl__sandbox_calls(&has_call_sandbox, err);
    if (status != BL_OK || !server->params.sandbox)
        return status;
    snprintf(line, sizeof line, "confined: files %s, system calls %s",
             server->has_file_sandbox ? "by Landlock" : "not (no Landlock)",
             has_call_sandbox ? "by seccomp" : "not (no seccomp)");
    bl__server_log(server, line);
    return BL_OK;
}

bl_status bl_server_start(const bl_server_params *params, bl_server **out, bl_error *err) {
    bl_server *server = bl__calloc(1, sizeof *server);
    if (!server)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    bl__sandbox_user user = {0};
    pthread_mutex_init(&server->log_mutex, NULL);
    server->started = bl__seconds_now();
    bl_status status = keep_params(server, params, err);
    if (status == BL_OK)
        status = bl__limits_create(&server->params, &server->limits, err);
    if (status == BL_OK)
        status = bl__replies_create(&server->replies, err);
    if (status == BL_OK)
        status = open_store(server, err);
    if (status == BL_OK && server->params.run_as)
        status = bl__sandbox_find_user(server->params.run_as, &user, err);
    if (status == BL_OK && server->params.sandbox)
        status = confine_files(server, err);
    if (status == BL_OK)
        status = bl__server_add_routes(server, err);
    if (status == BL_OK)
        status = bl__models_create(&server->params, log_line, server, &server->models, err);
    const bl_server_params *p = &server->params;
    const bl__http_params http = {.host = p->host,
                                  .port = p->port,
                                  .tls_certificate = p->tls_certificate,
                                  .tls_key = p->tls_key,
                                  .max_body = p->max_body,
                                  .max_headers = MAX_HEADERS,
                                  .max_connections = p->max_connections,
                                  .n_workers = N_WORKERS,
                                  .patience = p->patience,
                                  .router = &server->router,
                                  .admit = admit,
                                  .decorate = decorate,
                                  .log = log_access,
                                  .user = server};
    if (status == BL_OK)
        status = bl__http_start(&http, &server->http, err);
    if (status == BL_OK)
        status = confine_process(server, &user, err);
    if (status != BL_OK) {
        bl_server_stop(server, 0);
        return status;
    }
    *out = server;
    return BL_OK;
}

uint16_t bl_server_port(const bl_server *server) {
    return bl__http_port(server->http);
}

bl_status bl_server_wait_loaded(bl_server *server, bl_error *err) {
    return bl__models_wait(server->models, err);
}

void bl_server_stop(bl_server *server, double seconds) {
    if (!server)
        return;
    atomic_store(&server->stopping, true);
    if (server->http) {
        double until = bl__seconds_now() + seconds;
        bl__http_quiesce(server->http);
        while (bl__http_n_open(server->http) > 0 && bl__seconds_now() < until)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        bl__http_stop(server->http);
    }
    bl__models_free(server->models);
    bl__limits_free(server->limits);
    bl__replies_free(server->replies);
    bl__store_close(server->store);
    for (size_t i = 0; i < server->n_strings; i++)
        bl__free(server->strings[i]);
    bl__free(server->strings);
    bl__free((void *)(uintptr_t)server->params.api_keys);
    pthread_mutex_destroy(&server->log_mutex);
    bl__free(server);
}
