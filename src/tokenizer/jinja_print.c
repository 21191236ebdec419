/* Owns values as text: str(), repr(), JSON as Python's json.dumps() lays it out, formats. */
#include <math.h>
#include <stdio.h>

#include "tokenizer/jinja_run.h"
#include "tokenizer/jinja_text.h"

static bool write_text(jinja_run *run, const char *text) {
    return bl__jinja_write(run, text, strlen(text));
}

static bool write_int(jinja_run *run, int64_t i) {
    char text[JINJA_NUMBER_MAX];
    return bl__jinja_write(run, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)i));
}

static bool write_float(jinja_run *run, double f) {
    char text[JINJA_NUMBER_MAX];
    return bl__jinja_steps(run, JINJA_FLOAT_STEPS) &&
           bl__jinja_write(run, text, bl__jinja_format_float(f, text));
}

static bool write_hex(jinja_run *run, const char *format, uint32_t code) {
    char text[16];
    int n = code > 0xffff
                ? snprintf(text, sizeof text, "\\U%08x", code)
                : snprintf(text, sizeof text, "%s%0*x", format, format[1] == 'x' ? 2 : 4, code);
    return bl__jinja_write(run, text, (size_t)n);
}

/* 'text', or "text" when it has single quotes and no double ones. */
static bool repr_string(jinja_run *run, const jinja_value *v) {
    const char *s = v->as.text;
    bool use_double = memchr(s, '\'', v->len) && !memchr(s, '"', v->len);
    uint32_t quote = use_double ? '"' : '\'', code;
    if (v->flavour == JINJA_SAFE && !write_text(run, "Markup("))
        return false;
    if (!bl__jinja_write_char(run, quote))
        return false;
    for (size_t i = 0; i < v->len;) {
        size_t n = bl__jinja_decode(s + i, v->len - i, &code);
        bool ok;
        if (code == quote || code == '\\')
            ok = write_text(run, "\\") && bl__jinja_write_char(run, code);
        else if (code == '\n' || code == '\r' || code == '\t')
            ok = write_text(run, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
        else if (bl__jinja_is_printable(code))
            ok = bl__jinja_write(run, s + i, n);
        else
            ok = write_hex(run, code < 0x100 ? "\\x" : "\\u", code);
        if (!ok)
            return false;
        i += n;
    }
    return bl__jinja_write_char(run, quote) && (v->flavour != JINJA_SAFE || write_text(run, ")"));
}

static bool repr_dict(jinja_run *run, const jinja_dict *dict, unsigned nesting) {
    for (size_t i = 0; i < dict->count; i++)
        if ((i > 0 && !write_text(run, ", ")) ||
            !bl__jinja_repr(run, &dict->entries[i].key, nesting + 1) || !write_text(run, ": ") ||
            !bl__jinja_repr(run, &dict->entries[i].value, nesting + 1))
            return false;
    return true;
}

static bool repr_list(jinja_run *run, const jinja_value *v, unsigned nesting) {
    static const char *const open[] = {
        "[",           "[", "(", "range(", "<generator object>", "dict_keys([", "dict_values([",
        "dict_items(["};
    static const char *const close[] = {"]", "]", ")", ")", "", "])", "])", "])"};
    const jinja_value *items = v->as.list->items;
    size_t n = v->as.list->count;
    if (v->flavour == JINJA_RANGE) { /* start, stop and step when it is not 1 */
        items += n;
        n = items[2].as.integer == 1 ? 2 : 3;
    } else if (v->flavour == JINJA_GENERATOR) {
        n = 0;
    }
    if (!write_text(run, open[v->flavour]))
        return false;
    for (size_t i = 0; i < n; i++)
        if ((i > 0 && !write_text(run, ", ")) || !bl__jinja_repr(run, &items[i], nesting + 1))
            return false;
    if (v->flavour == JINJA_TUPLE && n == 1 && !write_text(run, ","))
        return false;
    return write_text(run, close[v->flavour]);
}

bool bl__jinja_repr(jinja_run *run, const jinja_value *v, unsigned nesting) {
    if (nesting > JINJA_NESTING_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "printing values nested too deep");
    if (!bl__jinja_steps(run, 1))
        return false;
    switch ((jinja_kind)v->kind) {
    case JINJA_UNDEFINED:
        return write_text(run, "Undefined");
    case JINJA_NONE:
        return write_text(run, "None");
    case JINJA_BOOL:
        return write_text(run, v->as.boolean ? "True" : "False");
    case JINJA_INT:
        return write_int(run, v->as.integer);
    case JINJA_FLOAT:
        return write_float(run, v->as.number);
    case JINJA_STRING:
        return repr_string(run, v);
    case JINJA_LIST:
        return repr_list(run, v, nesting);
    case JINJA_DICT:
        return write_text(run, "{") && repr_dict(run, v->as.dict, nesting) && write_text(run, "}");
    case JINJA_NAMESPACE:
        return write_text(run, "<Namespace {") && repr_dict(run, v->as.dict, nesting) &&
               write_text(run, "}>");
    default:
        return write_text(run, "<") && write_text(run, bl__jinja_type_name(v)) &&
               write_text(run, ">");
    }
}

bool bl__jinja_print(jinja_run *run, const jinja_value *v) {
    if (v->kind == JINJA_STRING)
        return bl__jinja_write(run, v->as.text, v->len);
    return v->kind == JINJA_UNDEFINED || bl__jinja_repr(run, v, 0);
}

bool bl__jinja_to_string(jinja_run *run, const jinja_value *v, jinja_value *out) {
    size_t mark = run->out.len;
    if (v->kind == JINJA_STRING) {
        *out = *v;
        return true;
    }
    return bl__jinja_print(run, v) && bl__jinja_take(run, mark, out);
}

bool bl__jinja_write_escaped(jinja_run *run, const jinja_value *v) {
    jinja_value text;
    if (v->kind == JINJA_STRING && v->flavour == JINJA_SAFE)
        return bl__jinja_write(run, v->as.text, v->len);
    if (!bl__jinja_to_string(run, v, &text))
        return false;
    for (size_t i = 0, start = 0; i <= text.len; i++) {
        char c = i < text.len ? text.as.text[i] : '\0';
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (!entity && i < text.len)
            continue;
        if (!bl__jinja_write(run, text.as.text + start, i - start) ||
            (entity && !write_text(run, entity)))
            return false;
        start = i + 1;
    }
    return true;
}

static bool write_json_string(jinja_run *run, const jinja_value *v, bool ascii) {
    static const char special[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    const char *s = v->as.text;
    uint32_t code;
    size_t start = 0, n;
    if (!write_text(run, "\""))
        return false;
    for (size_t i = 0; i < v->len; i += n) {
        n = bl__jinja_decode(s + i, v->len - i, &code);
        const char *found = code && code < 0x80 ? strchr(special, (int)code) : NULL;
        if (!found && code >= ' ' && (!ascii || code < 0x80))
            continue; /* written with what follows */
        if (!bl__jinja_write(run, s + start, i - start))
            return false;
        start = i + n;
        bool ok;
        if (found)
            ok = write_text(run, "\\") &&
                 bl__jinja_write_char(run, (unsigned char)letters[found - special]);
        else if (code > 0xffff)
            ok = write_hex(run, "\\u", 0xd800 + ((code - 0x10000) >> 10)) &&
                 write_hex(run, "\\u", 0xdc00 + ((code - 0x10000) & 0x3ff));
        else
            ok = write_hex(run, "\\u", code);
        if (!ok)
            return false;
    }
    return bl__jinja_write(run, s + start, v->len - start) && write_text(run, "\"");
}

static bool write_json_line(jinja_run *run, const jinja_json_style *style, unsigned level) {
    if (!style->indented)
        return true;
    if (!write_text(run, "\n"))
        return false;
    for (unsigned i = 0; i < level; i++)
        if (!bl__jinja_print(run, &style->indent))
            return false;
    return true;
}

/* Keys are strings; numbers, booleans and none become strings. */
static bool write_json_key(jinja_run *run, const jinja_value *key, const jinja_json_style *style) {
    if (key->kind == JINJA_STRING)
        return write_json_string(run, key, style->ascii);
    if (key->kind < JINJA_NONE || key->kind > JINJA_FLOAT)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "tojson: %s as key", bl__jinja_type_name(key));
    return write_text(run, "\"") && bl__jinja_write_json(run, key, style, 0) &&
           write_text(run, "\"");
}

/* The entries in the order of their keys, by insertion into a copy: dicts of tools are small, and
 * the comparisons are counted. */
static bool sorted_entries(jinja_run *run, const jinja_dict *dict, const jinja_entry **out) {
    jinja_entry *entries = bl__jinja_alloc(run, dict->count, sizeof *entries);
    if (!entries)
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int order;
            if (!bl__jinja_order(run, &entries[at - 1].key, &dict->entries[i].key, 0, &order))
                return false;
            if (order <= 0)
                break;
            entries[at] = entries[at - 1];
        }
        entries[at] = dict->entries[i];
    }
    *out = entries;
    return true;
}

