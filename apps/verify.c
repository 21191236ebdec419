/* Owns `bitloom verify`: a table, or JSON, around bl_verify(). */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "progress.h"
#include "terminal.h"

typedef struct verify_settings {
    int64_t threads;
    bool json, quiet;
} verify_settings;

#define VERIFY(field) offsetof(verify_settings, field)

static const option OPTIONS[] = {
    {'t', "threads", NULL, OPTION_INTEGER, "N", VERIFY(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {0, "json", NULL, OPTION_FLAG, NULL, VERIFY(json), 0, 0, NULL, "print one JSON object"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, VERIFY(quiet), 0, 0, NULL,
     "print failures only, and no progress"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

static const char *result_name(bl_verify_result result) {
    static const char *const names[] = {"pass", "warn", "FAIL", "-"};
    return names[result];
}

/* What a run collects. */
typedef struct collected {
    progress progress;
    json_t *findings; /* NULL: not wanted */
} collected;

static bool show_progress(void *user, uint64_t bytes_done, uint64_t n_bytes) {
    collected *c = user;
    return progress_show(&c->progress, bytes_done, n_bytes);
}

static void add_finding(void *user, const char *check, bl_verify_result result, const char *text) {
    collected *c = user;
    if (c->findings)
        json_array_append_new(c->findings,
                              json_pack("{s:s, s:s, s:s}", "check", check, "result",
                                        result == BL_VERIFY_FAIL ? "fail" : "warn", "text", text));
}

static void print_table(const char *path, const bl_verify_report *r, bool quiet) {
    const char *bold = bold_on(STDOUT_FILENO), *off = style_off(STDOUT_FILENO);
    if (!quiet)
        printf("%s: %s, %llu tensors\n\n%s%-13s %-6s %s%s\n", path,
               format_bytes((double)r->file_bytes), (unsigned long long)r->n_tensors, bold, "CHECK",
               "RESULT", "DETAIL", off);
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        const bl_verify_check *c = &r->checks[i];
        bool failed = c->result == BL_VERIFY_FAIL;
        if (quiet && !failed)
            continue;
        printf("%-13s %s%-6s%s %s", c->name, failed ? bold : "", result_name(c->result),
               failed ? off : "", c->detail);
        if (c->n_findings > 1)
            printf(" (and %llu more)", (unsigned long long)(c->n_findings - 1));
        putchar('\n');
    }
    if (!quiet)
        printf("\n%s%s%s in %.1f s\n", bold, r->passed ? "good" : "NOT GOOD", off, r->seconds);
}

static int print_json(const char *path, const bl_verify_report *r, json_t *findings) {
    json_t *checks = json_array();
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        static const char *const results[] = {"pass", "warn", "fail", "skip"};
        const bl_verify_check *c = &r->checks[i];
        json_array_append_new(checks, json_pack("{s:s, s:s, s:I, s:s}", "check", c->name, "result",
                                                results[c->result], "findings",
                                                (json_int_t)c->n_findings, "detail", c->detail));
    }
    json_t *root =
        json_pack("{s:s, s:s, s:I, s:I, s:b, s:f, s:o, s:O}", "version", bl_version(), "path", path,
                  "bytes", (json_int_t)r->file_bytes, "tensors", (json_int_t)r->n_tensors, "passed",
                  r->passed, "seconds", r->seconds, "checks", checks, "findings", findings);
    if (!root || json_dumpf(root, stdout, JSON_INDENT(2)) != 0) {
        json_decref(root);
        return fail_with("verify", "the file's name is not UTF-8, or memory is short");
    }
    putchar('\n');
    json_decref(root);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    verify_settings s = {0};
    const char *path;
    switch (options_parse(&VERIFY_COMMAND, argc, argv, &s, &path)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    interrupts_catch(2);
    collected c = {.progress = progress_start(!s.quiet), .findings = json_array()};
    bl_verify_params params = {.n_threads = (uint32_t)s.threads,
                               .progress = show_progress,
                               .finding = add_finding,
                               .user = &c};
    bl_verify_report report;
    bl_error err;
    bl_status status = bl_verify(path, &params, &report, &err);
    progress_end(&c.progress);
    int exit_status = EXIT_SUCCESS;
    if (status) {
        fail_error("verify", &err);
        exit_status = status == BL_ERR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILURE;
    } else {
        if (s.json)
            exit_status = print_json(path, &report, c.findings);
        else
            print_table(path, &report, s.quiet);
        if (!report.passed)
            exit_status = EXIT_FAILURE;
    }
    json_decref(c.findings);
    return exit_status;
}

const command VERIFY_COMMAND = {
    .name = "verify",
    .summary = "check that a model file is whole and computes as it should",
    .operands = "MODEL.gguf",
    .min_operands = 1,
    .max_operands = 1,
    .description =
        "Checks a GGUF file against its own checksums, every tensor for NaN, absurd scales,\n"
        "impossible codes, zeros and constants, the byte order of i2_s, the tokenizer, the "
        "kernels\n"
        "on this machine, and what the model says against the known answer in the file. Ends\n"
        "with status 0 when nothing failed, 1 otherwise.",
    .examples =
        "  bitloom verify model.gguf\n"
        "  bitloom verify --json model.gguf | jq '.checks[] | select(.result == \"fail\")'\n"
        "  bitloom convert ./hf-checkpoint -o model.gguf --known-answer\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
