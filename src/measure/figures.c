/* Owns the arithmetic of benchmarks. Must not run anything. */
#include "measure/figures.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double bl__seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bl__bench_spread(bl_bench_result *result) {
    double sorted[BL_BENCH_MAX_REPEATS];
    size_t n = result->test.n_repeats;
    memcpy(sorted, result->samples, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    result->slowest = sorted[0];
    result->fastest = sorted[n - 1];
    result->tokens_per_second = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

/* A prompt: each batch reads the weights of the layers and all positions up to its end, the last
 * one the head too. */
static double prompt_bytes(const bl_bench_test *test, const bl__work *work) {
    double bytes = (double)work->head_bytes + (double)work->token_bytes * test->n_prompt;
    for (uint32_t end = 0; end < test->n_prompt;) {
        uint32_t left = test->n_prompt - end;
        end += left < test->n_batch ? left : test->n_batch;
        bytes += (double)work->layer_bytes +
                 (double)work->position_bytes * ((double)test->depth + (double)end);
    }
    return bytes;
}

/* Weights that a token has left out, on average. */
static double skipped_bytes(const bl_bench_result *result, const bl__work *work) {
    double n = (double)result->test.n_repeats * result->test.n_generate;
    return ((double)result->skipped.rows_skipped * (double)work->row_bytes +
            (double)result->skipped.columns_skipped * (double)work->column_bytes) /
           n;
}

/* Single tokens of every stream: each step reads the weights once, a row of the embedding for each
 * stream, and one position of each more than the step before it. */
static double generate_bytes(const bl_bench_test *test, const bl__work *work) {
    double n = test->n_generate, n_streams = test->n_streams;
    double weights = (double)work->layer_bytes + (double)work->head_bytes +
                     n_streams * (double)work->token_bytes;
    double positions = n_streams * (n * test->depth + n * (n + 1) / 2);
    return n * weights + positions * (double)work->position_bytes;
}

double bl__bench_bytes(const bl_bench_test *test, const bl__work *work) {
    return test->n_prompt
               ? prompt_bytes(test, work) / test->n_prompt
               : generate_bytes(test, work) / ((double)test->n_generate * test->n_streams);
}

void bl__bench_shares(bl_bench_result *result, const bl__work *work,
                      const bl_bench_limits *limits) {
    const bl_bench_test *test = &result->test;
    result->bytes_per_token_unskipped = bl__bench_bytes(test, work);
    /* tokens of a batch skip each its own rows: what all of them skip is not counted */
    result->bytes_per_token = result->bytes_per_token_unskipped;
    if (!test->n_prompt && test->n_streams == 1)
        result->bytes_per_token -= skipped_bytes(result, work);
    result->int8_ops_per_token = 2 * (double)work->int8_macs;
    result->share_of_bandwidth = result->share_of_int8_peak = 0;
    if (limits && limits->read_bandwidth > 0)
        result->share_of_bandwidth =
            result->bytes_per_token * result->tokens_per_second / limits->read_bandwidth;
    if (limits && limits->int8_peak > 0)
        result->share_of_int8_peak =
            result->int8_ops_per_token * result->tokens_per_second / limits->int8_peak;
}