static bool write_json_dict(jinja_run *run, const jinja_dict *dict, const jinja_json_style *style,
                            unsigned nesting) {
    const jinja_entry *entries = dict->entries;
    if (style->sort_keys && !sorted_entries(run, dict, &entries))
        return false;
    for (size_t i = 0; i < dict->count; i++)
        if ((i > 0 && !bl__jinja_print(run, &style->item_separator)) ||
            !write_json_line(run, style, nesting + 1) ||
            !write_json_key(run, &entries[i].key, style) ||
            !bl__jinja_print(run, &style->key_separator) ||
            !bl__jinja_write_json(run, &entries[i].value, style, nesting + 1))
            return false;
    return dict->count == 0 || write_json_line(run, style, nesting);
}

static bool write_json_list(jinja_run *run, const jinja_list *list, const jinja_json_style *style,
                            unsigned nesting) {
    for (size_t i = 0; i < list->count; i++)
        if ((i > 0 && !bl__jinja_print(run, &style->item_separator)) ||
            !write_json_line(run, style, nesting + 1) ||
            !bl__jinja_write_json(run, &list->items[i], style, nesting + 1))
            return false;
    return list->count == 0 || write_json_line(run, style, nesting);
}

bool bl__jinja_write_json(jinja_run *run, const jinja_value *v, const jinja_json_style *style,
                          unsigned nesting) {
    if (nesting > JINJA_NESTING_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "tojson: values nested too deep");
    if (!bl__jinja_steps(run, 1))
        return false;
    switch ((jinja_kind)v->kind) {
    case JINJA_NONE:
        return write_text(run, "null");
    case JINJA_BOOL:
        return write_text(run, v->as.boolean ? "true" : "false");
    case JINJA_INT:
        return write_int(run, v->as.integer);
    case JINJA_FLOAT:
        if (isfinite(v->as.number))
            return write_float(run, v->as.number);
        return write_text(run, isnan(v->as.number) ? "NaN"
                               : v->as.number < 0  ? "-Infinity"
                                                   : "Infinity");
    case JINJA_STRING:
        return write_json_string(run, v, style->ascii);
    case JINJA_LIST:
        if (v->flavour > JINJA_TUPLE)
            break;
        return write_text(run, "[") && write_json_list(run, v->as.list, style, nesting) &&
               write_text(run, "]");
    case JINJA_DICT:
        return write_text(run, "{") && write_json_dict(run, v->as.dict, style, nesting) &&
               write_text(run, "}");
    default:
        break;
    }
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "tojson: %s has no JSON form",
                          bl__jinja_type_name(v));
}

