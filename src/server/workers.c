/* Owns worker threads and their queue. Must not know what the tasks are. */
#include "server/workers.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/error.h"

struct bl__workers {
    pthread_mutex_t mutex;
    pthread_cond_t added;
    bl__task *first, **end; /* the queue; end: where the next one goes */
    bool stopping;
    uint32_t n_threads;
    pthread_t threads[];
};

static void *work(void *user) {
    bl__workers *w = user;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->first && !w->stopping)
            pthread_cond_wait(&w->added, &w->mutex);
        bl__task *task = w->first;
        if (!task)
            break;
        w->first = task->next;
        if (!w->first)
            w->end = &w->first;
        pthread_mutex_unlock(&w->mutex);
        task->run(task);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

bl_status bl__workers_create(uint32_t n_threads, bl__workers **out, bl_error *err) {
    bl__workers *w = bl__calloc(1, sizeof *w + n_threads * sizeof *w->threads);
    if (!w)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u workers", n_threads);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->added, NULL);
    w->end = &w->first;
    for (; w->n_threads < n_threads; w->n_threads++)
        if (pthread_create(&w->threads[w->n_threads], NULL, work, w) != 0) {
            bl__workers_free(w);
            return bl__fail(err, BL_ERR_MEMORY, "cannot start %u workers", n_threads);
        }
    *out = w;
    return BL_OK;
}

void bl__workers_add(bl__workers *w, bl__task *task) {
    task->next = NULL;
    pthread_mutex_lock(&w->mutex);
    *w->end = task;
    w->end = &task->next;
    pthread_cond_signal(&w->added);
    pthread_mutex_unlock(&w->mutex);
}

void bl__workers_free(bl__workers *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    pthread_cond_broadcast(&w->added);
    pthread_mutex_unlock(&w->mutex);
    for (uint32_t i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->added);
    pthread_mutex_destroy(&w->mutex);
    bl__free(w);
}
