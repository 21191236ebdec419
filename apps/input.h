/* Bytes that users hand in: files, pipes, escapes. */
#ifndef BL_APPS_INPUT_H
#define BL_APPS_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

/* Reads a file, or standard input for "-", of at most 1 GiB. *data is allocated (bl__free) and
 * NUL-terminated; the NUL is not counted. BL_ERR_CANCELLED when Ctrl-C came in between. */
bl_status read_input(const char *path, char **data, size_t *len, bl_error *err);

/* Replaces \n \t \r \\ \" \' \0 and \xHH in place; an unknown escape stays as it is. */
void unescape(char *text, size_t *len);

#endif
