/* Checks the store of conversations: what it keeps, what it refuses, and that nothing it has
 * acknowledged is lost, whatever kills the process, fills the disk or holds the database. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#ifdef BITLOOM_HAVE_SQLITE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "server/store.h"

enum { WAIT_MS = 3000 };

static char folder[64];
static char path[128]; /* folder/a.db */
static bl_error err;

/* --- SQLite's memory, from where it can be told to fail -------------------------------------- */

enum { HEAD = 16 }; /* before each block: its size */

static void *sqlite_malloc(int size) {
    char *memory = bl__malloc((size_t)size + HEAD);
    if (!memory)
        return NULL;
    memcpy(memory, &size, sizeof size);
    return memory + HEAD;
}

static void sqlite_free(void *memory) {
    if (memory)
        bl__free((char *)memory - HEAD);
}

static void *sqlite_realloc(void *memory, int size) {
    char *larger = bl__realloc((char *)memory - HEAD, (size_t)size + HEAD);
    if (!larger)
        return NULL;
    memcpy(larger, &size, sizeof size);
    return larger + HEAD;
}

static int sqlite_size(void *memory) {
    int size = 0;
    if (memory)
        memcpy(&size, (char *)memory - HEAD, sizeof size);
    return size;
}

static int sqlite_round_up(int size) {
    return (size + 7) & ~7;
}

static int sqlite_start(void *unused) {
    (void)unused;
    return SQLITE_OK;
}

static void sqlite_end(void *unused) {
    (void)unused;
}

static void use_own_memory(void) {
    static const sqlite3_mem_methods methods = {
        sqlite_malloc,   sqlite_free,  sqlite_realloc, sqlite_size,
        sqlite_round_up, sqlite_start, sqlite_end,     NULL};
    sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
    sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0); /* else most requests are served from there */
}

/* --- Helpers --------------------------------------------------------------------------------- */

static int make_folder(void **state) {
    (void)state;
    /* In memory where that can be had: what is checked here does not depend on a real disk. */
    snprintf(folder, sizeof folder, "%s/bitloom-store-XXXXXX",
             bl__directory_exists("/dev/shm") ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/a.db", folder);
    return 0;
}

static void remove_database(void) {
    static const char *const endings[] = {"", "-wal", "-shm", "-journal"};
    char name[160];
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, endings[i]);
        unlink(name);
    }
}

static int remove_folder(void **state) {
    (void)state;
    remove_database();
    return rmdir(folder);
}

static bl__store_text text(const char *data) {
    return (bl__store_text){data, strlen(data)};
}

static bl__store_message said(const char *role, const char *content) {
    return (bl__store_message){.role = role, .content = text(content)};
}

static bl__store *open_store(void) {
    bl__store *store = NULL;
    bl_status status = bl__store_open(path, WAIT_MS, &store, &err);
    if (status)
        fprintf(stderr, "%s\n", err.message);
    assert_int_equal(status, BL_OK);
    return store;
}

static bl__store_mark create(bl__store *store, const char *title) {
    bl__store_mark mark;
    bl__store_fields fields = {.title = text(title)};
    assert_int_equal(bl__store_create(store, &fields, NULL, 0, &mark, &err), BL_OK);
    return mark;
}

/* Everything read, as one string: "title|model|settings|revision: role=content{details} ..." */
typedef struct log {
    char text[4096];
    size_t n_rows, n_messages;
} log;

static void put(log *out, const char *format, ...) {
    size_t len = strlen(out->text);
    va_list args;
    va_start(args, format);
    vsnprintf(out->text + len, sizeof out->text - len, format, args);
    va_end(args);
}

static bool log_row(void *user, const bl__store_row *row) {
    log *out = user;
    out->n_rows++;
    put(out, "%.*s|%.*s|%.*s|%d", (int)row->fields.title.len, row->fields.title.data,
        (int)row->fields.model.len, row->fields.model.data, (int)row->fields.settings.len,
        row->fields.settings.data, (int)row->mark.revision);
    if (row->excerpt.data)
        put(out, "<%.*s>", (int)row->excerpt.len, row->excerpt.data);
    put(out, ";");
    assert_int_equal(strlen(row->mark.id), BL_STORE_ID);
    return true;
}

