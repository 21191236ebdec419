/* Owns the methods of strings, dicts and lists. Those that change their object are absent, as
 * jinja2's immutable sandbox denies them. */
#include "tokenizer/jinja_strings.h"
#include "tokenizer/jinja_text.h"

#include <math.h>
#include <utf8proc.h>

static bool str_case(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return bl__jinja_change_case(run, self, (jinja_case)variant, out);
}

/* variant: 1 left, 2 right, 3 both. */
static bool str_strip(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return bl__jinja_strip(run, self, &arg[0], variant & 1, variant & 2, out);
}

/* Appends text[begin ... end - 1] of self. */
static bool push_part(jinja_run *run, const jinja_value *self, size_t begin, size_t end,
                      jinja_value *list) {
    jinja_value part = bl__jinja_string(self->as.text + begin, end - begin);
    part.flavour = self->flavour;
    return bl__jinja_push(run, list->as.list, &part);
}

static void reverse_list(jinja_list *list) {
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value swapped = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swapped;
    }
}

static bool split_spaces(jinja_run *run, const jinja_value *self, int64_t limit, jinja_value *out) {
    const char *text = self->as.text;
    size_t len = self->len;
    uint32_t code;
    for (;; limit -= limit > 0) {
        bl__jinja_trim(&text, &len, true, false);
        size_t begin = (size_t)(text - self->as.text), n = 0;
        if (len == 0)
            return true;
        if (limit == 0)
            return push_part(run, self, begin, self->len, out);
        while (n < len) {
            size_t step = bl__jinja_decode(text + n, len - n, &code);
            if (bl__jinja_is_space(code))
                break;
            n += step;
        }
        if (!push_part(run, self, begin, begin + n, out))
            return false;
        text += n;
        len -= n;
    }
}

static bool rsplit_spaces(jinja_run *run, const jinja_value *self, int64_t limit,
                          jinja_value *out) {
    const char *text = self->as.text;
    size_t end = self->len;
    uint32_t code;
    for (;; limit -= limit > 0) {
        bl__jinja_trim(&text, &end, false, true);
        size_t begin = end;
        if (end == 0)
            return true;
        if (limit == 0)
            return push_part(run, self, 0, end, out);
        while (begin > 0) {
            size_t step = bl__jinja_decode_back(text, begin, &code);
            if (bl__jinja_is_space(code))
                break;
            begin -= step;
        }
        if (!push_part(run, self, begin, end, out))
            return false;
        end = begin;
    }
}

/* The last place where needle is in text[0 ... len - 1]; NULL when it is nowhere. */
static const char *find_last(const char *text, size_t len, const jinja_value *needle) {
    for (size_t i = len - needle->len + 1; len >= needle->len && i-- > 0;)
        if (memcmp(text + i, needle->as.text, needle->len) == 0)
            return text + i;
    return NULL;
}

static bool split_at(jinja_run *run, const jinja_value *self, const jinja_value *separator,
                     int64_t limit, bool from_right, jinja_value *out) {
    size_t begin = 0, end = self->len;
    while (limit != 0) {
        const char *found = from_right ? find_last(self->as.text, end, separator)
                                       : memmem(self->as.text + begin, end - begin,
                                                separator->as.text, separator->len);
        if (!found)
            break;
        size_t at = (size_t)(found - self->as.text);
        bool ok = from_right ? push_part(run, self, at + separator->len, end, out)
                             : push_part(run, self, begin, at, out);
        if (!ok || !bl__jinja_steps(run, 1))
            return false;
        if (from_right)
            end = at;
        else
            begin = at + separator->len;
        limit -= limit > 0;
    }
    return push_part(run, self, begin, end, out);
}

/* split(sep, maxsplit); variant 1: rsplit. */
static bool str_split(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t limit = -1;
    jinja_value separator;
    bool spaces = arg[0].kind == JINJA_MISSING || arg[0].kind == JINJA_NONE;
    if (!bl__jinja_int_argument(run, &arg[1], "split: maxsplit", &limit) ||
        !bl__jinja_touch(run, self->len) || !bl__jinja_new_list(run, 0, JINJA_PLAIN, out))
        return false;
    if (spaces) {
        if (!(variant ? rsplit_spaces(run, self, limit, out) : split_spaces(run, self, limit, out)))
            return false;
    } else {
        if (!bl__jinja_string_argument(run, &arg[0], "split: the separator", &separator))
            return false;
        if (separator.len == 0)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "split: the separator is empty");
        /* A search from the right compares the separator at every place. */
        if ((variant && !bl__jinja_steps(run, (uint64_t)self->len * separator.len / 16)) ||
            !split_at(run, self, &separator, limit, variant == 1, out))
            return false;
    }
    if (variant)
        reverse_list(out->as.list);
    return true;
}

