/* Owns the filters. Each takes what it filters as `self`. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tokenizer/jinja_strings.h"
#include "tokenizer/jinja_text.h"

enum { ROUND_DIGITS_MAX = 22, ROUND_TEXT_MAX = 400, INDENT_MAX = 1000, PATH_PARTS_MAX = 16 };

/* ---- Text ---- */

static bool filter_case(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text;
    return bl__jinja_to_string(run, self, &text) &&
           bl__jinja_change_case(run, &text, (jinja_case)variant, out);
}

static bool filter_trim(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text;
    return bl__jinja_to_string(run, self, &text) &&
           bl__jinja_strip(run, &text, &arg[0], true, true, out);
}

static bool filter_string(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return bl__jinja_to_string(run, self, out);
}

static bool filter_safe(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    if (!bl__jinja_to_string(run, self, out))
        return false;
    out->flavour = JINJA_SAFE;
    return true;
}

static bool filter_escape(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    size_t mark = run->out.len;
    if (!bl__jinja_write_escaped(run, self) || !bl__jinja_take(run, mark, out))
        return false;
    out->flavour = JINJA_SAFE;
    return true;
}

static bool filter_replace(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text, from, to;
    int64_t limit = -1;
    bool limited = arg[2].kind != JINJA_MISSING && arg[2].kind != JINJA_NONE;
    return bl__jinja_to_string(run, self, &text) && bl__jinja_to_string(run, &arg[0], &from) &&
           bl__jinja_to_string(run, &arg[1], &to) &&
           (!limited || bl__jinja_int_argument(run, &arg[2], "replace: count", &limit)) &&
           bl__jinja_replace(run, &text, &from, &to, limit, out);
}

static bool filter_format(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text;
    return bl__jinja_to_string(run, self, &text) &&
           bl__jinja_percent_format(run, &text, all, false, out);
}

/* indent(width, first, blank): every line but the first and, unless told otherwise, blank ones. */
static bool filter_indent(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text, lines, newline = bl__jinja_literal("\n"), margin;
    int64_t width = 4;
    size_t mark = run->out.len;
    if (!bl__jinja_string_argument(run, self, "indent: the text", &text))
        return false;
    if (arg[0].kind == JINJA_STRING) {
        margin = arg[0];
    } else {
        if (!bl__jinja_int_argument(run, &arg[0], "indent: width", &width))
            return false;
        if (width > INDENT_MAX)
            return bl__jinja_fail(run, BL_ERR_LIMIT, "indent: at most %d", INDENT_MAX);
        for (int64_t i = 0; i < width; i++)
            if (!bl__jinja_write(run, " ", 1))
                return false;
        if (!bl__jinja_take(run, mark, &margin))
            return false;
    }
    if (!bl__jinja_binary(run, JINJA_ADD, &text, &newline, &text) ||
        !bl__jinja_split_lines(run, &text, false, &lines))
        return false;
    bool first = bl__jinja_truth(&arg[1]), blank = bl__jinja_truth(&arg[2]);
    for (size_t i = 0; i < lines.as.list->count; i++) {
        const jinja_value *line = &lines.as.list->items[i];
        bool indented = i == 0 ? first : blank || line->len > 0;
        if ((i > 0 && !bl__jinja_write(run, "\n", 1)) ||
            (indented && !bl__jinja_print(run, &margin)) || !bl__jinja_print(run, line))
            return false;
    }
    return bl__jinja_take(run, mark, out);
}

/* ---- Numbers ---- */

static bool fail_undefined_number(jinja_run *run, const jinja_value *self) {
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "'%.*s' is undefined",
                          self->len < 80 ? (int)self->len : 80, self->as.text);
}

