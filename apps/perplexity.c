/* Owns `bitloom perplexity`: one text, one or several models, a line for each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

typedef struct perplexity_settings {
    option_list models;
    const char *file, *protocol, *bos, *numa, *cache_type;
    int64_t ctx, windows, threads;
    bool json, quiet;
} perplexity_settings;

#define PERPLEXITY(field) offsetof(perplexity_settings, field)

static const option OPTIONS[] = {
    {'m', "model", NULL, OPTION_LIST, "FILE", PERPLEXITY(models), 0, 0, NULL,
     "GGUF model; may be repeated (default as bitloom run)"},
    {'f', "file", NULL, OPTION_TEXT, "FILE", PERPLEXITY(file), 0, 0, NULL,
     "the text, UTF-8; - reads standard input"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", PERPLEXITY(ctx), 4, 1 << 20, NULL,
     "tokens of a window (default 512)"},
    {0, "protocol", NULL, OPTION_CHOICE, "NAME", PERPLEXITY(protocol), 0, 0, "half whole",
     "half: the second half of each window is scored, as llama-perplexity does it (default); "
     "whole: all but the first token, as papers do"},
    {0, "bos", NULL, OPTION_CHOICE, "WHEN", PERPLEXITY(bos), 0, 0, "auto on off",
     "BOS as every window's first token (half) or before the text (whole); auto: as the "
     "tokenizer says (default)"},
    {0, "windows", "--chunks", OPTION_INTEGER, "N", PERPLEXITY(windows), 0, UINT32_MAX, NULL,
     "stop after N windows; 0 = all of the text (default)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", PERPLEXITY(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "numa", NULL, OPTION_CHOICE, "HOW", PERPLEXITY(numa), 0, 0, NUMA_CHOICES, NUMA_HELP},
    {0, "cache-type", NULL, OPTION_CHOICE, "TYPE", PERPLEXITY(cache_type), 0, 0, CACHE_CHOICES,
     CACHE_HELP},
    {0, "json", NULL, OPTION_FLAG, NULL, PERPLEXITY(json), 0, 0, NULL, "print one JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, PERPLEXITY(quiet), 0, 0, NULL, "show no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

typedef struct shown {
    bool wanted;
    double at; /* when the line was last written */
} shown;

static bool show_progress(void *user, const bl_perplexity_result *r, uint64_t n_windows) {
    shown *s = user;
    double now = seconds_now();
    if (s->wanted && now - s->at > 0.1) {
        double left = r->seconds / (double)r->n_windows * (double)(n_windows - r->n_windows);
        fprintf(stderr, "\rwindow %llu of %llu, perplexity %.4f, %.0f tokens/s, %.0f s left \033[K",
                (unsigned long long)r->n_windows, (unsigned long long)n_windows, r->perplexity,
                r->tokens_per_second, left);
        s->at = now;
    }
    return !interrupts_seen();
}

static void print_head(const perplexity_settings *s, size_t len) {
    printf("%s: %s, windows of %lld, %s scored\n\n", s->file, format_bytes((double)len),
           (long long)s->ctx, strcmp(s->protocol, "half") == 0 ? "second halves" : "all");
    printf("%s%10s %9s %8s %8s %9s %9s %9s%s  %s\n", bold_on(STDOUT_FILENO), "PERPLEXITY", "+-",
           "NATS", "+-", "BITS/BYTE", "SCORED", "TOKENS/S", style_off(STDOUT_FILENO), "MODEL");
}

static void print_row(const char *path, const bl_perplexity_result *r) {
    printf("%10.4f %9.4f %8.4f %8.4f %9.4f %9llu %9.1f  %s\n", r->perplexity, r->perplexity_error,
           r->nats, r->nats_error, r->bits_per_byte, (unsigned long long)r->n_scored,
           r->tokens_per_second, path);
    fflush(stdout);
}

static bool add_json(json_t *rows, const char *path, const bl_model_info *info,
                     const bl_perplexity_result *r) {
    json_t *row = json_pack(
        "{s:s, s:s%, s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:f}", "model", path,
        "model_name", info->name, strlen(info->name), "model_type", info->weights, "perplexity",
        r->perplexity, "perplexity_error", r->perplexity_error, "nats", r->nats, "nats_error",
        r->nats_error, "bits_per_byte", r->bits_per_byte, "windows", (json_int_t)r->n_windows,
        "scored_tokens", (json_int_t)r->n_scored, "scored_bytes", (json_int_t)r->n_bytes, "seconds",
        r->seconds, "tokens_per_second", r->tokens_per_second);
    return row && json_array_append_new(rows, row) == 0;
}

