/* Owns the checking of single fields. Must not know what they mean. */
#include "server/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "formats/json.h"

json_t *bl__field(const bl__fields *f, const char *name) {
    json_t *value = json_object_get(f->root, name);
    return json_is_null(value) ? NULL : value;
}

void bl__field_fail(bl__fields *f, const char *name, const char *format, ...) {
    char message[400], param[128];
    if (f->failed)
        return;
    f->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    snprintf(param, sizeof param, "%s%s", f->prefix, name);
    bl__respond_error(f->response, 400, "invalid_request_error", param, "invalid_value", "%s: %s",
                      param, message);
}

static void fail_type(bl__fields *f, const char *name, const json_t *value, const char *expected) {
    bl__field_fail(f, name, "found %s, expected %s", bl__json_type_name(value), expected);
}

bool bl__field_bool(bl__fields *f, const char *name, bool absent) {
    const json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return absent;
    if (!json_is_boolean(value))
        fail_type(f, name, value, "true or false");
    return f->failed ? absent : json_is_true(value);
}

double bl__field_number(bl__fields *f, const char *name, double min, double max, double absent) {
    const json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return absent;
    double number = json_number_value(value);
    if (!json_is_number(value))
        fail_type(f, name, value, "a number");
    else if (!(number >= min && number <= max))
        bl__field_fail(f, name, "found %g, expected %g to %g", number, min, max);
    return f->failed ? absent : number;
}

int64_t bl__field_integer(bl__fields *f, const char *name, int64_t min, int64_t max,
                          int64_t absent) {
    const json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return absent;
    /* 3.0 is what some languages make of 3. */
    double real = json_is_real(value) ? json_real_value(value) : 0;
    int64_t number = json_is_real(value) && fabs(real) < 9e15 && real == floor(real)
                         ? (int64_t)real
                         : json_integer_value(value);
    if (!json_is_number(value) || (json_is_real(value) && (double)number != real))
        fail_type(f, name, value, "a whole number");
    else if (number < min || number > max)
        bl__field_fail(f, name, "found %lld, expected %lld to %lld", (long long)number,
                       (long long)min, (long long)max);
    return f->failed ? absent : number;
}

const char *bl__field_string(bl__fields *f, const char *name, const char *absent) {
    const json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return absent;
    if (!json_is_string(value))
        fail_type(f, name, value, "a string");
    return f->failed ? absent : json_string_value(value);
}

json_t *bl__field_object(bl__fields *f, const char *name) {
    json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return NULL;
    if (!json_is_object(value))
        fail_type(f, name, value, "an object");
    return f->failed ? NULL : value;
}

json_t *bl__field_array(bl__fields *f, const char *name) {
    json_t *value = bl__field(f, name);
    if (f->failed || !value)
        return NULL;
    if (!json_is_array(value))
        fail_type(f, name, value, "an array");
    return f->failed ? NULL : value;
}
