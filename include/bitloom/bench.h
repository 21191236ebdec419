/* How fast a model runs on this machine, and how near that comes to what the machine can do.
 *
 * Shares are of limits measured by loops that do nothing else, in the same run: memory for reading,
 * registers for int8 products. The bytes of a token are those that evaluating it must read; what
 * stays in a cache counts too, so a small model can show a share above 1. */
#ifndef BITLOOM_BENCH_H
#define BITLOOM_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/energy.h"
#include "bitloom/model.h"
#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BL_BENCH_MAX_PEAKS = 16, BL_BENCH_MAX_REPEATS = 100 };

typedef struct bl_bench_peak {
    const char *level; /* the lowest kernel level that has these instructions; static */
    bool allowed;      /* BITLOOM_CPU does not rule it out */
    double ops_per_second;
} bl_bench_peak;

typedef struct bl_bench_limits {
    uint32_t n_threads;    /* that worked at once */
    double read_bandwidth; /* bytes a second, from a buffer far larger than the caches */
    double int8_peak;      /* the highest of the peaks that are allowed */
    size_t n_peaks;
    bl_bench_peak peaks[BL_BENCH_MAX_PEAKS]; /* multiplications and additions of int8 a second */
} bl_bench_limits;

/* Takes about a second, and memory for a buffer of at least 256 MiB where there is that much.
 * n_threads: 0 = all physical cores. The best of several rounds counts.
 * Errors: BL_ERR_ARGUMENT (too many threads), BL_ERR_MEMORY. */
bl_status bl_bench_measure_limits(uint32_t n_threads, bl_bench_limits *out, bl_error *err);

/* One of n_prompt and n_generate is 0, the other is not. */
typedef struct bl_bench_test {
    uint32_t n_prompt;   /* tokens evaluated together, n_batch at a time, as a prompt is */
    uint32_t n_generate; /* tokens evaluated one after the other, as text is generated */
    uint32_t n_streams;  /* texts generated side by side, n_generate tokens of each; 0 = 1 */
    uint32_t depth;      /* tokens that the session holds before, of each text */
    uint32_t n_batch;    /* 0 = 512 */
    uint32_t n_threads;  /* 0 = all physical cores */
    bl_cache_type cache_type;
    uint32_t
        n_repeats; /* 1 to BL_BENCH_MAX_REPEATS; a batch or a token that is not timed goes first */
    bl_head head;  /* how single tokens get their best 40 logits, which is what samplers ask for by
                      default. Its copy is made before the clock starts. */
    const bl_token
        *tokens; /* what is evaluated, from the start again where it ends; NULL: random */
    size_t n_tokens;
    bl_energy_meter *meter; /* borrowed; NULL: energy is estimated */
} bl_bench_test;

typedef struct bl_bench_result {
    bl_bench_test test;                   /* with the defaults filled in */
    double samples[BL_BENCH_MAX_REPEATS]; /* tokens a second of each repeat, all streams together */
    double tokens_per_second;             /* their median */
    double slowest, fastest;              /* and their spread */
    double bytes_per_token;               /* mean over the test's tokens; weights once a batch */
    double bytes_per_token_unskipped;     /* if nothing were skipped; differs for n_generate only */
    bl_skipped skipped;                   /* in what was timed: see model.h */
    double int8_ops_per_token;            /* multiplications and additions */
    double share_of_bandwidth, share_of_int8_peak; /* 0 without limits */
    double head_bytes_per_token; /* of these, of the output head and its copy: as counted */
    double head_share_read;      /* of the head's rows; 1 = all of them */
    uint64_t session_bytes;
    bl_energy energy_per_token; /* over what was timed */
} bl_bench_result;

/* Told how many repeats are done, before each one. Returns false to cancel. */
typedef bool (*bl_bench_progress)(void *user, uint32_t n_done);

/* Runs one test on random tokens. limits: measured for as many threads, or NULL. progress may be
 * NULL. Errors: BL_ERR_ARGUMENT, BL_ERR_CANCELLED, those of bl_session_create(). */
bl_status bl_bench_run(const bl_model *model, const bl_bench_test *test,
                       const bl_bench_limits *limits, bl_bench_progress progress, void *user,
                       bl_bench_result *out, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
