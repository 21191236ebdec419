/* Owns UTF-8, character classes and number formats. Knows nothing of values. */
#include "tokenizer/jinja_text.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { BAD_BYTE = 0xdc00, FLOAT_TEXT_MAX = 400 };

size_t bl__jinja_decode(const char *text, size_t len, uint32_t *code) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(s, len > 4 ? 4 : (utf8proc_ssize_t)len, &c);
    if (n <= 0 || c < 0) {
        *code = (uint32_t)BAD_BYTE + s[0];
        return 1;
    }
    *code = (uint32_t)c;
    return (size_t)n;
}

size_t bl__jinja_decode_back(const char *text, size_t end, uint32_t *code) {
    for (size_t n = 1; n <= JINJA_UTF8_MAX && n <= end; n++)
        if (bl__jinja_decode(text + end - n, n, code) == n)
            if (n > 1 || *code < 0x80)
                return n;
    *code = (uint32_t)BAD_BYTE + (unsigned char)text[end - 1];
    return 1;
}

size_t bl__jinja_encode(uint32_t code, char *out) {
    if (code >= BAD_BYTE + 0x80 && code <= BAD_BYTE + 0xff) {
        out[0] = (char)(code - BAD_BYTE);
        return 1;
    }
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

bool bl__jinja_is_space(uint32_t c) {
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool bl__jinja_is_line_break(uint32_t c) {
    return (c >= '\n' && c <= '\r') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

bool bl__jinja_is_printable(uint32_t c) {
    if (c < 0x80)
        return c >= ' ' && c < 0x7f;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

uint32_t bl__jinja_to_upper(uint32_t c) {
    if (c < 0x80)
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    return (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
}
uint32_t bl__jinja_to_lower(uint32_t c) {
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}
uint32_t bl__jinja_to_title(uint32_t c) {
    return c < 0x80 ? bl__jinja_to_upper(c) : (uint32_t)utf8proc_totitle((utf8proc_int32_t)c);
}

size_t bl__jinja_count_chars(const char *text, size_t len) {
    size_t n = 0;
    uint32_t code;
    for (size_t i = 0; i < len; n++)
        i += bl__jinja_decode(text + i, len - i, &code);
    return n;
}

size_t bl__jinja_char_offset(const char *text, size_t len, size_t index) {
    size_t i = 0;
    uint32_t code;
    for (; index > 0 && i < len; index--)
        i += bl__jinja_decode(text + i, len - i, &code);
    return i;
}

void bl__jinja_trim(const char **text, size_t *len, bool left, bool right) {
    uint32_t code;
    while (left && *len > 0) {
        size_t n = bl__jinja_decode(*text, *len, &code);
        if (!bl__jinja_is_space(code))
            break;
        *text += n;
        *len -= n;
    }
    while (right && *len > 0) {
        size_t n = bl__jinja_decode_back(*text, *len, &code);
        if (!bl__jinja_is_space(code))
            break;
        *len -= n;
    }
}

/* The shortest digits that read back as the same number, laid out as Python does: with an
 * exponent from 1e16 up and below 1e-4. */
size_t bl__jinja_format_float(double number, char out[JINJA_NUMBER_MAX]) {
    if (!isfinite(number)) {
        const char *name = isnan(number) ? "nan" : number < 0 ? "-inf" : "inf";
        return (size_t)snprintf(out, JINJA_NUMBER_MAX, "%s", name);
    }
    char text[JINJA_NUMBER_MAX], digits[JINJA_NUMBER_MAX];
    for (int precision = 0; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, number);
        if (strtod(text, NULL) == number)
            break;
    }
    size_t n_digits = 0, n = 0;
    const char *p = text;
    if (*p == '-')
        out[n++] = *p++;
    for (; *p && *p != 'e'; p++) /* skips the decimal point, whatever the locale makes of it */
        if (*p >= '0' && *p <= '9')
            digits[n_digits++] = *p;
    while (n_digits > 1 && digits[n_digits - 1] == '0')
        n_digits--;
    int exponent = *p ? (int)strtol(p + 1, NULL, 10) : 0;
    if (exponent < -4 || exponent >= 16) {
        out[n++] = digits[0];
        if (n_digits > 1) {
            out[n++] = '.';
            memcpy(out + n, digits + 1, n_digits - 1);
            n += n_digits - 1;
        }
        return n + (size_t)snprintf(out + n, JINJA_NUMBER_MAX - n, "e%c%02d",
                                    exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
    }
    int first = exponent < 0 ? exponent : 0; /* position of the first digit to write */
    int last = (int)n_digits - 1 > exponent + 1 ? (int)n_digits - 1 : exponent + 1;
    for (int i = first; i <= last; i++) {
        if (i == exponent + 1 && exponent >= 0)
            out[n++] = '.';
        out[n++] = i >= 0 && i < (int)n_digits ? digits[i] : '0';
        if (i == first && exponent < 0)
            out[n++] = '.';
    }
    out[n] = '\0';
    return n;
}

/* Copies text into out without whitespace at the ends and without underscores between digits. */
static size_t clean_number(const char *text, size_t len, char *out, size_t size) {
    size_t n = 0;
    bl__jinja_trim(&text, &len, true, true);
    if (len >= size)
        return 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '_') {
            bool between = i > 0 && i + 1 < len && text[i - 1] != '_' && text[i + 1] != '_';
            if (!between)
                return 0;
            continue;
        }
        out[n++] = text[i];
    }
    out[n] = '\0';
    return n;
}

bool bl__jinja_parse_float(const char *text, size_t len, double *out) {
    char buffer[FLOAT_TEXT_MAX], *end;
    size_t n = clean_number(text, len, buffer, sizeof buffer);
    if (n == 0 || strspn(buffer, "+-.0123456789eEinfatyINFATY") != n)
        return false;
    char *point = strchr(buffer, '.');
    const struct lconv *conventions = localeconv();
    if (point && conventions->decimal_point[0])
        *point = conventions->decimal_point[0];
    double number = strtod(buffer, &end);
    if (end != buffer + n)
        return false;
    *out = number;
    return true;
}

bool bl__jinja_parse_int(const char *text, size_t len, int base, int64_t *out) {
    char buffer[FLOAT_TEXT_MAX], *end;
    size_t n = clean_number(text, len, buffer, sizeof buffer);
    if (n == 0 || buffer[0] == ' ')
        return false;
    char *digits = buffer + (buffer[0] == '-' || buffer[0] == '+');
    bool prefixed = digits[0] == '0' && ((base == 2 && (digits[1] | 32) == 'b') ||
                                         (base == 8 && (digits[1] | 32) == 'o') ||
                                         (base == 16 && (digits[1] | 32) == 'x'));
    if (prefixed) { /* Python allows the prefix that goes with the base */
        memmove(digits, digits + 2, strlen(digits + 2) + 1);
        n -= 2;
    }
    if (!((*digits >= '0' && *digits <= '9') || ((*digits | 32) >= 'a' && (*digits | 32) <= 'z')))
        return false;
    errno = 0;
    long long value = strtoll(buffer, &end, base);
    if (errno || end != buffer + n)
        return false;
    *out = value;
    return true;
}
