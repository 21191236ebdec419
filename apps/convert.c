/* Owns `bitloom convert`: progress, cancelling and the closing table around bl_convert(). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

typedef struct convert_settings {
    const char *output, *type, *embed_type;
    const char *i2s_order;
    int64_t threads;
    bool known_answer, json, quiet;
} convert_settings;

#define CONVERT(field) offsetof(convert_settings, field)

static const option OPTIONS[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", CONVERT(output), 0, 0, NULL,
     "the GGUF file to write; it appears only when whole"},
    {0, "type", NULL, OPTION_CHOICE, "TYPE", CONVERT(type), 0, 0,
     "native bl_t2 bl_t5 bl_b1 i2_s tq1_0 tq2_0 iq1_bn iq2_bn f16 bf16 f32",
     "layout of the linear weights (default native); one of:"},
    {0, "embed-type", NULL, OPTION_CHOICE, "TYPE", CONVERT(embed_type), 0, 0, "f32 f16 bf16 q8_0",
     "layout of embedding and output head (default: as stored); one of:"},
    {0, "known-answer", NULL, OPTION_FLAG, NULL, CONVERT(known_answer), 0, 0, NULL,
     "run the model when it is written and keep what it says in the file, for bitloom verify"},
    {0, "i2s-order", NULL, OPTION_CHOICE, "CPU", CONVERT(i2s_order), 0, 0, "x86 arm",
     "which builds of bitnet.cpp wrote the input's i2_s (default x86); one of:"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", CONVERT(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "json", NULL, OPTION_FLAG, NULL, CONVERT(json), 0, 0, NULL,
     "print the closing figures as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, CONVERT(quiet), 0, 0, NULL, "print errors only"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

typedef struct progress {
    double start, shown_at;
    bool is_shown;
} progress;

static bool show_progress(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                          uint64_t n_bytes) {
    progress *p = user;
    double now = seconds_now();
    if (p->is_shown && (now - p->shown_at > 0.1 || tensors_done == n_tensors)) {
        double spent = now - p->start;
        double speed = spent > 0 ? (double)bytes_done / spent : 0;
        double left = speed > 0 ? (double)(n_bytes - bytes_done) / speed : 0;
        fprintf(stderr, "\r%zu/%zu tensors, %.0f %%, %s/s, %.0f s left \033[K", tensors_done,
                n_tensors, n_bytes ? 100.0 * (double)bytes_done / (double)n_bytes : 100.0,
                format_bytes(speed), left);
        p->shown_at = now;
    }
    return !interrupts_seen();
}

/* Bytes; Linux counts ru_maxrss in KiB. */
static double peak_memory(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (double)usage.ru_maxrss * 1024 : 0;
}

static int print_json(const char *output, const bl_convert_report *r, double seconds) {
    json_t *object = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "output", output, "tensors",
        (json_int_t)r->n_tensors, "input_bytes", (json_int_t)r->input_bytes, "output_bytes",
        (json_int_t)r->output_bytes, "ternary_weights", (json_int_t)r->n_ternary_weights,
        "largest_tensor_bytes", (json_int_t)r->largest_tensor_bytes, "peak_memory_bytes",
        (json_int_t)peak_memory(), "seconds", seconds);
    if (!object)
        return fail_with("convert", "the output's name is not UTF-8, or memory is short");
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

static void print_report(const char *output, const bl_convert_report *r, double seconds) {
    note("wrote            %s\n"
         "tensors          %zu, %.1f M ternary weights\n"
         "read             %s\n"
         "written          %s\n"
         "largest tensor   %s\n"
         "peak memory      %s\n"
         "time             %.1f s (%s/s)",
         output, r->n_tensors, (double)r->n_ternary_weights * 1e-6,
         format_bytes((double)r->input_bytes), format_bytes((double)r->output_bytes),
         format_bytes((double)r->largest_tensor_bytes), format_bytes(peak_memory()), seconds,
         format_bytes(seconds > 0 ? (double)r->input_bytes / seconds : 0));
}

static int run(int argc, char **argv) {
    convert_settings s = {0};
    const char *input;
    switch (options_parse(&CONVERT_COMMAND, argc, argv, &s, &input)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.output)
        return options_complain(&CONVERT_COMMAND, "-o FILE is missing");
    progress p = {.start = seconds_now(), .is_shown = !s.quiet && isatty(STDERR_FILENO)};
    bl_convert_params params = {.type = s.type,
                                .embed_type = s.embed_type,
                                .n_threads = (uint32_t)s.threads,
                                .known_answer = s.known_answer,
                                .i2_s_arm = s.i2s_order && strcmp(s.i2s_order, "arm") == 0,
                                .progress = show_progress,
                                .user = &p};
    bl_convert_report report;
    bl_error err;
    /* Waits for the library to clear up, so that nothing is left behind. */
    interrupts_catch(10);
    bl_status status = bl_convert(input, s.output, &params, &report, &err);
    if (p.is_shown)
        fputs("\r\033[K", stderr);
    if (status != BL_OK) {
        fail_error("convert", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    double seconds = seconds_now() - p.start;
    if (!s.quiet && !s.json)
        print_report(s.output, &report, seconds);
    return s.json ? print_json(s.output, &report, seconds) : EXIT_SUCCESS;
}

const command CONVERT_COMMAND = {
    .name = "convert",
    .summary = "turn a checkpoint into a GGUF file, or one GGUF layout into another",
    .operands = "INPUT",
    .min_operands = 1,
    .max_operands = 1,
    .description =
        "Converts a Hugging Face directory (safetensors; float masters or packed ternary) or a\n"
        "GGUF file, one tensor in memory at a time. The native layout runs straight from the\n"
        "file on every CPU; tq1_0, tq2_0 and the float types can be read by llama.cpp.",
    .examples = "  bitloom convert ./bitnet-b1.58-2B-4T -o bitnet-2b.gguf\n"
                "  bitloom convert ./hf-checkpoint -o model.gguf --embed-type q8_0\n"
                "  bitloom convert model.gguf -o for-llama-cpp.gguf --type tq2_0\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
