/* Status codes and error values.
 *
 * Every function that can fail returns a bl_status and takes a `bl_error *` that belongs to the
 * caller and may be NULL. On failure the message says what, where, found and expected. On success
 * the error is left untouched. Thread rule: a bl_error belongs to one thread at a time. */
#ifndef BITLOOM_STATUS_H
#define BITLOOM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, text). Values are part of the ABI: never renumber, only append. */
#define BL_STATUS_LIST(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(ERR_ARGUMENT, 1, "invalid argument")                                                         \
    X(ERR_MEMORY, 2, "out of memory")                                                              \
    X(ERR_IO, 3, "input/output error")                                                             \
    X(ERR_FORMAT, 4, "malformed input")                                                            \
    X(ERR_UNSUPPORTED, 5, "unsupported")                                                           \
    X(ERR_LIMIT, 6, "limit exceeded")                                                              \
    X(ERR_NOT_FOUND, 7, "not found")                                                               \
    X(ERR_CONTEXT_FULL, 8, "context full")                                                         \
    X(ERR_CANCELLED, 9, "cancelled")

typedef enum bl_status {
#define BL_STATUS_ENUM(name, value, text) BL_##name = (value),
    BL_STATUS_LIST(BL_STATUS_ENUM)
#undef BL_STATUS_ENUM
} bl_status;

typedef struct bl_error {
    bl_status code;
    char message[256]; /* NUL-terminated, one line, no trailing newline */
} bl_error;

/* The short English text of a status; "unknown status" for a value outside the list. */
const char *bl_status_text(bl_status status);

/* Frees memory that a library function handed to the caller (ids, text, JSON). NULL is accepted. */
void bl_free(void *memory);

#ifdef __cplusplus
}
#endif
#endif
