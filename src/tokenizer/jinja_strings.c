/* Owns the string operations behind methods and filters. */
#include "tokenizer/jinja_strings.h"

#include <utf8proc.h>

#include "tokenizer/jinja_text.h"

enum { SHARP_S = 0xdf };

bool bl__jinja_int_argument(jinja_run *run, const jinja_value *v, const char *what, int64_t *out) {
    if (v->kind == JINJA_MISSING)
        return true;
    if (!bl__jinja_is_int(v))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s is %s, expected an integer", what,
                              bl__jinja_type_name(v));
    *out = bl__jinja_as_int(v);
    return true;
}

bool bl__jinja_string_argument(jinja_run *run, const jinja_value *v, const char *what,
                               jinja_value *out) {
    if (v->kind == JINJA_MISSING)
        return true;
    if (v->kind != JINJA_STRING)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s is %s, expected a string", what,
                              bl__jinja_type_name(v));
    *out = *v;
    return true;
}

static bool is_cased(uint32_t c) {
    if (c < 0x80)
        return (c | 32) >= 'a' && (c | 32) <= 'z';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

/* A character in its new case. start: it begins what is to be capitalized. */
static uint32_t map_case(uint32_t c, jinja_case to, bool start) {
    switch (to) {
    case JINJA_UPPER:
        return bl__jinja_to_upper(c);
    case JINJA_LOWER:
        return bl__jinja_to_lower(c);
    case JINJA_SWAP:
        return bl__jinja_to_lower(c) != c ? bl__jinja_to_lower(c) : bl__jinja_to_upper(c);
    case JINJA_TITLE_WORDS:
        return start ? bl__jinja_to_upper(c) : bl__jinja_to_lower(c);
    default:
        return start ? bl__jinja_to_title(c) : bl__jinja_to_lower(c);
    }
}

bool bl__jinja_change_case(jinja_run *run, const jinja_value *v, jinja_case to, jinja_value *out) {
    size_t mark = run->out.len, n;
    uint32_t code;
    bool start = true;
    for (size_t i = 0; i < v->len; i += n) {
        n = bl__jinja_decode(v->as.text + i, v->len - i, &code);
        uint32_t mapped = map_case(code, to, start);
        bool upper = to == JINJA_UPPER || to == JINJA_SWAP || (to == JINJA_TITLE_WORDS && start);
        bool ok = code == SHARP_S && upper ? bl__jinja_write(run, "SS", 2)
                                           : bl__jinja_write_char(run, mapped);
        if (!ok)
            return false;
        if (to == JINJA_TITLE)
            start = !is_cased(code);
        else if (to == JINJA_TITLE_WORDS)
            start = bl__jinja_is_space(code) || (code < 0x80 && code && strchr("-({[<", (int)code));
        else
            start = false;
    }
    if (!bl__jinja_touch(run, (size_t)v->len * 4) || !bl__jinja_take(run, mark, out))
        return false;
    out->flavour = v->flavour;
    return true;
}

/* Whether the n bytes at text, one character, are among those of set. */
static bool is_among(const jinja_value *set, const char *text, size_t n) {
    return memmem(set->as.text, set->len, text, n) != NULL;
}

bool bl__jinja_strip(jinja_run *run, const jinja_value *v, const jinja_value *chars, bool left,
                     bool right, jinja_value *out) {
    const char *text = v->as.text;
    size_t len = v->len, n;
    uint32_t code;
    if (chars->kind == JINJA_MISSING || chars->kind == JINJA_NONE) {
        bl__jinja_trim(&text, &len, left, right);
    } else {
        jinja_value set;
        if (!bl__jinja_string_argument(run, chars, "strip: chars", &set))
            return false;
        for (; left && len > 0; text += n, len -= n) {
            n = bl__jinja_decode(text, len, &code);
            if (!is_among(&set, text, n) || !bl__jinja_steps(run, 1 + set.len / 16))
                break;
        }
        for (; right && len > 0; len -= n) {
            n = bl__jinja_decode_back(text, len, &code);
            if (!is_among(&set, text + len - n, n) || !bl__jinja_steps(run, 1 + set.len / 16))
                break;
        }
    }
    *out = bl__jinja_string(text, len);
    out->flavour = v->flavour;
    return run->status == BL_OK && bl__jinja_touch(run, v->len - len);
}

bool bl__jinja_replace(jinja_run *run, const jinja_value *v, const jinja_value *from,
                       const jinja_value *to, int64_t limit, jinja_value *out) {
    size_t mark = run->out.len, at = 0;
    uint32_t code;
    if (!bl__jinja_touch(run, v->len))
        return false;
    for (; limit != 0; limit -= limit > 0) {
        const char *rest = v->as.text + at;
        size_t left = v->len - at, skip;
        if (from->len == 0) { /* before every character and at the end */
            if (!bl__jinja_write(run, to->as.text, to->len) || !bl__jinja_steps(run, 1))
                return false;
            if (left == 0)
                break;
            skip = bl__jinja_decode(rest, left, &code);
            if (!bl__jinja_write(run, rest, skip))
                return false;
            at += skip;
            continue;
        }
        const char *found = left ? memmem(rest, left, from->as.text, from->len) : NULL;
        if (!found)
            break;
        skip = (size_t)(found - rest);
        if (!bl__jinja_write(run, rest, skip) || !bl__jinja_write(run, to->as.text, to->len) ||
            !bl__jinja_steps(run, 1))
            return false;
        at += skip + from->len;
    }
    return bl__jinja_write(run, v->as.text + at, v->len - at) && bl__jinja_take(run, mark, out);
}

bool bl__jinja_split_lines(jinja_run *run, const jinja_value *v, bool keep_ends, jinja_value *out) {
    uint32_t code;
    if (!bl__jinja_touch(run, v->len) || !bl__jinja_new_list(run, 0, JINJA_PLAIN, out))
        return false;
    for (size_t i = 0, start = 0; i < v->len;) {
        size_t end = i;
        i += bl__jinja_decode(v->as.text + i, v->len - i, &code);
        bool breaks = bl__jinja_is_line_break(code);
        if (code == '\r' && i < v->len && v->as.text[i] == '\n')
            i++;
        if (!breaks && i < v->len)
            continue;
        jinja_value line =
            bl__jinja_string(v->as.text + start, (keep_ends || !breaks ? i : end) - start);
        if (!bl__jinja_push(run, out->as.list, &line))
            return false;
        start = i;
    }
    return true;
}
