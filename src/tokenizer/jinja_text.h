/* Characters as Python sees them. Text should be UTF-8; a byte that is not counts as a character
 * of its own and survives every operation. */
#ifndef BL_TOKENIZER_JINJA_TEXT_H
#define BL_TOKENIZER_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JINJA_UTF8_MAX = 4, JINJA_NUMBER_MAX = 40 };

/* Decodes the character at text[0 ... len - 1], len > 0, and returns its length in bytes. Bytes
 * that are not UTF-8 give 0xdc00 + byte. */
size_t bl__jinja_decode(const char *text, size_t len, uint32_t *code);
/* The character before text[end], end > 0. */
size_t bl__jinja_decode_back(const char *text, size_t end, uint32_t *code);
/* Writes at most JINJA_UTF8_MAX bytes and returns how many. */
size_t bl__jinja_encode(uint32_t code, char *out);

bool bl__jinja_is_space(uint32_t code);      /* str.isspace() */
bool bl__jinja_is_line_break(uint32_t code); /* where str.splitlines() splits */
bool bl__jinja_is_printable(uint32_t code);  /* str.isprintable() */
/* One character for one: what becomes several in Unicode stays as it is. */
uint32_t bl__jinja_to_upper(uint32_t code);
uint32_t bl__jinja_to_lower(uint32_t code);
uint32_t bl__jinja_to_title(uint32_t code);
size_t bl__jinja_count_chars(const char *text, size_t len);
/* Byte offset of character number `index`, at most len. */
size_t bl__jinja_char_offset(const char *text, size_t len, size_t index);
/* The text without the whitespace at its ends. */
void bl__jinja_trim(const char **text, size_t *len, bool left, bool right);

/* repr() of a float; returns the length. */
size_t bl__jinja_format_float(double number, char out[JINJA_NUMBER_MAX]);
/* Parses the whole of text as float() does, whitespace around it allowed. */
bool bl__jinja_parse_float(const char *text, size_t len, double *out);
/* Parses the whole of text as int() with a base of 2 ... 36 does. */
bool bl__jinja_parse_int(const char *text, size_t len, int base, int64_t *out);

#endif
