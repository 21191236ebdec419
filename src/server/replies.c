/* Owns stored answers, as JSON text, in the order of their last use. */
#include "server/replies.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "formats/json.h"

enum { MAX_REPLIES = 1000, MAX_BYTES = 64 << 20, DEPTH = 100, VALUES = 2000000 };

typedef struct reply {
    struct reply *next; /* used longer ago */
    char *id, *response, *messages;
    size_t n_response, n_messages;
} reply;

struct bl__replies {
    pthread_mutex_t mutex;
    reply *newest;
    size_t n, bytes;
};

static size_t size_of(const reply *r) {
    return sizeof *r + r->n_response + r->n_messages;
}

static void free_reply(reply *r) {
    if (!r)
        return;
    bl__free(r->id);
    bl__free(r->response);
    bl__free(r->messages);
    bl__free(r);
}

bl_status bl__replies_create(bl__replies **out, bl_error *err) {
    bl__replies *replies = bl__calloc(1, sizeof *replies);
    if (!replies)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    pthread_mutex_init(&replies->mutex, NULL);
    *out = replies;
    return BL_OK;
}

/* Takes a reply out of the list; NULL when it is not there. Mutex held. */
static reply *take(bl__replies *replies, const char *id) {
    for (reply **at = &replies->newest; *at; at = &(*at)->next) {
        reply *r = *at;
        if (strcmp(r->id, id) != 0)
            continue;
        *at = r->next;
        replies->n--;
        replies->bytes -= size_of(r);
        return r;
    }
    return NULL;
}

static void put_first(bl__replies *replies, reply *r) {
    r->next = replies->newest;
    replies->newest = r;
    replies->n++;
    replies->bytes += size_of(r);
}

static void drop_oldest(bl__replies *replies) {
    reply **at = &replies->newest;
    while ((*at)->next)
        at = &(*at)->next;
    reply *oldest = *at;
    *at = NULL;
    replies->n--;
    replies->bytes -= size_of(oldest);
    free_reply(oldest);
}

void bl__replies_free(bl__replies *replies) {
    if (!replies)
        return;
    while (replies->newest)
        drop_oldest(replies);
    pthread_mutex_destroy(&replies->mutex);
    bl__free(replies);
}

void bl__replies_put(bl__replies *replies, const json_t *response, const json_t *messages) {
    const char *id = json_string_value(json_object_get(response, "id"));
    reply *r = bl__calloc(1, sizeof *r);
    if (!id || !r) {
        free_reply(r);
        return;
    }
    r->id = bl__strndup(id, strlen(id));
    r->response = bl__json_write(response, JSON_COMPACT, &r->n_response);
    r->messages = bl__json_write(messages, JSON_COMPACT, &r->n_messages);
    if (!r->id || !r->response || !r->messages || size_of(r) > MAX_BYTES) {
        free_reply(r);
        return;
    }
    pthread_mutex_lock(&replies->mutex);
    put_first(replies, r);
    while (replies->n > MAX_REPLIES || replies->bytes > MAX_BYTES)
        drop_oldest(replies);
    pthread_mutex_unlock(&replies->mutex);
}

static bool parse(const char *text, size_t len, json_t **out) {
    const bl__json_limits limits = {.depth = DEPTH, .values = VALUES};
    return !out || bl__json_parse(text, len, limits, out, NULL) == BL_OK;
}

bool bl__replies_get(bl__replies *replies, const char *id, json_t **response, json_t **messages) {
    pthread_mutex_lock(&replies->mutex);
    reply *r = take(replies, id);
    bool found = r != NULL;
    if (found) {
        put_first(replies, r);
        found = parse(r->response, r->n_response, response);
        if (found && !parse(r->messages, r->n_messages, messages)) {
            if (response)
                json_decref(*response);
            found = false;
        }
    }
    pthread_mutex_unlock(&replies->mutex);
    return found;
}

bool bl__replies_delete(bl__replies *replies, const char *id) {
    pthread_mutex_lock(&replies->mutex);
    reply *r = take(replies, id);
    pthread_mutex_unlock(&replies->mutex);
    free_reply(r);
    return r != NULL;
}
