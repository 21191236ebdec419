/* A line on standard error that says how far long work on text is. */
#ifndef BL_APPS_PROGRESS_H
#define BL_APPS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    double start, shown_at;
    bool is_shown;
    const char *unit; /* "tokens"; NULL: bytes */
} progress;

/* Shows nothing unless `wanted` and standard error is a terminal. */
progress progress_start(bool wanted);
/* A bl_data_progress: share, rate, time left; false after Ctrl-C. user: a progress. */
bool progress_show(void *user, uint64_t n_done, uint64_t n);
/* Clears the line; returns the seconds since the start. */
double progress_end(progress *p);

#endif
