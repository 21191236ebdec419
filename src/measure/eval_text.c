/* Owns what HellaSwag's texts go through before they are asked about. Must not know items. */
#include <string.h>

#include "measure/eval_set.h"
#include "tokenizer/jinja_text.h"

bool bl__eval_append_capitalized(bl__buffer *buffer, const char *text, size_t len) {
    for (size_t i = 0, n; i < len; i += n) {
        char out[JINJA_UTF8_MAX];
        uint32_t code;
        n = bl__jinja_decode(text + i, len - i, &code);
        code = i ? bl__jinja_to_lower(code) : bl__jinja_to_title(code);
        if (!bl__buffer_append(buffer, out, bl__jinja_encode(code, out)))
            return false;
    }
    return true;
}

/* Puts `to`, which is not longer, in place of each `from`. */
static size_t replace(char *text, size_t len, const char *from, const char *to) {
    size_t n_from = strlen(from), n_to = strlen(to), out = 0;
    for (size_t i = 0; i < len;) {
        if (len - i >= n_from && memcmp(text + i, from, n_from) == 0) {
            memcpy(text + out, to, n_to);
            out += n_to;
            i += n_from;
        } else {
            text[out++] = text[i++];
        }
    }
    return out;
}

/* Drops each [...] that ends on its line. */
static size_t drop_brackets(char *text, size_t len) {
    size_t out = 0;
    for (size_t i = 0; i < len;) {
        const char *line_end = memchr(text + i, '\n', len - i);
        size_t left = line_end ? (size_t)(line_end - text) - i : len - i;
        const char *close = text[i] == '[' ? memchr(text + i, ']', left) : NULL;
        if (close)
            i = (size_t)(close - text) + 1;
        else
            text[out++] = text[i++];
    }
    return out;
}

size_t bl__eval_clean(char *text, size_t len) {
    const char *kept = text;
    bl__jinja_trim(&kept, &len, true, true);
    memmove(text, kept, len);
    len = replace(text, len, " [title]", ". ");
    len = drop_brackets(text, len);
    return replace(text, len, "  ", " ");
}
