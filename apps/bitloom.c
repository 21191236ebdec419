/* Owns the choice of subcommand. Everything else is in the subcommands' own files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

static const command *const COMMANDS[] = {
    &RUN_COMMAND,     &CHAT_COMMAND,   &SERVE_COMMAND,    &CONVERT_COMMAND,    &COMPRESS_COMMAND,
    &INSPECT_COMMAND, &VERIFY_COMMAND, &TOKENIZE_COMMAND, &DATA_COMMAND,       &TOKENIZER_COMMAND,
    &TRAIN_COMMAND,   &PLOT_COMMAND,   &BENCH_COMMAND,    &PERPLEXITY_COMMAND, &COMPARE_COMMAND,
    &EVAL_COMMAND,    &DUMMY_COMMAND,  &INFO_COMMAND};
enum { N_COMMANDS = sizeof COMMANDS / sizeof *COMMANDS };

static void print_overview(FILE *to) {
    fputs("usage: bitloom COMMAND [options]\n\nRuns 1-bit large language models on ordinary "
          "CPUs.\n\nCommands\n",
          to);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", COMMANDS[i]->name, COMMANDS[i]->summary);
    fputs("  help       explain a command: bitloom help run\n\n"
          "  --version  print the version and exit\n\n"
          "EXAMPLES\n"
          "  bitloom run -p \"Once upon a time\" -n 100\n"
          "  bitloom chat -m model.gguf\n"
          "  bitloom convert ./hf-checkpoint -o model.gguf\n",
          to);
}

static const command *find_command(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(COMMANDS[i]->name, name) == 0)
            return COMMANDS[i];
    return NULL;
}

static int complain_unknown(const char *name) {
    const char *names[N_COMMANDS + 1];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = COMMANDS[i]->name;
    names[N_COMMANDS] = "help";
    const char *nearest = nearest_name(name, names, N_COMMANDS + 1);
    fprintf(stderr, "bitloom: unknown command \"%s\"", name);
    if (nearest)
        fprintf(stderr, "; did you mean %s?", nearest);
    fputs("\ntry: bitloom help\n", stderr);
    return EXIT_USAGE;
}

static int help(int argc, char **argv) {
    const command *cmd = argc > 1 ? find_command(argv[1]) : NULL;
    if (argc > 1 && !cmd)
        return complain_unknown(argv[1]);
    if (cmd)
        options_help(cmd);
    else
        print_overview(stdout);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    terminal_start();
    if (argc < 2) {
        print_overview(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    const command *cmd = find_command(name);
    int status;
    if (cmd) {
        status = cmd->run(argc - 1, argv + 1);
    } else if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 ||
               strcmp(name, "-h") == 0) {
        status = help(argc - 1, argv + 1);
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("bitloom %s\n", bl_version());
        status = EXIT_SUCCESS;
    } else {
        status = complain_unknown(name);
    }
    return output_finish(status);
}
