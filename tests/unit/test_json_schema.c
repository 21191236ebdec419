/* JSON schemas as grammars: what each keyword allows, what is refused and where, and thousands of
 * random texts, each of which must parse and be valid by a validator of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "base/alloc.h"
#include "base/random.h"
#include "generate/grammar.h"
#include "generate/grammar_stack.h"

static bl_tokenizer *tokenizer;
static bl_token_trie *trie;

static bl_grammar *compile(const char *schema) {
    bl_grammar *grammar = NULL;
    bl_error err = {.message = ""};
    if (bl_grammar_from_json_schema(schema, strlen(schema), &grammar, &err) != BL_OK)
        print_error("%s: %s\n", schema, err.message);
    assert_non_null(grammar);
    return grammar;
}

static bool is_whole(const bl_grammar *grammar, const char *text) {
    bl__states states;
    assert_int_equal(bl__states_init(&states, grammar->net, 1), BL_OK);
    uint32_t state = bl__states_start(&states);
    for (size_t i = 0; text[i] && state != BL_STATE_DEAD; i++)
        state = bl__states_step(&states, state, (uint8_t)text[i]);
    assert_int_equal(states.status, BL_OK);
    bool whole = state != BL_STATE_DEAD && states.list[state].may_end;
    bl__states_destroy(&states);
    return whole;
}

/* Texts that are whole, a NULL, texts that are not, a NULL. */
static void check(const char *schema, ...) {
    bl_grammar *grammar = compile(schema);
    va_list texts;
    va_start(texts, schema);
    for (int expected = 1; expected >= 0; expected--)
        for (const char *text; (text = va_arg(texts, const char *));) {
            if (is_whole(grammar, text) != expected)
                print_error("%s: %s: expected to be %s\n", schema, text,
                            expected ? "allowed" : "refused");
            assert_int_equal(is_whole(grammar, text), expected);
        }
    va_end(texts);
    bl_grammar_free(grammar);
}

static void test_any_value(void **state) {
    (void)state;
    check("true", "{}", "[]", "[1, {\"a\":null}]", "\"x\"", "-0.5e+7", "true", "null", NULL, "",
          "{", "nul", "01", "1.", ".5", "[1,]", "{\"a\"}", "'a'", " {}", "{} ", "[\n  1\n]x", NULL);
    check("{}", "[\n  1,\n  2\n]", "{\n\t\"a\": 1\n}", NULL, "[  1]", "[1 ,2]", NULL);
    bl_grammar *grammar = NULL;
    assert_int_equal(bl_grammar_from_json_object(&grammar, NULL), BL_OK);
    assert_true(is_whole(grammar, "{\"a\": [{}], \"b\": \"\"}"));
    assert_false(is_whole(grammar, "[]"));
    bl_grammar_free(grammar);
    check("{\"type\":\"string\"}", "\"\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u00e4\xc3\xa4\"",
          "\"\\ud83d\\ude00\"", "\"\\u0001\"", "\"\\u0100\"", NULL, "\"\n\"", "\"\\x\"",
          "\"\\u00g0\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83d\\u0041\"", "\"\\u0000\"",
          "\"\xff\"", "\"", "\"a\"b\"", NULL);
    check("{\"type\":\"boolean\"}", "true", "false", NULL, "null", "True", NULL);
    check("{\"type\":[\"null\",\"integer\"]}", "null", "-5", "0", NULL, "1.5", "\"1\"", NULL);
    check("{\"type\":\"string\",\"nullable\":true}", "null", "\"a\"", NULL, "1", NULL);
}