/* int(default, base): what is not a number gives the default. */
static bool filter_int(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t base = 10, value;
    double f = NAN;
    *out = arg[0].kind == JINJA_MISSING ? bl__jinja_int(0) : arg[0];
    if (self->kind == JINJA_UNDEFINED)
        return fail_undefined_number(run, self);
    if (!bl__jinja_int_argument(run, &arg[1], "int: base", &base))
        return false;
    if (bl__jinja_is_int(self)) {
        *out = bl__jinja_int(bl__jinja_as_int(self));
        return true;
    }
    if (self->kind == JINJA_FLOAT)
        f = self->as.number;
    if (self->kind == JINJA_STRING) {
        if (base >= 2 && base <= 36 &&
            bl__jinja_parse_int(self->as.text, self->len, (int)base, &value)) {
            *out = bl__jinja_int(value);
            return true;
        }
        if (!bl__jinja_parse_float(self->as.text, self->len, &f))
            return true;
    }
    if (fabs(f) < 0x1p63)
        *out = bl__jinja_int((int64_t)f);
    else if (isfinite(f))
        return bl__jinja_fail(run, BL_ERR_LIMIT, "int: beyond 64 bits");
    return true;
}

static bool filter_float(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    double f;
    *out = arg[0].kind == JINJA_MISSING ? bl__jinja_float(0) : arg[0];
    if (self->kind == JINJA_UNDEFINED)
        return fail_undefined_number(run, self);
    if (bl__jinja_is_number(self))
        *out = bl__jinja_float(bl__jinja_as_float(self));
    else if (self->kind == JINJA_STRING && bl__jinja_parse_float(self->as.text, self->len, &f))
        *out = bl__jinja_float(f);
    return true;
}

static bool fail_not_number(jinja_run *run, const char *filter, const jinja_value *self) {
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s: %s is not a number", filter,
                          bl__jinja_type_name(self));
}

static bool filter_abs(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value zero = bl__jinja_int(0);
    if (!bl__jinja_is_number(self))
        return fail_not_number(run, "abs", self);
    if (self->kind == JINJA_FLOAT) {
        *out = bl__jinja_float(fabs(self->as.number));
        return true;
    }
    if (bl__jinja_as_int(self) < 0)
        return bl__jinja_binary(run, JINJA_SUB, &zero, self, out);
    *out = bl__jinja_int(bl__jinja_as_int(self));
    return true;
}

/* Decimal digits are cut off by the printer, which rounds the exact value half to even. */
static double round_decimal(double f, int64_t digits) {
    char text[ROUND_TEXT_MAX];
    if (!isfinite(f) || digits > ROUND_DIGITS_MAX)
        return f;
    if (digits < 0) {
        double scale = pow(10, (double)-digits);
        return isfinite(scale) ? rint(f / scale) * scale : 0;
    }
    snprintf(text, sizeof text, "%.*f", (int)digits, f);
    return strtod(text, NULL);
}

/* round(precision, method): common, ceil, floor. */
static bool filter_round(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t digits = 0;
    jinja_value method = bl__jinja_literal("common");
    if (!bl__jinja_is_number(self))
        return fail_not_number(run, "round", self);
    if (!bl__jinja_steps(run, JINJA_FLOAT_STEPS) ||
        !bl__jinja_int_argument(run, &arg[0], "round: precision", &digits) ||
        !bl__jinja_string_argument(run, &arg[1], "round: method", &method))
        return false;
    double f = bl__jinja_as_float(self), scale = pow(10, (double)digits);
    if (bl__jinja_text_is(&method, "common")) {
        if (!bl__jinja_is_int(self))
            *out = bl__jinja_float(round_decimal(f, digits));
        else if (digits >= 0)
            *out = bl__jinja_int(bl__jinja_as_int(self));
        else if (fabs(f = round_decimal(f, digits)) < 0x1p63)
            *out = bl__jinja_int((int64_t)f);
        else
            return bl__jinja_fail(run, BL_ERR_LIMIT, "round: beyond 64 bits");
        return true;
    }
    bool up = bl__jinja_text_is(&method, "ceil");
    if (!up && !bl__jinja_text_is(&method, "floor"))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "round: method is common, ceil or floor");
    *out = bl__jinja_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
    return true;
}

