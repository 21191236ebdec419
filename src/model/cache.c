/* Owns where the keys and values of a sequence lie. Must not know what attention does with them. */
#include "model/cache.h"

#include <string.h>

#include "base/checked.h"

void bl__cache_layout(bl__cache *cache, const bl__hparams *h, size_t n_ctx, bl__arena *arena) {
    size_t n = 0;
    if (!bl__mul_size((size_t)h->n_layers * h->n_kv_heads, n_ctx * h->head_dim, &n))
        arena->overflowed = true;
    cache->h = h;
    cache->n_ctx = n_ctx;
    cache->keys = bl__arena_alloc(arena, n, sizeof(float));
    cache->values = bl__arena_alloc(arena, n, sizeof(float));
}

uint64_t bl__cache_position_bytes(const bl__cache *cache) {
    const bl__hparams *h = cache->h;
    uint64_t per_layer = (uint64_t)h->n_kv_heads * h->head_dim;
    return h->n_layers * per_layer * (sizeof *cache->keys + sizeof *cache->values);
}

/* Where one KV head of a layer begins. */
static size_t head_at(const bl__cache *cache, size_t layer, size_t kv_head) {
    return (layer * cache->h->n_kv_heads + kv_head) * cache->n_ctx * cache->h->head_dim;
}

void bl__cache_store(bl__cache *cache, size_t layer, size_t kv_head, size_t position,
                     const float *k, const float *v) {
    size_t d = cache->h->head_dim, to = head_at(cache, layer, kv_head) + position * d;
    memcpy(cache->keys + to, k, d * sizeof(float));
    memcpy(cache->values + to, v, d * sizeof(float));
}

void bl__cache_copy(const bl__cache *from, bl__cache *to, size_t n) {
    size_t bytes = n * from->h->head_dim * sizeof(float);
    for (size_t layer = 0; layer < from->h->n_layers; layer++)
        for (size_t head = 0; head < from->h->n_kv_heads; head++) {
            size_t at = head_at(from, layer, head);
            memcpy(to->keys + at, from->keys + at, bytes);
            memcpy(to->values + at, from->values + at, bytes);
        }
}

const float *bl__cache_keys(const bl__cache *cache, size_t layer, size_t kv_head) {
    return cache->keys + head_at(cache, layer, kv_head);
}

const float *bl__cache_values(const bl__cache *cache, size_t layer, size_t kv_head) {
    return cache->values + head_at(cache, layer, kv_head);
}
