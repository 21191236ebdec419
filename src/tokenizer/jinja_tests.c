/* Owns the tests (`x is test`) and the global functions. */
#include <time.h>

#include "tokenizer/jinja_strings.h"
#include "tokenizer/jinja_text.h"

#include "base/error.h"

enum { RANGE_MAX = 100000, TIME_FORMAT_MAX = 256, TIME_TEXT_MAX = 64 };

/* Tests of the kind of value alone. */
enum {
    IS_DEFINED,
    IS_UNDEFINED,
    IS_NONE,
    IS_BOOLEAN,
    IS_TRUE,
    IS_FALSE,
    IS_INTEGER,
    IS_FLOAT,
    IS_NUMBER,
    IS_STRING,
    IS_MAPPING,
    IS_ITERABLE,
    IS_SEQUENCE,
    IS_CALLABLE,
    IS_ESCAPED,
};

static bool kind_is(const jinja_value *v, int what) {
    jinja_kind kind = (jinja_kind)v->kind;
    bool sequence = kind == JINJA_STRING || kind == JINJA_DICT || kind == JINJA_UNDEFINED ||
                    (kind == JINJA_LIST && v->flavour <= JINJA_RANGE);
    switch (what) {
    case IS_DEFINED:
        return kind != JINJA_UNDEFINED;
    case IS_UNDEFINED:
        return kind == JINJA_UNDEFINED;
    case IS_NONE:
        return kind == JINJA_NONE;
    case IS_BOOLEAN:
        return kind == JINJA_BOOL;
    case IS_TRUE:
        return kind == JINJA_BOOL && v->as.boolean;
    case IS_FALSE:
        return kind == JINJA_BOOL && !v->as.boolean;
    case IS_INTEGER:
        return kind == JINJA_INT;
    case IS_FLOAT:
        return kind == JINJA_FLOAT;
    case IS_NUMBER:
        return bl__jinja_is_number(v);
    case IS_STRING:
        return kind == JINJA_STRING;
    case IS_MAPPING:
        return kind == JINJA_DICT;
    case IS_ITERABLE: /* undefined values are: they have no items */
        return sequence || kind == JINJA_LIST || kind == JINJA_LOOP;
    case IS_SEQUENCE:
        return sequence;
    case IS_CALLABLE:
        return kind >= JINJA_LOOP;
    default:
        return kind == JINJA_STRING && v->flavour == JINJA_SAFE;
    }
}

static bool test_kind(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    *out = bl__jinja_bool(kind_is(self, variant));
    return true;
}

static bool test_compare(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    bool holds;
    int order;
    if (variant == JINJA_EQ || variant == JINJA_NE) {
        if (!bl__jinja_equal(run, self, &arg[0], 0, &holds))
            return false;
        *out = bl__jinja_bool(holds == (variant == JINJA_EQ));
        return true;
    }
    if (variant == JINJA_IN) {
        if (!bl__jinja_contains(run, self, &arg[0], &holds))
            return false;
        *out = bl__jinja_bool(holds);
        return true;
    }
    if (!bl__jinja_order(run, self, &arg[0], 0, &order))
        return false;
    *out = bl__jinja_bool(variant == JINJA_LT   ? order < 0
                          : variant == JINJA_LE ? order <= 0
                          : variant == JINJA_GT ? order > 0
                                                : order >= 0);
    return true;
}

/* Identity: of constants by kind and value, of others as far as it can be told from equality. */
static bool test_sameas(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    bool equal;
    if (!bl__jinja_equal(run, self, &arg[0], 0, &equal))
        return false;
    *out = bl__jinja_bool(equal && self->kind == arg[0].kind);
    return true;
}

/* even, odd, divisibleby: variant is the remainder of 2 looked for, or -1 for divisibleby. */
static bool test_divisible(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value rest, divisor = bl__jinja_int(2);
    if (variant < 0)
        divisor = arg[0];
    if (!bl__jinja_is_number(self))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s is neither even nor odd",
                              bl__jinja_type_name(self));
    if (!bl__jinja_binary(run, JINJA_MOD, self, &divisor, &rest))
        return false;
    *out = bl__jinja_bool(bl__jinja_as_float(&rest) == (variant < 0 ? 0 : variant));
    return true;
}