/* ---- Any value ---- */

static bool filter_default(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    bool absent =
        self->kind == JINJA_UNDEFINED || (bl__jinja_truth(&arg[1]) && !bl__jinja_truth(self));
    *out = !absent ? *self : arg[0].kind == JINJA_MISSING ? bl__jinja_literal("") : arg[0];
    return true;
}

static bool filter_length(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    size_t n = 0;
    if (self->kind == JINJA_STRING && bl__jinja_touch(run, self->len))
        n = bl__jinja_count_chars(self->as.text, self->len);
    else if (self->kind == JINJA_LIST && self->flavour != JINJA_GENERATOR)
        n = self->as.list->count;
    else if (self->kind == JINJA_DICT)
        n = self->as.dict->count;
    else if (self->kind != JINJA_UNDEFINED)
        return run->status == BL_OK && bl__jinja_fail(run, BL_ERR_ARGUMENT, "length: %s has none",
                                                      bl__jinja_type_name(self));
    *out = bl__jinja_int((int64_t)n);
    return true;
}

static bool json_separators(jinja_run *run, const jinja_value *v, jinja_json_style *style) {
    jinja_list *items;
    if (v->kind == JINJA_MISSING || v->kind == JINJA_NONE)
        return true;
    if (!bl__jinja_items(run, v, &items))
        return false;
    if (items->count != 2)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "tojson: separators are two strings");
    return bl__jinja_string_argument(run, &items->items[0], "tojson: a separator",
                                     &style->item_separator) &&
           bl__jinja_string_argument(run, &items->items[1], "tojson: a separator",
                                     &style->key_separator);
}

/* tojson(ensure_ascii, indent, separators, sort_keys), as transformers defines it. */
static bool filter_tojson(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    size_t mark = run->out.len;
    jinja_json_style style = {.ascii = bl__jinja_truth(&arg[0]),
                              .sort_keys = bl__jinja_truth(&arg[3]),
                              .indented = arg[1].kind > JINJA_NONE,
                              .indent = arg[1],
                              .item_separator = bl__jinja_literal(", "),
                              .key_separator = bl__jinja_literal(": ")};
    if (style.indented) {
        style.item_separator = bl__jinja_literal(",");
        if (arg[1].kind != JINJA_STRING) {
            int64_t width = 0;
            if (!bl__jinja_int_argument(run, &arg[1], "tojson: indent", &width))
                return false;
            if (width > INDENT_MAX)
                return bl__jinja_fail(run, BL_ERR_LIMIT, "tojson: indent is at most %d",
                                      INDENT_MAX);
            for (int64_t i = 0; i < width; i++)
                if (!bl__jinja_write(run, " ", 1))
                    return false;
            if (!bl__jinja_take(run, mark, &style.indent))
                return false;
        }
    }
    return json_separators(run, &arg[2], &style) && bl__jinja_write_json(run, self, &style, 0) &&
           bl__jinja_take(run, mark, out);
}

/* ---- Sequences ---- */

/* What `attribute` names in an item: "a.b.0" goes inwards by subscripts. MISSING and none give the
 * item itself. fallback, unless MISSING, takes the place of undefined values. */
static bool get_path(jinja_run *run, const jinja_value *item, const jinja_value *attribute,
                     const jinja_value *fallback, jinja_value *out) {
    jinja_value v = *item, key = *attribute;
    if (attribute->kind == JINJA_MISSING || attribute->kind == JINJA_NONE) {
        *out = v;
        return true;
    }
    size_t at = 0;
    do {
        if (attribute->kind == JINJA_STRING) {
            const char *part = attribute->as.text + at;
            const char *dot = memchr(part, '.', attribute->len - at);
            size_t n = dot ? (size_t)(dot - part) : attribute->len - at;
            int64_t index;
            key = bl__jinja_string(part, n);
            if (n > 0 && strspn(part, "0123456789") >= n && n < 18 &&
                bl__jinja_parse_int(part, n, 10, &index))
                key = bl__jinja_int(index);
            at += n + 1;
        }
        jinja_value object = v;
        if (!bl__jinja_get_item(run, &object, &key, &v))
            return false;
        if (v.kind == JINJA_UNDEFINED && fallback->kind != JINJA_MISSING)
            v = *fallback;
    } while (attribute->kind == JINJA_STRING && at <= attribute->len);
    *out = v;
    return true;
}

