/* Owns growing bytes. Must not know their meaning. */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

enum { FIRST_CAPACITY = 256 };

void bl__buffer_free(bl__buffer *buffer) {
    bl__free(buffer->data);
    *buffer = (bl__buffer){.max = buffer->max};
}

bool bl__buffer_reserve(bl__buffer *buffer, size_t extra) {
    size_t need;
    if (buffer->failed)
        return false;
    if (!bl__add_size(buffer->len, extra, &need) || need > buffer->max ||
        !bl__add_size(need, 1, &need)) {
        buffer->failed = buffer->too_large = true;
        return false;
    }
    if (need <= buffer->cap)
        return true;
    size_t cap = buffer->cap ? buffer->cap : FIRST_CAPACITY;
    while (cap < need)
        if (!bl__mul_size(cap, 2, &cap))
            cap = need;
    char *data = bl__realloc(buffer->data, cap);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->cap = cap;
    return true;
}

bool bl__buffer_append(bl__buffer *buffer, const void *data, size_t len) {
    if (!bl__buffer_reserve(buffer, len))
        return false;
    if (len)
        memcpy(buffer->data + buffer->len, data, len);
    buffer->len += len;
    buffer->data[buffer->len] = '\0';
    return true;
}

bool bl__buffer_puts(bl__buffer *buffer, const char *text) {
    return bl__buffer_append(buffer, text, strlen(text));
}

bool bl__buffer_putc(bl__buffer *buffer, char c) {
    return bl__buffer_append(buffer, &c, 1);
}

bool bl__buffer_printf(bl__buffer *buffer, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0) {
        buffer->failed = true;
        return false;
    }
    if (!bl__buffer_reserve(buffer, (size_t)len))
        return false;
    va_start(args, format);
    vsnprintf(buffer->data + buffer->len, (size_t)len + 1, format, args);
    va_end(args);
    buffer->len += (size_t)len;
    return true;
}

char *bl__buffer_take(bl__buffer *buffer, size_t *len) {
    if (!bl__buffer_append(buffer, "", 0))
        return NULL;
    char *data = buffer->data;
    if (len)
        *len = buffer->len;
    *buffer = (bl__buffer){.max = buffer->max};
    return data;
}
