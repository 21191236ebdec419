/* What the files of the store share. */
#ifndef BL_SERVER_STORE_INTERNAL_H
#define BL_SERVER_STORE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>

#include "server/store.h"

enum { BL_STORE_STATEMENTS = 16 };

struct bl__store {
    sqlite3 *db;
    char *path;
    const char *name; /* for messages: the path, once it is open its last part, since clients of
                         the server read them */
    unsigned wait_ms;
    pthread_mutex_t lock;                          /* of all below and of db */
    sqlite3_stmt *statements[BL_STORE_STATEMENTS]; /* prepared when first needed */
};

/* The error for a result of SQLite's; `what` is what could not be done. */
bl_status bl__store_fail(const bl__store *store, int result, const char *what, bl_error *err);

/* Makes the SQL function excerpt(text, needle): the text around the first place where needle is,
 * NULL when it is nowhere. needle must come from bl__store_fold(). */
int bl__store_add_search(sqlite3 *db);
/* What is the same for every case of the same letters; NULL when memory is short. */
char *bl__store_fold(bl__store_text text, size_t *len);

#endif
