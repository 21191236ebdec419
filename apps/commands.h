/* The subcommands of the program, one per file. */
#ifndef BL_APPS_COMMANDS_H
#define BL_APPS_COMMANDS_H

#include "options.h"

extern const command RUN_COMMAND, CHAT_COMMAND, TOKENIZE_COMMAND, CONVERT_COMMAND, INSPECT_COMMAND,
    INFO_COMMAND, DATA_COMMAND, TOKENIZER_COMMAND, TRAIN_COMMAND, PLOT_COMMAND;

#endif
