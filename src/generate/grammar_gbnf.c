/* Owns the reading of GBNF, the notation of llama.cpp's grammars. Must not know tokens.
 *
 *   rule     ::= name "::=" choice
 *   choice   ::= sequence ("|" sequence)*
 *   sequence ::= (item ("*" | "+" | "?" | "{" m "}" | "{" m ",}" | "{" m "," n "}")*)*
 *   item     ::= literal | class | "." | name | "(" choice ")"
 *
 * A rule ends with its line, but for lines inside parentheses, after ::= and around "|". */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "generate/grammar.h"
#include "tokenizer/utf8.h"

enum { MAX_DEPTH = 200 /* of parentheses */, MAX_CLASS = 4096 /* ranges of one class */ };

typedef struct gbnf {
    bl__net_builder b;
    const char *text;
    size_t len, at;
    unsigned depth;
    bl__char_range *ranges; /* [MAX_CLASS] */
    size_t place;           /* the last one whose line and column were asked for */
    uint32_t line, column;
} gbnf;

/* ---- places ---- */

/* Line and column of `at`, both from 1; what comes later is found from what came before. */
static void find_place(gbnf *p, size_t at) {
    if (at < p->place || p->line == 0) {
        p->place = 0;
        p->line = p->column = 1;
    }
    for (; p->place < at; p->place++) {
        char next = p->text[p->place + 1 < p->len ? p->place + 1 : p->place];
        if (p->text[p->place] == '\n') {
            p->line++;
            p->column = 1;
        } else if (((uint8_t)next & 0xc0) != 0x80) { /* a character ends here */
            p->column++;
        }
    }
}

/* Complains of what is at `at`. */
static void complain(gbnf *p, size_t at, bl_status status, const char *expected) {
    if (p->b.status)
        return;
    find_place(p, at);
    char found[16] = "the end";
    if (at < p->len && p->text[at] == '\n') {
        snprintf(found, sizeof found, "a new line");
    } else if (at < p->len) {
        size_t n = bl__utf8_len(p->text + at, p->len - at);
        snprintf(found, sizeof found, "'%.*s'", n ? (int)n : 1, p->text + at);
    }
    bl__net_fail(&p->b, status, "line %u, column %u: found %s, expected %s", p->line, p->column,
                 found, expected);
}

static bool fails(const gbnf *p) {
    return p->b.status != BL_OK;
}

static char peek(const gbnf *p) {
    return p->at < p->len ? p->text[p->at] : '\0';
}

static bool take(gbnf *p, char c) {
    if (peek(p) != c || p->at == p->len)
        return false;
    p->at++;
    return true;
}

/* Blanks and comments, and lines' ends where they mean nothing. */
static void skip_space(gbnf *p, bool lines_too) {
    for (;; p->at++) {
        char c = peek(p);
        if (c == '#') {
            const char *end = memchr(p->text + p->at, '\n', p->len - p->at);
            p->at = end ? (size_t)(end - p->text) : p->len;
            c = peek(p);
        }
        if (c != ' ' && c != '\t' && c != '\r' && !(c == '\n' && lines_too))
            return;
    }
}

/* ---- characters ---- */

static uint32_t read_hex(gbnf *p, size_t n_digits) {
    uint32_t value = 0;
    for (size_t i = 0; i < n_digits; i++, p->at++) {
        char c = peek(p);
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : 16u;
        if (digit == 16) {
            complain(p, p->at, BL_ERR_FORMAT, "a hexadecimal digit");
            return 0;
        }
        value = value << 4 | digit;
    }
    return value;
}

static uint32_t read_escape(gbnf *p) {
    size_t at = p->at;
    char c = peek(p);
    uint32_t value;
    p->at++;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
    case '/':
        return (uint8_t)c;
    case 'x':
        value = read_hex(p, 2);
        break;
    case 'u':
        value = read_hex(p, 4);
        break;
    case 'U':
        value = read_hex(p, 8);
        break;
    default:
        complain(p, at, BL_ERR_FORMAT, "one of n r t \\ \" [ ] - ^ / xHH uHHHH UHHHHHHHH after \\");
        return 0;
    }
    if (value > BL_NET_MAX_CHAR || (value >= 0xd800 && value <= 0xdfff))
        complain(p, at, BL_ERR_FORMAT, "the number of a Unicode character, no surrogate");
    return value;
}

