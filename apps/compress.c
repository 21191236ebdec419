/* Owns `bitloom compress`: one or several methods over one model, and what became of each. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "compress_report.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

typedef struct compress_settings {
    option_list methods;
    const char *output, *calibration, *dense, *state, *report, *test;
    int64_t samples, length, seed, threads, ctx, windows;
    double damping;
    bool released, follow, keep_state, json, quiet;
} compress_settings;

#define COMPRESS(field) offsetof(compress_settings, field)

static const option OPTIONS[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", COMPRESS(output), 0, 0, NULL,
     "the GGUF file to write; with several methods, their names come before its end"},
    {'m', "method", NULL, OPTION_LIST, "NAME", COMPRESS(methods), 0, 0, NULL,
     "rtn gptq1 pb-llm billm arb arb-rc haar sign-h arb-h onebit ternary; may be repeated (default "
     "arb-h)"},
    {0, "calibration", NULL, OPTION_TEXT, "FILE", COMPRESS(calibration), 0, 0, NULL,
     "text that the model is to lose least on, UTF-8; - reads standard input"},
    {0, "samples", NULL, OPTION_INTEGER, "N", COMPRESS(samples), 1, 1 << 20, NULL,
     "pieces of that text (default 128)"},
    {0, "length", NULL, OPTION_INTEGER, "N", COMPRESS(length), 8, 1 << 20, NULL,
     "tokens of each (default 2048, or the model's context if that is less)"},
    {'s', "seed", NULL, OPTION_INTEGER, "N", COMPRESS(seed), 0, (double)INT64_MAX, NULL,
     "seed of their places in the text (default 0)"},
    {0, "damping", NULL, OPTION_NUMBER, "X", COMPRESS(damping), DBL_MIN, 1, NULL,
     "of Hessians, as a share of their mean diagonal (default 0.01)"},
    {0, "released", NULL, OPTION_FLAG, NULL, COMPRESS(released), 0, 0, NULL,
     "billm, arb, arb-rc as the authors' code where that differs from their papers"},
    {0, "follow", NULL, OPTION_FLAG, NULL, COMPRESS(follow), 0, 0, NULL,
     "aim at what the float model gives in each place, at twice the pass and its memory"},
    {0, "dense", NULL, OPTION_CHOICE, "TYPE", COMPRESS(dense), 0, 0, "f16 f32",
     "write what the signs say as plain weights, for other programs; one of:"},
    {0, "state", NULL, OPTION_TEXT, "DIR", COMPRESS(state), 0, 0, NULL,
     "where finished layers are kept, so that a second call goes on (default OUTPUT.parts)"},
    {0, "keep-state", NULL, OPTION_FLAG, NULL, COMPRESS(keep_state), 0, 0, NULL,
     "leave them when all is done"},
    {0, "report", NULL, OPTION_TEXT, "PAGE.md", COMPRESS(report), 0, 0, NULL,
     "write a page of figures and drawings; with --test, of perplexities too"},
    {0, "test", NULL, OPTION_TEXT, "FILE", COMPRESS(test), 0, 0, NULL,
     "measure the perplexity of each result, and of the model, on this text"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", COMPRESS(ctx), 4, 1 << 20, NULL,
     "tokens of a window of that text, all scored (default 512)"},
    {0, "windows", "--chunks", OPTION_INTEGER, "N", COMPRESS(windows), 0, UINT32_MAX, NULL,
     "stop after N windows; 0 = all of the text (default)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", COMPRESS(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "json", NULL, OPTION_FLAG, NULL, COMPRESS(json), 0, 0, NULL,
     "print the figures as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, COMPRESS(quiet), 0, 0, NULL, "show no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

typedef struct shown {
    bool wanted;
    const char *method;
    double at; /* when the line was last written */
} shown;

static bool show_progress(void *user, const bl_compress_progress *p) {
    shown *s = user;
    double now = seconds_now();
    if (s->wanted && now - s->at > 0.1) {
        fprintf(stderr, "\r%s: layer %zu of %zu, %s, %.0f %%, %.0f s left \033[K", s->method,
                p->layer + (p->layer < p->n_layers), p->n_layers, p->doing, 100 * p->share,
                p->seconds_left);
        s->at = now;
    }
    return !interrupts_seen();
}

