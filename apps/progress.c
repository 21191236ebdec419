/* Owns the progress line of passes over text. */
#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#include "terminal.h"

progress progress_start(bool wanted) {
    return (progress){.start = seconds_now(), .is_shown = wanted && isatty(STDERR_FILENO)};
}

bool progress_show(void *user, uint64_t bytes_done, uint64_t n_bytes) {
    progress *p = user;
    double now = seconds_now();
    if (p->is_shown && now - p->shown_at > 0.1) {
        double spent = now - p->start;
        double speed = spent > 0 ? (double)bytes_done / spent : 0;
        double left = speed > 0 ? (double)(n_bytes - bytes_done) / speed : 0;
        fprintf(stderr, "\r%s of %s, %.0f %%, %s/s, %.0f s left \033[K",
                format_bytes((double)bytes_done), format_bytes((double)n_bytes),
                n_bytes ? 100.0 * (double)bytes_done / (double)n_bytes : 100.0, format_bytes(speed),
                left);
        p->shown_at = now;
    }
    return !interrupts_seen();
}

double progress_end(progress *p) {
    if (p->is_shown)
        fputs("\r\033[K", stderr);
    p->is_shown = false;
    return seconds_now() - p->start;
}