static bool log_message(void *user, size_t position, const bl__store_message *message) {
    log *out = user;
    assert_int_equal(position, out->n_messages++);
    put(out, " %s=%.*s%.*s", message->role, (int)message->content.len, message->content.data,
        (int)message->details.len, message->details.data);
    return true;
}

static void assert_reads(bl__store *store, const char *id, const char *expected) {
    log out = {0};
    assert_int_equal(bl__store_read(store, id, log_row, log_message, &out, &err), BL_OK);
    assert_string_equal(out.text, expected);
}

/* The titles in the list that have the words. */
static void assert_finds(bl__store *store, const char *words, const char *expected) {
    log out = {0};
    bool more;
    assert_int_equal(bl__store_list(store, text(words), NULL, 10, log_row, &out, &more, &err),
                     BL_OK);
    assert_string_equal(out.text, expected);
}

static void assert_fails(bl_status status, bl_status expected, const char *message) {
    assert_int_equal(status, expected);
    assert_int_equal(err.code, expected);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" is not in \"%s\"", message, err.message);
}

/* --- What it keeps --------------------------------------------------------------------------- */

static void keeps_what_it_is_given(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_fields fields = {
        .title = text("Loom"), .model = text("2b"), .settings = text("{\"seed\":1}")};
    bl__store_message first[] = {said("user", "a"), said("assistant", "b")};
    bl__store_mark mark;
    first[1].details = text("{\"tokens\":2}");
    assert_int_equal(bl__store_create(store, &fields, first, 2, &mark, &err), BL_OK);
    assert_int_equal(mark.n_messages, 2);
    assert_reads(store, mark.id, "Loom|2b|{\"seed\":1}|0; user=a{} assistant=b{\"tokens\":2}");

    bl__store_message more[] = {said("user", "c"), said("assistant", "é\n\"d\" 😀")};
    assert_int_equal(
        bl__store_write(store, mark.id, mark.revision, BL_STORE_END, more, 2, &mark, &err), BL_OK);
    assert_int_equal(mark.n_messages, 4);
    assert_int_equal(mark.revision, 1);
    bl__store_close(store);

    store = open_store();
    assert_string_equal(bl__store_path(store), path);
    assert_reads(store, mark.id,
                 "Loom|2b|{\"seed\":1}|1; user=a{} assistant=b{\"tokens\":2} user=c{} "
                 "assistant=é\n\"d\" 😀{}");

    /* An edited question replaces what came after it. */
    assert_int_equal(bl__store_write(store, mark.id, -1, 2, &more[1], 1, &mark, &err), BL_OK);
    assert_int_equal(mark.n_messages, 3);
    assert_int_equal(bl__store_write(store, mark.id, 2, 1, NULL, 0, &mark, &err), BL_OK);
    assert_reads(store, mark.id, "Loom|2b|{\"seed\":1}|3; user=a{}");

    bl__store_fields renamed = {.title = text("Other")};
    assert_int_equal(bl__store_edit(store, mark.id, &renamed, &mark, &err), BL_OK);
    assert_int_equal(mark.revision, 4);
    assert_int_equal(mark.n_messages, 1);
    assert_reads(store, mark.id, "Other|2b|{\"seed\":1}|4; user=a{}");

    assert_int_equal(bl__store_delete(store, mark.id, &err), BL_OK);
    assert_fails(bl__store_delete(store, mark.id, &err), BL_ERR_NOT_FOUND, mark.id);
    assert_finds(store, "", "");
    bl__store_close(store);
    bl__store_close(NULL);
}

/* Whoever may not read the folder's other files may not read this one, and what was deleted is not
 * left in it. */
