/* Owns `bitloom run`: a prompt in, its continuation to stdout, everything else to stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "commands.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

typedef struct run_settings {
    model_settings model;
    sampling_settings sampling;
    speculation_settings speculation;
    constraint_settings constraint;
    const char *prompt, *file;
    bool escapes, no_bos, json, quiet, verbose;
} run_settings;

#define RUN(field) offsetof(run_settings, field)

static const option PROMPT_OPTIONS[] = {
    {'p', "prompt", NULL, OPTION_TEXT, "TEXT", RUN(prompt), 0, 0, NULL,
     "the prompt; - reads standard input, as does giving none when it is a pipe or file"},
    {'f', "file", NULL, OPTION_TEXT, "FILE", RUN(file), 0, 0, NULL,
     "read the prompt from a file, - for standard input; one newline at its end is dropped"},
    {'e', "escape", NULL, OPTION_FLAG, NULL, RUN(escapes), 0, 0, NULL,
     "replace \\n \\t \\r \\\\ \\\" \\' \\0 \\xHH in the prompt"},
    {0, "no-bos", NULL, OPTION_FLAG, NULL, RUN(no_bos), 0, 0, NULL,
     "do not begin with the model's BOS token"},
};
static const option OUTPUT_OPTIONS[] = {
    {0, "json", NULL, OPTION_FLAG, NULL, RUN(json), 0, 0, NULL,
     "print text and measurements as one JSON object at the end"},
    {'v', "verbose", NULL, OPTION_FLAG, NULL, RUN(verbose), 0, 0, NULL,
     "say what memory is taken for"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, RUN(quiet), 0, 0, NULL,
     "print nothing but the text and errors"},
};
static const option_group GROUPS[] = {
    {"Prompt", PROMPT_OPTIONS, sizeof PROMPT_OPTIONS / sizeof *PROMPT_OPTIONS, 0},
    {"Model", MODEL_OPTIONS, N_MODEL_OPTIONS, RUN(model)},
    {"Sampling", SAMPLING_OPTIONS, N_SAMPLING_OPTIONS, RUN(sampling)},
    {"Constraint", CONSTRAINT_OPTIONS, N_CONSTRAINT_OPTIONS, RUN(constraint)},
    {"Speculation", SPECULATION_OPTIONS, N_SPECULATION_OPTIONS, RUN(speculation)},
    {"Output", OUTPUT_OPTIONS, sizeof OUTPUT_OPTIONS / sizeof *OUTPUT_OPTIONS, 0},
};

/* The prompt, allocated. */
static int read_prompt(const run_settings *s, char **text, size_t *len) {
    const char *file = s->file;
    if (!file && (!s->prompt || strcmp(s->prompt, "-") == 0))
        file = "-";
    bl_error err;
    if (file) {
        if (read_input(file, text, len, &err) != BL_OK)
            return fail_error("run", &err);
        if (*len > 0 && (*text)[*len - 1] == '\n')
            (*text)[--*len] = '\0';
    } else {
        *len = strlen(s->prompt);
        *text = bl__strndup(s->prompt, *len);
        if (!*text)
            return fail_with("run", "out of memory");
    }
    if (s->escapes)
        unescape(*text, len);
    return EXIT_SUCCESS;
}

enum { LONG_PROMPT = 1024 }; /* tokens from which progress is worth a line */

/* What the callbacks share. */
typedef struct writer {
    bl__buffer *kept; /* NULL: stream to stdout */
    bool ends_line, shows_progress;
    bl_energy_meter *meter; /* or NULL */
    double joules;          /* when the prompt was evaluated */
} writer;

/* What a text took. */
typedef struct consumption {
    bl_energy prompt, generated; /* of all tokens; unknown when it can be neither measured ... */
    const char *source;          /* of what is measured */
} consumption;

