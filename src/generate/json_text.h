/* Private to generate/: the pieces of JSON text that grammars for it are made of.
 *
 * Blanks are allowed where people put them, and so many of them only: a model cannot write blanks
 * for ever. Numbers have so many digits that readers take them exactly. */
#ifndef BL_GENERATE_JSON_TEXT_H
#define BL_GENERATE_JSON_TEXT_H

#include <jansson.h>

#include "generate/grammar_net.h"

enum {
    BL_JSON_MAX_DIGITS = 15, /* of a number: what a double holds whatever they are */
    BL_JSON_MAX_INDENT = 20  /* blanks after a new line */
};

/* The rules of JSON without a schema; BL_NET_NONE until they are asked for. */
typedef struct bl__json_text {
    bl__net_builder *b;
    uint32_t blank, string, number, object, array, value;
} bl__json_text;

bl__json_text bl__json_text_make(bl__net_builder *b);

/* Nothing, one blank, or a new line and its indentation. */
bl__fragment bl__json_blank(bl__json_text *t);
/* Any string, number, object, array, value. Surrogates come in pairs, NUL not at all. */
bl__fragment bl__json_any_string(bl__json_text *t);
bl__fragment bl__json_any_number(bl__json_text *t);
bl__fragment bl__json_any_object(bl__json_text *t);
bl__fragment bl__json_any_array(bl__json_text *t);
bl__fragment bl__json_any_value(bl__json_text *t);
bl__fragment bl__json_any_integer(bl__json_text *t);
/* One character of any string, by itself or escaped. */
bl__fragment bl__json_any_char(bl__json_text *t);

/* One character of ranges[n] inside a string, in its one shortest form. */
bl__fragment bl__json_char(bl__json_text *t, const bl__char_range *ranges, size_t n);
/* A string of one of these characters each ... between quotes. */
bl__fragment bl__json_quoted(bl__json_text *t, bl__fragment inside);
/* This very value, as it is written shortest. */
bl__fragment bl__json_literal(bl__json_text *t, const json_t *value);
/* Any key but those of names, an object. */
bl__fragment bl__json_other_key(bl__json_text *t, const json_t *names);

/* A number from low to high, either may be NULL; strict: not the bound itself. A bound is a JSON
 * number. n_fraction: digits after the point at most. */
typedef struct bl__json_range {
    const json_t *low, *high;
    bool low_strict, high_strict;
    unsigned n_fraction;
} bl__json_range;
bl__fragment bl__json_number_in(bl__json_text *t, const bl__json_range *range);

/* What a regular expression finds in strings (ECMA 262, the part that is regular and that
 * docs/grammar.md lists), the quotes not included. where: for complaints. */
bl__fragment bl__json_pattern(bl__json_text *t, const char *pattern, size_t len, const char *where);

#endif
