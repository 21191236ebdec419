/* UTF-8, checked strictly (no overlong forms, no surrogates, nothing above U+10FFFF). */
#ifndef BL_TOKENIZER_UTF8_H
#define BL_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BL_UTF8_MAX = 4 };

/* What the bytes at text[0 ... len-1], len > 0, begin with: the length of a whole character, or 0.
 * Then *bad is the number of bytes that form a proper beginning of a character (at least 1), and
 * *cut is true when the character could still be completed by bytes after the end. */
static inline size_t bl__utf8_char(const char *text, size_t len, size_t *bad, bool *cut) {
    const uint8_t *s = (const uint8_t *)text;
    size_t need;
    uint8_t low = 0x80, high = 0xbf; /* allowed range of the second byte */
    *bad = 1;
    *cut = false;
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        need = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        need = 3;
        low = s[0] == 0xe0 ? 0xa0 : 0x80;
        high = s[0] == 0xed ? 0x9f : 0xbf;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        need = 4;
        low = s[0] == 0xf0 ? 0x90 : 0x80;
        high = s[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        if (i == len) {
            *cut = true;
            return 0;
        }
        if (s[i] < low || s[i] > high)
            return 0;
        *bad = i + 1;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

/* Length of the character at text, 0 when there is no valid one. */
static inline size_t bl__utf8_len(const char *text, size_t len) {
    size_t bad;
    bool cut;
    return bl__utf8_char(text, len, &bad, &cut);
}

/* Bytes from the start that are valid UTF-8. */
static inline size_t bl__utf8_valid_prefix(const char *text, size_t len) {
    size_t i = 0;
    while (i < len) {
        if (len - i >= 8) { /* eight ASCII bytes at once */
            uint64_t eight;
            memcpy(&eight, text + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        size_t n = bl__utf8_len(text + i, len - i);
        if (!n)
            break;
        i += n;
    }
    return i;
}

/* The code point of a valid character of n bytes. */
static inline uint32_t bl__utf8_decode(const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    switch (n) {
    case 1:
        return s[0];
    case 2:
        return (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f);
    case 3:
        return (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f);
    default:
        return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 |
               (uint32_t)(s[2] & 0x3f) << 6 | (s[3] & 0x3f);
    }
}

/* Writes a code point; returns the bytes written (1 ... 4). */
static inline size_t bl__utf8_encode(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* U+2581, which SentencePiece writes for a space. */
#define BL_UTF8_SPACE_MARK "\xe2\x96\x81"
enum { BL_UTF8_SPACE_MARK_LEN = 3 };

static inline bool bl__utf8_is_space_mark(const char *text, size_t len) {
    return len >= BL_UTF8_SPACE_MARK_LEN &&
           memcmp(text, BL_UTF8_SPACE_MARK, BL_UTF8_SPACE_MARK_LEN) == 0;
}

static inline bool bl__utf8_ends_with_space_mark(const char *text, size_t len) {
    return len >= BL_UTF8_SPACE_MARK_LEN &&
           bl__utf8_is_space_mark(text + len - BL_UTF8_SPACE_MARK_LEN, BL_UTF8_SPACE_MARK_LEN);
}

#endif
