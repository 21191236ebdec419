/* Private to model/: the keys and values that one sequence keeps, and which tokens of a batch are
 * a sequence's. */
#ifndef BL_MODEL_CACHE_H
#define BL_MODEL_CACHE_H

#include "base/arena.h"
#include "model/model.h"

/* The cache of one sequence, all layers and KV heads. Only cache.c knows how it is laid out. */
typedef struct bl__cache {
    const bl__hparams *h;
    size_t n_ctx;
    float *keys;   /* float[n_layers][n_kv_heads][n_ctx][head_dim], rotated */
    float *values; /* float[n_layers][n_kv_heads][n_ctx][head_dim] */
} bl__cache;

/* Tokens of a batch that follow each other in one sequence: rows first ... of the batch's
 * activations are the sequence's positions n_past ... No two spans of a batch share a cache. */
typedef struct bl__span {
    bl__cache *cache;
    size_t first, n_past, n_tokens;
} bl__span;

/* Takes a cache of n_ctx positions from the arena (which may be measuring). */
void bl__cache_layout(bl__cache *cache, const bl__hparams *h, size_t n_ctx, bl__arena *arena);

/* Bytes of the keys and values of one position, in all layers. */
uint64_t bl__cache_position_bytes(const bl__cache *cache);

/* Keeps the key and the value of one position: k, v: float[head_dim]. */
void bl__cache_store(bl__cache *cache, size_t layer, size_t kv_head, size_t position,
                     const float *k, const float *v);

/* Copies the first n positions of a cache to one of the same model and size. */
void bl__cache_copy(const bl__cache *from, bl__cache *to, size_t n);

/* float[n_ctx][head_dim] of one KV head. */
const float *bl__cache_keys(const bl__cache *cache, size_t layer, size_t kv_head);
const float *bl__cache_values(const bl__cache *cache, size_t layer, size_t kv_head);

#endif
