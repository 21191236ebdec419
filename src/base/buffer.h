/* A byte buffer that grows up to a named cap. An append that fails (no memory, cap reached) sets
 * `failed` and changes nothing; later appends do nothing, so callers may check once at the end. */
#ifndef BL_BASE_BUFFER_H
#define BL_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bl__buffer {
    char *data; /* always followed by a NUL byte once anything was appended */
    size_t len, cap, max;
    bool failed;    /* some append failed ... */
    bool too_large; /* ... because of max, not of memory */
} bl__buffer;

static inline bl__buffer bl__buffer_make(size_t max) {
    return (bl__buffer){.max = max};
}
void bl__buffer_free(bl__buffer *buffer);

bool bl__buffer_append(bl__buffer *buffer, const void *data, size_t len);
bool bl__buffer_puts(bl__buffer *buffer, const char *text);
bool bl__buffer_putc(bl__buffer *buffer, char c);
bool bl__buffer_printf(bl__buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Makes room for `extra` more bytes, so that the next appends cannot fail. */
bool bl__buffer_reserve(bl__buffer *buffer, size_t extra);
/* Hands the bytes to the caller (release with bl__free) and empties the buffer. NULL on failure;
 * an empty buffer gives an empty string. */
char *bl__buffer_take(bl__buffer *buffer, size_t *len);

#endif