/* One character of a literal or class, which `what` names. */
static uint32_t read_char(gbnf *p, const char *what) {
    if (p->at == p->len) {
        complain(p, p->at, BL_ERR_FORMAT, what);
        return 0;
    }
    if (take(p, '\\'))
        return read_escape(p);
    size_t n = bl__utf8_len(p->text + p->at, p->len - p->at);
    if (!n) {
        complain(p, p->at, BL_ERR_FORMAT, "UTF-8");
        return 0;
    }
    uint32_t c = bl__utf8_decode(p->text + p->at, n);
    p->at += n;
    return c;
}

static bl__fragment read_literal(gbnf *p) {
    bl__fragment f = bl__net_empty(&p->b);
    while (!fails(p) && !take(p, '"')) {
        char bytes[BL_UTF8_MAX];
        size_t n = bl__utf8_encode(read_char(p, "\" at the end of the literal"), bytes);
        bl__fragment next = bl__net_text(&p->b, bytes, n);
        f = bl__net_join(&p->b, f, next);
    }
    return f;
}

static bl__fragment read_class(gbnf *p) {
    bool negated = take(p, '^');
    size_t n = 0;
    while (!fails(p) && !take(p, ']')) {
        size_t at = p->at;
        bl__char_range range;
        range.low = range.high = read_char(p, "] at the end of the class");
        if (peek(p) == '-' && p->at + 1 < p->len && p->text[p->at + 1] != ']') {
            p->at++;
            range.high = read_char(p, "the last character of the range");
        }
        if (range.high < range.low)
            complain(p, at, BL_ERR_FORMAT, "a range whose last character is not before its first");
        if (n == MAX_CLASS - 1)
            complain(p, at, BL_ERR_LIMIT, "a class of at most 4095 ranges");
        else
            p->ranges[n++] = range;
    }
    if (fails(p))
        return bl__net_empty(&p->b);
    if (negated)
        n = bl__char_ranges_negate(p->ranges, n);
    return bl__net_char(&p->b, p->ranges, n);
}

/* ---- rules ---- */

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t read_name(gbnf *p) {
    size_t start = p->at;
    while (is_name_char(peek(p)))
        p->at++;
    return p->at - start;
}

static bl__fragment read_choice(gbnf *p, bool nested);

static bl__fragment read_item(gbnf *p) {
    size_t at = p->at, n;
    if (take(p, '"'))
        return read_literal(p);
    if (take(p, '['))
        return read_class(p);
    if (take(p, '.'))
        return bl__net_char(&p->b, &(bl__char_range){0, BL_NET_MAX_CHAR}, 1);
    if (take(p, '(')) {
        if (++p->depth > MAX_DEPTH)
            complain(p, at, BL_ERR_LIMIT, "at most 200 parentheses in each other");
        skip_space(p, true);
        bl__fragment f = read_choice(p, true);
        if (!take(p, ')'))
            complain(p, p->at, BL_ERR_FORMAT, "an item, | or )");
        p->depth--;
        return f;
    }
    if ((n = read_name(p)) > 0) {
        uint32_t rule = bl__net_rule_named(&p->b, p->text + at, n);
        if (!fails(p) && p->b.rules[rule].line == 0) {
            find_place(p, at);
            p->b.rules[rule].line = p->line;
            p->b.rules[rule].column = p->column;
        }
        return bl__net_call(&p->b, rule);
    }
    if (peek(p) == '<' || peek(p) == '!')
        complain(p, at, BL_ERR_UNSUPPORTED, "characters; tokens as items are not supported");
    else
        complain(p, at, BL_ERR_FORMAT, "a literal, class, rule's name or (");
    return bl__net_empty(&p->b);
}

static uint32_t read_count(gbnf *p) {
    size_t at = p->at;
    uint32_t n = 0;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        n = 10 * n + (uint32_t)(peek(p) - '0');
        if (n > BL_NET_MAX_REPEAT) {
            complain(p, at, BL_ERR_LIMIT, "a count of at most 1048576");
            return 0;
        }
    }
    if (p->at == at)
        complain(p, at, BL_ERR_FORMAT, "a count");
    return n;
}

