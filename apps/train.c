/* Owns `bitloom train`: settings from the command line, the progress line and the closing table
 * around bl_train(), and exports. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/buffer.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

enum { N_OWN_SETTINGS = 18, MAX_SETTINGS = N_OWN_SETTINGS + OPTION_LIST_MAX, MAX_TEXT = 1 << 16 };

typedef struct train_settings {
    const char *output, *export_to, *data, *tokenizer, *preset, *recipe, *weights, *precision,
        *memory, *from, *teacher;
    int64_t lambda_steps, steps, rows, tokens, accumulate, groups, tensor_parallel, seed, threads;
    double rate;
    option_list set;
    bool resume, masters, json, quiet;
} train_settings;

#define TRAIN(field) offsetof(train_settings, field)

static const option RUN_OPTIONS[] = {
    {'o', "output", "--out", OPTION_TEXT, "DIR", TRAIN(output), 0, 0, NULL,
     "directory of the run: metrics and checkpoints"},
    {0, "resume", NULL, OPTION_FLAG, NULL, TRAIN(resume), 0, 0, NULL,
     "go on after the last checkpoint in it; from the start when there is none"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", TRAIN(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default). Results do not depend on it"},
    {0, "json", NULL, OPTION_FLAG, NULL, TRAIN(json), 0, 0, NULL,
     "print the closing figures as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, TRAIN(quiet), 0, 0, NULL,
     "print warnings and errors only"},
};
static const option RECIPE_OPTIONS[] = {
    {0, "data", NULL, OPTION_TEXT, "FILE", TRAIN(data), 0, 0, NULL,
     "token file, from bitloom data build"},
    {0, "tokenizer", NULL, OPTION_TEXT, "PATH", TRAIN(tokenizer), 0, 0, NULL,
     "what the tokens were made with; goes into exports"},
    {0, "from", NULL, OPTION_TEXT, "MODEL", TRAIN(from), 0, 0, NULL,
     "start from the weights of a GGUF file, a Hugging Face directory or a run; its sizes and "
     "tokenizer hold where nothing else is said"},
    {0, "teacher", NULL, OPTION_TEXT, "MODEL", TRAIN(teacher), 0, 0, NULL,
     "learn from this model's logits and hidden states in place of the text's next tokens; what "
     "--from takes, of the same vocabulary"},
    {0, "lambda-steps", NULL, OPTION_INTEGER, "N", TRAIN(lambda_steps), 0, 1e12, NULL,
     "steps in which quantization comes in, from none to whole; by default 1000, at most half of "
     "the run, with --from a full-precision model, else 0"},
    {0, "preset", NULL, OPTION_TEXT, "NAME", TRAIN(preset), 0, 0, NULL,
     "size: tiny-1m small-3m 5m 15m 25m 125m 350m 700m 760m 1.3b 2.7b 3b 3.9b"},
    {0, "recipe", NULL, OPTION_CHOICE, "NAME", TRAIN(recipe), 0, 0, "b1.58 bitnet",
     "published schedule; one of:"},
    {0, "weights", NULL, OPTION_CHOICE, "KIND", TRAIN(weights), 0, 0, "ternary binary onebit float",
     "what linear weights are quantized to; onebit: signs between two vectors; one of:"},
    {0, "groups", NULL, OPTION_INTEGER, "N", TRAIN(groups), 1, 1 << 16, NULL,
     "groups of each linear with statistics and sub-norms of their own (default 1)"},
    {0, "precision", NULL, OPTION_CHOICE, "KIND", TRAIN(precision), 0, 0, "auto float32 bf16 int8",
     "what gradients are multiplied in; int8, a step for 64 values, is fast where the processor "
     "has "
     "VNNI or dot products; one of:"},
    {0, "memory", NULL, OPTION_CHOICE, "KIND", TRAIN(memory), 0, 0, "store recompute",
     "what becomes of activations until the backward pass; one of:"},
    {0, "steps", NULL, OPTION_INTEGER, "N", TRAIN(steps), 1, 1e12, NULL, "updates of the run"},
    {0, "rows", NULL, OPTION_INTEGER, "N", TRAIN(rows), 1, 1 << 20, NULL, "rows of a batch"},
    {0, "tokens", NULL, OPTION_INTEGER, "N", TRAIN(tokens), 1, 1 << 24, NULL, "tokens of a row"},
    {0, "accumulate", NULL, OPTION_INTEGER, "N", TRAIN(accumulate), 1, 1 << 20, NULL,
     "batches of an update"},
    {0, "lr", "--rate", OPTION_NUMBER, "X", TRAIN(rate), 0, 1e30, NULL, "highest learning rate"},
    {0, "tensor-parallel", NULL, OPTION_INTEGER, "N", TRAIN(tensor_parallel), 1, 1024, NULL,
     "processes under mpirun that have the parts of one network; divides groups (default 1)"},
    {'s', "seed", NULL, OPTION_INTEGER, "N", TRAIN(seed), 0, 9e15, NULL,
     "seed of the first weights and the order of the data"},
    {0, "set", NULL, OPTION_LIST, "KEY=VALUE", TRAIN(set), 0, 0, NULL,
     "any key of recipes; may be repeated"},
};
static const option EXPORT_OPTIONS[] = {
    {0, "export", NULL, OPTION_TEXT, "PATH", TRAIN(export_to), 0, 0, NULL,
     "write the model to a GGUF file (NAME.gguf) or a Hugging Face directory; without a recipe, "
     "--data and --resume nothing is trained, and --output may be a checkpoint"},
    {0, "masters", NULL, OPTION_FLAG, NULL, TRAIN(masters), 0, 0, NULL,
     "export float32 masters, to train on with other tools; in a GGUF file all but linears"},
};
#define GROUP(title, options)                                                                      \
    { title, options, sizeof options / sizeof *options, 0 }
static const option_group GROUPS[] = {GROUP("Options", RUN_OPTIONS),
                                      GROUP("In place of the recipe's", RECIPE_OPTIONS),
                                      GROUP("Export", EXPORT_OPTIONS)};

/* ---- settings ---- */

