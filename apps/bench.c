/* Owns `bitloom bench`: lists of tests from the command line, and three ways to print what
 * bl_bench_run() measured. */
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

enum { MAX_LIST = 32, NAME_BYTES = 48 };

typedef struct bench_settings {
    option_list models;
    const char *prompts, *generates, *streams, *depths, *threads, *numa, *cache_type, *head;
    const char *sparsity, *file;
    int64_t batch, repeats;
    bool json, csv, quiet;
} bench_settings;

#define BENCH(field) offsetof(bench_settings, field)

static const option OPTIONS[] = {
    {'m', "model", NULL, OPTION_LIST, "FILE", BENCH(models), 0, 0, NULL,
     "GGUF model; may be repeated (default as bitloom run)"},
    {'p', "n-prompt", NULL, OPTION_TEXT, "N,...", BENCH(prompts), 0, 0, NULL,
     "tokens of a prompt, evaluated together (default 512; 0 = no such test)"},
    {'n', "n-gen", NULL, OPTION_TEXT, "N,...", BENCH(generates), 0, 0, NULL,
     "tokens generated, one after the other (default 128; 0 = no such test)"},
    {'S', "streams", NULL, OPTION_TEXT, "N,...", BENCH(streams), 0, 0, NULL,
     "texts generated side by side, each of n-gen tokens; rates are of all together (default 1)"},
    {'d', "n-depth", NULL, OPTION_TEXT, "N,...", BENCH(depths), 0, 0, NULL,
     "tokens in the context before (default 0)"},
    {'t', "threads", NULL, OPTION_TEXT, "N,...", BENCH(threads), 0, 0, NULL,
     "threads; 0 = one for each physical core (default)"},
    {'b', "batch-size", NULL, OPTION_INTEGER, "N", BENCH(batch), 1, 65536, NULL,
     "prompt tokens evaluated together (default 512)"},
    {'r', "repetitions", NULL, OPTION_INTEGER, "N", BENCH(repeats), 1, BL_BENCH_MAX_REPEATS, NULL,
     "times that each test is run (default 5)"},
    {0, "numa", NULL, OPTION_CHOICE, "HOW", BENCH(numa), 0, 0, NUMA_CHOICES, NUMA_HELP},
    {0, "cache-type", NULL, OPTION_CHOICE, "TYPE", BENCH(cache_type), 0, 0, CACHE_CHOICES,
     CACHE_HELP},
    {0, "head", NULL, OPTION_CHOICE, "HOW", BENCH(head), 0, 0, HEAD_CHOICES, HEAD_HELP},
    {0, "sparsity", NULL, OPTION_CHOICE, "WHEN", BENCH(sparsity), 0, 0, SPARSITY_CHOICES,
     SPARSITY_HELP},
    {'f', "file", NULL, OPTION_TEXT, "FILE", BENCH(file), 0, 0, NULL,
     "evaluate the tokens of this text, - for standard input (default random tokens)"},
    {0, "json", NULL, OPTION_FLAG, NULL, BENCH(json), 0, 0, NULL, "print one JSON object"},
    {0, "csv", NULL, OPTION_FLAG, NULL, BENCH(csv), 0, 0, NULL, "print lines of CSV"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, BENCH(quiet), 0, 0, NULL, "show no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

typedef struct number_list {
    uint32_t items[MAX_LIST];
    size_t n;
} number_list;

/* What all tests share. */
typedef struct bench {
    const bench_settings *settings;
    number_list prompts, generates, streams, depths, threads;
    bl_bench_limits limits[MAX_LIST]; /* one for each of threads */
    json_t *root, *results;           /* with --json */
    char *text;                       /* of --file, or NULL */
    size_t len;
    bl_energy_meter *meter; /* NULL: energy is estimated, because of ... */
    bl_error no_meter;
    bl_token *tokens; /* the same by the tokenizer of the model in hand */
    size_t n_tokens;
    bool is_shown;         /* progress */
    char test[NAME_BYTES]; /* the one in hand */
    uint32_t n_threads;
} bench;

/* Reads "1,2,4"; complains and returns false when it is anything else. */
static bool parse_list(const char *name, const char *text, uint32_t max, number_list *out) {
    out->n = 0;
    for (const char *at = text;;) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || value > max || (*end && *end != ',')) {
            options_complain(&BENCH_COMMAND,
                             "--%s: found \"%s\", expected whole numbers up to %u with commas "
                             "between them",
                             name, text, max);
            return false;
        }
        if (out->n == MAX_LIST) {
            options_complain(&BENCH_COMMAND, "--%s: more than %d numbers", name, MAX_LIST);
            return false;
        }
        out->items[out->n++] = (uint32_t)value;
        if (!*end)
            return true;
        at = end + 1;
    }
}

