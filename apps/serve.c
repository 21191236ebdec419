/* Owns `bitloom serve`: options and keys in, a server, and its end by Ctrl-C or SIGTERM. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "engine.h"
#include "terminal.h"

enum { MAX_KEYS = 256, MAX_FILE = 1 << 20 };

typedef struct serve_settings {
    model_settings model;
    const char *model_dir, *host, *key_file, *tls_cert, *tls_key, *cors, *store, *user;
    int64_t port, parallel, queue, cache_tokens, memory, rate, max_body, connections;
    double patience, max_time, grace;
    bool log_json, quiet, no_store, no_sandbox;
} serve_settings;

#define SERVE(field) offsetof(serve_settings, field)

static const option SERVER_OPTIONS[] = {
    {0, "host", NULL, OPTION_TEXT, "ADDRESS", SERVE(host), 0, 0, NULL,
     "numeric address to listen on; 0.0.0.0 or :: = all of this machine (default 127.0.0.1)"},
    {0, "port", NULL, OPTION_INTEGER, "N", SERVE(port), 0, 65535, NULL,
     "port; 0 = any that is free (default 8080)"},
    {0, "model-dir", NULL, OPTION_TEXT, "FOLDER", SERVE(model_dir), 0, 0, NULL,
     "serve every GGUF file of this folder; each is loaded when it is first asked for"},
    {0, "memory", NULL, OPTION_INTEGER, "MIB", SERVE(memory), 0, 1 << 24, NULL,
     "with --model-dir: hold models and caches of so much together; 0 = no limit (default)"},
    {0, "parallel", "-np", OPTION_INTEGER, "N", SERVE(parallel), 1, 1024, NULL,
     "answers written at the same time (default 8)"},
    {0, "cache-tokens", NULL, OPTION_INTEGER, "N", SERVE(cache_tokens), 0, 1 << 30, NULL,
     "tokens that the cache of a model holds, of answers under way and of prompts kept for others; "
     "0 = --parallel times the context (default)"},
    {0, "queue", NULL, OPTION_INTEGER, "N", SERVE(queue), 1, 1 << 20, NULL,
     "requests that wait for that; the next one gets status 429 (default 64)"},
    {0, "store", NULL, OPTION_TEXT, "FILE", SERVE(store), 0, 0, NULL,
     "keep the page's conversations here (default ~/.local/share/bitloom/conversations.db)"},
    {0, "no-store", NULL, OPTION_FLAG, NULL, SERVE(no_store), 0, 0, NULL, "keep no conversations"},
};
static const option SAFETY_OPTIONS[] = {
    {0, "api-key-file", NULL, OPTION_TEXT, "FILE", SERVE(key_file), 0, 0, NULL,
     "ask for one of these keys, one a line; $BITLOOM_API_KEY is one more"},
    {0, "tls-cert", NULL, OPTION_TEXT, "FILE", SERVE(tls_cert), 0, 0, NULL,
     "serve HTTPS with this certificate (PEM)"},
    {0, "tls-key", NULL, OPTION_TEXT, "FILE", SERVE(tls_key), 0, 0, NULL,
     "the certificate's private key (PEM)"},
    {0, "cors", NULL, OPTION_TEXT, "ORIGIN", SERVE(cors), 0, 0, NULL,
     "let pages of this origin, such as https://example.org, ask; * = of any"},
    {0, "user", NULL, OPTION_TEXT, "NAME", SERVE(user), 0, 0, NULL,
     "become this user once it listens; for a server that root starts"},
    {0, "no-sandbox", NULL, OPTION_FLAG, NULL, SERVE(no_sandbox), 0, 0, NULL,
     "keep the right to other files, programs and sockets (Landlock and seccomp are not used)"},
    {0, "rate-limit", NULL, OPTION_INTEGER, "N", SERVE(rate), 0, 1000000, NULL,
     "requests a minute from one address; 0 = no limit (default)"},
    {0, "max-body", NULL, OPTION_INTEGER, "MIB", SERVE(max_body), 1, 1024, NULL,
     "size of a request at most (default 8)"},
    {0, "max-connections", NULL, OPTION_INTEGER, "N", SERVE(connections), 8, 65536, NULL,
     "connections at most (default 2048)"},
    {0, "patience", NULL, OPTION_NUMBER, "SECONDS", SERVE(patience), 0.1, 3600, NULL,
     "cut clients that take longer to send a request, or to take a part of an answer (default 60)"},
    {0, "max-time", NULL, OPTION_NUMBER, "SECONDS", SERVE(max_time), 0.1, 86400, NULL,
     "cut answers that take longer, waiting included (default 3600)"},
    {0, "grace", NULL, OPTION_NUMBER, "SECONDS", SERVE(grace), 0, 3600, NULL,
     "when stopped, let answers go on for so long (default 5)"},
};
static const option OUTPUT_OPTIONS[] = {
    {0, "log-json", NULL, OPTION_FLAG, NULL, SERVE(log_json), 0, 0, NULL,
     "log each request as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, SERVE(quiet), 0, 0, NULL, "log no requests"},
};
static const option_group GROUPS[] = {
    {"Server", SERVER_OPTIONS, sizeof SERVER_OPTIONS / sizeof *SERVER_OPTIONS, 0},
    {"Safety", SAFETY_OPTIONS, sizeof SAFETY_OPTIONS / sizeof *SAFETY_OPTIONS, 0},
    {"Model", MODEL_OPTIONS, N_MODEL_OPTIONS, SERVE(model)},
    {"Output", OUTPUT_OPTIONS, sizeof OUTPUT_OPTIONS / sizeof *OUTPUT_OPTIONS, 0},
};

/* What is read from files and the environment. */
typedef struct secrets {
    char *key_text, *tls_cert, *tls_key;
    const char *keys[MAX_KEYS + 1];
    size_t n_keys;
} secrets;

