/* Owns what values do: truth, comparison, arithmetic, subscripts. Python's rules throughout. */
#include <math.h>

#include "base/checked.h"
#include "tokenizer/jinja_run.h"
#include "tokenizer/jinja_text.h"

const char *bl__jinja_type_name(const jinja_value *v) {
    static const char *const names[] = {
        "nothing",    "an undefined value",
        "none",       "a boolean",
        "an integer", "a float",
        "a string",   "a list",
        "a dict",     "a namespace",
        "the loop",   "a macro",
        "a function", "a method",
    };
    return names[v->kind];
}

static bool fail_undefined(jinja_run *run, const jinja_value *v) {
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "'%.*s' is undefined",
                          v->len < 80 ? (int)v->len : 80, v->as.text);
}

static bool fail_types(jinja_run *run, const char *what, const jinja_value *a,
                       const jinja_value *b) {
    if (a->kind == JINJA_UNDEFINED)
        return fail_undefined(run, a);
    if (b->kind == JINJA_UNDEFINED)
        return fail_undefined(run, b);
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "cannot %s %s and %s", what, bl__jinja_type_name(a),
                          bl__jinja_type_name(b));
}

bool bl__jinja_truth(const jinja_value *v) {
    switch ((jinja_kind)v->kind) {
    case JINJA_BOOL:
        return v->as.boolean;
    case JINJA_INT:
        return v->as.integer != 0;
    case JINJA_FLOAT:
        return v->as.number != 0;
    case JINJA_STRING:
        return v->len > 0;
    case JINJA_LIST:
        return v->flavour == JINJA_GENERATOR || v->as.list->count > 0;
    case JINJA_DICT:
        return v->as.dict->count > 0;
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    default:
        return true;
    }
}

static bool equal_dicts(jinja_run *run, const jinja_dict *a, const jinja_dict *b, unsigned nesting,
                        bool *out) {
    *out = a->count == b->count;
    for (size_t i = 0; *out && i < a->count; i++) {
        jinja_value *other;
        if (!bl__jinja_find(run, b, &a->entries[i].key, &other))
            return false;
        *out = other != NULL;
        if (other && !bl__jinja_equal(run, &a->entries[i].value, other, nesting + 1, out))
            return false;
    }
    return true;
}

bool bl__jinja_equal(jinja_run *run, const jinja_value *a, const jinja_value *b, unsigned nesting,
                     bool *out) {
    if (nesting > JINJA_NESTING_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "comparing values nested too deep");
    if (!bl__jinja_steps(run, 1))
        return false;
    if (bl__jinja_is_number(a) && bl__jinja_is_number(b)) {
        *out = bl__jinja_is_int(a) && bl__jinja_is_int(b)
                   ? bl__jinja_as_int(a) == bl__jinja_as_int(b)
                   : bl__jinja_as_float(a) == bl__jinja_as_float(b);
        return true;
    }
    *out = false;
    if (a->kind != b->kind)
        return true;
    switch ((jinja_kind)a->kind) {
    case JINJA_STRING:
        *out = a->len == b->len && memcmp(a->as.text, b->as.text, a->len) == 0;
        return bl__jinja_touch(run, a->len);
    case JINJA_LIST:
        *out = a->as.list == b->as.list ||
               (a->flavour == b->flavour && a->as.list->count == b->as.list->count);
        if (a->as.list == b->as.list)
            return true;
        for (size_t i = 0; *out && i < a->as.list->count; i++)
            if (!bl__jinja_equal(run, &a->as.list->items[i], &b->as.list->items[i], nesting + 1,
                                 out))
                return false;
        return true;
    case JINJA_DICT:
        return equal_dicts(run, a->as.dict, b->as.dict, nesting, out);
    case JINJA_NAMESPACE:
        *out = a->as.dict == b->as.dict;
        return true;
    case JINJA_LOOP:
        *out = a->as.loop == b->as.loop;
        return true;
    case JINJA_MACRO:
        *out = a->as.macro == b->as.macro;
        return true;
    case JINJA_FUNCTION:
        *out = a->as.function == b->as.function;
        return true;
    case JINJA_METHOD:
        *out = a->as.method->builtin == b->as.method->builtin;
        return !*out ||
               bl__jinja_equal(run, &a->as.method->self, &b->as.method->self, nesting + 1, out);
    default: /* none, undefined */
        *out = true;
        return true;
    }
}

