/* Owns what is asked of the database of conversations. Must not know how it is opened, nor what
 * speaks to the store. */
#include "server/store.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "server/store_internal.h"
#include "tokenizer/utf8.h"

/* The list in order of the last change. ?1 is the number and ?2 the change of the conversation
 * before its first, ?3 the folded words, ?4 the rows. */
#define LIST_COLUMNS                                                                               \
    "SELECT id, title, model, settings, created, updated, revision,"                               \
    " (SELECT ifnull(max(position) + 1, 0) FROM messages WHERE conversation = number)"
#define LIST_ORDER " (updated, number) < (?2, ?1) ORDER BY updated DESC, number DESC LIMIT ?4"

/* X(name, SQL) */
#define STATEMENTS(X)                                                                              \
    X(BEGIN, "BEGIN IMMEDIATE")                                                                    \
    X(COMMIT, "COMMIT")                                                                            \
    X(FIND, "SELECT number, created, updated, revision,"                                           \
            " (SELECT ifnull(max(position) + 1, 0) FROM messages WHERE conversation = number)"     \
            " FROM conversations WHERE id = ?1")                                                   \
    X(CREATE, "INSERT INTO conversations (id, title, model, settings, created, updated)"           \
              " VALUES (?1, ifnull(?2, ''), ifnull(?3, ''), ifnull(?4, '{}'), ?5, ?5)")            \
    X(EDIT, "UPDATE conversations SET title = ifnull(?2, title), model = ifnull(?3, model),"       \
            " settings = ifnull(?4, settings), updated = ?5, revision = revision + 1"              \
            " WHERE number = ?1")                                                                  \
    X(DELETE, "DELETE FROM conversations WHERE number = ?1")                                       \
    X(CUT, "DELETE FROM messages WHERE conversation = ?1 AND position >= ?2")                      \
    X(APPEND, "INSERT INTO messages (conversation, position, role, content, details, created)"     \
              " VALUES (?1, ?2, ?3, ?4, ifnull(?5, '{}'), ?6)")                                    \
    X(READ, LIST_COLUMNS ", NULL FROM conversations WHERE number = ?1")                            \
    X(MESSAGES, "SELECT position, role, content, details, created FROM messages"                   \
                " WHERE conversation = ?1 ORDER BY position")                                      \
    X(LIST, LIST_COLUMNS ", NULL FROM conversations WHERE" LIST_ORDER)                             \
    X(SEARCH, "SELECT * FROM (" LIST_COLUMNS ","                                                   \
              " (SELECT excerpt(content, ?3) FROM messages WHERE conversation = number"            \
              " AND excerpt(content, ?3) NOT NULL ORDER BY position LIMIT 1) AS found, number"     \
              " FROM conversations)"                                                               \
              " WHERE (found NOT NULL OR excerpt(title, ?3) NOT NULL) AND" LIST_ORDER)

enum statement {
#define STATEMENT_ENUM(name, sql) STATEMENT_##name,
    STATEMENTS(STATEMENT_ENUM)
#undef STATEMENT_ENUM
        N_STATEMENTS
};
_Static_assert((int)N_STATEMENTS <= (int)BL_STORE_STATEMENTS,
               "bl__store has room for every statement");

static const char *const SQL[] = {
#define STATEMENT_SQL(name, sql) sql,
    STATEMENTS(STATEMENT_SQL)
#undef STATEMENT_SQL
};

/* --- What may be written -------------------------------------------------------------------- */

static bl_status check_text(bl__store_text text, size_t max, const char *what, bl_error *err) {
    if (!text.data)
        return BL_OK;
    if (text.len > max)
        return bl__fail(err, BL_ERR_LIMIT, "%s: %zu bytes, at most %zu", what, text.len, max);
    if (memchr(text.data, '\0', text.len))
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: a NUL character, which no text may have", what);
    size_t valid = bl__utf8_valid_prefix(text.data, text.len);
    if (valid < text.len)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: not UTF-8 at byte %zu", what, valid);
    return BL_OK;
}

static bl_status check_fields(const bl__store_fields *fields, bl_error *err) {
    bl_status status = check_text(fields->title, BL_STORE_MAX_TITLE, "title", err);
    if (!status)
        status = check_text(fields->model, BL_STORE_MAX_MODEL, "model", err);
    if (!status)
        status = check_text(fields->settings, BL_STORE_MAX_JSON, "settings", err);
    return status;
}