static void test_strings(void **state) {
    (void)state;
    check("{\"minLength\":2,\"maxLength\":3}", "\"ab\"", "\"a\\n\\u0041\"",
          "\"\xc3\xa4\xf0\x9f\x98\x80\"", NULL, "\"a\"", "\"abcd\"", "1", NULL);
    check("{\"type\":\"string\",\"maxLength\":0}", "\"\"", NULL, "\"a\"", NULL);
    check("{\"pattern\":\"^[a-c]+$\"}", "\"abc\"", NULL, "\"\"", "\"abd\"", "\"a", NULL);
    check("{\"pattern\":\"b+c\"}", "\"abbcd\"", "\"bc\"", "\"\\\"bc\\n\"", NULL, "\"bb\"", NULL);
    check("{\"pattern\":\"^a|b$\"}", "\"axx\"", "\"xxb\"", NULL, "\"xax\"", NULL);
    check("{\"pattern\":\"^(?:x(y|z){2}|\\\\d{1,2}\\\\.?[^\\\\d\\\"]*?)$\"}", "\"xyz\"", "\"12\"",
          "\"1.x\xc3\xa4\"", NULL, "\"xy\"", "\"123\"", "\"1\\\"\"", NULL);
    check("{\"pattern\":\"^\\\\w\\\\s\\\\u00e4\\\\/\\\\$[\\\\]\\\\-x]$\"}", "\"a \xc3\xa4/$-\"",
          "\"_\\t\xc3\xa4/$]\"", NULL, "\"a \xc3\xa4/$y\"", NULL);
    check("{\"pattern\":\"^.$\"}", "\"\\\\\"", "\"\xe2\x82\xac\"", NULL, "\"\\n\"", "\"\"", NULL);
    check("{\"format\":\"date\"}", "\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\"", NULL,
          "\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"0000-01-01\"",
          NULL);
    check("{\"format\":\"date-time\"}", "\"2024-01-01T23:59:59Z\"",
          "\"2024-01-01T00:00:00.123+05:30\"", NULL, "\"2024-01-01T24:00:00Z\"",
          "\"2024-01-01 00:00:00Z\"", NULL);
    check("{\"format\":\"time\"}", "\"12:00:00Z\"", NULL, "\"12:00\"", NULL);
    check("{\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", NULL,
          "\"123e4567e89b12d3a456426614174000\"", NULL);
    check("{\"format\":\"ipv4\"}", "\"255.0.10.1\"", NULL, "\"256.0.0.1\"", "\"1.2.3\"", NULL);
    check("{\"format\":\"ipv6\"}", "\"::1\"", "\"1:2:3:4:5:6:7:8\"", "\"fe80::1\"", "\"::\"", NULL,
          "\"1:2\"", "\":::\"", NULL);
    check("{\"format\":\"email\"}", "\"a.b@c.org\"", NULL, "\"a@b\"", "\"@b.c\"", "\"a b@c.d\"",
          NULL);
    check("{\"format\":\"duration\"}", "\"P1DT2H\"", "\"PT5M\"", "\"P3W\"", NULL, "\"P\"", "\"PT\"",
          NULL);
    check("{\"format\":\"uri\"}", "\"https://a.org/b?c#d\"", NULL, "\"a.org\"", NULL);
    check("{\"format\":\"hostname\"}", "\"a-b.example\"", NULL, "\"-a\"", NULL);
}

static void test_numbers(void **state) {
    (void)state;
    check("{\"type\":\"integer\"}", "0", "-7", "123456789012345", NULL, "1234567890123456", "00",
          "1.0", "1e3", "+1", NULL);
    check("{\"type\":\"integer\",\"minimum\":-3,\"maximum\":12}", "-3", "-1", "0", "9", "12", NULL,
          "-4", "13", "-0", "-10", "99", "100", NULL);
    check("{\"type\":\"integer\",\"exclusiveMinimum\":0,\"maximum\":9007199254740991}", "1",
          "999999999999999", NULL, "0", "-1", NULL);
    check("{\"type\":\"integer\",\"minimum\":95,\"maximum\":1203}", "95", "99", "100", "999",
          "1000", "1199", "1203", NULL, "94", "1204", "1300", "9", "2000", NULL);
    check("{\"type\":\"integer\",\"minimum\":1.5,\"exclusiveMaximum\":4.5}", "2", "4", NULL, "1",
          "5", NULL);
    check("{\"type\":\"integer\",\"maximum\":-5}", "-5", "-99", NULL, "-4", "0", "5", NULL);
    check("{\"type\":\"number\",\"minimum\":0.5,\"maximum\":1}", "0.5", "0.50", "0.75", "1",
          "0.9999", NULL, "0.4999", "0", "1.01", "1.0000001", "-0.7", "5", NULL);
    check("{\"type\":\"number\",\"exclusiveMinimum\":-1.25,\"exclusiveMaximum\":1.25}", "-1.24",
          "0", "1.2499", "-1", "0.001", NULL, "-1.25", "1.25", "1.3", "-2", NULL);
    check("{\"type\":\"number\",\"minimum\":10,\"exclusiveMinimum\":true}", "10.1", "11", "100",
          NULL, "10", "10.0", "9.9", NULL);
    check("{\"type\":\"number\",\"multipleOf\":0.01}", "1.25", "-3", "0.1", NULL, "1.255", NULL);
    check("{\"type\":\"number\",\"multipleOf\":1}", "125", NULL, "1.5", NULL);
}