/* "pp512", "tg128 @ d1024": as llama-bench calls them; "tg128 x8" for 8 streams. */
static void name_test(const bl_bench_test *test, char name[NAME_BYTES]) {
    int n = snprintf(name, NAME_BYTES, "%s%u", test->n_prompt ? "pp" : "tg",
                     test->n_prompt ? test->n_prompt : test->n_generate);
    if (test->n_streams > 1 && n > 0)
        n += snprintf(name + n, NAME_BYTES - (size_t)n, " x%u", test->n_streams);
    if (test->depth && n > 0)
        snprintf(name + n, NAME_BYTES - (size_t)n, " @ d%u", test->depth);
}

static void show(const bench *b, const char *what) {
    if (b->is_shown)
        fprintf(stderr, "\r%s, %u thread%s \033[K", what, b->n_threads,
                b->n_threads == 1 ? "" : "s");
}
static void clear_progress(const bench *b) {
    if (b->is_shown)
        fputs("\r\033[K", stderr);
}

static bool show_progress(void *user, uint32_t n_done) {
    const bench *b = user;
    char text[NAME_BYTES + 32];
    snprintf(text, sizeof text, "%s: %u of %u", b->test, n_done + 1,
             (unsigned)b->settings->repeats);
    show(b, text);
    return !interrupts_seen();
}

static double share(uint64_t part, uint64_t all) {
    return all ? (double)part / (double)all : 0;
}

/* ---- a table ---- */

static void print_limits(const bench *b) {
    const char *bold = bold_on(STDOUT_FILENO), *off = style_off(STDOUT_FILENO);
    printf("bitloom %s, %s, kernels %s\n\n", bl_version(),
           *bl_cpu_name() ? bl_cpu_name() : "unknown CPU", bl_kernel_level());
    printf("%s%-24s", bold, "LIMITS");
    for (size_t i = 0; i < b->threads.n; i++) {
        char head[32];
        snprintf(head, sizeof head, "%u THREAD%s", b->limits[i].n_threads,
                 b->limits[i].n_threads == 1 ? "" : "S");
        printf(" %16s", head);
    }
    printf("%s\n%-24s", off, "memory, read");
    for (size_t i = 0; i < b->threads.n; i++)
        printf(" %11.1f GB/s", b->limits[i].read_bandwidth * 1e-9);
    putchar('\n');
    for (size_t p = 0; p < b->limits[0].n_peaks; p++) {
        const bl_bench_peak *peak = &b->limits[0].peaks[p];
        char name[32];
        snprintf(name, sizeof name, "int8, %s%s", peak->level, peak->allowed ? "" : " (capped)");
        printf("%-24s", name);
        for (size_t i = 0; i < b->threads.n; i++)
            printf(" %10.1f Gop/s", b->limits[i].peaks[p].ops_per_second * 1e-9);
        putchar('\n');
    }
    printf("%-24s %s (%s)\n", "energy", b->meter ? "measured" : "estimated",
           b->meter ? bl_energy_meter_source(b->meter) : b->no_meter.message);
}

static void print_model_head(const char *path, const bl_model_info *info) {
    printf("\n%s: %s, %s, %.1f M weights, %s\n", path, *info->name ? info->name : "no name",
           info->weights, (double)info->n_params * 1e-6, format_bytes((double)info->file_bytes));
    printf("%s%-16s %7s %10s %10s %10s %10s %10s %9s %15s%s  %s\n", bold_on(STDOUT_FILENO), "TEST",
           "THREADS", "TOKENS/S", "SLOWEST", "FASTEST", "MB/TOKEN", "BANDWIDTH", "INT8 PEAK",
           "J/TOKEN", style_off(STDOUT_FILENO), "KERNELS");
}

static void print_row(const char *name, const bl_bench_result *r) {
    printf("%-16s %7u %10.2f %10.2f %10.2f %10.3f %8.1f %% %7.1f %% %10.3g %-4s  %s\n", name,
           r->test.n_threads, r->tokens_per_second, r->slowest, r->fastest,
           r->bytes_per_token * 1e-6, 100 * r->share_of_bandwidth, 100 * r->share_of_int8_peak,
           r->energy_per_token.joules,
           r->energy_per_token.kind == BL_ENERGY_MEASURED ? "meas" : "est", bl_kernel_level());
    if (r->skipped.rows && r->test.n_generate)
        printf("  skipped: %.1f %% of rows of up, %.1f %% of columns of down; %.3f MB/token "
               "otherwise\n",
               100 * share(r->skipped.rows_skipped, r->skipped.rows),
               100 * share(r->skipped.columns_skipped, r->skipped.columns),
               r->bytes_per_token_unskipped * 1e-6);
    fflush(stdout);
}

