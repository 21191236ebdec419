/* Owns the way from JSON schemas to networks: references, combinations, types. What a schema
 * constrains is either kept by construction or refused by name and JSON pointer. Must not know
 * tokens. */
#include "generate/json_schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "generate/grammar.h"

const bl__json_limits BL_SCHEMA_LIMITS = {.depth = 200, .values = 100000};

enum { MAX_RULES = 4096 };

/* ---- messages ---- */

void bl__schema_fail(bl__schemas *s, bl_status status, const char *format, ...) {
    char text[sizeof((bl_error *)0)->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bl__net_fail(s->b, status, "schema %s: %s", s->path, text);
}

void bl__schema_charge(bl__schemas *s, uint64_t n_steps) {
    s->n_work += n_steps;
    if (s->n_work > BL_SCHEMA_MAX_WORK)
        bl__schema_fail(s, BL_ERR_LIMIT, "too many combinations of its parts");
}

/* The first word of *list, and *list goes on behind it; NULL at the end. */
static const char *next_word(const char **list, char word[32]) {
    size_t n = strcspn(*list, " ");
    snprintf(word, 32, "%.*s", (int)n, *list);
    *list += n + strspn(*list + n, " ");
    return n ? word : NULL;
}

void bl__schema_refuse(bl__schemas *s, const json_t *schema, const char *keywords) {
    char word[32];
    while (next_word(&keywords, word))
        if (json_object_get(schema, word))
            bl__schema_fail(s, BL_ERR_UNSUPPORTED, "the keyword \"%s\" is not supported here",
                            word);
}

size_t bl__schema_enter(bl__schemas *s, const char *key) {
    size_t before = strlen(s->path), at = before;
    char part[4] = "/";
    for (const char *c = key; *part; c++) {
        size_t n = strlen(part);
        if (at + n + 1 > sizeof s->path)
            break;
        memcpy(s->path + at, part, n + 1);
        at += n;
        snprintf(part, sizeof part, *c == '~' ? "~0" : *c == '/' ? "~1" : "%c", *c);
    }
    return before;
}

void bl__schema_leave(bl__schemas *s, size_t length) {
    s->path[length] = '\0';
}

uint32_t bl__schema_count(bl__schemas *s, const json_t *schema, const char *keyword,
                          uint32_t otherwise) {
    const json_t *value = json_object_get(schema, keyword);
    if (!value)
        return otherwise;
    double n = json_number_value(value);
    if (!json_is_number(value) || !(n >= 0) || n != (double)(uint64_t)(n < 1e18 ? n : 0)) {
        bl__schema_fail(s, BL_ERR_FORMAT, "%s: expected a whole number that is not negative",
                        keyword);
        return otherwise;
    }
    if (n > BL_NET_MAX_REPEAT) {
        if (otherwise == BL_NET_ANY_COUNT)
            return otherwise; /* no text is that long */
        bl__schema_fail(s, BL_ERR_LIMIT, "%s of more than %d", keyword, BL_NET_MAX_REPEAT);
        return otherwise;
    }
    return (uint32_t)n;
}

/* ---- rules ---- */

bool bl__schemas_init(bl__schemas *s, bl__net_builder *b) {
    *s = (bl__schemas){.b = b, .text = bl__json_text_make(b), .made = json_array()};
    if (!s->made)
        bl__net_fail(b, BL_ERR_MEMORY, "grammar: no memory for schemas");
    return s->made;
}

void bl__schemas_destroy(bl__schemas *s) {
    json_decref(s->made);
    bl__free(s->rules);
    *s = (bl__schemas){.b = NULL};
}

const json_t *bl__schema_keep(bl__schemas *s, json_t *made) {
    if (!made || json_array_append_new(s->made, made) != 0) {
        bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for schemas");
        return NULL;
    }
    return made;
}

/* The rule of a schema, to be compiled later if it is new. */
static bl__fragment call_schema(bl__schemas *s, const json_t *schema, const char *path) {
    for (size_t i = 0; i < s->n_rules; i++)
        if (s->rules[i].schema == schema)
            return bl__net_call(s->b, s->rules[i].rule);
    if (s->n_rules == s->rule_room) {
        size_t room = s->rule_room ? 2 * s->rule_room : 16;
        void *rules =
            room <= MAX_RULES ? bl__realloc_array(s->rules, room, sizeof *s->rules) : NULL;
        if (!rules) {
            bl__net_fail(s->b, room <= MAX_RULES ? BL_ERR_MEMORY : BL_ERR_LIMIT,
                         "grammar: no room for more than %zu schemas", s->n_rules);
            return bl__net_empty(s->b);
        }
        s->rules = rules;
        s->rule_room = room;
    }
    bl__schema_rule *r = &s->rules[s->n_rules++];
    *r = (bl__schema_rule){.schema = schema, .root = s->root, .rule = bl__net_rule_new(s->b)};
    snprintf(r->path, sizeof r->path, "%s", path);
    return bl__net_call(s->b, r->rule);
}

bl__fragment bl__schemas_call(bl__schemas *s, const json_t *schema, const char *where) {
    s->root = schema;
    return call_schema(s, schema, where);
}

void bl__schemas_compile(bl__schemas *s) {
    while (s->n_done < s->n_rules && !s->b->status) {
        const bl__schema_rule r = s->rules[s->n_done++];
        s->root = r.root;
        memcpy(s->path, r.path, sizeof s->path);
        bl__net_define(s->b, r.rule, bl__schema_value(s, r.schema));
    }
}

static bl__fragment call_ref(bl__schemas *s, const json_t *ref) {
    const json_t *target = bl__schema_find(s, ref);
    return target ? call_schema(s, target, json_string_value(ref)) : bl__net_empty(s->b);
}

/* ---- combinations ---- */

/* Keywords that constrain. */
static const char CONSTRAINTS[] =
    " $ref allOf anyOf oneOf not if enum const type nullable minLength maxLength pattern format "
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf items prefixItems "
    "additionalItems minItems maxItems uniqueItems contains unevaluatedItems properties required "
    "additionalProperties patternProperties propertyNames minProperties maxProperties "
    "unevaluatedProperties dependentRequired dependentSchemas dependencies $dynamicRef "
    "$recursiveRef ";

static bool is_constraint(const char *keyword) {
    char padded[40];
    if (strlen(keyword) > sizeof padded - 3 || strchr(keyword, ' '))
        return false;
    snprintf(padded, sizeof padded, " %s ", keyword);
    return strstr(CONSTRAINTS, padded);
}

static bool constrains_but_for(const json_t *schema, const char *but) {
    for (void *i = json_object_iter((json_t *)(uintptr_t)schema); i;
         i = json_object_iter_next((json_t *)(uintptr_t)schema, i)) {
        const char *key = json_object_iter_key(i);
        if (strcmp(key, but) != 0 && is_constraint(key))
            return true;
    }
    return false;
}

/* The schema without one of its keywords; NULL after a complaint. */
static const json_t *without(bl__schemas *s, const json_t *schema, const char *keyword) {
    json_t *copy = json_copy((json_t *)(uintptr_t)schema);
    if (copy)
        json_object_del(copy, keyword);
    return bl__schema_keep(s, copy);
}

static bl__fragment compile_all_of(bl__schemas *s, const json_t *schema, const json_t *list) {
    const json_t *all = without(s, schema, "allOf");
    if (!json_is_array(list))
        bl__schema_fail(s, BL_ERR_FORMAT, "allOf: expected an array");
    if (json_array_size(list) == 1 && !constrains_but_for(schema, "allOf"))
        return bl__schema_value(s, json_array_get(list, 0));
    for (size_t i = 0; i < json_array_size(list) && all; i++)
        all = bl__schema_merge(s, all, json_array_get(list, i));
    return all && !s->b->status ? bl__schema_value(s, all) : bl__net_empty(s->b);
}

/* Complains when a value may be of two schemas of oneOf. */
static void check_apart(bl__schemas *s, const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++)
        for (size_t j = 0; j < i && !s->b->status; j++)
            if (!bl__schema_are_apart(s, json_array_get(list, i), json_array_get(list, j), 0))
                bl__schema_fail(s, BL_ERR_UNSUPPORTED,
                                "oneOf: a value may be of numbers %zu and %zu; tell them apart by "
                                "a constant, or use anyOf",
                                j, i);
}

