/* Owns `bitloom compare`: two models, or two kernels, on one text, and a verdict. */
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
#include "input.h"
#include "terminal.h"

typedef struct compare_settings {
    const char *file, *protocol, *bos, *kernels, *cache_type;
    int64_t ctx, windows, threads;
    double max_kl, min_agreement;
    bool json, quiet;
} compare_settings;

#define COMPARE(field) offsetof(compare_settings, field)

static const option OPTIONS[] = {
    {'f', "file", NULL, OPTION_TEXT, "FILE", COMPARE(file), 0, 0, NULL,
     "the text, UTF-8; - reads standard input"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", COMPARE(ctx), 4, 1 << 20, NULL,
     "tokens of a window (default 512)"},
    {0, "protocol", NULL, OPTION_CHOICE, "NAME", COMPARE(protocol), 0, 0, "half whole",
     "what is scored, as in bitloom perplexity (default half)"},
    {0, "bos", NULL, OPTION_CHOICE, "WHEN", COMPARE(bos), 0, 0, "auto on off",
     "BOS, as in bitloom perplexity (default auto)"},
    {0, "windows", "--chunks", OPTION_INTEGER, "N", COMPARE(windows), 0, UINT32_MAX, NULL,
     "stop after N windows; 0 = all of the text (default)"},
    {0, "kernels", NULL, OPTION_TEXT, "LEVEL", COMPARE(kernels), 0, 0, NULL,
     "kernels of the second model, one of those that bitloom info lists"},
    {0, "cache-type", NULL, OPTION_CHOICE, "TYPE", COMPARE(cache_type), 0, 0, CACHE_CHOICES,
     CACHE_HELP},
    {0, "max-kl", NULL, OPTION_NUMBER, "NATS", COMPARE(max_kl), 0, DBL_MAX, NULL,
     "fail when the mean KL divergence is larger"},
    {0, "min-agreement", NULL, OPTION_NUMBER, "SHARE", COMPARE(min_agreement), 0, 1, NULL,
     "fail when the likeliest token is the same less often"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", COMPARE(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "json", NULL, OPTION_FLAG, NULL, COMPARE(json), 0, 0, NULL, "print one JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, COMPARE(quiet), 0, 0, NULL, "show no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

typedef struct shown {
    bool wanted;
    double start, at; /* when the line was last written */
} shown;

static bool show_progress(void *user, const bl_compare_result *r, uint64_t n_windows) {
    shown *s = user;
    double now = seconds_now();
    if (s->wanted && now - s->at > 0.1) {
        double left = (now - s->start) / (double)r->n_windows * (double)(n_windows - r->n_windows);
        fprintf(stderr, "\rwindow %llu of %llu, KL %.3g, same token %.2f %%, %.0f s left \033[K",
                (unsigned long long)r->n_windows, (unsigned long long)n_windows, r->kl,
                100 * r->agreement, left);
        s->at = now;
    }
    return !interrupts_seen();
}

static int print_result(const compare_settings *s, const bl_compare_result *r, bool accepted) {
    if (!s->json) {
        printf("windows              %llu of %lld tokens, %llu scored\n",
               (unsigned long long)r->n_windows, (long long)s->ctx,
               (unsigned long long)r->n_scored);
        printf("same likeliest token %.3f %%\n", 100 * r->agreement);
        printf(
            "KL divergence        mean %.4g +- %.2g, median %.4g, 99 %% %.4g, largest %.4g nats\n",
            r->kl, r->kl_error, r->kl_median, r->kl_99, r->kl_max);
        printf("perplexity           %.4f and %.4f, ln ratio %+.5f +- %.5f\n", r->perplexity_a,
               r->perplexity_b, r->log_ratio, r->log_ratio_error);
        printf("largest difference   %.3g of the row's largest logit%s\n", r->largest_difference,
               r->identical ? "; every logit is the same to the bit" : "");
        if (s->max_kl < DBL_MAX || s->min_agreement > 0)
            printf("verdict              %s\n", accepted ? "accepted" : "refused");
        return EXIT_SUCCESS;
    }
    json_t *root = json_pack(
        "{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:f, s:f, s:f, s:f, s:b}", "n_ctx",
        (json_int_t)s->ctx, "windows", (json_int_t)r->n_windows, "scored_tokens",
        (json_int_t)r->n_scored, "agreement", r->agreement, "kl", r->kl, "kl_error", r->kl_error,
        "kl_median", r->kl_median, "kl_99", r->kl_99, "kl_max", r->kl_max, "largest_difference",
        r->largest_difference, "identical", r->identical, "perplexity_a", r->perplexity_a,
        "perplexity_b", r->perplexity_b, "log_ratio", r->log_ratio, "log_ratio_error",
        r->log_ratio_error, "accepted", accepted);
    if (!root)
        return fail_with("compare", "out of memory");
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
    return EXIT_SUCCESS;
}

typedef struct pair {
    bl_model *models[2];
    bl_tokenizer *tokenizers[2];
} pair;

/* paths[1] may be NULL: the same model twice. */
static bl_status open_pair(pair *p, const char *const paths[2], uint32_t n_threads, bl_error *err) {
    bl_status status = BL_OK;
    for (size_t i = 0; i < 2 && paths[i] && !status; i++)
        if (!(status = bl_model_open(paths[i], &(bl_model_params){.n_threads = n_threads},
                                     &p->models[i], err)))
            status = bl_tokenizer_open(paths[i], &p->tokenizers[i], err);
    return status;
}

static void close_pair(pair *p) {
    for (size_t i = 0; i < 2; i++) {
        bl_tokenizer_close(p->tokenizers[i]);
        bl_model_close(p->models[i]);
    }
}

static int compare(const compare_settings *s, const char *const paths[2], const char *text,
                   size_t len) {
    bl_perplexity_params params =
        windows_params(s->ctx, s->windows, s->protocol, s->bos, s->threads);
    params.session.cache_type = cache_type_of(s->cache_type);
    bl_session_params second = params.session;
    second.kernels = s->kernels;
    shown progress = {.wanted = !s->quiet && isatty(STDERR_FILENO), .start = seconds_now()};
    pair p = {0};
    bl_compare_result result;
    bl_error err;
    bl_status status = open_pair(&p, paths, (uint32_t)s->threads, &err);
    if (!status)
        status = bl_compare_run(p.models[0], p.tokenizers[0], p.models[paths[1] != NULL],
                                p.tokenizers[1], text, len, &params, &second, show_progress,
                                &progress, &result, &err);
    if (progress.wanted)
        fputs("\r\033[K", stderr);
    close_pair(&p);
    if (status) {
        fail_error("compare", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    bool accepted = result.kl <= s->max_kl && result.agreement >= s->min_agreement;
    int printed = print_result(s, &result, accepted);
    return printed ? printed : accepted ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run(int argc, char **argv) {
    compare_settings s = {.protocol = "half", .bos = "auto", .ctx = 512, .max_kl = DBL_MAX};
    const char *paths[2] = {NULL, NULL};
    switch (options_parse(&COMPARE_COMMAND, argc, argv, &s, paths)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.file)
        return options_complain(&COMPARE_COMMAND, "-f FILE is missing");
    if (!paths[1] && !s.kernels)
        return options_complain(&COMPARE_COMMAND, "expected a second model, or --kernels LEVEL");
    interrupts_catch(2);
    char *text;
    size_t len;
    bl_error err;
    bl_status read = read_input(s.file, &text, &len, &err);
    if (read) {
        fail_error("compare", &err);
        return read == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    int status = compare(&s, paths, text, len);
    bl__free(text);
    return output_finish(status);
}

const command COMPARE_COMMAND = {
    .name = "compare",
    .summary = "measure how far two models, or two kernels, predict the same",
    .operands = "A [B]",
    .min_operands = 1,
    .max_operands = 2,
    .description =
        "Evaluates a text with both, in windows as bitloom perplexity does, and prints how often\n"
        "they find the same token likeliest, the KL divergence of B from A, and both "
        "perplexities.\n"
        "With a limit the exit status says whether it was kept: a conversion or quantization can\n"
        "be accepted or refused by it.\n",
    .examples = "  bitloom compare f16.gguf q4.gguf -f wiki.test.raw --max-kl 0.05\n"
                "  bitloom compare model.gguf -f text.txt --kernels ref --max-kl 0\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
