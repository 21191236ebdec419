/* Checks the routes of conversations and of the page, by hand on the router: what they answer, what
 * they refuse, and that they survive every failing allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "server/conversations.h"
#include "server/page.h"

static char folder[64], path[128];
static bl__store *store;
static bl__router router;
static bl_error err;

/* One exchange: fills `response`, and `answer` with its body when that is JSON. */
static bl__response response;
static json_t *answer;

static void clear(void) {
    json_decref(answer);
    answer = NULL;
    bl__response_clear(&response);
}

static void send_to(const char *method, const char *where, const char *body) {
    static char text[300];
    static bl__pair query[4];
    bl__request request = {
        .method = method, .body = body, .body_len = strlen(body), .query = query};
    snprintf(text, sizeof text, "%s", where);
    char *rest = strchr(text, '?');
    for (; rest && request.n_query < 4; request.n_query++) {
        *rest++ = '\0';
        char *value = strchr(rest, '=');
        *value++ = '\0';
        query[request.n_query] = (bl__pair){rest, value};
        rest = strchr(value, '&');
    }
    request.path = text;
    clear();
    bl__router_dispatch(&router, &request, &response);
    const char *data = response.fixed ? response.fixed : response.body.data;
    size_t len = response.fixed ? response.fixed_len : response.body.len;
    if (strcmp(response.content_type, "application/json") == 0)
        answer = json_loadb(data, len, 0, NULL);
}

static const char *text_of(const char *name) {
    const char *text = json_string_value(json_object_get(answer, name));
    return text ? text : "";
}

static json_int_t number_of(const char *name) {
    return json_integer_value(json_object_get(answer, name));
}

/* The last answer is an error of this status about this field, whose message has these words. */
static void assert_error(int status, const char *param, const char *code, const char *words) {
    const json_t *error = json_object_get(answer, "error");
    const char *found = json_string_value(json_object_get(error, "message"));
    assert_non_null(found);
    if (response.status != status || !strstr(found, words))
        fail_msg("%d: %s", response.status, found);
    const json_t *field = json_object_get(error, "param");
    assert_string_equal(param ? param : "",
                        field && !json_is_null(field) ? json_string_value(field) : "");
    const json_t *name = json_object_get(error, "code");
    assert_string_equal(code ? code : "",
                        name && !json_is_null(name) ? json_string_value(name) : "");
}

static int start(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s/bitloom-routes-XXXXXX",
             bl__directory_exists("/dev/shm") ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/a.db", folder);
    bl__response_init(&response);
    router.n = 0;
    if (bl__store_open(path, 1000, &store, &err))
        return -1;
    return bl__conversations_add(&router, store, &err) || bl__page_add(&router, &err) ? -1 : 0;
}

static int finish(void **state) {
    (void)state;
    clear();
    bl__store_close(store);
    store = NULL;
    unlink(path);
    return rmdir(folder);
}

/* Makes one with two messages; gives its path. */
static const char *make_one(void) {
    static char where[80];
    send_to("POST", "/api/conversations",
            "{\"title\": \"Looms \\\"old\\\"\", \"model\": \"2b\", \"settings\": {\"seed\": 1},"
            " \"messages\": [{\"role\": \"user\", \"content\": \"How?\"},"
            " {\"role\": \"assistant\", \"content\": \"So.\", \"details\": {\"tokens\": 2}}]}");
    assert_int_equal(response.status, 201);
    assert_int_equal(strlen(text_of("id")), BL_STORE_ID);
    assert_int_equal(number_of("message_count"), 2);
    snprintf(where, sizeof where, "/api/conversations/%s", text_of("id"));
    return where;
}