/* "key=value" texts in one buffer, and where they begin. */
typedef struct setting_list {
    bl__buffer text;
    size_t starts[MAX_SETTINGS], n;
    const char *items[MAX_SETTINGS];
} setting_list;

static void add_text(setting_list *list, const char *key, const char *value) {
    if (!value)
        return;
    list->starts[list->n++] = list->text.len;
    bl__buffer_printf(&list->text, "%s%s%s", key, *key ? "=" : "", value);
    bl__buffer_putc(&list->text, '\0');
}

static void add_whole(setting_list *list, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    add_text(list, key, value >= 0 ? text : NULL);
}

static bool make_settings(const train_settings *s, setting_list *list) {
    char rate[40];
    list->text = bl__buffer_make(MAX_TEXT);
    snprintf(rate, sizeof rate, "%.17g", s->rate);
    add_text(list, "data", s->data);
    add_text(list, "tokenizer", s->tokenizer);
    add_text(list, "from", s->from);
    add_text(list, "teacher", s->teacher);
    add_whole(list, "lambda_steps", s->lambda_steps);
    add_text(list, "preset", s->preset);
    add_text(list, "recipe", s->recipe);
    add_text(list, "weights", s->weights);
    add_text(list, "precision", s->precision);
    add_text(list, "memory", s->memory);
    add_whole(list, "groups", s->groups);
    add_whole(list, "tensor_parallel", s->tensor_parallel);
    add_whole(list, "steps", s->steps);
    add_whole(list, "rows", s->rows);
    add_whole(list, "tokens", s->tokens);
    add_whole(list, "accumulate", s->accumulate);
    add_whole(list, "seed", s->seed);
    add_text(list, "rate", s->rate >= 0 ? rate : NULL);
    for (size_t i = 0; i < s->set.n; i++)
        add_text(list, "", s->set.items[i]);
    for (size_t i = 0; i < list->n && !list->text.failed; i++)
        list->items[i] = list->text.data + list->starts[i];
    return !list->text.failed;
}

