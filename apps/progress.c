/* Owns the progress line of long work on text. */
#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#include "terminal.h"

progress progress_start(bool wanted) {
    return (progress){.start = seconds_now(), .is_shown = wanted && isatty(STDERR_FILENO)};
}

static const char *format_amount(const progress *p, double amount) {
    static char texts[3][48];
    static unsigned last;
    if (!p->unit)
        return format_bytes(amount);
    char *text = texts[last++ % 3];
    snprintf(text, sizeof texts[0], "%.0f %s", amount, p->unit);
    return text;
}

bool progress_show(void *user, uint64_t n_done, uint64_t n) {
    progress *p = user;
    double now = seconds_now();
    if (p->is_shown && now - p->shown_at > 0.1) {
        double spent = now - p->start;
        double speed = spent > 0 ? (double)n_done / spent : 0;
        double left = speed > 0 ? (double)(n - n_done) / speed : 0;
        fprintf(stderr, "\r%s of %s, %.0f %%, %s/s, %.0f s left \033[K",
                format_amount(p, (double)n_done), format_amount(p, (double)n),
                n ? 100.0 * (double)n_done / (double)n : 100.0, format_amount(p, speed), left);
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
