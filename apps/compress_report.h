/* What `bitloom compress` found out, as JSON and as a page of Markdown with drawings. */
#ifndef BL_APPS_COMPRESS_REPORT_H
#define BL_APPS_COMPRESS_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/bitloom.h"
#include "options.h"

/* What became of one method. */
typedef struct compress_result {
    const char *method;
    char path[4096];
    bl_compress_report report;
    bool measured;
    bl_perplexity_result test;
    double peak_memory; /* bytes, of the process so far */
} compress_result;

typedef struct compress_page {
    const char *model, *calibration, *test; /* test: NULL without */
    int64_t ctx;
    bool measured;
    bl_perplexity_result float_test; /* of the model itself */
    compress_result results[OPTION_LIST_MAX];
    size_t n;
} compress_page;

/* Both return an exit status, after a complaint. */
int compress_print_json(const compress_page *page);
/* Writes the page, and its drawings beside it: PAGE-perplexity.svg, PAGE-layers.svg. */
int compress_write_report(const char *path, const compress_page *page);

#endif
