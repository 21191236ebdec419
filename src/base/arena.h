/* A bump arena of fixed size. Lay the same allocations out twice: once on an arena that only
 * measures, once on one that owns memory of the measured size. */
#ifndef BL_BASE_ARENA_H
#define BL_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

typedef struct bl__arena {
    uint8_t *base;   /* NULL while measuring */
    size_t size;     /* capacity; SIZE_MAX while measuring */
    size_t used;     /* bytes taken, alignment included */
    bool overflowed; /* some allocation did not fit or its size overflowed */
} bl__arena;

/* An arena that owns nothing: allocations return NULL and only count. */
bl__arena bl__arena_measuring(void);
/* Takes `size` zeroed bytes, aligned to 64. */
bl_status bl__arena_create(size_t size, bl__arena *out, bl_error *err);
void bl__arena_destroy(bl__arena *arena);

/* count * size bytes aligned to 64. NULL while measuring and, with `overflowed` set, on failure. */
void *bl__arena_alloc(bl__arena *arena, size_t count, size_t size);

#endif