/* ---- CSV ---- */

static void print_csv_head(void) {
    puts("model,model_name,model_type,model_bytes,n_params,cpu,kernels,test,n_prompt,n_gen,n_depth,"
         "streams,threads,batch,repetitions,tokens_per_second,tokens_per_second_min,tokens_per_"
         "second_max,"
         "bytes_per_token,int8_ops_per_token,share_of_bandwidth,share_of_int8_peak,read_bandwidth,"
         "int8_peak,head_bytes_per_token,head_share_read,bytes_per_token_unskipped,"
         "share_of_rows_skipped,share_of_columns_skipped,joules_per_token,energy");
}

/* A text in quotes, with those in it doubled and control characters left out. */
static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        if ((unsigned char)*text >= ' ')
            putchar(*text);
    }
    fputs("\",", stdout);
}

static void print_csv(const char *path, const bl_model_info *info, const char *name,
                      const bl_bench_result *r, const bl_bench_limits *limits) {
    print_quoted(path);
    print_quoted(info->name);
    printf("%s,%llu,%llu,", info->weights, (unsigned long long)info->file_bytes,
           (unsigned long long)info->n_params);
    print_quoted(bl_cpu_name());
    printf("%s,%s,%u,%u,%u,%u,%u,%u,%u,%.6g,%.6g,%.6g,%.9g,%.9g,%.6g,%.6g,%.6g,%.6g,%.9g,"
           "%.6g,%.9g,%.6g,%.6g,%.6g,%s\n",
           bl_kernel_level(), name, r->test.n_prompt, r->test.n_generate, r->test.depth,
           r->test.n_streams, r->test.n_threads, r->test.n_batch, r->test.n_repeats,
           r->tokens_per_second, r->slowest, r->fastest, r->bytes_per_token, r->int8_ops_per_token,
           r->share_of_bandwidth, r->share_of_int8_peak, limits->read_bandwidth, limits->int8_peak,
           r->head_bytes_per_token, r->head_share_read, r->bytes_per_token_unskipped,
           share(r->skipped.rows_skipped, r->skipped.rows),
           share(r->skipped.columns_skipped, r->skipped.columns), r->energy_per_token.joules,
           bl_energy_kind_name(r->energy_per_token.kind));
    fflush(stdout);
}

/* ---- JSON ---- */

static bool start_json(bench *b) {
    json_t *limits = json_array();
    b->results = json_array();
    for (size_t i = 0; i < b->threads.n; i++) {
        const bl_bench_limits *l = &b->limits[i];
        json_t *peaks = json_object();
        for (size_t p = 0; p < l->n_peaks; p++)
            json_object_set_new(peaks, l->peaks[p].level, json_real(l->peaks[p].ops_per_second));
        json_array_append_new(limits,
                              json_pack("{s:I, s:f, s:f, s:o}", "threads", (json_int_t)l->n_threads,
                                        "read_bandwidth", l->read_bandwidth, "int8_peak",
                                        l->int8_peak, "int8_peaks", peaks));
    }
    b->root = json_pack("{s:s, s:s, s:s, s:s?, s:o, s:O}", "version", bl_version(), "cpu",
                        bl_cpu_name(), "kernels", bl_kernel_level(), "energy_source",
                        b->meter ? bl_energy_meter_source(b->meter) : NULL, "limits", limits,
                        "results", b->results);
    return b->root != NULL;
}

