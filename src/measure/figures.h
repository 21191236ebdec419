/* Private to measure/: the arithmetic of benchmarks. */
#ifndef BL_MEASURE_FIGURES_H
#define BL_MEASURE_FIGURES_H

#include "bitloom/bench.h"
#include "model/work.h"

double bl__seconds_now(void); /* since some moment in the past */

/* Fills median and spread from samples[test.n_repeats], test.n_repeats >= 1. */
void bl__bench_spread(bl_bench_result *result);

/* Bytes that a token of a test reads when nothing is skipped: mean over its tokens. */
double bl__bench_bytes(const bl_bench_test *test, const bl__work *work);

/* Fills the bytes and operations of a token from what the test does, and the shares, for which the
 * spread must be there. limits may be NULL. */
void bl__bench_shares(bl_bench_result *result, const bl__work *work, const bl_bench_limits *limits);

#endif