/* The value of "%(name)s", moving *at behind the parenthesis. */
static bool percent_key(jinja_run *run, const jinja_value *format, const jinja_args *args,
                        size_t *at, const jinja_value **out) {
    const char *s = format->as.text + *at + 1;
    const char *end = memchr(s, ')', format->len - *at - 1);
    jinja_value *found = NULL;
    if (!end || args->count != 1 || args->values->kind != JINJA_DICT)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: '%%(name)' needs a dict");
    jinja_value key = bl__jinja_string(s, (size_t)(end - s));
    if (!bl__jinja_find(run, args->values->as.dict, &key, &found))
        return false;
    if (!found)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: no such key");
    *at = (size_t)(end - format->as.text) + 1;
    *out = found;
    return true;
}

static bool percent_write(jinja_run *run, char conversion, const jinja_value *v) {
    if (conversion == 's')
        return bl__jinja_print(run, v);
    if (conversion == 'r')
        return bl__jinja_repr(run, v, 0);
    if (conversion != 'd' && conversion != 'i')
        return bl__jinja_fail(run, BL_ERR_UNSUPPORTED, "format: '%%%c' is unsupported", conversion);
    double f = bl__jinja_is_number(v) ? bl__jinja_as_float(v) : NAN;
    if (bl__jinja_is_int(v))
        return write_int(run, bl__jinja_as_int(v));
    if (!(fabs(f) < 0x1p63))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: '%%d' needs a number");
    return write_int(run, (int64_t)f);
}

