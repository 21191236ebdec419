/* Owns positions and softmax attention. Must not know linears, norms or how caches are laid out.
 * Each (token, KV head) is computed alone, in position order, so neither the split of tokens into
 * batches nor the thread count changes a bit. */
#include "model/attention.h"

#include <math.h>

#include "base/checked.h"

enum { PARTS_PER_THREAD = 4 };

typedef struct job {
    bl__attention *attention;
    size_t layer, n_tokens;
    const bl__span *spans;
    float *q, *k;
    const float *v;
    float *out;
} job;

void bl__attention_layout(bl__attention *attention, size_t n_ctx, bl__arena *arena) {
    const bl__hparams *h = attention->h;
    size_t scores = 0;
    attention->n_ctx = n_ctx;
    attention->max_parts = (size_t)bl__pool_threads(attention->pool) * PARTS_PER_THREAD;
    if (!bl__mul_size(attention->max_parts * (h->n_heads / h->n_kv_heads), n_ctx, &scores))
        arena->overflowed = true;
    attention->rope = bl__arena_alloc(arena, n_ctx * h->n_rot, sizeof(float));
    attention->scores = bl__arena_alloc(arena, scores, sizeof(float));
}

/* Frequencies and angles are rounded to float32 where transformers rounds them. */
void bl__attention_prepare(bl__attention *attention, const float *divisors) {
    const bl__hparams *h = attention->h;
    size_t half = h->n_rot / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)h->n_rot;
        float frequency = 1.0f / (float)pow((double)h->rope_base, (double)exponent);
        if (divisors)
            frequency /= divisors[i];
        frequency /= h->rope_factor;
        for (size_t pos = 0; pos < attention->n_ctx; pos++) {
            float angle = (float)pos * frequency;
            float *cs = attention->rope + (pos * half + i) * 2;
            cs[0] = (float)cos((double)angle);
            cs[1] = (float)sin((double)angle);
        }
    }
}

/* The span that a token of the batch is in. */
static const bl__span *span_of(const job *j, size_t t) {
    const bl__span *span = j->spans;
    while (t >= span->first + span->n_tokens)
        span++;
    return span;
}

/* Rotates and stores the tokens of one part. */
static void store_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    bl__attention *a = j->attention;
    const bl__hparams *h = a->h;
    size_t d = h->head_dim;
    for (size_t t = j->n_tokens * part / n_parts; t < j->n_tokens * (part + 1) / n_parts; t++) {
        const bl__span *span = span_of(j, t);
        size_t pos = span->n_past + t - span->first;
        const float *cs = a->rope + pos * h->n_rot;
        for (size_t head = 0; head < h->n_heads; head++)
            bl__rope(j->q + (t * h->n_heads + head) * d, h->n_rot, h->rope_halves, cs);
        for (size_t head = 0; head < h->n_kv_heads; head++) {
            size_t at = (t * h->n_kv_heads + head) * d;
            bl__rope(j->k + at, h->n_rot, h->rope_halves, cs);
            bl__cache_store(span->cache, j->layer, head, pos, j->k + at, j->v + at);
        }
    }
}

/* All query heads that share one KV head, for one token. */
static void attend(const job *j, size_t t, size_t kv_head, float *scores) {
    const bl__attention *a = j->attention;
    const bl__span *span = span_of(j, t);
    size_t d = a->h->head_dim, group = a->h->n_heads / a->h->n_kv_heads;
    size_t n = span->n_past + t - span->first + 1;
    size_t first = (t * a->h->n_heads + kv_head * group) * d;
    const float *keys = bl__cache_keys(span->cache, j->layer, kv_head);
    const float *values = bl__cache_values(span->cache, j->layer, kv_head);
    float scale = 1.0f / sqrtf((float)d);
    a->kernels->dot_rows(keys, d, n, d, j->q + first, d, group, scores, a->n_ctx);
    for (size_t g = 0; g < group; g++) {
        float *s = scores + g * a->n_ctx;
        for (size_t i = 0; i < n; i++)
            s[i] *= scale;
        bl__softmax(s, n);
        a->kernels->weighted_sum(s, values, d, n, d, j->out + first + g * d);
    }
}

static void attend_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    const bl__attention *a = j->attention;
    size_t group = a->h->n_heads / a->h->n_kv_heads;
    size_t total = j->n_tokens * a->h->n_kv_heads;
    float *scores = a->scores + part * group * a->n_ctx;
    for (size_t i = total * part / n_parts; i < total * (part + 1) / n_parts; i++)
        attend(j, i / a->h->n_kv_heads, i % a->h->n_kv_heads, scores);
}

void bl__attention_run(bl__attention *attention, size_t layer, const bl__span *spans,
                       size_t n_spans, float *q, float *k, const float *v, float *out) {
    size_t n = spans[n_spans - 1].first + spans[n_spans - 1].n_tokens;
    job j = {attention, layer, n, spans, q, k, v, out};
    bl__pool_run(attention->pool, store_part, &j, bl__min_size(n, attention->max_parts));
    bl__pool_run(attention->pool, attend_part, &j,
                 bl__min_size(n * attention->h->n_kv_heads, attention->max_parts));
}
