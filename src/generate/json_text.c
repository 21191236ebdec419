/* Owns JSON text as fragments of a network: blanks, strings, literals, values of any kind. Must not
 * know schemas. */
#include "generate/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/json.h"
#include "tokenizer/utf8.h"

enum { MAX_KEY_CHARS = 256 /* of a key that other keys must differ from */ };

bl__json_text bl__json_text_make(bl__net_builder *b) {
    return (bl__json_text){.b = b,
                           .blank = BL_NET_NONE,
                           .string = BL_NET_NONE,
                           .number = BL_NET_NONE,
                           .object = BL_NET_NONE,
                           .array = BL_NET_NONE,
                           .value = BL_NET_NONE};
}

/* Calls *rule, which `make` defines when it is new. */
static bl__fragment call_rule(bl__json_text *t, uint32_t *rule,
                              bl__fragment (*make)(bl__json_text *t)) {
    if (*rule == BL_NET_NONE) {
        *rule = bl__net_rule_new(t->b); /* before what it calls, which may be itself */
        bl__net_define(t->b, *rule, make(t));
    }
    return bl__net_call(t->b, *rule);
}

/* One of some bytes, all below 0x80. */
static bl__fragment one_of(bl__json_text *t, const char *bytes) {
    bl__fragment f = bl__net_choice(t->b);
    for (; *bytes; bytes++)
        bl__net_link_bytes(t->b, f.start, f.end, (uint8_t)*bytes, (uint8_t)*bytes);
    return f;
}

static bl__fragment make_blank(bl__json_text *t) {
    bl__fragment f = bl__net_choice(t->b), line = bl__net_puts(t->b, "\n");
    bl__fragment indent = bl__net_repeat(t->b, one_of(t, " \t"), 0, BL_JSON_MAX_INDENT);
    bl__net_choose(t->b, f, bl__net_empty(t->b));
    bl__net_choose(t->b, f, bl__net_puts(t->b, " "));
    bl__net_choose(t->b, f, bl__net_join(t->b, line, indent));
    return f;
}

bl__fragment bl__json_blank(bl__json_text *t) {
    return call_rule(t, &t->blank, make_blank);
}

/* ---- strings ---- */

/* Characters that stand for themselves in a string. */
static const bl__char_range PLAIN[] = {
    {0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, BL_NET_MAX_CHAR}};
enum { N_PLAIN = sizeof PLAIN / sizeof *PLAIN };

/* Digits from a list, then n_more hexadecimal ones of any kind. */
static bl__fragment hex(bl__json_text *t, const char *first, unsigned n_more) {
    bl__fragment f = one_of(t, first);
    while (n_more-- > 0) {
        bl__fragment digit = one_of(t, "0123456789abcdefABCDEF");
        f = bl__net_join(t->b, f, digit);
    }
    return f;
}

/* Four digits of a character but NUL: no surrogates but pairs of them. */
static bl__fragment make_code(bl__json_text *t) {
    static const char not_zero[] = "123456789abcdefABCDEF";
    bl__fragment f = bl__net_choice(t->b), zeros = bl__net_puts(t->b, "0");
    bl__net_choose(t->b, f, hex(t, "123456789abcefABCEF", 3));
    bl__net_link(t->b, f.start, zeros.start);
    for (unsigned n_more = 2;; n_more--) {
        bl__fragment rest = hex(t, not_zero, n_more);
        bl__net_link(t->b, zeros.end, rest.start);
        bl__net_link(t->b, rest.end, f.end);
        if (n_more == 0)
            break;
        bl__fragment zero = bl__net_puts(t->b, "0");
        zeros = bl__net_join(t->b, zeros, zero);
    }
    bl__fragment d = one_of(t, "dD"), low = hex(t, "01234567", 2);
    bl__net_choose(t->b, f, bl__net_join(t->b, d, low));
    bl__fragment pair = one_of(t, "dD"), high = hex(t, "89abAB", 2);
    bl__fragment between = bl__net_puts(t->b, "\\u"), second = one_of(t, "dD");
    pair = bl__net_join(t->b, pair, high);
    pair = bl__net_join(t->b, pair, between);
    pair = bl__net_join(t->b, pair, second);
    low = hex(t, "cdefCDEF", 2);
    bl__net_choose(t->b, f, bl__net_join(t->b, pair, low));
    return f;
}

bl__fragment bl__json_any_char(bl__json_text *t) {
    bl__fragment f = bl__net_choice(t->b), escape = bl__net_puts(t->b, "\\");
    bl__fragment letter = one_of(t, "\"\\/bfnrt"), u = bl__net_puts(t->b, "u"), code = make_code(t);
    bl__net_choose(t->b, f, bl__net_char(t->b, PLAIN, N_PLAIN));
    bl__net_link(t->b, f.start, escape.start);
    bl__net_link(t->b, escape.end, letter.start);
    bl__net_link(t->b, letter.end, f.end);
    bl__net_link(t->b, escape.end, u.start);
    bl__net_link(t->b, bl__net_join(t->b, u, code).end, f.end);
    return f;
}