static bl__fragment compile_any_of(bl__schemas *s, const json_t *schema, const char *keyword) {
    const json_t *list = json_object_get(schema, keyword), *rest = NULL;
    bl__fragment f = bl__net_choice(s->b);
    if (!json_is_array(list) || json_array_size(list) == 0)
        bl__schema_fail(s, BL_ERR_FORMAT, "%s: expected an array of schemas", keyword);
    if (strcmp(keyword, "oneOf") == 0)
        check_apart(s, list);
    if (constrains_but_for(schema, keyword))
        rest = without(s, schema, keyword);
    size_t list_path = bl__schema_enter(s, keyword);
    for (size_t i = 0; i < json_array_size(list) && !s->b->status; i++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", i);
        size_t path = bl__schema_enter(s, number);
        const json_t *one = json_array_get(list, i);
        if (rest)
            one = bl__schema_merge(s, rest, one);
        if (one && !s->b->status)
            bl__net_choose(s->b, f, bl__schema_value(s, one));
        bl__schema_leave(s, path);
    }
    bl__schema_leave(s, list_path);
    return f;
}

/* The values of enum and const that are of the types allowed. */
static bl__fragment compile_enum(bl__schemas *s, const json_t *schema) {
    bl__fragment f = bl__net_choice(s->b);
    const json_t *list = json_object_get(schema, "enum"), *only = json_object_get(schema, "const");
    unsigned types = bl__schema_types(s, schema);
    if (list && !json_is_array(list))
        bl__schema_fail(s, BL_ERR_FORMAT, "enum: expected an array");
    bl__schema_refuse(s, schema,
                      "minLength maxLength pattern minimum maximum exclusiveMinimum "
                      "exclusiveMaximum multipleOf minItems maxItems items required properties");
    size_t n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n && !s->b->status; i++) {
        json_t *value = list ? json_array_get(list, i) : (json_t *)(uintptr_t)only;
        bool is_meant = bl__json_type_bits(value) & types;
        if (is_meant && (!only || json_equal(value, (json_t *)(uintptr_t)only)))
            bl__net_choose(s->b, f, bl__json_literal(&s->text, value));
    }
    return f;
}

