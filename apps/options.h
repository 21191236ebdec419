/* Command lines, driven by tables: parsing, help and the spelling of errors come from the same
 * rows, so they cannot drift apart. Knows nothing of what the options mean. */
#ifndef BL_APPS_OPTIONS_H
#define BL_APPS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPTION_LIST_MAX = 16 };

/* What a row's target holds. */
typedef enum option_kind {
    OPTION_FLAG,    /* bool, set to true */
    OPTION_TEXT,    /* const char *, borrowed from argv */
    OPTION_CHOICE,  /* const char *, one of the row's choices */
    OPTION_INTEGER, /* int64_t in min ... max */
    OPTION_NUMBER,  /* double in min ... max; a min of DBL_MIN means "above 0" */
    OPTION_LIST,    /* option_list; the option may be repeated */
} option_kind;

typedef struct option_list {
    const char *items[OPTION_LIST_MAX];
    size_t n;
} option_list;

typedef struct option {
    char letter;       /* "-m"; 0 = none */
    const char *name;  /* "model" for --model */
    const char *alias; /* a second spelling, dashes included, such as "-temp"; or NULL */
    option_kind kind;
    const char *value; /* what help calls the value: "FILE"; NULL for flags */
    size_t offset;     /* of the target, from the group's base */
    double min, max;
    const char *choices; /* separated by spaces */
    const char *help;
} option;

typedef struct option_group {
    const char *title;
    const option *options; /* [n] */
    size_t n;
    size_t base; /* offset of the group's targets in the command's settings */
} option_group;

typedef struct command {
    const char *name;
    const char *summary;  /* one line for the list of commands */
    const char *operands; /* "INPUT" for help; NULL when the command takes none */
    size_t min_operands, max_operands;
    const char *description;    /* paragraphs for help */
    const char *examples;       /* lines for help */
    const option_group *groups; /* [n_groups] */
    size_t n_groups;
    int (*run)(int argc, char **argv); /* argv[0] = the command's name; returns an exit status */
} command;

typedef enum parse_result {
    PARSE_OK,
    PARSE_HELP, /* help was asked for and printed to stdout */
    PARSE_BAD,  /* the complaint was printed to stderr */
} parse_result;

/* Fills settings (set to the defaults by the caller) and operands[max_operands]. */
parse_result options_parse(const command *cmd, int argc, char **argv, void *settings,
                           const char **operands);
/* Prints a complaint with the command's name and how to get help; returns EXIT_USAGE. */
int options_complain(const command *cmd, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void options_help(const command *cmd);

/* The one of names[n] that is spelt most like `word`, or NULL when none is near. */
const char *nearest_name(const char *word, const char *const *names, size_t n);

#endif
