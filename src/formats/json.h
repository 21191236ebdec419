/* JSON from untrusted bytes: jansson behind caps on depth and size. */
#ifndef BL_FORMATS_JSON_H
#define BL_FORMATS_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

typedef struct bl__json_limits {
    size_t depth;  /* of objects and arrays in each other */
    size_t values; /* strings, numbers, objects ... in all, keys counted too */
    bool as_reals; /* read integers as reals, so that those beyond 2^63 are no error */
} bl__json_limits;

/* Parses text[len], whole. A key given twice in an object is refused. *out: release with
 * json_decref(). Errors: BL_ERR_FORMAT with line and column, BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__json_parse(const char *text, size_t len, bl__json_limits limits, json_t **out,
                         bl_error *err);

/* The same from a file of at most max_bytes. Errors name the path; BL_ERR_NOT_FOUND when there is
 * no such file. */
bl_status bl__json_read(const char *path, size_t max_bytes, bl__json_limits limits, json_t **out,
                        bl_error *err);

/* The value as text, written with jansson's flags. Release with bl__free(); NULL when memory is
 * short or the text would be longer than 100 MB. */
char *bl__json_write(const json_t *value, size_t flags, size_t *len);

/* "an object", "a string" ... for messages; NULL is "nothing". */
const char *bl__json_type_name(const json_t *value);

#endif
