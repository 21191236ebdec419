/* Chat templates: the same text as jinja2 for every case of tests/golden/chat_templates.json (see
 * tools/check_chat_templates.py), errors that say what is wrong, and bounded costs whatever the
 * template does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "bitloom/chat.h"
#include "tokenizer/jinja.h"

/* Compiles and renders; the text, or NULL with *err filled. */
static char *render(const char *source, const char *variables, size_t *len, bl_error *err) {
    bl_chat_template *template = NULL;
    char *text = NULL;
    if (bl_chat_template_compile(source, strlen(source), &template, err) == BL_OK)
        (void)bl_chat_template_render_json(template, variables, &text, len, err);
    bl_chat_template_free(template);
    return text;
}

static void expect_text(const char *source, const char *variables, const char *expected) {
    bl_error err = {0};
    size_t len = 0;
    char *text = render(source, variables, &len, &err);
    if (!text)
        fail_msg("%s: %s", source, err.message);
    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
    bl_free(text);
}

static void expect_error(const char *source, const char *variables, bl_status status,
                         const char *words) {
    bl_error err = {0};
    size_t len = 0;
    char *text = render(source, variables, &len, &err);
    if (text)
        fail_msg("%s: rendered '%s', expected an error", source, text);
    if (err.code != status || !strstr(err.message, words))
        fail_msg("%s: error %d '%s', expected %d '%s'", source, (int)err.code, err.message,
                 (int)status, words);
}

static void test_golden(void **state) {
    (void)state;
    json_error_t where;
    json_t *golden = json_load_file(BITLOOM_TEST_DATA "/chat_templates.json", 0, &where);
    if (!golden)
        fail_msg("line %d: %s", where.line, where.text);
    const json_t *cases = json_object_get(golden, "cases");
    size_t n = json_array_size(cases), wrong = 0, errors = 0;
    assert_true(n > 150);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(cases, i), *own = json_object_get(item, "variables");
        const json_t *expected = json_object_get(item, "text");
        const char *source = json_string_value(json_object_get(item, "template"));
        char *variables = json_dumps(own ? own : json_object_get(golden, "variables"), 0);
        bl_error err = {0};
        size_t len = 0;
        char *text = render(source, variables, &len, &err);
        bool same = expected ? text && len == json_string_length(expected) &&
                                   memcmp(text, json_string_value(expected), len) == 0
                             : !text;
        if (!same)
            printf("case %zu: %s\n  expected %s\n  found    %s\n", i, source,
                   expected ? json_string_value(expected) : "an error", text ? text : err.message);
        wrong += !same;
        errors += !expected;
        bl_free(text);
        free(variables);
    }
    printf("%zu cases, %zu of them errors\n", n, errors);
    assert_int_equal(wrong, 0);
    json_decref(golden);
}

static void test_messages(void **state) {
    (void)state;
    static const char source[] =
        "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ m['role'] | capitalize + ': ' + m['content'] | trim + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
        "{{ tools is none }}{{ documents is none }}";
    const bl_chat_message messages[] = {{"system", "Be brief. "}, {"user", "\xff Hi"}};
    const bl_chat_options options = {"<s>", "<|eot_id|>", true};
    bl_chat_template *template = NULL;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(bl_chat_template_compile(source, sizeof source - 1, &template, NULL), BL_OK);
    assert_int_equal(bl_chat_template_render(template, &options, messages, 2, &text, &len, NULL),
                     BL_OK);
    assert_string_equal(text, "<s>System: Be brief.<|eot_id|>User: \xff Hi<|eot_id|>Assistant: "
                              "TrueTrue");
    assert_int_equal(len, strlen(text));
    bl_free(text);
    assert_int_equal(bl_chat_template_render(template, NULL, NULL, 0, &text, NULL, NULL), BL_OK);
    assert_string_equal(text, "TrueTrue");
    bl_free(text);
    assert_int_equal(bl_chat_template_render(template, NULL, NULL, 1, &text, NULL, NULL),
                     BL_ERR_ARGUMENT);
    bl_chat_template_free(template);
    bl_chat_template_free(NULL);
}

