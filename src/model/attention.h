/* Private to model/: rotary positions and attention to the keys and values of one or more
 * sequences. */
#ifndef BL_MODEL_ATTENTION_H
#define BL_MODEL_ATTENTION_H

#include "base/arena.h"
#include "model/cache.h"

typedef struct bl__attention {
    const bl__kernels *kernels;
    bl__pool *pool;
    const bl__hparams *h;
    const bl__cache *cache; /* whose pages the spans name */
    size_t n_ctx, max_parts;
    size_t tile_tokens; /* queries of so many tokens and one KV head are computed together */
    float *rope;        /* float[n_ctx][2][n_rot / 2]: cosines, sines */
    float *scratch;     /* float[max_parts][part_floats] */
    size_t part_floats;
    float
        *partial; /* states of a token's queries: [n_heads / group][n_chunks(n_ctx)][group rows] */
} bl__attention;

/* Takes the table of rotations and scratch for sequences of up to n_ctx positions from the arena
 * (which may be measuring); kernels, pool, h and cache are set by the caller. */
void bl__attention_layout(bl__attention *attention, size_t n_ctx, bl__arena *arena);

/* Fills the table of rotations; divisors: float[n_rot / 2] or NULL. */
void bl__attention_prepare(bl__attention *attention, const float *divisors);

/* For the n_tokens tokens of a batch, which n_spans spans cover in their order: rotates q and k in
 * place by their positions, stores k and v in the cache, attends causally to the token's own
 * sequence and writes out: float[n_tokens][n_heads][head_dim].
 * q: float[n_tokens][n_heads][head_dim]; k, v: float[n_tokens][n_kv_heads][head_dim]. */
void bl__attention_run(bl__attention *attention, size_t layer, const bl__span *spans,
                       size_t n_spans, float *q, float *k, const float *v, float *out);

#endif
