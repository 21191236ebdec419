/* Conversations that outlive the server: who said what, in an SQLite database in WAL mode.
 *
 * What a writing function has answered with BL_OK is on the disk, whatever kills the process
 * afterwards. Several processes may hold one database open; a writer waits its turn for some time.
 * A failed write changes nothing, and the store stays usable: a full disk that has room again, or a
 * lock that is gone, needs no restart. Every text must be UTF-8 without NUL; others are refused.
 *
 * Thread rule: any thread at any time; calls on one store wait for each other.
 * Errors of all functions: BL_ERR_ARGUMENT (a text that is not allowed, named), BL_ERR_LIMIT (too
 * long, too many), BL_ERR_NOT_FOUND (no such conversation), BL_ERR_CANCELLED (it has changed since
 * the revision that the caller knows), BL_ERR_IO (disk full, locked, unreadable), BL_ERR_FORMAT (no
 * database of ours, or a damaged one), BL_ERR_MEMORY, BL_ERR_UNSUPPORTED (built without SQLite, or
 * made by a newer Bitloom). */
#ifndef BL_SERVER_STORE_H
#define BL_SERVER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

enum {
    BL_STORE_ID = 32,             /* characters of an id: 128 random bits, as hexadecimal digits */
    BL_STORE_MAX_TITLE = 1000,    /* bytes, as all below */
    BL_STORE_MAX_MODEL = 1000,    /* its name */
    BL_STORE_MAX_JSON = 64 << 10, /* settings of a conversation, details of a message */
    BL_STORE_MAX_CONTENT = 8 << 20, /* of a message */
    BL_STORE_MAX_QUERY = 200,       /* what is searched for */
    BL_STORE_MAX_MESSAGES = 10000,  /* per conversation */
    BL_STORE_MAX_ROWS = 200         /* per page of a list */
};

typedef struct bl__store bl__store;

typedef struct bl__store_text {
    const char *data; /* [len], NULL: none given */
    size_t len;
} bl__store_text;

typedef struct bl__store_message {
    const char *role;       /* "system", "user", "assistant" or "tool" */
    bl__store_text content; /* at most BL_STORE_MAX_CONTENT */
    bl__store_text details; /* a JSON object of the caller's; none given: {} */
    int64_t created;        /* milliseconds since 1970; set by the store, ignored when written */
} bl__store_message;

/* What a caller may set of a conversation. None given: left as it is, or empty at first. */
typedef struct bl__store_fields {
    bl__store_text title, model;
    bl__store_text settings; /* a JSON object of the caller's */
} bl__store_fields;

/* Where a conversation stands. Every write adds one to its revision. */
typedef struct bl__store_mark {
    char id[BL_STORE_ID + 1];
    int64_t created, updated; /* milliseconds since 1970 */
    int64_t revision;
    size_t n_messages;
} bl__store_mark;

typedef struct bl__store_row {
    bl__store_mark mark;
    bl__store_fields fields;
    bl__store_text excerpt; /* around what was searched for, when that is in a message */
} bl__store_row;

/* Called for each row; texts are borrowed for the call. False ends it all with BL_ERR_MEMORY. */
typedef bool (*bl__store_row_fn)(void *user, const bl__store_row *row);
typedef bool (*bl__store_message_fn)(void *user, size_t position, const bl__store_message *message);

/* $XDG_DATA_HOME/bitloom/conversations.db, or the same below ~/.local/share; makes the folders.
 * *path: release with bl__free(). */
bl_status bl__store_default_path(char **path, bl_error *err);

/* Opens or makes a database, readable by its owner alone, and brings an older one up to date.
 * A writer that finds it locked by another process waits up to wait_ms. */
bl_status bl__store_open(const char *path, unsigned wait_ms, bl__store **out, bl_error *err);
void bl__store_close(bl__store *store); /* NULL is accepted */
const char *bl__store_path(const bl__store *store);

bl_status bl__store_create(bl__store *store, const bl__store_fields *fields,
                           const bl__store_message *messages, size_t n, bl__store_mark *mark,
                           bl_error *err);
/* Conversations by their last change, the newest first: at most limit of them that come after the
 * one named `after` (NULL: from the start) and have query (empty: all) in the title or a message,
 * whatever the case. *more: there are others behind them. */
bl_status bl__store_list(bl__store *store, bl__store_text query, const char *after, size_t limit,
                         bl__store_row_fn each, void *user, bool *more, bl_error *err);
/* One conversation and then its messages, in order. */
bl_status bl__store_read(bl__store *store, const char *id, bl__store_row_fn conversation,
                         bl__store_message_fn message, void *user, bl_error *err);
bl_status bl__store_edit(bl__store *store, const char *id, const bl__store_fields *fields,
                         bl__store_mark *mark, bl_error *err);
/* The bytes of what is deleted are overwritten in the file. */
bl_status bl__store_delete(bl__store *store, const char *id, bl_error *err);

#define BL_STORE_END SIZE_MAX
/* Puts messages[n] at position `from` and drops what was there and behind it; from = BL_STORE_END
 * appends. With revision >= 0 it must be the conversation's. All or nothing. */
bl_status bl__store_write(bl__store *store, const char *id, int64_t revision, size_t from,
                          const bl__store_message *messages, size_t n, bl__store_mark *mark,
                          bl_error *err);

#endif
