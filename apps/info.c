/* Owns `bitloom info`: what this machine and this build can do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

typedef struct info_settings {
    const char *memory, *energy;
    int64_t ctx, tokens;
    bool json;
} info_settings;

#define INFO(field) offsetof(info_settings, field)

static const option OPTIONS[] = {
    {0, "memory", NULL, OPTION_TEXT, "SHAPE", INFO(memory), 0, 0, NULL,
     "instead: bytes of a shape (as in bitloom dummy) or of a number of weights (7e9), from 32 "
     "bits to 1 each; or what a GGUF file takes when it runs"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", INFO(ctx), 0, 1 << 24, NULL,
     "with --memory: tokens in the KV cache; 0 = the shape's context, or a file's, at most 4096 "
     "(default)"},
    {0, "energy", NULL, OPTION_TEXT, "SHAPE", INFO(energy), 0, 0, NULL,
     "instead: joules of a shape's products, estimated from operation counts"},
    {'n', "tokens", NULL, OPTION_INTEGER, "N", INFO(tokens), 1, 1 << 20, NULL,
     "with --energy: tokens of the input (default 512)"},
    {0, "json", NULL, OPTION_FLAG, NULL, INFO(json), 0, 0, NULL, "print one JSON object"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

#ifdef BITLOOM_HAVE_EDIT
static const bool HAS_EDIT = true;
#else
static const bool HAS_EDIT = false;
#endif

static json_t *words_to_array(const char *words) {
    json_t *array = json_array();
    for (const char *at = words + strspn(words, " "); *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        json_array_append_new(array, json_stringn(at, n));
        at += n;
    }
    return array;
}

static int print_or_drop(json_t *object) {
    if (!object)
        return fail_with("info", "out of memory");
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

static int print_json(void) {
    const char *mpi = bl_train_mpi(NULL);
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:I, s:s, s:o, s:s, s:b, s:s?}", "version", bl_version(), "cpu",
                  bl_cpu_name(), "features", words_to_array(bl_cpu_features()), "physical_cores",
                  (json_int_t)bl_cpu_physical_cores(), "kernel", bl_kernel_level(), "kernels",
                  words_to_array(bl_kernel_levels()), "kernel_notice", bl_kernel_notice(),
                  "line_editing", HAS_EDIT, "mpi", mpi);
    return print_or_drop(object);
}

/* Whether the word is one of those separated by spaces. */
static bool has_word(const char *words, const char *word) {
    size_t len = strlen(word);
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, n) == 0)
            return true;
        at += n;
    }
    return false;
}

/* "7e9": a count of weights and nothing else, in `linears`; else a shape. */
static bool read_parts(const char *text, bl_dummy_shape *shape, bl_cost_parts *parts) {
    char *end;
    double n = strtod(text, &end);
    bl_error err;
    *shape = (bl_dummy_shape){0};
    if (*text >= '0' && *text <= '9' && !*end && n >= 1 && n < 1e15) {
        *parts = (bl_cost_parts){.linears = (uint64_t)n};
        return true;
    }
    if (bl_dummy_shape_read(text, shape, &err) != BL_OK) {
        options_complain(&INFO_COMMAND, "--memory: %s; or a number of weights", err.message);
        return false;
    }
    *parts = bl_cost_count(shape);
    return true;
}

/* What a model takes when it runs, whether or not this machine has it. */
static int print_file_memory(const info_settings *s) {
    const bl_session_params params = {.n_ctx = (uint32_t)s->ctx};
    bl_model *model = NULL;
    bl_session *session = NULL;
    bl_error err;
    setenv("BITLOOM_MEMORY", "unchecked", 1);
    if (bl_model_open(s->memory, NULL, &model, &err) != BL_OK ||
        bl_session_create(model, &params, &session, &err) != BL_OK) {
        bl_model_close(model);
        return fail_error("info", &err);
    }
    bl_memory m = bl_session_memory(session);
    const struct {
        const char *name, *key;
        uint64_t bytes;
    } rows[] = {
        {"weights, mapped", "mapped_bytes", m.mapped},
        {"weights, repacked", "repacked_bytes", m.repacked},
        {"copy of the head", "head_copy_bytes", m.head_copy},
        {"keys and values", "cache_bytes", m.cache},
        {"scratch", "scratch_bytes", m.scratch},
        {"total", "total_bytes", m.mapped + m.repacked + m.head_copy + m.cache + m.scratch}};
    size_t n_ctx = bl_session_n_ctx(session);
    json_t *object = s->json ? json_pack("{s:I}", "n_ctx", (json_int_t)n_ctx) : NULL;
    if (!s->json)
        printf("%s: a session of %zu tokens\n\n", s->memory, n_ctx);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (object)
            json_object_set_new(object, rows[i].key, json_integer((json_int_t)rows[i].bytes));
        else if (!s->json)
            printf("%-18s %10s\n", rows[i].name, format_bytes((double)rows[i].bytes));
    }
    bl_session_free(session);
    bl_model_close(model);
    return s->json ? print_or_drop(object) : EXIT_SUCCESS;
}

static bool is_file_name(const char *text) {
    size_t len = strlen(text);
    return len > 5 && strcmp(text + len - 5, ".gguf") == 0;
}

