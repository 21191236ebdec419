/* docs/openapi.json says what the table of routes says: the same paths and methods, no more, no
 * less, and every reference in it is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "server/page.h"
#include "server/server.h"

static bl_server server;
static json_t *document;

static json_t *find_method(json_t *methods, const char *name) {
    const char *key;
    json_t *value;
    json_object_foreach(methods, key, value) {
        if (strcasecmp(key, name) == 0)
            return value;
    }
    return NULL;
}

/* "{name+}" of the table is "{name}" in the document. */
static void plain_pattern(const char *pattern, char *out, size_t size) {
    size_t n = 0;
    for (; *pattern && n + 1 < size; pattern++)
        if (*pattern != '+')
            out[n++] = *pattern;
    out[n] = '\0';
}

static void test_routes_are_documented(void **state) {
    (void)state;
    json_t *paths = json_object_get(document, "paths");
    for (size_t i = 0; i < server.router.n; i++) {
        const bl__route *route = &server.router.routes[i];
        char pattern[256];
        if (route->flags & BL_ROUTE_HIDDEN)
            continue;
        plain_pattern(route->pattern, pattern, sizeof pattern);
        json_t *operation = find_method(json_object_get(paths, pattern), route->method);
        if (!operation)
            fail_msg("%s %s is not in docs/openapi.json", route->method, pattern);
        /* What needs no key says so. */
        bool is_open = json_object_get(operation, "security") != NULL;
        if (is_open != ((route->flags & BL_ROUTE_PUBLIC) != 0))
            fail_msg("%s %s: security", route->method, pattern);
    }
}

static void test_document_is_routed(void **state) {
    (void)state;
    json_t *paths = json_object_get(document, "paths"), *methods, *operation;
    const char *path, *name;
    assert_true(json_object_size(paths) > 10);
    json_object_foreach(paths, path, methods) {
        json_object_foreach(methods, name, operation) {
            char method[16];
            size_t len = strlen(name);
            assert_true(len < sizeof method);
            for (size_t i = 0; i <= len; i++)
                method[i] = (char)(name[i] >= 'a' && name[i] <= 'z' ? name[i] - 32 : name[i]);
            bl__request request = {.method = method, .path = path};
            bl__match match = bl__router_find(&server.router, &request);
            if (!match.route || (match.route->flags & BL_ROUTE_HIDDEN))
                fail_msg("%s %s has no route", method, path);
            size_t n_parameters = 0;
            for (const char *c = path; *c; c++)
                n_parameters += *c == '{';
            if (json_array_size(json_object_get(operation, "parameters")) < n_parameters)
                fail_msg("%s %s: parameters of the path", method, path);
            assert_non_null(json_object_get(operation, "summary"));
            assert_non_null(json_object_get(operation, "responses"));
        }
    }
}

static void check_references(json_t *value) {
    const char *key;
    json_t *inner;
    size_t i;
    json_object_foreach(value, key, inner) {
        if (strcmp(key, "$ref") == 0) {
            json_t *at = document;
            char path[256];
            snprintf(path, sizeof path, "%s", json_string_value(inner));
            assert_true(strncmp(path, "#/", 2) == 0);
            for (char *part = path + 2, *next; part; part = next) {
                next = strchr(part, '/');
                if (next)
                    *next++ = '\0';
                at = json_object_get(at, part);
            }
            if (!at)
                fail_msg("%s is not there", json_string_value(inner));
        }
        check_references(inner);
    }
    if (json_is_array(value))
        json_array_foreach(value, i, inner) check_references(inner);
}

static void test_references(void **state) {
    (void)state;
    check_references(document);
}

static int set_up(void **state) {
    (void)state;
    for (size_t i = 0; i < bl__page_n_files; i++)
        if (strcmp(bl__page_files[i].name, "openapi.json") == 0)
            document = json_loadb((const char *)bl__page_files[i].data, bl__page_files[i].len,
                                  JSON_REJECT_DUPLICATES, NULL);
    return document ? (int)bl__server_add_routes(&server, NULL) : 1;
}

static int tear_down(void **state) {
    (void)state;
    json_decref(document);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes_are_documented),
        cmocka_unit_test(test_document_is_routed),
        cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
