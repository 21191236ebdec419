/* What requests may say and who may say it: tool calls in texts, messages, stored answers, keys,
 * origins, rates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "server/generation.h"
#include "server/limits.h"
#include "server/messages.h"
#include "server/replies.h"
#include "server/response_items.h"
#include "server/tools.h"

/* ---- tool calls ---- */

static void test_calls_in_texts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n_before, n_calls;
        const char *arguments; /* of the first */
    } cases[] = {
        {"Just text.", 10, 0, NULL},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"}{\\\"\"}}</tool_call>", 0, 1,
         "{\"a\":\"}{\\\"\"}"},
        {"Let me see.\n<tool_call>\n{\"name\":\"f\",\"arguments\":{}}\n</tool_call>\n<tool_call>"
         "{\"name\":\"g\"}",
         11, 2, "{}"},
        {"[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\"}]", 0, 2,
         "{\"a\":1}"},
        {"<|python_tag|>{\"name\": \"g\", \"parameters\": {\"b\": null}}", 0, 1, "{\"b\":null}"},
        {"  {\"name\": \"f\", \"parameters\": {}}", 0, 1, "{}"},
        {"<function=f>{\"a\": 2}</function>", 0, 1, "{\"a\":2}"},
        {"{\"name\": \"unknown\", \"arguments\": {}}", 38, 0, NULL},
        {"{\"answer\": 42}", 14, 0, NULL},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\"", 40, 0, NULL},
        {"<tool_call>", 11, 0, NULL},
        {"", 0, 0, NULL},
    };
    json_t *list =
        json_pack("[{s:{s:s}}, {s:{s:s}}]", "function", "name", "f", "function", "name", "g");
    const bl__tools tools = {.list = list};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = strlen(cases[i].text), n_before = 0;
        json_t *calls = bl__tools_find(&tools, cases[i].text, len, &n_before);
        if (json_array_size(calls) != cases[i].n_calls)
            fail_msg("%s: %zu calls", cases[i].text, json_array_size(calls));
        if (calls) {
            json_t *function = json_object_get(json_array_get(calls, 0), "function");
            assert_int_equal(n_before, cases[i].n_before);
            assert_string_equal(json_string_value(json_object_get(function, "arguments")),
                                cases[i].arguments);
        }
        /* Nothing of a call is shown on the way. */
        for (size_t n = 0; calls && n <= len; n++)
            assert_true(bl__tools_shown(cases[i].text, n) <= cases[i].n_before);
        json_decref(calls);
    }
    assert_int_equal(bl__tools_shown("a < b, a <t", 11), 8);
    assert_int_equal(bl__tools_shown("a < b", 5), 5);
    json_decref(list);
}

/* Parses text as a request's object. */
static json_t *object(const char *text) {
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    return root;
}

