/* Lines from a person at a terminal (edited, with history, where libedit is built in) or from a
 * pipe. Prompts go to stderr. */
#ifndef BL_APPS_LINE_H
#define BL_APPS_LINE_H

#include <stdbool.h>

#include "base/buffer.h"

typedef struct line_reader line_reader;

typedef enum line_result {
    LINE_OK,
    LINE_END,         /* end of file, Ctrl-D */
    LINE_INTERRUPTED, /* Ctrl-C */
    LINE_FAILED,      /* no memory, or a line beyond the buffer's cap */
} line_result;

/* Reads from standard input. NULL when memory is short. */
line_reader *line_reader_open(void);
void line_reader_close(line_reader *reader);
bool line_reader_is_terminal(const line_reader *reader);

/* Reads one message into the empty buffer: a line, lines joined where each but the last ends with
 * a backslash, or all lines between two of """. */
line_result line_reader_read(line_reader *reader, bl__buffer *message);

#endif