static bool str_splitlines(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return bl__jinja_split_lines(run, self, bl__jinja_truth(&arg[0]), out);
}

/* self between the character positions `from` and `to`, which may be MISSING or none. */
static bool sub_range(jinja_run *run, const jinja_value *self, const jinja_value *from,
                      const jinja_value *to, jinja_value *out) {
    jinja_value bounds[3] = {*from, *to, bl__jinja_none()};
    for (int i = 0; i < 2; i++)
        if (bounds[i].kind == JINJA_MISSING)
            bounds[i] = bl__jinja_none();
    if (bounds[0].kind == JINJA_NONE && bounds[1].kind == JINJA_NONE) {
        *out = *self;
        return true;
    }
    return bl__jinja_slice(run, self, bounds, out);
}

static bool has_affix(const jinja_value *text, const jinja_value *affix, bool end) {
    return affix->len <= text->len && memcmp(text->as.text + (end ? text->len - affix->len : 0),
                                             affix->as.text, affix->len) == 0;
}

/* startswith(prefix, start, end); variant 1: endswith. The affix may be a tuple of them. */
static bool str_affix(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text, affix;
    const jinja_value *list = &arg[0];
    size_t n = 1;
    bool found = false;
    if (!sub_range(run, self, &arg[1], &arg[2], &text))
        return false;
    if (arg[0].kind == JINJA_LIST && arg[0].flavour == JINJA_TUPLE) {
        list = arg[0].as.list->items;
        n = arg[0].as.list->count;
    }
    for (size_t i = 0; !found && i < n; i++) {
        if (!bl__jinja_string_argument(run, &list[i], "startswith, endswith: the affix", &affix) ||
            !bl__jinja_touch(run, 16 + affix.len))
            return false;
        found = has_affix(&text, &affix, variant);
    }
    *out = bl__jinja_bool(found);
    return true;
}

/* removeprefix; variant 1: removesuffix. */
static bool str_remove_affix(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value affix;
    if (!bl__jinja_string_argument(run, &arg[0], "the affix", &affix))
        return false;
    *out = *self;
    if (has_affix(self, &affix, variant)) {
        out->len -= affix.len;
        out->as.text += variant ? 0 : affix.len;
    }
    return bl__jinja_touch(run, affix.len);
}

static bool str_replace(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value from, to;
    int64_t limit = -1;
    return bl__jinja_string_argument(run, &arg[0], "replace: old", &from) &&
           bl__jinja_string_argument(run, &arg[1], "replace: new", &to) &&
           bl__jinja_int_argument(run, &arg[2], "replace: count", &limit) &&
           bl__jinja_replace(run, self, &from, &to, limit, out);
}

/* find(sub, start, end); variant 1: rfind, 2: index, 3: rindex. */
static bool str_find(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value text, needle;
    const char *found;
    if (!bl__jinja_string_argument(run, &arg[0], "find: the text", &needle) ||
        !sub_range(run, self, &arg[1], &arg[2], &text))
        return false;
    bool right = variant & 1;
    uint64_t cost = right ? (uint64_t)text.len * (needle.len + 16) / 16 : text.len / 16;
    if (!bl__jinja_steps(run, cost))
        return false;
    if (needle.len == 0)
        found = text.as.text + (right ? text.len : 0);
    else
        found = right ? find_last(text.as.text, text.len, &needle)
                      : memmem(text.as.text, text.len, needle.as.text, needle.len);
    if (!found && variant >= 2)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "index: not found");
    *out = bl__jinja_int(-1);
    if (found)
        *out = bl__jinja_int(
            (int64_t)bl__jinja_count_chars(self->as.text, (size_t)(found - self->as.text)));
    return true;
}

