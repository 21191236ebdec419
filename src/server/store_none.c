/* The store of a build without SQLite: it cannot be opened, and says so. */
#include "base/error.h"
#include "server/store.h"

static bl_status refuse(bl_error *err) {
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "conversations: this Bitloom is built without SQLite and cannot keep them");
}

bl_status bl__store_default_path(char **path, bl_error *err) {
    (void)path;
    return refuse(err);
}

bl_status bl__store_open(const char *path, unsigned wait_ms, bl__store **out, bl_error *err) {
    (void)path, (void)wait_ms, (void)out;
    return refuse(err);
}

void bl__store_close(bl__store *store) {
    (void)store;
}

const char *bl__store_path(const bl__store *store) {
    (void)store;
    return "";
}

bl_status bl__store_create(bl__store *store, const bl__store_fields *fields,
                           const bl__store_message *messages, size_t n, bl__store_mark *mark,
                           bl_error *err) {
    (void)store, (void)fields, (void)messages, (void)n, (void)mark;
    return refuse(err);
}

bl_status bl__store_list(bl__store *store, bl__store_text query, const char *after, size_t limit,
                         bl__store_row_fn each, void *user, bool *more, bl_error *err) {
    (void)store, (void)query, (void)after, (void)limit, (void)each, (void)user, (void)more;
    return refuse(err);
}

bl_status bl__store_read(bl__store *store, const char *id, bl__store_row_fn conversation,
                         bl__store_message_fn message, void *user, bl_error *err) {
    (void)store, (void)id, (void)conversation, (void)message, (void)user;
    return refuse(err);
}

bl_status bl__store_edit(bl__store *store, const char *id, const bl__store_fields *fields,
                         bl__store_mark *mark, bl_error *err) {
    (void)store, (void)id, (void)fields, (void)mark;
    return refuse(err);
}

bl_status bl__store_delete(bl__store *store, const char *id, bl_error *err) {
    (void)store, (void)id;
    return refuse(err);
}

bl_status bl__store_write(bl__store *store, const char *id, int64_t revision, size_t from,
                          const bl__store_message *messages, size_t n, bl__store_mark *mark,
                          bl_error *err) {
    (void)store, (void)id, (void)revision, (void)from, (void)messages, (void)n, (void)mark;
    return refuse(err);
}