static void keeps_to_itself(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "private-title");
    bl__store_message message = said("user", "private-words");
    assert_int_equal(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_OK);
    struct stat about;
    char name[160];
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    snprintf(name, sizeof name, "%s-wal", path);
    assert_int_equal(stat(name, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    assert_int_equal(bl__store_delete(store, mark.id, &err), BL_OK);
    bl__store_close(store);

    char *data;
    size_t len;
    assert_int_equal(bl__file_read(path, 1 << 20, &data, &len, &err), BL_OK);
    assert_null(memmem(data, len, "private", 7));
    bl__free(data);
    assert_false(bl__file_exists(name));
}

static void lists_page_by_page(void **state) {
    (void)state;
    bl__store *store = open_store();
    char title[16], after[BL_STORE_ID + 1];
    bl__store_mark marks[7];
    for (int i = 0; i < 7; i++) {
        snprintf(title, sizeof title, "t%d", i);
        marks[i] = create(store, title);
    }
    log out = {0};
    bool more = false;
    assert_int_equal(bl__store_list(store, text(""), NULL, 3, log_row, &out, &more, &err), BL_OK);
    assert_string_equal(out.text, "t6||{}|0;t5||{}|0;t4||{}|0;");
    assert_true(more);
    assert_int_equal(bl__store_list(store, text(""), marks[4].id, 3, log_row, &out, &more, &err),
                     BL_OK);
    assert_true(more);
    assert_int_equal(bl__store_list(store, text(""), marks[1].id, 3, log_row, &out, &more, &err),
                     BL_OK);
    assert_false(more);
    assert_int_equal(out.n_rows, 7);
    assert_int_equal(bl__store_list(store, text(""), marks[0].id, 3, log_row, &out, &more, &err),
                     BL_OK);
    assert_int_equal(out.n_rows, 7);

    memset(after, '0', BL_STORE_ID);
    after[BL_STORE_ID] = '\0';
    assert_fails(bl__store_list(store, text(""), after, 3, log_row, &out, &more, &err),
                 BL_ERR_NOT_FOUND, after);
    assert_fails(bl__store_list(store, text(""), NULL, 0, log_row, &out, &more, &err),
                 BL_ERR_ARGUMENT, "limit: 0, expected 1 to 200");
    assert_fails(
        bl__store_list(store, text(""), NULL, BL_STORE_MAX_ROWS + 1, log_row, &out, &more, &err),
        BL_ERR_ARGUMENT, "limit: 201");
    bl__store_close(store);
}

static void finds_words_in_any_case_and_script(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "Straße nach Köln");
    bl__store_message messages[] = {
        said("user", "Где находится МОСКВА-река?"), said("assistant", "今日は京都へ行きます"),
        said("user", "It has 100% wool_and \"linen\""),
        said("assistant", "A long beginning that is of no use to whoever looks for the needle "
                          "in this haystack, which goes on for longer than an excerpt may be, so "
                          "that it must be cut at both of its ends to be of any use here.")};
    assert_int_equal(bl__store_write(store, mark.id, -1, 0, messages, 4, &mark, &err), BL_OK);
    create(store, "Another");
    assert_finds(store, "KÖLN", "Straße nach Köln||{}|1;");
    assert_finds(store, "москва", "Straße nach Köln||{}|1<Где находится МОСКВА-река?>;");
    assert_finds(store, "京都", "Straße nach Köln||{}|1<今日は京都へ行きます>;");
    assert_finds(store, "100% WOOL_", "Straße nach Köln||{}|1<It has 100% wool_and \"linen\">;");
    assert_finds(store, "100_", "");
    assert_finds(store, "moscow", "");
    assert_finds(store, "' OR 1 --", "");
    assert_finds(store, "needle in",
                 "Straße nach Köln||{}|1<…is of no use to whoever looks for the needle in this "
                 "haystack, which goes on for longer than an excerpt may be, so that it must be "
                 "cut at both of its ends to…>;");
    assert_finds(store, "o",
                 "Another||{}|0;Straße nach Köln||{}|1<It has 100% wool_and "
                 "\"linen\">;");
    bl__store_close(store);
}

/* --- What it refuses ------------------------------------------------------------------------- */

