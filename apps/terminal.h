/* The program's standard streams and signals: text to stdout, everything else to stderr, Ctrl-C as
 * a flag that is asked. */
#ifndef BL_APPS_TERMINAL_H
#define BL_APPS_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

/* Documented in bitloom(1). EXIT_SUCCESS and EXIT_FAILURE come from stdlib.h. */
enum {
    EXIT_USAGE = 2,         /* the command line is wrong; nothing was done */
    EXIT_INTERRUPTED = 130, /* Ctrl-C, as shells count it */
    EXIT_PIPE = 141,        /* the reader of our output went away, as shells count it */
};

/* Called once, first: a reader that goes away is an error of write, not a signal. */
void terminal_start(void);

/* From now on Ctrl-C sets a flag; the one that makes `patience` unanswered ones kills the program.
 */
void interrupts_catch(int patience);
/* Counts SIGTERM, which systems send before they stop a job, as an interrupt too. */
void terminations_catch(void);
bool interrupts_seen(void);
void interrupts_clear(void);
/* Waits until standard input can be read, or has ended; false on Ctrl-C, also one from before. */
bool wait_for_input(void);

/* Writes to stdout at once; false once any write has failed. */
bool output_write(const char *text, size_t len);
/* The same for text of a model: on a terminal, control characters that could steer it become '?'.
 */
bool output_text(const char *text, size_t len);
/* Flushes stdout. Returns status, or what a failed write makes of a success. */
int output_finish(int status);

/* Prints a line to stderr, dimmed on a terminal; control characters (names in files) become '?'. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints "bitloom COMMAND: message" to stderr; returns EXIT_FAILURE. */
int fail_with(const char *command_name, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int fail_error(const char *command_name, const bl_error *err);

/* Escape sequences for the stream, or "" when it is no terminal or NO_COLOR is set. */
const char *bold_on(int fd);
const char *style_off(int fd);

/* "1.5 GiB"; the text is in a static buffer that the eighth next call reuses. */
const char *format_bytes(double bytes);
double seconds_now(void); /* since some moment in the past */

#endif
