/* Owns `bitloom data`: making token files and looking into them. */
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

enum { MAX_INPUTS = 1024, SHOWN_TOKENS = 256 };

typedef struct data_settings {
    const char *model, *output, *field;
    double valid;
    option_list valid_files;
    int64_t threads, doc, first, n;
    bool special, check, ids, json, quiet;
} data_settings;

#define DATA(field) offsetof(data_settings, field)

static const option COMMON[] = {
    {'m', "model", NULL, OPTION_TEXT, "PATH", DATA(model), 0, 0, NULL,
     "tokenizer: tokenizer.json, tokenizer.model, Hugging Face directory or GGUF file (build: "
     "default as bitloom run; info: checks that the ids are its own; show: needed for text)"},
    {0, "json", NULL, OPTION_FLAG, NULL, DATA(json), 0, 0, NULL,
     "build, info: print the figures as a JSON object"},
};
static const option BUILD[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", DATA(output), 0, 0, NULL,
     "the token file to write; it appears only when whole"},
    {0, "valid", NULL, OPTION_NUMBER, "SHARE", DATA(valid), 0, 0.5, NULL,
     "hold out this share of the tokens, the last ones (default 0)"},
    {0, "valid-file", NULL, OPTION_LIST, "PATH", DATA(valid_files), 0, 0, NULL,
     "hold out this text instead; may be repeated"},
    {0, "field", NULL, OPTION_TEXT, "KEY", DATA(field), 0, 0, NULL,
     "key of the text in JSON lines (default text)"},
    {0, "special", NULL, OPTION_FLAG, NULL, DATA(special), 0, 0, NULL,
     "recognise special tokens written out in the text"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", DATA(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, DATA(quiet), 0, 0, NULL, "print errors only"},
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
    {'n', "n-tokens", NULL, OPTION_INTEGER, "N", DATA(n), 1, 1 << 24, NULL,
     "tokens to show at most (default 256)"},
    {0, "ids", NULL, OPTION_FLAG, NULL, DATA(ids), 0, 0, NULL,
     "print ids on one line, also when there is a tokenizer"},
};
#define GROUP(title, options)                                                                      \
    { title, options, sizeof options / sizeof *options, 0 }
static const option_group GROUPS[] = {GROUP("Options", COMMON), GROUP("Options of build", BUILD),
                                      GROUP("Options of info", INFO),
                                      GROUP("Options of show", SHOW)};

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
    if (s->json)
        return print_json(s->output, &info, seconds);
    if (!s->quiet) {
        print_info(stderr, s->output, &info);
        note("time             %.1f s (%s/s)", seconds,
             format_bytes(seconds > 0 ? (double)info.text_bytes / seconds : 0));
    }
    return EXIT_SUCCESS;
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
    n = n < (uint64_t)s->n ? n : (uint64_t)s->n;
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
    data_settings s = {.doc = -1, .first = -1, .n = SHOWN_TOKENS};
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
    if (strcmp(action, "info") == 0 || strcmp(action, "show") == 0)
        return look(&s, action, operands + 1, n);
    return options_complain(&DATA_COMMAND, "found \"%s\", expected build, info or show", action);
}

const command DATA_COMMAND = {
    .name = "data",
    .summary = "turn text into a token file to train on, and look into one",
    .operands = "build|info|show FILE ...",
    .min_operands = 1,
    .max_operands = MAX_INPUTS + 1,
    .description =
        "build encodes text files (each a document), JSON lines (one document each) and\n"
        "directories of those, with BOS before and EOS after every document, into one file of\n"
        "ids that training maps. info says what such a file holds, show prints tokens of it.",
    .examples =
        "  bitloom data build -m tokenizer.json -o novels.bin --valid 0.01 novels.txt\n"
        "  bitloom data build -m tokenizer.json -o all.bin --valid-file v.txt texts/ a.jsonl\n"
        "  bitloom data info novels.bin --check -m tokenizer.json\n"
        "  bitloom data show novels.bin -m tokenizer.json --doc 0 -n 100\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
