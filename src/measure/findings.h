/* Private to measure/: what a verification has found so far. */
#ifndef BL_MEASURE_FINDINGS_H
#define BL_MEASURE_FINDINGS_H

#include "bitloom/verify.h"

/* The checks, in the order of the report. */
typedef enum bl__check {
    BL_CHECK_STRUCTURE,
    BL_CHECK_CHECKSUMS,
    BL_CHECK_NUMBERS,
    BL_CHECK_CODES,
    BL_CHECK_WEIGHTS,
    BL_CHECK_ORDER,
    BL_CHECK_MODEL,
    BL_CHECK_TOKENIZER,
    BL_CHECK_KERNELS,
    BL_CHECK_ANSWER
} bl__check;

typedef struct bl__findings {
    const bl_verify_params *params;
    bl_verify_report *report;
} bl__findings;

/* Names every check and marks it as not reached. */
void bl__findings_start(const bl__findings *f);
/* A failure or a warning. What is not printable ASCII, as in names from a file, becomes '?'. */
void bl__findings_add(const bl__findings *f, bl__check check, bl_verify_result result,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The outcome of a check, BL_VERIFY_PASS or BL_VERIFY_SKIP, that counts unless it has findings. */
void bl__findings_settle(const bl__findings *f, bl__check check, bl_verify_result result,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Holds the tokenizer of a file to its model's vocabulary (0: not known) and to itself. */
bl_status bl__verify_tokenizer(const bl__findings *f, const char *path, uint32_t vocab,
                               bl_error *err);

#endif