static const jinja_value missing = {.kind = JINJA_MISSING};

static bool filter_join(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    jinja_value item, separator = bl__jinja_literal("");
    size_t mark = run->out.len;
    if (!bl__jinja_items(run, self, &items) ||
        (arg[0].kind != JINJA_MISSING && !bl__jinja_to_string(run, &arg[0], &separator)))
        return false;
    for (size_t i = 0; i < items->count; i++)
        if ((i > 0 && !bl__jinja_print(run, &separator)) ||
            !get_path(run, &items->items[i], &arg[1], &missing, &item) ||
            !bl__jinja_print(run, &item))
            return false;
    return bl__jinja_take(run, mark, out);
}

/* first; variant 1: last. */
static bool filter_end(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    if (variant == 1 && self->kind == JINJA_LIST && self->flavour == JINJA_GENERATOR)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "last: a generator has no known end");
    if (!bl__jinja_items(run, self, &items))
        return false;
    *out = items->count == 0 ? bl__jinja_undefined("item of an empty sequence", 25)
                             : items->items[variant == 1 ? items->count - 1 : 0];
    return true;
}

static bool copy_items(jinja_run *run, const jinja_value *v, jinja_flavour flavour,
                       jinja_value *out) {
    jinja_list *items;
    if (!bl__jinja_items(run, v, &items) || !bl__jinja_new_list(run, items->count, flavour, out))
        return false;
    if (items->count)
        memcpy(out->as.list->items, items->items, items->count * sizeof *items->items);
    out->as.list->count = items->count;
    return true;
}

static bool filter_list(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return copy_items(run, self, JINJA_PLAIN, out);
}

static bool filter_reverse(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value bounds[3] = {bl__jinja_none(), bl__jinja_none(), bl__jinja_int(-1)};
    jinja_value list;
    if (self->kind == JINJA_STRING)
        return bl__jinja_slice(run, self, bounds, out);
    if (!copy_items(run, self, JINJA_PLAIN, &list) || !bl__jinja_slice(run, &list, bounds, out))
        return false;
    out->flavour = JINJA_GENERATOR;
    return true;
}

static bool filter_items(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    const jinja_args none = {0};
    if (self->kind == JINJA_UNDEFINED)
        return bl__jinja_new_list(run, 0, JINJA_GENERATOR, out);
    if (self->kind != JINJA_DICT)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "items: %s is not a dict",
                              bl__jinja_type_name(self));
    const jinja_builtin *items = bl__jinja_find_method(self, "items", 5);
    if (!bl__jinja_call_builtin(run, items, self, &none, out))
        return false;
    out->flavour = JINJA_GENERATOR;
    return true;
}

/* What items are ordered and told apart by: an attribute, its case ignored unless asked for. */
static bool sort_keys(jinja_run *run, const jinja_list *items, const jinja_value *attribute,
                      bool case_sensitive, jinja_list **out) {
    jinja_value keys, key;
    if (!bl__jinja_new_list(run, items->count, JINJA_PLAIN, &keys))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        if (!get_path(run, &items->items[i], attribute, &missing, &key) ||
            (key.kind == JINJA_STRING && !case_sensitive &&
             !bl__jinja_change_case(run, &key, JINJA_LOWER, &key)) ||
            !bl__jinja_push(run, keys.as.list, &key))
            return false;
    }
    *out = keys.as.list;
    return true;
}

typedef struct keyed {
    jinja_value key, value;
} keyed;

