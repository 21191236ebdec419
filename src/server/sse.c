/* Owns the form of events. JSON as jansson writes it has no line breaks, so each is one line. */
#include "server/sse.h"

static int append_text(const char *text, size_t len, void *user) {
    return bl__buffer_append(user, text, len) ? 0 : -1;
}

void bl__sse_data(bl__buffer *out, json_t *value) {
    bl__buffer_puts(out, "data: ");
    if (!value || json_dump_callback(value, append_text, out, JSON_COMPACT))
        out->failed = true;
    bl__buffer_puts(out, "\n\n");
    json_decref(value);
}

void bl__sse_event(bl__buffer *out, const char *name, json_t *value) {
    bl__buffer_printf(out, "event: %s\n", name);
    bl__sse_data(out, value);
}

void bl__sse_done(bl__buffer *out) {
    bl__buffer_puts(out, "data: [DONE]\n\n");
}