bool bl__jinja_order(jinja_run *run, const jinja_value *a, const jinja_value *b, unsigned nesting,
                     int *out) {
    if (nesting > JINJA_NESTING_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "comparing values nested too deep");
    if (!bl__jinja_steps(run, 1))
        return false;
    if (bl__jinja_is_int(a) && bl__jinja_is_int(b)) {
        int64_t x = bl__jinja_as_int(a), y = bl__jinja_as_int(b);
        *out = (x > y) - (x < y);
        return true;
    }
    if (bl__jinja_is_number(a) && bl__jinja_is_number(b)) {
        double x = bl__jinja_as_float(a), y = bl__jinja_as_float(b);
        *out = (x > y) - (x < y);
        return true;
    }
    if (a->kind == JINJA_STRING && b->kind == JINJA_STRING) {
        size_t n = bl__min_size(a->len, b->len); /* bytes of UTF-8 order as code points do */
        int order = n ? memcmp(a->as.text, b->as.text, n) : 0;
        *out = order ? order : (a->len > b->len) - (a->len < b->len);
        return bl__jinja_touch(run, n);
    }
    if (a->kind != JINJA_LIST || b->kind != JINJA_LIST || a->flavour != b->flavour ||
        a->flavour > JINJA_TUPLE)
        return fail_types(run, "order", a, b);
    const jinja_list *x = a->as.list, *y = b->as.list;
    for (size_t i = 0; i < x->count && i < y->count; i++) {
        bool equal;
        if (!bl__jinja_equal(run, &x->items[i], &y->items[i], nesting + 1, &equal))
            return false;
        if (!equal)
            return bl__jinja_order(run, &x->items[i], &y->items[i], nesting + 1, out);
    }
    *out = (x->count > y->count) - (x->count < y->count);
    return true;
}

bool bl__jinja_contains(jinja_run *run, const jinja_value *item, const jinja_value *container,
                        bool *out) {
    jinja_value *found;
    *out = false;
    switch ((jinja_kind)container->kind) {
    case JINJA_UNDEFINED:
        return true;
    case JINJA_STRING:
        if (item->kind != JINJA_STRING)
            break;
        *out = item->len == 0 ||
               memmem(container->as.text, container->len, item->as.text, item->len) != NULL;
        return bl__jinja_touch(run, (size_t)container->len + item->len);
    case JINJA_LIST:
        for (size_t i = 0; !*out && i < container->as.list->count; i++)
            if (!bl__jinja_equal(run, item, &container->as.list->items[i], 0, out))
                return false;
        return true;
    case JINJA_DICT:
        if (!bl__jinja_find(run, container->as.dict, item, &found))
            return false;
        *out = found != NULL;
        return true;
    default:
        break;
    }
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s cannot be searched for %s",
                          bl__jinja_type_name(container), bl__jinja_type_name(item));
}

static bool fail_overflow(jinja_run *run) {
    return bl__jinja_fail(run, BL_ERR_LIMIT, "an integer beyond 64 bits");
}

static bool int_power(jinja_run *run, int64_t base, int64_t exponent, jinja_value *out) {
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return fail_overflow(run);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return fail_overflow(run);
    }
    *out = bl__jinja_int(result);
    return true;
}

static bool int_arithmetic(jinja_run *run, jinja_op op, int64_t a, int64_t b, jinja_value *out) {
    int64_t result = 0;
    bool overflow = false;
    if ((op == JINJA_FLOORDIV || op == JINJA_MOD || op == JINJA_DIV) && b == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "division by zero");
    switch (op) {
    case JINJA_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case JINJA_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case JINJA_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case JINJA_DIV:
        *out = bl__jinja_float((double)a / (double)b);
        return true;
    case JINJA_FLOORDIV: /* rounds down, where C rounds towards zero */
        overflow = a == INT64_MIN && b == -1;
        if (!overflow)
            result = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
        break;
    case JINJA_MOD: /* has the sign of b */
        result = b == -1 ? 0 : a % b;
        if (result != 0 && (result < 0) != (b < 0))
            result += b;
        break;
    default:
        if (b >= 0)
            return int_power(run, a, b, out);
        if (a == 0)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "division by zero");
        *out = bl__jinja_float(pow((double)a, (double)b));
        return true;
    }
    if (overflow)
        return fail_overflow(run);
    *out = bl__jinja_int(result);
    return true;
}