/* lower, upper: as the string methods islower and isupper. */
static bool test_case(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    const jinja_args none = {0};
    jinja_value text;
    const char *method = variant == JINJA_UPPER ? "isupper" : "islower";
    return bl__jinja_to_string(run, self, &text) &&
           bl__jinja_call_builtin(run, bl__jinja_find_method(&text, method, 7), &text, &none, out);
}

/* Whether there is a filter or test of this name: variant 1 for tests. */
static bool test_exists(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    const jinja_builtin *found = NULL;
    if (self->kind == JINJA_STRING)
        found = variant ? bl__jinja_find_test(self->as.text, self->len)
                        : bl__jinja_find_filter(self->as.text, self->len);
    *out = bl__jinja_bool(found != NULL);
    return true;
}

#define KIND(text, what)                                                                           \
    { .name = (text), .call = test_kind, .variant = (what) }
#define COMPARE(text, op)                                                                          \
    {                                                                                              \
        .name = (text), .call = test_compare, .variant = (op), .required = 1, .params = {          \
            "other"                                                                                \
        }                                                                                          \
    }

static const jinja_builtin tests[] = {
    KIND("defined", IS_DEFINED),
    KIND("undefined", IS_UNDEFINED),
    KIND("none", IS_NONE),
    KIND("boolean", IS_BOOLEAN),
    KIND("true", IS_TRUE),
    KIND("false", IS_FALSE),
    KIND("integer", IS_INTEGER),
    KIND("float", IS_FLOAT),
    KIND("number", IS_NUMBER),
    KIND("string", IS_STRING),
    KIND("mapping", IS_MAPPING),
    KIND("iterable", IS_ITERABLE),
    KIND("sequence", IS_SEQUENCE),
    KIND("callable", IS_CALLABLE),
    KIND("escaped", IS_ESCAPED),
    COMPARE("eq", JINJA_EQ),
    COMPARE("equalto", JINJA_EQ),
    COMPARE("==", JINJA_EQ),
    COMPARE("ne", JINJA_NE),
    COMPARE("!=", JINJA_NE),
    COMPARE("lt", JINJA_LT),
    COMPARE("lessthan", JINJA_LT),
    COMPARE("<", JINJA_LT),
    COMPARE("le", JINJA_LE),
    COMPARE("<=", JINJA_LE),
    COMPARE("gt", JINJA_GT),
    COMPARE("greaterthan", JINJA_GT),
    COMPARE(">", JINJA_GT),
    COMPARE("ge", JINJA_GE),
    COMPARE(">=", JINJA_GE),
    COMPARE("in", JINJA_IN),
    {.name = "sameas", .call = test_sameas, .required = 1, .params = {"other"}},
    {.name = "even", .call = test_divisible, .variant = 0},
    {.name = "odd", .call = test_divisible, .variant = 1},
    {.name = "divisibleby",
     .call = test_divisible,
     .variant = -1,
     .required = 1,
     .params = {"num"}},
    {.name = "lower", .call = test_case, .variant = JINJA_LOWER},
    {.name = "upper", .call = test_case, .variant = JINJA_UPPER},
    {.name = "filter", .call = test_exists, .variant = 0},
    {.name = "test", .call = test_exists, .variant = 1},
};

const jinja_builtin *bl__jinja_find_test(const char *name, size_t len) {
    return bl__jinja_find_in(tests, sizeof tests / sizeof *tests, name, len);
}

/* ---- Global functions ---- */

static bool call_range(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t start = 0, stop = 0, step = 1;
    if (!bl__jinja_int_argument(run, &arg[0], "range: start", &start) ||
        !bl__jinja_int_argument(run, &arg[1], "range: stop", &stop) ||
        !bl__jinja_int_argument(run, &arg[2], "range: step", &step))
        return false;
    if (arg[1].kind == JINJA_MISSING) {
        stop = start;
        start = 0;
    }
    if (step == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "range: the step is zero");
    /* Unsigned, for the distance between two int64 may not fit one. */
    uint64_t span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step, n = 0;
    if (step > 0 ? start < stop : start > stop)
        n = (span - 1) / stride + 1;
    if (n > RANGE_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "range: %llu items, at most %d",
                              (unsigned long long)n, RANGE_MAX);
    if (!bl__jinja_new_list(run, (size_t)n + 3, JINJA_RANGE, out))
        return false;
    jinja_value *items = out->as.list->items;
    for (uint64_t i = 0; i < n; i++)
        items[i] = bl__jinja_int((int64_t)((uint64_t)start + i * (uint64_t)step));
    items[n] = bl__jinja_int(start);
    items[n + 1] = bl__jinja_int(stop);
    items[n + 2] = bl__jinja_int(step);
    out->as.list->count = (size_t)n;
    return true;
}