/* rows: NULL for the table. */
static int run_model(const perplexity_settings *s, const char *path, const char *text, size_t len,
                     json_t *rows) {
    bl_perplexity_params params =
        windows_params(s->ctx, s->windows, s->protocol, s->bos, s->threads);
    params.session.cache_type = cache_type_of(s->cache_type);
    shown progress = {.wanted = !s->quiet && isatty(STDERR_FILENO)};
    bl_model *model = NULL;
    bl_tokenizer *tokenizer = NULL;
    bl_perplexity_result result;
    bl_error err;
    bl_status status;
    if (!(status = bl_model_open(path, &(bl_model_params){.n_threads = (uint32_t)s->threads},
                                 &model, &err)) &&
        !(status = bl_tokenizer_open(path, &tokenizer, &err)))
        status = bl_perplexity_run(model, tokenizer, text, len, &params, show_progress, &progress,
                                   &result, &err);
    if (progress.wanted)
        fputs("\r\033[K", stderr);
    int exit_status = EXIT_SUCCESS;
    if (status)
        fail_with("perplexity", "%s: %s", path, err.message);
    if (status)
        exit_status = status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    else if (!rows)
        print_row(path, &result);
    else if (!add_json(rows, path, bl_model_get_info(model), &result))
        exit_status =
            fail_with("perplexity", "%s: a name that is not UTF-8, or memory is short", path);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    return exit_status;
}

static int run_all(const perplexity_settings *s, const char *const *paths, size_t n_paths) {
    char *text;
    size_t len;
    bl_error err;
    bl_status read = read_input(s->file, &text, &len, &err);
    if (read) {
        fail_error("perplexity", &err);
        return read == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    json_t *rows = s->json ? json_array() : NULL;
    int status = EXIT_SUCCESS;
    if (!s->json)
        print_head(s, len);
    for (size_t i = 0; i < n_paths && status == EXIT_SUCCESS; i++)
        status = run_model(s, paths[i], text, len, rows);
    if (rows && status == EXIT_SUCCESS) {
        json_t *root =
            json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:O}", "version", bl_version(), "kernels",
                      bl_kernel_level(), "n_ctx", (json_int_t)s->ctx, "protocol", s->protocol,
                      "bos", s->bos, "file", s->file, "results", rows);
        if (!root || json_dumpf(root, stdout, JSON_INDENT(2)) != 0)
            status = fail_with("perplexity", "a name that is not UTF-8, or memory is short");
        else
            putchar('\n');
        json_decref(root);
    }
    json_decref(rows);
    bl__free(text);
    return status;
}

static int run(int argc, char **argv) {
    perplexity_settings s = {.protocol = "half", .bos = "auto", .ctx = 512};
    switch (options_parse(&PERPLEXITY_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.file)
        return options_complain(&PERPLEXITY_COMMAND, "-f FILE is missing");
    char *standard = NULL;
    if (!s.models.n && !(standard = find_model(&PERPLEXITY_COMMAND, NULL)))
        return EXIT_USAGE;
    interrupts_catch(2);
    if (!place_memory(&PERPLEXITY_COMMAND, s.numa)) {
        bl__free(standard);
        return EXIT_FAILURE;
    }
    int status = standard ? run_all(&s, (const char *const *)&standard, 1)
                          : run_all(&s, s.models.items, s.models.n);
    bl__free(standard);
    return output_finish(status);
}

const command PERPLEXITY_COMMAND = {
    .name = "perplexity",
    .summary = "measure how well models predict a text",
    .description =
        "Cuts a text into windows and prints, for each model, exp(mean of -ln p) of the scored\n"
        "tokens with its standard error, the same in nats a token, and in bits a byte of text,\n"
        "which models with different vocabularies can be compared by.\n",
    .examples = "  bitloom perplexity -m model.gguf -f wiki.test.raw\n"
                "  bitloom perplexity -m a.gguf -m b.gguf -f text.txt -c 2048 --protocol whole\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
