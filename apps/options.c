/* Owns the parsing of command lines and the layout of help. */
#include "options.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "terminal.h"

enum { HELP_COLUMN = 30, HELP_WIDTH = 90, MAX_NAMES = 128 };

static const option HELP_OPTION = {
    .letter = 'h', .name = "help", .kind = OPTION_FLAG, .help = "print this help and exit"};

int options_complain(const command *cmd, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "bitloom %s: ", cmd->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\ntry: bitloom help %s\n", cmd->name);
    va_end(args);
    return EXIT_USAGE;
}

/* Edit distance with insertions, deletions and replacements, cut off for long words. */
static size_t edit_distance(const char *a, const char *b) {
    enum { LONGEST = 31 };
    size_t row[LONGEST + 1], n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
        }
    }
    return row[m];
}

const char *nearest_name(const char *word, const char *const *names, size_t n) {
    const char *nearest = NULL;
    size_t least = strlen(word) < 3 ? 2 : 3; /* distances must stay below this */
    for (size_t i = 0; i < n; i++) {
        size_t distance = edit_distance(word, names[i]);
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

/* One option of a command line, found in the tables. */
typedef struct match {
    const option *row;
    char *target;
    const char *attached; /* value in the same argument, or NULL */
} match;

static bool matches_long(const option *row, const char *arg, size_t len) {
    if (len > 2 && arg[0] == '-' && arg[1] == '-' && strlen(row->name) == len - 2 &&
        memcmp(row->name, arg + 2, len - 2) == 0)
        return true;
    return row->alias && strlen(row->alias) == len && memcmp(row->alias, arg, len) == 0;
}

/* "-n", "-n=5" or "-n5"; only numbers may follow closely, else -model would be -m odel. */
static bool matches_letter(const option *row, const char *arg) {
    bool is_numeric = row->kind == OPTION_INTEGER || row->kind == OPTION_NUMBER;
    return arg[1] == row->letter && (arg[2] == '\0' || arg[2] == '=' || is_numeric);
}

/* Long names and aliases go before letters with an attached value: -temp is not -t emp. */
static bool find_option(const command *cmd, const char *arg, void *settings, match *out) {
    size_t len = strcspn(arg, "=");
    const char *attached = arg[len] ? arg + len + 1 : NULL;
    for (int letters = 0; letters <= 1; letters++)
        for (size_t g = 0; g < cmd->n_groups; g++)
            for (size_t i = 0; i < cmd->groups[g].n; i++) {
                const option *row = &cmd->groups[g].options[i];
                char *target = (char *)settings + cmd->groups[g].base + row->offset;
                if (!letters && matches_long(row, arg, len)) {
                    *out = (match){row, target, attached};
                    return true;
                }
                if (letters && row->letter && matches_letter(row, arg)) {
                    const char *rest = arg + 2 + (arg[2] == '=');
                    *out = (match){row, target, *rest ? rest : NULL};
                    return true;
                }
            }
    return false;
}

static int complain_unknown(const command *cmd, const char *arg) {
    const char *names[MAX_NAMES];
    size_t n = 0;
    for (size_t g = 0; g < cmd->n_groups; g++)
        for (size_t i = 0; i < cmd->groups[g].n && n < MAX_NAMES; i++)
            names[n++] = cmd->groups[g].options[i].name;
    char word[32];
    size_t dashes = strspn(arg, "-");
    snprintf(word, sizeof word, "%.*s", (int)strcspn(arg + dashes, "="), arg + dashes);
    const char *nearest = nearest_name(word, names, n);
    if (nearest)
        return options_complain(cmd, "unknown option %s; did you mean --%s?", arg, nearest);
    return options_complain(cmd, "unknown option %s", arg);
}

static bool parse_integer(const command *cmd, const option *row, const char *text, char *target) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno == ERANGE || (double)value < row->min ||
        (double)value > row->max) {
        options_complain(cmd, "--%s: found \"%s\", expected a whole number from %.0f to %.0f",
                         row->name, text, row->min, row->max);
        return false;
    }
    *(int64_t *)(void *)target = value;
    return true;
}

static bool parse_number(const command *cmd, const option *row, const char *text, char *target) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= row->min && value <= row->max)) {
        if (row->min == DBL_MIN)
            options_complain(cmd, "--%s: found \"%s\", expected a number above 0, at most %g",
                             row->name, text, row->max);
        else
            options_complain(cmd, "--%s: found \"%s\", expected a number from %g to %g", row->name,
                             text, row->min, row->max);
        return false;
    }
    *(double *)(void *)target = value;
    return true;
}