static void test_arrays(void **state) {
    (void)state;
    check("{\"items\":{\"type\":\"integer\"}}", "[]", "[1]", "[1, 2,3]", "[\n 1\n]", NULL, "[,1]",
          "[1,]", "[true]", "1", NULL);
    check("{\"type\":\"array\",\"minItems\":2,\"maxItems\":3}", "[1, \"a\"]", "[1,2,3]", NULL, "[]",
          "[1]", "[1,2,3,4]", NULL);
    check("{\"type\":\"array\",\"maxItems\":0}", "[]", NULL, "[1]", NULL);
    check("{\"type\":\"array\",\"maxItems\":2}", "[]", "[1]", "[1,2]", NULL, "[1,2,3]", NULL);
    check("{\"type\":\"array\",\"minItems\":1}", "[1]", "[1,2,3]", NULL, "[]", NULL);
    check("{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", "[1, null]", NULL,
          "[1]", "[1,null,2]", "[null,1]", NULL);
    check("{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"string\"}}", "[1]",
          "[1,\"a\",\"b\"]", NULL, "[]", "[1,2]", NULL);
    check("{\"items\":[{\"type\":\"integer\"}],\"additionalItems\":false}", "[1]", NULL, "[1,2]",
          NULL);
    check("{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":false,\"maxItems\":1}", "[5]", NULL,
          "[5,5]", NULL);
}

static void test_objects(void **state) {
    (void)state;
    check("{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}},"
          "\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
          "{\"a\":1,\"b\":null}", "{\n  \"a\": 1,\n  \"b\": null\n}", NULL, "{}", "{\"a\":1}",
          "{\"b\":null,\"a\":1}", "{\"a\":1,\"b\":null,\"c\":1}", "{\"a\":true,\"b\":null}", NULL);
    check("{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"},\"c\":true},"
          "\"required\":[\"b\"]}",
          "{\"b\":null}", "{\"a\":1, \"b\":null}", "{\"b\":null,\"c\":[]}",
          "{\"a\":1,\"b\":null,\"c\":{}}", NULL, "{}", "{\"a\":1}", "{,\"b\":null}",
          "{\"b\":null,}", "{\"b\":null,\"d\":1}", NULL);
    check("{\"properties\":{\"ab\":{\"type\":\"integer\"},\"a\":{\"type\":\"integer\"}},"
          "\"additionalProperties\":{\"type\":\"boolean\"}}",
          "{}", "{\"x\":true}", "{\"ab\":1}", "{\"a\":1,\"abc\":true,\"b\":false}", "{\"\":true}",
          "{\"\xc3\xa4\":true}", "{\"b\\u0041\":true}", NULL, "{\"a\":true}", "{\"ab\":true}",
          "{\"x\":1}", "{\"\\u0061\":true}", NULL);
    check("{\"type\":\"object\"}", "{}", "{\"a\":1,\"b\":[2]}", NULL, "[]", NULL);
    check("{\"type\":\"object\",\"required\":[\"z\"]}", "{\"z\":1}", "{\"z\":1,\"y\":2}", NULL,
          "{}", "{\"y\":2}", "{\"z\":1,\"z\":1}", NULL);
    check("{\"type\":\"object\",\"properties\":{},\"unevaluatedProperties\":false}", "{}", NULL,
          "{\"a\":1}", NULL);
    check("{\"properties\":{\"a\\\"/\":{\"const\":1}}}", "{}", "{\"a\\\"/\":1}", NULL, NULL);
}

