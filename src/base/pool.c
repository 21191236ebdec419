/* Owns worker threads and the hand-out of parts. Must not know what the parts compute.
 *
 * A job is done when its parts are: the caller never waits for a worker that has taken none, so a
 * worker that the system has put aside costs nothing but its help. */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/error.h"

enum { SPINS_BEFORE_PARKING = 4000, MAX_THREADS = 1024 };

struct bl__pool {
    uint32_t n_threads;
    uint32_t n_started;
    pthread_t *workers;
    atomic_uint n_numbered; /* workers that have an index */

    /* The job in hand. A thread reads these only after it has taken a part, and they do not change
     * before every part taken is done. */
    bl__part_fn fn;
    void *context;
    size_t n_parts;
    /* Job number in the high half, parts not yet taken in the low half: taking one is a single
     * compare-and-swap that fails when the job is not the expected one any more. */
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) atomic_size_t n_done;
    _Alignas(64) atomic_uint n_parked;
    atomic_bool caller_parked, stopping;

    pthread_mutex_t mutex;
    pthread_cond_t wake; /* a new job, or stopping */
    pthread_cond_t done; /* the last part of a job is done */
};

static _Thread_local uint32_t own_index;

uint32_t bl__pool_thread(void) {
    return own_index;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t job_of(uint64_t ticket) {
    return (uint32_t)(ticket >> 32);
}
static uint32_t left_of(uint64_t ticket) {
    return (uint32_t)ticket;
}

/* Tells a caller that has gone to sleep that the job is done. */
static void wake_caller(bl__pool *pool) {
    if (!atomic_load(&pool->caller_parked))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

/* Takes and does parts of job number `job` until none is left. */
static void run_parts(bl__pool *pool, uint32_t job) {
    uint64_t ticket = atomic_load(&pool->ticket);
    while (job_of(ticket) == job && left_of(ticket) > 0) {
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1))
            continue;
        size_t n_parts = pool->n_parts;
        pool->fn(pool->context, n_parts - left_of(ticket), n_parts);
        if (atomic_fetch_add(&pool->n_done, 1) + 1 == n_parts)
            wake_caller(pool);
        ticket = atomic_load(&pool->ticket);
    }
}

/* Returns the number of a job other than `seen`, or `seen` when the pool stops. */
static uint32_t wait_for_job(bl__pool *pool, uint32_t seen) {
    uint32_t job;
    for (int i = 0; i < SPINS_BEFORE_PARKING; i++) {
        if ((job = job_of(atomic_load(&pool->ticket))) != seen)
            return job;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_parked, 1);
    while ((job = job_of(atomic_load(&pool->ticket))) == seen && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_parked, 1);
    pthread_mutex_unlock(&pool->mutex);
    return job;
}

static void *worker_main(void *argument) {
    bl__pool *pool = argument;
    uint32_t seen = 0;
    own_index = atomic_fetch_add(&pool->n_numbered, 1) + 1;
    while (!atomic_load(&pool->stopping)) {
        seen = wait_for_job(pool, seen);
        run_parts(pool, seen);
    }
    return NULL;
}

/* A worker counts itself as parked before it looks for a job a last time, and the caller publishes
 * the job before it looks for parked workers, so one of the two sees the other. */
static void wake_workers(bl__pool *pool) {
    if (atomic_load(&pool->n_parked) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_until_done(bl__pool *pool) {
    for (int i = 0; i < SPINS_BEFORE_PARKING; i++) {
        if (atomic_load(&pool->n_done) == pool->n_parts)
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_parked, true);
    while (atomic_load(&pool->n_done) != pool->n_parts)
        pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_parked, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* Hands the parts out; the caller takes some. */
static void run_job(bl__pool *pool, bl__part_fn fn, void *context, size_t n_parts) {
    uint32_t job = job_of(atomic_load(&pool->ticket)) + 1;
    pool->fn = fn;
    pool->context = context;
    pool->n_parts = n_parts;
    atomic_store(&pool->n_done, 0);
    atomic_store(&pool->ticket, (uint64_t)job << 32 | n_parts);
    wake_workers(pool);
    run_parts(pool, job);
    wait_until_done(pool);
}

void bl__pool_run(bl__pool *pool, bl__part_fn fn, void *context, size_t n_parts) {
    uint32_t before = own_index; /* the caller may be a worker of another pool */
    own_index = 0;
    if (pool && pool->n_started > 0 && n_parts > 1 && n_parts <= UINT32_MAX)
        run_job(pool, fn, context, n_parts);
    else
        for (size_t part = 0; part < n_parts; part++)
            fn(context, part, n_parts);
    own_index = before;
}

/* Best effort: a system that refuses leaves the thread where it is. */
static void pin_thread(pthread_t thread, uint32_t index) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || index-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
}

bl_status bl__pool_create(uint32_t n_threads, bool pin, bl__pool **out, bl_error *err) {
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return bl__fail(err, BL_ERR_ARGUMENT, "%u threads, expected 1 to %d", n_threads,
                        MAX_THREADS);
    bl__pool *pool = bl__aligned_alloc(sizeof *pool);
    pthread_t *workers = bl__calloc(n_threads, sizeof *workers);
    if (!pool || !workers) {
        bl__aligned_free(pool);
        bl__free(workers);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a pool of %u threads", n_threads);
    }
    pool->n_threads = n_threads;
    pool->workers = workers;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    while (pool->n_started < n_threads - 1) {
        if (pthread_create(&workers[pool->n_started], NULL, worker_main, pool) != 0) {
            bl__pool_free(pool);
            return bl__fail(err, BL_ERR_MEMORY, "cannot start %u threads", n_threads);
        }
        if (pin)
            pin_thread(workers[pool->n_started], pool->n_started + 1);
        pool->n_started++;
    }
    *out = pool;
    return BL_OK;
}

void bl__pool_free(bl__pool *pool) {
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stopping, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    bl__free(pool->workers);
    bl__aligned_free(pool);
}

uint32_t bl__pool_threads(const bl__pool *pool) {
    return pool ? pool->n_threads : 1;
}
