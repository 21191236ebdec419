/* Owns `bitloom info`: what this machine and this build can do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

typedef struct info_settings {
    bool json;
} info_settings;

static const option OPTIONS[] = {{0, "json", NULL, OPTION_FLAG, NULL, offsetof(info_settings, json),
                                  0, 0, NULL, "print one JSON object"}};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

#ifdef BITLOOM_HAVE_EDIT
static const bool HAS_EDIT = true;
#else
static const bool HAS_EDIT = false;
#endif

static json_t *words_to_array(const char *words) {
    json_t *array = json_array();
    for (const char *at = words + strspn(words, " "); *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        json_array_append_new(array, json_stringn(at, n));
        at += n;
    }
    return array;
}

static int print_json(void) {
    const char *mpi = bl_train_mpi(NULL);
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:I, s:s, s:o, s:b, s:s?}", "version", bl_version(), "cpu",
                  bl_cpu_name(), "features", words_to_array(bl_cpu_features()), "physical_cores",
                  (json_int_t)bl_cpu_physical_cores(), "kernel", bl_kernel_level(), "kernels",
                  words_to_array(bl_kernel_levels()), "line_editing", HAS_EDIT, "mpi", mpi);
    if (!object)
        return fail_with("info", "out of memory");
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

/* Whether the word is one of those separated by spaces. */
static bool has_word(const char *words, const char *word) {
    size_t len = strlen(word);
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static int run(int argc, char **argv) {
    info_settings s = {0};
    switch (options_parse(&INFO_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (s.json)
        return print_json();
    const char *cap = getenv("BITLOOM_CPU");
    printf("bitloom         %s\n", bl_version());
    printf("CPU             %s\n", *bl_cpu_name() ? bl_cpu_name() : "unknown");
    printf("features        %s\n", *bl_cpu_features() ? bl_cpu_features() : "none that matter");
    printf("physical cores  %u usable\n", bl_cpu_physical_cores());
    printf("kernels         %s\n", bl_kernel_levels());
    printf("in use          %s", bl_kernel_level());
    if (cap && *cap)
        printf(has_word(bl_kernel_levels(), cap) ? " (BITLOOM_CPU=%s)"
                                                 : " (BITLOOM_CPU=%s is not in the list above)",
               cap);
    putchar('\n');
    printf("line editing    %s\n", HAS_EDIT ? "libedit" : "not built in (libedit was missing)");
    bl_error why = {0};
    const char *mpi = bl_train_mpi(&why);
    printf("MPI             %s\n", mpi ? mpi : why.message);
    return EXIT_SUCCESS;
}

const command INFO_COMMAND = {
    .name = "info",
    .summary = "show the CPU, the kernels chosen for it and the build",
    .description =
        "Shows what matters for speed on this machine. The environment variable BITLOOM_CPU caps\n"
        "the kernels at a level of the list, for comparison; results do not change with it.",
    .examples = "  bitloom info\n"
                "  BITLOOM_CPU=ref bitloom info\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