static void test_errors(void **state) {
    (void)state;
    expect_error("a\nb\n{{ x", "{}", BL_ERR_FORMAT, "line 3: tag without its end");
    expect_error("{% include 'x' %}", "{}", BL_ERR_UNSUPPORTED, "unknown tag 'include'");
    expect_error("\n{{ 1|nosuch }}", "{}", BL_ERR_UNSUPPORTED, "line 2: unknown filter 'nosuch'");
    expect_error("{{ 1 is nosuch }}", "{}", BL_ERR_UNSUPPORTED, "unknown test 'nosuch'");
    expect_error("{% if x %}{{ 1|nosuch }}{% endif %}", "{\"x\":1}", BL_ERR_UNSUPPORTED, "nosuch");
    expect_error("{% for i in x recursive %}{% endfor %}", "{}", BL_ERR_UNSUPPORTED, "recursive");
    expect_error("{{ f(*x) }}", "{}", BL_ERR_UNSUPPORTED, "*");
    expect_error("{{ raise_exception('Only ' ~ n ~ ' turns') }}", "{\"n\":2}", BL_ERR_ARGUMENT,
                 "Only 2 turns");
    expect_error("\n\n{{ x.y.z }}", "{\"x\":{}}", BL_ERR_ARGUMENT, "line 3: 'y' is undefined");
    expect_error("{{ 1 }}", "[]", BL_ERR_ARGUMENT, "expected a JSON object");
    expect_error("{{ 1 }}", "{\"a\":", BL_ERR_ARGUMENT, "line 1");
    expect_error("{{ 99999999999999999999 }}", "{}", BL_ERR_UNSUPPORTED, "64 bits");
    expect_error("{{ 9223372036854775807 + 1 }}", "{}", BL_ERR_LIMIT, "64 bits");
    expect_error("{{ (0 - 9223372036854775807 - 1) // -1 }}", "{}", BL_ERR_LIMIT, "64 bits");
    expect_error("{{ -(0 - 9223372036854775807 - 1) }}", "{}", BL_ERR_LIMIT, "64 bits");
    expect_error("{{ 3 ** 99 }}", "{}", BL_ERR_LIMIT, "64 bits");
    expect_text("{{ (0 - 9223372036854775807 - 1) % -1 }}", "{}", "0");
    expect_text("{{ 'abc'[(0 - 9223372036854775807 - 1)::(0 - 9223372036854775807 - 1)] }}", "{}",
                "");
    expect_text("{{ 'abc'[9223372036854775807::(0 - 9223372036854775807 - 1)] }}", "{}", "c");
    expect_text("{{ range(9223372036854775806, 9223372036854775807) | list }}", "{}",
                "[9223372036854775806]");
}

/* Templates made to cost much: each must end with BL_ERR_LIMIT, soon. */
static void test_limits(void **state) {
    (void)state;
    static const struct {
        const char *source, *words;
    } cases[] = {
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
        {"{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nested deeper"},
        {"{% macro f() %}{% for i in [1] %}{{ f() ~ f() }}{% endfor %}{% endmacro %}{{ f() }}",
         "nested deeper"},
        {"{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
         "{{ f(60) }}",
         ""},
        {"{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}",
         ""},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}",
         ""},
        {"{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
         "{% endfor %}",
         "bytes of text"},
        {"{{ 'ab' * 999999999999 }}", "repeated"},
        {"{{ [1] * 9223372036854775807 }}", "repeated"},
        {"{% for i in range(99999) %}{{ 'abcdefgh' * 1000 }}{% endfor %}", "bytes of text"},
        {"{{ range(100001) }}", "100000"},
        {"{{ range(0 - 9223372036854775807, 9223372036854775807) }}", "100000"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor "
         "%}"
         "{{ ns.x }}",
         "too deep"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "too deep"},
        {"{% set ns = namespace(x={}) %}{% for i in range(999) %}{% set ns.x = {'a': ns.x} %}"
         "{% endfor %}{{ ns.x | tojson }}",
         "too deep"},
        {"{% set a = namespace(x=[]) %}{% set b = namespace(x=[]) %}{% for i in range(999) %}"
         "{% set a.x = [a.x] %}{% set b.x = [b.x] %}{% endfor %}{{ a.x == b.x }}",
         "too deep"},
        {"{{ 'x' | indent(99999999) }}", "indent"},
        {"{{ 'a'.ljust(999999999) }}", ""},
        {"{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ 'b' in x }}{% endfor %}",
         "steps"},
        {"{% set x = range(99999) | list %}{{ x | unique | list }}", "steps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        clock_t start = clock();
        expect_error(cases[i].source, "{}", BL_ERR_LIMIT, cases[i].words);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds > 20) /* generous, for sanitizers; a release build takes well under one */
            fail_msg("%s: %.1f seconds", cases[i].source, seconds);
    }
}

