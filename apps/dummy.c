/* Owns `bitloom dummy`: progress and the closing figures around bl_dummy_write(). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "progress.h"
#include "terminal.h"

typedef struct dummy_settings {
    const char *shape, *output, *type, *embed_type;
    int64_t vocab, seed, threads;
    bool json, quiet;
} dummy_settings;

#define DUMMY(field) offsetof(dummy_settings, field)

static const option OPTIONS[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", DUMMY(output), 0, 0, NULL,
     "the GGUF file to write; it appears only when whole"},
    {0, "shape", NULL, OPTION_TEXT, "SHAPE", DUMMY(shape), 0, 0, NULL,
     "125M 350M 700M 760M 1B 1.3B 1.5B 2B4T 2.5B 2.7B 3B 3.8B 3.9B 6.7B 7B 13B 30B 70B 100B or "
     "LAYERSxDIMxFFN[xHEADS[xKV_HEADS]]"},
    {0, "type", NULL, OPTION_TEXT, "TYPE", DUMMY(type), 0, 0, NULL,
     "layout of the linear weights (default native, as convert chooses): any of native bl_t2 bl_t5 "
     "bl_b1 i2_s tq1_0 tq2_0 q1_0 q2_0 iq1_bn iq2_bn, or for the full-precision twin f32 f16 bf16 "
     "q8_0 q4_0 q4_1"},
    {0, "embed-type", NULL, OPTION_TEXT, "TYPE", DUMMY(embed_type), 0, 0, NULL,
     "layout of embedding and output head (default f16)"},
    {0, "vocab", NULL, OPTION_INTEGER, "N", DUMMY(vocab), 0, 1 << 22, NULL,
     "tokens of the vocabulary; 0 = the shape's (default)"},
    {'s', "seed", NULL, OPTION_INTEGER, "N", DUMMY(seed), 0, (double)INT64_MAX, NULL,
     "seed of the weights (default 1)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", DUMMY(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "json", NULL, OPTION_FLAG, NULL, DUMMY(json), 0, 0, NULL,
     "print the closing figures as a JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, DUMMY(quiet), 0, 0, NULL, "print errors only"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

static bool show_progress(void *user, size_t tensors_done, size_t n_tensors, uint64_t bytes_done,
                          uint64_t n_bytes) {
    (void)tensors_done, (void)n_tensors;
    return progress_show(user, bytes_done, n_bytes);
}

static int print_json(const char *output, const bl_dummy_shape *shape,
                      const bl_dummy_report *report, double seconds) {
    json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f}", "output", output, "shape",
                               shape->name, "tensors", (json_int_t)report->n_tensors, "weights",
                               (json_int_t)report->n_weights, "output_bytes",
                               (json_int_t)report->output_bytes, "seconds", seconds);
    if (!object)
        return fail_with("dummy", "the output's name is not UTF-8, or memory is short");
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    dummy_settings s = {.seed = 1};
    switch (options_parse(&DUMMY_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.output)
        return options_complain(&DUMMY_COMMAND, "-o FILE is missing");
    if (!s.shape)
        return options_complain(&DUMMY_COMMAND, "--shape SHAPE is missing");
    progress p = progress_start(!s.quiet);
    bl_dummy_params params = {.type = s.type,
                              .embed_type = s.embed_type,
                              .seed = (uint64_t)s.seed,
                              .n_threads = (uint32_t)s.threads,
                              .progress = show_progress,
                              .user = &p};
    bl_dummy_report report;
    bl_error err;
    if (bl_dummy_shape_read(s.shape, &params.shape, &err) != BL_OK)
        return options_complain(&DUMMY_COMMAND, "%s", err.message);
    if (s.vocab)
        params.shape.vocab = (uint32_t)s.vocab;
    /* Waits for the library to clear up, so that nothing is left behind. */
    interrupts_catch(10);
    bl_status status = bl_dummy_write(s.output, &params, &report, &err);
    double seconds = progress_end(&p);
    if (status != BL_OK) {
        fail_error("dummy", &err);
        return status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    }
    if (s.json)
        return print_json(s.output, &params.shape, &report, seconds);
    if (!s.quiet)
        note("wrote            %s\n"
             "weights          %.1f M random ones in %zu tensors\n"
             "written          %s in %.1f s",
             s.output, (double)report.n_weights * 1e-6, report.n_tensors,
             format_bytes((double)report.output_bytes), seconds);
    return EXIT_SUCCESS;
}

const command DUMMY_COMMAND = {
    .name = "dummy",
    .summary = "write a model of random weights, to measure speed with",
    .description =
        "Writes a GGUF file of random weights in the shape of a published model, a few rows in\n"
        "memory at a time. Its speed and memory are those of the real one; its text is noise.",
    .examples = "  bitloom dummy --shape 2B4T -o 2b.gguf && bitloom bench -m 2b.gguf\n"
                "  bitloom dummy --shape 700M --type tq2_0 -o 700m-tq2.gguf\n"
                "  bitloom dummy --shape 12x768x2048x12x4 --vocab 32002 -o own.gguf\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
