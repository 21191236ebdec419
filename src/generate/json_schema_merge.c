/* Owns schemas as JSON: references, the merging of two into one for what both allow, and whether
 * two exclude each other. Must not know networks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generate/json_schema.h"

enum { MAX_POINTER = 1024 };

/* ---- references ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes %XX of a URI fragment. */
static void decode_percent(char *text) {
    char *out = text;
    for (const char *at = text; *at; at++) {
        int high = *at == '%' ? hex_digit(at[1]) : -1, low = high >= 0 ? hex_digit(at[2]) : -1;
        *out++ = low >= 0 ? (char)(high << 4 | low) : *at;
        at += low >= 0 ? 2 : 0;
    }
    *out = '\0';
}

/* Cuts the first part off a pointer behind its '/' and undoes ~0 and ~1; returns what follows. */
static char *cut_part(char *part) {
    char *out = part, *at = part;
    for (; *at && *at != '/'; at++) {
        bool is_escape = *at == '~' && (at[1] == '0' || at[1] == '1');
        *out++ = is_escape ? "~/"[at[1] - '0'] : *at;
        at += is_escape;
    }
    char *rest = *at ? at + 1 : NULL;
    *out = '\0';
    return rest;
}

const json_t *bl__schema_find(bl__schemas *s, const json_t *ref) {
    const char *text = json_string_value(ref);
    const json_t *at = s->root;
    char pointer[MAX_POINTER];
    if (!text || text[0] != '#' || (text[1] && text[1] != '/') || strlen(text) >= MAX_POINTER) {
        bl__schema_fail(s, BL_ERR_UNSUPPORTED,
                        "$ref: found \"%.60s\", expected a JSON pointer into the same document, "
                        "such as #/$defs/name",
                        text ? text : "");
        return NULL;
    }
    snprintf(pointer, sizeof pointer, "%s", text);
    decode_percent(pointer);
    for (char *part = pointer[1] ? pointer + 2 : NULL, *rest; part && at; part = rest) {
        rest = cut_part(part);
        if (json_is_array(at)) {
            char *end;
            unsigned long i = strtoul(part, &end, 10);
            at = *part && !*end ? json_array_get(at, i) : NULL;
        } else {
            at = json_object_get(at, part);
        }
    }
    if (!at)
        bl__schema_fail(s, BL_ERR_FORMAT, "$ref: there is no %.80s", text);
    return at;
}

/* ---- merging ---- */

static json_t *loose(const json_t *value) { /* jansson has no const, its counts are changed */
    return (json_t *)(uintptr_t)value;
}

/* {"allOf": [a, b]}; one of them when the other is NULL or allows all. */
static json_t *both(const json_t *a, const json_t *b) {
    if (!a || json_is_true(a) || (b && json_equal(loose(a), loose(b))))
        return json_incref(loose(b));
    if (!b || json_is_true(b))
        return json_incref(loose(a));
    return json_pack("{s:[O,O]}", "allOf", a, b);
}

/* What an object's schema says of a property; NULL: nothing. */
static const json_t *of_property(const json_t *schema, const char *name) {
    const json_t *own = json_object_get(json_object_get(schema, "properties"), name);
    return own ? own : json_object_get(schema, "additionalProperties");
}

/* Every property of either, as both want it, those of a first. */
static json_t *merge_properties(const json_t *a, const json_t *b) {
    json_t *out = json_object();
    const json_t *from[] = {json_object_get(a, "properties"), json_object_get(b, "properties")};
    for (int side = 0; side < 2 && out; side++)
        for (void *i = json_object_iter(loose(from[side])); i;
             i = json_object_iter_next(loose(from[side]), i)) {
            const char *name = json_object_iter_key(i);
            const json_t *left = of_property(a, name), *right = of_property(b, name);
            if (json_object_get(out, name))
                continue;
            json_t *value = !left    ? json_incref(loose(right))
                            : !right ? json_incref(loose(left))
                                     : both(left, right);
            if (!value || json_object_set_new(out, name, value) != 0) {
                json_decref(out);
                return NULL;
            }
        }
    return out;
}

static size_t list_size(const json_t *list) {
    return json_is_array(list) ? json_array_size(list) : 1;
}

static bool contains(const json_t *list, const json_t *value) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), loose(value)))
            return true;
    return json_equal(loose(list), loose(value)); /* a single one */
}

/* Elements of both lists (a single value is a list of one), or of either. */
static json_t *merge_lists(const json_t *a, const json_t *b, bool of_either) {
    json_t *out = json_array();
    size_t n = list_size(a);
    for (size_t i = 0; i < n && out; i++) {
        json_t *value = json_is_array(a) ? json_array_get(a, i) : loose(a);
        if (of_either || contains(b, value))
            json_array_append(out, value);
    }
    for (size_t i = 0; of_either && i < json_array_size(b); i++)
        if (!contains(a, json_array_get(b, i)))
            json_array_append(out, json_array_get(b, i));
    return out;
}

