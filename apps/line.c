/* Owns reading what a person types. */
#include "line.h"

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#ifdef BITLOOM_HAVE_EDIT
#include <histedit.h>
#endif

#include "base/alloc.h"
#include "base/file.h"
#include "terminal.h"

enum { READ_SIZE = 4096, HISTORY_SIZE = 1000, CTRL_D = 4 };

struct line_reader {
    bool is_terminal;
    const char *prompt;
    /* Plain reading: past stdio, which loses track when Ctrl-C cuts a read short. */
    char bytes[READ_SIZE];
    size_t n_bytes, at;
    bool is_at_end;
#ifdef BITLOOM_HAVE_EDIT
    EditLine *edit; /* NULL when standard input is no terminal */
    History *history;
    char *history_path; /* NULL: not kept */
#endif
};

#ifdef BITLOOM_HAVE_EDIT
static char *show_prompt(EditLine *edit) {
    line_reader *reader = NULL;
    el_get(edit, EL_CLIENTDATA, &reader);
    return (char *)reader->prompt;
}

/* One character from the keyboard: 1, 0 at the end, -1 on Ctrl-C. libedit's own reader would try
 * again after the first Ctrl-C. A Ctrl-D that comes just before the terminal is in the editor's
 * mode arrives as NUL, by which the editor would understand "take the next key as it is". */
static int read_character(EditLine *edit, wchar_t *out) {
    (void)edit;
    char bytes[8];
    for (size_t n = 0; n < sizeof bytes;) {
        if (!wait_for_input())
            return -1;
        ssize_t got = read(STDIN_FILENO, bytes + n, 1);
        if (got <= 0)
            return (int)got;
        n++;
        mbstate_t state = {0};
        size_t used = mbrtowc(out, bytes, n, &state);
        if (used == (size_t)-1)
            n = 0; /* no character begins like this: leave it out */
        else if (used != (size_t)-2) {
            if (*out == L'\0')
                *out = CTRL_D;
            return 1;
        }
    }
    return -1;
}

/* Creates every directory of the path but the last part, as mkdir -p. */
static void make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* $XDG_STATE_HOME/bitloom/history or ~/.local/state/bitloom/history, allocated; NULL if neither. */
static char *find_history(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    if (state && state[0] == '/')
        path = bl__path_join(state, "bitloom/history");
    else if (home && home[0] == '/')
        path = bl__path_join(home, ".local/state/bitloom/history");
    if (path)
        make_parents(path);
    return path;
}

static void start_editing(line_reader *reader) {
    /* The editor needs to know that bytes are UTF-8. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    reader->edit = el_init("bitloom", stdin, stderr, stderr);
    if (!reader->edit)
        return;
    HistEvent event;
    reader->history = history_init();
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_PROMPT, show_prompt);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_set(reader->edit, EL_SIGNAL, 0); /* Ctrl-C is ours */
    el_set(reader->edit, EL_GETCFN, read_character);
    el_source(reader->edit, NULL); /* ~/.editrc */
    if (reader->history) {
        history(reader->history, &event, H_SETSIZE, HISTORY_SIZE);
        history(reader->history, &event, H_SETUNIQUE, 1);
        el_set(reader->edit, EL_HIST, history, reader->history);
        reader->history_path = find_history();
        if (reader->history_path)
            history(reader->history, &event, H_LOAD, reader->history_path);
    }
}

static void remember(line_reader *reader, const char *line) {
    HistEvent event;
    if (!reader->history || line[strspn(line, " \t\r\n")] == '\0')
        return;
    history(reader->history, &event, H_ENTER, line);
    if (reader->history_path)
        history(reader->history, &event, H_SAVE, reader->history_path);
}

static line_result edit_line(line_reader *reader, bl__buffer *line) {
    int count = 0;
    el_resize(reader->edit);
    const char *text = el_gets(reader->edit, &count);
    if (interrupts_seen()) {
        el_reset(reader->edit);
        fputc('\n', stderr);
        return LINE_INTERRUPTED;
    }
    if (!text || count <= 0) {
        fputc('\n', stderr);
        return LINE_END;
    }
    remember(reader, text);
    size_t len = strlen(text);
    if (len > 0 && text[len - 1] == '\n')
        len--;
    return bl__buffer_append(line, text, len) ? LINE_OK : LINE_FAILED;
}
#endif