static bool show_windows(void *user, const bl_perplexity_result *r, uint64_t n_windows) {
    shown *s = user;
    double now = seconds_now();
    if (s->wanted && now - s->at > 0.1) {
        fprintf(stderr, "\r%s: window %llu of %llu, perplexity %.3f \033[K", s->method,
                (unsigned long long)r->n_windows, (unsigned long long)n_windows, r->perplexity);
        s->at = now;
    }
    return !interrupts_seen();
}

static void clear_line(const shown *s) {
    if (s->wanted)
        fputs("\r\033[K", stderr);
}

/* Bytes; Linux counts ru_maxrss in KiB. */
static double peak_memory(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (double)usage.ru_maxrss * 1024 : 0;
}

/* "out.gguf" with "-METHOD" before its end, when there are several; false when that is too long. */
static bool name_output(const compress_settings *s, const char *method, char out[4096]) {
    size_t stem = strlen(s->output);
    int n;
    if (s->methods.n < 2) {
        n = snprintf(out, 4096, "%s", s->output);
    } else {
        bool ends = stem > 5 && strcmp(s->output + stem - 5, ".gguf") == 0;
        n = snprintf(out, 4096, "%.*s-%s%s", (int)(ends ? stem - 5 : stem), s->output, method,
                     ends ? ".gguf" : "");
    }
    return n > 0 && n < 4096;
}

static bl_status measure(const compress_settings *s, const char *path, const char *text, size_t len,
                         shown *progress, bl_perplexity_result *out, bl_error *err) {
    bl_perplexity_params params = windows_params(s->ctx, s->windows, "whole", "auto", s->threads);
    bl_model *model = NULL;
    bl_tokenizer *tokenizer = NULL;
    bl_status status;
    if (!(status = bl_model_open(path, &(bl_model_params){.n_threads = (uint32_t)s->threads},
                                 &model, err)) &&
        !(status = bl_tokenizer_open(path, &tokenizer, err)))
        status = bl_perplexity_run(model, tokenizer, text, len, &params, show_windows, progress,
                                   out, err);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    clear_line(progress);
    return status;
}

static void print_result(const compress_result *c) {
    const bl_compress_report *r = &c->report;
    double busy = r->seconds > 0 ? r->seconds : 1;
    printf("%s%s%s\n", bold_on(STDOUT_FILENO), c->method, style_off(STDOUT_FILENO));
    printf("wrote            %s, %s\n"
           "bits a weight    %.3f nominal, %.3f true (masks, scales and padding counted); %.3f "
           "with embeddings and norms\n"
           "layer error      %.4f of the outputs' energy, on average over %zu matrices\n"
           "calibration      %llu tokens\n"
           "time             %.1f s: forward %.1f, factors %.1f, signs %.1f\n"
           "dense products   %.0f %% of the time, %.1f GFLOP/s\n"
           "peak memory      %s\n",
           c->path, format_bytes((double)r->file_bytes), r->nominal_bits, r->true_bits,
           r->model_bits, r->error, r->n_matrices, (unsigned long long)r->n_tokens, r->seconds,
           r->forward_seconds, r->factor_seconds, r->method_seconds,
           100 * r->product_seconds / busy,
           r->product_seconds > 0 ? r->product_flops / r->product_seconds * 1e-9 : 0,
           format_bytes(c->peak_memory));
    if (r->n_resumed)
        printf("went on          after %zu layers of an earlier run\n", r->n_resumed);
    if (c->measured)
        printf("perplexity       %.4f +- %.4f\n", c->test.perplexity, c->test.perplexity_error);
    putchar('\n');
    fflush(stdout);
}

typedef struct texts {
    char *calibration, *test;
    size_t calibration_len, test_len;
} texts;

/* One method: the file, its figures and, where wanted, its perplexity. */
static bl_status run_method(const compress_settings *s, const char *model, const texts *t,
                            const char *method, compress_result *out, bl_error *err) {
    shown progress = {.wanted = !s->quiet && isatty(STDERR_FILENO), .method = method};
    bl_compress_params params = {.method = method,
                                 .released = s->released,
                                 .follow = s->follow,
                                 .dense = s->dense,
                                 .n_samples = (uint32_t)s->samples,
                                 .length = (uint32_t)s->length,
                                 .seed = (uint64_t)s->seed,
                                 .damping = s->damping,
                                 .n_threads = (uint32_t)s->threads,
                                 .state = s->methods.n < 2 ? s->state : NULL,
                                 .keep_state = s->keep_state,
                                 .progress = show_progress,
                                 .user = &progress};
    *out = (compress_result){.method = method};
    if (!name_output(s, method, out->path))
        return fail_with("compress", "%s: a name that is too long", s->output), BL_ERR_ARGUMENT;
    bl_status status = bl_compress(model, out->path, t->calibration, t->calibration_len, &params,
                                   &out->report, err);
    out->peak_memory = peak_memory();
    clear_line(&progress);
    if (!status && t->test) {
        status = measure(s, out->path, t->test, t->test_len, &progress, &out->test, err);
        out->measured = status == BL_OK;
    }
    return status;
}