static void test_values(void **state) {
    (void)state;
    check("{\"enum\":[\"a\\n\",1,0.1,1e300,null,[1,{\"b\":2}]]}", "\"a\\n\"", "1", "0.1", "1e+300",
          "null", "[1,{\"b\":2}]", NULL, "2", "\"a\"", NULL);
    check("{\"type\":\"string\",\"enum\":[\"a\",1,null]}", "\"a\"", NULL, "1", "null", NULL);
    check("{\"const\":{\"a\":true}}", "{\"a\":true}", NULL, "{}", NULL);
    check("{\"anyOf\":[{\"type\":\"integer\"},{\"const\":\"x\"}]}", "1", "\"x\"", NULL, "\"y\"",
          NULL);
    check("{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", "1",
          "\"x\"", NULL, "\"xy\"", NULL);
    check(
        "{\"oneOf\":[{\"properties\":{\"k\":{\"const\":\"a\"},\"v\":{\"type\":\"integer\"}},"
        "\"required\":[\"k\",\"v\"],\"type\":\"object\"},{\"properties\":{\"k\":{\"const\":\"b\"}},"
        "\"required\":[\"k\"],\"type\":\"object\"}]}",
        "{\"k\":\"a\",\"v\":1}", "{\"k\":\"b\"}", NULL, "{\"k\":\"a\"}", "{\"k\":\"c\"}", NULL);
    check("{\"allOf\":[{\"minimum\":3},{\"maximum\":7,\"type\":\"integer\"}],\"minimum\":4}", "4",
          "7", NULL, "3", "8", "5.5", NULL);
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}},\"required\":[\"a\"],"
          "\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":5},\"b\":true},"
          "\"required\":[\"b\"]}]}",
          "{\"a\":5,\"b\":0}", NULL, "{\"a\":5.5,\"b\":0}", "{\"a\":4,\"b\":0}", "{\"a\":5}", NULL);
    check("{\"properties\":{\"t\":{\"type\":\"integer\"}},\"required\":[\"t\"],\"anyOf\":["
          "{\"properties\":{\"x\":true},\"required\":[\"x\"]},{\"properties\":{\"y\":true}}]}",
          "{\"t\":1,\"x\":2}", "{\"t\":1}", "{\"t\":1,\"y\":2}", NULL, "{\"x\":2}", "{}", NULL);
    check("{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":true},"
          "\"additionalProperties\":false},{\"properties\":{\"b\":true}}]}",
          "{}", "{\"a\":1}", NULL, "{\"b\":1}", "{\"a\":1,\"b\":1}", NULL);
}

