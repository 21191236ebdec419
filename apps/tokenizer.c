/* Owns `bitloom tokenizer`: learning a tokenizer from text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "progress.h"
#include "terminal.h"

enum { MAX_INPUTS = 1024, DEFAULT_VOCAB = 32000 };

typedef struct tokenizer_settings {
    const char *output, *kind, *bos, *eos, *field;
    int64_t vocab;
    double coverage;
    option_list specials;
    bool json, quiet;
} tokenizer_settings;

#define TOKENIZER(field) offsetof(tokenizer_settings, field)

static const option OPTIONS[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", TOKENIZER(output), 0, 0, NULL,
     "the tokenizer.json to write; a tokenizer_config.json comes beside it"},
    {0, "kind", NULL, OPTION_CHOICE, "KIND", TOKENIZER(kind), 0, 0, "llama3 gpt2 sentencepiece",
     "byte-level BPE with the words of LLaMA 3 (default) or GPT-2, or SentencePiece-style BPE "
     "over characters with bytes for rare ones; one of:"},
    {0, "vocab", NULL, OPTION_INTEGER, "N", TOKENIZER(vocab), 1, 1 << 22, NULL,
     "tokens in all (default 32000)"},
    {0, "coverage", NULL, OPTION_NUMBER, "SHARE", TOKENIZER(coverage), 0, 1, NULL,
     "sentencepiece: share of the characters to have tokens of their own (default 0.9995)"},
    {0, "bos", NULL, OPTION_TEXT, "TEXT", TOKENIZER(bos), 0, 0, NULL,
     "token before every text (default <s>; \"\" = none)"},
    {0, "eos", NULL, OPTION_TEXT, "TEXT", TOKENIZER(eos), 0, 0, NULL,
     "token that ends a text (default </s>; \"\" = none)"},
    {0, "special", NULL, OPTION_LIST, "TEXT", TOKENIZER(specials), 0, 0, NULL,
     "one more special token; may be repeated"},
    {0, "field", NULL, OPTION_TEXT, "KEY", TOKENIZER(field), 0, 0, NULL,
     "key of the text in JSON lines (default text)"},
    {0, "json", NULL, OPTION_FLAG, NULL, TOKENIZER(json), 0, 0, NULL,
     "print the closing figures as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, TOKENIZER(quiet), 0, 0, NULL, "print errors only"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

static int print_json(const char *output, const bl_tokenizer_train_report *r, double seconds) {
    json_t *object =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "output", output, "tokens",
                  (json_int_t)r->n_tokens, "merges", (json_int_t)r->n_merges, "text_bytes",
                  (json_int_t)r->text_bytes, "words", (json_int_t)r->n_words, "distinct_words",
                  (json_int_t)r->n_distinct_words, "seconds", seconds);
    if (!object)
        return fail_with("tokenizer", "the output's name is not UTF-8, or memory is short");
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

static int train(const tokenizer_settings *s, const char *const *inputs, size_t n_inputs) {
    progress p = progress_start(!s->quiet);
    bl_tokenizer_train_params params = {.inputs = inputs,
                                        .n_inputs = n_inputs,
                                        .field = s->field,
                                        .kind = s->kind,
                                        .vocab = (size_t)s->vocab,
                                        .coverage = s->coverage,
                                        .bos = s->bos,
                                        .eos = s->eos,
                                        .specials = s->specials.items,
                                        .n_specials = s->specials.n,
                                        .progress = progress_show,
                                        .user = &p};
    bl_tokenizer_train_report report;
    bl_error err;
    interrupts_catch(10);
    bl_status status = bl_tokenizer_train(&params, s->output, &report, &err);
    double seconds = progress_end(&p);
    if (status) {
        fail_error("tokenizer", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    if (s->json)
        return print_json(s->output, &report, seconds);
    if (!s->quiet)
        note("wrote            %s\n"
             "tokens           %zu, %zu of them merged\n"
             "text             %s, %llu words, %llu distinct\n"
             "time             %.1f s (%s/s)",
             s->output, report.n_tokens, report.n_merges, format_bytes((double)report.text_bytes),
             (unsigned long long)report.n_words, (unsigned long long)report.n_distinct_words,
             seconds, format_bytes(seconds > 0 ? (double)report.text_bytes / seconds : 0));
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    tokenizer_settings s = {.vocab = DEFAULT_VOCAB};
    const char *operands[MAX_INPUTS + 1] = {NULL};
    switch (options_parse(&TOKENIZER_COMMAND, argc, argv, &s, operands)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    size_t n = 0;
    while (n < MAX_INPUTS && operands[n + 1])
        n++;
    if (strcmp(operands[0], "train") != 0)
        return options_complain(&TOKENIZER_COMMAND, "found \"%s\", expected train", operands[0]);
    if (!s.output)
        return options_complain(&TOKENIZER_COMMAND, "-o FILE is missing");
    if (!n)
        return options_complain(&TOKENIZER_COMMAND, "train: no input; expected text files, JSON "
                                                    "lines or directories");
    return train(&s, operands + 1, n);
}

const command TOKENIZER_COMMAND = {
    .name = "tokenizer",
    .summary = "learn a tokenizer from text",
    .operands = "train FILE ...",
    .min_operands = 1,
    .max_operands = MAX_INPUTS + 1,
    .description =
        "train learns a vocabulary by byte pair encoding from text files, JSON lines and\n"
        "directories of those, and writes it as a tokenizer.json for Bitloom and for the Hugging\n"
        "Face libraries. The same text gives the same file.",
    .examples = "  bitloom tokenizer train -o tokenizer.json --vocab 4096 novels.txt\n"
                "  bitloom tokenizer train -o spm/tokenizer.json --kind sentencepiece texts/\n"
                "  bitloom tokenize -m tokenizer.json <text.txt\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
