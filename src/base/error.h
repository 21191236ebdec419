/* Filling bl_error values. Knows nothing of what failed. */
#ifndef BL_BASE_ERROR_H
#define BL_BASE_ERROR_H

#include "bitloom/status.h"

/* Writes code and message to err (when not NULL) and returns code, so that a function can end with
 * `return bl__fail(err, BL_ERR_FORMAT, "...")`. Control characters in the result become '?', so
 * that a hostile name in a file cannot steer a terminal; longer messages are cut. */
bl_status bl__fail(bl_error *err, bl_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message of an error that has just been filled. */
void bl__error_prefix(bl_error *err, const char *prefix);

#endif