static void refuses_what_no_text_may_have(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "kept"), ignored;
    bl__store_message good = said("user", "good"), bad = good;
    const struct {
        bl__store_text content;
        const char *message;
    } cases[] = {
        {{"a\0b", 3}, "messages[1].content: a NUL"},
        {{"\0", 1}, "messages[1].content: a NUL"},
        {{"ok\xff", 3}, "messages[1].content: not UTF-8 at byte 2"},
        {{"\xc0\xaf", 2}, "not UTF-8 at byte 0"},
        {{"\xed\xa0\x80", 3}, "not UTF-8 at byte 0"},
        {{"\xf4\x90\x80\x80", 4}, "not UTF-8 at byte 0"},
        {{"\xe2\x82", 2}, "not UTF-8 at byte 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bad.content = cases[i].content;
        const bl__store_message both[] = {good, bad};
        assert_fails(bl__store_write(store, mark.id, -1, BL_STORE_END, both, 2, &ignored, &err),
                     BL_ERR_ARGUMENT, cases[i].message);
    }
    bad = said("robot\x1b", "x");
    assert_fails(bl__store_write(store, mark.id, -1, 0, &bad, 1, &ignored, &err), BL_ERR_ARGUMENT,
                 "messages[0].role: \"robot?\", expected system");
    bad = good;
    bad.details = (bl__store_text){"\xff", 1};
    assert_fails(bl__store_write(store, mark.id, -1, 0, &bad, 1, &ignored, &err), BL_ERR_ARGUMENT,
                 "messages[0].details: not UTF-8");
    bl__store_fields fields = {.title = {"\xff", 1}};
    assert_fails(bl__store_edit(store, mark.id, &fields, &ignored, &err), BL_ERR_ARGUMENT,
                 "title: not UTF-8");
    fields = (bl__store_fields){.model = {"a\0b", 3}};
    assert_fails(bl__store_create(store, &fields, NULL, 0, &ignored, &err), BL_ERR_ARGUMENT,
                 "model: a NUL");
    assert_reads(store, mark.id, "kept||{}|0;");
    bl__store_close(store);
}

static void refuses_what_is_too_large(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "kept");
    char *large = bl__malloc(BL_STORE_MAX_CONTENT + 1);
    assert_non_null(large);
    memset(large, 'a', BL_STORE_MAX_CONTENT + 1);
    bl__store_message message = said("user", "");
    message.content = (bl__store_text){large, BL_STORE_MAX_CONTENT + 1};
    assert_fails(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_ERR_LIMIT,
                 "messages[0].content: 8388609 bytes, at most 8388608");
    message.content.len--;
    message.details = (bl__store_text){large, BL_STORE_MAX_JSON};
    assert_int_equal(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_OK);
    message.details.len++;
    assert_fails(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_ERR_LIMIT,
                 "messages[0].details: 65537 bytes");
    bl__store_fields fields = {.title = {large, BL_STORE_MAX_TITLE + 1}};
    assert_fails(bl__store_edit(store, mark.id, &fields, &mark, &err), BL_ERR_LIMIT,
                 "title: 1001 bytes, at most 1000");
    bool more;
    log out = {0};
    assert_fails(bl__store_list(store, (bl__store_text){large, BL_STORE_MAX_QUERY + 1}, NULL, 1,
                                log_row, &out, &more, &err),
                 BL_ERR_LIMIT, "query: 201 bytes");
    bl__free(large);

    bl__store_message *many = bl__calloc(BL_STORE_MAX_MESSAGES + 1, sizeof *many);
    assert_non_null(many);
    for (size_t i = 0; i <= BL_STORE_MAX_MESSAGES; i++)
        many[i] = said("user", "x");
    assert_fails(
        bl__store_write(store, mark.id, -1, 0, many, BL_STORE_MAX_MESSAGES + 1, &mark, &err),
        BL_ERR_LIMIT, "messages: 10001 of them, at most 10000");
    assert_int_equal(
        bl__store_write(store, mark.id, -1, 0, many, BL_STORE_MAX_MESSAGES, &mark, &err), BL_OK);
    assert_fails(bl__store_write(store, mark.id, -1, BL_STORE_END, many, 1, &mark, &err),
                 BL_ERR_LIMIT, "messages: a conversation has at most 10000");
    bl__free(many);
    bl__store_close(store);
}

static void refuses_unknown_places(void **state) {
    (void)state;
    static const char *const ids[] = {"",
                                      "0",
                                      "../../../../etc/passwd",
                                      "00112233445566778899aabbccddeeff",
                                      "00112233445566778899AABBCCDDEEFF",
                                      "00112233445566778899aabbccddeef'",
                                      "00112233445566778899aabbccddeeff0"};
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "kept"), other = create(store, "other");
    assert_string_not_equal(mark.id, other.id);
    bl__store_message message = said("user", "x");
    log out = {0};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        assert_fails(bl__store_read(store, ids[i], log_row, log_message, &out, &err),
                     BL_ERR_NOT_FOUND, "no conversation");
        assert_fails(bl__store_write(store, ids[i], -1, 0, &message, 1, &other, &err),
                     BL_ERR_NOT_FOUND, "no conversation");
        assert_fails(bl__store_edit(store, ids[i], &(bl__store_fields){0}, &other, &err),
                     BL_ERR_NOT_FOUND, "no conversation");
        assert_fails(bl__store_delete(store, ids[i], &err), BL_ERR_NOT_FOUND, "no conversation");
    }
    assert_fails(bl__store_write(store, mark.id, -1, 1, &message, 1, &other, &err), BL_ERR_ARGUMENT,
                 "from: 1, but there are 0 messages");
    assert_fails(bl__store_write(store, mark.id, 3, 0, &message, 1, &other, &err), BL_ERR_CANCELLED,
                 "revision: the conversation has changed: it is at 0, not 3");
    bl__store_close(store);
}

