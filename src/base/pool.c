/* Owns worker threads and the hand-out of parts. Must not know what the parts compute. */
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

    /* The job in hand: written by the caller while no worker is active, published by a new
     * `generation`. */
    bl__part_fn fn;
    void *context;
    size_t n_parts;
    _Alignas(64) atomic_size_t next_part;
    _Alignas(64) atomic_uint n_active; /* workers that have not finished this generation */
    _Alignas(64) atomic_uint generation;
    atomic_bool stopping;

    pthread_mutex_t mutex;
    pthread_cond_t wake; /* new generation */
    pthread_cond_t done; /* n_active fell to 0 */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_parts(bl__pool *pool) {
    size_t part;
    while ((part = atomic_fetch_add_explicit(&pool->next_part, 1, memory_order_relaxed)) <
           pool->n_parts)
        pool->fn(pool->context, part, pool->n_parts);
}

/* Returns the new generation once it differs from `seen`. */
static unsigned wait_for_job(bl__pool *pool, unsigned seen) {
    unsigned now;
    for (int i = 0; i < SPINS_BEFORE_PARKING; i++) {
        if ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) != seen)
            return now;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    while ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
    return now;
}

static void *worker_main(void *argument) {
    bl__pool *pool = argument;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_job(pool, seen);
        if (atomic_load(&pool->stopping))
            return NULL;
        run_parts(pool);
        if (atomic_fetch_sub_explicit(&pool->n_active, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void publish(bl__pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_until_done(bl__pool *pool) {
    for (int i = 0; i < SPINS_BEFORE_PARKING; i++) {
        if (atomic_load_explicit(&pool->n_active, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->n_active, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void bl__pool_run(bl__pool *pool, bl__part_fn fn, void *context, size_t n_parts) {
    if (!pool || pool->n_started == 0 || n_parts < 2) {
        for (size_t part = 0; part < n_parts; part++)
            fn(context, part, n_parts);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    pool->n_parts = n_parts;
    atomic_store_explicit(&pool->next_part, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->n_active, pool->n_started, memory_order_relaxed);
    publish(pool);
    run_parts(pool);
    wait_until_done(pool);
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
    atomic_store(&pool->stopping, true);
    publish(pool);
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
