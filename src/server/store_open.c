/* Owns opening the database of conversations: where it lies, what it must be, and the steps that
 * bring an older one up to date. Must not know what is asked of it afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "server/store_internal.h"

enum {
    APPLICATION_ID = 0x42744c6d, /* "BtLm", in the header of every database of ours */
    MAX_ROW = BL_STORE_MAX_CONTENT + BL_STORE_MAX_JSON + 4096
};

/* Step i brings version i to i + 1; a new database takes them all. A step that has been released
 * never changes. Times are milliseconds since 1970; positions of messages are 0, 1, 2 ... */
static const char *const STEPS[] = {
    "CREATE TABLE conversations ("
    " number INTEGER PRIMARY KEY,"
    " id TEXT NOT NULL UNIQUE,"
    " title TEXT NOT NULL,"
    " created INTEGER NOT NULL,"
    " updated INTEGER NOT NULL);"
    "CREATE INDEX conversations_by_update ON conversations (updated, number);"
    "CREATE TABLE messages ("
    " conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,"
    " position INTEGER NOT NULL,"
    " role TEXT NOT NULL,"
    " content TEXT NOT NULL,"
    " created INTEGER NOT NULL,"
    " PRIMARY KEY (conversation, position));",

    /* What the answers were made with, and a count of changes that shows a stale writer. */
    "ALTER TABLE conversations ADD COLUMN model TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE conversations ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';"
    "ALTER TABLE conversations ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE messages ADD COLUMN details TEXT NOT NULL DEFAULT '{}';",
};
enum { VERSION = sizeof STEPS / sizeof *STEPS };

bl_status bl__store_fail(const bl__store *store, int result, const char *what, bl_error *err) {
    const char *path = store->name;
    switch (result & 0xff) {
    case SQLITE_NOMEM:
        return bl__fail(err, BL_ERR_MEMORY, "conversations: out of memory while %s", what);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return bl__fail(err, BL_ERR_IO, "%s: locked by another process for %u ms, while %s", path,
                        store->wait_ms, what);
    case SQLITE_FULL:
        return bl__fail(err, BL_ERR_IO, "%s: the disk is full: failed at %s", path, what);
    case SQLITE_READONLY:
        return bl__fail(err, BL_ERR_IO, "%s: read-only: failed at %s", path, what);
    case SQLITE_NOTADB:
        return bl__fail(err, BL_ERR_FORMAT, "%s: no SQLite database", path);
    case SQLITE_CORRUPT:
        return bl__fail(err, BL_ERR_FORMAT, "%s: damaged database: failed at %s", path, what);
    default:
        return bl__fail(err, BL_ERR_IO, "%s: failed at %s: %s", path, what,
                        sqlite3_errmsg(store->db));
    }
}

/* Makes each folder of the path up to its last slash. */
static bl_status make_folders(char *path, bl_error *err) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        if (failed)
            bl__fail(err, BL_ERR_IO, "%s: cannot make the folder: %s", path, strerror(errno));
        *slash = '/';
        if (failed)
            return BL_ERR_IO;
    }
    return BL_OK;
}

bl_status bl__store_default_path(char **path, bl_error *err) {
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *out;
    if (data && data[0] == '/') /* the specification ignores relative ones */
        out = bl__path_join(data, "bitloom/conversations.db");
    else if (home && home[0] == '/')
        out = bl__path_join(home, ".local/share/bitloom/conversations.db");
    else
        return bl__fail(err, BL_ERR_NOT_FOUND,
                        "conversations: neither XDG_DATA_HOME nor HOME names a folder");
    if (!out)
        return bl__fail(err, BL_ERR_MEMORY, "conversations: cannot allocate the path");
    bl_status status = make_folders(out, err);
    if (status)
        bl__free(out);
    else
        *path = out;
    return status;
}

static int read_number(sqlite3 *db, const char *sql, sqlite3_int64 *out) {
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
        if (result == SQLITE_ROW) {
            *out = sqlite3_column_int64(statement, 0);
            result = SQLITE_OK;
        }
    }
    sqlite3_finalize(statement);
    return result;
}

