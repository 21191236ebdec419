/* The Jinja subset of chat templates: compile once, render many times.
 *
 * What a template may do is what transformers' apply_chat_template() allows it: jinja2's immutable
 * sandbox with trim_blocks, lstrip_blocks, loop controls, {% generation %}, tojson,
 * raise_exception() and strftime_now(). Differences from jinja2: integers have 64 bits, generators
 * are evaluated at once, and letters change case by Unicode's one-to-one mappings.
 *
 * Templates are hostile. Every cost is bounded: see jinja_limits. */
#ifndef BL_TOKENIZER_JINJA_H
#define BL_TOKENIZER_JINJA_H

#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "bitloom/status.h"

typedef struct jinja_template jinja_template;

/* What one rendering may cost. */
typedef struct jinja_limits {
    uint64_t max_steps; /* nodes evaluated, plus one for every 16 bytes or 4 values touched */
    uint32_t max_depth; /* expressions, statements and macro calls inside one another */
    size_t max_output;  /* bytes of text, that of blocks being captured included */
    size_t max_memory;  /* bytes of values */
} jinja_limits;

/* Those of bl_chat_template_render(). */
jinja_limits bl__jinja_default_limits(void);

bl_status bl__jinja_compile(const char *source, size_t len, jinja_template **out, bl_error *err);
void bl__jinja_free(jinja_template *template);

/* variables: a JSON object, borrowed. *text is NUL-terminated; release with bl__free. A variable
 * `strftime_now` that is a number is the time, in seconds since 1970 UTC, that the function of
 * this name tells instead of the clock's. */
bl_status bl__jinja_render(const jinja_template *template, const json_t *variables,
                           const jinja_limits *limits, char **text, size_t *len, bl_error *err);

#endif