static void clear_secrets(secrets *s) {
    bl__free(s->key_text);
    bl__free(s->tls_cert);
    bl__free(s->tls_key);
}

/* The keys of a file: one a line, blank lines and those with # skipped. In place. */
static bool split_keys(secrets *s, const char *path) {
    for (char *line = s->key_text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line += strspn(line, " \t");
        line[strcspn(line, " \t\r")] = '\0';
        if (*line == '\0' || *line == '#')
            continue;
        if (s->n_keys == MAX_KEYS) {
            fail_with("serve", "%s: more than %d keys", path, MAX_KEYS);
            return false;
        }
        s->keys[s->n_keys++] = line;
    }
    if (s->n_keys == 0) /* an empty file must not mean an open server */
        fail_with("serve", "%s: there is no key in it", path);
    return s->n_keys > 0;
}

static bool read_text(const char *path, char **text) {
    size_t len;
    bl_error err;
    if (!path || bl__file_read(path, MAX_FILE, text, &len, &err) == BL_OK)
        return true;
    fail_error("serve", &err);
    return false;
}

static bool read_secrets(const serve_settings *settings, secrets *s) {
    const char *key = getenv("BITLOOM_API_KEY");
    if (!read_text(settings->key_file, &s->key_text) ||
        !read_text(settings->tls_cert, &s->tls_cert) || !read_text(settings->tls_key, &s->tls_key))
        return false;
    if (s->key_text && !split_keys(s, settings->key_file))
        return false;
    if (key && *key)
        s->keys[s->n_keys++] = key;
    return true;
}

static void print_log(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "%s\n", line);
}