/* Stable merge sort of from[n] into from, to[n] being scratch. */
static bool merge_sort(jinja_run *run, keyed *from, keyed *to, size_t n, bool reverse) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n; start += 2 * width) {
            size_t middle = start + width < n ? start + width : n;
            size_t end = start + 2 * width < n ? start + 2 * width : n;
            size_t a = start, b = middle;
            for (size_t k = start; k < end; k++) {
                int order = 1;
                if (a < middle && b < end &&
                    !bl__jinja_order(run, &from[a].key, &from[b].key, 0, &order))
                    return false;
                bool take_a = a < middle && (b == end || (reverse ? order >= 0 : order <= 0));
                to[k] = take_a ? from[a++] : from[b++];
            }
        }
        memcpy(from, to, n * sizeof *from);
    }
    return true;
}

static bool sort_items(jinja_run *run, jinja_list *items, const jinja_list *keys, bool reverse) {
    size_t n = items->count;
    keyed *rows = bl__jinja_alloc(run, n, 2 * sizeof *rows);
    if (!rows)
        return false;
    for (size_t i = 0; i < n; i++)
        rows[i] = (keyed){.key = keys->items[i], .value = items->items[i]};
    if (!merge_sort(run, rows, rows + n, n, reverse))
        return false;
    for (size_t i = 0; i < n; i++)
        items->items[i] = rows[i].value;
    return true;
}

/* sort(reverse, case_sensitive, attribute) */
static bool filter_sort(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *keys;
    return copy_items(run, self, JINJA_PLAIN, out) &&
           sort_keys(run, out->as.list, &arg[2], bl__jinja_truth(&arg[1]), &keys) &&
           sort_items(run, out->as.list, keys, bl__jinja_truth(&arg[0]));
}

/* dictsort(case_sensitive, by, reverse) */
static bool filter_dictsort(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *keys;
    jinja_value by = bl__jinja_literal("key"), pairs, position;
    if (self->kind != JINJA_DICT)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "dictsort: %s is not a dict",
                              bl__jinja_type_name(self));
    if (!bl__jinja_string_argument(run, &arg[1], "dictsort: by", &by))
        return false;
    bool by_key = bl__jinja_text_is(&by, "key");
    if (!by_key && !bl__jinja_text_is(&by, "value"))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "dictsort: by is 'key' or 'value'");
    position = bl__jinja_int(by_key ? 0 : 1);
    if (!filter_items(run, self, arg, all, 0, &pairs) ||
        !sort_keys(run, pairs.as.list, &position, bl__jinja_truth(&arg[0]), &keys) ||
        !sort_items(run, pairs.as.list, keys, bl__jinja_truth(&arg[2])))
        return false;
    pairs.flavour = JINJA_PLAIN;
    *out = pairs;
    return true;
}

/* unique(case_sensitive, attribute) */
static bool filter_unique(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items, *keys;
    if (!bl__jinja_items(run, self, &items) ||
        !sort_keys(run, items, &arg[1], bl__jinja_truth(&arg[0]), &keys) ||
        !bl__jinja_new_list(run, 0, JINJA_GENERATOR, out))
        return false;
    for (size_t i = 0, n = 0; i < items->count; i++) {
        bool seen = false;
        for (size_t k = 0; k < n && !seen; k++) /* the first n keys are the ones kept */
            if (!bl__jinja_equal(run, &keys->items[k], &keys->items[i], 0, &seen))
                return false;
        if (seen)
            continue;
        keys->items[n++] = keys->items[i];
        if (!bl__jinja_push(run, out->as.list, &items->items[i]))
            return false;
    }
    return true;
}

/* min(case_sensitive, attribute): variant -1; max: variant 1. */
static bool filter_extreme(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items, *keys;
    size_t best = 0;
    if (!bl__jinja_items(run, self, &items) ||
        !sort_keys(run, items, &arg[1], bl__jinja_truth(&arg[0]), &keys))
        return false;
    for (size_t i = 1; i < items->count; i++) {
        int order;
        if (!bl__jinja_order(run, &keys->items[i], &keys->items[best], 0, &order))
            return false;
        if (variant < 0 ? order < 0 : order > 0)
            best = i;
    }
    *out = items->count ? items->items[best] : bl__jinja_undefined("item of an empty sequence", 25);
    return true;
}

