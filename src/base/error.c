/* Owns the text of errors. Must not know where they come from. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bl_status_text(bl_status status) {
    switch (status) {
#define BL_STATUS_CASE(name, value, text)                                                          \
    case BL_##name:                                                                                \
        return text;
        BL_STATUS_LIST(BL_STATUS_CASE)
#undef BL_STATUS_CASE
    }
    return "unknown status";
}

/* Bytes from 0x80 up stay: names in files are often UTF-8. */
static void blank_control_characters(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

bl_status bl__fail(bl_error *err, bl_status code, const char *format, ...) {
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    err->code = code;
    blank_control_characters(err->message);
    return code;
}

void bl__error_prefix(bl_error *err, const char *prefix) {
    if (!err)
        return;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    int at = snprintf(err->message, sizeof err->message, "%.100s: ", prefix);
    snprintf(err->message + at, sizeof err->message - (size_t)at, "%s", old);
    blank_control_characters(err->message);
}