static bl_status check_messages(const bl__store_message *messages, size_t n, bl_error *err) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (n > BL_STORE_MAX_MESSAGES)
        return bl__fail(err, BL_ERR_LIMIT, "messages: %zu of them, at most %d", n,
                        BL_STORE_MAX_MESSAGES);
    for (size_t i = 0; i < n; i++) {
        char what[64];
        size_t role = 0;
        while (role < 4 && strcmp(messages[i].role, roles[role]) != 0)
            role++;
        if (role == 4)
            return bl__fail(err, BL_ERR_ARGUMENT,
                            "messages[%zu].role: \"%.40s\", expected system, user, assistant or "
                            "tool",
                            i, messages[i].role);
        sqlite3_snprintf(sizeof what, what, "messages[%llu].content", (unsigned long long)i);
        bl_status status = check_text(messages[i].content, BL_STORE_MAX_CONTENT, what, err);
        if (!status) {
            sqlite3_snprintf(sizeof what, what, "messages[%llu].details", (unsigned long long)i);
            status = check_text(messages[i].details, BL_STORE_MAX_JSON, what, err);
        }
        if (status)
            return status;
    }
    return BL_OK;
}

static bool is_id(const char *id) {
    return strlen(id) == BL_STORE_ID && strspn(id, "0123456789abcdef") == BL_STORE_ID;
}