static bool add_json(bench *b, const char *path, const bl_model_info *info, const char *name,
                     const bl_bench_result *r) {
    json_t *samples = json_array();
    for (uint32_t i = 0; i < r->test.n_repeats; i++)
        json_array_append_new(samples, json_real(r->samples[i]));
    json_t *row = json_pack(
        "{s:s, s:s%, s:s, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I}", "model",
        path, "model_name", info->name, strlen(info->name), "model_type", info->weights,
        "model_bytes", (json_int_t)info->file_bytes, "n_params", (json_int_t)info->n_params,
        "kernels", bl_kernel_level(), "test", name, "n_prompt", (json_int_t)r->test.n_prompt,
        "n_gen", (json_int_t)r->test.n_generate, "streams", (json_int_t)r->test.n_streams,
        "n_depth", (json_int_t)r->test.depth, "threads", (json_int_t)r->test.n_threads, "batch",
        (json_int_t)r->test.n_batch, "cache_type", cache_type_name(r->test.cache_type),
        "session_bytes", (json_int_t)r->session_bytes);
    json_t *figures = json_pack(
        "{s:f, s:f, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "tokens_per_second",
        r->tokens_per_second, "tokens_per_second_min", r->slowest, "tokens_per_second_max",
        r->fastest, "samples", samples, "bytes_per_token", r->bytes_per_token, "int8_ops_per_token",
        r->int8_ops_per_token, "share_of_bandwidth", r->share_of_bandwidth, "share_of_int8_peak",
        r->share_of_int8_peak, "head_bytes_per_token", r->head_bytes_per_token, "head_share_read",
        r->head_share_read, "bytes_per_token_unskipped", r->bytes_per_token_unskipped,
        "share_of_rows_skipped", share(r->skipped.rows_skipped, r->skipped.rows),
        "share_of_columns_skipped", share(r->skipped.columns_skipped, r->skipped.columns));
    if (figures) {
        json_object_set_new(figures, "joules_per_token", json_real(r->energy_per_token.joules));
        json_object_set_new(figures, "energy",
                            json_string(bl_energy_kind_name(r->energy_per_token.kind)));
    }
    bool ok = row && figures && json_object_update(row, figures) == 0 &&
              json_array_append(b->results, row) == 0;
    json_decref(row);
    json_decref(figures);
    return ok;
}

/* ---- the course ---- */

