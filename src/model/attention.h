/* Private to model/: the KV cache, rotary positions and attention. */
#ifndef BL_MODEL_ATTENTION_H
#define BL_MODEL_ATTENTION_H

#include "base/arena.h"
#include "model/model.h"

typedef struct bl__attention {
    const bl__kernels *kernels;
    bl__pool *pool;
    const bl__hparams *h;
    size_t n_ctx, max_parts;
    float *rope;   /* float[n_ctx][n_rot / 2][2]: cosine and sine */
    float *keys;   /* float[n_layers][n_kv_heads][n_ctx][head_dim], rotated */
    float *values; /* float[n_layers][n_kv_heads][n_ctx][head_dim] */
    float *scores; /* float[max_parts][n_heads / n_kv_heads][n_ctx] */
} bl__attention;

/* Takes the cache and scratch from the arena (which may be measuring); kernels, pool and h are
 * set by the caller. */
void bl__attention_layout(bl__attention *attention, size_t n_ctx, bl__arena *arena);

/* Fills the table of rotations; divisors: float[n_rot / 2] or NULL. */
void bl__attention_prepare(bl__attention *attention, const float *divisors);

/* Bytes of the keys and values of one position, in all layers. */
uint64_t bl__attention_position_bytes(const bl__attention *attention);

/* For n_tokens tokens at positions n_past ...: rotates q and k in place, stores k and v in the
 * cache of `layer`, attends causally and writes out: float[n_tokens][n_heads][head_dim].
 * q: float[n_tokens][n_heads][head_dim]; k, v: float[n_tokens][n_kv_heads][head_dim]. */
void bl__attention_run(bl__attention *attention, size_t layer, size_t n_past, size_t n_tokens,
                       float *q, float *k, const float *v, float *out);

#endif