/* ---- while it runs ---- */

typedef struct watch {
    bool is_shown, is_quiet; /* the line on a terminal; the lines of validations */
    double shown_at;
} watch;

static const char *format_time(double seconds) {
    static char text[32];
    long long s = (long long)seconds;
    if (s >= 3600)
        snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, sizeof text, "%lld:%02lld", s / 60, s % 60);
    return text;
}

static void take_begin(void *user, const bl_train_report *r) {
    const watch *w = user;
    char whole[32];
    if (w->is_quiet)
        return;
    snprintf(whole, sizeof whole, "%s", format_bytes((double)r->memory_bytes));
    note("%.2f M weights, %.2f M of them quantized; %s of memory, %s of it activations; %s",
         (double)r->n_params * 1e-6, (double)r->n_quantized * 1e-6, whole,
         format_bytes((double)r->activation_bytes), r->compute);
    if (isfinite(r->teacher))
        note("teacher: validation %.4f, perplexity %.2f", r->teacher, exp(r->teacher));
}

/* On one line, whatever is in it. */
static void show_sample(const char *text) {
    bl__buffer line = bl__buffer_make(MAX_TEXT);
    for (; *text; text++)
        bl__buffer_putc(&line, (unsigned char)*text < ' ' || *text == 127 ? ' ' : *text);
    fprintf(stderr, "  sample: %s\n", line.data ? line.data : "");
    bl__buffer_free(&line);
}

static bool take_step(void *user, const bl_train_step *s) {
    watch *w = user;
    double now = seconds_now();
    char others[64] = "";
    if (isfinite(s->hidden))
        snprintf(others, sizeof others, "  hidden %.3f", s->hidden);
    size_t len = strlen(others);
    if (isfinite(s->relations))
        snprintf(others + len, sizeof others - len, "  relations %.2e", s->relations);
    if ((s->validated || s->sample) && !w->is_quiet && w->is_shown)
        fputs("\r\033[K", stderr);
    if (s->validated && !w->is_quiet && s->step == 0)
        note("step 0  validation %.4f of what it starts from", s->validation);
    else if (s->validated && !w->is_quiet)
        note("step %llu  validation %.4f%s  training %.4f%s%s", (unsigned long long)s->step,
             s->validation, s->validation <= s->best ? " (best)" : "", s->smoothed, others,
             s->lambda < 1 && !(s->validation <= s->best) ? "  (quantization comes in)" : "");
    if (s->sample && !w->is_quiet)
        show_sample(s->sample);
    if (w->is_shown && s->step && now - w->shown_at > 0.2) {
        fprintf(stderr,
                "\rstep %llu/%llu  %.1f M tokens  loss %.3f%s  rate %.2e  flips %.2f %%  "
                "%.0f tokens/s  %s left \033[K",
                (unsigned long long)s->step, (unsigned long long)s->n_steps,
                (double)s->tokens * 1e-6, s->smoothed, others, s->rate, 100 * s->flips,
                s->tokens_per_second, format_time(s->seconds_left));
        w->shown_at = now;
    }
    return !interrupts_seen();
}

static void take_warning(void *user, const char *message) {
    const watch *w = user;
    if (w->is_shown)
        fputs("\r\033[K", stderr);
    note("warning: %s", message);
}

/* ---- the end ---- */

static const char *const FLIP_KEYS[] = {"flips_start", "flips_middle", "flips_end"};

/* Figures that there may be none of. */
static void add_real(json_t *object, const char *key, double value) {
    if (isfinite(value))
        json_object_set_new(object, key, json_real(value));
}

