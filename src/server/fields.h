/* Fields of a request's JSON, checked: what is wrong becomes the API's error with the field's name.
 *
 * The first error fills the response; afterwards every call returns its default, so that callers
 * ask once, at the end. A field that is null counts as absent; unknown fields are nobody's. */
#ifndef BL_SERVER_FIELDS_H
#define BL_SERVER_FIELDS_H

#include "server/router.h"

typedef struct bl__fields {
    json_t *root; /* borrowed */
    bl__response *response;
    const char *prefix; /* of the names in messages, such as "response_format."; "" at the top */
    bool failed;
} bl__fields;

static inline bl__fields bl__fields_of(json_t *root, bl__response *response) {
    return (bl__fields){.root = root, .response = response, .prefix = ""};
}

/* The value, or NULL when it is absent or null. */
json_t *bl__field(const bl__fields *fields, const char *name);
bool bl__field_bool(bl__fields *fields, const char *name, bool absent);
double bl__field_number(bl__fields *fields, const char *name, double min, double max,
                        double absent);
int64_t bl__field_integer(bl__fields *fields, const char *name, int64_t min, int64_t max,
                          int64_t absent);
/* Borrowed from the root. */
const char *bl__field_string(bl__fields *fields, const char *name, const char *absent);
json_t *bl__field_object(bl__fields *fields, const char *name);
json_t *bl__field_array(bl__fields *fields, const char *name);
/* Records an error of the field, or of the part of it that `format` names. */
void bl__field_fail(bl__fields *fields, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