static void test_references(void **state) {
    (void)state;
    check("{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{"
          "\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},"
          "{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}}}",
          "{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}", NULL,
          "{\"v\":1,\"next\":{}}", "{\"v\":1}", NULL);
    check("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", "[]", "[[],[[]]]", NULL, "[1]", NULL);
    check("{\"definitions\":{\"a~b/c d\":{\"const\":1}},\"allOf\":[{\"$ref\":"
          "\"#/definitions/a~0b~1c%20d\"}]}",
          "1", NULL, "2", NULL);
    check("{\"$defs\":{\"n\":{\"type\":\"number\"}},\"$ref\":\"#/$defs/n\",\"minimum\":2,"
          "\"description\":\"x\"}",
          "2", "3.5", NULL, "1", NULL);
    check("{\"properties\":{\"a\":{\"$ref\":\"#/properties/b\"},\"b\":{\"enum\":[5]}}}",
          "{\"a\":5,\"b\":5}", NULL, "{\"a\":4}", NULL);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *schema;
        bl_status status;
        const char *words;
    } cases[] = {
        {"", BL_ERR_FORMAT, "JSON, line 1"},
        {"{\"type\":\"string\"", BL_ERR_FORMAT, "JSON, line 1"},
        {"[]", BL_ERR_FORMAT, "found an array, expected a schema"},
        {"{\"type\":\"text\"}", BL_ERR_FORMAT, "schema #: type: found text"},
        {"{\"properties\":{\"a\":{\"not\":{}}}}", BL_ERR_UNSUPPORTED,
         "schema #/properties/a: the keyword \"not\""},
        {"{\"items\":{\"if\":true}}", BL_ERR_UNSUPPORTED, "#/items: the keyword \"if\""},
        {"{\"anyOf\":[{},{\"properties\":{\"x/y\":{\"uniqueItems\":true}}}]}", BL_ERR_UNSUPPORTED,
         "#/anyOf/1/properties/x~1y: the keyword \"uniqueItems\""},
        {"{\"contains\":{}}", BL_ERR_UNSUPPORTED, "\"contains\""},
        {"{\"patternProperties\":{}}", BL_ERR_UNSUPPORTED, "\"patternProperties\""},
        {"{\"type\":\"object\",\"minProperties\":1}", BL_ERR_UNSUPPORTED, "\"minProperties\""},
        {"{\"type\":\"integer\",\"multipleOf\":5}", BL_ERR_UNSUPPORTED, "multipleOf"},
        {"{\"format\":\"color\"}", BL_ERR_UNSUPPORTED, "format \"color\""},
        {"{\"pattern\":\"(?=a)b\"}", BL_ERR_UNSUPPORTED, "looking ahead"},
        {"{\"pattern\":\"(?<!a)b\"}", BL_ERR_UNSUPPORTED, "looking behind"},
        {"{\"pattern\":\"(a)\\\\1\"}", BL_ERR_UNSUPPORTED, "pattern, character 5"},
        {"{\"pattern\":\"a^b\"}", BL_ERR_UNSUPPORTED, "^ and $"},
        {"{\"pattern\":\"(a\"}", BL_ERR_FORMAT, "expected )"},
        {"{\"pattern\":\"a)\"}", BL_ERR_FORMAT, "no ( for it"},
        {"{\"pattern\":\"*a\"}", BL_ERR_FORMAT, "nothing to repeat"},
        {"{\"pattern\":\"[b-a]\"}", BL_ERR_FORMAT, "ends before"},
        {"{\"pattern\":\"a{3,2}\"}", BL_ERR_FORMAT, "below the minimum"},
        {"{\"minLength\":3,\"maxLength\":2}", BL_ERR_FORMAT, "maxLength is below minLength"},
        {"{\"minLength\":-1}", BL_ERR_FORMAT, "minLength: expected a whole number"},
        {"{\"minimum\":\"1\"}", BL_ERR_FORMAT, "expected numbers"},
        {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", BL_ERR_FORMAT, "no text"},
        {"{\"enum\":[]}", BL_ERR_FORMAT, "no text"},
        {"false", BL_ERR_FORMAT, "no text"},
        {"{\"$ref\":\"http://x\"}", BL_ERR_UNSUPPORTED, "$ref: found \"http://x\""},
        {"{\"$ref\":\"#/a\"}", BL_ERR_FORMAT, "$ref: there is no #/a"},
        {"{\"$ref\":\"#\"}", BL_ERR_UNSUPPORTED, "begins with itself"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", BL_ERR_UNSUPPORTED,
         "oneOf: a value may be of numbers 0 and 1"},
        {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", BL_ERR_UNSUPPORTED,
         "two different \"pattern\""},
        {"{\"allOf\":[{\"$ref\":\"#\"}]}", BL_ERR_UNSUPPORTED, ""},
        {"{\"$defs\":{\"a\":{\"properties\":{\"x\":{\"$ref\":\"#/$defs/"
         "a\"}},\"required\":[\"x\"]}},"
         "\"$ref\":\"#/$defs/a\"}",
         BL_ERR_FORMAT, "no text"},
        {"{\"allOf\":[{\"$ref\":\"#\"},{\"type\":\"object\"}]}", BL_ERR_LIMIT, ""},
        {"{\"required\":[\"a\"],\"additionalProperties\":false}", BL_ERR_FORMAT,
         "\"a\" is no property"},
        {"{\"enum\":[\"a\"],\"maxLength\":3}", BL_ERR_UNSUPPORTED, "\"maxLength\""},
        {"{\"prefixItems\":[],\"items\":false,\"minItems\":1}", BL_ERR_FORMAT, "minItems"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_grammar *grammar = NULL;
        bl_error err = {.message = ""};
        const char *schema = cases[i].schema;
        bl_status status = bl_grammar_from_json_schema(schema, strlen(schema), &grammar, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].words))
            print_error("%s: status %d, %s\n", schema, status, err.message);
        assert_int_equal(status, cases[i].status);
        assert_non_null(strstr(err.message, cases[i].words));
        assert_null(grammar);
    }
}

