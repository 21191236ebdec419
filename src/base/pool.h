/* A pool of worker threads for loops over parts of a problem.
 *
 * Workers spin for a short while after each job, then park. The caller takes part. What a part
 * computes must not depend on which thread runs it, so results do not depend on the thread count.
 */
#ifndef BL_BASE_POOL_H
#define BL_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

typedef struct bl__pool bl__pool;

/* Does part number `part` of `n_parts`. */
typedef void (*bl__part_fn)(void *context, size_t part, size_t n_parts);

/* n_threads includes the caller: 1 starts no worker. pin: bind worker i to the i-th CPU that this
 * process may use. Fewer threads than asked for is an error. */
bl_status bl__pool_create(uint32_t n_threads, bool pin, bl__pool **out, bl_error *err);
void bl__pool_free(bl__pool *pool);
uint32_t bl__pool_threads(const bl__pool *pool); /* 1 for a NULL pool */

/* Calls fn for every part in 0 ... n_parts - 1, each exactly once, handed out in order to threads
 * that are free, and returns when all are done. Allocates nothing. A NULL pool runs them here.
 * One caller at a time; fn must not call bl__pool_run on the same pool. */
void bl__pool_run(bl__pool *pool, bl__part_fn fn, void *context, size_t n_parts);
/* In a part: the thread that does it, 0 ... bl__pool_threads() - 1, 0 being the caller. Memory that
 * belongs to a thread is still in its core's cache when the next part takes it. */
uint32_t bl__pool_thread(void);

#endif