static bl_status make_id(char id[BL_STORE_ID + 1], bl_error *err) {
    unsigned char bytes[BL_STORE_ID / 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return bl__fail(err, BL_ERR_IO, "conversations: the system gives no random numbers");
    for (size_t i = 0; i < sizeof bytes; i++) {
        id[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        id[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    id[BL_STORE_ID] = '\0';
    return BL_OK;
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- Statements ----------------------------------------------------------------------------- */

static bl_status prepare(bl__store *store, enum statement which, sqlite3_stmt **out,
                         bl_error *err) {
    sqlite3_stmt **slot = &store->statements[which];
    if (!*slot) {
        int result =
            sqlite3_prepare_v3(store->db, SQL[which], -1, SQLITE_PREPARE_PERSISTENT, slot, NULL);
        if (result != SQLITE_OK)
            return bl__store_fail(store, result, "preparing a statement", err);
    }
    *out = *slot;
    return BL_OK;
}

/* Texts are bound without a copy: they live until the statement is reset. */
static int bind_text(sqlite3_stmt *statement, int index, bl__store_text text) {
    return text.data ? sqlite3_bind_text64(statement, index, text.data, text.len, SQLITE_STATIC,
                                           SQLITE_UTF8)
                     : sqlite3_bind_null(statement, index);
}

static int bind_fields(sqlite3_stmt *statement, const bl__store_fields *fields) {
    int result = bind_text(statement, 2, fields->title);
    if (result == SQLITE_OK)
        result = bind_text(statement, 3, fields->model);
    return result == SQLITE_OK ? bind_text(statement, 4, fields->settings) : result;
}

/* Runs a statement that gives no rows. */
static bl_status finish(bl__store *store, sqlite3_stmt *statement, int bound, const char *what,
                        bl_error *err) {
    int result = bound == SQLITE_OK ? sqlite3_step(statement) : bound;
    bl_status status = result == SQLITE_DONE ? BL_OK : bl__store_fail(store, result, what, err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

static bl_status run(bl__store *store, enum statement which, const char *what, bl_error *err) {
    sqlite3_stmt *statement;
    bl_status status = prepare(store, which, &statement, err);
    return status ? status : finish(store, statement, SQLITE_OK, what, err);
}

/* Locks the store and begins to write; end_write() must follow, also on failure. */
static bl_status begin_write(bl__store *store, bl_error *err) {
    pthread_mutex_lock(&store->lock);
    return run(store, STATEMENT_BEGIN, "starting to write", err);
}

/* Makes what was written last when all went well, else undoes it. */
static bl_status end_write(bl__store *store, bl_status status, bl_error *err) {
    if (!status)
        status = run(store, STATEMENT_COMMIT, "writing", err);
    if (status && !sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* --- Conversations -------------------------------------------------------------------------- */

static bl_status find(bl__store *store, const char *id, sqlite3_int64 *number, bl__store_mark *mark,
                      bl_error *err) {
    sqlite3_stmt *statement;
    if (!is_id(id))
        return bl__fail(err, BL_ERR_NOT_FOUND, "no conversation \"%.40s\"", id);
    bl_status status = prepare(store, STATEMENT_FIND, &statement, err);
    if (status)
        return status;
    int result = bind_text(statement, 1, (bl__store_text){id, BL_STORE_ID});
    if (result == SQLITE_OK)
        result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        *number = sqlite3_column_int64(statement, 0);
        mark->created = sqlite3_column_int64(statement, 1);
        mark->updated = sqlite3_column_int64(statement, 2);
        mark->revision = sqlite3_column_int64(statement, 3);
        mark->n_messages = (size_t)sqlite3_column_int64(statement, 4);
        memcpy(mark->id, id, sizeof mark->id);
    } else if (result == SQLITE_DONE) {
        status = bl__fail(err, BL_ERR_NOT_FOUND, "no conversation \"%s\"", id);
    } else {
        status = bl__store_fail(store, result, "looking for a conversation", err);
    }
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

/* Writes a change of the conversation itself, and that of its revision. */
static bl_status edit(bl__store *store, sqlite3_int64 number, const bl__store_fields *fields,
                      bl__store_mark *mark, bl_error *err) {
    sqlite3_stmt *statement;
    bl_status status = prepare(store, STATEMENT_EDIT, &statement, err);
    if (status)
        return status;
    int64_t updated = now_ms();
    int bound = sqlite3_bind_int64(statement, 1, number);
    if (bound == SQLITE_OK)
        bound = bind_fields(statement, fields);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 5, updated);
    status = finish(store, statement, bound, "changing a conversation", err);
    if (!status) {
        mark->updated = updated;
        mark->revision++;
    }
    return status;
}

static bl_status append(bl__store *store, sqlite3_int64 number, size_t position,
                        const bl__store_message *message, bl_error *err) {
    sqlite3_stmt *statement;
    bl_status status = prepare(store, STATEMENT_APPEND, &statement, err);
    if (status)
        return status;
    bl__store_text content = message->content.data ? message->content : (bl__store_text){"", 0};
    int bound = sqlite3_bind_int64(statement, 1, number);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 2, (sqlite3_int64)position);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_text(statement, 3, message->role, -1, SQLITE_STATIC);
    if (bound == SQLITE_OK)
        bound = bind_text(statement, 4, content);
    if (bound == SQLITE_OK)
        bound = bind_text(statement, 5, message->details);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 6, now_ms());
    return finish(store, statement, bound, "writing a message", err);
}

static bl_status append_all(bl__store *store, sqlite3_int64 number, size_t from,
                            const bl__store_message *messages, size_t n, bl_error *err) {
    bl_status status = BL_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = append(store, number, from + i, &messages[i], err);
    return status;
}

bl_status bl__store_create(bl__store *store, const bl__store_fields *fields,
                           const bl__store_message *messages, size_t n, bl__store_mark *mark,
                           bl_error *err) {
    bl__store_mark made = {.created = now_ms(), .n_messages = n};
    made.updated = made.created;
    bl_status status = check_fields(fields, err);
    if (!status)
        status = check_messages(messages, n, err);
    if (!status)
        status = make_id(made.id, err);
    if (status)
        return status;
    sqlite3_stmt *statement;
    status = begin_write(store, err);
    if (!status)
        status = prepare(store, STATEMENT_CREATE, &statement, err);
    if (!status) {
        int bound = bind_text(statement, 1, (bl__store_text){made.id, BL_STORE_ID});
        if (bound == SQLITE_OK)
            bound = bind_fields(statement, fields);
        if (bound == SQLITE_OK)
            bound = sqlite3_bind_int64(statement, 5, made.created);
        status = finish(store, statement, bound, "making a conversation", err);
    }
    if (!status)
        status = append_all(store, sqlite3_last_insert_rowid(store->db), 0, messages, n, err);
    status = end_write(store, status, err);
    if (!status)
        *mark = made;
    return status;
}

bl_status bl__store_edit(bl__store *store, const char *id, const bl__store_fields *fields,
                         bl__store_mark *mark, bl_error *err) {
    bl__store_mark found;
    sqlite3_int64 number;
    bl_status status = check_fields(fields, err);
    if (status)
        return status;
    status = begin_write(store, err);
    if (!status)
        status = find(store, id, &number, &found, err);
    if (!status)
        status = edit(store, number, fields, &found, err);
    status = end_write(store, status, err);
    if (!status)
        *mark = found;
    return status;
}

bl_status bl__store_delete(bl__store *store, const char *id, bl_error *err) {
    bl__store_mark found;
    sqlite3_int64 number;
    sqlite3_stmt *statement;
    bl_status status = begin_write(store, err);
    if (!status)
        status = find(store, id, &number, &found, err);
    if (!status)
        status = prepare(store, STATEMENT_DELETE, &statement, err);
    if (!status)
        status = finish(store, statement, sqlite3_bind_int64(statement, 1, number),
                        "deleting a conversation", err);
    return end_write(store, status, err);
}

static bl_status cut(bl__store *store, sqlite3_int64 number, size_t from, bl_error *err) {
    sqlite3_stmt *statement;
    bl_status status = prepare(store, STATEMENT_CUT, &statement, err);
    if (status)
        return status;
    int bound = sqlite3_bind_int64(statement, 1, number);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 2, (sqlite3_int64)from);
    return finish(store, statement, bound, "dropping messages", err);
}

static bl_status check_place(const bl__store_mark *found, int64_t revision, size_t from, size_t n,
                             bl_error *err) {
    if (revision >= 0 && revision != found->revision)
        return bl__fail(err, BL_ERR_CANCELLED,
                        "revision: the conversation has changed: it is at %lld, not %lld",
                        (long long)found->revision, (long long)revision);
    if (from > found->n_messages)
        return bl__fail(err, BL_ERR_ARGUMENT, "from: %zu, but there are %zu messages", from,
                        found->n_messages);
    if (n > BL_STORE_MAX_MESSAGES - from)
        return bl__fail(err, BL_ERR_LIMIT, "messages: a conversation has at most %d",
                        BL_STORE_MAX_MESSAGES);
    return BL_OK;
}

bl_status bl__store_write(bl__store *store, const char *id, int64_t revision, size_t from,
                          const bl__store_message *messages, size_t n, bl__store_mark *mark,
                          bl_error *err) {
    bl__store_mark found;
    sqlite3_int64 number;
    bl_status status = check_messages(messages, n, err);
    if (status)
        return status;
    status = begin_write(store, err);
    if (!status)
        status = find(store, id, &number, &found, err);
    if (!status) {
        from = from == BL_STORE_END ? found.n_messages : from;
        status = check_place(&found, revision, from, n, err);
    }
    if (!status && from < found.n_messages)
        status = cut(store, number, from, err);
    if (!status)
        status = append_all(store, number, from, messages, n, err);
    if (!status)
        status = edit(store, number, &(bl__store_fields){0}, &found, err);
    status = end_write(store, status, err);
    if (!status) {
        found.n_messages = from + n;
        *mark = found;
    }
    return status;
}

/* --- Reading -------------------------------------------------------------------------------- */

static bl__store_text column_text(sqlite3_stmt *statement, int column) {
    const char *text = (const char *)sqlite3_column_text(statement, column);
    return (bl__store_text){text, text ? (size_t)sqlite3_column_bytes(statement, column) : 0};
}

/* A row of LIST_COLUMNS and an excerpt. */
static bool give_row(sqlite3_stmt *statement, bl__store_row_fn each, void *user) {
    bl__store_text id = column_text(statement, 0);
    bl__store_row row = {
        .mark = {.created = sqlite3_column_int64(statement, 4),
                 .updated = sqlite3_column_int64(statement, 5),
                 .revision = sqlite3_column_int64(statement, 6),
                 .n_messages = (size_t)sqlite3_column_int64(statement, 7)},
        .fields = {.title = column_text(statement, 1),
                   .model = column_text(statement, 2),
                   .settings = column_text(statement, 3)},
        .excerpt = column_text(statement, 8),
    };
    if (!id.data || !row.fields.title.data || !row.fields.model.data || !row.fields.settings.data)
        return false; /* no column of these is ever NULL: memory was short */
    memcpy(row.mark.id, id.data, id.len < BL_STORE_ID ? id.len : BL_STORE_ID);
    return each(user, &row);
}

static bool give_message(sqlite3_stmt *statement, bl__store_message_fn each, void *user) {
    bl__store_text role = column_text(statement, 1);
    bl__store_message message = {.role = role.data,
                                 .content = column_text(statement, 2),
                                 .details = column_text(statement, 3),
                                 .created = sqlite3_column_int64(statement, 4)};
    if (!role.data || !message.content.data || !message.details.data)
        return false;
    return each(user, (size_t)sqlite3_column_int64(statement, 0), &message);
}

static bl_status out_of_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "conversations: out of memory while reading");
}

/* Hands up to limit rows to each(); *more: there is another. */
static bl_status give_rows(bl__store *store, sqlite3_stmt *statement, size_t limit,
                           bl__store_row_fn each, void *user, bool *more, bl_error *err) {
    size_t n = 0;
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW && n < limit) {
        if (!give_row(statement, each, user))
            return out_of_memory(err);
        n++;
    }
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        return bl__store_fail(store, result, "reading the list", err);
    *more = result == SQLITE_ROW;
    return BL_OK;
}

static bl_status list(bl__store *store, bl__store_text needle, const char *after, size_t limit,
                      bl__store_row_fn each, void *user, bool *more, bl_error *err) {
    sqlite3_int64 number = INT64_MAX;
    bl__store_mark last = {.updated = INT64_MAX};
    sqlite3_stmt *statement;
    bl_status status = after ? find(store, after, &number, &last, err) : BL_OK;
    if (!status)
        status = prepare(store, needle.data ? STATEMENT_SEARCH : STATEMENT_LIST, &statement, err);
    if (status)
        return status;
    int bound = sqlite3_bind_int64(statement, 1, number);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 2, last.updated);
    if (bound == SQLITE_OK && needle.data)
        bound = bind_text(statement, 3, needle);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 4, (sqlite3_int64)limit + 1);
    status = bound == SQLITE_OK ? give_rows(store, statement, limit, each, user, more, err)
                                : bl__store_fail(store, bound, "reading the list", err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

bl_status bl__store_list(bl__store *store, bl__store_text query, const char *after, size_t limit,
                         bl__store_row_fn each, void *user, bool *more, bl_error *err) {
    bl__store_text needle = {0};
    char *folded = NULL;
    bl_status status = check_text(query, BL_STORE_MAX_QUERY, "query", err);
    if (status)
        return status;
    if (limit == 0 || limit > BL_STORE_MAX_ROWS)
        return bl__fail(err, BL_ERR_ARGUMENT, "limit: %zu, expected 1 to %d", limit,
                        BL_STORE_MAX_ROWS);
    if (query.len) {
        folded = bl__store_fold(query, &needle.len);
        if (!folded)
            return out_of_memory(err);
        needle.data = folded;
    }
    pthread_mutex_lock(&store->lock);
    status = list(store, needle, after, limit, each, user, more, err);
    pthread_mutex_unlock(&store->lock);
    bl__free(folded);
    return status;
}

/* Both statements see one state of the database, since nothing is written between them here and
 * the first is not reset before the second has begun. */
static bl_status read_both(bl__store *store, sqlite3_stmt *head, sqlite3_stmt *messages,
                           bl__store_row_fn conversation, bl__store_message_fn message, void *user,
                           bl_error *err) {
    int result = sqlite3_step(head);
    if (result == SQLITE_DONE)
        return bl__fail(err, BL_ERR_NOT_FOUND, "the conversation has just been deleted");
    if (result != SQLITE_ROW)
        return bl__store_fail(store, result, "reading a conversation", err);
    if (!give_row(head, conversation, user))
        return out_of_memory(err);
    while ((result = sqlite3_step(messages)) == SQLITE_ROW)
        if (!give_message(messages, message, user))
            return out_of_memory(err);
    return result == SQLITE_DONE ? BL_OK : bl__store_fail(store, result, "reading messages", err);
}

bl_status bl__store_read(bl__store *store, const char *id, bl__store_row_fn conversation,
                         bl__store_message_fn message, void *user, bl_error *err) {
    bl__store_mark found;
    sqlite3_int64 number;
    sqlite3_stmt *head, *messages;
    pthread_mutex_lock(&store->lock);
    bl_status status = find(store, id, &number, &found, err);
    if (!status)
        status = prepare(store, STATEMENT_READ, &head, err);
    if (!status)
        status = prepare(store, STATEMENT_MESSAGES, &messages, err);
    if (!status) {
        int bound = sqlite3_bind_int64(head, 1, number);
        if (bound == SQLITE_OK)
            bound = sqlite3_bind_int64(messages, 1, number);
        status = bound == SQLITE_OK
                     ? read_both(store, head, messages, conversation, message, user, err)
                     : bl__store_fail(store, bound, "reading a conversation", err);
        sqlite3_reset(messages);
        sqlite3_reset(head);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}