/* ---- a validator ---- */

static bool is_valid(const json_t *root, const json_t *schema, const json_t *value);

static bool has_type(const json_t *type, const json_t *value) {
    static const char *const names[] = {"object", "array",   "string",  "integer",
                                        "number", "boolean", "boolean", "null"};
    if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type); i++)
            if (has_type(json_array_get(type, i), value))
                return true;
        return false;
    }
    const char *name = json_string_value(type);
    return strcmp(name, names[json_typeof(value)]) == 0 ||
           (strcmp(name, "number") == 0 && json_is_integer(value));
}

static bool matches(const char *pattern, const json_t *value) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    assert_non_null(re);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    int found = pcre2_match(re, (PCRE2_SPTR)json_string_value(value), json_string_length(value), 0,
                            0, data, NULL);
    pcre2_match_data_free(data);
    pcre2_code_free(re);
    return found >= 0; /* 0: there are more groups than room for them */
}

static size_t count_chars(const json_t *value) {
    size_t n = 0;
    for (const char *c = json_string_value(value); *c; c++)
        n += ((uint8_t)*c & 0xc0) != 0x80;
    return n;
}

static bool is_valid_object(const json_t *root, const json_t *schema, const json_t *value) {
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const json_t *required = json_object_get(schema, "required");
    const char *key;
    json_t *member;
    for (size_t i = 0; i < json_array_size(required); i++)
        if (!json_object_get(value, json_string_value(json_array_get(required, i))))
            return false;
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        const json_t *own = json_object_get(properties, key);
        own = own ? own : others;
        if (own && !is_valid(root, own, member))
            return false;
    }
    return true;
}

static bool is_valid_array(const json_t *root, const json_t *schema, const json_t *value) {
    const json_t *first = json_object_get(schema, "prefixItems"), *bound;
    const json_t *items = json_object_get(schema, "items");
    size_t n = json_array_size(value);
    if ((bound = json_object_get(schema, "minItems")) && n < (size_t)json_integer_value(bound))
        return false;
    if ((bound = json_object_get(schema, "maxItems")) && n > (size_t)json_integer_value(bound))
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *own = i < json_array_size(first) ? json_array_get(first, i) : items;
        if (own && !is_valid(root, own, json_array_get(value, i)))
            return false;
    }
    return true;
}

static bool is_valid_scalar(const json_t *schema, const json_t *value) {
    const json_t *k;
    double x = json_number_value(value);
    if (json_is_string(value)) {
        size_t n = count_chars(value);
        if (((k = json_object_get(schema, "minLength")) && n < (size_t)json_integer_value(k)) ||
            ((k = json_object_get(schema, "maxLength")) && n > (size_t)json_integer_value(k)) ||
            ((k = json_object_get(schema, "pattern")) && !matches(json_string_value(k), value)))
            return false;
    }
    return !json_is_number(value) ||
           !(((k = json_object_get(schema, "minimum")) && x < json_number_value(k)) ||
             ((k = json_object_get(schema, "maximum")) && x > json_number_value(k)) ||
             ((k = json_object_get(schema, "exclusiveMinimum")) && x <= json_number_value(k)) ||
             ((k = json_object_get(schema, "exclusiveMaximum")) && x >= json_number_value(k)));
}

static size_t count_valid(const json_t *root, const json_t *list, const json_t *value) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        n += is_valid(root, json_array_get(list, i), value);
    return n;
}