/* sum(attribute, start) */
static bool filter_sum(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    jinja_value item, total = arg[1].kind == JINJA_MISSING ? bl__jinja_int(0) : arg[1];
    if (!bl__jinja_items(run, self, &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        jinja_value before = total;
        if (!get_path(run, &items->items[i], &arg[0], &missing, &item) ||
            !bl__jinja_binary(run, JINJA_ADD, &before, &item, &total))
            return false;
    }
    *out = total;
    return true;
}

/* A filter or test given by name, and the arguments that come after the name. */
static bool find_named(jinja_run *run, const jinja_args *all, size_t at, bool test,
                       const jinja_builtin **out, jinja_args *rest) {
    jinja_value name;
    if (!bl__jinja_string_argument(run, &all->values[at], "the name of a filter or test", &name))
        return false;
    *out = test ? bl__jinja_find_test(name.as.text, name.len)
                : bl__jinja_find_filter(name.as.text, name.len);
    if (!*out)
        return bl__jinja_fail(run, BL_ERR_UNSUPPORTED, "unknown %s '%.*s'",
                              test ? "test" : "filter", name.len < 60 ? (int)name.len : 60,
                              name.as.text);
    *rest = *all;
    rest->values += at + 1;
    rest->count -= at + 1;
    return true;
}

static const jinja_value *named_argument(const jinja_args *all, const char *name) {
    for (size_t i = 0; i < all->n_named; i++)
        if (bl__jinja_text_is(&all->named[2 * i], name))
            return &all->named[2 * i + 1];
    return &missing;
}

/* Calls a filter or test from within a filter: filters may call one another without end only
 * through "map", whose depth counts. */
static bool call_nested(jinja_run *run, const jinja_builtin *builtin, const jinja_value *self,
                        const jinja_args *args, jinja_value *out) {
    if (run->depth >= run->limits.max_depth)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "nested deeper than %u levels",
                              run->limits.max_depth);
    run->depth++;
    bool ok = bl__jinja_steps(run, 1) && bl__jinja_call_builtin(run, builtin, self, args, out);
    run->depth--;
    return ok;
}

/* map(filter, ...) or map(attribute=, default=) */
static bool filter_map(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    jinja_value item;
    const jinja_builtin *builtin = NULL;
    jinja_args rest;
    const jinja_value *attribute = named_argument(all, "attribute");
    bool by_filter = all->count > 0;
    if (!bl__jinja_truth(self)) /* none and the like give nothing, unlike elsewhere */
        return bl__jinja_new_list(run, 0, JINJA_GENERATOR, out);
    if (!by_filter && attribute->kind == JINJA_MISSING)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "map: needs a filter or an attribute");
    if ((by_filter && !find_named(run, all, 0, false, &builtin, &rest)) ||
        !bl__jinja_items(run, self, &items) || !bl__jinja_new_list(run, 0, JINJA_GENERATOR, out))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        bool ok = by_filter ? call_nested(run, builtin, &items->items[i], &rest, &item)
                            : get_path(run, &items->items[i], attribute,
                                       named_argument(all, "default"), &item);
        if (!ok || !bl__jinja_push(run, out->as.list, &item))
            return false;
    }
    return true;
}

enum { SELECT = 0, REJECT = 1, BY_ATTRIBUTE = 2 };

