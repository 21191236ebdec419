/* Owns `bitloom data`: making token files and looking into them. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "engine.h"
#include "progress.h"
#include "terminal.h"

enum { MAX_INPUTS = 1024, SHOWN_TOKENS = 256, WRITTEN_TOKENS = 1000000 };

typedef struct data_settings {
    const char *model, *output, *field;
    double valid, temp, top_p;
    option_list valid_files;
    int64_t threads, doc, first, n, seed, top_k, doc_tokens, parallel;
    bool special, check, ids, json, quiet;
} data_settings;

#define DATA(field) offsetof(data_settings, field)

static const option COMMON[] = {
    {'m', "model", NULL, OPTION_TEXT, "PATH", DATA(model), 0, 0, NULL,
     "tokenizer: tokenizer.json, tokenizer.model, Hugging Face directory or GGUF file (build: "
     "default as bitloom run; info: checks that the ids are its own; show: needed for text); "
     "generate: the model that writes, a GGUF file (default as bitloom run)"},
    {0, "json", NULL, OPTION_FLAG, NULL, DATA(json), 0, 0, NULL,
     "build, generate, info: print the figures as a JSON object"},
    {'n', "n-tokens", NULL, OPTION_INTEGER, "N", DATA(n), 1, 1e15, NULL,
     "show: tokens to show at most (default 256); generate: tokens to write, up to the end of a "
     "document (default 1000000)"},
};
static const option WRITING[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", DATA(output), 0, 0, NULL,
     "the token file to write; it appears only when whole"},
    {0, "valid", NULL, OPTION_NUMBER, "SHARE", DATA(valid), 0, 0.5, NULL,
     "hold out this share of the tokens, the last ones (default 0)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", DATA(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, DATA(quiet), 0, 0, NULL, "print errors only"},
};
static const option BUILD[] = {
    {0, "valid-file", NULL, OPTION_LIST, "PATH", DATA(valid_files), 0, 0, NULL,
     "hold out this text instead; may be repeated"},
    {0, "field", NULL, OPTION_TEXT, "KEY", DATA(field), 0, 0, NULL,
     "key of the text in JSON lines (default text)"},
    {0, "special", NULL, OPTION_FLAG, NULL, DATA(special), 0, 0, NULL,
     "recognise special tokens written out in the text"},
};
static const option GENERATE[] = {
    {'s', "seed", NULL, OPTION_INTEGER, "N", DATA(seed), 0, 9007199254740992.0, NULL,
     "seed of the draws (default 1)"},
    {0, "temp", NULL, OPTION_NUMBER, "T", DATA(temp), 0, 1000, NULL,
     "temperature (default 1: the model's own distribution)"},
    {0, "top-k", NULL, OPTION_INTEGER, "K", DATA(top_k), 0, INT32_MAX, NULL,
     "draw from the K likeliest tokens; 0 = all (default)"},
    {0, "top-p", NULL, OPTION_NUMBER, "P", DATA(top_p), DBL_MIN, 1, NULL,
     "draw from the fewest tokens of probability P together; 1 = all (default)"},
    {0, "doc-tokens", NULL, OPTION_INTEGER, "N", DATA(doc_tokens), 0, 1 << 24, NULL,
     "cut documents after N tokens; 0 = the model's context, at most 4096 (default)"},
    {0, "parallel", NULL, OPTION_INTEGER, "N", DATA(parallel), 1, BL_MAX_SEQUENCES, NULL,
     "documents written side by side; the file does not depend on it (default 16)"},
};
static const option INFO[] = {
    {0, "check", NULL, OPTION_FLAG, NULL, DATA(check), 0, 0, NULL,
     "read every id and check its range"},
};
static const option SHOW[] = {
    {0, "doc", NULL, OPTION_INTEGER, "N", DATA(doc), 0, (double)INT64_MAX, NULL,
     "show this document (the first is 0)"},
    {0, "first", NULL, OPTION_INTEGER, "N", DATA(first), 0, (double)INT64_MAX, NULL,
     "begin at this token instead (default 0)"},
    {0, "ids", NULL, OPTION_FLAG, NULL, DATA(ids), 0, 0, NULL,
     "print ids on one line, also when there is a tokenizer"},
};
#define GROUP(title, options)                                                                      \
    { title, options, sizeof options / sizeof *options, 0 }
static const option_group GROUPS[] = {
    GROUP("Options", COMMON),         GROUP("Options of build and generate", WRITING),
    GROUP("Options of build", BUILD), GROUP("Options of generate", GENERATE),
    GROUP("Options of info", INFO),   GROUP("Options of show", SHOW)};

static int print_json(const char *path, const bl_data_info *info, double seconds) {
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)info->fingerprint);
    json_t *object =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "file", path, "tokens",
                  (json_int_t)info->n_tokens, "train_tokens", (json_int_t)info->n_train_tokens,
                  "valid_tokens", (json_int_t)(info->n_tokens - info->n_train_tokens), "documents",
                  (json_int_t)info->n_docs, "text_bytes", (json_int_t)info->text_bytes, "vocab",
                  (json_int_t)info->vocab, "bytes_per_id", (json_int_t)info->bytes_per_id,
                  "tokenizer", fingerprint);
    if (!object)
        return fail_with("data", "the file's name is not UTF-8, or memory is short");
    if (seconds >= 0)
        json_object_set_new(object, "seconds", json_real(seconds));
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

static void print_info(FILE *to, const char *path, const bl_data_info *info) {
    fprintf(to,
            "file             %s\n"
            "tokens           %llu (%llu to train on, %llu held out)\n"
            "documents        %llu\n"
            "text             %s, %.3f bytes a token\n"
            "ids              %zu bytes each, below %zu\n"
            "tokenizer        %016llx\n",
            path, (unsigned long long)info->n_tokens, (unsigned long long)info->n_train_tokens,
            (unsigned long long)(info->n_tokens - info->n_train_tokens),
            (unsigned long long)info->n_docs, format_bytes((double)info->text_bytes),
            info->n_tokens ? (double)info->text_bytes / (double)info->n_tokens : 0,
            info->bytes_per_id, info->vocab, (unsigned long long)info->fingerprint);
}

/* What build and generate made. */
static int print_written(const data_settings *s, const bl_data_info *info, double seconds,
                         const char *rate) {
    if (s->json)
        return print_json(s->output, info, seconds);
    if (!s->quiet) {
        print_info(stderr, s->output, info);
        note("time             %.1f s (%s/s)", seconds, rate);
    }
    return EXIT_SUCCESS;
}