static bool is_valid(const json_t *root, const json_t *schema, const json_t *value) {
    const json_t *k;
    json_t *any = (json_t *)(uintptr_t)value;
    if (json_is_boolean(schema))
        return json_is_true(schema);
    if ((k = json_object_get(schema, "$ref"))) {
        const char *name = strrchr(json_string_value(k), '/');
        if (!is_valid(root, name ? json_object_get(json_object_get(root, "$defs"), name + 1) : root,
                      value))
            return false;
    }
    if ((k = json_object_get(schema, "type")) && !has_type(k, value))
        return false;
    if ((k = json_object_get(schema, "const")) && !json_equal((json_t *)(uintptr_t)k, any))
        return false;
    if ((k = json_object_get(schema, "enum"))) {
        bool found = false;
        for (size_t i = 0; i < json_array_size(k); i++)
            found = found || json_equal(json_array_get(k, i), any);
        if (!found)
            return false;
    }
    if (((k = json_object_get(schema, "anyOf")) && count_valid(root, k, value) == 0) ||
        ((k = json_object_get(schema, "oneOf")) && count_valid(root, k, value) != 1) ||
        ((k = json_object_get(schema, "allOf")) &&
         count_valid(root, k, value) != json_array_size(k)))
        return false;
    return is_valid_scalar(schema, value) &&
           (!json_is_object(value) || is_valid_object(root, schema, value)) &&
           (!json_is_array(value) || is_valid_array(root, schema, value));
}

/* ---- random texts ---- */

static const char *const SCHEMAS[] = {
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":30},"
    "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},\"tags\":{\"type\":\"array\","
    "\"items\":{\"enum\":[\"new\",\"old\",\"n\xc3\xa4\xc3\xafve\"]},\"maxItems\":4}},"
    "\"required\":[\"name\",\"age\",\"tags\"],\"additionalProperties\":false}",
    "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{"
    "\"value\":{\"type\":\"number\",\"exclusiveMinimum\":-1.5,\"maximum\":12.25},\"left\":{"
    "\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]},\"right\":{\"anyOf\":["
    "{\"type\":\"null\"},{\"$ref\":\"#/$defs/node\"}]}},\"required\":[\"value\"]}}}",
    "{\"type\":\"array\",\"minItems\":1,\"maxItems\":6,\"items\":{\"oneOf\":[{\"type\":\"object\","
    "\"properties\":{\"kind\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},\"required\":"
    "[\"kind\",\"x\"]},{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"b\"},\"y\":{"
    "\"type\":\"boolean\"}},\"required\":[\"kind\"],\"additionalProperties\":{\"type\":\"null\"}},"
    "{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]{1,8}( [0-9]+)?$\"}]}}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":"
    "{\"type\":[\"string\",\"null\"],\"maxLength\":5}}",
    "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"number\",\"minimum\":0.25}}"
    ","
    "\"required\":[\"n\"]},{\"properties\":{\"n\":{\"maximum\":1000},\"s\":{\"type\":\"string\","
    "\"minLength\":3,\"maxLength\":40}},\"required\":[\"s\"]}]}",
    "{\"prefixItems\":[{\"type\":\"integer\",\"exclusiveMaximum\":-7},{\"type\":\"string\","
    "\"pattern\":\"^[^y\\\"]{1,20}$\"},true],\"items\":false,\"type\":\"array\"}",
    "true",
};

static bl_token closers[3];

static bl_token draw(bl__random *random, const uint64_t *mask, size_t n_words) {
    size_t n = 0, word = 0;
    /* Now and then what closes something, or texts would go on for ever. */
    for (size_t i = 0; i < 3 && bl__random_below(random, 4) == 0; i++)
        if (bl_mask_has(mask, closers[i]))
            return closers[i];
    for (size_t w = 0; w < n_words; w++)
        n += (size_t)__builtin_popcountll(mask[w]);
    size_t pick = (size_t)bl__random_below(random, n);
    for (;; word++) {
        size_t here = (size_t)__builtin_popcountll(mask[word]);
        if (pick < here)
            break;
        pick -= here;
    }
    uint64_t bits = mask[word];
    while (pick-- > 0)
        bits &= bits - 1;
    return (bl_token)(word * 64 + (size_t)__builtin_ctzll(bits));
}

enum { MAX_TOKENS = 400, MAX_TEXT = 1 << 16, N_TEXTS = 10000 };