static bool float_arithmetic(jinja_run *run, jinja_op op, double a, double b, jinja_value *out) {
    double result, rest;
    if ((op == JINJA_FLOORDIV || op == JINJA_MOD || op == JINJA_DIV) && b == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "division by zero");
    switch (op) {
    case JINJA_ADD:
        result = a + b;
        break;
    case JINJA_SUB:
        result = a - b;
        break;
    case JINJA_MUL:
        result = a * b;
        break;
    case JINJA_DIV:
        result = a / b;
        break;
    case JINJA_FLOORDIV:
    case JINJA_MOD:
        rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0))
            rest += b;
        else if (rest == 0)
            rest = copysign(0.0, b);
        result = op == JINJA_MOD ? rest : floor((a - rest) / b + 0.5);
        break;
    default:
        result = pow(a, b);
        break;
    }
    *out = bl__jinja_float(result);
    return true;
}

static bool add_strings(jinja_run *run, const jinja_value *a, const jinja_value *b,
                        jinja_value *out) {
    bool safe = a->flavour == JINJA_SAFE || b->flavour == JINJA_SAFE;
    if (safe) { /* markup stays markup: what is added to it is escaped */
        size_t mark = run->out.len;
        if (!bl__jinja_write_escaped(run, a) || !bl__jinja_write_escaped(run, b) ||
            !bl__jinja_take(run, mark, out))
            return false;
        out->flavour = JINJA_SAFE;
        return true;
    }
    size_t len = (size_t)a->len + b->len;
    char *text = bl__jinja_touch(run, len) ? bl__jinja_alloc(run, len, 1) : NULL;
    if (!text)
        return false;
    if (a->len)
        memcpy(text, a->as.text, a->len);
    if (b->len)
        memcpy(text + a->len, b->as.text, b->len);
    *out = bl__jinja_string(text, len);
    return true;
}

static bool add_lists(jinja_run *run, const jinja_value *a, const jinja_value *b,
                      jinja_value *out) {
    const jinja_list *x = a->as.list, *y = b->as.list;
    if (!bl__jinja_new_list(run, x->count + y->count, (jinja_flavour)a->flavour, out))
        return false;
    for (size_t i = 0; i < x->count; i++)
        out->as.list->items[out->as.list->count++] = x->items[i];
    for (size_t i = 0; i < y->count; i++)
        out->as.list->items[out->as.list->count++] = y->items[i];
    return true;
}

/* A string or list, n times. */
static bool repeat(jinja_run *run, const jinja_value *v, int64_t n, jinja_value *out) {
    size_t count = n > 0 ? (size_t)n : 0, total;
    size_t unit = v->kind == JINJA_STRING ? v->len : v->as.list->count;
    if (!bl__mul_size(count, unit, &total) || total > run->limits.max_memory)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "%s repeated to more than %zu bytes",
                              bl__jinja_type_name(v), run->limits.max_memory);
    if (unit == 0)
        count = 0;
    if (v->kind == JINJA_STRING) {
        char *text = bl__jinja_touch(run, total) ? bl__jinja_alloc(run, total, 1) : NULL;
        if (!text)
            return false;
        for (size_t i = 0; i < count; i++)
            memcpy(text + i * unit, v->as.text, unit);
        *out = bl__jinja_string(text, total);
        out->flavour = v->flavour;
        return bl__jinja_steps(run, count);
    }
    if (!bl__jinja_new_list(run, total, (jinja_flavour)v->flavour, out))
        return false;
    for (size_t i = 0; i < total; i++)
        out->as.list->items[i] = v->as.list->items[i % unit];
    out->as.list->count = total;
    return true;
}

static bool is_repeatable(const jinja_value *v) {
    return v->kind == JINJA_STRING || (v->kind == JINJA_LIST && v->flavour <= JINJA_TUPLE);
}

