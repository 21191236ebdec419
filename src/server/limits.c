/* Owns keys, origins and rates. Must not know what is asked for.
 *
 * Pages of other sites are kept out in two ways, also where no key is set. A browser names the
 * page's origin in requests that change something, and one that is not allowed is refused. And a
 * server that listens on the loopback answers only to names of it, so that no site can make its
 * own name mean this machine (DNS rebinding). */
#include "server/limits.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

enum { N_BUCKETS = 4096, PROBES = 8 };

/* What an address may still ask for: n requests at time `at`, more as time goes on. */
typedef struct bucket {
    uint64_t client; /* hash of the address; 0: free */
    double n, at;
} bucket;

struct bl__limits {
    const bl_server_params *params;
    bool is_loopback;
    pthread_mutex_t mutex;
    bucket buckets[N_BUCKETS];
};

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

bl_status bl__limits_create(const bl_server_params *params, bl__limits **out, bl_error *err) {
    bl__limits *limits = bl__calloc(1, sizeof *limits);
    if (!limits)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    limits->params = params;
    limits->is_loopback = is_loopback(params->host);
    pthread_mutex_init(&limits->mutex, NULL);
    *out = limits;
    return BL_OK;
}

void bl__limits_free(bl__limits *limits) {
    if (!limits)
        return;
    pthread_mutex_destroy(&limits->mutex);
    bl__free(limits);
}

/* ---- keys ---- */

bool bl__same_secret(const char *a, const char *b) {
    size_t n_a = strlen(a), n_b = strlen(b);
    volatile unsigned char differs = n_a != n_b;
    for (size_t i = 0; i < n_b; i++)
        differs |= (unsigned char)(a[n_a ? i % n_a : 0] ^ b[i]);
    return differs == 0;
}

static bool has_key(const bl__limits *limits, const bl__request *request) {
    const char *given = bl__request_header(request, "Authorization");
    if (given && strncasecmp(given, "Bearer ", 7) == 0)
        given += 7;
    else
        given = bl__request_header(request, "X-API-Key");
    bool found = false;
    for (size_t i = 0; given && i < limits->params->n_api_keys; i++)
        found |= bl__same_secret(limits->params->api_keys[i], given); /* all are compared */
    return found;
}

/* ---- origins ---- */

static bool allows_origin(const bl__limits *limits, const char *origin) {
    const char *allowed = limits->params->cors_origin;
    return allowed && (strcmp(allowed, "*") == 0 || strcasecmp(allowed, origin) == 0);
}

/* Whether "http://host:port" is the address that the request itself was sent to. */
static bool is_own_origin(const char *origin, const char *host) {
    const char *rest = strstr(origin, "://");
    return rest && host && strcasecmp(rest + 3, host) == 0;
}

/* Whether a Host header names the loopback; the port does not matter. */
static bool names_loopback(const char *host) {
    size_t len = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (*host == '[')
        return strncmp(host, "[::1]", len) == 0 && len == 5;
    if (len == 9 && strncasecmp(host, "localhost", 9) == 0)
        return true;
    return strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == len;
}

void bl__limits_allow_origin(const bl__limits *limits, const bl__request *request,
                             bl__response *response) {
    const char *origin = bl__request_header(request, "Origin");
    if (!origin || !allows_origin(limits, origin))
        return;
    bl__response_header(response, "Access-Control-Allow-Origin", origin);
    bl__response_header(response, "Vary", "Origin");
}

/* A browser's question before the request itself. */
static void answer_preflight(const bl__request *request, const bl__match *match,
                             bl__response *response) {
    const char *headers = bl__request_header(request, "Access-Control-Request-Headers");
    bl__respond_bytes(response, 204, "text/plain", "", 0);
    bl__response_header(response, "Allow", match->allowed);
    bl__response_header(response, "Access-Control-Allow-Methods", match->allowed);
    bl__response_header(response, "Access-Control-Allow-Headers",
                        headers ? headers : "Authorization, Content-Type");
    bl__response_header(response, "Access-Control-Max-Age", "600");
}

/* ---- rates ---- */

static uint64_t hash_of(const char *text) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash ? hash : 1;
}

/* The bucket of an address; that of another, the fullest nearby, when all there are taken. */
static bucket *find_bucket(bl__limits *limits, uint64_t client, double now, double most) {
    bucket *best = NULL;
    for (size_t i = 0; i < PROBES; i++) {
        bucket *b = &limits->buckets[(client + i) % N_BUCKETS];
        if (b->client == client)
            return b;
        if (!best || b->at < best->at)
            best = b;
    }
    *best = (bucket){client, most, now};
    return best;
}

/* Takes one request out of the bucket of an address; false when there is none. */
static bool take_turn(bl__limits *limits, const char *client) {
    double most = limits->params->requests_per_minute, now = bl__seconds_now();
    if (limits->params->requests_per_minute == 0)
        return true;
    pthread_mutex_lock(&limits->mutex);
    bucket *b = find_bucket(limits, hash_of(client), now, most);
    b->n += (now - b->at) * most / 60;
    b->n = b->n > most ? most : b->n;
    b->at = now;
    bool ok = b->n >= 1;
    b->n -= ok;
    pthread_mutex_unlock(&limits->mutex);
    return ok;
}

bool bl__limits_admit(bl__limits *limits, const bl__request *request, const bl__match *match,
                      bl__response *response) {
    const char *host = bl__request_header(request, "Host");
    const char *origin = bl__request_header(request, "Origin");
    if (limits->is_loopback && host && !names_loopback(host)) {
        bl__respond_error(response, 403, "invalid_request_error", NULL, "wrong_host",
                          "this server is for this machine, and %.100s is not its name", host);
        return false;
    }
    if (origin && !is_own_origin(origin, host) && !allows_origin(limits, origin)) {
        bl__respond_error(response, 403, "invalid_request_error", NULL, "wrong_origin",
                          "pages of %.100s may not ask this server (see --cors)", origin);
        return false;
    }
    if (strcmp(request->method, "OPTIONS") == 0 && match->n_allowed > 0) {
        answer_preflight(request, match, response);
        return false;
    }
    bool is_public = match->route && (match->route->flags & BL_ROUTE_PUBLIC);
    if (limits->params->n_api_keys > 0 && !is_public && !has_key(limits, request)) {
        bl__respond_error(response, 401, "invalid_request_error", NULL, "invalid_api_key",
                          "a key of this server is needed: Authorization: Bearer KEY");
        bl__response_header(response, "WWW-Authenticate", "Bearer");
        return false;
    }
    if (!is_public && !take_turn(limits, request->client)) {
        bl__respond_error(response, 429, "rate_limit_error", NULL, "rate_limit_exceeded",
                          "more than %u requests a minute", limits->params->requests_per_minute);
        bl__response_header(response, "Retry-After", "1");
        return false;
    }
    return true;
}