line_reader *line_reader_open(void) {
    line_reader *reader = bl__calloc(1, sizeof *reader);
    if (!reader)
        return NULL;
    reader->is_terminal = isatty(STDIN_FILENO);
#ifdef BITLOOM_HAVE_EDIT
    if (reader->is_terminal && isatty(STDERR_FILENO))
        start_editing(reader);
#endif
    return reader;
}

void line_reader_close(line_reader *reader) {
    if (!reader)
        return;
#ifdef BITLOOM_HAVE_EDIT
    if (reader->history)
        history_end(reader->history);
    if (reader->edit)
        el_end(reader->edit);
    bl__free(reader->history_path);
#endif
    bl__free(reader);
}

bool line_reader_is_terminal(const line_reader *reader) {
    return reader->is_terminal;
}

/* More bytes of standard input; false at its end and on Ctrl-C. */
static bool fill(line_reader *reader) {
    reader->at = reader->n_bytes = 0;
    if (!wait_for_input())
        return false;
    ssize_t n = read(STDIN_FILENO, reader->bytes, sizeof reader->bytes);
    reader->is_at_end = n <= 0;
    reader->n_bytes = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static line_result plain_line(line_reader *reader, bl__buffer *line) {
    if (reader->is_terminal)
        fputs(reader->prompt, stderr);
    bool any = false;
    for (;;) {
        if (reader->at == reader->n_bytes && (reader->is_at_end || !fill(reader)))
            break;
        any = true;
        const char *from = reader->bytes + reader->at;
        size_t left = reader->n_bytes - reader->at;
        const char *newline = memchr(from, '\n', left);
        size_t n = newline ? (size_t)(newline - from) : left;
        if (!bl__buffer_append(line, from, n))
            return LINE_FAILED;
        reader->at += newline ? n + 1 : n;
        if (newline)
            return LINE_OK;
    }
    if (interrupts_seen()) {
        fputc('\n', stderr);
        return LINE_INTERRUPTED;
    }
    return any ? LINE_OK : LINE_END;
}

static line_result read_line(line_reader *reader, const char *prompt, bl__buffer *line) {
    reader->prompt = prompt;
    line->len = 0;
#ifdef BITLOOM_HAVE_EDIT
    if (reader->edit)
        return edit_line(reader, line);
#endif
    return plain_line(reader, line);
}

static bool ends_with(const bl__buffer *b, const char *end) {
    size_t n = strlen(end);
    return b->len >= n && memcmp(b->data + b->len - n, end, n) == 0;
}

/* Lines up to one that ends with """; `line` holds what followed the opening. */
static line_result read_block(line_reader *reader, bl__buffer *line, bl__buffer *message) {
    for (;;) {
        bool is_last = ends_with(line, "\"\"\"");
        size_t len = line->len - (is_last ? 3 : 0);
        if (!bl__buffer_append(message, line->len ? line->data : "", len))
            return LINE_FAILED;
        if (is_last)
            return LINE_OK;
        /* Nothing before the first line, when the opening stood alone. */
        if (message->len > 0 && !bl__buffer_putc(message, '\n'))
            return LINE_FAILED;
        line_result result = read_line(reader, "... ", line);
        if (result != LINE_OK)
            return result;
    }
}

line_result line_reader_read(line_reader *reader, bl__buffer *message) {
    bl__buffer line = bl__buffer_make(message->max);
    line_result result = read_line(reader, "> ", &line);
    if (result == LINE_OK && line.len >= 3 && memcmp(line.data, "\"\"\"", 3) == 0) {
        memmove(line.data, line.data + 3, line.len - 3);
        line.len -= 3;
        result = read_block(reader, &line, message);
    } else {
        while (result == LINE_OK && ends_with(&line, "\\")) {
            line.data[line.len - 1] = '\n';
            if (!bl__buffer_append(message, line.data, line.len))
                result = LINE_FAILED;
            else
                result = read_line(reader, "... ", &line);
        }
        if (result == LINE_OK && !bl__buffer_append(message, line.len ? line.data : "", line.len))
            result = LINE_FAILED;
    }
    bl__buffer_free(&line);
    return result;
}