bool bl__jinja_binary(jinja_run *run, jinja_op op, const jinja_value *a, const jinja_value *b,
                      jinja_value *out) {
    static const char *const names[] = {"add",    "subtract",       "multiply",
                                        "divide", "divide (floor)", "take the remainder of",
                                        "raise"};
    if (bl__jinja_is_int(a) && bl__jinja_is_int(b))
        return int_arithmetic(run, op, bl__jinja_as_int(a), bl__jinja_as_int(b), out);
    if (bl__jinja_is_number(a) && bl__jinja_is_number(b))
        return float_arithmetic(run, op, bl__jinja_as_float(a), bl__jinja_as_float(b), out);
    if (op == JINJA_ADD && a->kind == JINJA_STRING && b->kind == JINJA_STRING)
        return add_strings(run, a, b, out);
    if (op == JINJA_ADD && a->kind == JINJA_LIST && b->kind == JINJA_LIST &&
        a->flavour == b->flavour && a->flavour <= JINJA_TUPLE)
        return add_lists(run, a, b, out);
    if (op == JINJA_MUL && is_repeatable(a) && bl__jinja_is_int(b))
        return repeat(run, a, bl__jinja_as_int(b), out);
    if (op == JINJA_MUL && is_repeatable(b) && bl__jinja_is_int(a))
        return repeat(run, b, bl__jinja_as_int(a), out);
    if (op == JINJA_MOD && a->kind == JINJA_STRING) {
        jinja_args args = {.values = b, .count = 1};
        bool tuple = b->kind == JINJA_LIST && b->flavour == JINJA_TUPLE;
        if (tuple)
            args = (jinja_args){.values = b->as.list->items, .count = b->as.list->count};
        bool container = !tuple && (b->kind == JINJA_LIST || b->kind == JINJA_DICT);
        return bl__jinja_percent_format(run, a, &args, container, out);
    }
    return fail_types(run, names[op], a, b);
}

/* The characters of a string as a list. */
static bool split_chars(jinja_run *run, const jinja_value *v, jinja_list **out) {
    jinja_value list, item;
    uint32_t code;
    if (!bl__jinja_new_list(run, v->len, JINJA_PLAIN, &list))
        return false;
    for (size_t i = 0; i < v->len;) {
        size_t n = bl__jinja_decode(v->as.text + i, v->len - i, &code);
        item = bl__jinja_string(v->as.text + i, n);
        if (!bl__jinja_push(run, list.as.list, &item))
            return false;
        i += n;
    }
    *out = list.as.list;
    return true;
}

bool bl__jinja_items(jinja_run *run, const jinja_value *v, jinja_list **out) {
    jinja_value list;
    switch ((jinja_kind)v->kind) {
    case JINJA_LIST:
        *out = v->as.list;
        if (v->flavour != JINJA_GENERATOR)
            return true;
        if (!bl__jinja_new_list(run, 0, JINJA_PLAIN, &list))
            return false;
        *list.as.list = *v->as.list;
        v->as.list->count = 0;
        *out = list.as.list;
        return true;
    case JINJA_STRING:
        return split_chars(run, v, out);
    case JINJA_UNDEFINED:
    case JINJA_DICT:
        if (!bl__jinja_new_list(run, v->kind == JINJA_DICT ? v->as.dict->count : 0, JINJA_PLAIN,
                                &list))
            return false;
        for (size_t i = 0; v->kind == JINJA_DICT && i < v->as.dict->count; i++)
            if (!bl__jinja_push(run, list.as.list, &v->as.dict->entries[i].key))
                return false;
        *out = list.as.list;
        return true;
    default:
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s cannot be gone through",
                              bl__jinja_type_name(v));
    }
}

