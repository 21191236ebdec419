/* Owns the report of a verification. Must not know what is verified. */
#include "measure/findings.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const names[BL_VERIFY_CHECKS] = {
    [BL_CHECK_STRUCTURE] = "structure", [BL_CHECK_CHECKSUMS] = "checksums",
    [BL_CHECK_NUMBERS] = "numbers",     [BL_CHECK_CODES] = "codes",
    [BL_CHECK_WEIGHTS] = "weights",     [BL_CHECK_ORDER] = "i2_s order",
    [BL_CHECK_MODEL] = "model",         [BL_CHECK_TOKENIZER] = "tokenizer",
    [BL_CHECK_KERNELS] = "kernels",     [BL_CHECK_ANSWER] = "known answer",
};

static void write_detail(bl_verify_check *check, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

static void write_detail(bl_verify_check *check, const char *format, va_list args) {
    vsnprintf(check->detail, sizeof check->detail, format, args);
    for (char *c = check->detail; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

void bl__findings_start(const bl__findings *f) {
    *f->report = (bl_verify_report){.passed = true};
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        f->report->checks[i] = (bl_verify_check){.name = names[i], .result = BL_VERIFY_SKIP};
        snprintf(f->report->checks[i].detail, sizeof f->report->checks[i].detail, "not reached");
    }
}

void bl__findings_add(const bl__findings *f, bl__check index, bl_verify_result result,
                      const char *format, ...) {
    bl_verify_check *check = &f->report->checks[index];
    bl_verify_check found = {.name = check->name, .result = result};
    va_list args;
    va_start(args, format);
    write_detail(&found, format, args);
    va_end(args);
    if (f->params->finding)
        f->params->finding(f->params->user, check->name, result, found.detail);
    if (result == BL_VERIFY_FAIL)
        f->report->passed = false;
    if (check->n_findings && check->result == BL_VERIFY_FAIL && result == BL_VERIFY_WARN)
        return;
    if (check->n_findings && check->result == result) {
        check->n_findings++;
        return;
    }
    *check = found;
    check->n_findings = 1;
}

void bl__findings_settle(const bl__findings *f, bl__check index, bl_verify_result result,
                         const char *format, ...) {
    bl_verify_check *check = &f->report->checks[index];
    va_list args;
    if (check->n_findings)
        return;
    check->result = result;
    va_start(args, format);
    write_detail(check, format, args);
    va_end(args);
}