bl__fragment bl__json_quoted(bl__json_text *t, bl__fragment inside) {
    bl__fragment open = bl__net_puts(t->b, "\""), close = bl__net_puts(t->b, "\"");
    return bl__net_join(t->b, bl__net_join(t->b, open, inside), close);
}

static bl__fragment make_string(bl__json_text *t) {
    return bl__json_quoted(t, bl__net_repeat(t->b, bl__json_any_char(t), 0, BL_NET_ANY_COUNT));
}

bl__fragment bl__json_any_string(bl__json_text *t) {
    return call_rule(t, &t->string, make_string);
}

/* How a character is escaped; returns the length, 0 when it stands for itself. */
static size_t escape_char(uint32_t c, char out[7]) {
    static const char short_forms[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *form = short_forms; *form; form += 2)
        if (c == (uint8_t)*form) {
            out[0] = '\\';
            out[1] = form[1];
            return 2;
        }
    return c < 0x20 ? (size_t)snprintf(out, 7, "\\u%04x", (unsigned)c) : 0;
}

bl__fragment bl__json_char(bl__json_text *t, const bl__char_range *ranges, size_t n) {
    bl__fragment f = bl__net_choice(t->b);
    for (size_t i = 0; i < n; i++) {
        for (size_t p = 0; p < N_PLAIN; p++) {
            bl__char_range both = {ranges[i].low > PLAIN[p].low ? ranges[i].low : PLAIN[p].low,
                                   ranges[i].high < PLAIN[p].high ? ranges[i].high : PLAIN[p].high};
            if (both.low <= both.high)
                bl__net_choose(t->b, f, bl__net_char(t->b, &both, 1));
        }
        uint32_t last = ranges[i].high < '\\' ? ranges[i].high : '\\';
        for (uint32_t c = ranges[i].low ? ranges[i].low : 1; c <= last; c++) {
            char text[7];
            size_t len = escape_char(c, text);
            if (len > 0)
                bl__net_choose(t->b, f, bl__net_text(t->b, text, len));
        }
    }
    return f;
}

/* ---- values ---- */

bl__fragment bl__json_literal(bl__json_text *t, const json_t *value) {
    size_t flags = JSON_ENCODE_ANY | JSON_COMPACT;
    if (json_is_real(value)) { /* as few digits as read back as the same number */
        for (int digits = BL_JSON_MAX_DIGITS; digits <= 17; digits++) {
            char text[40];
            snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
            double back;
            if (digits == 17 || (sscanf(text, "%lf", &back) == 1 && back == json_real_value(value)))
                return bl__net_puts(t->b, text);
        }
    }
    size_t len = 0;
    char *text = bl__json_write(value, flags, &len);
    if (!text)
        bl__net_fail(t->b, BL_ERR_MEMORY, "grammar: no memory for a value");
    bl__fragment f = bl__net_text(t->b, text ? text : "", text ? len : 0);
    bl__free(text);
    return f;
}

bl__fragment bl__json_any_integer(bl__json_text *t) {
    bl__fragment f = bl__net_choice(t->b), minus = bl__net_puts(t->b, "-");
    bl__fragment first = one_of(t, "123456789");
    bl__fragment rest = bl__net_repeat(t->b, one_of(t, "0123456789"), 0, BL_JSON_MAX_DIGITS - 1);
    bl__net_choose(t->b, f, bl__net_puts(t->b, "0"));
    bl__net_choose(t->b, f, bl__net_join(t->b, first, rest));
    minus = bl__net_repeat(t->b, minus, 0, 1);
    return bl__net_join(t->b, minus, f);
}

static bl__fragment make_number(bl__json_text *t) {
    bl__fragment f = bl__json_any_integer(t), point = bl__net_puts(t->b, ".");
    bl__fragment digits = one_of(t, "0123456789"), e = one_of(t, "eE"), sign = one_of(t, "+-");
    point = bl__net_join(t->b, point, bl__net_repeat(t->b, digits, 1, BL_JSON_MAX_DIGITS));
    e = bl__net_join(t->b, e, bl__net_repeat(t->b, sign, 0, 1));
    e = bl__net_join(t->b, e, bl__net_repeat(t->b, one_of(t, "0123456789"), 1, 2));
    f = bl__net_join(t->b, f, bl__net_repeat(t->b, point, 0, 1));
    return bl__net_join(t->b, f, bl__net_repeat(t->b, e, 0, 1));
}

bl__fragment bl__json_any_number(bl__json_text *t) {
    return call_rule(t, &t->number, make_number);
}

/* open, then item (comma item)* or nothing, then close; blanks between them. */
static bl__fragment make_list(bl__json_text *t, const char *open, bl__fragment item,
                              const char *close) {
    bl__fragment f = bl__net_puts(t->b, open), comma = bl__net_puts(t->b, ",");
    bl__fragment end = bl__net_puts(t->b, close), before = bl__json_blank(t);
    f = bl__net_join(t->b, f, bl__json_blank(t));
    comma = bl__net_join(t->b, comma, bl__json_blank(t));
    bl__net_link(t->b, f.end, item.start);
    bl__net_link(t->b, item.end, comma.start);
    bl__net_link(t->b, comma.end, item.start);
    bl__net_link(t->b, item.end, before.start);
    bl__net_link(t->b, before.end, end.start);
    bl__net_link(t->b, f.end, end.start);
    return (bl__fragment){f.start, end.end};
}

