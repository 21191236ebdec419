/* Owns the rules of delimiters, whitespace control and literals. Knows nothing of grammar.
 *
 * Whitespace control is that of trim_blocks and lstrip_blocks: the first newline after a block or
 * comment goes, and so do blanks between the start of a line and a block or comment; `-` removes
 * all whitespace on its side and `+` keeps it. */
#include "tokenizer/jinja_lex.h"

#include <string.h>

#include "base/error.h"
#include "tokenizer/jinja_text.h"

enum { OUTSIDE, IN_BLOCK, IN_PRINT };

void bl__jinja_lexer_init(jinja_lexer *lexer, jinja_pool *pool, const char *source, size_t len,
                          bl_error *err) {
    *lexer = (jinja_lexer){
        .pool = pool, .source = source, .len = len, .line = 1, .line_starting = true, .err = err};
}

static bool lex_fail(jinja_lexer *lexer, bl_status status, const char *what) {
    lexer->status = bl__fail(lexer->err, status, "chat template: line %u: %s", lexer->line, what);
    return false;
}

static char peek(const jinja_lexer *lexer, size_t offset) {
    return offset < lexer->len - lexer->at ? lexer->source[lexer->at + offset] : '\0';
}

/* Moves to `end`, counting lines and noting whether the last character ended one. */
static void advance(jinja_lexer *lexer, size_t end) {
    for (size_t i = lexer->at; i < end; i++)
        lexer->line += lexer->source[i] == '\n';
    if (end > lexer->at)
        lexer->line_starting = lexer->source[end - 1] == '\n';
    lexer->at = end;
}

static size_t skip_space(const jinja_lexer *lexer, size_t at) {
    uint32_t code;
    while (at < lexer->len) {
        size_t n = bl__jinja_decode(lexer->source + at, lexer->len - at, &code);
        if (!bl__jinja_is_space(code))
            break;
        at += n;
    }
    return at;
}

/* How much of text[len] stays before a tag with this sign. */
static size_t strip_before(const jinja_lexer *lexer, const char *text, size_t len, char sign,
                           bool print) {
    if (sign == '-') {
        bl__jinja_trim(&text, &len, false, true);
        return len;
    }
    if (sign == '+' || print)
        return len;
    size_t line = len;
    while (line > 0 && text[line - 1] != '\n')
        line--;
    if (line == 0 && !lexer->line_starting)
        return len;
    const char *blank = text + line;
    size_t n = len - line;
    bl__jinja_trim(&blank, &n, true, false);
    return n == 0 ? line : len;
}

/* After the two characters that close a block or comment, at `at`: a newline goes with them. */
static size_t end_of_tag(const jinja_lexer *lexer, size_t at, char sign) {
    if (sign == '-')
        return skip_space(lexer, at);
    if (sign != '+' && at < lexer->len && lexer->source[at] == '\n')
        return at + 1;
    return at;
}

/* Length of `word` between whitespace at `at`, with what follows it; 0 when it is not there. */
static size_t match_word(const jinja_lexer *lexer, size_t at, const char *word) {
    size_t start = at, n = strlen(word);
    at = skip_space(lexer, at);
    if (lexer->len - at < n || memcmp(lexer->source + at, word, n) != 0)
        return 0;
    return skip_space(lexer, at + n) - start;
}

/* Finds "c2" (two characters) from `at` on; len when there is none. */
static size_t find_pair(const jinja_lexer *lexer, size_t at, char c1, char c2) {
    while (at + 1 < lexer->len) {
        const char *p = memchr(lexer->source + at, c1, lexer->len - at - 1);
        if (!p)
            break;
        at = (size_t)(p - lexer->source);
        if (p[1] == c2)
            return at;
        at++;
    }
    return lexer->len;
}

static bool is_sign(char c) {
    return c == '-' || c == '+';
}