static bool str_count(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value needle;
    int64_t n = 0;
    if (!bl__jinja_string_argument(run, &arg[0], "count: the text", &needle) ||
        !bl__jinja_touch(run, self->len))
        return false;
    if (needle.len == 0)
        n = (int64_t)bl__jinja_count_chars(self->as.text, self->len) + 1;
    for (size_t at = 0; needle.len && at < self->len; n++) {
        const char *found = memmem(self->as.text + at, self->len - at, needle.as.text, needle.len);
        if (!found)
            break;
        at = (size_t)(found - self->as.text) + needle.len;
    }
    *out = bl__jinja_int(n);
    return true;
}

static bool str_join(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_list *items;
    jinja_value item;
    size_t mark = run->out.len;
    if (!bl__jinja_items(run, &arg[0], &items))
        return false;
    for (size_t i = 0; i < items->count; i++)
        if ((i > 0 && !bl__jinja_print(run, self)) ||
            !bl__jinja_string_argument(run, &items->items[i], "join: an item", &item) ||
            !bl__jinja_print(run, &item))
            return false;
    return bl__jinja_take(run, mark, out);
}

static bool str_format(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    return bl__jinja_brace_format(run, self, all, out);
}

/* partition; variant 1: rpartition. */
static bool str_partition(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value separator, part;
    if (!bl__jinja_string_argument(run, &arg[0], "partition: the separator", &separator))
        return false;
    if (separator.len == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "partition: the separator is empty");
    if (!bl__jinja_steps(run, (uint64_t)self->len * (variant ? separator.len : 1) / 16) ||
        !bl__jinja_new_list(run, 3, JINJA_TUPLE, out))
        return false;
    const char *found = variant
                            ? find_last(self->as.text, self->len, &separator)
                            : memmem(self->as.text, self->len, separator.as.text, separator.len);
    size_t begin = found ? (size_t)(found - self->as.text) : variant ? 0 : self->len;
    size_t end = found ? begin + separator.len : begin;
    part = bl__jinja_string(self->as.text + begin, end - begin);
    return push_part(run, self, 0, begin, out) && bl__jinja_push(run, out->as.list, &part) &&
           push_part(run, self, end, self->len, out);
}

/* ljust, rjust, center and zfill: variant 0, 1, 2, 3. */
static bool str_pad(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t width = 0;
    jinja_value fill = bl__jinja_literal(variant == 3 ? "0" : " ");
    size_t mark = run->out.len, n = bl__jinja_count_chars(self->as.text, self->len), sign = 0;
    if (!bl__jinja_int_argument(run, &arg[0], "the width", &width) ||
        !bl__jinja_string_argument(run, &arg[1], "the fill character", &fill) ||
        !bl__jinja_touch(run, self->len))
        return false;
    size_t pad = width > 0 && (uint64_t)width > n ? (size_t)width - n : 0;
    size_t left = variant == 0 ? 0 : variant == 2 ? pad / 2 + (pad & (size_t)width & 1) : pad;
    if (variant == 3 && self->len && (self->as.text[0] == '-' || self->as.text[0] == '+'))
        sign = 1;
    if (!bl__jinja_write(run, self->as.text, sign))
        return false;
    for (size_t i = 0; i < pad; i++) {
        if (i == left && !bl__jinja_write(run, self->as.text + sign, self->len - sign))
            return false;
        if (!bl__jinja_print(run, &fill) || !bl__jinja_steps(run, 1))
            return false;
    }
    if (left >= pad && !bl__jinja_write(run, self->as.text + sign, self->len - sign))
        return false;
    return bl__jinja_take(run, mark, out);
}

enum { IS_ALPHA, IS_DIGIT, IS_ALNUM, IS_SPACE, IS_UPPER, IS_LOWER };

static bool char_is(uint32_t code, int what) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    bool alpha = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    bool digit = category == UTF8PROC_CATEGORY_ND;
    switch (what) {
    case IS_ALPHA:
        return alpha;
    case IS_DIGIT:
        return digit;
    case IS_ALNUM:
        return alpha || category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
               category == UTF8PROC_CATEGORY_NO;
    default:
        return bl__jinja_is_space(code);
    }
}

/* isalpha and the like: every character, and at least one. For case: no character of the other
 * case, and at least one of this one. */