static bool is_choice(const char *choices, const char *text) {
    size_t len = strlen(text);
    for (const char *at = choices; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, text, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static bool set_value(const command *cmd, const option *row, const char *text, char *target) {
    option_list *list = (option_list *)(void *)target;
    switch (row->kind) {
    case OPTION_INTEGER:
        return parse_integer(cmd, row, text, target);
    case OPTION_NUMBER:
        return parse_number(cmd, row, text, target);
    case OPTION_CHOICE:
        if (!is_choice(row->choices, text)) {
            options_complain(cmd, "--%s: found \"%s\", expected one of: %s", row->name, text,
                             row->choices);
            return false;
        }
        break;
    case OPTION_LIST:
        if (list->n == OPTION_LIST_MAX) {
            options_complain(cmd, "--%s: given more than %d times", row->name, OPTION_LIST_MAX);
            return false;
        }
        list->items[list->n++] = text;
        return true;
    case OPTION_TEXT:
    case OPTION_FLAG:
        break;
    }
    *(const char **)(void *)target = text;
    return true;
}

/* Handles the option at argv[*at], advancing *at over a value of its own. */
static bool parse_option(const command *cmd, int argc, char **argv, int *at, void *settings) {
    const char *arg = argv[*at];
    match found, other;
    if (!find_option(cmd, arg, settings, &found)) {
        complain_unknown(cmd, arg);
        return false;
    }
    if (found.row->kind == OPTION_FLAG) {
        if (found.attached) {
            options_complain(cmd, "--%s takes no value, found \"%s\"", found.row->name,
                             found.attached);
            return false;
        }
        *(bool *)(void *)found.target = true;
        return true;
    }
    const char *value = found.attached;
    if (!value) {
        if (*at + 1 == argc) {
            options_complain(cmd, "%s: a value is missing (%s)", arg, found.row->value);
            return false;
        }
        value = argv[++*at];
        /* A value may begin with a dash, but hardly be spelt as a long option is. */
        if (strncmp(value, "--", 2) == 0 && find_option(cmd, value, settings, &other)) {
            options_complain(cmd, "%s: a value is missing (%s), found the option %s", arg,
                             found.row->value, value);
            return false;
        }
    }
    return set_value(cmd, found.row, value, found.target);
}

parse_result options_parse(const command *cmd, int argc, char **argv, void *settings,
                           const char **operands) {
    size_t n_operands = 0;
    bool only_operands = false;
    for (int at = 1; at < argc; at++) {
        const char *arg = argv[at];
        if (!only_operands && strcmp(arg, "--") == 0) {
            only_operands = true;
        } else if (!only_operands && (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0)) {
            options_help(cmd);
            return PARSE_HELP;
        } else if (!only_operands && arg[0] == '-' && arg[1]) {
            if (!parse_option(cmd, argc, argv, &at, settings))
                return PARSE_BAD;
        } else if (n_operands == cmd->max_operands) {
            options_complain(cmd, "unexpected argument \"%s\"", arg);
            return PARSE_BAD;
        } else {
            operands[n_operands++] = arg;
        }
    }
    if (n_operands < cmd->min_operands) {
        options_complain(cmd, "%s is missing", cmd->operands);
        return PARSE_BAD;
    }
    return PARSE_OK;
}

/* Prints words from `column` on, wrapped, with later lines indented as far. */
static void print_wrapped(const char *text, int column) {
    int at = column;
    bool first = true;
    while (*text) {
        int len = (int)strcspn(text, " ");
        if (!first && at + 1 + len > HELP_WIDTH) {
            printf("\n%*s", column, "");
            at = column;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", len, text);
        at += len + !first;
        first = false;
        text += len;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(const option *row) {
    char left[96];
    int n = row->letter ? snprintf(left, sizeof left, "  -%c, --%s", row->letter, row->name)
                        : snprintf(left, sizeof left, "      --%s", row->name);
    if (row->alias)
        n += snprintf(left + n, sizeof left - (size_t)n, ", %s", row->alias);
    if (row->value)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", row->value);
    if (n < HELP_COLUMN - 1)
        printf("%-*s", HELP_COLUMN, left);
    else
        printf("%s\n%*s", left, HELP_COLUMN, "");
    print_wrapped(row->help, HELP_COLUMN);
    if (row->choices) {
        printf("%*s", HELP_COLUMN, "");
        print_wrapped(row->choices, HELP_COLUMN);
    }
}

void options_help(const command *cmd) {
    printf("usage: bitloom %s%s%s [options]\n\n%s\n", cmd->name, cmd->operands ? " " : "",
           cmd->operands ? cmd->operands : "", cmd->description);
    for (size_t g = 0; g < cmd->n_groups; g++) {
        printf("\n%s\n", cmd->groups[g].title);
        for (size_t i = 0; i < cmd->groups[g].n; i++)
            print_option(&cmd->groups[g].options[i]);
    }
    if (cmd->n_groups == 0)
        putchar('\n');
    print_option(&HELP_OPTION);
    printf("\nEXAMPLES\n%s", cmd->examples);
}