/* ... nor estimated: what a batch of guessed tokens reads is not counted. */
static consumption consumed(const engine *e, writer *w, size_t n_batch,
                            const bl_generate_result *r) {
    double joules;
    bl_energy_estimate prompt, generated;
    consumption c = {0};
    if (w->meter && bl_energy_meter_read(w->meter, &joules)) {
        c.prompt = (bl_energy){BL_ENERGY_MEASURED, w->joules};
        c.generated = (bl_energy){BL_ENERGY_MEASURED, joules - w->joules};
        c.source = bl_energy_meter_source(w->meter);
    } else if (!e->speculator) {
        bl_energy_estimate_text(e->session, n_batch, r->n_prompt, r->n_generated, &prompt,
                                &generated);
        c.prompt = (bl_energy){BL_ENERGY_ESTIMATED, prompt.arithmetic + prompt.memory};
        c.generated = (bl_energy){BL_ENERGY_ESTIMATED, generated.arithmetic + generated.memory};
    }
    return c;
}

static double per_token(const bl_energy *energy, size_t n) {
    return n ? energy->joules / (double)n : 0;
}

static void print_energy(const consumption *c, const bl_generate_result *r) {
    if (c->prompt.kind != BL_ENERGY_UNKNOWN)
        note("energy, %s: %.3g J a prompt token, %.3g J a generated one%s%s",
             bl_energy_kind_name(c->prompt.kind), per_token(&c->prompt, r->n_prompt),
             per_token(&c->generated, r->n_generated), c->source ? "; " : "",
             c->source ? c->source : "");
}

static bool take_text(void *user, const char *text, size_t len) {
    writer *w = user;
    w->ends_line = text[len - 1] == '\n';
    if (w->kept)
        return bl__buffer_append(w->kept, text, len) && !interrupts_seen();
    return output_text(text, len) && !interrupts_seen();
}

static bool take_progress(void *user, size_t n_done, size_t n_prompt) {
    writer *w = user;
    if (n_done == n_prompt && w->meter && !bl_energy_meter_read(w->meter, &w->joules))
        w->joules = 0;
    if (w->shows_progress && n_done < n_prompt)
        fprintf(stderr, "\rprompt: %zu of %zu tokens", n_done, n_prompt);
    else if (w->shows_progress)
        fputs("\r\033[K", stderr);
    return !interrupts_seen();
}

static json_t *speculation_json(const engine *e) {
    bl_speculation f = bl_speculator_figures(e->speculator);
    return json_pack("{s:I, s:I, s:I, s:I, s:f}", "batches", (json_int_t)f.n_batches, "drafted",
                     (json_int_t)f.n_drafted, "accepted", (json_int_t)f.n_accepted, "plain_tokens",
                     (json_int_t)f.n_plain, "gain", f.gain);
}

static double share(uint64_t part, uint64_t all) {
    return all ? (double)part / (double)all : 0;
}

static json_t *energy_json(const consumption *c) {
    return json_pack("{s:s, s:s?, s:f, s:f}", "kind", bl_energy_kind_name(c->prompt.kind), "source",
                     c->source, "prompt_joules", c->prompt.joules, "generate_joules",
                     c->generated.joules);
}

static int print_json(const engine *e, const bl_generate_result *r, const bl__buffer *text,
                      const consumption *energy) {
    bl_skipped skipped = bl_session_skipped(e->session);
    json_t *object = json_pack(
        "{s:s, s:s%, s:s, s:I, s:I, s:f, s:f, s:I, s:s, s:I, s:f, s:f}", "model", e->path, "text",
        text->len ? text->data : "", text->len, "stop_reason", stop_reason_text(r->reason),
        "prompt_tokens", (json_int_t)r->n_prompt, "generated_tokens", (json_int_t)r->n_generated,
        "prompt_seconds", r->prompt_seconds, "generate_seconds", r->generate_seconds, "seed",
        (json_int_t)e->seed, "kernel", bl_kernel_level(), "threads", (json_int_t)e->n_threads,
        "share_of_rows_skipped", share(skipped.rows_skipped, skipped.rows),
        "share_of_columns_skipped", share(skipped.columns_skipped, skipped.columns));
    if (object && e->matcher)
        json_object_set_new(object, "whole", json_boolean(bl_matcher_may_end(e->matcher)));
    if (object)
        json_object_set_new(object, "energy", energy_json(energy));
    if (object && e->speculator)
        json_object_set_new(object, "speculation", speculation_json(e));
    char *dump = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!dump)
        return fail_with("run", "out of memory, or text that JSON cannot hold");
    output_write(dump, strlen(dump));
    output_write("\n", 1);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(dump);
    return EXIT_SUCCESS;
}

