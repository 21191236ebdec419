/* The table of routes, and the form of responses: patterns, methods, JSON errors, bodies that are
 * no JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "server/fields.h"
#include "server/router.h"
#include "server/sse.h"

static void answer(void *user, bl__request *request, bl__response *response) {
    bl__respond_json(
        response, 200,
        json_pack("[s, s, s]", (const char *)user, request->captures[0], request->captures[1]));
}

static bl__router router;

static int set_up(void **state) {
    (void)state;
    static const bl__route routes[] = {
        {"GET", "/health", answer, 0},
        {"POST", "/things", answer, 0},
        {"GET", "/things/{id}", answer, 0},
        {"DELETE", "/things/{id}", answer, 0},
        {"GET", "/things/{id}/{part}", answer, 0},
        {"GET", "/models/{name+}", answer, 0},
    };
    char *user = (char *)(uintptr_t) "u";
    return (int)bl__router_add(&router, routes, sizeof routes / sizeof *routes, user, NULL);
}

static int dispatch(const char *method, const char *path, char *body, size_t size) {
    bl__request request = {.method = method, .path = path, .body = ""};
    bl__response response;
    bl__response_init(&response);
    bl__router_dispatch(&router, &request, &response);
    size_t len = response.body.len < size - 1 ? response.body.len : size - 1;
    memcpy(body, response.body.data, len);
    body[len] = '\0';
    int status = response.status;
    bl__response_clear(&response);
    return status;
}

static void test_patterns(void **state) {
    (void)state;
    static const struct {
        const char *method, *path;
        int status;
        const char *words;
    } cases[] = {
        {"GET", "/health", 200, "[\"u\",\"\",\"\"]"},
        {"HEAD", "/health", 200, "[\"u\",\"\",\"\"]"},
        {"GET", "/health/", 404, "not_found"},
        {"GET", "/healt", 404, "not_found"},
        {"GET", "/", 404, "not_found"},
        {"GET", "", 404, "not_found"},
        {"GET", "/things", 405, "takes POST, not GET"},
        {"GET", "/things/7", 200, "[\"u\",\"7\",\"\"]"},
        {"DELETE", "/things/7", 200, "[\"u\",\"7\",\"\"]"},
        {"PUT", "/things/7", 405, "takes GET, DELETE, not PUT"},
        {"GET", "/things/", 404, "not_found"},
        {"GET", "/things/a/b", 200, "[\"u\",\"a\",\"b\"]"},
        {"GET", "/things//b", 404, "not_found"},
        {"GET", "/models/org/name", 200, "[\"u\",\"org/name\",\"\"]"},
        {"GET", "/models/", 404, "not_found"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[512];
        int status = dispatch(cases[i].method, cases[i].path, body, sizeof body);
        if (status != cases[i].status || !strstr(body, cases[i].words))
            fail_msg("%s %s: %d %s", cases[i].method, cases[i].path, status, body);
    }
}

static void test_long_paths(void **state) {
    (void)state;
    char path[2 * BL_MAX_PATH] = "/things/", body[1024];
    memset(path + 8, 'x', sizeof path - 9);
    assert_int_equal(dispatch("GET", path, body, sizeof body), 404);
    bl__router full = {.n = BL_MAX_ROUTES - 1};
    const bl__route two[2] = {{"GET", "/a", answer, 0}, {"GET", "/b", answer, 0}};
    assert_int_equal(bl__router_add(&full, two, 2, NULL, NULL), BL_ERR_LIMIT);
    assert_int_equal(full.n, BL_MAX_ROUTES - 1);
}

static void test_bodies(void **state) {
    (void)state;
    static const struct {
        const char *body, *words;
    } cases[] = {
        {"", "not JSON"},
        {"{", "not JSON"},
        {"[]", "an array"},
        {"null", "null"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"a\":1e999}", "not JSON"},
        {"{\"a\":123456789012345678901234567890}", "not JSON"},
        {"{\"a\":\"\\u0000\"}", "not JSON"},
        {"{\"a\":\"\xff\"}", "not JSON"},
        {"{} x", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl__request request = {.body = cases[i].body, .body_len = strlen(cases[i].body)};
        bl__response response;
        bl__response_init(&response);
        assert_null(bl__request_json(&request, &response));
        assert_int_equal(response.status, 400);
        if (!strstr(response.body.data, cases[i].words))
            fail_msg("%s: %s", cases[i].body, response.body.data);
        bl__response_clear(&response);
    }
    char deep[400];
    memset(deep, '[', sizeof deep);
    bl__request request = {.body = deep, .body_len = sizeof deep};
    bl__response response;
    bl__response_init(&response);
    assert_null(bl__request_json(&request, &response));
    assert_non_null(strstr(response.body.data, "nested deeper"));
    bl__response_clear(&response);
}

static void test_fields(void **state) {
    (void)state;
    json_t *root = json_pack("{s:i, s:f, s:f, s:s, s:n, s:[], s:b}", "whole", 3, "real", 2.5,
                             "whole_real", 4.0, "text", "x", "nothing", "list", "yes", 1);
    bl__response response;
    bl__response_init(&response);
    bl__fields f = bl__fields_of(root, &response);
    assert_int_equal(bl__field_integer(&f, "whole", 0, 10, 7), 3);
    assert_int_equal(bl__field_integer(&f, "whole_real", 0, 10, 7), 4);
    assert_int_equal(bl__field_integer(&f, "nothing", 0, 10, 7), 7);
    assert_int_equal(bl__field_integer(&f, "absent", 0, 10, 7), 7);
    assert_true(bl__field_number(&f, "real", 0, 10, 7) == 2.5);
    assert_string_equal(bl__field_string(&f, "text", "y"), "x");
    assert_true(bl__field_bool(&f, "yes", false));
    assert_non_null(bl__field_array(&f, "list"));
    assert_false(f.failed);
    assert_int_equal(bl__field_integer(&f, "whole", 4, 10, 7), 7);
    assert_true(f.failed);
    assert_non_null(strstr(response.body.data, "\"param\":\"whole\""));
    assert_null(bl__field_object(&f, "list")); /* the first error stays */
    assert_non_null(strstr(response.body.data, "\"param\":\"whole\""));
    f.failed = false;
    bl__field_integer(&f, "real", 0, 10, 7);
    assert_non_null(strstr(response.body.data, "a whole number"));
    f.failed = false;
    assert_null(bl__field_object(&f, "list"));
    assert_non_null(strstr(response.body.data, "an array, expected an object"));
    json_decref(root);
    bl__response_clear(&response);
}