/* --- Databases that it did not make ---------------------------------------------------------- */

static void copy_golden(void) {
    char *data;
    size_t len;
    bl__outfile *file;
    assert_int_equal(
        bl__file_read(BITLOOM_TEST_DATA "/store_version_1.db", 1 << 20, &data, &len, &err), BL_OK);
    assert_int_equal(bl__outfile_open(path, &file, &err), BL_OK);
    assert_int_equal(bl__outfile_write(file, data, len, &err), BL_OK);
    assert_int_equal(bl__outfile_commit(file, &err), BL_OK);
    bl__free(data);
}

static void brings_version_1_up_to_date(void **state) {
    (void)state;
    copy_golden();
    for (int i = 0; i < 2; i++) { /* the second time nothing is left to do */
        bl__store *store = open_store();
        assert_finds(store, "", "Weaving||{}|0;Empty||{}|0;");
        assert_reads(store, "00112233445566778899aabbccddeeff",
                     "Weaving||{}|0; user=How does a loom work?{} assistant=Warp threads are held "
                     "taut – the weft goes between them.{}");
        bl__store_close(store);
    }
    bl__store *store = open_store();
    bl__store_mark mark;
    bl__store_message message = said("user", "Thanks");
    assert_int_equal(
        bl__store_write(store, "ffeeddccbbaa99887766554433221100", 0, 0, &message, 1, &mark, &err),
        BL_OK);
    assert_reads(store, mark.id, "Empty||{}|1; user=Thanks{}");
    bl__store_close(store);
}

