/* Owns the measuring of what the machine gives at most. Must not know what a model is. */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "bitloom/bench.h"
#include "bitloom/system.h"
#include "kernels/probe.h"
#include "measure/figures.h"

enum {
    MIB = 1 << 20,
    MIN_BUFFER_MIB = 256,
    MAX_BUFFER_MIB = 2048,
    TIMES_THE_CACHE = 8,
    CHUNK = 2 * MIB, /* read by one thread at a stretch */
    ROUNDS = 5       /* the best of which counts */
};
_Static_assert((int)BL_BENCH_MAX_PEAKS >= (int)BL_MAX_PROBES, "every probe has a place");

static const double PEAK_SECONDS = 0.02; /* of one round of multiply-adds */

/* Bytes of a buffer that caches do not matter for: several times the last of them, but no more
 * than a quarter of the machine's memory. */
static size_t choose_buffer(void) {
    size_t bytes = (size_t)MIN_BUFFER_MIB * MIB;
#ifdef _SC_LEVEL3_CACHE_SIZE
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > 0 && (size_t)cache > bytes / TIMES_THE_CACHE)
        bytes = bl__min_size((size_t)cache, (size_t)MAX_BUFFER_MIB * MIB / TIMES_THE_CACHE) *
                TIMES_THE_CACHE;
#endif
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t memory = SIZE_MAX;
    if (pages > 0 && page > 0 && bl__mul_size((size_t)pages, (size_t)page, &memory))
        bytes = bl__min_size(bytes, memory / 4);
    return bytes < CHUNK ? CHUNK : bytes / CHUNK * CHUNK;
}

typedef struct read_job {
    uint8_t *bytes;
    uint64_t (*read)(const uint8_t *bytes, size_t n);
    atomic_uint_fast64_t result; /* so that no read is for nothing */
} read_job;

/* The thread that writes memory first has it near, where that makes a difference. */
static void fill_chunk(void *context, size_t part, size_t n_parts) {
    read_job *job = context;
    (void)n_parts;
    memset(job->bytes + part * CHUNK, (int)(part % 255 + 1), CHUNK);
}

static void read_chunk(void *context, size_t part, size_t n_parts) {
    read_job *job = context;
    (void)n_parts;
    atomic_fetch_or(&job->result, job->read(job->bytes + part * CHUNK, CHUNK));
}

static bl_status measure_reading(const bl__probe *probes, size_t n_probes, bl__pool *pool,
                                 double *out, bl_error *err) {
    size_t bytes = choose_buffer();
    read_job job = {.bytes = bl__pages_alloc(bytes)};
    if (!job.bytes)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes to read", bytes);
    double best = 0;
    for (size_t i = 0; i < n_probes; i++) /* the widest there is */
        job.read = probes[i].read ? probes[i].read : job.read;
    bl__pool_run(pool, fill_chunk, &job, bytes / CHUNK);
    for (size_t round = 0; round < ROUNDS; round++) {
        double start = bl__seconds_now();
        bl__pool_run(pool, read_chunk, &job, bytes / CHUNK);
        double rate = (double)bytes / (bl__seconds_now() - start);
        best = rate > best ? rate : best;
    }
    bl__pages_free(job.bytes, bytes);
    *out = best;
    return BL_OK;
}

typedef struct peak_job {
    uint64_t (*int8)(size_t n_rounds);
    size_t n_rounds;
    atomic_uint_fast64_t n_ops;
} peak_job;

static void peak_part(void *context, size_t part, size_t n_parts) {
    peak_job *job = context;
    (void)part, (void)n_parts;
    atomic_fetch_add(&job->n_ops, job->int8(job->n_rounds));
}

/* Operations a second of as many copies of the loop as there are threads; 0 when they are
 * refused. */
static double measure_peak(const bl__probe *probe, bl__pool *pool) {
    peak_job job = {.int8 = probe->int8, .n_rounds = 1000};
    double spent = 0, best = 0;
    while (spent < PEAK_SECONDS / 2) {
        job.n_rounds *= 2;
        double start = bl__seconds_now();
        if (probe->int8(job.n_rounds) == 0)
            return 0;
        spent = bl__seconds_now() - start;
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        atomic_store(&job.n_ops, 0);
        double start = bl__seconds_now();
        bl__pool_run(pool, peak_part, &job, bl__pool_threads(pool));
        double rate = (double)atomic_load(&job.n_ops) / (bl__seconds_now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

bl_status bl_bench_measure_limits(uint32_t n_threads, bl_bench_limits *out, bl_error *err) {
    bl_bench_limits limits = {.n_threads = n_threads ? n_threads : bl_cpu_physical_cores()};
    bl__probe probes[BL_MAX_PROBES];
    size_t n = bl__probes_get(probes);
    bl__pool *pool = NULL;
    bl_status status = bl__pool_create(limits.n_threads, false, &pool, err);
    if (status)
        return status;
    status = measure_reading(probes, n, pool, &limits.read_bandwidth, err);
    for (size_t i = 0; i < n && !status; i++) {
        double peak = measure_peak(&probes[i], pool);
        if (peak <= 0)
            continue;
        limits.peaks[limits.n_peaks++] = (bl_bench_peak){
            .level = probes[i].level, .allowed = probes[i].allowed, .ops_per_second = peak};
        if (probes[i].allowed && peak > limits.int8_peak)
            limits.int8_peak = peak;
    }
    bl__pool_free(pool);
    if (!status)
        *out = limits;
    return status;
}