static int build(const data_settings *s, const char *const *inputs, size_t n_inputs) {
    if (!s->output)
        return options_complain(&DATA_COMMAND, "-o FILE is missing");
    if (!n_inputs)
        return options_complain(&DATA_COMMAND, "build: no input; expected text files, JSON lines "
                                               "or directories");
    if (s->valid > 0 && s->valid_files.n)
        return options_complain(&DATA_COMMAND, "--valid, --valid-file: expected one of them");
    char *path =
        s->model ? bl__strndup(s->model, strlen(s->model)) : find_model(&DATA_COMMAND, NULL);
    if (!path)
        return s->model ? fail_with("data", "out of memory") : EXIT_USAGE;
    progress p = progress_start(!s->quiet);
    bl_data_params params = {.inputs = inputs,
                             .n_inputs = n_inputs,
                             .valid_inputs = s->valid_files.items,
                             .n_valid_inputs = s->valid_files.n,
                             .valid_share = s->valid,
                             .field = s->field,
                             .special = s->special,
                             .n_threads = (uint32_t)s->threads,
                             .progress = progress_show,
                             .user = &p};
    bl_tokenizer *tokenizer = NULL;
    bl_data_info info;
    bl_error err;
    interrupts_catch(10);
    bl_status status = bl_tokenizer_open(path, &tokenizer, &err);
    if (!status)
        status = bl_data_build(tokenizer, &params, s->output, &info, &err);
    double seconds = progress_end(&p);
    bl_tokenizer_close(tokenizer);
    bl__free(path);
    if (status) {
        fail_error("data", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    return print_written(s, &info, seconds,
                         format_bytes(seconds > 0 ? (double)info.text_bytes / seconds : 0));
}

static int generate(const data_settings *s, size_t n_inputs) {
    if (!s->output)
        return options_complain(&DATA_COMMAND, "-o FILE is missing");
    if (n_inputs || s->valid_files.n)
        return options_complain(&DATA_COMMAND,
                                "generate: found files of text, expected none: the model writes");
    char *path = find_model(&DATA_COMMAND, s->model);
    if (!path)
        return EXIT_USAGE;
    progress p = progress_start(!s->quiet);
    p.unit = "tokens";
    bl_data_generate_params params = {.n_tokens = s->n > 0 ? (uint64_t)s->n : WRITTEN_TOKENS,
                                      .doc_tokens = (uint32_t)s->doc_tokens,
                                      .n_parallel = (uint32_t)s->parallel,
                                      .sampler = {.temperature = (float)s->temp,
                                                  .top_k = (int32_t)s->top_k,
                                                  .top_p = (float)s->top_p,
                                                  .repeat_penalty = 1,
                                                  .seed = (uint64_t)s->seed},
                                      .valid_share = s->valid,
                                      .n_threads = (uint32_t)s->threads,
                                      .progress = progress_show,
                                      .user = &p};
    bl_model *model = NULL;
    bl_tokenizer *tokenizer = NULL;
    bl_data_info info;
    bl_error err;
    interrupts_catch(10);
    bl_status status =
        bl_model_open(path, &(bl_model_params){.n_threads = params.n_threads}, &model, &err);
    if (!status)
        status = bl_tokenizer_open(path, &tokenizer, &err);
    if (!status)
        status = bl_data_generate(model, tokenizer, &params, s->output, &info, &err);
    double seconds = progress_end(&p);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    bl__free(path);
    if (status) {
        fail_error("data", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    char rate[48];
    snprintf(rate, sizeof rate, "%.0f tokens", seconds > 0 ? (double)info.n_tokens / seconds : 0);
    return print_written(s, &info, seconds, rate);
}

static int info(const data_settings *s, const char *path, const bl_data *data) {
    bl_error err;
    bl_tokenizer *tokenizer = NULL;
    bl_status status = BL_OK;
    if (s->model)
        status = bl_tokenizer_open(s->model, &tokenizer, &err);
    if (!status && tokenizer)
        status = bl_data_match(data, tokenizer, &err);
    if (!status && s->check)
        status = bl_data_check(data, &err);
    bl_tokenizer_close(tokenizer);
    if (status)
        return fail_with("data", "%s: %s", path, err.message);
    bl_data_info figures = bl_data_get_info(data);
    if (s->json)
        return print_json(path, &figures, -1);
    print_info(stdout, path, &figures);
    return EXIT_SUCCESS;
}

static int print_tokens(const data_settings *s, const bl_tokenizer *tokenizer, const bl_token *ids,
                        size_t n, bl_error *err) {
    if (!tokenizer || s->ids) {
        for (size_t i = 0; i < n; i++)
            printf("%s%d", i ? " " : "", (int)ids[i]);
        putchar('\n');
        return EXIT_SUCCESS;
    }
    char *text;
    size_t len;
    if (bl_tokenizer_decode(tokenizer, ids, n, BL_DETOKENIZE_SPECIAL, &text, &len, err) != BL_OK)
        return fail_error("data", err);
    output_text(text, len);
    output_text("\n", 1);
    bl_free(text);
    return EXIT_SUCCESS;
}

static int show(const data_settings *s, const char *path, const bl_data *data) {
    bl_data_info figures = bl_data_get_info(data);
    uint64_t first = s->first >= 0 ? (uint64_t)s->first : 0, n = figures.n_tokens;
    bl_error err;
    bl_status status = BL_OK;
    if (s->doc >= 0)
        status = bl_data_document(data, (uint64_t)s->doc, &first, &n, &err);
    else
        n = first < n ? n - first : 0;
    uint64_t most = s->n > 0 ? (uint64_t)s->n : SHOWN_TOKENS;
    n = n < most ? n : most;
    bl_token *ids = bl__malloc_array((size_t)n, sizeof *ids);
    if (!ids)
        return fail_with("data", "out of memory");
    bl_tokenizer *tokenizer = NULL;
    if (!status && s->model)
        status = bl_tokenizer_open(s->model, &tokenizer, &err);
    if (!status && tokenizer)
        status = bl_data_match(data, tokenizer, &err);
    if (!status)
        status = bl_data_read(data, first, (size_t)n, ids, &err);
    int result = status ? fail_with("data", "%s: %s", path, err.message)
                        : print_tokens(s, tokenizer, ids, (size_t)n, &err);
    bl_tokenizer_close(tokenizer);
    bl__free(ids);
    return result;
}

static int look(const data_settings *s, const char *action, const char *const *paths, size_t n) {
    if (n != 1)
        return options_complain(&DATA_COMMAND, "%s: found %zu files, expected one token file",
                                action, n);
    if (s->doc >= 0 && s->first >= 0)
        return options_complain(&DATA_COMMAND, "--doc, --first: expected one of them");
    bl_data *data;
    bl_error err;
    if (bl_data_open(paths[0], &data, &err) != BL_OK)
        return fail_error("data", &err);
    int result = strcmp(action, "info") == 0 ? info(s, paths[0], data) : show(s, paths[0], data);
    bl_data_close(data);
    return result;
}

static int run(int argc, char **argv) {
    data_settings s = {.doc = -1, .first = -1, .temp = 1, .top_p = 1, .seed = 1};
    const char *operands[MAX_INPUTS + 1] = {NULL};
    switch (options_parse(&DATA_COMMAND, argc, argv, &s, operands)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    const char *action = operands[0];
    size_t n = 0;
    while (n < MAX_INPUTS && operands[n + 1])
        n++;
    if (strcmp(action, "build") == 0)
        return build(&s, operands + 1, n);
    if (strcmp(action, "generate") == 0)
        return generate(&s, n);
    if (strcmp(action, "info") == 0 || strcmp(action, "show") == 0)
        return look(&s, action, operands + 1, n);
    return options_complain(&DATA_COMMAND, "found \"%s\", expected build, generate, info or show",
                            action);
}

const command DATA_COMMAND = {
    .name = "data",
    .summary = "turn text, or what a model writes, into a token file to train on",
    .operands = "build|generate|info|show [FILE ...]",
    .min_operands = 1,
    .max_operands = MAX_INPUTS + 1,
    .description =
        "build encodes text files (each a document), JSON lines (one document each) and\n"
        "directories of those, with BOS before and EOS after every document, into one file of\n"
        "ids that training maps. generate fills one with what a model writes, drawn document "
        "after\n"
        "document, for a student of it to learn from (bitloom train --teacher). info says what\n"
        "such a file holds, show prints tokens of it.",
    .examples =
        "  bitloom data build -m tokenizer.json -o novels.bin --valid 0.01 novels.txt\n"
        "  bitloom data build -m tokenizer.json -o all.bin --valid-file v.txt texts/ a.jsonl\n"
        "  bitloom data generate -m teacher.gguf -o own.bin -n 5000000 --valid 0.01\n"
        "  bitloom data info novels.bin --check -m tokenizer.json\n"
        "  bitloom data show novels.bin -m tokenizer.json --doc 0 -n 100\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
