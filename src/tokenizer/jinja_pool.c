/* Owns chunks of memory. Must not know what lies in them. */
#include "tokenizer/jinja_pool.h"

#include "base/alloc.h"
#include "base/checked.h"

enum { POOL_ALIGN = 16, FIRST_CHUNK = 8 * 1024, LARGEST_CHUNK = 1024 * 1024 };

typedef struct jinja_chunk {
    _Alignas(POOL_ALIGN) struct jinja_chunk *older;
} jinja_chunk;

void bl__jinja_pool_free(jinja_pool *pool) {
    for (jinja_chunk *chunk = pool->chunks; chunk;) {
        jinja_chunk *older = chunk->older;
        bl__free(chunk);
        chunk = older;
    }
    *pool = bl__jinja_pool_make(pool->max);
}

/* Starts a chunk of at least `need` bytes. Chunks grow with the pool, so that small renderings
 * stay small and large ones ask the system rarely. */
static bool add_chunk(jinja_pool *pool, size_t need) {
    size_t size = pool->total < FIRST_CHUNK ? FIRST_CHUNK : pool->total;
    size = bl__min_size(size, LARGEST_CHUNK);
    size = bl__min_size(size, pool->max - pool->total);
    if (size < need)
        size = need;
    if (size > pool->max - pool->total) {
        pool->too_large = true;
        return false;
    }
    jinja_chunk *chunk = bl__malloc(sizeof *chunk + size);
    if (!chunk)
        return false;
    chunk->older = pool->chunks;
    pool->chunks = chunk;
    pool->at = (char *)(chunk + 1);
    pool->left = size;
    pool->total += size;
    return true;
}

void *bl__jinja_pool_alloc(jinja_pool *pool, size_t count, size_t size) {
    size_t bytes;
    if (!bl__mul_size(count, size, &bytes) || bytes > pool->max ||
        !bl__align_size(bytes ? bytes : 1, POOL_ALIGN, &bytes)) {
        pool->too_large = true;
        return NULL;
    }
    if (bytes > pool->left && !add_chunk(pool, bytes))
        return NULL;
    void *memory = pool->at;
    pool->at += bytes;
    pool->left -= bytes;
    return memory;
}