static void test_responses(void **state) {
    (void)state;
    bl__response response;
    bl__response_init(&response);
    bl__respond_error(&response, 400, "t", NULL, "c", "bad \xff byte \x01 %s", "\xc3\xa4");
    assert_string_equal(response.body.data,
                        "{\"error\":{\"message\":\"bad ? byte \\u0001 \xc3\xa4\",\"type\":\"t\","
                        "\"param\":null,\"code\":\"c\"}}");
    bl__response_header(&response, "A", "fine");
    bl__response_header(&response, "B", "split\r\nSet-Cookie: x");
    assert_int_equal(response.n_headers, 1);
    bl__respond_json(&response, 200, NULL);
    assert_int_equal(response.status, 500);
    bl__response_clear(&response);
    bl__buffer out = bl__buffer_make(1000);
    bl__sse_data(&out, json_pack("{s:s}", "a", "line\nbreak"));
    bl__sse_event(&out, "e", json_pack("{}"));
    bl__sse_done(&out);
    assert_string_equal(out.data, "data: {\"a\":\"line\\nbreak\"}\n\nevent: e\ndata: {}\n\n"
                                  "data: [DONE]\n\n");
    bl__buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),  cmocka_unit_test(test_long_paths),
        cmocka_unit_test(test_bodies),    cmocka_unit_test(test_fields),
        cmocka_unit_test(test_responses),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