/* Generates and prints; the engine is open and the prompt encoded. */
static int generate(engine *e, const run_settings *s, const bl_token *ids, size_t n_ids) {
    bl__buffer text = bl__buffer_make((size_t)1 << 30);
    writer w = {.kept = s->json ? &text : NULL,
                .ends_line = true,
                .shows_progress = !s->quiet && n_ids > LONG_PROMPT && isatty(STDERR_FILENO)};
    if ((s->quiet && !s->json) || bl_energy_meter_open(&w.meter, NULL) != BL_OK)
        w.meter = NULL;
    e->params.on_prompt = take_progress;
    bl_generate_result result;
    bl_error err;
    int status = EXIT_SUCCESS;
    if (bl_generate(e->session, e->tokenizer, e->sampler, ids, n_ids, &e->params, take_text, &w,
                    &result, &err) != BL_OK) {
        status = fail_error("run", &err);
    } else {
        consumption energy = consumed(e, &w, (size_t)s->model.batch, &result);
        if (s->json)
            status = print_json(e, &result, &text, &energy);
        else if (!w.ends_line)
            output_write("\n", 1);
        if (!s->quiet) {
            print_speed(e, &result);
            print_energy(&energy, &result);
        }
        report_constraint(e);
        if (interrupts_seen())
            status = EXIT_INTERRUPTED;
    }
    bl_energy_meter_close(w.meter);
    bl__buffer_free(&text);
    return status;
}

static int run_engine(engine *e, const run_settings *s, const char *text, size_t len) {
    bl_token *ids = NULL;
    size_t n_ids = 0;
    bl_error err;
    if (encode_prompt(e->tokenizer, text, len, !s->no_bos, &ids, &n_ids, &err) != BL_OK)
        return fail_error("run", &err);
    if (n_ids == 0) {
        bl_free(ids);
        return fail_with("run", "the prompt is empty and the model has no BOS token to begin with");
    }
    /* Shown where the text can follow it on the screen, never in a pipe. */
    if (!s->quiet && !s->json && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO))
        fprintf(stderr, "%s%s%s", bold_on(STDERR_FILENO), text, style_off(STDERR_FILENO));
    interrupts_catch(2);
    keep_start(e, ids, n_ids);
    int status = generate(e, s, ids, n_ids);
    bl_free(ids);
    return status;
}

static int run(int argc, char **argv) {
    run_settings s = {.model = default_model_settings(),
                      .sampling = default_sampling_settings(128)};
    switch (options_parse(&RUN_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (s.prompt && s.file)
        return options_complain(&RUN_COMMAND, "--prompt and --file: expected one of them");
    if (!s.prompt && !s.file && isatty(STDIN_FILENO))
        return options_complain(&RUN_COMMAND, "no prompt: give -p TEXT, -f FILE or pipe one in");
    char *text = NULL;
    size_t len = 0;
    int status = read_prompt(&s, &text, &len);
    engine e = {0};
    if (status == EXIT_SUCCESS)
        status = engine_open(&e, &RUN_COMMAND, &s.model, &s.sampling, s.quiet);
    if (status == EXIT_SUCCESS && s.verbose)
        note_memory(&e);
    if (status == EXIT_SUCCESS)
        status = engine_speculate(&e, &RUN_COMMAND, &s.speculation);
    if (status == EXIT_SUCCESS)
        status = engine_constrain(&e, &RUN_COMMAND, &s.constraint);
    if (status == EXIT_SUCCESS)
        status = run_engine(&e, &s, text, len);
    engine_close(&e);
    bl__free(text);
    return status;
}

const command RUN_COMMAND = {
    .name = "run",
    .summary = "continue a text",
    .description =
        "Evaluates a prompt and writes its continuation to standard output as it comes. Model,\n"
        "speed and seed go to standard error. The same model, prompt, options and seed give the\n"
        "same text on every machine and with any number of threads.",
    .examples = "  bitloom run -p \"Once upon a time\"\n"
                "  bitloom run -m model.gguf -p \"It was\" -n 200 --temp 0.7 --seed 1\n"
                "  bitloom run -f prompt.txt --temp 0 2>/dev/null >answer.txt\n"
                "  echo \"Dear Sir,\" | bitloom run --stop \"Yours\"\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
