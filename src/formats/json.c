/* Owns the way into jansson. The caps are held before it sees the text, since it allocates some
 * hundred bytes for the two of an empty array. */
#include "formats/json.h"

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

enum { MAX_TEXT = 100000000 /* of what is written */ };

/* Walks the text without judging its grammar: every value but the last of its object or array is
 * followed by a comma, colon or closing bracket, so counting those bounds the values. */
static bl_status check_limits(const char *text, size_t len, bl__json_limits limits, bl_error *err) {
    size_t depth = 0, values = 1;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            values++;
            if (++depth > limits.depth)
                return bl__fail(err, BL_ERR_LIMIT, "JSON nested deeper than %zu at byte %zu",
                                limits.depth, i);
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        } else if (c == ',' || c == ':') {
            values++;
        }
        if (values > limits.values)
            return bl__fail(err, BL_ERR_LIMIT, "JSON of more than %zu values", limits.values);
    }
    return BL_OK;
}

bl_status bl__json_parse(const char *text, size_t len, bl__json_limits limits, json_t **out,
                         bl_error *err) {
    json_error_t problem = {0};
    bl_status status = check_limits(text, len, limits, err);
    if (status)
        return status;
    size_t flags = JSON_REJECT_DUPLICATES | (limits.as_reals ? JSON_DECODE_INT_AS_REAL : 0);
    json_t *root = json_loadb(text, len, flags, &problem);
    if (root) {
        *out = root;
        return BL_OK;
    }
    /* Most of jansson's allocation failures come without a text. */
    if (problem.text[0] == '\0' || json_error_code(&problem) == json_error_out_of_memory)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate for %zu bytes of JSON", len);
    return bl__fail(err, BL_ERR_FORMAT, "JSON, line %d, column %d: %s", problem.line,
                    problem.column, problem.text);
}

bl_status bl__json_read(const char *path, size_t max_bytes, bl__json_limits limits, json_t **out,
                        bl_error *err) {
    char *text;
    size_t len;
    bl_status status = bl__file_read(path, max_bytes, &text, &len, err);
    if (status)
        return status;
    status = bl__json_parse(text, len, limits, out, err);
    if (status)
        bl__error_prefix(err, path);
    bl__free(text);
    return status;
}

const char *bl__json_type_name(const json_t *value) {
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static int append_text(const char *text, size_t len, void *buffer) {
    return bl__buffer_append(buffer, text, len) ? 0 : -1;
}

char *bl__json_write(const json_t *value, size_t flags, size_t *len) {
    bl__buffer text = bl__buffer_make(MAX_TEXT);
    char *out = NULL;
    if (json_dump_callback(value, append_text, &text, flags) == 0)
        out = bl__buffer_take(&text, len);
    bl__buffer_free(&text);
    return out;
}
