/* Owns what schemas say of strings, numbers, arrays and objects. */
#include <stdio.h>
#include <string.h>

#include "generate/json_schema.h"

/* ---- strings ---- */

/* The leap years' test of RFC 3339: every fourth, not every hundredth, but every four hundredth. */
#define YEAR "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#define LEAP_YEAR                                                                                  \
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE                                                                                       \
    "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|"                                \
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" LEAP_YEAR "-02-29)"
#define TIME                                                                                       \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"                                 \
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define BYTE  "(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define WORDS "[A-Za-z0-9!#%&'*+=?^_`{|}~-]{1,60}"
#define HEXES "[0-9a-fA-F]{1,4}"

static const struct {
    const char *name, *pattern;
} FORMATS[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P(?:[0-9]{1,4}W|(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|"
                 "[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)"
                 "(?:T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M"
                 "(?:[0-9]{1,4}S)?|[0-9]{1,4}S))?|"
                 "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|"
                 "[0-9]{1,4}S))$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
    {"ipv4", "^(?:" BYTE "\\.){3}" BYTE "$"},
    {"ipv6", "^(?:(?:" HEXES ":){7}" HEXES "|(?:" HEXES ":){1,5}(?::" HEXES ")|::(?:" HEXES
             ":){0,5}" HEXES "|(?:" HEXES ":){1,6}:|::)$"},
    {"hostname", "^" LABEL "(?:\\." LABEL "){0,3}$"},
    {"email", "^" WORDS "(?:\\." WORDS "){0,3}@" LABEL "(?:\\." LABEL "){1,3}$"},
    {"uri", "^[a-z][a-z0-9+.-]{1,30}://[A-Za-z0-9-]{1,63}(?:\\.[A-Za-z0-9-]{1,63}){0,5}"
            "(?::[0-9]{1,4})?(?:/[A-Za-z0-9._~!&'()*+,;=:@-]*)*"
            "(?:\\?[A-Za-z0-9._~!&'()*+,;=:@/?-]*)?(?:#[A-Za-z0-9._~!&'()*+,;=:@/?-]*)?$"},
};

static const char *format_pattern(bl__schemas *s, const json_t *format) {
    const char *name = json_string_value(format);
    for (size_t i = 0; name && i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (strcmp(name, FORMATS[i].name) == 0)
            return FORMATS[i].pattern;
    bl__schema_fail(s, BL_ERR_UNSUPPORTED,
                    "format \"%.40s\", supported are date, time, date-time, duration, uuid, ipv4, "
                    "ipv6, hostname, email, uri",
                    name ? name : "");
    return "";
}

bl__fragment bl__schema_string(bl__schemas *s, const json_t *schema) {
    const json_t *pattern = json_object_get(schema, "pattern");
    const json_t *format = json_object_get(schema, "format");
    uint32_t min = bl__schema_count(s, schema, "minLength", 0);
    uint32_t max = bl__schema_count(s, schema, "maxLength", BL_NET_ANY_COUNT);
    bool has_length = min > 0 || max != BL_NET_ANY_COUNT;
    if (max < min)
        bl__schema_fail(s, BL_ERR_FORMAT, "maxLength is below minLength");
    if (pattern && !json_is_string(pattern))
        bl__schema_fail(s, BL_ERR_FORMAT, "pattern: expected a string");
    if (pattern && format)
        bl__schema_refuse(s, schema, "format");
    if ((pattern || format) && has_length)
        bl__schema_fail(s, BL_ERR_UNSUPPORTED,
                        "minLength and maxLength are not supported beside %s; write the length "
                        "into the pattern",
                        pattern ? "pattern" : "format");
    if (s->b->status || (!pattern && !format && !has_length))
        return bl__json_any_string(&s->text);
    if (!pattern && !format)
        return bl__json_quoted(&s->text,
                               bl__net_repeat(s->b, bl__json_any_char(&s->text), min, max));
    const char *text = pattern ? json_string_value(pattern) : format_pattern(s, format);
    char where[BL_SCHEMA_MAX_PATH + 8];
    snprintf(where, sizeof where, "schema %s", s->path);
    return bl__json_quoted(&s->text, bl__json_pattern(&s->text, text, strlen(text), where));
}

/* ---- numbers ---- */

/* The bound that a keyword and its exclusive sister give; draft 4 has the sister as a boolean. */
static const json_t *find_bound(bl__schemas *s, const json_t *schema, const char *keyword,
                                const char *sister, bool is_low, bool *strict) {
    const json_t *bound = json_object_get(schema, keyword);
    const json_t *other = json_object_get(schema, sister);
    if ((bound && !json_is_number(bound)) ||
        (other && !json_is_number(other) && !json_is_boolean(other)))
        bl__schema_fail(s, BL_ERR_FORMAT, "%s, %s: expected numbers", keyword, sister);
    *strict = json_is_true(other) && bound;
    if (!json_is_number(other))
        return bound;
    double x = json_number_value(bound), y = json_number_value(other);
    if (bound && (is_low ? x > y : x < y))
        return bound;
    *strict = true;
    return other;
}

/* Digits behind the point that numbers of this step have; -1 when that is not what it means. */
static int digits_of_step(const json_t *step) {
    double power = 1, x = json_number_value(step);
    for (int digits = 0; digits <= BL_JSON_MAX_DIGITS; digits++, power *= 10)
        if (x == 1 / power)
            return digits;
    return -1;
}

bl__fragment bl__schema_number(bl__schemas *s, const json_t *schema, bool is_integer) {
    bl__json_range r = {.n_fraction = is_integer ? 0 : BL_JSON_MAX_DIGITS};
    const json_t *step = json_object_get(schema, "multipleOf");
    r.low = find_bound(s, schema, "minimum", "exclusiveMinimum", true, &r.low_strict);
    r.high = find_bound(s, schema, "maximum", "exclusiveMaximum", false, &r.high_strict);
    if (s->b->status)
        return bl__net_empty(s->b);
    if (step) {
        int digits = digits_of_step(step);
        if (digits < 0)
            bl__schema_fail(s, BL_ERR_UNSUPPORTED,
                            "multipleOf: only 1, 0.1, 0.01 ... are supported");
        else if ((unsigned)digits < r.n_fraction)
            r.n_fraction = (unsigned)digits;
    }
    if (!r.low && !r.high && !step)
        return is_integer ? bl__json_any_integer(&s->text) : bl__json_any_number(&s->text);
    return bl__json_number_in(&s->text, &r);
}

/* ---- arrays ---- */

/* A comma and a blank. */
static bl__fragment comma(bl__schemas *s) {
    bl__fragment f = bl__net_puts(s->b, ",");
    return bl__net_join(s->b, f, bl__json_blank(&s->text));
}

static bl__fragment compile_item(bl__schemas *s, const json_t *schema, const char *key, size_t i) {
    char number[24];
    snprintf(number, sizeof number, "%zu", i);
    size_t path = bl__schema_enter(s, key), inner = path;
    if (i != SIZE_MAX)
        inner = bl__schema_enter(s, number);
    bl__fragment f = schema ? bl__schema_value(s, schema) : bl__json_any_value(&s->text);
    (void)inner;
    bl__schema_leave(s, path);
    return f;
}

/* min to max items of one schema with commas between them, and before the first if it is not the
 * array's own first. */
static bl__fragment compile_rest(bl__schemas *s, const json_t *schema, bool is_first, uint32_t min,
                                 uint32_t max) {
    bl__fragment item = compile_item(s, schema, "items", SIZE_MAX);
    if (is_first && max == BL_NET_ANY_COUNT && min <= 1) { /* the item is written once */
        bl__fragment f = bl__net_choice(s->b), next = comma(s);
        bl__net_choose(s->b, f, item);
        bl__net_link(s->b, item.end, next.start);
        bl__net_link(s->b, next.end, item.start);
        if (min == 0)
            bl__net_link(s->b, f.start, f.end);
        return f;
    }
    uint32_t rule = bl__net_rule_new(s->b);
    bl__net_define(s->b, rule, item);
    if (!is_first) {
        bl__fragment one = comma(s);
        one = bl__net_join(s->b, one, bl__net_call(s->b, rule));
        return bl__net_repeat(s->b, one, min, max);
    }
    uint32_t less = max == BL_NET_ANY_COUNT ? max : max ? max - 1 : 0;
    bl__fragment f = bl__net_call(s->b, rule), more = comma(s);
    more = bl__net_join(s->b, more, bl__net_call(s->b, rule));
    f = bl__net_join(s->b, f, bl__net_repeat(s->b, more, min ? min - 1 : 0, less));
    if (max == 0)
        return bl__net_empty(s->b);
    return min == 0 ? bl__net_repeat(s->b, f, 0, 1) : f;
}

bl__fragment bl__schema_array(bl__schemas *s, const json_t *schema) {
    const json_t *items = json_object_get(schema, "items");
    const json_t *first = json_object_get(schema, "prefixItems");
    uint32_t min = bl__schema_count(s, schema, "minItems", 0);
    uint32_t max = bl__schema_count(s, schema, "maxItems", BL_NET_ANY_COUNT);
    if (json_is_true(json_object_get(schema, "uniqueItems")))
        bl__schema_refuse(s, schema, "uniqueItems");
    bl__schema_refuse(s, schema, "contains unevaluatedItems");
    if (max < min)
        bl__schema_fail(s, BL_ERR_FORMAT, "maxItems is below minItems");
    if (json_is_array(items)) { /* as before draft 2020-12 */
        first = items;
        items = json_object_get(schema, "additionalItems");
    }
    if (first && !json_is_array(first))
        bl__schema_fail(s, BL_ERR_FORMAT, "prefixItems: expected an array");
    bl__fragment f = bl__net_puts(s->b, "["), end = bl__net_puts(s->b, "]");
    bl__fragment before = bl__json_blank(&s->text);
    f = bl__net_join(s->b, f, bl__json_blank(&s->text));
    uint32_t n = 0;
    for (; n < json_array_size(first) && n < max && !s->b->status; n++) {
        if (n > 0)
            f = bl__net_join(s->b, f, comma(s));
        f = bl__net_join(s->b, f, compile_item(s, json_array_get(first, n), "prefixItems", n));
    }
    /* Without a schema for what follows a list of items it ends with them, if it may. */
    bool ends = json_is_false(items) || (first && !items && min <= n);
    if (ends && min > n)
        bl__schema_fail(s, BL_ERR_FORMAT, "minItems asks for more items than there are");
    if (!ends && max > n && !s->b->status) {
        uint32_t left = max == BL_NET_ANY_COUNT ? max : max - n;
        f = bl__net_join(s->b, f, compile_rest(s, items, n == 0, min > n ? min - n : 0, left));
    }
    f = bl__net_join(s->b, f, before);
    return bl__net_join(s->b, f, end);
}

/* ---- objects ---- */

/* An object in the making: nodes where nothing, and where something, has been written. */
typedef struct members {
    uint32_t none, some;
} members;

static bool is_listed(const json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, name) == 0)
            return true;
    }
    return false;
}

/* A member between what was written before it and what comes after. */
static void add_member(bl__schemas *s, members *m, bl__fragment member, bool may_miss) {
    bl__fragment next = comma(s);
    uint32_t none = bl__net_node(s->b), some = bl__net_node(s->b);
    bl__net_link(s->b, m->none, member.start);
    bl__net_link(s->b, m->some, next.start);
    bl__net_link(s->b, next.end, member.start);
    bl__net_link(s->b, member.end, some);
    if (may_miss) {
        bl__net_link(s->b, m->none, none);
        bl__net_link(s->b, m->some, some);
    }
    *m = (members){none, some};
}

static bl__fragment compile_member(bl__schemas *s, bl__fragment key, const json_t *schema) {
    bl__fragment colon = bl__net_puts(s->b, ":");
    key = bl__net_join(s->b, key, colon);
    key = bl__net_join(s->b, key, bl__json_blank(&s->text));
    return bl__net_join(s->b, key,
                        schema ? bl__schema_value(s, schema) : bl__json_any_value(&s->text));
}

static void add_property(bl__schemas *s, members *m, const char *name, const json_t *schema,
                         bool may_miss) {
    json_t *text = json_string(name);
    if (!text) {
        bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for a key");
        return;
    }
    size_t path = bl__schema_enter(s, "properties"), inner = bl__schema_enter(s, name);
    bl__fragment key = bl__json_literal(&s->text, text);
    add_member(s, m, compile_member(s, key, schema), may_miss);
    (void)inner;
    bl__schema_leave(s, path);
    json_decref(text);
}

/* Any number of members of other names. */
static void add_others(bl__schemas *s, members *m, const json_t *names, const json_t *schema) {
    size_t path = bl__schema_enter(s, "additionalProperties");
    bl__fragment member = compile_member(s, bl__json_other_key(&s->text, names), schema);
    add_member(s, m, member, true);
    bl__fragment next = comma(s);
    bl__net_link(s->b, m->some, next.start);
    bl__net_link(s->b, next.end, member.start);
    bl__schema_leave(s, path);
}

/* Complains of counts of members that are not kept by themselves. */
static void check_counts(bl__schemas *s, const json_t *schema, size_t n_required, size_t n_named,
                         bool has_others) {
    uint32_t min = bl__schema_count(s, schema, "minProperties", 0);
    uint32_t max = bl__schema_count(s, schema, "maxProperties", BL_NET_ANY_COUNT);
    if (min > n_required)
        bl__schema_refuse(s, schema, "minProperties");
    if (max < n_named || (has_others && max != BL_NET_ANY_COUNT))
        bl__schema_refuse(s, schema, "maxProperties");
}

static void add_members(bl__schemas *s, members *m, const json_t *schema, json_t *names) {
    json_t *properties = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    if (!others && json_is_boolean(json_object_get(schema, "unevaluatedProperties")))
        others = json_object_get(schema, "unevaluatedProperties");
    else
        bl__schema_refuse(s, schema, "unevaluatedProperties");
    for (void *i = json_object_iter(properties); i && !s->b->status;
         i = json_object_iter_next(properties, i)) {
        const char *name = json_object_iter_key(i);
        json_object_set_new(names, name, json_null());
        add_property(s, m, name, json_object_iter_value(i), !is_listed(required, name));
    }
    for (size_t i = 0; i < json_array_size(required) && !s->b->status; i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name) {
            bl__schema_fail(s, BL_ERR_FORMAT, "required: expected an array of strings");
        } else if (!json_object_get(names, name)) {
            json_object_set_new(names, name, json_null());
            if (json_is_false(others))
                bl__schema_fail(s, BL_ERR_FORMAT, "required: \"%.60s\" is no property", name);
            add_property(s, m, name, others, false);
        }
    }
    /* What else there may be is written where the schema says so, or names no properties. */
    bool has_others = others ? !json_is_false(others) : !properties;
    check_counts(s, schema, json_array_size(required), json_object_size(names), has_others);
    if (has_others && !s->b->status)
        add_others(s, m, names, others);
}

bl__fragment bl__schema_object(bl__schemas *s, const json_t *schema) {
    json_t *names = json_object();
    if (!names)
        bl__net_fail(s->b, BL_ERR_MEMORY, "grammar: no memory for keys");
    bl__schema_refuse(s, schema, "patternProperties propertyNames dependentRequired dependencies");
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        bl__schema_fail(s, BL_ERR_FORMAT,
                        "expected properties to be an object and required an array");
    bl__schema_charge(s, json_object_size(properties) * (1 + json_array_size(required)));
    bl__fragment open = bl__net_puts(s->b, "{"), close = bl__net_puts(s->b, "}");
    bl__fragment blank = bl__json_blank(&s->text);
    open = bl__net_join(s->b, open, bl__json_blank(&s->text));
    members m = {open.end, bl__net_node(s->b)};
    if (!s->b->status)
        add_members(s, &m, schema, names);
    bl__net_link(s->b, m.none, close.start);
    bl__net_link(s->b, m.some, blank.start);
    bl__net_link(s->b, blank.end, close.start);
    json_decref(names);
    return (bl__fragment){open.start, close.end};
}
