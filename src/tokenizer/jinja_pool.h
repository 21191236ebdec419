/* A growing bump allocator with a cap: what a template or one rendering of it owns, freed at once.
 */
#ifndef BL_TOKENIZER_JINJA_POOL_H
#define BL_TOKENIZER_JINJA_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct jinja_pool {
    struct jinja_chunk *chunks; /* newest first */
    char *at;                   /* free bytes of the newest chunk ... */
    size_t left;                /* ... and their number */
    size_t total, max;          /* bytes taken from the system, and their cap */
    bool too_large;             /* an allocation failed because of the cap */
} jinja_pool;

static inline jinja_pool bl__jinja_pool_make(size_t max) {
    return (jinja_pool){.max = max};
}
void bl__jinja_pool_free(jinja_pool *pool);

/* count * size bytes aligned to 16, not zeroed; NULL on failure. */
void *bl__jinja_pool_alloc(jinja_pool *pool, size_t count, size_t size);

#endif
