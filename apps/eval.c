/* Owns `bitloom eval`: files of items, one or several models, a line for each pair. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

typedef struct eval_settings {
    option_list models, files;
    const char *task, *numa, *cache_type, *samples;
    int64_t items, ctx, batch, threads;
    bool json, quiet;
} eval_settings;

#define EVAL(field) offsetof(eval_settings, field)

static const option OPTIONS[] = {
    {'m', "model", NULL, OPTION_LIST, "FILE", EVAL(models), 0, 0, NULL,
     "GGUF model; may be repeated (default as bitloom run)"},
    {'f', "file", NULL, OPTION_LIST, "FILE", EVAL(files), 0, 0, NULL,
     "items, a JSON object on each line; - reads standard input; may be repeated"},
    {0, "task", NULL, OPTION_CHOICE, "NAME", EVAL(task), 0, 0,
     "auto arc boolq hellaswag openbookqa piqa winogrande",
     "whose fields the lines have; auto: told by the first line (default)"},
    {0, "items", "--limit", OPTION_INTEGER, "N", EVAL(items), 0, UINT32_MAX, NULL,
     "only the first N of each file; 0 = all (default)"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", EVAL(ctx), 0, 1 << 20, NULL,
     "tokens that are evaluated for a choice, contexts beyond are cut at their beginning; 0 = as "
     "the model was trained (default)"},
    {'b', "batch-size", NULL, OPTION_INTEGER, "N", EVAL(batch), 0, 65536, NULL,
     "tokens evaluated together; 0 = 512 (default)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", EVAL(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "numa", NULL, OPTION_CHOICE, "HOW", EVAL(numa), 0, 0, NUMA_CHOICES, NUMA_HELP},
    {0, "cache-type", NULL, OPTION_CHOICE, "TYPE", EVAL(cache_type), 0, 0, CACHE_CHOICES,
     CACHE_HELP},
    {0, "samples", NULL, OPTION_TEXT, "FILE", EVAL(samples), 0, 0, NULL,
     "write what was chosen for each item, a JSON object on each line"},
    {0, "json", NULL, OPTION_FLAG, NULL, EVAL(json), 0, 0, NULL, "print one JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, EVAL(quiet), 0, 0, NULL, "show no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

/* A model and a file in hand. */
typedef struct course {
    const char *model, *file;
    const bl_eval_set *set;
    bl__outfile *samples;    /* or NULL */
    bl_status sample_status; /* why samples cannot be written */
    bl_error sample_err;
    bool is_shown;
    double shown_at;
} course;

static bl_status write_sample(course *c, const bl_eval_answer *a) {
    bl_eval_item item;
    bl_eval_set_get(c->set, a->item, &item);
    json_t *scores = json_array();
    for (uint32_t i = 0; i < item.n_choices; i++)
        json_array_append_new(scores, json_real(a->log_likelihoods[i]));
    json_t *line =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "model", c->model, "file", c->file,
                  "line", (json_int_t)item.line, "gold", (json_int_t)item.gold, "chosen",
                  (json_int_t)a->chosen, "chosen_by_chars", (json_int_t)a->chosen_by_chars,
                  "chosen_by_bytes", (json_int_t)a->chosen_by_bytes, "log_likelihoods", scores);
    char *text = line ? json_dumps(line, 0) : NULL;
    json_decref(line);
    if (!text) {
        c->sample_err = (bl_error){.code = BL_ERR_MEMORY};
        snprintf(c->sample_err.message, sizeof c->sample_err.message,
                 "--samples: a name that is not UTF-8, or memory is short");
        return BL_ERR_MEMORY;
    }
    bl_status status = bl__outfile_write(c->samples, text, strlen(text), &c->sample_err);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return status ? status : bl__outfile_write(c->samples, "\n", 1, &c->sample_err);
}

static bool take_answer(void *user, const bl_eval_answer *answer, const bl_eval_result *r,
                        uint64_t n_items) {
    course *c = user;
    double now = seconds_now();
    if (c->is_shown && now - c->shown_at > 0.1) {
        double left = r->seconds / (double)r->n_items * (double)(n_items - r->n_items);
        fprintf(stderr, "\r%s: item %llu of %llu, acc %.4f, %.0f tokens/s, %.0f s left \033[K",
                bl_eval_task_name(bl_eval_set_task(c->set)), (unsigned long long)r->n_items,
                (unsigned long long)n_items, r->acc.mean, r->tokens_per_second, left);
        c->shown_at = now;
    }
    if (c->samples)
        c->sample_status = write_sample(c, answer);
    return !c->sample_status && !interrupts_seen();
}