/* The version of a database of ours; 0 for an empty one. Others are left alone. */
static bl_status read_version(bl__store *store, int *version, bl_error *err) {
    sqlite3_int64 found = 0, application = 0, n_tables = 0;
    int result = read_number(store->db, "PRAGMA user_version", &found);
    if (result == SQLITE_OK)
        result = read_number(store->db, "PRAGMA application_id", &application);
    if (result == SQLITE_OK)
        result = read_number(store->db, "SELECT count(*) FROM sqlite_master", &n_tables);
    if (result != SQLITE_OK)
        return bl__store_fail(store, result, "reading its version", err);
    if (n_tables ? application != APPLICATION_ID : application != 0)
        return bl__fail(err, BL_ERR_FORMAT, "%s: a database of another program", store->path);
    if (found < 0 || found > VERSION)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: version %lld, made by a newer Bitloom; this one knows up to %d",
                        store->path, (long long)found, VERSION);
    *version = (int)found;
    return BL_OK;
}

static bl_status execute(bl__store *store, const char *sql, const char *what, bl_error *err) {
    int result = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return result == SQLITE_OK ? BL_OK : bl__store_fail(store, result, what, err);
}

/* One transaction: a process that is killed in it leaves the old version. */
static bl_status migrate(bl__store *store, bl_error *err) {
    int version;
    bl_status status = read_version(store, &version, err);
    if (status || version == VERSION)
        return status;
    status = execute(store, "BEGIN IMMEDIATE", "starting to update it", err);
    if (status)
        return status;
    status = read_version(store, &version, err); /* another process may have been first */
    for (; !status && version < VERSION; version++)
        status = execute(store, STEPS[version], "updating it", err);
    if (!status) {
        char sql[100];
        sqlite3_snprintf(sizeof sql, sql, "PRAGMA user_version = %d; PRAGMA application_id = %d",
                         VERSION, APPLICATION_ID);
        status = execute(store, sql, "updating its version", err);
    }
    if (!status)
        status = execute(store, "COMMIT", "updating it", err);
    if (status)
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* SQLite would make the file readable for everyone that the umask lets in. An existing file is not
 * opened here: closing it would release the locks of another store in this process. */
static bl_status make_file(const char *path, bl_error *err) {
    if (path[0] == '\0' || path[0] == ':') /* SQLite's names for a database without a file */
        return bl__fail(err, BL_ERR_ARGUMENT, "conversations: no file can be called \"%s\"", path);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return bl__fail(err, BL_ERR_IO, "%s: cannot make the file: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return BL_OK;
}

/* What a hostile database might use against its reader is off: functions in the schema, writes to
 * internal tables, cells that reach out of their page. */
static bl_status configure(bl__store *store, bl_error *err) {
    sqlite3 *db = store->db;
    sqlite3_busy_timeout(db, (int)store->wait_ms);
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, MAX_ROW);
    sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0);
    bl_status status = execute(store,
                               "PRAGMA cell_size_check = ON; PRAGMA synchronous = FULL;"
                               "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;"
                               "PRAGMA temp_store = MEMORY",
                               "setting it up", err);
    int version;
    if (!status) /* nothing of another program's database changes, so this comes before WAL */
        status = read_version(store, &version, err);
    if (!status)
        status = execute(store, "PRAGMA journal_mode = WAL", "setting up its log", err);
    if (!status)
        status = migrate(store, err);
    int result = status ? SQLITE_OK : bl__store_add_search(db);
    return result == SQLITE_OK ? status : bl__store_fail(store, result, "setting up search", err);
}

bl_status bl__store_open(const char *path, unsigned wait_ms, bl__store **out, bl_error *err) {
    bl__store *store = bl__calloc(1, sizeof *store);
    if (!store)
        return bl__fail(err, BL_ERR_MEMORY, "conversations: cannot allocate");
    pthread_mutex_init(&store->lock, NULL);
    store->wait_ms = wait_ms;
    bl_status status;
    store->path = bl__strndup(path, strlen(path));
    if (!store->path) {
        status = bl__fail(err, BL_ERR_MEMORY, "conversations: cannot allocate the path");
        goto fail;
    }
    store->name = store->path;
    status = make_file(path, err);
    if (status)
        goto fail;
    int result =
        sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    status = result == SQLITE_OK ? configure(store, err)
                                 : bl__store_fail(store, result, "opening it", err);
    if (status)
        goto fail;
    const char *slash = strrchr(store->path, '/');
    store->name = slash ? slash + 1 : store->path;
    *out = store;
    return BL_OK;
fail:
    bl__store_close(store);
    return status;
}

void bl__store_close(bl__store *store) {
    if (!store)
        return;
    for (size_t i = 0; i < BL_STORE_STATEMENTS; i++)
        sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db);
    pthread_mutex_destroy(&store->lock);
    bl__free(store->path);
    bl__free(store);
}

const char *bl__store_path(const bl__store *store) {
    return store->path;
}