static void a_conversation_lives(void **state) {
    (void)state;
    char messages[120], export[120];
    const char *where = make_one();
    snprintf(messages, sizeof messages, "%s/messages", where);
    snprintf(export, sizeof export, "%s/export?format=markdown", where);

    send_to("GET", where, "");
    assert_int_equal(response.status, 200);
    assert_string_equal(text_of("title"), "Looms \"old\"");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(answer, "settings"), "seed")), 1);
    const json_t *second = json_array_get(json_object_get(answer, "messages"), 1);
    assert_string_equal(json_string_value(json_object_get(second, "content")), "So.");
    assert_int_equal(json_integer_value(json_object_get(second, "position")), 1);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(second, "details"), "tokens")), 2);

    send_to("POST", messages, "{\"messages\": [{\"role\": \"user\", \"content\": \"Ah\"}]}");
    assert_int_equal(response.status, 200);
    assert_int_equal(number_of("message_count"), 3);
    assert_int_equal(number_of("revision"), 1);
    send_to("PUT", messages,
            "{\"from\": 1, \"revision\": 1, \"messages\": [{\"role\": \"assistant\","
            " \"content\": \"Like <b>this</b>\"}]}");
    assert_int_equal(number_of("message_count"), 2);
    send_to("PATCH", where, "{\"title\": \"New\", \"unknown\": [1]}");
    assert_int_equal(response.status, 200);

    send_to("GET", "/api/conversations?query=THIS&limit=1", "");
    assert_true(json_is_true(json_object_get(answer, "stored")));
    assert_true(json_is_false(json_object_get(answer, "has_more")));
    const json_t *row = json_array_get(json_object_get(answer, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "excerpt")), "Like <b>this</b>");
    assert_string_equal(json_string_value(json_object_get(row, "title")), "New");

    send_to("GET", export, "");
    assert_int_equal(response.status, 200);
    assert_non_null(strstr(response.body.data, "# New\n\n20"));
    assert_non_null(
        strstr(response.body.data, ", 2b\n\n## You\n\nHow?\n\n## Assistant\n\nLike <b>this</b>\n"));
    assert_string_equal(response.content_type, "text/markdown; charset=utf-8");
    assert_string_equal(response.headers[0].name, "Content-Disposition");
    assert_non_null(strstr(response.headers[0].value, "attachment; filename=\"conversation-"));
    *strchr(export, '?') = '\0';
    send_to("GET", export, "");
    assert_int_equal(json_array_size(json_object_get(answer, "messages")), 2);

    send_to("DELETE", where, "");
    assert_true(json_is_true(json_object_get(answer, "deleted")));
    send_to("GET", where, "");
    assert_error(404, NULL, "not_found", "no conversation");
}

static void lists_come_in_pages(void **state) {
    (void)state;
    char next[120];
    for (int i = 0; i < 5; i++)
        make_one();
    send_to("GET", "/api/conversations?limit=2", "");
    assert_true(json_is_true(json_object_get(answer, "has_more")));
    const json_t *last = json_array_get(json_object_get(answer, "data"), 1);
    snprintf(next, sizeof next, "/api/conversations?limit=200&after=%s",
             json_string_value(json_object_get(last, "id")));
    send_to("GET", next, "");
    assert_int_equal(json_array_size(json_object_get(answer, "data")), 3);
    assert_true(json_is_false(json_object_get(answer, "has_more")));
}