static void test_tools_of_requests(void **state) {
    (void)state;
    static const struct {
        const char *request, *param; /* NULL: fine */
    } cases[] = {
        {"{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]}", NULL},
        {"{\"tools\": [{\"type\": \"function\", \"name\": \"f\"}], \"tool_choice\": \"required\"}",
         NULL},
        {"{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"no good\"}}]}", "tools"},
        {"{\"tools\": [{\"type\": \"web_search\"}]}", "tools"},
        {"{\"tools\": {}}", "tools"},
        {"{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": "
         "1}}]}",
         "tools"},
        {"{\"tool_choice\": \"required\"}", "tool_choice"},
        {"{\"tool_choice\": \"maybe\"}", "tool_choice"},
        {"{\"tools\": [{\"type\": \"function\", \"name\": \"f\"}], \"tool_choice\": {\"name\": "
         "\"g\"}}",
         "tool_choice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = object(cases[i].request);
        bl__response response;
        bl__tools tools;
        char want[64];
        bl__response_init(&response);
        bl__fields fields = bl__fields_of(root, &response);
        bl__tools_parse(&fields, &tools);
        snprintf(want, sizeof want, "\"param\":\"%s\"", cases[i].param ? cases[i].param : "");
        if (fields.failed != (cases[i].param != NULL) ||
            (fields.failed && !strstr(response.body.data, want)))
            fail_msg("%s: %s", cases[i].request, fields.failed ? response.body.data : "taken");
        json_decref(tools.list);
        bl__response_clear(&response);
        json_decref(root);
    }
}

/* ---- messages ---- */

static void test_messages(void **state) {
    (void)state;
    static const struct {
        const char *request, *result; /* NULL: refused */
    } cases[] = {
        {"{\"m\": [{\"role\": \"user\", \"content\": \"a\"}]}",
         "[{\"role\":\"user\",\"content\":\"a\"}]"},
        {"{\"m\": [{\"role\": \"developer\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, "
         "{\"type\": \"input_text\", \"text\": \"b\"}]}]}",
         "[{\"role\":\"system\",\"content\":\"ab\"}]"},
        {"{\"m\": []}", NULL},
        {"{\"m\": {}}", NULL},
        {"{\"m\": [1]}", NULL},
        {"{\"m\": [{\"content\": \"a\"}]}", NULL},
        {"{\"m\": [{\"role\": \"user\"}]}", NULL},
        {"{\"m\": [{\"role\": \"user\", \"content\": 5}]}", NULL},
        {"{\"m\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", NULL},
        {"{\"m\": [{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {}}]}]}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = object(cases[i].request);
        bl__response response;
        bl__response_init(&response);
        bl__fields fields = bl__fields_of(root, &response);
        json_t *messages = bl__messages_parse(&fields, bl__field(&fields, "m"), "m");
        if ((messages != NULL) != (cases[i].result != NULL))
            fail_msg("%s: %s", cases[i].request, messages ? "taken" : response.body.data);
        if (messages) {
            json_t *want = json_loads(cases[i].result, 0, NULL);
            assert_true(json_equal(messages, want));
            json_decref(want);
        } else {
            assert_int_equal(response.status, 400);
        }
        json_decref(messages);
        bl__response_clear(&response);
        json_decref(root);
    }
}

static void test_tools_told(void **state) {
    (void)state;
    json_t *messages = object("[{\"role\": \"system\", \"content\": \"Be brief.\"}, "
                              "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": "
                              "[{\"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1}}}]}, "
                              "{\"role\": \"tool\", \"content\": \"42\"}]");
    json_t *list = object("[{\"function\": {\"name\": \"f\"}}]");
    const bl__tools tools = {.list = list};
    json_t *told = bl__tools_tell(&tools, messages);
    assert_int_equal(json_array_size(told), 3);
    const char *texts[3];
    for (size_t i = 0; i < 3; i++)
        texts[i] = json_string_value(json_object_get(json_array_get(told, i), "content"));
    assert_true(strncmp(texts[0], "Be brief.\n\nYou can call", 22) == 0);
    assert_non_null(strstr(texts[0], "{\"name\": \"f\"}"));
    assert_string_equal(texts[1],
                        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>");
    assert_string_equal(texts[2], "<tool_response>42</tool_response>");
    json_decref(told);
    json_decref(list);
    json_decref(messages);
}

/* ---- stored answers ---- */

static void test_replies(void **state) {
    (void)state;
    bl__replies *replies = NULL;
    json_t *messages = object("[{\"role\": \"user\", \"content\": \"a\"}]"), *out = NULL;
    char id[32];
    assert_int_equal(bl__replies_create(&replies, NULL), BL_OK);
    for (int i = 0; i < 1200; i++) { /* more than are kept */
        snprintf(id, sizeof id, "r%d", i);
        json_t *response = json_pack("{s:s, s:i}", "id", id, "n", i);
        bl__replies_put(replies, response, messages);
        json_decref(response);
    }
    assert_false(bl__replies_get(replies, "r0", &out, NULL));
    assert_true(bl__replies_get(replies, "r200", NULL, &out));
    assert_true(json_equal(out, messages));
    json_decref(out);
    assert_true(bl__replies_get(replies, "r1199", &out, NULL));
    assert_int_equal(json_integer_value(json_object_get(out, "n")), 1199);
    json_decref(out);
    assert_true(bl__replies_delete(replies, "r1199"));
    assert_false(bl__replies_delete(replies, "r1199"));
    json_decref(messages);
    bl__replies_free(replies);
}

/* ---- who may ask ---- */

/* The status of a request with these headers; 0 when it may go on. */
static int admit(const bl_server_params *params, const char *method, unsigned flags,
                 const bl__pair *headers, size_t n) {
    bl__limits *limits = NULL;
    bl__response response;
    bl__response_init(&response);
    const bl__route route = {"GET", "/x", NULL, flags};
    const bl__match match = {.route = strcmp(method, "GET") == 0 ? &route : NULL,
                             .n_allowed = strcmp(method, "GET") != 0,
                             .allowed = "GET"};
    const bl__request request = {
        .method = method, .path = "/x", .headers = headers, .n_headers = n, .client = "127.0.0.1"};
    assert_int_equal(bl__limits_create(params, &limits, NULL), BL_OK);
    int status = bl__limits_admit(limits, &request, &match, &response) ? 0 : response.status;
    bl__response_clear(&response);
    bl__limits_free(limits);
    return status;
}

#define ADMIT(params, ...)                                                                         \
    admit(params, "GET", 0, (const bl__pair[]){__VA_ARGS__},                                       \
          sizeof((const bl__pair[]){__VA_ARGS__}) / sizeof(bl__pair))

static void test_keys(void **state) {
    (void)state;
    const char *const keys[] = {"first", "second"};
    const bl_server_params params = {.host = "127.0.0.1", .api_keys = keys, .n_api_keys = 2};
    assert_int_equal(ADMIT(&params, {"Host", "localhost"}), 401);
    assert_int_equal(ADMIT(&params, {"authorization", "Bearer second"}), 0);
    assert_int_equal(ADMIT(&params, {"Authorization", "bearer first"}), 0);
    assert_int_equal(ADMIT(&params, {"X-Api-Key", "first"}), 0);
    assert_int_equal(ADMIT(&params, {"Authorization", "Bearer firs"}), 401);
    assert_int_equal(ADMIT(&params, {"Authorization", "Bearer firstfirst"}), 401);
    assert_int_equal(ADMIT(&params, {"Authorization", "Bearer "}), 401);
    assert_int_equal(ADMIT(&params, {"Authorization", "first"}), 401);
    assert_int_equal(admit(&params, "GET", BL_ROUTE_PUBLIC, NULL, 0), 0);
    assert_true(bl__same_secret("abc", "abc"));
    assert_false(bl__same_secret("abc", ""));
    assert_false(bl__same_secret("", "abc"));
    assert_true(bl__same_secret("", ""));
}

static void test_origins(void **state) {
    (void)state;
    const bl_server_params local = {.host = "127.0.0.1"}, open = {.host = "0.0.0.0"};
    const bl_server_params shared = {.host = "0.0.0.0", .cors_origin = "https://a.example"};
    assert_int_equal(ADMIT(&local, {"Host", "127.0.0.1:8080"}), 0);
    assert_int_equal(ADMIT(&local, {"Host", "LOCALHOST"}), 0);
    assert_int_equal(ADMIT(&local, {"Host", "[::1]:8080"}), 0);
    assert_int_equal(ADMIT(&local, {"Host", "a.example"}), 403);
    assert_int_equal(ADMIT(&local, {"Host", "127.0.0.1.a.example"}), 403);
    assert_int_equal(ADMIT(&local, {"Host", "localhost.a.example"}), 403);
    assert_int_equal(ADMIT(&open, {"Host", "a.example"}), 0);
    assert_int_equal(ADMIT(&open, {"Host", "h:1"}, {"Origin", "http://h:1"}), 0);
    assert_int_equal(ADMIT(&open, {"Host", "h:1"}, {"Origin", "http://evil"}), 403);
    assert_int_equal(ADMIT(&open, {"Host", "h:1"}, {"Origin", "null"}), 403);
    assert_int_equal(ADMIT(&shared, {"Host", "h:1"}, {"Origin", "https://a.example"}), 0);
    assert_int_equal(ADMIT(&shared, {"Host", "h:1"}, {"Origin", "https://b.example"}), 403);
    const bl__pair asks[] = {{"Host", "h:1"}, {"Origin", "https://a.example"}};
    assert_int_equal(admit(&shared, "OPTIONS", 0, asks, 2), 204);
}

static void test_rates(void **state) {
    (void)state;
    const bl_server_params params = {.host = "0.0.0.0", .requests_per_minute = 5};
    bl__limits *limits = NULL;
    const bl__route route = {"GET", "/x", NULL, 0};
    const bl__match match = {.route = &route};
    int n_taken[2] = {0, 0};
    assert_int_equal(bl__limits_create(&params, &limits, NULL), BL_OK);
    for (int i = 0; i < 20; i++) {
        const bl__request request = {.method = "GET", .client = i % 2 ? "10.0.0.1" : "10.0.0.2"};
        bl__response response;
        bl__response_init(&response);
        if (bl__limits_admit(limits, &request, &match, &response))
            n_taken[i % 2]++;
        else
            assert_int_equal(response.status, 429);
        bl__response_clear(&response);
    }
    assert_int_equal(n_taken[0], 5);
    assert_int_equal(n_taken[1], 5);
    bl__limits_free(limits);
}

/* ---- fields of all endpoints ---- */

static void test_generation(void **state) {
    (void)state;
    static const struct {
        const char *request, *param;
    } cases[] = {
        {"{\"temperature\": 2.5, \"top_p\": 0, \"seed\": -1, \"stop\": \"\", \"n\": 3}", NULL},
        {"{\"stop\": [\"a\", \"b\"], \"logit_bias\": {\"1\": -100, \"2\": 5.5}}", NULL},
        {"{\"temperature\": -0.1}", "temperature"},
        {"{\"top_p\": 1.5}", "top_p"},
        {"{\"n\": 0}", "n"},
        {"{\"n\": 2.5}", "n"},
        {"{\"stop\": [\"\"]}", "stop"},
        {"{\"stop\": 5}", "stop"},
        {"{\"logit_bias\": {\"x\": 1}}", "logit_bias"},
        {"{\"logit_bias\": {\"1\": 101}}", "logit_bias"},
        {"{\"logit_bias\": [1]}", "logit_bias"},
        {"{\"stream\": \"yes\"}", "stream"},
        {"{\"stream_options\": {\"include_usage\": 1}}", "stream_options.include_usage"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = object(cases[i].request);
        bl__response response;
        bl__generation generation;
        char want[64];
        bl__response_init(&response);
        bl__fields fields = bl__fields_of(root, &response);
        bl__generation_parse(&fields, &generation);
        snprintf(want, sizeof want, "\"param\":\"%s\"", cases[i].param ? cases[i].param : "");
        if (fields.failed != (cases[i].param != NULL) ||
            (fields.failed && !strstr(response.body.data, want)))
            fail_msg("%s: %s", cases[i].request, fields.failed ? response.body.data : "taken");
        bl__generation_clear(&generation);
        bl__response_clear(&response);
        json_decref(root);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_in_texts), cmocka_unit_test(test_tools_of_requests),
        cmocka_unit_test(test_messages),       cmocka_unit_test(test_tools_told),
        cmocka_unit_test(test_replies),        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_origins),        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_generation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