/* ---- types ---- */

unsigned bl__json_type_bits(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return BL_JSON_OBJECT;
    case JSON_ARRAY:
        return BL_JSON_ARRAY;
    case JSON_STRING:
        return BL_JSON_STRING;
    case JSON_INTEGER:
        return BL_JSON_INTEGER;
    case JSON_REAL:
        return BL_JSON_NUMBER;
    case JSON_NULL:
        return BL_JSON_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        break;
    }
    return BL_JSON_BOOLEAN;
}

static unsigned type_named(bl__schemas *s, const json_t *name) {
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {{"null", BL_JSON_NULL},     {"boolean", BL_JSON_BOOLEAN},
                 {"string", BL_JSON_STRING}, {"integer", BL_JSON_INTEGER},
                 {"array", BL_JSON_ARRAY},   {"number", BL_JSON_NUMBER | BL_JSON_INTEGER},
                 {"object", BL_JSON_OBJECT}};
    const char *text = json_string_value(name);
    for (size_t i = 0; text && i < sizeof types / sizeof *types; i++)
        if (strcmp(text, types[i].name) == 0)
            return types[i].bits;
    bl__schema_fail(s, BL_ERR_FORMAT,
                    "type: found %.40s, expected one of null, boolean, string, "
                    "integer, number, array, object",
                    text ? text : bl__json_type_name(name));
    return 0;
}

unsigned bl__schema_types(bl__schemas *s, const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");
    unsigned bits = 0;
    if (!type)
        return BL_JSON_ANY;
    if (json_is_array(type))
        for (size_t i = 0; i < json_array_size(type); i++)
            bits |= type_named(s, json_array_get(type, i));
    else
        bits = type_named(s, type);
    if (json_is_true(json_object_get(schema, "nullable"))) /* OpenAPI's */
        bits |= BL_JSON_NULL;
    return bits;
}

static bool has_any(const json_t *schema, const char *keywords) {
    char word[32];
    while (next_word(&keywords, word))
        if (json_object_get(schema, word))
            return true;
    return false;
}

/* The types that keywords speak of, for a schema that names none: other values would be valid too,
 * but they are not what is asked for. */
static unsigned types_meant(const json_t *schema) {
    unsigned bits = 0;
    if (has_any(schema, "minLength maxLength pattern format"))
        bits |= BL_JSON_STRING;
    if (has_any(schema, "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"))
        bits |= BL_JSON_NUMBER | BL_JSON_INTEGER;
    if (has_any(schema, "items prefixItems additionalItems minItems maxItems uniqueItems contains "
                        "unevaluatedItems"))
        bits |= BL_JSON_ARRAY;
    if (has_any(schema, "properties required additionalProperties patternProperties propertyNames "
                        "minProperties maxProperties unevaluatedProperties dependentRequired "
                        "dependencies"))
        bits |= BL_JSON_OBJECT;
    return bits;
}