static int run_all(const compress_settings *s, const char *model, const texts *t) {
    compress_page page = {.model = model,
                          .calibration = s->calibration ? s->calibration : "none",
                          .test = s->test,
                          .ctx = s->ctx};
    shown progress = {.wanted = !s->quiet && isatty(STDERR_FILENO), .method = model};
    bl_error err = {0};
    bl_status status = BL_OK;
    int done = EXIT_SUCCESS;
    if (t->test) {
        status = measure(s, model, t->test, t->test_len, &progress, &page.float_test, &err);
        page.measured = status == BL_OK;
        if (!status && !s->json)
            printf("%s\nperplexity       %.4f +- %.4f\n\n", model, page.float_test.perplexity,
                   page.float_test.perplexity_error);
    }
    for (size_t i = 0; i < s->methods.n && !status; i++) {
        status = run_method(s, model, t, s->methods.items[i], &page.results[page.n], &err);
        page.n++;
        if (!status && !s->json)
            print_result(&page.results[page.n - 1]);
    }
    if (status) {
        fail_error("compress", &err);
        done = status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    } else if (s->json) {
        done = compress_print_json(&page);
    }
    if (!status && s->report && done == EXIT_SUCCESS)
        done = compress_write_report(s->report, &page);
    for (size_t i = 0; i < page.n; i++)
        bl_compress_report_free(&page.results[i].report);
    return done;
}

static int read_text(const char *path, char **text, size_t *len) {
    bl_error err;
    bl_status status = path ? read_input(path, text, len, &err) : BL_OK;
    if (!status)
        return EXIT_SUCCESS;
    fail_error("compress", &err);
    return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
}

/* Every method is known, and has what it needs. */
static int check_methods(const compress_settings *s) {
    size_t n;
    const bl_compress_method *known = bl_compress_methods(&n);
    for (size_t i = 0; i < s->methods.n; i++) {
        size_t k = 0;
        const char *names[16];
        for (; k < n && strcmp(known[k].name, s->methods.items[i]) != 0; k++)
            names[k] = known[k].name;
        if (k == n) {
            const char *near = nearest_name(s->methods.items[i], names, n);
            return options_complain(&COMPRESS_COMMAND, "unknown method \"%s\"%s%s",
                                    s->methods.items[i], near ? "; did you mean " : "",
                                    near ? near : "");
        }
        if (known[k].calibrated && !s->calibration)
            return options_complain(&COMPRESS_COMMAND, "%s needs --calibration FILE",
                                    known[k].name);
    }
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    compress_settings s = {.ctx = 512};
    const char *model;
    texts t = {0};
    switch (options_parse(&COMPRESS_COMMAND, argc, argv, &s, &model)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.output)
        return options_complain(&COMPRESS_COMMAND, "-o FILE is missing");
    if (!s.methods.n)
        s.methods.items[s.methods.n++] = "arb-h";
    int status = check_methods(&s);
    if (status)
        return status;
    interrupts_catch(10); /* waits for the library, which keeps what is finished */
    if (!(status = read_text(s.calibration, &t.calibration, &t.calibration_len)) &&
        !(status = read_text(s.test, &t.test, &t.test_len)))
        status = run_all(&s, model, &t);
    bl__free(t.calibration);
    bl__free(t.test);
    return output_finish(status);
}

const command COMPRESS_COMMAND = {
    .name = "compress",
    .summary = "make a float model about 1 bit, after training",
    .operands = "MODEL.gguf",
    .min_operands = 1,
    .max_operands = 1,
    .description =
        "Makes signs and few scales of a model's linears, so that what they give on a\n"
        "calibration text changes least, and prints what that really takes. Finished layers are\n"
        "kept, so that the same command goes on after an interruption. A Hugging Face directory\n"
        "is converted first: bitloom convert DIR -o float.gguf --type f16.",
    .examples = "  bitloom compress model.gguf --calibration c4.txt -o small.gguf\n"
                "  bitloom compress model.gguf -m billm -m arb-h --calibration c4.txt -o out.gguf "
                "\\\n      --test wiki.test.raw --report page.md\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