/* `open` n times, middle, `close` n times. */
static void expect_nested(const char *before, const char *open, size_t n, const char *middle,
                          const char *close, const char *after, bl_status status) {
    size_t size = n * (strlen(open) + strlen(close)) + 200, len = 0;
    char *source = malloc(size), *text = NULL;
    assert_non_null(source);
    len += (size_t)snprintf(source + len, size - len, "%s", before);
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(source + len, size - len, "%s", open);
    len += (size_t)snprintf(source + len, size - len, "%s", middle);
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(source + len, size - len, "%s", close);
    len += (size_t)snprintf(source + len, size - len, "%s", after);
    bl_error err = {0};
    text = render(source, "{}", &len, &err);
    if (err.code != status || (status == BL_OK) != (text != NULL))
        fail_msg("%zu times '%s': status %d, expected %d", n, open, (int)err.code, (int)status);
    bl_free(text);
    free(source);
}

static void test_deep_source(void **state) {
    (void)state;
    expect_nested("{{ ", "(", 100, "1", ")", " }}", BL_OK);
    expect_nested("{{ ", "(", 100000, "1", ")", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "[", 100000, "1", "]", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "{1:", 100000, "1", "}", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "-", 100000, "1", "", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "not ", 100000, "1", "", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "1 if 1 else ", 50000, "1", "", " }}", BL_ERR_LIMIT);
    expect_nested("{{ x", "[x", 100000, "", "]", " }}", BL_ERR_LIMIT);
    expect_nested("{{ ", "f(", 100000, "1", ")", " }}", BL_ERR_LIMIT);
    expect_nested("{{ 1", " + 1", 400, "", "", " }}", BL_OK);
    expect_nested("{{ 1", " + 1", 100000, "", "", " }}", BL_ERR_LIMIT);
    expect_nested("{{ 1", " is none(1", 10000, "", ")", " }}", BL_ERR_LIMIT);
    expect_nested("{{ 1", "|string", 100000, "", "", " }}", BL_ERR_LIMIT);
    expect_nested("{{ x", ".x", 100000, "", "", " }}", BL_ERR_LIMIT);
    expect_nested("{% set x ", "|upper", 100000, "", "", " %}{% endset %}", BL_ERR_LIMIT);
    expect_nested("{% set ", "(", 50000, "a", ")", " = 1 %}", BL_ERR_LIMIT);
    expect_nested("", "{% if 1 %}", 30000, "", "{% endif %}", "", BL_ERR_LIMIT);
    expect_nested("", "{% if 1 %}{% endif %}", 30000, "", "", "", BL_OK);
    expect_nested("{% if 0 %}", "{% elif 0 %}", 30000, "", "", "{% endif %}", BL_OK);
    expect_nested("", "{% for i in [1] %}", 20000, "", "{% endfor %}", "", BL_ERR_LIMIT);
    expect_nested("", "x", 2000000, "", "", "", BL_ERR_LIMIT);
}

/* The macro that a loop round defines keeps that round's variables. */
static void test_captured_scopes(void **state) {
    (void)state;
    expect_text("{% set ns = namespace(f=none) %}{% for i in [1, 2, 3] %}"
                "{% macro g() %}{{ i }}{% endmacro %}{% if i == 2 %}{% set ns.f = g %}{% endif %}"
                "{% endfor %}{{ ns.f() }}",
                "{}", "2");
}

/* The clock without a given time. */
static void test_clock(void **state) {
    (void)state;
    char expected[16];
    time_t now = time(NULL);
    struct tm parts;
    localtime_r(&now, &parts);
    strftime(expected, sizeof expected, "%Y", &parts);
    expect_text("{{ strftime_now('%Y') }}", "{}", expected);
    expect_error("{{ strftime_now('%Q') }}", "{}", BL_ERR_UNSUPPORTED, "%Q");
}

/* Every allocation of a compilation and rendering fails once; sanitizers watch for leaks. */
static void test_failing_allocations(void **state) {
    (void)state;
    static const char source[] =
        "{% macro f(a, b='x\\n') %}{{ a }}{{ b | upper }}{{ kwargs }}{% endmacro %}"
        "{% set ns = namespace(s='') %}{% for i in range(2000) if i % 2 %}"
        "{% set ns.s = ns.s ~ i ~ m[0].role %}{% endfor %}{{ f(ns.s | length, c=m | tojson) }}"
        "{{ m | map(attribute='role') | sort | join(', ') }}{{ 'a b'.split() | list }}";
    static const char variables[] = "{\"m\": [{\"role\": \"user\"}, {\"role\": \"a\"}]}";
    for (long nth = 1;; nth++) {
        bl_error err = {0};
        size_t len = 0;
        bl__alloc_fail_at(nth);
        char *text = render(source, variables, &len, &err);
        bl__alloc_fail_at(0);
        if (text) {
            assert_true(nth > 10);
            bl_free(text);
            break;
        }
        assert_int_equal(err.code, BL_ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_messages),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_deep_source), cmocka_unit_test(test_captured_scopes),
        cmocka_unit_test(test_clock),       cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