static void print_head(void) {
    printf("%s%-11s %7s %8s %8s %9s %8s %10s %8s %9s%s  %s\n", bold_on(STDOUT_FILENO), "TASK",
           "ITEMS", "ACC", "+-", "ACC_NORM", "+-", "ACC_BYTES", "+-", "TOKENS/S",
           style_off(STDOUT_FILENO), "MODEL");
}

static void print_row(const course *c, const bl_eval_result *r) {
    printf("%-11s %7llu %8.4f %8.4f ", bl_eval_task_name(bl_eval_set_task(c->set)),
           (unsigned long long)r->n_items, r->acc.mean, r->acc.error);
    if (bl_eval_set_has_lengths(c->set))
        printf("%9.4f %8.4f %10.4f %8.4f", r->norm.mean, r->norm.error, r->bytes.mean,
               r->bytes.error);
    else
        printf("%9s %8s %10s %8s", "-", "-", "-", "-");
    printf(" %9.1f  %s\n", r->tokens_per_second, c->model);
    if (r->n_cut)
        printf("  contexts of %llu choices were longer than the model's and cut\n",
               (unsigned long long)r->n_cut);
    fflush(stdout);
}

static bool add_json(json_t *rows, const course *c, const bl_model_info *info,
                     const bl_eval_result *r) {
    json_t *row = json_pack(
        "{s:s, s:s%, s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:f, s:f}", "model", c->model,
        "model_name", info->name, strlen(info->name), "model_type", info->weights, "file", c->file,
        "task", bl_eval_task_name(bl_eval_set_task(c->set)), "items", (json_int_t)r->n_items, "acc",
        r->acc.mean, "acc_stderr", r->acc.error, "choices_cut", (json_int_t)r->n_cut,
        "evaluated_tokens", (json_int_t)r->n_evaluated, "seconds", r->seconds, "tokens_per_second",
        r->tokens_per_second);
    if (row && bl_eval_set_has_lengths(c->set)) {
        json_object_set_new(row, "acc_norm", json_real(r->norm.mean));
        json_object_set_new(row, "acc_norm_stderr", json_real(r->norm.error));
        json_object_set_new(row, "acc_bytes", json_real(r->bytes.mean));
        json_object_set_new(row, "acc_bytes_stderr", json_real(r->bytes.error));
    }
    return row && json_array_append_new(rows, row) == 0;
}

/* What all pairs share. */
typedef struct evaluation {
    const eval_settings *settings;
    bl_eval_set *sets[OPTION_LIST_MAX]; /* one for each file */
    bl__outfile *samples;
    json_t *rows; /* NULL: a table */
} evaluation;

static int complain(const char *what, bl_status status, const bl_error *err) {
    if (what)
        fail_with("eval", "%s: %s", what, err->message);
    else
        fail_error("eval", err);
    return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
}

static int run_file(const evaluation *e, course *c, const bl_model *model,
                    const bl_tokenizer *tokenizer) {
    const eval_settings *s = e->settings;
    const bl_eval_params params = {.max_items = (uint32_t)s->items,
                                   .session = {.n_ctx = (uint32_t)s->ctx,
                                               .n_batch = (uint32_t)s->batch,
                                               .n_threads = (uint32_t)s->threads,
                                               .cache_type = cache_type_of(s->cache_type)}};
    bl_eval_result result;
    bl_error err;
    c->sample_status = BL_OK;
    bl_status status =
        bl_eval_run(model, tokenizer, c->set, &params, take_answer, c, &result, &err);
    if (c->is_shown)
        fputs("\r\033[K", stderr);
    if (status)
        return c->sample_status ? complain(NULL, c->sample_status, &c->sample_err)
                                : complain(c->file, status, &err);
    if (!e->rows)
        print_row(c, &result);
    else if (!add_json(e->rows, c, bl_model_get_info(model), &result))
        return fail_with("eval", "%s: a name that is not UTF-8, or memory is short", c->model);
    return EXIT_SUCCESS;
}

