/* What string methods and filters share. Every `v` is a STRING. */
#ifndef BL_TOKENIZER_JINJA_STRINGS_H
#define BL_TOKENIZER_JINJA_STRINGS_H

#include "tokenizer/jinja_run.h"

typedef enum jinja_case {
    JINJA_UPPER,
    JINJA_LOWER,
    JINJA_CAPITALIZE,
    JINJA_TITLE,       /* str.title(): every run of letters */
    JINJA_TITLE_WORDS, /* the filter: what follows whitespace, -, (, {, [ or < */
    JINJA_SWAP,
} jinja_case;

bool bl__jinja_change_case(jinja_run *run, const jinja_value *v, jinja_case to, jinja_value *out);
/* Without the characters of `chars` (MISSING or none: whitespace) at the ends. */
bool bl__jinja_strip(jinja_run *run, const jinja_value *v, const jinja_value *chars, bool left,
                     bool right, jinja_value *out);
/* The first `limit` occurrences; all when it is negative. */
bool bl__jinja_replace(jinja_run *run, const jinja_value *v, const jinja_value *from,
                       const jinja_value *to, int64_t limit, jinja_value *out);
bool bl__jinja_split_lines(jinja_run *run, const jinja_value *v, bool keep_ends, jinja_value *out);

/* Arguments, checked: false with an error that names `what`. MISSING leaves *out as it is. */
bool bl__jinja_int_argument(jinja_run *run, const jinja_value *v, const char *what, int64_t *out);
bool bl__jinja_string_argument(jinja_run *run, const jinja_value *v, const char *what,
                               jinja_value *out);

#endif