/* Embedding, head, norms and cache in 16 bits, or 32 where the weights are. */
static int print_memory(const info_settings *s) {
    static const double bits[] = {32, 16, 8, 4, 2, 1.6, 1};
    bl_dummy_shape shape;
    bl_cost_parts parts;
    if (!read_parts(s->memory, &shape, &parts))
        return EXIT_USAGE;
    uint64_t n_ctx = s->ctx ? (uint64_t)s->ctx : shape.context;
    json_t *rows = s->json ? json_array() : NULL;
    if (!s->json) {
        printf(
            "%s: %llu weights in linears, %llu in the embedding, which is the head too; KV cache "
            "of %llu tokens\n\n",
            s->memory, (unsigned long long)parts.linears, (unsigned long long)parts.head,
            (unsigned long long)n_ctx);
        printf("%s%6s %12s %12s %12s %12s%s\n", bold_on(STDOUT_FILENO), "BITS", "LINEARS", "HEAD",
               "KV CACHE", "TOTAL", style_off(STDOUT_FILENO));
    }
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        double rest = bits[i] > 16 ? bits[i] : 16;
        double linears = bl_cost_bytes(parts.linears, bits[i]);
        double head = bl_cost_bytes(parts.head + parts.norms, rest);
        double cache = bl_cost_bytes(parts.position * n_ctx, rest);
        if (s->json)
            json_array_append_new(rows, json_pack("{s:f, s:f, s:f, s:f, s:f}", "bits", bits[i],
                                                  "linear_bytes", linears, "head_bytes", head,
                                                  "cache_bytes", cache, "total_bytes",
                                                  linears + head + cache));
        else
            printf("%6g %8.3f GiB %8.3f GiB %8.3f GiB %8.3f GiB\n", bits[i], linears / 0x1p30,
                   head / 0x1p30, cache / 0x1p30, (linears + head + cache) / 0x1p30);
    }
    return s->json ? print_or_drop(rows) : EXIT_SUCCESS;
}

static int print_energy(const info_settings *s) {
    static const char *const names[] = {
        [BL_COST_FP32] = "fp32", [BL_COST_FP16] = "fp16", [BL_COST_ONE_BIT] = "1-bit"};
    bl_dummy_shape shape;
    bl_error err;
    if (bl_dummy_shape_read(s->energy, &shape, &err) != BL_OK)
        return options_complain(&INFO_COMMAND, "--energy: %s", err.message);
    bl_cost_operations o = bl_cost_count_operations(&shape, 3, (uint32_t)s->tokens);
    json_t *rows = s->json ? json_array() : NULL;
    if (!s->json)
        printf("%s: products of layers for an input of %lld tokens, estimated, in joules\n\n"
               "%s%-6s %12s %12s %12s %12s%s\n",
               s->energy, (long long)s->tokens, bold_on(STDOUT_FILENO), "", "7NM MUL", "7NM ADD",
               "45NM MUL", "45NM ADD", style_off(STDOUT_FILENO));
    for (bl_cost_precision p = BL_COST_FP32; p <= BL_COST_ONE_BIT; p++) {
        bl_cost_energy small = bl_cost_estimate(&o, p, BL_COST_7NM);
        bl_cost_energy large = bl_cost_estimate(&o, p, BL_COST_45NM);
        if (s->json)
            json_array_append_new(
                rows, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "precision", names[p], "kind",
                                "estimated", "multiply_7nm", small.multiply, "add_7nm", small.add,
                                "multiply_45nm", large.multiply, "add_45nm", large.add));
        else
            printf("%-6s %12.4g %12.4g %12.4g %12.4g\n", names[p], small.multiply, small.add,
                   large.multiply, large.add);
    }
    return s->json ? print_or_drop(rows) : EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    info_settings s = {.tokens = 512};
    switch (options_parse(&INFO_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (s.memory && s.energy)
        return options_complain(&INFO_COMMAND, "--memory, --energy: expected one of them");
    if (s.memory)
        return is_file_name(s.memory) ? print_file_memory(&s) : print_memory(&s);
    if (s.energy)
        return print_energy(&s);
    if (s.json)
        return print_json();
    const char *cap = getenv("BITLOOM_CPU");
    printf("bitloom         %s\n", bl_version());
    printf("CPU             %s\n", *bl_cpu_name() ? bl_cpu_name() : "unknown");
    printf("features        %s\n", *bl_cpu_features() ? bl_cpu_features() : "none that matter");
    printf("physical cores  %u usable\n", bl_cpu_physical_cores());
    printf("kernels         %s\n", bl_kernel_levels());
    printf("in use          %s", bl_kernel_level());
    if (cap && *cap)
        printf(has_word(bl_kernel_levels(), cap) ? " (BITLOOM_CPU=%s)"
                                                 : " (BITLOOM_CPU=%s is not in the list above)",
               cap);
    putchar('\n');
    if (*bl_kernel_notice())
        printf("not in use      %s\n", bl_kernel_notice());
    printf("line editing    %s\n", HAS_EDIT ? "libedit" : "not built in (libedit was missing)");
    bl_error why = {0};
    const char *mpi = bl_train_mpi(&why);
    printf("MPI             %s\n", mpi ? mpi : why.message);
    return EXIT_SUCCESS;
}

const command INFO_COMMAND = {
    .name = "info",
    .summary = "show the CPU, the kernels chosen for it and the build",
    .description =
        "Shows what matters for speed on this machine. The environment variable BITLOOM_CPU caps\n"
        "the kernels at a level of the list, for comparison; results do not change with it.\n"
        "With --memory or --energy: what a shape costs by arithmetic alone.",
    .examples = "  bitloom info\n"
                "  bitloom info --memory 2B4T -c 4096\n"
                "  bitloom info --memory model.gguf -c 32768\n"
                "  bitloom info --energy 7B -n 1\n"
                "  BITLOOM_CPU=ref bitloom info\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