bool bl__jinja_percent_format(jinja_run *run, const jinja_value *format, const jinja_args *args,
                              bool container, jinja_value *out) {
    size_t mark = run->out.len, next = 0, at = 0;
    bool by_key = false;
    while (at < format->len) {
        const char *s = format->as.text + at;
        const char *percent = memchr(s, '%', format->len - at);
        size_t plain = percent ? (size_t)(percent - s) : format->len - at;
        if (!bl__jinja_write(run, s, plain))
            return false;
        at += plain + 1;
        if (!percent)
            break;
        const jinja_value *v = NULL;
        if (at < format->len && format->as.text[at] == '(') {
            if (!percent_key(run, format, args, &at, &v))
                return false;
            by_key = true;
        }
        if (at >= format->len)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: '%%' at the end");
        char conversion = format->as.text[at++];
        if (conversion == '%') {
            if (!write_text(run, "%"))
                return false;
            continue;
        }
        if (!v && next == args->count)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: too few arguments");
        if (!percent_write(run, conversion, v ? v : &args->values[next++]))
            return false;
    }
    if (!by_key && !container && next < args->count)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: too many arguments");
    return bl__jinja_take(run, mark, out);
}

/* The argument that "{name}" names: the next one, one by number, or one by name. */
static bool brace_field(jinja_run *run, const char *name, size_t len, const jinja_args *args,
                        size_t *next, const jinja_value **out) {
    int64_t index = -1;
    *out = NULL;
    if (len == 0)
        index = (int64_t)(*next)++;
    else if (!bl__jinja_parse_int(name, len, 10, &index))
        index = -1;
    if (index >= 0 && (size_t)index < args->count)
        *out = &args->values[index];
    for (size_t i = 0; index < 0 && i < args->n_named; i++) {
        const jinja_value *key = &args->named[2 * i];
        if (key->len == len && memcmp(key->as.text, name, len) == 0)
            *out = key + 1;
    }
    if (*out)
        return true;
    if (memchr(name, ':', len) || memchr(name, '!', len) || memchr(name, '.', len))
        return bl__jinja_fail(run, BL_ERR_UNSUPPORTED, "format: '{%.*s}' is unsupported",
                              len < 40 ? (int)len : 40, name);
    return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: no argument for '{%.*s}'",
                          len < 40 ? (int)len : 40, name);
}

bool bl__jinja_brace_format(jinja_run *run, const jinja_value *format, const jinja_args *args,
                            jinja_value *out) {
    size_t mark = run->out.len, next = 0;
    const char *s = format->as.text;
    for (size_t i = 0; i < format->len;) {
        size_t start = i;
        while (i < format->len && s[i] != '{' && s[i] != '}')
            i++;
        if (!bl__jinja_write(run, s + start, i - start))
            return false;
        if (i == format->len)
            break;
        if (i + 1 < format->len && s[i + 1] == s[i]) { /* doubled: the brace itself */
            if (!bl__jinja_write(run, s + i, 1))
                return false;
            i += 2;
            continue;
        }
        const char *end = s[i] == '{' ? memchr(s + i, '}', format->len - i) : NULL;
        const jinja_value *v;
        if (!end)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "format: a brace alone");
        if (!brace_field(run, s + i + 1, (size_t)(end - s) - i - 1, args, &next, &v) ||
            !bl__jinja_print(run, v))
            return false;
        i = (size_t)(end - s) + 1;
    }
    return bl__jinja_take(run, mark, out);
}
