/* Whether a model file is what it was and what it should be, and whether this machine computes it
 * right. */
#ifndef BITLOOM_VERIFY_H
#define BITLOOM_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Known answers: what a model says to a fixed prompt, kept in its file ---- */

enum { BL_KNOWN_PROMPT = 32, BL_KNOWN_TOKENS = 16 };

typedef struct bl_known_answer {
    bl_token prompt[BL_KNOWN_PROMPT];
    bl_token tokens[BL_KNOWN_TOKENS]; /* each the one with the largest logit */
    float logits[BL_KNOWN_TOKENS];    /* that of each when it was chosen */
} bl_known_answer;

/* Runs the model of a GGUF file on the first tokens of a text, or on tokens by rule where there is
 * no tokenizer. n_threads 0 = all physical cores. Errors: those of bl_model_open(). */
bl_status bl_known_answer_make(const char *path, uint32_t n_threads, bl_known_answer *out,
                               bl_error *err);

/* ---- Verification ---- */

typedef enum bl_verify_result {
    BL_VERIFY_PASS = 0,
    BL_VERIFY_WARN = 1, /* unusual, or not to be told; the file may be good */
    BL_VERIFY_FAIL = 2,
    BL_VERIFY_SKIP = 3, /* there was nothing to check, or no way to */
} bl_verify_result;

typedef struct bl_verify_check {
    const char *name; /* "checksums", "i2_s order", ... */
    bl_verify_result result;
    uint64_t n_findings; /* failures, or, when there are none, warnings */
    char detail[256];    /* the first of them, or what was checked */
} bl_verify_check;

enum { BL_VERIFY_CHECKS = 10 };

typedef struct bl_verify_report {
    bl_verify_check checks[BL_VERIFY_CHECKS]; /* in the order of the manual */
    bool passed;                              /* no check failed */
    uint64_t file_bytes, n_tensors;
    double seconds;
} bl_verify_report;

typedef struct bl_verify_params {
    uint32_t n_threads; /* 0 = all physical cores */
    /* Called after every tensor; returns false to cancel. May be NULL. */
    bool (*progress)(void *user, uint64_t bytes_done, uint64_t n_bytes);
    /* Told of every failure and warning, with the text of each. May be NULL. */
    void (*finding)(void *user, const char *check, bl_verify_result result, const char *text);
    void *user;
} bl_verify_params;

/* Verifies a GGUF file: one pass over its tensors, then the model opened and run for a moment.
 * params may be NULL. BL_OK means that the verification was carried out: the verdict is in *out.
 * Errors: BL_ERR_IO and BL_ERR_NOT_FOUND for the file, BL_ERR_MEMORY, BL_ERR_CANCELLED. */
bl_status bl_verify(const char *path, const bl_verify_params *params, bl_verify_report *out,
                    bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