static int run_test(bench *b, const char *path, const bl_model *model, const bl_bench_test *test,
                    const bl_bench_limits *limits) {
    const bl_model_info *info = bl_model_get_info(model);
    bl_bench_result result;
    bl_error err;
    name_test(test, b->test);
    b->n_threads = test->n_threads;
    bl_status status = bl_bench_run(model, test, limits, show_progress, b, &result, &err);
    clear_progress(b);
    if (status != BL_OK) {
        fail_with("bench", "%s: %s: %s", path, b->test, err.message);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    if (b->settings->json && !add_json(b, path, info, b->test, &result))
        return fail_with("bench", "%s: a name that is not UTF-8, or memory is short", path);
    if (b->settings->csv)
        print_csv(path, info, b->test, &result, limits);
    if (!b->settings->json && !b->settings->csv)
        print_row(b->test, &result);
    return EXIT_SUCCESS;
}

/* The tests of one thread count and depth: prompts, then generation by each number of streams. */
static int run_tests(bench *b, const char *path, const bl_model *model, bl_bench_test test,
                     const bl_bench_limits *limits) {
    int status = EXIT_SUCCESS;
    for (size_t i = 0; i < b->prompts.n && status == EXIT_SUCCESS; i++) {
        test.n_prompt = b->prompts.items[i];
        if (test.n_prompt)
            status = run_test(b, path, model, &test, limits);
    }
    test.n_prompt = 0;
    for (size_t i = 0; i < b->generates.n; i++)
        for (size_t s = 0; s < b->streams.n && status == EXIT_SUCCESS; s++) {
            test.n_generate = b->generates.items[i];
            test.n_streams = b->streams.items[s];
            if (test.n_generate)
                status = run_test(b, path, model, &test, limits);
        }
    return status;
}

/* The text in the tokens of a model; complains and returns false when that fails. */
static bool encode_text(bench *b, const char *path) {
    bl_tokenizer *tokenizer = NULL;
    bl_error err;
    bl_status status = bl_tokenizer_open(path, &tokenizer, &err);
    if (status == BL_OK)
        status = encode_prompt(tokenizer, b->text, b->len, true, &b->tokens, &b->n_tokens, &err);
    bl_tokenizer_close(tokenizer);
    if (status != BL_OK)
        fail_error("bench", &err);
    return status == BL_OK;
}

static int run_model(bench *b, const char *path) {
    bl_model *model = NULL;
    bl_error err;
    int status = EXIT_SUCCESS;
    const bl_model_params params = {.sparsity = parse_sparsity(b->settings->sparsity)};
    if (bl_model_open(path, &params, &model, &err) != BL_OK)
        return fail_error("bench", &err);
    if (b->text && !encode_text(b, path)) {
        bl_model_close(model);
        return EXIT_FAILURE;
    }
    if (!b->settings->json && !b->settings->csv)
        print_model_head(path, bl_model_get_info(model));
    for (size_t t = 0; t < b->threads.n; t++)
        for (size_t d = 0; d < b->depths.n && status == EXIT_SUCCESS; d++) {
            const bl_bench_test test = {.depth = b->depths.items[d],
                                        .n_batch = (uint32_t)b->settings->batch,
                                        .n_threads = b->limits[t].n_threads,
                                        .cache_type = cache_type_of(b->settings->cache_type),
                                        .n_repeats = (uint32_t)b->settings->repeats,
                                        .head = head_of(b->settings->head),
                                        .meter = b->meter,
                                        .tokens = b->tokens,
                                        .n_tokens = b->n_tokens};
            status = run_tests(b, path, model, test, &b->limits[t]);
        }
    bl_model_close(model);
    bl_free(b->tokens);
    b->tokens = NULL;
    b->n_tokens = 0;
    return status;
}

static int run_all(bench *b, const char *const *paths, size_t n_paths) {
    bl_error err;
    int status = EXIT_SUCCESS;
    for (size_t t = 0; t < b->threads.n; t++) {
        b->n_threads = b->threads.items[t] ? b->threads.items[t] : bl_cpu_physical_cores();
        show(b, "measuring the machine's limits");
        if (bl_bench_measure_limits(b->threads.items[t], &b->limits[t], &err) != BL_OK)
            return fail_error("bench", &err);
        if (interrupts_seen())
            return EXIT_INTERRUPTED;
    }
    clear_progress(b);
    if (b->settings->json && !start_json(b))
        status = fail_with("bench", "out of memory");
    if (b->settings->csv)
        print_csv_head();
    if (!b->settings->json && !b->settings->csv)
        print_limits(b);
    for (size_t i = 0; i < n_paths && status == EXIT_SUCCESS; i++)
        status = run_model(b, paths[i]);
    if (b->settings->json && status == EXIT_SUCCESS) {
        json_dumpf(b->root, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(b->root);
    json_decref(b->results);
    return status;
}

static int run(int argc, char **argv) {
    bench_settings s = {.prompts = "512",
                        .generates = "128",
                        .streams = "1",
                        .depths = "0",
                        .threads = "0",
                        .repeats = 5};
    switch (options_parse(&BENCH_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    bench b = {.settings = &s, .is_shown = !s.quiet && isatty(STDERR_FILENO)};
    if (s.json && s.csv)
        return options_complain(&BENCH_COMMAND, "--json, --csv: expected one of them");
    if (!parse_list("n-prompt", s.prompts, 1 << 24, &b.prompts) ||
        !parse_list("n-gen", s.generates, 1 << 24, &b.generates) ||
        !parse_list("streams", s.streams, BL_MAX_SEQUENCES, &b.streams) ||
        !parse_list("n-depth", s.depths, 1 << 24, &b.depths) ||
        !parse_list("threads", s.threads, 1024, &b.threads))
        return EXIT_USAGE;
    char *standard = NULL;
    bl_error err;
    if (s.file && read_input(s.file, &b.text, &b.len, &err) != BL_OK)
        return fail_error("bench", &err);
    if (!s.models.n && !(standard = find_model(&BENCH_COMMAND, NULL))) {
        bl__free(b.text);
        return EXIT_USAGE;
    }
    interrupts_catch(2);
    if (bl_energy_meter_open(&b.meter, &b.no_meter) != BL_OK)
        b.meter = NULL;
    int status = !place_memory(&BENCH_COMMAND, s.numa) ? EXIT_FAILURE
                 : standard ? run_all(&b, (const char *const *)&standard, 1)
                            : run_all(&b, s.models.items, s.models.n);
    bl_energy_meter_close(b.meter);
    bl__free(standard);
    bl__free(b.text);
    return status;
}

const command BENCH_COMMAND = {
    .name = "bench",
    .summary = "measure speed, and how near it comes to the machine's limits",
    .description =
        "Times prompts (pp) and generation (tg), at depths of the context, and prints medians\n"
        "with the slowest and fastest run. In the same run it measures what memory gives to each\n"
        "number of threads and what each instruction set multiplies from registers alone; results\n"
        "are shown as shares of these, by the bytes and products that a token needs. Joules a "
        "token\n"
        "are measured where the machine's counters can be read, else estimated, and say which.",
    .examples = "  bitloom bench -m model.gguf\n"
                "  bitloom bench -m model.gguf -p 512,2048 -n 128 -d 0,4096 -t 1,2,4 -r 9\n"
                "  BITLOOM_CPU=avx2 bitloom bench -m model.gguf --json\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