static void bad_requests_name_the_field(void **state) {
    (void)state;
    char messages[120], export[120];
    const char *where = make_one();
    snprintf(messages, sizeof messages, "%s/messages", where);
    snprintf(export, sizeof export, "%s/export?format=pdf", where);
    const struct {
        const char *method, *where, *body;
        int status;
        const char *param, *code, *words;
    } cases[] = {
        {"POST", "/api/conversations", "{", 400, NULL, "invalid_json", "JSON"},
        {"POST", "/api/conversations", "[]", 400, NULL, NULL, "expected an object"},
        {"POST", "/api/conversations", "{\"title\": 1}", 400, "title", NULL,
         "title: an integer, expected a string"},
        {"POST", "/api/conversations", "{\"title\": \"a\\u0000b\"}", 400, NULL, "invalid_json",
         "JSON"},
        {"POST", "/api/conversations", "{\"title\": \"\xff\"}", 400, NULL, "invalid_json", "JSON"},
        {"POST", "/api/conversations", "{\"settings\": []}", 400, "settings", NULL, "an object"},
        {"POST", "/api/conversations", "{\"messages\": {}}", 400, "messages", NULL, "an array"},
        {"POST", "/api/conversations", "{\"messages\": [1]}", 400, "messages[0]", NULL,
         "messages[0]: an integer, expected an object"},
        {"POST", "/api/conversations", "{\"messages\": [{\"content\": \"\"}]}", 400,
         "messages[0].role", NULL, "expected system, user"},
        {"POST", "/api/conversations", "{\"messages\": [{\"role\": \"user\"}]}", 400,
         "messages[0].content", NULL, "nothing, expected a string"},
        {"POST", "/api/conversations",
         "{\"messages\": [{\"role\": \"user\", \"content\": \"\", \"details\": 3}]}", 400,
         "messages[0].details", NULL, "expected an object"},
        {"POST", messages, "{}", 400, "messages", NULL, "nothing, expected an array"},
        {"PUT", messages, "{\"messages\": []}", 400, "from", NULL, "position"},
        {"PUT", messages, "{\"messages\": [], \"from\": 3}", 400, "from", NULL,
         "from: 3, but there are 2"},
        {"PUT", messages, "{\"messages\": [], \"from\": -1}", 400, "from", NULL, "from 0"},
        {"PUT", messages, "{\"messages\": [], \"from\": 1e3}", 400, "from", NULL, "a real number"},
        {"PUT", messages, "{\"messages\": [], \"from\": 9223372036854775807}", 400, "from", NULL,
         "there are 2"},
        {"PUT", messages, "{\"messages\": [], \"from\": 0, \"revision\": 8}", 409, "revision",
         "conflict", "it is at 0, not 8"},
        {"GET", "/api/conversations?limit=0", "", 400, "limit", NULL, "expected 1 to 200"},
        {"GET", "/api/conversations?limit=2x", "", 400, "limit", NULL, "expected 1 to 200"},
        {"GET", "/api/conversations?limit=99999999999999999999", "", 400, "limit", NULL, "1 to"},
        {"GET", "/api/conversations?query=\xff", "", 400, "query", NULL, "not UTF-8"},
        {"GET", "/api/conversations?after=x", "", 404, NULL, "not_found", "no conversation \"x\""},
        {"GET", "/api/conversations/../../etc/passwd", "", 404, NULL, "not_found", "there is no"},
        {"GET", "/api/conversations/..", "", 404, NULL, "not_found", "no conversation \"..\""},
        {"GET", export, "", 400, "format", NULL, "\"pdf\", expected json or markdown"},
        {"POST", where, "{}", 405, NULL, "method_not_allowed", "GET, PATCH, DELETE"},
        {"GET", "/page/../page.c", "", 404, NULL, "not_found", ""},
        {"GET", "/page/none.js", "", 404, NULL, "not_found", "the page has no file none.js"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        send_to(cases[i].method, cases[i].where, cases[i].body);
        assert_error(cases[i].status, cases[i].param, cases[i].code, cases[i].words);
    }
    send_to("GET", where, "");
    assert_int_equal(number_of("revision"), 0); /* nothing has changed */
}

static void large_titles_are_refused(void **state) {
    (void)state;
    char body[BL_STORE_MAX_TITLE + 40] = "{\"title\": \"";
    memset(body + strlen(body), 'x', BL_STORE_MAX_TITLE + 1);
    memcpy(body + strlen(body), "\"}", 3);
    send_to("POST", "/api/conversations", body);
    assert_error(413, "title", "too_large", "1001 bytes, at most 1000");
}

static void without_a_store_it_says_so(void **state) {
    (void)state;
    router.n = 0;
    assert_int_equal(bl__conversations_add(&router, NULL, &err), BL_OK);
    send_to("GET", "/api/conversations", "");
    assert_int_equal(response.status, 200);
    assert_true(json_is_false(json_object_get(answer, "stored")));
    const char *const paths[] = {"/api/conversations/x", "/api/conversations/x/messages",
                                 "/api/conversations/x/export"};
    const char *const methods[] = {"GET", "POST", "GET"};
    for (int i = 0; i < 3; i++) {
        send_to(methods[i], paths[i], "{}");
        assert_error(404, NULL, "store_off", "the server runs without a store");
    }
}

static void the_page_is_whole_and_strict(void **state) {
    (void)state;
    char *source;
    size_t len;
    static const char *const names[] = {"app.js",      "dialogs.js", "icon.svg",   "markdown.js",
                                        "messages.js", "net.js",     "sidebar.js", "style.css",
                                        "theme.js",    "index.html"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char where[64], file[200];
        snprintf(where, sizeof where, "/page/%s", names[i]);
        snprintf(file, sizeof file, "%s/%s", BITLOOM_PAGE, names[i]);
        send_to("GET", where, "");
        assert_int_equal(response.status, 200);
        assert_int_equal(bl__file_read(file, 1 << 20, &source, &len, &err), BL_OK);
        assert_int_equal(len, response.fixed_len);
        assert_memory_equal(source, response.fixed, len);
        bl__free(source);
    }
    assert_true(bl__page_n_files >= sizeof names / sizeof *names);
    send_to("GET", "/", "");
    assert_string_equal(response.content_type, "text/html; charset=utf-8");
    const char *tag = NULL, *policy = NULL;
    for (size_t i = 0; i < response.n_headers; i++) {
        if (strcmp(response.headers[i].name, "ETag") == 0)
            tag = response.headers[i].value;
        if (strcmp(response.headers[i].name, "Content-Security-Policy") == 0)
            policy = response.headers[i].value;
    }
    assert_non_null(policy);
    assert_non_null(strstr(policy, "default-src 'none'"));
    assert_null(strstr(policy, "unsafe"));
    assert_non_null(tag);

    const bl__pair known = {"If-None-Match", tag};
    bl__request request = {
        .method = "GET", .path = "/", .headers = &known, .n_headers = 1, .body = ""};
    bl__response again;
    bl__response_init(&again);
    bl__router_dispatch(&router, &request, &again);
    assert_int_equal(again.status, 304);
    assert_int_equal(again.fixed_len, 0);
    bl__response_clear(&again);
}

/* A failed allocation gives status 500, or 400 where jansson takes it for bad syntax, and the next
 * request works. */
static void survives_every_failing_allocation(void **state) {
    (void)state;
    const char *where = make_one();
    char messages[120];
    snprintf(messages, sizeof messages, "%s/messages", where);
    const struct {
        const char *method, *where, *body;
    } cases[] = {
        {"POST", "/api/conversations",
         "{\"title\": \"t\", \"settings\": {\"a\": 1}, \"messages\": [{\"role\": \"user\","
         " \"content\": \"x\", \"details\": {\"b\": [2]}}]}"},
        {"GET", where, ""},
        {"GET", "/api/conversations?query=how", ""},
        {"PUT", messages,
         "{\"from\": 0, \"messages\": [{\"role\": \"user\", \"content\": \"y\"}]}"},
        {"PATCH", where, "{\"title\": \"u\", \"settings\": {}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        long before = bl__alloc_count();
        send_to(cases[i].method, cases[i].where, cases[i].body);
        long n = bl__alloc_count() - before;
        for (long k = 1; k <= n; k++) {
            bl__alloc_fail_at(k);
            send_to(cases[i].method, cases[i].where, cases[i].body);
            bl__alloc_fail_at(0);
            /* The last allocations are this test's own reading of the answer. */
            bool misread = response.status == 400 && strstr(response.body.data, "invalid_json");
            if (response.status >= 300 && response.status != 500 && !misread)
                fail_msg("%s %s, allocation %ld: %d, %.*s", cases[i].method, cases[i].where, k,
                         response.status, (int)response.body.len, response.body.data);
        }
        send_to(cases[i].method, cases[i].where, cases[i].body);
        assert_true(response.status < 300);
    }
}

int main(void) {
#ifndef BITLOOM_HAVE_SQLITE
    puts("SKIPPED: built without SQLite");
    return 77;
#endif
    json_set_alloc_funcs(bl__malloc, bl__free);
#define ROUTE_TEST(name) cmocka_unit_test_setup_teardown(name, start, finish)
    const struct CMUnitTest tests[] = {
        ROUTE_TEST(a_conversation_lives),
        ROUTE_TEST(lists_come_in_pages),
        ROUTE_TEST(bad_requests_name_the_field),
        ROUTE_TEST(large_titles_are_refused),
        ROUTE_TEST(without_a_store_it_says_so),
        ROUTE_TEST(the_page_is_whole_and_strict),
        ROUTE_TEST(survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