static bool str_is(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    uint32_t code;
    bool all_are = true, some = false, by_case = variant == IS_UPPER || variant == IS_LOWER;
    if (!bl__jinja_touch(run, (size_t)self->len * 4))
        return false;
    for (size_t i = 0; all_are && i < self->len;) {
        i += bl__jinja_decode(self->as.text + i, self->len - i, &code);
        if (!by_case) {
            all_are = some = char_is(code, variant);
            continue;
        }
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
        bool upper = category == UTF8PROC_CATEGORY_LU, lower = category == UTF8PROC_CATEGORY_LL;
        some = some || (variant == IS_UPPER ? upper : lower);
        all_are = !(variant == IS_UPPER ? lower : upper);
    }
    *out = bl__jinja_bool(all_are && some);
    return true;
}

static bool dict_get(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    jinja_value *found;
    if (!bl__jinja_find(run, self->as.dict, &arg[0], &found))
        return false;
    *out = found ? *found : arg[1].kind == JINJA_MISSING ? bl__jinja_none() : arg[1];
    return true;
}

/* keys, values, items by the flavour in variant. */
static bool dict_view(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    const jinja_dict *dict = self->as.dict;
    if (!bl__jinja_new_list(run, dict->count, (jinja_flavour)variant, out))
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        jinja_value item =
            variant == JINJA_DICT_KEYS ? dict->entries[i].key : dict->entries[i].value;
        if (variant == JINJA_DICT_ITEMS &&
            (!bl__jinja_new_list(run, 2, JINJA_TUPLE, &item) ||
             !bl__jinja_push(run, item.as.list, &dict->entries[i].key) ||
             !bl__jinja_push(run, item.as.list, &dict->entries[i].value)))
            return false;
        out->as.list->items[out->as.list->count++] = item;
    }
    return true;
}

static bool copy_self(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    *out = *self; /* nothing can change either of them */
    return true;
}

/* index; variant 1: count. */
static bool list_index(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    int64_t n = 0;
    for (size_t i = 0; i < self->as.list->count; i++) {
        bool equal;
        if (!bl__jinja_equal(run, &self->as.list->items[i], &arg[0], 0, &equal))
            return false;
        if (equal && variant == 0) {
            *out = bl__jinja_int((int64_t)i);
            return true;
        }
        n += equal;
    }
    *out = bl__jinja_int(n);
    return variant == 1 || bl__jinja_fail(run, BL_ERR_ARGUMENT, "index: not in the list");
}

static bool float_is_integer(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    *out = bl__jinja_bool(isfinite(self->as.number) && floor(self->as.number) == self->as.number);
    return true;
}

static bool loop_cycle(JINJA_ARGUMENTS) {
    JINJA_UNUSED;
    if (all->count == 0)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "cycle: nothing to cycle through");
    *out = all->values[self->as.loop->index % all->count];
    return true;
}