/* Types of both, where an integer is a number. */
static json_t *merge_types(const json_t *a, const json_t *b) {
    json_t *out = merge_lists(a, b, false), *integer = json_string("integer");
    json_t *number = json_string("number");
    if (out && integer && number && !contains(out, integer) &&
        ((contains(a, integer) && contains(b, number)) ||
         (contains(b, integer) && contains(a, number))))
        json_array_append(out, integer);
    json_decref(integer);
    json_decref(number);
    return out;
}

typedef enum rule_of_merging {
    KEEP,    /* an annotation: the first one */
    SMALLER, /* of two numbers */
    LARGER,
    TYPES,
    COMMON, /* elements of both lists */
    UNION,  /* elements of either */
    BOTH,   /* two schemas */
    APPLY,  /* both, through allOf */
    SAME,   /* only if they are equal */
} rule_of_merging;

static rule_of_merging rule_of(const char *keyword) {
    static const struct {
        const char *keyword;
        rule_of_merging rule;
    } rules[] = {{"type", TYPES},           {"enum", COMMON},
                 {"required", UNION},       {"minimum", LARGER},
                 {"maximum", SMALLER},      {"exclusiveMinimum", LARGER},
                 {"minLength", LARGER},     {"exclusiveMaximum", SMALLER},
                 {"maxLength", SMALLER},    {"minItems", LARGER},
                 {"maxItems", SMALLER},     {"minProperties", LARGER},
                 {"items", BOTH},           {"maxProperties", SMALLER},
                 {"allOf", APPLY},          {"additionalProperties", BOTH},
                 {"anyOf", APPLY},          {"oneOf", APPLY},
                 {"$ref", APPLY},           {"const", SAME},
                 {"pattern", SAME},         {"format", SAME},
                 {"multipleOf", SAME},      {"prefixItems", SAME},
                 {"additionalItems", SAME}, {"uniqueItems", SAME},
                 {"nullable", SAME},        {"unevaluatedProperties", SAME}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(keyword, rules[i].keyword) == 0)
            return rules[i].rule;
    return KEEP;
}

/* Adds {keyword: value} to out's allOf. */
static json_t *apply(json_t *out, const char *keyword, const json_t *value) {
    json_t *list = json_object_get(out, "allOf");
    list = list ? json_copy(list) : json_array();
    json_t *more = json_pack("{s:O}", keyword, value);
    if (list && more && json_array_append(list, more) == 0) {
        json_decref(more);
        return list;
    }
    json_decref(list);
    json_decref(more);
    return NULL;
}

/* Brings what b says under one keyword into out, which says something else. */
static bool merge_keyword(bl__schemas *s, json_t *out, const char *keyword, const json_t *ours,
                          const json_t *theirs) {
    json_t *value = NULL;
    bool is_ours;
    switch (rule_of(keyword)) {
    case KEEP:
        return true;
    case SMALLER:
    case LARGER:
        if (!json_is_number(ours) || !json_is_number(theirs)) {
            bl__schema_fail(s, BL_ERR_UNSUPPORTED, "%s: cannot be merged", keyword);
            return false;
        }
        is_ours =
            (json_number_value(ours) > json_number_value(theirs)) == (rule_of(keyword) == LARGER);
        value = json_incref(loose(is_ours ? ours : theirs));
        break;
    case TYPES:
        bl__schema_charge(s, list_size(ours) * list_size(theirs));
        value = merge_types(ours, theirs);
        break;
    case COMMON:
    case UNION:
        bl__schema_charge(s, list_size(ours) * list_size(theirs));
        value = merge_lists(ours, theirs, rule_of(keyword) == UNION);
        break;
    case BOTH:
        value = both(ours, theirs);
        break;
    case APPLY:
        if (strcmp(keyword, "allOf") == 0)
            value = merge_lists(ours, theirs, true); /* each is counted when it is merged */
        else
            value = apply(out, keyword, theirs);
        keyword = "allOf";
        break;
    case SAME:
        if (strcmp(keyword, "const") == 0) { /* no value is two */
            value = json_array();
            keyword = "type";
            break;
        }
        bl__schema_fail(s, BL_ERR_UNSUPPORTED, "two different \"%s\" cannot be merged", keyword);
        return false;
    }
    if (value && json_object_set_new(out, keyword, value) == 0)
        return true;
    bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for schemas");
    return false;
}

