/* A few threads that do tasks in the order given. Tasks may block on disks, never on clients. */
#ifndef BL_SERVER_WORKERS_H
#define BL_SERVER_WORKERS_H

#include <stdint.h>

#include "bitloom/status.h"

typedef struct bl__workers bl__workers;

/* Embedded in what is to be done, so that handing it over cannot fail. */
typedef struct bl__task {
    void (*run)(struct bl__task *task);
    struct bl__task *next;
} bl__task;

bl_status bl__workers_create(uint32_t n_threads, bl__workers **out, bl_error *err);
/* From any thread; a task may be given again once it runs. */
void bl__workers_add(bl__workers *workers, bl__task *task);
/* Does what was given, then ends the threads. NULL is accepted. */
void bl__workers_free(bl__workers *workers);

#endif