static int run_model(const evaluation *e, const char *path) {
    const eval_settings *s = e->settings;
    course c = {.model = path, .samples = e->samples};
    bl_model *model = NULL;
    bl_tokenizer *tokenizer = NULL;
    bl_error err;
    int status = EXIT_SUCCESS;
    c.is_shown = !s->quiet && isatty(STDERR_FILENO);
    const bl_model_params params = {.n_threads = (uint32_t)s->threads};
    if (bl_model_open(path, &params, &model, &err) != BL_OK ||
        bl_tokenizer_open(path, &tokenizer, &err) != BL_OK)
        status = fail_error("eval", &err);
    for (size_t i = 0; i < s->files.n && status == EXIT_SUCCESS; i++) {
        c.file = s->files.items[i];
        c.set = e->sets[i];
        status = run_file(e, &c, model, tokenizer);
    }
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    return status;
}

static bl_eval_task task_of(const char *name) {
    bl_eval_task task = BL_EVAL_WINOGRANDE;
    while (task != BL_EVAL_AUTO && strcmp(name, bl_eval_task_name(task)) != 0)
        task--;
    return task;
}

static int read_sets(evaluation *e) {
    const eval_settings *s = e->settings;
    for (size_t i = 0; i < s->files.n; i++) {
        char *text;
        size_t len;
        bl_error err;
        bl_status status = read_input(s->files.items[i], &text, &len, &err);
        if (status)
            return complain(NULL, status, &err);
        status = bl_eval_set_read(text, len, task_of(s->task), &e->sets[i], &err);
        bl__free(text);
        if (status)
            return complain(s->files.items[i], status, &err);
    }
    return EXIT_SUCCESS;
}

static int print_json(const eval_settings *s, json_t *rows) {
    json_t *root = json_pack("{s:s, s:s, s:I, s:O}", "version", bl_version(), "kernels",
                             bl_kernel_level(), "n_ctx", (json_int_t)s->ctx, "results", rows);
    if (!root)
        return fail_with("eval", "out of memory");
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
    return EXIT_SUCCESS;
}

static int run_all(const eval_settings *s, const char *const *paths, size_t n_paths) {
    evaluation e = {.settings = s, .rows = s->json ? json_array() : NULL};
    bl_error err;
    int status = read_sets(&e);
    if (status == EXIT_SUCCESS && s->samples && bl__outfile_open(s->samples, &e.samples, &err))
        status = fail_error("eval", &err);
    if (status == EXIT_SUCCESS && !s->json)
        print_head();
    for (size_t i = 0; i < n_paths && status == EXIT_SUCCESS; i++)
        status = run_model(&e, paths[i]);
    if (e.samples && status == EXIT_SUCCESS) {
        if (bl__outfile_commit(e.samples, &err))
            status = fail_error("eval", &err);
    } else {
        bl__outfile_abort(e.samples);
    }
    if (s->json && status == EXIT_SUCCESS)
        status = print_json(s, e.rows);
    for (size_t i = 0; i < s->files.n; i++)
        bl_eval_set_free(e.sets[i]);
    json_decref(e.rows);
    return status;
}

static int run(int argc, char **argv) {
    eval_settings s = {.task = "auto"};
    switch (options_parse(&EVAL_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.files.n)
        return options_complain(&EVAL_COMMAND, "-f FILE is missing");
    char *standard = NULL;
    if (!s.models.n && !(standard = find_model(&EVAL_COMMAND, NULL)))
        return EXIT_USAGE;
    interrupts_catch(2);
    int status = !place_memory(&EVAL_COMMAND, s.numa) ? EXIT_FAILURE
                 : standard ? run_all(&s, (const char *const *)&standard, 1)
                            : run_all(&s, s.models.items, s.models.n);
    bl__free(standard);
    return output_finish(status);
}

const command EVAL_COMMAND = {
    .name = "eval",
    .summary = "measure how often models find the right one of several answers",
    .description =
        "Reads items of HellaSwag, ARC, PIQA, WinoGrande, BoolQ or OpenBookQA, as they are\n"
        "published as JSON lines, asks without examples, and scores as lm-evaluation-harness "
        "does:\n"
        "acc by the likeliest answer, acc_norm and acc_bytes by the likeliest for each character\n"
        "or byte of it, with standard errors.",
    .examples = "  bitloom eval -m model.gguf -f hellaswag_val.jsonl\n"
                "  bitloom eval -m a.gguf -m b.gguf -f piqa.jsonl -f arc.jsonl --items 500\n"
                "  bitloom eval -m model.gguf -f ARC-Easy-Test.jsonl --task arc --json\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