static const jinja_builtin string_methods[] = {
    {.name = "capitalize", .call = str_case, .variant = JINJA_CAPITALIZE},
    {.name = "casefold", .call = str_case, .variant = JINJA_LOWER},
    {.name = "center",
     .call = str_pad,
     .variant = 2,
     .required = 1,
     .params = {"width", "fillchar"}},
    {.name = "count", .call = str_count, .required = 1, .params = {"sub"}},
    {.name = "endswith",
     .call = str_affix,
     .variant = 1,
     .required = 1,
     .params = {"suffix", "start", "end"}},
    {.name = "find",
     .call = str_find,
     .variant = 0,
     .required = 1,
     .params = {"sub", "start", "end"}},
    {.name = "format", .call = str_format, .variadic = true},
    {.name = "index",
     .call = str_find,
     .variant = 2,
     .required = 1,
     .params = {"sub", "start", "end"}},
    {.name = "isalnum", .call = str_is, .variant = IS_ALNUM},
    {.name = "isalpha", .call = str_is, .variant = IS_ALPHA},
    {.name = "isdecimal", .call = str_is, .variant = IS_DIGIT},
    {.name = "isdigit", .call = str_is, .variant = IS_DIGIT},
    {.name = "islower", .call = str_is, .variant = IS_LOWER},
    {.name = "isnumeric", .call = str_is, .variant = IS_DIGIT},
    {.name = "isspace", .call = str_is, .variant = IS_SPACE},
    {.name = "isupper", .call = str_is, .variant = IS_UPPER},
    {.name = "join", .call = str_join, .required = 1, .params = {"iterable"}},
    {.name = "ljust",
     .call = str_pad,
     .variant = 0,
     .required = 1,
     .params = {"width", "fillchar"}},
    {.name = "lower", .call = str_case, .variant = JINJA_LOWER},
    {.name = "lstrip", .call = str_strip, .variant = 1, .params = {"chars"}},
    {.name = "partition", .call = str_partition, .variant = 0, .required = 1, .params = {"sep"}},
    {.name = "removeprefix",
     .call = str_remove_affix,
     .variant = 0,
     .required = 1,
     .params = {"prefix"}},
    {.name = "removesuffix",
     .call = str_remove_affix,
     .variant = 1,
     .required = 1,
     .params = {"suffix"}},
    {.name = "replace", .call = str_replace, .required = 2, .params = {"old", "new", "count"}},
    {.name = "rfind",
     .call = str_find,
     .variant = 1,
     .required = 1,
     .params = {"sub", "start", "end"}},
    {.name = "rindex",
     .call = str_find,
     .variant = 3,
     .required = 1,
     .params = {"sub", "start", "end"}},
    {.name = "rjust",
     .call = str_pad,
     .variant = 1,
     .required = 1,
     .params = {"width", "fillchar"}},
    {.name = "rpartition", .call = str_partition, .variant = 1, .required = 1, .params = {"sep"}},
    {.name = "rsplit", .call = str_split, .variant = 1, .params = {"sep", "maxsplit"}},
    {.name = "rstrip", .call = str_strip, .variant = 2, .params = {"chars"}},
    {.name = "split", .call = str_split, .variant = 0, .params = {"sep", "maxsplit"}},
    {.name = "splitlines", .call = str_splitlines, .params = {"keepends"}},
    {.name = "startswith",
     .call = str_affix,
     .variant = 0,
     .required = 1,
     .params = {"prefix", "start", "end"}},
    {.name = "strip", .call = str_strip, .variant = 3, .params = {"chars"}},
    {.name = "swapcase", .call = str_case, .variant = JINJA_SWAP},
    {.name = "title", .call = str_case, .variant = JINJA_TITLE},
    {.name = "upper", .call = str_case, .variant = JINJA_UPPER},
    {.name = "zfill", .call = str_pad, .variant = 3, .required = 1, .params = {"width"}},
};

static const jinja_builtin dict_methods[] = {
    {.name = "copy", .call = copy_self},
    {.name = "get", .call = dict_get, .required = 1, .params = {"key", "default"}},
    {.name = "items", .call = dict_view, .variant = JINJA_DICT_ITEMS},
    {.name = "keys", .call = dict_view, .variant = JINJA_DICT_KEYS},
    {.name = "values", .call = dict_view, .variant = JINJA_DICT_VALUES},
};

static const jinja_builtin list_methods[] = {
    {.name = "index", .call = list_index, .variant = 0, .required = 1, .params = {"value"}},
    {.name = "count", .call = list_index, .variant = 1, .required = 1, .params = {"value"}},
    {.name = "copy", .call = copy_self},
};

static const jinja_builtin float_methods[] = {{.name = "is_integer", .call = float_is_integer}};
static const jinja_builtin loop_methods[] = {
    {.name = "cycle", .call = loop_cycle, .variadic = true}};

#define FIND_IN(table) bl__jinja_find_in(table, sizeof(table) / sizeof *(table), name, len)

const jinja_builtin *bl__jinja_find_in(const jinja_builtin *table, size_t n, const char *name,
                                       size_t len) {
    for (size_t i = 0; i < n; i++)
        if (len > 0 && table[i].name[0] == name[0] && strlen(table[i].name) == len &&
            memcmp(table[i].name, name, len) == 0)
            return &table[i];
    return NULL;
}

const jinja_builtin *bl__jinja_find_method(const jinja_value *self, const char *name, size_t len) {
    switch ((jinja_kind)self->kind) {
    case JINJA_STRING:
        return FIND_IN(string_methods);
    case JINJA_DICT:
        return FIND_IN(dict_methods);
    case JINJA_LIST:
        return self->flavour > JINJA_RANGE ? NULL : FIND_IN(list_methods);
    case JINJA_FLOAT:
        return FIND_IN(float_methods);
    case JINJA_LOOP:
        return FIND_IN(loop_methods);
    default:
        return NULL;
    }
}