static bool skip_comment(jinja_lexer *lexer) {
    size_t body = lexer->at + 2 + is_sign(peek(lexer, 2));
    size_t end = find_pair(lexer, body, '#', '}');
    if (end == lexer->len)
        return lex_fail(lexer, BL_ERR_FORMAT, "comment without its end '#}'");
    char sign = '\0';
    if (end > body && is_sign(lexer->source[end - 1]))
        sign = lexer->source[end - 1];
    advance(lexer, end_of_tag(lexer, end + 2, sign));
    return true;
}

/* At "{%": when it opens a raw section, gives its text as a data token and moves behind it. */
static bool lex_raw(jinja_lexer *lexer, size_t body, jinja_token *out) {
    for (size_t at = body; (at = find_pair(lexer, at, '{', '%')) < lexer->len; at += 2) {
        size_t tag = at + 2;
        char open = tag < lexer->len && is_sign(lexer->source[tag]) ? lexer->source[tag++] : '\0';
        size_t n = match_word(lexer, tag, "endraw");
        if (n == 0)
            continue;
        tag += n;
        char close = '\0';
        if (tag < lexer->len && is_sign(lexer->source[tag]))
            close = lexer->source[tag++];
        if (lexer->len - tag < 2 || memcmp(lexer->source + tag, "%}", 2) != 0)
            continue;
        advance(lexer, body);
        *out =
            (jinja_token){.type = JINJA_T_DATA,
                          .line = lexer->line,
                          .text = lexer->source + body,
                          .len = strip_before(lexer, lexer->source + body, at - body, open, false)};
        advance(lexer, end_of_tag(lexer, tag + 2, close));
        return true;
    }
    return lex_fail(lexer, BL_ERR_FORMAT, "raw section without its end");
}

/* The end of "{%- raw -%}" at the current place; 0 when something else is there. */
static size_t match_raw(const jinja_lexer *lexer) {
    size_t at = lexer->at + 2 + is_sign(peek(lexer, 2));
    size_t n = match_word(lexer, at, "raw");
    if (n == 0)
        return 0;
    at += n;
    bool strip = at < lexer->len && lexer->source[at] == '-';
    at += strip;
    if (lexer->len - at < 2 || memcmp(lexer->source + at, "%}", 2) != 0)
        return 0;
    return strip ? skip_space(lexer, at + 2) : at + 2;
}

/* Text up to the next tag as a token, the tag's opening as the pending one. */
static bool lex_outside(jinja_lexer *lexer, jinja_token *out) {
    size_t start = lexer->at, at = start;
    for (;; at++) {
        const char *p = at < lexer->len ? memchr(lexer->source + at, '{', lexer->len - at) : NULL;
        at = p ? (size_t)(p - lexer->source) : lexer->len;
        if (!p || (at + 1 < lexer->len && strchr("{%#", p[1]) && p[1]))
            break;
    }
    *out = (jinja_token){.type = JINJA_T_DATA,
                         .line = lexer->line,
                         .text = lexer->source + start,
                         .len = at - start};
    if (at == lexer->len) {
        advance(lexer, at);
        return true;
    }
    char kind = lexer->source[at + 1];
    char sign = at + 2 < lexer->len && is_sign(lexer->source[at + 2]) ? lexer->source[at + 2] : 0;
    out->len = strip_before(lexer, out->text, out->len, sign, kind == '{');
    advance(lexer, at);
    if (kind == '#')
        return skip_comment(lexer);
    size_t body = kind == '%' ? match_raw(lexer) : 0;
    if (body) {
        lexer->has_pending = true;
        return lex_raw(lexer, body, &lexer->pending);
    }
    lexer->pending = (jinja_token){.type = kind == '%' ? JINJA_T_BLOCK_BEGIN : JINJA_T_PRINT_BEGIN,
                                   .line = lexer->line};
    lexer->has_pending = true;
    lexer->mode = kind == '%' ? IN_BLOCK : IN_PRINT;
    advance(lexer, at + 2 + (sign != 0));
    return true;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads the escape after a backslash, at s[*i], as Python's "unicode-escape" does. Returns false
 * when it is malformed; *n is 0 when the backslash stands for itself. */
static bool read_escape(const char *s, size_t len, size_t *i, char *out, size_t *n) {
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    char c = s[*i];
    const char *name = c ? strchr(names, c) : NULL;
    *n = 0;
    if (c == '\n') {
        (*i)++;
        *n = SIZE_MAX; /* a line continuation: nothing */
    } else if (name) {
        (*i)++;
        out[(*n)++] = values[name - names];
    } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        for (int k = 0; k < 3 && *i < len && s[*i] >= '0' && s[*i] <= '7'; k++)
            code = code * 8 + (uint32_t)(s[(*i)++] - '0');
        *n = bl__jinja_encode(code, out);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        uint32_t code = 0;
        (*i)++;
        for (int k = 0; k < digits; k++, (*i)++) {
            int digit = *i < len ? hex_digit(s[*i]) : -1;
            if (digit < 0)
                return false;
            code = code << 4 | (uint32_t)digit;
        }
        if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        *n = bl__jinja_encode(code, out);
    }
    return c != 'N';
}