static int print_json(const char *output, const bl_train_report *r) {
    json_t *object = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:I}", "output", output, "steps",
        (json_int_t)r->n_steps, "tokens", (json_int_t)r->tokens, "weights", (json_int_t)r->n_params,
        "quantized_weights", (json_int_t)r->n_quantized, "memory_bytes",
        (json_int_t)r->memory_bytes, "activation_bytes", (json_int_t)r->activation_bytes,
        "rollbacks", (json_int_t)r->rollbacks, "loss", isfinite(r->smoothed) ? r->smoothed : 0.0,
        "seconds", r->seconds, "compute", r->compute, "processes", (json_int_t)r->n_processes);
    if (!object)
        return fail_with("train", "the output's name is not UTF-8, or memory is short");
    json_t *sizes = json_object();
    add_real(object, "tokens_per_second", r->seconds > 0 ? (double)r->tokens / r->seconds : NAN);
    add_real(object, "validation", r->validation);
    add_real(object, "best", r->best);
    add_real(object, "deployed", r->deployed);
    add_real(object, "perplexity", exp(r->deployed));
    add_real(object, "teacher", r->teacher);
    add_real(object, "perplexity_ratio", exp(r->deployed - r->teacher));
    add_real(object, "bits_per_byte", r->bits_per_byte);
    for (size_t i = 0; i < 3 && r->n_quantized; i++)
        add_real(object, FLIP_KEYS[i], r->flips[i]);
    for (size_t i = 0; i < r->n_sizes; i++)
        json_object_set_new(sizes, r->sizes[i].layout, json_integer((json_int_t)r->sizes[i].bytes));
    json_object_set_new(object, "bytes_by_layout", sizes);
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

/* How much still moves is the sign of health of quantized weights: it should fall with the rate. */
static void print_flips(const bl_train_report *r) {
    if (r->n_quantized && isfinite(r->flips[0]))
        note("flips            %.3f %% of the quantized weights a step at the start, %.3f %% "
             "midway, "
             "%.3f %% at the end",
             100 * r->flips[0], 100 * r->flips[1], 100 * r->flips[2]);
}

static void print_sizes(const bl_train_report *r) {
    for (size_t i = 0; i < r->n_sizes; i++)
        note("%-16s %s as %s", i ? "" : "on disk", format_bytes((double)r->sizes[i].bytes),
             r->sizes[i].layout);
}

static void print_report(const char *output, const bl_train_report *r) {
    note("run              %s\n"
         "weights          %.2f M, %.2f M of them quantized\n"
         "trained on       %.2f M tokens in %llu steps\n"
         "time             %s (%.0f tokens/s), %s\n"
         "memory           %s\n"
         "loss             %.4f",
         output, (double)r->n_params * 1e-6, (double)r->n_quantized * 1e-6,
         (double)r->tokens * 1e-6, (unsigned long long)r->n_steps, format_time(r->seconds),
         r->seconds > 0 ? (double)r->tokens / r->seconds : 0.0, r->compute,
         format_bytes((double)r->memory_bytes), r->smoothed);
    if (r->n_processes > 1)
        note("processes        %u, with so much memory each", r->n_processes);
    if (isfinite(r->validation))
        note("validation       %.4f, at best %.4f; as exported %.4f", r->validation, r->best,
             r->deployed);
    if (isfinite(r->deployed))
        note("perplexity       %.2f a token", exp(r->deployed));
    if (isfinite(r->teacher))
        note("teacher          %.4f, perplexity %.2f; this one's is %.3f times that", r->teacher,
             exp(r->teacher), exp(r->deployed - r->teacher));
    if (isfinite(r->bits_per_byte))
        note("bits per byte    %.4f", r->bits_per_byte);
    print_flips(r);
    print_sizes(r);
}