static bool loop_attribute(const jinja_loop *loop, const jinja_value *name, jinja_value *out) {
    size_t i = loop->index, n = loop->items->count;
    const struct {
        const char *name;
        size_t value;
    } numbers[] = {{"index", i + 1},           {"index0", i}, {"revindex", n - i},
                   {"revindex0", n - i - 1},   {"length", n}, {"depth", loop->depth},
                   {"depth0", loop->depth - 1}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
        if (bl__jinja_text_is(name, numbers[k].name)) {
            *out = bl__jinja_int((int64_t)numbers[k].value);
            return true;
        }
    if (bl__jinja_text_is(name, "first"))
        *out = bl__jinja_bool(i == 0);
    else if (bl__jinja_text_is(name, "last"))
        *out = bl__jinja_bool(i + 1 == n);
    else if (bl__jinja_text_is(name, "previtem") && i > 0)
        *out = loop->items->items[i - 1];
    else if (bl__jinja_text_is(name, "nextitem") && i + 1 < n)
        *out = loop->items->items[i + 1];
    else
        return false;
    return true;
}

/* What Python's getattr() finds; *found says whether. */
static bool find_attribute(jinja_run *run, const jinja_value *v, const jinja_value *name,
                           jinja_value *out, bool *found) {
    *found = true;
    if (v->kind == JINJA_NAMESPACE) {
        jinja_value *value;
        if (!bl__jinja_find(run, v->as.dict, name, &value))
            return false;
        if ((*found = value != NULL))
            *out = *value;
        return true;
    }
    if (v->kind == JINJA_LOOP && loop_attribute(v->as.loop, name, out))
        return true;
    if (v->kind == JINJA_MACRO && bl__jinja_text_is(name, "name")) {
        *out = v->as.macro->node->value;
        return true;
    }
    const jinja_builtin *builtin = bl__jinja_find_method(v, name->as.text, name->len);
    if (!(*found = builtin != NULL))
        return true;
    jinja_bound *bound = bl__jinja_alloc(run, 1, sizeof *bound);
    if (!bound)
        return false;
    *bound = (jinja_bound){.builtin = builtin, .self = *v};
    *out = (jinja_value){.kind = JINJA_METHOD, .as.method = bound};
    return true;
}

bool bl__jinja_get_attr(jinja_run *run, const jinja_value *v, const jinja_value *name,
                        jinja_value *out) {
    bool found;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    if (!find_attribute(run, v, name, out, &found) || found)
        return found;
    *out = bl__jinja_undefined(name->as.text, name->len);
    if (v->kind == JINJA_DICT) {
        jinja_value *value;
        if (!bl__jinja_find(run, v->as.dict, name, &value))
            return false;
        if (value)
            *out = *value;
    }
    return true;
}

/* Position of a Python index in a sequence of n; false when it is outside. */
static bool locate(int64_t index, size_t n, size_t *out) {
    if (index < 0)
        index += (int64_t)n;
    if (index < 0 || index >= (int64_t)n)
        return false;
    *out = (size_t)index;
    return true;
}

bool bl__jinja_get_item(jinja_run *run, const jinja_value *v, const jinja_value *index,
                        jinja_value *out) {
    bool by_name = index->kind == JINJA_STRING, found;
    size_t at;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    *out =
        by_name ? bl__jinja_undefined(index->as.text, index->len) : bl__jinja_undefined("item", 4);
    if (v->kind == JINJA_DICT && index->kind != JINJA_DICT && index->kind != JINJA_LIST) {
        jinja_value *value;
        if (!bl__jinja_find(run, v->as.dict, index, &value))
            return false;
        if (value) {
            *out = *value;
            return true;
        }
    } else if (v->kind == JINJA_LIST && v->flavour <= JINJA_RANGE && bl__jinja_is_int(index)) {
        if (locate(bl__jinja_as_int(index), v->as.list->count, &at))
            *out = v->as.list->items[at];
    } else if (v->kind == JINJA_STRING && bl__jinja_is_int(index)) {
        uint32_t code;
        if (!bl__jinja_touch(run, v->len) ||
            !locate(bl__jinja_as_int(index), bl__jinja_count_chars(v->as.text, v->len), &at))
            return run->status == BL_OK;
        at = bl__jinja_char_offset(v->as.text, v->len, at);
        *out = bl__jinja_string(v->as.text + at,
                                bl__jinja_decode(v->as.text + at, v->len - at, &code));
    }
    if (!by_name)
        return true;
    jinja_value attribute;
    if (!find_attribute(run, v, index, &attribute, &found))
        return false;
    if (found)
        *out = attribute;
    return true;
}

/* First index, end and number of items of a slice of n items, as Python counts. */
static bool slice_range(jinja_run *run, const jinja_value bounds[3], int64_t n, int64_t edge[2],
                        int64_t *step, size_t *count) {
    for (int i = 0; i < 3; i++)
        if (bounds[i].kind != JINJA_NONE && !bl__jinja_is_int(&bounds[i]))
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "a slice with %s",
                                  bl__jinja_type_name(&bounds[i]));
    *step = bounds[2].kind == JINJA_NONE ? 1 : bl__jinja_as_int(&bounds[2]);
    if (*step == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "a slice with step zero");
    if (*step < -INT64_MAX) /* so that it can be negated */
        *step = -INT64_MAX;
    bool back = *step < 0;
    for (int i = 0; i < 2; i++) {
        bool first = i == 0;
        if (bounds[i].kind == JINJA_NONE) {
            edge[i] = first ? (back ? n - 1 : 0) : (back ? -1 : n);
            continue;
        }
        int64_t at = bl__jinja_as_int(&bounds[i]);
        if (at < 0)
            at = at < -n ? (back ? -1 : 0) : at + n;
        else if (at >= n)
            at = back ? n - 1 : n;
        edge[i] = at;
    }
    int64_t span = back ? edge[0] - edge[1] : edge[1] - edge[0], stride = back ? -*step : *step;
    *count = span > 0 ? (size_t)((span - 1) / stride + 1) : 0;
    return true;
}