static bool lex_string(jinja_lexer *lexer, jinja_token *out) {
    char quote = lexer->source[lexer->at];
    size_t start = lexer->at + 1, end = start;
    bool escaped = false;
    while (end < lexer->len && lexer->source[end] != quote) {
        if (lexer->source[end] == '\\') {
            escaped = true;
            end++;
        }
        end++;
    }
    if (end >= lexer->len)
        return lex_fail(lexer, BL_ERR_FORMAT, "string without its end");
    out->type = JINJA_T_STRING;
    out->text = lexer->source + start;
    out->len = end - start;
    if (escaped) { /* no escape is longer than what it stands for */
        char *text = bl__jinja_pool_alloc(lexer->pool, out->len + JINJA_UTF8_MAX, 1);
        if (!text)
            return lex_fail(lexer, lexer->pool->too_large ? BL_ERR_LIMIT : BL_ERR_MEMORY,
                            "out of memory");
        size_t used = 0;
        for (size_t i = 0; i < out->len;) {
            char c = out->text[i++];
            size_t n;
            if (c != '\\') {
                text[used++] = c;
                continue;
            }
            if (!read_escape(out->text, out->len, &i, text + used, &n))
                return lex_fail(lexer, BL_ERR_FORMAT, "malformed escape in a string");
            if (n == 0)
                text[used++] = '\\';
            else if (n != SIZE_MAX)
                used += n;
        }
        out->text = text;
        out->len = used;
    }
    advance(lexer, end + 1);
    return true;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* End of a run of digits with single underscores between them. */
static size_t skip_digits(const jinja_lexer *lexer, size_t at) {
    while (at < lexer->len &&
           (is_digit(lexer->source[at]) ||
            (lexer->source[at] == '_' && at + 1 < lexer->len && is_digit(lexer->source[at + 1]))))
        at++;
    return at;
}

static bool lex_number(jinja_lexer *lexer, jinja_token *out) {
    size_t start = lexer->at, end = skip_digits(lexer, start), part = end;
    const char *s = lexer->source;
    int base = 10;
    if (s[start] == '0' && lexer->len - start > 2 && strchr("bBoOxX", s[start + 1])) {
        base = (s[start + 1] | 32) == 'b' ? 2 : (s[start + 1] | 32) == 'o' ? 8 : 16;
        for (end = start + 2; end < lexer->len && (hex_digit(s[end]) >= 0 || s[end] == '_');)
            end++;
    } else if (start == 0 || s[start - 1] != '.') { /* x.0.1 is two subscripts */
        if (part + 1 < lexer->len && s[part] == '.' && is_digit(s[part + 1]))
            part = skip_digits(lexer, part + 1);
        if (part < lexer->len && (s[part] | 32) == 'e') {
            size_t digits = part + 1;
            digits += digits < lexer->len && is_sign(s[digits]);
            if (digits < lexer->len && is_digit(s[digits]))
                part = skip_digits(lexer, digits);
        }
    }
    if (part > end) {
        out->type = JINJA_T_FLOAT;
        if (!bl__jinja_parse_float(s + start, part - start, &out->number))
            return lex_fail(lexer, BL_ERR_FORMAT, "malformed number");
        end = part;
    } else {
        out->type = JINJA_T_INT;
        if (!bl__jinja_parse_int(s + start, end - start, base, &out->integer))
            return lex_fail(lexer, BL_ERR_UNSUPPORTED, "integer malformed or beyond 64 bits");
    }
    advance(lexer, end);
    return true;
}

static bool is_name_char(char c) {
    return is_digit(c) || c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
           (unsigned char)c > 127;
}

/* The end of the tag, when it is here: 0, or where the text goes on. */
static size_t match_tag_end(const jinja_lexer *lexer) {
    bool block = lexer->mode == IN_BLOCK;
    char sign = peek(lexer, 0);
    sign = sign == '-' || (sign == '+' && block) ? sign : '\0';
    if (peek(lexer, sign != 0) != (block ? '%' : '}') || peek(lexer, 1 + (sign != 0)) != '}')
        return 0;
    size_t at = lexer->at + 2 + (sign != 0);
    if (block)
        return end_of_tag(lexer, at, sign);
    return sign ? skip_space(lexer, at) : at;
}

static bool lex_operator(jinja_lexer *lexer, jinja_token *out) {
    static const char pairs[] = "** // == != <= >= ", singles[] = "+-*/%~<>=.,:|()[]{};";
    char c = peek(lexer, 0), d = peek(lexer, 1);
    size_t n = 0;
    for (const char *p = pairs; *p; p += 3)
        if (p[0] == c && p[1] == d)
            n = 2;
    if (n == 0 && c && strchr(singles, c))
        n = 1;
    if (n == 0)
        return lex_fail(lexer, BL_ERR_FORMAT, "unexpected character in a tag");
    if (strchr("([{", c))
        lexer->brackets++;
    if (strchr(")]}", c)) {
        if (lexer->brackets == 0)
            return lex_fail(lexer, BL_ERR_FORMAT, "closing bracket that nothing opened");
        lexer->brackets--;
    }
    out->type = JINJA_T_OPERATOR;
    out->op = (uint16_t)((unsigned char)c | (n == 2 ? (unsigned char)d << 8 : 0));
    out->text = lexer->source + lexer->at;
    out->len = n;
    advance(lexer, lexer->at + n);
    return true;
}

static bool lex_inside(jinja_lexer *lexer, jinja_token *out) {
    advance(lexer, skip_space(lexer, lexer->at));
    *out = (jinja_token){.line = lexer->line};
    if (lexer->at == lexer->len)
        return lex_fail(lexer, BL_ERR_FORMAT, "tag without its end");
    size_t end = lexer->brackets == 0 ? match_tag_end(lexer) : 0;
    if (end) {
        out->type = lexer->mode == IN_BLOCK ? JINJA_T_BLOCK_END : JINJA_T_PRINT_END;
        lexer->mode = OUTSIDE;
        advance(lexer, end);
        return true;
    }
    char c = peek(lexer, 0);
    if (is_digit(c))
        return lex_number(lexer, out);
    if (c == '"' || c == '\'')
        return lex_string(lexer, out);
    if (!is_name_char(c))
        return lex_operator(lexer, out);
    size_t at = lexer->at;
    while (at < lexer->len && is_name_char(lexer->source[at]))
        at++;
    out->type = JINJA_T_NAME;
    out->text = lexer->source + lexer->at;
    out->len = at - lexer->at;
    advance(lexer, at);
    return true;
}

bool bl__jinja_lexer_next(jinja_lexer *lexer, jinja_token *out) {
    if (lexer->has_pending) {
        *out = lexer->pending;
        lexer->has_pending = false;
        return true;
    }
    if (lexer->mode != OUTSIDE)
        return lex_inside(lexer, out);
    if (lexer->at == lexer->len) {
        *out = (jinja_token){.type = JINJA_T_END, .line = lexer->line};
        return true;
    }
    return lex_outside(lexer, out);
}