/* select(test, ...), reject, selectattr(attribute, test, ...), rejectattr */
static bool filter_select(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    jinja_value subject, truth;
    const jinja_builtin *test = NULL;
    jinja_args rest;
    size_t at = variant & BY_ATTRIBUTE ? 1 : 0;
    if (!bl__jinja_truth(self))
        return bl__jinja_new_list(run, 0, JINJA_GENERATOR, out);
    if (all->count < at)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "selectattr, rejectattr: no attribute given");
    if ((all->count > at && !find_named(run, all, at, true, &test, &rest)) ||
        !bl__jinja_items(run, self, &items) || !bl__jinja_new_list(run, 0, JINJA_GENERATOR, out))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        if (!get_path(run, &items->items[i], at ? &all->values[0] : &missing, &missing, &subject))
            return false;
        truth = subject;
        if (test && !call_nested(run, test, &subject, &rest, &truth))
            return false;
        if (bl__jinja_truth(&truth) != (bool)(variant & REJECT) &&
            !bl__jinja_push(run, out->as.list, &items->items[i]))
            return false;
    }
    return true;
}

static const jinja_builtin filters[] = {
    {.name = "abs", .call = filter_abs},
    {.name = "capitalize", .call = filter_case, .variant = JINJA_CAPITALIZE},
    {.name = "count", .call = filter_length},
    {.name = "d", .call = filter_default, .params = {"default_value", "boolean"}},
    {.name = "default", .call = filter_default, .params = {"default_value", "boolean"}},
    {.name = "dictsort", .call = filter_dictsort, .params = {"case_sensitive", "by", "reverse"}},
    {.name = "e", .call = filter_escape},
    {.name = "escape", .call = filter_escape},
    {.name = "first", .call = filter_end, .variant = 0},
    {.name = "float", .call = filter_float, .params = {"default"}},
    {.name = "format", .call = filter_format, .variadic = true},
    {.name = "indent", .call = filter_indent, .params = {"width", "first", "blank"}},
    {.name = "int", .call = filter_int, .params = {"default", "base"}},
    {.name = "items", .call = filter_items},
    {.name = "join", .call = filter_join, .params = {"d", "attribute"}},
    {.name = "last", .call = filter_end, .variant = 1},
    {.name = "length", .call = filter_length},
    {.name = "list", .call = filter_list},
    {.name = "lower", .call = filter_case, .variant = JINJA_LOWER},
    {.name = "map", .call = filter_map, .variadic = true},
    {.name = "max",
     .call = filter_extreme,
     .variant = 1,
     .params = {"case_sensitive", "attribute"}},
    {.name = "min",
     .call = filter_extreme,
     .variant = -1,
     .params = {"case_sensitive", "attribute"}},
    {.name = "reject", .call = filter_select, .variant = REJECT, .variadic = true},
    {.name = "rejectattr",
     .call = filter_select,
     .variant = REJECT | BY_ATTRIBUTE,
     .variadic = true},
    {.name = "replace", .call = filter_replace, .required = 2, .params = {"old", "new", "count"}},
    {.name = "reverse", .call = filter_reverse},
    {.name = "round", .call = filter_round, .params = {"precision", "method"}},
    {.name = "safe", .call = filter_safe},
    {.name = "select", .call = filter_select, .variant = SELECT, .variadic = true},
    {.name = "selectattr", .call = filter_select, .variant = BY_ATTRIBUTE, .variadic = true},
    {.name = "sort", .call = filter_sort, .params = {"reverse", "case_sensitive", "attribute"}},
    {.name = "string", .call = filter_string},
    {.name = "sum", .call = filter_sum, .params = {"attribute", "start"}},
    {.name = "title", .call = filter_case, .variant = JINJA_TITLE_WORDS},
    {.name = "tojson",
     .call = filter_tojson,
     .params = {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {.name = "trim", .call = filter_trim, .params = {"chars"}},
    {.name = "unique", .call = filter_unique, .params = {"case_sensitive", "attribute"}},
    {.name = "upper", .call = filter_case, .variant = JINJA_UPPER},
};

const jinja_builtin *bl__jinja_find_filter(const char *name, size_t len) {
    return bl__jinja_find_in(filters, sizeof filters / sizeof *filters, name, len);
}
