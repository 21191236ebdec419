/* Owns the reading of regular expressions in the notation of ECMA 262, as JSON Schema's "pattern"
 * has them, into fragments of a network that match inside a JSON string. What is not regular, or
 * depends on the place, is refused by name. Must not know schemas. */
#include <string.h>

#include "base/alloc.h"
#include "generate/json_text.h"
#include "tokenizer/utf8.h"

enum { MAX_DEPTH = 100 /* of groups */, MAX_RANGES = 4096 /* of a class */ };

typedef struct regex {
    bl__json_text *t;
    bl__net_builder *b;
    const char *text;
    size_t len, at;
    const char *where;
    unsigned depth;
    bl__char_range *ranges; /* [MAX_RANGES] */
    size_t n_ranges;
} regex;

static void complain(regex *p, bl_status status, const char *what) {
    bl__net_fail(p->b, status, "%s: pattern, character %zu: %s", p->where, p->at + 1, what);
}

static bool fails(const regex *p) {
    return p->b->status != BL_OK;
}

static char peek(const regex *p) {
    return p->at < p->len ? p->text[p->at] : '\0';
}

static bool take(regex *p, const char *text) {
    size_t n = strlen(text);
    if (p->len - p->at < n || memcmp(p->text + p->at, text, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* ---- classes ---- */

static void add_range(regex *p, uint32_t low, uint32_t high) {
    if (p->n_ranges == MAX_RANGES - 1)
        complain(p, BL_ERR_LIMIT, "more than 4095 ranges");
    else
        p->ranges[p->n_ranges++] = (bl__char_range){low, high};
}

static const bl__char_range DIGITS[] = {{'0', '9'}};
static const bl__char_range WORD[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const bl__char_range SPACE[] = {
    {'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
    {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
static const bl__char_range LINE_ENDS[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

/* Adds a class, or what is not in it; ranges[n] are in order and apart. */
static void add_class(regex *p, const bl__char_range *ranges, size_t n, bool negated) {
    uint32_t next = 0;
    for (size_t i = 0; i < n; i++) {
        if (!negated)
            add_range(p, ranges[i].low, ranges[i].high);
        else if (ranges[i].low > next)
            add_range(p, next, ranges[i].low - 1);
        next = ranges[i].high + 1;
    }
    if (negated)
        add_range(p, next, BL_NET_MAX_CHAR);
}

/* \d \D \w \W \s \S; false when the letter is none of these. */
static bool add_class_escape(regex *p, char letter) {
    switch (letter) {
    case 'd':
    case 'D':
        add_class(p, DIGITS, 1, letter == 'D');
        return true;
    case 'w':
    case 'W':
        add_class(p, WORD, sizeof WORD / sizeof *WORD, letter == 'W');
        return true;
    case 's':
        add_class(p, SPACE, 2, false); /* those that every reader takes for blanks */
        return true;
    case 'S':
        add_class(p, SPACE, sizeof SPACE / sizeof *SPACE, true);
        return true;
    default:
        return false;
    }
}

static uint32_t read_hex(regex *p, size_t min, size_t max) {
    uint32_t value = 0;
    size_t n = 0;
    for (; n < max; n++, p->at++) {
        char c = peek(p);
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            value = value << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        else
            break;
    }
    if (n < min)
        complain(p, BL_ERR_FORMAT, "expected a hexadecimal digit");
    if (value > BL_NET_MAX_CHAR || (value >= 0xd800 && value <= 0xdfff)) {
        complain(p, BL_ERR_UNSUPPORTED, "this is no Unicode character");
        value = 0;
    }
    return value;
}

/* A character behind a backslash that stands for one. */
static uint32_t read_escape(regex *p) {
    char c = peek(p);
    if (p->at == p->len) {
        complain(p, BL_ERR_FORMAT, "expected a character after \\");
        return 0;
    }
    static const char letters[] = "n\nt\tr\rf\fv\v";
    for (const char *pair = letters; *pair; pair += 2)
        if (c == *pair) {
            p->at++;
            return (uint8_t)pair[1];
        }
    if (take(p, "x"))
        return read_hex(p, 2, 2);
    if (take(p, "u{")) {
        uint32_t value = read_hex(p, 1, 6);
        if (!take(p, "}"))
            complain(p, BL_ERR_FORMAT, "expected }");
        return value;
    }
    if (take(p, "u"))
        return read_hex(p, 4, 4);
    bool is_plain = (uint8_t)c >= 0x80 || !strchr("0123456789bBckpP", c);
    bool is_letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    if (!is_plain || is_letter) {
        complain(p, BL_ERR_UNSUPPORTED,
                 "escapes other than \\d \\w \\s \\D \\W \\S \\n \\t \\r \\f \\v \\x \\u and of "
                 "punctuation are not supported");
        return 0;
    }
    size_t n = bl__utf8_len(p->text + p->at, p->len - p->at);
    uint32_t value = n ? bl__utf8_decode(p->text + p->at, n) : 0;
    p->at += n ? n : 1;
    return value;
}

static uint32_t read_char(regex *p) {
    if (take(p, "\\"))
        return read_escape(p);
    size_t n = p->at < p->len ? bl__utf8_len(p->text + p->at, p->len - p->at) : 0;
    if (!n) {
        complain(p, BL_ERR_FORMAT, "expected a character");
        return 0;
    }
    uint32_t c = bl__utf8_decode(p->text + p->at, n);
    p->at += n;
    return c;
}

static bl__fragment end_class(regex *p, bool negated) {
    if (negated && !fails(p))
        p->n_ranges = bl__char_ranges_negate(p->ranges, p->n_ranges);
    return bl__json_char(p->t, p->ranges, fails(p) ? 0 : p->n_ranges);
}

static bl__fragment read_class(regex *p) {
    bool negated = take(p, "^");
    while (!fails(p) && !take(p, "]")) {
        if (p->at == p->len) {
            complain(p, BL_ERR_FORMAT, "expected ]");
            break;
        }
        if (peek(p) == '\\' && p->at + 1 < p->len && add_class_escape(p, p->text[p->at + 1])) {
            p->at += 2;
            continue;
        }
        uint32_t low = read_char(p), high = low;
        bool is_range = peek(p) == '-' && p->at + 1 < p->len && p->text[p->at + 1] != ']';
        if (is_range) {
            p->at++;
            high = read_char(p);
        }
        if (high < low)
            complain(p, BL_ERR_FORMAT, "the range ends before it begins");
        add_range(p, low, high);
    }
    return end_class(p, negated);
}

/* ---- expressions ---- */

static bl__fragment read_choice(regex *p, bool is_whole);

static bl__fragment read_group(regex *p) {
    if (take(p, "?<") && peek(p) != '=' && peek(p) != '!') {
        while (p->at < p->len && peek(p) != '>')
            p->at++;
        p->at += p->at < p->len;
    } else if (peek(p) == '?' && !take(p, "?:")) {
        complain(p, BL_ERR_UNSUPPORTED, "looking ahead or behind is not supported");
    } else if (p->at > 1 && (peek(p) == '=' || peek(p) == '!') && p->text[p->at - 1] == '<') {
        complain(p, BL_ERR_UNSUPPORTED, "looking behind is not supported");
    }
    if (++p->depth > MAX_DEPTH)
        complain(p, BL_ERR_LIMIT, "more than 100 groups in each other");
    bl__fragment f = read_choice(p, false);
    p->depth--;
    if (!take(p, ")"))
        complain(p, BL_ERR_FORMAT, "expected )");
    return f;
}

static bl__fragment read_atom(regex *p) {
    p->n_ranges = 0;
    if (take(p, "("))
        return read_group(p);
    if (take(p, "["))
        return read_class(p);
    if (take(p, ".")) {
        add_class(p, LINE_ENDS, sizeof LINE_ENDS / sizeof *LINE_ENDS, true);
        return end_class(p, false);
    }
    if (peek(p) == '\\' && p->at + 1 < p->len && add_class_escape(p, p->text[p->at + 1])) {
        p->at += 2;
        return end_class(p, false);
    }
    if (strchr("^$", peek(p)) && p->at < p->len)
        complain(p, BL_ERR_UNSUPPORTED, "^ and $ are supported at the ends of the pattern only");
    else if (strchr("*+?{", peek(p)) && p->at < p->len)
        complain(p, BL_ERR_FORMAT, "nothing to repeat");
    uint32_t c = read_char(p);
    add_range(p, c, c);
    return end_class(p, false);
}

/* Digits at `at`; false when there are none. */
static bool read_count(regex *p, uint32_t *out) {
    size_t start = p->at;
    uint32_t n = 0;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        n = 10 * n + (uint32_t)(peek(p) - '0');
        if (n > BL_NET_MAX_REPEAT) {
            complain(p, BL_ERR_LIMIT, "a count of more than 1048576");
            return false;
        }
    }
    *out = n;
    return p->at > start;
}

static bl__fragment read_repeated(regex *p) {
    bl__fragment f = read_atom(p);
    for (;;) {
        uint32_t min = 0, max = BL_NET_ANY_COUNT;
        if (take(p, "+")) {
            min = 1;
        } else if (take(p, "?")) {
            max = 1;
        } else if (take(p, "{")) {
            if (!read_count(p, &min))
                complain(p, BL_ERR_FORMAT, "expected a count");
            max = min;
            if (take(p, ",") && !read_count(p, &max))
                max = BL_NET_ANY_COUNT;
            if (!take(p, "}"))
                complain(p, BL_ERR_FORMAT, "expected }");
            if (max < min)
                complain(p, BL_ERR_FORMAT, "the maximum is below the minimum");
        } else if (!take(p, "*")) {
            return f;
        }
        take(p, "?"); /* which of several matches is found makes no difference */
        f = bl__net_repeat(p->b, f, min, max);
    }
}

static bl__fragment anything(regex *p) {
    return bl__net_repeat(p->b, bl__json_char(p->t, &(bl__char_range){0, BL_NET_MAX_CHAR}, 1), 0,
                          BL_NET_ANY_COUNT);
}

/* Alternatives; those of the whole pattern may be anchored, and match anywhere if they are not. */
static bl__fragment read_choice(regex *p, bool is_whole) {
    bl__fragment choice = bl__net_choice(p->b);
    do {
        bl__fragment f = is_whole && !take(p, "^") ? anything(p) : bl__net_empty(p->b);
        bool is_open = is_whole;
        while (!fails(p) && p->at < p->len && peek(p) != '|' && (peek(p) != ')' || is_whole)) {
            bool is_last = p->at + 1 == p->len || p->text[p->at + 1] == '|';
            if (is_whole && peek(p) == '$' && is_last) {
                p->at++;
                is_open = false;
                break;
            }
            if (peek(p) == ')')
                complain(p, BL_ERR_FORMAT, "there is no ( for it");
            f = bl__net_join(p->b, f, read_repeated(p));
        }
        if (is_open)
            f = bl__net_join(p->b, f, anything(p));
        bl__net_choose(p->b, choice, f);
    } while (!fails(p) && take(p, "|"));
    return choice;
}

bl__fragment bl__json_pattern(bl__json_text *t, const char *pattern, size_t len,
                              const char *where) {
    regex p = {.t = t, .b = t->b, .text = pattern, .len = len, .where = where};
    p.ranges = bl__malloc_array(MAX_RANGES, sizeof *p.ranges);
    if (!p.ranges) {
        bl__net_fail(t->b, BL_ERR_MEMORY, "grammar: no memory for a pattern");
        return bl__net_empty(t->b);
    }
    bl__fragment f = read_choice(&p, true);
    bl__free(p.ranges);
    return f;
}