static bl__fragment compile_types(bl__schemas *s, const json_t *schema) {
    bl__fragment f = bl__net_choice(s->b);
    unsigned types = bl__schema_types(s, schema);
    if (!json_object_get(schema, "type")) {
        types = types_meant(schema);
        if (types == 0)
            return bl__json_any_value(&s->text);
    }
    if (types & BL_JSON_OBJECT)
        bl__net_choose(s->b, f, bl__schema_object(s, schema));
    if (types & BL_JSON_ARRAY)
        bl__net_choose(s->b, f, bl__schema_array(s, schema));
    if (types & BL_JSON_STRING)
        bl__net_choose(s->b, f, bl__schema_string(s, schema));
    if (types & (BL_JSON_NUMBER | BL_JSON_INTEGER))
        bl__net_choose(s->b, f, bl__schema_number(s, schema, !(types & BL_JSON_NUMBER)));
    if (types & BL_JSON_BOOLEAN) {
        bl__net_choose(s->b, f, bl__net_puts(s->b, "true"));
        bl__net_choose(s->b, f, bl__net_puts(s->b, "false"));
    }
    if (types & BL_JSON_NULL)
        bl__net_choose(s->b, f, bl__net_puts(s->b, "null"));
    return f;
}

static bl__fragment compile_schema(bl__schemas *s, const json_t *schema) {
    const json_t *value;
    bl__schema_refuse(s, schema, "not if dependentSchemas $dynamicRef $recursiveRef");
    if ((value = json_object_get(schema, "$ref"))) {
        if (!constrains_but_for(schema, "$ref"))
            return call_ref(s, value);
        const json_t *target = bl__schema_find(s, value);
        const json_t *rest = target ? without(s, schema, "$ref") : NULL;
        const json_t *both = rest ? bl__schema_merge(s, rest, target) : NULL;
        return both ? bl__schema_value(s, both) : bl__net_empty(s->b);
    }
    if ((value = json_object_get(schema, "allOf")))
        return compile_all_of(s, schema, value);
    if (json_object_get(schema, "anyOf"))
        return compile_any_of(s, schema, "anyOf");
    if (json_object_get(schema, "oneOf"))
        return compile_any_of(s, schema, "oneOf");
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return compile_enum(s, schema);
    return compile_types(s, schema);
}

bl__fragment bl__schema_value(bl__schemas *s, const json_t *schema) {
    bl__fragment f = {0, 0};
    if (s->b->status)
        return f;
    if (++s->n_visits > BL_SCHEMA_MAX_VISITS)
        bl__schema_fail(s, BL_ERR_LIMIT, "more than %d schemas", BL_SCHEMA_MAX_VISITS);
    if (++s->depth > BL_SCHEMA_MAX_DEPTH)
        bl__schema_fail(s, BL_ERR_LIMIT, "schemas nested deeper than %d", BL_SCHEMA_MAX_DEPTH);
    if (json_is_true(schema))
        f = bl__json_any_value(&s->text);
    else if (json_is_false(schema))
        f = bl__net_choice(s->b); /* no value */
    else if (!json_is_object(schema))
        bl__schema_fail(s, BL_ERR_FORMAT, "found %s, expected a schema",
                        bl__json_type_name(schema));
    else if (!s->b->status)
        f = compile_schema(s, schema);
    s->depth--;
    return f;
}

/* ---- grammars ---- */

static bool is_word(const char *text, size_t len, const char *word) {
    size_t n = strlen(word);
    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        len--;
    for (; len > 0 && strchr(" \t\r\n", *text); text++)
        len--;
    return len == n && memcmp(text, word, n) == 0;
}

bl_status bl_grammar_from_json_schema(const char *text, size_t len, bl_grammar **out,
                                      bl_error *err) {
    json_t *schema = NULL;
    if (len > BL_GRAMMAR_MAX_TEXT)
        return bl__fail(err, BL_ERR_LIMIT, "schema of %zu bytes, at most %d allowed", len,
                        BL_GRAMMAR_MAX_TEXT);
    /* A schema may be a boolean, which is no document to the reader. */
    bl_status status = BL_OK;
    if (is_word(text, len, "true"))
        schema = json_true();
    else if (is_word(text, len, "false"))
        schema = json_false();
    else
        status = bl__json_parse(text, len, BL_SCHEMA_LIMITS, &schema, err);
    if (status)
        return status;
    bl__net_builder b;
    bl__schemas s;
    uint32_t root = 0;
    bl__net_builder_init(&b);
    if (bl__schemas_init(&s, &b)) {
        root = bl__net_rule_new(&b);
        bl__net_define(&b, root, bl__schemas_call(&s, schema, "#"));
        bl__schemas_compile(&s);
    }
    bl__schemas_destroy(&s);
    json_decref(schema);
    return bl__grammar_finish(&b, root, out, err);
}

bl_status bl_grammar_from_json_object(bl_grammar **out, bl_error *err) {
    bl__net_builder b;
    bl__net_builder_init(&b);
    bl__json_text t = bl__json_text_make(&b);
    uint32_t root = bl__net_rule_new(&b);
    bl__net_define(&b, root, bl__json_any_object(&t));
    return bl__grammar_finish(&b, root, out, err);
}