/* namespace(dict or pairs, name=value ...); dict() alike: variant is the kind made. */
static bool call_dict(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    if (all->count > 1)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "dict, namespace: more than one argument");
    if (!bl__jinja_new_dict(run, (jinja_kind)variant, 0, out))
        return false;
    if (all->count == 1 && all->values->kind == JINJA_DICT) {
        const jinja_dict *from = all->values->as.dict;
        for (size_t i = 0; i < from->count; i++)
            if (!bl__jinja_put(run, out->as.dict, &from->entries[i].key, &from->entries[i].value))
                return false;
    } else if (all->count == 1) {
        jinja_list *items, *pair;
        if (!bl__jinja_items(run, all->values, &items))
            return false;
        for (size_t i = 0; i < items->count; i++) {
            if (!bl__jinja_items(run, &items->items[i], &pair))
                return false;
            if (pair->count != 2)
                return bl__jinja_fail(run, BL_ERR_ARGUMENT, "dict: an item is not a pair");
            if (!bl__jinja_put(run, out->as.dict, &pair->items[0], &pair->items[1]))
                return false;
        }
    }
    for (size_t i = 0; i < all->n_named; i++)
        if (!bl__jinja_put(run, out->as.dict, &all->named[2 * i], &all->named[2 * i + 1]))
            return false;
    return true;
}

/* Fails with the template's own words. */
static bool call_raise(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text;
    if (!bl__jinja_to_string(run, &arg[0], &text))
        return false;
    int len = text.len < 255 ? (int)text.len : 255;
    run->status = bl__fail(run->err, BL_ERR_ARGUMENT, "%.*s", len, text.as.text);
    return false;
}

/* One conversion at a time, so that only those that mean the same everywhere reach the C library.
 */
static bool write_time(jinja_run *run, char conversion, const struct tm *time) {
    static const char *const formats[] = {"%a", "%A", "%b", "%B", "%c", "%d", "%H", "%I", "%j",
                                          "%m", "%M", "%p", "%S", "%U", "%w", "%W", "%x", "%X",
                                          "%y", "%Y", "%Z", "%z", "%%", "%e", "%F", "%T", "%D",
                                          "%R", "%G", "%u", "%V", "%h", "%n", "%t"};
    char text[TIME_TEXT_MAX];
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i][1] == conversion)
            return bl__jinja_write(run, text, strftime(text, sizeof text, formats[i], time));
    return bl__jinja_fail(run, BL_ERR_UNSUPPORTED, "strftime_now: '%%%c' is unsupported",
                          conversion);
}

static bool call_strftime_now(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value format;
    struct tm parts;
    time_t now = run->has_time ? (time_t)run->time : time(NULL);
    size_t mark = run->out.len;
    if (!bl__jinja_string_argument(run, &arg[0], "strftime_now: the format", &format))
        return false;
    if (!(run->has_time ? gmtime_r(&now, &parts) : localtime_r(&now, &parts)))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "strftime_now: the time is out of range");
    if (format.len > TIME_FORMAT_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "strftime_now: a format of more than %d bytes",
                              TIME_FORMAT_MAX);
    for (size_t i = 0; i < format.len; i++) {
        bool conversion = format.as.text[i] == '%' && i + 1 < format.len;
        bool ok = conversion ? write_time(run, format.as.text[++i], &parts)
                             : bl__jinja_write(run, format.as.text + i, 1);
        if (!ok)
            return false;
    }
    return bl__jinja_take(run, mark, out);
}

static const jinja_builtin functions[] = {
    {.name = "range", .call = call_range, .required = 1, .params = {"start", "stop", "step"}},
    {.name = "namespace", .call = call_dict, .variant = JINJA_NAMESPACE, .variadic = true},
    {.name = "dict", .call = call_dict, .variant = JINJA_DICT, .variadic = true},
    {.name = "raise_exception", .call = call_raise, .required = 1, .params = {"message"}},
    {.name = "strftime_now", .call = call_strftime_now, .required = 1, .params = {"format"}},
};

const jinja_builtin *bl__jinja_find_function(const char *name, size_t len) {
    return bl__jinja_find_in(functions, sizeof functions / sizeof *functions, name, len);
}