/* What may follow an item: how often it comes. */
static bl__fragment read_repetitions(gbnf *p, bl__fragment f, bool nested) {
    for (;;) {
        size_t at = p->at;
        uint32_t min = 0, max = BL_NET_ANY_COUNT;
        if (take(p, '+')) {
            min = 1;
        } else if (take(p, '?')) {
            max = 1;
        } else if (take(p, '{')) {
            skip_space(p, nested);
            min = max = read_count(p);
            skip_space(p, nested);
            if (take(p, ',')) {
                skip_space(p, nested);
                max = peek(p) == '}' ? BL_NET_ANY_COUNT : read_count(p);
                skip_space(p, nested);
            }
            if (!take(p, '}'))
                complain(p, p->at, BL_ERR_FORMAT, "}");
            if (max < min)
                complain(p, at, BL_ERR_FORMAT, "a maximum that is not below the minimum");
        } else if (!take(p, '*')) {
            return f;
        }
        f = bl__net_repeat(&p->b, f, min, max);
        skip_space(p, nested);
    }
}

static bl__fragment read_sequence(gbnf *p, bool nested) {
    bl__fragment f = bl__net_empty(&p->b);
    while (!fails(p)) {
        char c = peek(p);
        if (p->at == p->len || c == '|' || c == '\n' || (c == ')' && nested))
            break;
        bl__fragment item = read_item(p);
        skip_space(p, nested);
        item = read_repetitions(p, item, nested);
        f = bl__net_join(&p->b, f, item);
    }
    return f;
}

/* A new line before | does not end a rule. */
static void look_for_bar(gbnf *p) {
    size_t at = p->at;
    skip_space(p, true);
    if (peek(p) != '|')
        p->at = at;
}

static bl__fragment read_choice(gbnf *p, bool nested) {
    bl__fragment choice = bl__net_choice(&p->b);
    do {
        skip_space(p, true);
        bl__net_choose(&p->b, choice, read_sequence(p, nested));
        look_for_bar(p);
    } while (!fails(p) && take(p, '|'));
    return choice;
}

static void read_rule(gbnf *p) {
    size_t at = p->at, n = read_name(p);
    if (n == 0) {
        complain(p, at, BL_ERR_FORMAT, "the name of a rule");
        return;
    }
    uint32_t rule = bl__net_rule_named(&p->b, p->text + at, n);
    if (!fails(p) && p->b.rules[rule].is_defined)
        complain(p, at, BL_ERR_FORMAT, "a rule that is not defined yet");
    skip_space(p, false);
    if (p->len - p->at < 3 || memcmp(p->text + p->at, "::=", 3) != 0) {
        complain(p, p->at, BL_ERR_FORMAT, "::=");
        return;
    }
    p->at += 3;
    bl__net_define(&p->b, rule, read_choice(p, false));
    if (!fails(p) && p->at < p->len && peek(p) != '\n')
        complain(p, p->at, BL_ERR_FORMAT, "an item, | or a new line");
}

bl_status bl_grammar_from_gbnf(const char *text, size_t len, bl_grammar **out, bl_error *err) {
    if (len > BL_GRAMMAR_MAX_TEXT)
        return bl__fail(err, BL_ERR_LIMIT, "grammar of %zu bytes, at most %d allowed", len,
                        BL_GRAMMAR_MAX_TEXT);
    gbnf p = {.text = text, .len = len};
    bl__net_builder_init(&p.b);
    p.ranges = bl__malloc_array(MAX_CLASS, sizeof *p.ranges);
    if (!p.ranges)
        bl__net_fail(&p.b, BL_ERR_MEMORY, "grammar: out of memory");
    uint32_t root = bl__net_rule_named(&p.b, "root", 4);
    skip_space(&p, true);
    while (!fails(&p) && p.at < p.len) {
        read_rule(&p);
        skip_space(&p, true);
    }
    if (!fails(&p) && !p.b.rules[root].is_defined)
        bl__net_fail(&p.b, BL_ERR_FORMAT, "rule root is not defined, where the text begins");
    bl__free(p.ranges);
    return bl__grammar_finish(&p.b, root, out, err);
}