static bl__fragment make_array(bl__json_text *t) {
    return make_list(t, "[", bl__json_any_value(t), "]");
}

static bl__fragment make_object(bl__json_text *t) {
    bl__fragment pair = bl__json_any_string(t), colon = bl__net_puts(t->b, ":");
    pair = bl__net_join(t->b, pair, colon);
    pair = bl__net_join(t->b, pair, bl__json_blank(t));
    pair = bl__net_join(t->b, pair, bl__json_any_value(t));
    return make_list(t, "{", pair, "}");
}

bl__fragment bl__json_any_array(bl__json_text *t) {
    return call_rule(t, &t->array, make_array);
}

bl__fragment bl__json_any_object(bl__json_text *t) {
    return call_rule(t, &t->object, make_object);
}

static bl__fragment make_value(bl__json_text *t) {
    bl__fragment f = bl__net_choice(t->b);
    bl__net_choose(t->b, f, bl__json_any_object(t));
    bl__net_choose(t->b, f, bl__json_any_array(t));
    bl__net_choose(t->b, f, bl__json_any_string(t));
    bl__net_choose(t->b, f, bl__json_any_number(t));
    bl__net_choose(t->b, f, bl__net_puts(t->b, "true"));
    bl__net_choose(t->b, f, bl__net_puts(t->b, "false"));
    bl__net_choose(t->b, f, bl__net_puts(t->b, "null"));
    return f;
}

bl__fragment bl__json_any_value(bl__json_text *t) {
    return call_rule(t, &t->value, make_value);
}

/* ---- keys that are none of some ---- */

/* What the keys keys[n], which begin alike up to `at`, leave for others: from node `from`, where
 * that beginning has been read. */
typedef struct key_tree {
    bl__json_text *t;
    uint32_t other, end; /* nodes: the key is another one already; its quote has been read */
} key_tree;

static void leave_out(const key_tree *k, uint32_t from, const char **keys, size_t n, size_t at,
                      unsigned depth) {
    bl__net_builder *b = k->t->b;
    bl__char_range *taken = bl__malloc_array(n + 1, sizeof *taken);
    size_t n_taken = 0, rest = 0;
    if (!taken || depth > MAX_KEY_CHARS) {
        if (!taken)
            bl__net_fail(b, BL_ERR_MEMORY, "grammar: no memory for keys");
        else
            bl__net_fail(b, BL_ERR_LIMIT,
                         "a key of more than %d characters beside additionalProperties",
                         MAX_KEY_CHARS);
        bl__free(taken);
        return;
    }
    bool is_key = false;
    for (size_t i = 0; i < n; i = rest) {
        size_t len = strlen(keys[i] + at);
        size_t width = len ? bl__utf8_len(keys[i] + at, len) : 0;
        for (rest = i + 1; rest < n && strncmp(keys[rest] + at, keys[i] + at, width) == 0 &&
                           (width > 0 || keys[rest][at] == '\0');)
            rest++;
        if (width == 0) {
            is_key = true;
            continue;
        }
        uint32_t c = bl__utf8_decode(keys[i] + at, width);
        taken[n_taken] = (bl__char_range){c, c};
        bl__fragment same = bl__json_char(k->t, &taken[n_taken++], 1);
        bl__net_link(b, from, same.start);
        leave_out(k, same.end, keys + i, rest - i, at + width, depth + 1);
    }
    if (!is_key)
        bl__net_link_bytes(b, from, k->end, '"', '"');
    size_t n_left = bl__char_ranges_negate(taken, n_taken);
    bl__fragment differs = bl__json_char(k->t, taken, n_left);
    bl__net_link(b, from, differs.start);
    bl__net_link(b, differs.end, k->other);
    bl__free(taken);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bl__fragment bl__json_other_key(bl__json_text *t, const json_t *names) {
    size_t n = json_object_size(names), at = 0;
    if (n == 0)
        return bl__json_any_string(t);
    const char **keys = bl__malloc_array(n, sizeof *keys);
    bl__fragment open = bl__net_puts(t->b, "\""), any = bl__json_any_char(t);
    bl__fragment loop = bl__net_repeat(t->b, any, 0, BL_NET_ANY_COUNT);
    bl__fragment close = bl__net_puts(t->b, "\"");
    bl__fragment other = bl__net_join(t->b, loop, close);
    if (!keys) {
        bl__net_fail(t->b, BL_ERR_MEMORY, "grammar: no memory for keys");
        return open;
    }
    for (void *i = json_object_iter((json_t *)(uintptr_t)names); i;
         i = json_object_iter_next((json_t *)(uintptr_t)names, i))
        keys[at++] = json_object_iter_key(i);
    qsort(keys, n, sizeof *keys, by_text);
    const key_tree tree = {t, other.start, other.end};
    leave_out(&tree, open.end, keys, n, 0, 0);
    bl__free(keys);
    return (bl__fragment){open.start, other.end};
}