static bool slice_string(jinja_run *run, const jinja_value *v, const jinja_value bounds[3],
                         jinja_value *out) {
    int64_t edge[2], step;
    size_t count, n;
    if (!bl__jinja_touch(run, v->len))
        return false;
    n = bl__jinja_count_chars(v->as.text, v->len);
    if (!slice_range(run, bounds, (int64_t)n, edge, &step, &count))
        return false;
    if (step == 1 || count == 0) { /* a part of the same bytes */
        size_t begin = count ? bl__jinja_char_offset(v->as.text, v->len, (size_t)edge[0]) : 0;
        size_t len = bl__jinja_char_offset(v->as.text + begin, v->len - begin, count);
        *out = bl__jinja_string(v->as.text + begin, len);
    } else {
        jinja_list *chars;
        size_t mark = run->out.len;
        if (!split_chars(run, v, &chars) || !bl__jinja_steps(run, count))
            return false;
        for (size_t i = 0; i < count; i++) {
            const jinja_value *c = &chars->items[edge[0] + (int64_t)i * step];
            if (!bl__jinja_write(run, c->as.text, c->len))
                return false;
        }
        if (!bl__jinja_take(run, mark, out))
            return false;
    }
    out->flavour = v->flavour;
    return true;
}

bool bl__jinja_slice(jinja_run *run, const jinja_value *v, const jinja_value bounds[3],
                     jinja_value *out) {
    int64_t edge[2], step;
    size_t count;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    if (v->kind == JINJA_STRING)
        return slice_string(run, v, bounds, out);
    if (v->kind != JINJA_LIST || v->flavour > JINJA_RANGE) {
        *out = bl__jinja_undefined("slice", 5);
        return true;
    }
    const jinja_list *list = v->as.list;
    bool range = v->flavour == JINJA_RANGE;
    if (!slice_range(run, bounds, (int64_t)list->count, edge, &step, &count) ||
        !bl__jinja_new_list(run, count + (range ? 3 : 0), (jinja_flavour)v->flavour, out))
        return false;
    for (size_t i = 0; i < count; i++)
        out->as.list->items[i] = list->items[edge[0] + (int64_t)i * step];
    out->as.list->count = count;
    if (range) { /* where it starts and stops, in the terms of the range that it is a slice of */
        const jinja_value *old = list->items + list->count;
        uint64_t from = (uint64_t)old[0].as.integer, stride = (uint64_t)old[2].as.integer;
        jinja_value *now = out->as.list->items + count;
        now[0] = bl__jinja_int((int64_t)(from + (uint64_t)edge[0] * stride));
        now[1] = bl__jinja_int((int64_t)(from + (uint64_t)edge[1] * stride));
        now[2] = bl__jinja_int((int64_t)((uint64_t)step * stride));
    }
    return true;
}