static void execute(const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    int result = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if (result != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

/* Refused, and left byte for byte as it was. */
static void assert_refused(bl_status expected, const char *message) {
    bl__store *store = NULL;
    char *before, *after;
    size_t len, len_after;
    assert_int_equal(bl__file_read(path, 1 << 20, &before, &len, &err), BL_OK);
    assert_fails(bl__store_open(path, WAIT_MS, &store, &err), expected, message);
    assert_null(store);
    assert_int_equal(bl__file_read(path, 1 << 20, &after, &len_after, &err), BL_OK);
    assert_int_equal(len, len_after);
    assert_memory_equal(before, after, len);
    bl__free(before);
    bl__free(after);
    remove_database();
}

static void write_file(const char *data, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    fclose(file);
}

static void leaves_other_files_alone(void **state) {
    (void)state;
    execute("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)");
    assert_refused(BL_ERR_FORMAT, "a database of another program");
    execute("PRAGMA application_id = 7; PRAGMA user_version = 1");
    assert_refused(BL_ERR_FORMAT, "a database of another program");
    copy_golden();
    execute("PRAGMA user_version = 99");
    assert_refused(BL_ERR_UNSUPPORTED, "version 99, made by a newer Bitloom; this one knows up");
    copy_golden();
    execute("PRAGMA user_version = -1");
    assert_refused(BL_ERR_UNSUPPORTED, "version -1");
    char noise[5000];
    memset(noise, 'x', sizeof noise);
    write_file(noise, sizeof noise);
    assert_refused(BL_ERR_FORMAT, "a.db: no SQLite database");
    bl__store *store = NULL;
    assert_fails(bl__store_open("", WAIT_MS, &store, &err), BL_ERR_ARGUMENT, "no file");
    assert_fails(bl__store_open(":memory:", WAIT_MS, &store, &err), BL_ERR_ARGUMENT, ":memory:");
    assert_fails(bl__store_open("/nowhere/at/all.db", WAIT_MS, &store, &err), BL_ERR_IO,
                 "/nowhere/at/all.db: cannot make the file: No such file");
    assert_int_not_equal(bl__store_open(folder, WAIT_MS, &store, &err), BL_OK);
    assert_null(store);
}

/* Damage anywhere gives an error or wrong rows, never a crash. */
static void survives_damaged_databases(void **state) {
    (void)state;
    char *data;
    size_t len;
    bl__random random;
    bl__random_seed(&random, 8);
    assert_int_equal(
        bl__file_read(BITLOOM_TEST_DATA "/store_version_1.db", 1 << 20, &data, &len, &err), BL_OK);
    for (int i = 0; i < 100; i++) {
        char *copy = bl__strndup("", 0);
        copy = bl__realloc(copy, len);
        assert_non_null(copy);
        memcpy(copy, data, len);
        for (int k = 0; k < 8; k++) /* the header names the size of pages; leave some of it whole */
            copy[(i % 4 ? 32 : 0) + bl__random_below(&random, len - 32)] =
                (char)bl__random_u64(&random);
        write_file(copy, i % 5 ? len : (size_t)bl__random_below(&random, len));
        bl__free(copy);
        bl__store *store = NULL;
        if (bl__store_open(path, WAIT_MS, &store, &err) == BL_OK) {
            log out = {0};
            bool more;
            bl__store_mark mark;
            bl__store_message message = said("user", "x");
            bl__store_list(store, text("loom"), NULL, 10, log_row, &out, &more, &err);
            bl__store_write(store, "00112233445566778899aabbccddeeff", -1, BL_STORE_END, &message,
                            1, &mark, &err);
            bl__store_delete(store, "00112233445566778899aabbccddeeff", &err);
        }
        bl__store_close(store);
        remove_database();
    }
    bl__free(data);
}

static void finds_its_place(void **state) {
    (void)state;
    char *found = NULL, expected[200];
    setenv("XDG_DATA_HOME", folder, 1);
    assert_int_equal(bl__store_default_path(&found, &err), BL_OK);
    snprintf(expected, sizeof expected, "%s/bitloom/conversations.db", folder);
    assert_string_equal(found, expected);
    bl__free(found);
    setenv("XDG_DATA_HOME", "relative", 1);
    setenv("HOME", folder, 1);
    assert_int_equal(bl__store_default_path(&found, &err), BL_OK);
    snprintf(expected, sizeof expected, "%s/.local/share/bitloom/conversations.db", folder);
    assert_string_equal(found, expected);
    bl__free(found);
    unsetenv("HOME");
    assert_fails(bl__store_default_path(&found, &err), BL_ERR_NOT_FOUND, "neither XDG_DATA_HOME");
    for (const char *const *name =
             (const char *const[]){"bitloom", ".local/share/bitloom", ".local/share", ".local", 0};
         *name; name++) {
        snprintf(expected, sizeof expected, "%s/%s", folder, *name);
        assert_int_equal(rmdir(expected), 0);
    }
}

/* --- What goes wrong around it --------------------------------------------------------------- */

enum { KILLS = 24, WRITES = 100 };

/* In a process of its own: writes messages "0", "1" ... and acknowledges each by a byte. */
static void write_until_killed(const char *id, int out) {
    bl__store *store = NULL;
    bl__store_mark mark;
    if (bl__store_open(path, WAIT_MS, &store, NULL) != BL_OK)
        _exit(1);
    for (int i = 0; i < WRITES; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        bl__store_message message = said("user", number);
        if (bl__store_write(store, id, -1, BL_STORE_END, &message, 1, &mark, NULL) != BL_OK ||
            write(out, "+", 1) != 1)
            _exit(1);
    }
    pause(); /* killed with all of them acknowledged and nothing closed */
    _exit(0);
}

static bool check_number(void *user, size_t position, const bl__store_message *message) {
    char number[16];
    snprintf(number, sizeof number, "%zu", position);
    *(size_t *)user = position + 1;
    return message->content.len == strlen(number) &&
           memcmp(message->content.data, number, message->content.len) == 0;
}

static bool ignore_row(void *user, const bl__store_row *row) {
    (void)user, (void)row;
    return true;
}

static void loses_nothing_when_killed(void **state) {
    (void)state;
    bl__random random;
    bl__random_seed(&random, (uint64_t)getpid());
    for (int round = 0; round < KILLS; round++) {
        bl__store *store = open_store();
        bl__store_mark mark = create(store, "killed");
        bl__store_close(store);
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            write_until_killed(mark.id, ends[1]);
        close(ends[1]);
        size_t wanted = bl__random_below(&random, round ? WRITES / 4 : 2) + 1, acknowledged = 0;
        char byte;
        while (acknowledged < wanted && read(ends[0], &byte, 1) == 1)
            acknowledged++;
        usleep((useconds_t)bl__random_below(&random, 2000));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        while (read(ends[0], &byte, 1) == 1) /* said before it died */
            acknowledged++;
        close(ends[0]);

        store = open_store();
        size_t found = 0;
        assert_int_equal(bl__store_read(store, mark.id, ignore_row, check_number, &found, &err),
                         BL_OK);
        if (found < acknowledged || found > acknowledged + 1)
            fail_msg("%zu messages, %zu acknowledged", found, acknowledged);
        bl__store_close(store);
    }
}

/* In a process of its own, whose limits and mounts it changes. 0: all is well. */
static int fill_disk(bool small_disk) {
    bl__store *store = NULL;
    bl__store_mark mark;
    bl__store_fields fields = {.title = text("full")};
    bl_error problem = {0};
    char *large = bl__malloc(300000);
    memset(large, 'a', 300000);
    bl__store_message message = said("user", "before"), huge = message;
    huge.content = (bl__store_text){large, 300000};
    if (bl__store_open(path, WAIT_MS, &store, &problem) ||
        bl__store_create(store, &fields, &message, 1, &mark, &problem))
        return 1;
    struct rlimit limit = {200000, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    if (!small_disk && setrlimit(RLIMIT_FSIZE, &limit))
        return 2;
    for (int i = 0; i < 3; i++) {
        problem.message[0] = '\0';
        if (bl__store_write(store, mark.id, -1, 1, &huge, 1, &mark, &problem) != BL_ERR_IO)
            return 3;
        if (!strstr(problem.message, small_disk ? "the disk is full" : "a.db: "))
            return 4;
    }
    limit.rlim_cur = RLIM_INFINITY;
    if (!small_disk && setrlimit(RLIMIT_FSIZE, &limit))
        return 5;
    huge.content.len = small_disk ? 10 : 300000; /* there is room for this */
    if (bl__store_write(store, mark.id, 0, 1, &huge, 1, &mark, &problem))
        return 6;
    if (mark.n_messages != 2 || mark.revision != 1)
        return 7;
    bl__store_close(store);
    bl__free(large);
    return 0;
}

static int in_child(int (*run)(void)) {
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(run());
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

static int fill_limited_file(void) {
    return fill_disk(false);
}

enum { NOT_ALLOWED = 77 };

static bool put_line(const char *name, const char *line) {
    FILE *file = fopen(name, "w");
    bool ok = file && fputs(line, file) >= 0;
    return file && fclose(file) == 0 && ok;
}

/* Mounts of its own, of which nothing is seen outside. */
static bool leave_mounts(void) {
    char map[64];
    snprintf(map, sizeof map, "0 %u 1", (unsigned)getuid());
    if (geteuid() == 0
            ? unshare(CLONE_NEWNS) != 0
            : unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !put_line("/proc/self/uid_map", map))
        return false;
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static int fill_small_disk(void) {
    if (!leave_mounts() || mount("none", folder, "tmpfs", 0, "size=256k") != 0)
        return NOT_ALLOWED;
    return fill_disk(true);
}

static void goes_on_after_a_full_disk(void **state) {
    (void)state;
    assert_int_equal(in_child(fill_limited_file), 0);
    int result = in_child(fill_small_disk);
    if (result == NOT_ALLOWED)
        print_message("a small disk of its own: not allowed here\n");
    else
        assert_int_equal(result, 0);
}

static void waits_for_other_processes(void **state) {
    (void)state;
    bl__store *store = NULL;
    bl__store_close(open_store());
    assert_int_equal(bl__store_open(path, 50, &store, &err), BL_OK);
    bl__store_mark mark = create(store, "locked");
    bl__store_message message = said("user", "x");
    sqlite3 *other;
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_fails(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_ERR_IO,
                 "a.db: locked by another process for 50 ms");
    assert_null(strstr(err.message, folder));      /* which is not for clients */
    assert_reads(store, mark.id, "locked||{}|0;"); /* reading goes on */
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    assert_int_equal(bl__store_write(store, mark.id, -1, 0, &message, 1, &mark, &err), BL_OK);

    /* Two stores on one file see each other's writes. */
    bl__store *second = open_store();
    assert_int_equal(bl__store_write(second, mark.id, 1, 1, &message, 1, &mark, &err), BL_OK);
    assert_fails(bl__store_write(store, mark.id, 1, 1, &message, 1, &mark, &err), BL_ERR_CANCELLED,
                 "it is at 2, not 1");
    bl__store_close(second);
    bl__store_close(store);
}

enum { THREADS = 4, EACH = 40 };

typedef struct worker {
    bl__store *store;
    const char *id;
    size_t n_failed;
} worker;

static void *append_many(void *user) {
    worker *w = user;
    bl__store_mark mark;
    bl__store_message message = said("user", "x");
    for (int i = 0; i < EACH; i++)
        w->n_failed +=
            bl__store_write(w->store, w->id, -1, BL_STORE_END, &message, 1, &mark, NULL) != BL_OK;
    return NULL;
}

static void threads_take_turns(void **state) {
    (void)state;
    bl__store *store = open_store();
    bl__store_mark mark = create(store, "threads");
    pthread_t threads[THREADS];
    worker workers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){store, mark.id, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, append_many, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_failed, 0);
    }
    assert_int_equal(
        bl__store_write(store, mark.id, THREADS * EACH, THREADS * EACH, NULL, 0, &mark, &err),
        BL_OK);
    bl__store_close(store);
}

/* Opens, writes, searches and reads; the first failure ends it. */
static bl_status use_store(void) {
    bl__store *store = NULL;
    bl__store_mark mark;
    bl__store_fields fields = {.title = text("memory"), .model = text("2b")};
    bl__store_message messages[] = {said("user", "one"), said("assistant", "two")};
    log out = {0};
    bool more;
    bl_status status = bl__store_open(path, WAIT_MS, &store, &err);
    if (!status)
        status = bl__store_create(store, &fields, messages, 2, &mark, &err);
    if (!status)
        status = bl__store_write(store, mark.id, 0, 1, messages, 2, &mark, &err);
    if (!status)
        status = bl__store_edit(store, mark.id, &fields, &mark, &err);
    if (!status)
        status = bl__store_list(store, text("TWO"), NULL, 5, log_row, &out, &more, &err);
    if (!status)
        status = bl__store_read(store, mark.id, log_row, log_message, &out, &err);
    if (!status)
        status = bl__store_delete(store, mark.id, &err);
    bl__store_close(store);
    return status;
}

static void survives_every_failing_allocation(void **state) {
    (void)state;
    long before = bl__alloc_count();
    assert_int_equal(use_store(), BL_OK);
    long n = bl__alloc_count() - before;
    /* The first of them all, then a sample: SQLite makes many alike. */
    for (long i = 1; i <= n; i += i < 200 ? 1 : 7) {
        if (i % 50 == 0)
            remove_database();
        bl__alloc_fail_at(i);
        bl_status status = use_store();
        bl__alloc_fail_at(0);
        if (status != BL_OK && status != BL_ERR_MEMORY)
            fail_msg("allocation %ld of %ld: %d, %s", i, n, status, err.message);
    }
    assert_int_equal(use_store(), BL_OK);
}

int main(void) {
    use_own_memory();
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        STORE_TEST(keeps_what_it_is_given),
        STORE_TEST(keeps_to_itself),
        STORE_TEST(lists_page_by_page),
        STORE_TEST(finds_words_in_any_case_and_script),
        STORE_TEST(refuses_what_no_text_may_have),
        STORE_TEST(refuses_what_is_too_large),
        STORE_TEST(refuses_unknown_places),
        STORE_TEST(brings_version_1_up_to_date),
        STORE_TEST(leaves_other_files_alone),
        STORE_TEST(survives_damaged_databases),
        STORE_TEST(finds_its_place),
        STORE_TEST(loses_nothing_when_killed),
        STORE_TEST(goes_on_after_a_full_disk),
        STORE_TEST(waits_for_other_processes),
        STORE_TEST(threads_take_turns),
        STORE_TEST(survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("SKIPPED: built without SQLite");
    return 77;
}

#endif