/* Writes one text; false when it was cut. */
static bool write_text(bl_matcher *matcher, bl__random *random, char *text, size_t *len) {
    size_t n_words = (bl_tokenizer_vocab_size(tokenizer) + 63) / 64;
    *len = 0;
    bl_matcher_reset(matcher);
    for (int i = 0; i < MAX_TOKENS; i++) {
        const uint64_t *mask;
        if (bl_matcher_must_end(matcher))
            return true;
        assert_int_equal(bl_matcher_mask(matcher, &mask, NULL), BL_OK);
        bl_token token = draw(random, mask, n_words);
        assert_int_equal(bl_matcher_accept(matcher, token, NULL), BL_OK);
        if (bl_tokenizer_is_end(tokenizer, token))
            return true;
        size_t n;
        const char *piece = bl_tokenizer_piece(tokenizer, token, 0, &n);
        assert_true(n < MAX_TEXT - *len);
        memcpy(text + *len, piece, n);
        *len += n;
    }
    return bl_matcher_may_end(matcher);
}

static void test_random_texts(void **state) {
    (void)state;
    enum { N_SCHEMAS = sizeof SCHEMAS / sizeof *SCHEMAS };
    static char text[MAX_TEXT];
    size_t n_whole = 0, len;
    bl__random random;
    bl__random_seed(&random, 8);
    for (size_t k = 0; k < N_SCHEMAS; k++) {
        json_t *schema = json_loads(SCHEMAS[k], JSON_DECODE_ANY, NULL);
        bl_grammar *grammar = compile(SCHEMAS[k]);
        bl_matcher *matcher = NULL;
        assert_int_equal(bl_matcher_create(grammar, trie, &matcher, NULL), BL_OK);
        size_t n_wanted = n_whole + N_TEXTS / N_SCHEMAS + 1, n_cut = 0;
        while (n_whole < n_wanted) {
            if (!write_text(matcher, &random, text, &len)) {
                assert_true(++n_cut < N_TEXTS / 2);
                continue;
            }
            n_whole++;
            json_error_t problem = {.text = ""};
            json_t *value = json_loadb(text, len, JSON_DECODE_ANY, &problem);
            if (!value || !is_valid(schema, schema, value))
                print_error("%s\n%.*s\n%s\n", SCHEMAS[k], (int)len, text, problem.text);
            assert_non_null(value);
            assert_true(is_valid(schema, schema, value));
            json_decref(value);
        }
        bl_matcher_free(matcher);
        bl_grammar_free(grammar);
        json_decref(schema);
    }
    assert_true(n_whole >= N_TEXTS);
}

static void *fail_malloc(size_t size) {
    return bl__malloc(size);
}

static void test_memory(void **state) {
    (void)state;
    json_malloc_t before_malloc;
    json_free_t before_free;
    json_get_alloc_funcs(&before_malloc, &before_free);
    json_set_alloc_funcs(fail_malloc, bl__free);
    for (size_t k = 1; k < 6; k++)
        for (long n = 1;; n++) {
            bl_grammar *grammar = NULL;
            bl_error err = {.code = BL_OK};
            bl__alloc_fail_at(n);
            bl_status status =
                bl_grammar_from_json_schema(SCHEMAS[k], strlen(SCHEMAS[k]), &grammar, &err);
            bl__alloc_fail_at(0);
            bl_grammar_free(grammar);
            if (status == BL_OK)
                break;
            /* Without memory jansson takes a string for something else. */
            if (status != BL_ERR_FORMAT || !strstr(err.message, "JSON, line"))
                assert_int_equal(status, BL_ERR_MEMORY);
            assert_int_equal(err.code, status);
            assert_true(n < 20000);
        }
    json_set_alloc_funcs(before_malloc, before_free);
}

static int set_up(void **state) {
    (void)state;
    if (bl_tokenizer_open(BITLOOM_MODELS "/novels-6m.gguf", &tokenizer, NULL) ||
        bl_token_trie_create(tokenizer, 0, &trie, NULL))
        return -1;
    for (bl_token t = 0; t < (bl_token)bl_tokenizer_vocab_size(tokenizer); t++) {
        size_t n;
        const char *piece = bl_tokenizer_piece(tokenizer, t, 0, &n);
        for (size_t i = 0; i < 3 && n == 1; i++)
            if (*piece == "}]\""[i])
                closers[i] = t;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    bl_token_trie_free(trie);
    bl_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_value),    cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_objects),      cmocka_unit_test(test_values),
        cmocka_unit_test(test_references),   cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_random_texts), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
