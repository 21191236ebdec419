/* Owns standard streams, signals and colours. */
#include "terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupts;
static volatile sig_atomic_t interrupt_patience;
static int output_errno;

static bool is_control(char c) {
    return (unsigned char)c < 0x20 || c == 0x7f;
}

void terminal_start(void) {
    signal(SIGPIPE, SIG_IGN);
}

static void on_interrupt(int number) {
    interrupts = interrupts + 1;
    if (interrupts >= interrupt_patience) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void interrupts_catch(int patience) {
    interrupt_patience = patience;
    /* No SA_RESTART: a read that waits for the keyboard must return. */
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void terminations_catch(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
}

bool interrupts_seen(void) {
    return interrupts > 0;
}

void interrupts_clear(void) {
    interrupts = 0;
}

bool wait_for_input(void) {
    /* The signal is let in only while waiting: between a test of the flag and a plain read it would
     * be lost until the next key. */
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, &before);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    while (!interrupts_seen() && ppoll(&input, 1, NULL, &before) < 0 && errno == EINTR) {
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return !interrupts_seen();
}

bool output_write(const char *text, size_t len) {
    /* Past stdio, which cannot say how much it wrote before a Ctrl-C cut it short. */
    while (!output_errno && len > 0) {
        ssize_t n = write(STDOUT_FILENO, text, len);
        if (n >= 0) {
            text += n;
            len -= (size_t)n;
        } else if (errno != EINTR) {
            output_errno = errno;
        }
    }
    return output_errno == 0;
}

bool output_text(const char *text, size_t len) {
    static int is_terminal = -1;
    if (is_terminal < 0)
        is_terminal = isatty(STDOUT_FILENO);
    if (!is_terminal)
        return output_write(text, len);
    while (len > 0) {
        size_t n = 0;
        while (n < len && (!is_control(text[n]) || text[n] == '\n' || text[n] == '\t'))
            n++;
        if (n == 0 ? !output_write("?", 1) : !output_write(text, n))
            return false;
        n = n ? n : 1;
        text += n;
        len -= n;
    }
    return true;
}

int output_finish(int status) {
    if (!output_errno && (fflush(stdout) != 0 || ferror(stdout)))
        output_errno = errno ? errno : EIO;
    if (!output_errno)
        return status;
    if (output_errno == EPIPE)
        return status == EXIT_SUCCESS ? EXIT_PIPE : status;
    fprintf(stderr, "bitloom: standard output: %s\n", strerror(output_errno));
    return status == EXIT_SUCCESS ? EXIT_FAILURE : status;
}

static bool has_style(int fd) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fd) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

const char *bold_on(int fd) {
    return has_style(fd) ? "\033[1m" : "";
}

const char *style_off(int fd) {
    return has_style(fd) ? "\033[0m" : "";
}

void note(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if (is_control(*c) && *c != '\n')
            *c = '?';
    fprintf(stderr, "%s%s%s\n", has_style(STDERR_FILENO) ? "\033[2m" : "", text,
            style_off(STDERR_FILENO));
}

int fail_with(const char *command_name, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "bitloom %s: ", command_name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_FAILURE;
}

int fail_error(const char *command_name, const bl_error *err) {
    return fail_with(command_name, "%s", err->message);
}

const char *format_bytes(double bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    static char texts[8][32];
    static unsigned next;
    char *text = texts[next++ % 8];
    size_t unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++)
        bytes /= 1024;
    snprintf(text, sizeof texts[0], unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