static bl_server_params make_params(const serve_settings *s, const secrets *keys,
                                    const char *model) {
    return (bl_server_params){
        .host = s->host,
        .port = (uint16_t)s->port,
        .model = model,
        .model_dir = s->model_dir,
        .max_model_bytes = (uint64_t)s->memory << 20,
        .n_parallel = (uint32_t)s->parallel,
        .max_queued = (uint32_t)s->queue,
        .session = {.n_ctx = (uint32_t)s->model.ctx,
                    .n_batch = (uint32_t)s->model.batch,
                    .n_threads = (uint32_t)s->model.threads,
                    .cache_tokens = (size_t)s->cache_tokens,
                    .cache_type = cache_type_of(s->model.cache_type),
                    .head = head_of(s->model.head)},
        .sparsity = parse_sparsity(s->model.sparsity),
        .api_keys = keys->keys,
        .n_api_keys = keys->n_keys,
        .tls_certificate = keys->tls_cert,
        .tls_key = keys->tls_key,
        .cors_origin = s->cors,
        .requests_per_minute = (uint32_t)s->rate,
        .max_body = (size_t)s->max_body << 20,
        .max_connections = (uint32_t)s->connections,
        .patience = s->patience,
        .max_seconds = s->max_time,
        .store = s->store,
        .no_store = s->no_store,
        .run_as = s->user,
        .sandbox = !s->no_sandbox,
        .log_format = s->quiet      ? BL_SERVER_LOG_NONE
                      : s->log_json ? BL_SERVER_LOG_JSON
                                    : BL_SERVER_LOG_TEXT,
        .log = print_log,
    };
}

/* Each connection takes a file descriptor; systems give 1024 unless asked. */
static void raise_file_limit(int64_t n_connections) {
    struct rlimit limit;
    rlim_t wanted = (rlim_t)n_connections + 128;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Serves until somebody stops it. */
static int serve(const serve_settings *s, const secrets *keys, const char *model) {
    const bl_server_params params = make_params(s, keys, model);
    raise_file_limit(s->connections);
    bl_server *server = NULL;
    bl_error err;
    if (bl_server_start(&params, &server, &err) != BL_OK)
        return fail_error("serve", &err);
    bool is_v6 = s->host && strchr(s->host, ':');
    note("listening on %s://%s%s%s:%u", keys->tls_cert ? "https" : "http", is_v6 ? "[" : "",
         s->host ? s->host : "127.0.0.1", is_v6 ? "]" : "", bl_server_port(server));
    int status = EXIT_SUCCESS;
    if (bl_server_wait_loaded(server, &err) != BL_OK)
        status = fail_error("serve", &err);
    else if (model)
        note("%s: ready; Ctrl-C stops", model);
    while (status == EXIT_SUCCESS && !interrupts_seen())
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    if (status == EXIT_SUCCESS)
        note("stopping");
    bl_server_stop(server, s->grace);
    return status;
}

static int run(int argc, char **argv) {
    serve_settings s = {.model = default_model_settings(),
                        .port = 8080,
                        .parallel = 8,
                        .queue = 64,
                        .max_body = 8,
                        .connections = 2048,
                        .patience = 60,
                        .max_time = 3600,
                        .grace = 5};
    switch (options_parse(&SERVE_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (s.store && s.no_store)
        return options_complain(&SERVE_COMMAND, "--store and --no-store: expected one of them");
    if (!s.tls_cert != !s.tls_key)
        return options_complain(&SERVE_COMMAND, "--tls-cert and --tls-key: expected both");
    secrets keys = {0};
    char *model = NULL;
    int status = EXIT_FAILURE;
    interrupts_catch(2);
    terminations_catch();
    if (read_secrets(&s, &keys) && place_memory(&SERVE_COMMAND, s.model.numa) &&
        ((s.model_dir && !s.model.model) || (model = find_model(&SERVE_COMMAND, s.model.model))))
        status = serve(&s, &keys, model);
    bl__free(model);
    clear_secrets(&keys);
    return status;
}

const command SERVE_COMMAND = {
    .name = "serve",
    .summary = "serve models: the OpenAI API, and a page to chat in",
    .description =
        "Answers the OpenAI API over HTTP: chat, completions, responses, embeddings, with "
        "streaming.\n"
        "Requests that come at the same time are written at the same time, and the same request\n"
        "and seed get the same text whatever runs beside them. A browser that opens the address\n"
        "finds a page to chat in, with past conversations. Listens to this machine only "
        "unless\n"
        "--host says otherwise. Ctrl-C, or SIGTERM, lets answers end for a moment and stops.",
    .examples = "  bitloom serve\n"
                "  bitloom serve -m model.gguf --port 8000 --parallel 16\n"
                "  bitloom serve --model-dir ./models --memory 8000\n"
                "  BITLOOM_API_KEY=secret bitloom serve --host 0.0.0.0\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