const json_t *bl__schema_merge(bl__schemas *s, const json_t *a, const json_t *b) {
    if (json_is_false(a) || json_is_true(b))
        return a;
    if (json_is_true(a) || json_is_false(b))
        return b;
    if (!json_is_object(a) || !json_is_object(b)) {
        bl__schema_fail(s, BL_ERR_FORMAT, "expected schemas to merge");
        return NULL;
    }
    if (++s->n_visits > BL_SCHEMA_MAX_VISITS) {
        bl__schema_fail(s, BL_ERR_LIMIT, "more than %d schemas", BL_SCHEMA_MAX_VISITS);
        return NULL;
    }
    bl__schema_charge(s, json_object_size(a) + json_object_size(b) +
                             json_object_size(json_object_get(a, "properties")) +
                             json_object_size(json_object_get(b, "properties")));
    json_t *out = s->b->status ? NULL : json_copy(loose(a));
    if (!bl__schema_keep(s, out))
        return NULL;
    for (void *i = json_object_iter(loose(b)); i; i = json_object_iter_next(loose(b), i)) {
        const char *key = json_object_iter_key(i);
        const json_t *theirs = json_object_iter_value(i), *ours = json_object_get(a, key);
        if (strcmp(key, "properties") == 0)
            continue;
        if (!ours && json_object_set(out, key, loose(theirs)) != 0) {
            bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for schemas");
            return NULL;
        }
        if (ours && !json_equal(loose(ours), loose(theirs)) &&
            !merge_keyword(s, out, key, json_object_get(out, key), theirs))
            return NULL;
    }
    if (json_object_get(a, "properties") || json_object_get(b, "properties")) {
        json_t *properties = merge_properties(a, b);
        if (!properties || json_object_set_new(out, "properties", properties) != 0) {
            bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for schemas");
            return NULL;
        }
    }
    return out;
}

/* ---- exclusion ---- */

/* The values that a schema lists; NULL when it lists none. A constant is no array. */
static const json_t *values_of(const json_t *schema) {
    const json_t *list = json_object_get(schema, "enum");
    return list ? list : json_object_get(schema, "const");
}

static bool share_values(const json_t *a, const json_t *b) {
    size_t n = list_size(a);
    for (size_t i = 0; i < n; i++)
        if (contains(b, json_is_array(a) ? json_array_get(a, i) : a))
            return true;
    return false;
}

/* The types of listed values; any when none are listed. */
static unsigned types_of_values(const json_t *values) {
    unsigned bits = 0;
    if (!values)
        return BL_JSON_ANY;
    for (size_t i = 0; i < json_array_size(values); i++)
        bits |= bl__json_type_bits(json_array_get(values, i));
    return json_is_array(values) ? bits : bl__json_type_bits(values);
}

static bool is_required(const json_t *schema, const char *name) {
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, name) == 0)
            return true;
    }
    return false;
}

/* Whether a property that a must have is one that b cannot have so. */
static bool differ_by_property(bl__schemas *s, const json_t *a, const json_t *b, unsigned depth) {
    const json_t *list = json_object_get(a, "properties");
    bl__schema_charge(s, json_object_size(list));
    for (void *i = json_object_iter(loose(list)); i; i = json_object_iter_next(loose(list), i)) {
        const char *name = json_object_iter_key(i);
        const json_t *theirs = of_property(b, name);
        if (is_required(a, name) && theirs &&
            (json_is_false(theirs) ||
             (is_required(b, name) &&
              bl__schema_are_apart(s, json_object_iter_value(i), theirs, depth + 1))))
            return true;
    }
    return false;
}

bool bl__schema_are_apart(bl__schemas *s, const json_t *a, const json_t *b, unsigned depth) {
    enum { DEEPEST = 8 };
    bl__schema_charge(s, 1);
    if (depth > DEEPEST || s->b->status)
        return false;
    if (json_is_false(a) || json_is_false(b))
        return true;
    const json_t *ref;
    if ((ref = json_object_get(a, "$ref")))
        return (a = bl__schema_find(s, ref)) && bl__schema_are_apart(s, a, b, depth + 1);
    if ((ref = json_object_get(b, "$ref")))
        return (b = bl__schema_find(s, ref)) && bl__schema_are_apart(s, a, b, depth + 1);
    unsigned types = bl__schema_types(s, a) & bl__schema_types(s, b);
    types &= types_of_values(values_of(a)) & types_of_values(values_of(b));
    if (types == 0)
        return true;
    if (values_of(a) && values_of(b)) {
        bl__schema_charge(s, list_size(values_of(a)) * list_size(values_of(b)));
        return !s->b->status && !share_values(values_of(a), values_of(b));
    }
    if (types == BL_JSON_OBJECT)
        return differ_by_property(s, a, b, depth) || differ_by_property(s, b, a, depth);
    return false;
}