/* *speaks: whether this process is the one of several that prints and exports. */
static int train(const train_settings *s, const char *recipe, bool *speaks) {
    setting_list list = {0};
    if (!make_settings(s, &list)) {
        bl__buffer_free(&list.text);
        return fail_with("train", "settings of more than %d bytes, or out of memory", MAX_TEXT);
    }
    watch w = {.is_shown = !s->quiet && isatty(STDERR_FILENO), .is_quiet = s->quiet};
    bl_train_params params = {.recipe = recipe,
                              .settings = list.items,
                              .n_settings = list.n,
                              .output = s->output,
                              .resume = s->resume,
                              .n_threads = (uint32_t)s->threads,
                              .begin = take_begin,
                              .progress = take_step,
                              .warn = take_warning,
                              .user = &w};
    bl_train_report report;
    bl_error err = {0};
    /* Waits for the library to write a checkpoint. */
    interrupts_catch(5);
    terminations_catch(); /* what mpirun makes of a Ctrl-C */
    bl_status status = bl_train(&params, &report, &err);
    bl__buffer_free(&list.text);
    if (w.is_shown)
        fputs("\r\033[K", stderr);
    if (status && !*err.message) { /* process 0 reports it, and has the exit status */
        *speaks = false;
        return EXIT_SUCCESS;
    }
    if (status) {
        fail_error("train", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    *speaks = report.process == 0;
    if (!*speaks)
        return EXIT_SUCCESS;
    if (s->json)
        return print_json(s->output, &report);
    if (!s->quiet)
        print_report(s->output, &report);
    return EXIT_SUCCESS;
}

/* ---- export ---- */

static bool is_gguf(const char *path) {
    size_t len = strlen(path), n = strlen(".gguf");
    return len > n && strcmp(path + len - n, ".gguf") == 0;
}

static int export_model(const train_settings *s) {
    bl_error err;
    bl_status status = is_gguf(s->export_to)
                           ? bl_train_export_gguf(s->output, s->export_to, s->masters, &err)
                           : bl_train_export(s->output, s->export_to, s->masters, &err);
    if (status)
        return fail_error("train", &err);
    if (!s->quiet)
        note("wrote            %s", s->export_to);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    train_settings s = {.lambda_steps = -1,
                        .steps = -1,
                        .rows = -1,
                        .tokens = -1,
                        .accumulate = -1,
                        .groups = -1,
                        .tensor_parallel = -1,
                        .seed = -1,
                        .rate = -1};
    const char *recipe = NULL;
    switch (options_parse(&TRAIN_COMMAND, argc, argv, &s, &recipe)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    bool trains = recipe || s.data || s.resume || s.from;
    if (!s.output)
        return options_complain(&TRAIN_COMMAND, "-o DIR is missing");
    if (!trains && !s.export_to)
        return options_complain(&TRAIN_COMMAND, "found nothing to do; expected a recipe, --data, "
                                                "--resume or --export");
    if (s.masters && !s.export_to)
        return options_complain(&TRAIN_COMMAND, "--masters is for --export");
    bool speaks = true;
    int status = trains ? train(&s, recipe, &speaks) : EXIT_SUCCESS;
    return status == EXIT_SUCCESS && speaks && s.export_to ? export_model(&s) : status;
}

const command TRAIN_COMMAND = {
    .name = "train",
    .summary = "train a 1-bit model, or its full-precision twin, from scratch",
    .operands = "[RECIPE]",
    .min_operands = 0,
    .max_operands = 1,
    .description =
        "Trains by a recipe (JSON), options, or both: options go before the recipe. A run is a\n"
        "directory; stopped at any moment, by Ctrl-C, a crash or kill, it goes on with --resume\n"
        "as if it had not been. The last checkpoints and the best one are kept as safetensors.",
    .examples =
        "  bitloom train --data novels.bin --tokenizer tok/ --preset 5m --steps 4000 -o r\n"
        "  bitloom train recipe.json --weights float --lr 1e-3 -o twin\n"
        "  bitloom train --from twin --data novels.bin --steps 2000 --lr 1e-3 -o tuned\n"
        "  bitloom train --from twin --teacher twin --weights onebit --data novels.bin -o one\n"
        "  bitloom train --resume -o r\n"
        "  bitloom train --export model.gguf -o r\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
