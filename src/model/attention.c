/* Owns positions and softmax attention. Must not know linears, norms or how a session is batched.
 *
 * Softmax is taken online (arXiv 1805.02867, 2205.14135), in an order that positions alone decide:
 * the keys of a block of BL_CACHE_BLOCK positions have a maximum and a weighted sum of values of
 * their own; blocks are merged in order into a chunk of CHUNK_BLOCKS, chunks in order into the
 * result. So neither how tokens are batched or tiled nor which thread computes a chunk changes a
 * bit. */
#include "model/attention.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

enum { PARTS_PER_THREAD = 4, CHUNK_BLOCKS = 8, TILE_ROWS = 24 };

typedef struct job {
    bl__attention *attention;
    size_t layer, n_spans;
    const bl__span *spans;
    float *q, *k;
    const float *v;
    float *out;
    size_t n_units, n_chunks; /* n_chunks: of the one token, each a unit; 0: units are tiles */
} job;

/* What queries have gathered from some keys. */
typedef struct state {
    float *max;  /* float[n_rows]: the largest score */
    float *rows; /* float[n_rows][width + BL_LANES]: values weighted by exp(score - max), and in
                    lanes the sum of the weights */
} state;

/* The queries of some tokens of a span that share a KV head: rows [token][head of the group]. */
typedef struct tile {
    const job *j;
    const bl__span *span;
    size_t kv_head, first, n_tokens; /* first: token of the span */
    float *q;                        /* float[n_rows][head_dim], divided by sqrt(head_dim) */
    float *scores, *weights;         /* float[n_rows][BL_CACHE_BLOCK] */
    float *steps;                    /* float[n_groups][BL_CACHE_BLOCK] */
    state total, chunk, block;
} tile;

static size_t group_of(const bl__hparams *h) {
    return h->n_heads / h->n_kv_heads;
}

static size_t width_of(const bl__hparams *h) {
    return (h->head_dim + BL_CACHE_COLS - 1) / BL_CACHE_COLS * BL_CACHE_COLS;
}

static size_t state_floats(const bl__hparams *h, size_t n_rows) {
    return n_rows * (1 + width_of(h) + BL_LANES);
}

static state state_at(float *floats, size_t n_rows) {
    return (state){floats, floats + n_rows};
}

static size_t chunks_of(size_t n_positions) {
    size_t chunk = (size_t)BL_CACHE_BLOCK * CHUNK_BLOCKS;
    return (n_positions + chunk - 1) / chunk;
}

void bl__attention_layout(bl__attention *attention, size_t n_ctx, bl__arena *arena) {
    const bl__hparams *h = attention->h;
    size_t group = group_of(h), width = width_of(h), partial = 0;
    attention->n_ctx = n_ctx;
    attention->max_parts = (size_t)bl__pool_threads(attention->pool) * PARTS_PER_THREAD;
    attention->tile_tokens = group < TILE_ROWS ? TILE_ROWS / group : 1;
    size_t n_rows = attention->tile_tokens * group;
    size_t floats = n_rows * (h->head_dim + 2 * BL_CACHE_BLOCK) +
                    width / BL_CACHE_COLS * BL_CACHE_BLOCK + 3 * state_floats(h, n_rows);
    size_t store = BL_CACHE_BLOCK * width;
    attention->part_floats =
        ((floats > store ? floats : store) + BL_LANES - 1) / BL_LANES * BL_LANES;
    if (!bl__mul_size(chunks_of(n_ctx), h->n_kv_heads * state_floats(h, group), &partial))
        arena->overflowed = true;
    attention->rope = bl__arena_alloc(arena, n_ctx * h->n_rot, sizeof(float));
    attention->scratch =
        bl__arena_alloc(arena, attention->max_parts, attention->part_floats * sizeof(float));
    attention->partial = bl__arena_alloc(arena, partial, sizeof(float));
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
            float *row = attention->rope + pos * h->n_rot;
            row[i] = (float)cos((double)angle);
            row[half + i] = (float)sin((double)angle);
        }
    }
}

/* ---- storing ---- */

/* Blocks of positions that the tokens of a span are in. */
static size_t runs_of(const bl__span *span) {
    return (span->n_past + span->n_tokens - 1) / BL_CACHE_BLOCK - span->n_past / BL_CACHE_BLOCK + 1;
}

/* Rotates the queries and stores the keys of one KV head, for the tokens of one block. */
static void store_run(const job *j, const bl__span *span, size_t kv_head, size_t run,
                      float *scratch) {
    const bl__attention *a = j->attention;
    const bl__hparams *h = a->h;
    size_t d = h->head_dim, half = h->n_rot / 2, group = group_of(h);
    size_t block = span->n_past / BL_CACHE_BLOCK + run, block_first = block * BL_CACHE_BLOCK;
    size_t first = block_first > span->n_past ? block_first : span->n_past;
    size_t end = bl__min_size(block_first + BL_CACHE_BLOCK, span->n_past + span->n_tokens);
    size_t token = span->first + first - span->n_past;
    float *k = j->k + (token * h->n_kv_heads + kv_head) * d;
    for (size_t pos = first; pos < end; pos++) {
        const float *c = a->rope + pos * h->n_rot, *s = c + half;
        size_t i = pos - first;
        float *q = j->q + ((token + i) * h->n_heads + kv_head * group) * d;
        for (size_t head = 0; head < group; head++)
            a->kernels->rope(q + head * d, half, h->rope_halves, c, s);
        a->kernels->rope(k + i * h->n_kv_heads * d, half, h->rope_halves, c, s);
    }
    bl__cache_part part = bl__cache_at(a->cache, span->pages[block], j->layer, kv_head);
    bl__cache_store(a->cache, a->kernels, part, first - block_first, end - first, k,
                    j->v + (k - j->k), h->n_kv_heads * d, scratch);
}

static void store_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    size_t n_heads = j->attention->h->n_kv_heads;
    float *scratch = j->attention->scratch + part * j->attention->part_floats;
    for (size_t i = part; i < j->n_units; i += n_parts) {
        const bl__span *span = j->spans;
        size_t run = i / n_heads;
        for (; run >= runs_of(span); span++)
            run -= runs_of(span);
        store_run(j, span, i % n_heads, run, scratch);
    }
}

/* ---- attending ---- */

/* scores = q k for the keys of a block, queries from row `first` on. */
static void score(const tile *t, const bl__cache_part *part, size_t first, size_t n_rows) {
    const bl__cache *cache = t->j->attention->cache;
    const bl__kernels *kernels = t->j->attention->kernels;
    size_t d = cache->h->head_dim, n = BL_CACHE_BLOCK;
    const float *q = t->q + first * d;
    if (cache->n_groups == 0) {
        kernels->cells_product(cache->type, q, d, n_rows, part->keys, cache->key_stride, d, n,
                               t->scores, n, false);
        return;
    }
    kernels->unpack_f16(part->key_steps, cache->n_groups * n, t->steps);
    for (size_t g = 0; g < cache->n_groups; g++) {
        size_t at = g * cache->group_dim, here = bl__min_size(cache->group_dim, d - at);
        kernels->cells_product(cache->type, q + at, d, n_rows, part->keys + at * cache->key_stride,
                               cache->key_stride, here, n, t->weights, n, false);
        for (size_t r = 0; r < n_rows; r++)
            if (g == 0)
                kernels->scale(t->weights + r * n, 1.0f, t->steps, n, t->scores + r * n);
            else
                kernels->add_scaled(t->scores + r * n, t->weights + r * n, t->steps + g * n, n);
    }
}

/* Keys from ... end - 1 of a block: rows of `to` (+)= scores times values. */
static void weigh(const tile *t, const bl__cache_part *part, size_t group, const float *scores,
                  size_t n_rows, size_t from, size_t end, float *to) {
    const bl__cache *cache = t->j->attention->cache;
    const uint8_t *values = part->values + from * cache->value_stride +
                            group * (cache->n_groups ? cache->value_stride / cache->n_groups : 0);
    t->j->attention->kernels->cells_product(
        cache->type, scores + from, BL_CACHE_BLOCK, n_rows, values, cache->value_stride, end - from,
        cache->group_dim, to + group * cache->group_dim, cache->width + BL_LANES, from > 0);
}

/* The values of a block for tokens from `skip` on, the first of which sees n_keys of its keys, each
 * further one a key more: those that all see at once, the rest token by token. */
static void weigh_values(const tile *t, const bl__cache_part *part, size_t skip, size_t n_keys,
                         float *rows) {
    const bl__cache *cache = t->j->attention->cache;
    const bl__kernels *kernels = t->j->attention->kernels;
    size_t n_tokens = t->n_tokens - skip, group = group_of(cache->h), n = BL_CACHE_BLOCK;
    size_t n_rows = n_tokens * group, stride = cache->width + BL_LANES;
    if (cache->n_groups)
        kernels->unpack_f16(part->value_steps, cache->n_groups * n, t->steps);
    for (size_t g = 0; g == 0 || g < cache->n_groups; g++) {
        const float *scores = t->scores;
        for (size_t r = 0; cache->n_groups && r < n_rows; r++)
            kernels->scale(t->scores + r * n, 1.0f, t->steps + g * n, n, t->weights + r * n);
        if (cache->n_groups)
            scores = t->weights;
        weigh(t, part, g, scores, n_rows, 0, bl__min_size(n_keys, n), rows);
        for (size_t i = 1; i < n_tokens && n_keys < n; i++)
            weigh(t, part, g, scores + i * group * n, group, n_keys, bl__min_size(n_keys + i, n),
                  rows + i * group * stride);
    }
}

/* What the queries of the tokens from `skip` on gather from one block, into the rows of `to` from
 * theirs on. */
static void attend_block(const tile *t, size_t block, size_t skip, state to) {
    const job *j = t->j;
    const bl__cache *cache = j->attention->cache;
    bl__cache_part part = bl__cache_at(cache, t->span->pages[block], j->layer, t->kv_head);
    size_t group = group_of(cache->h), first = skip * group, n_rows = t->n_tokens * group - first;
    size_t stride = cache->width + BL_LANES;
    size_t n_keys = t->span->n_past + t->first + skip - block * BL_CACHE_BLOCK + 1;
    float *rows = to.rows + first * stride;
    score(t, &part, first, n_rows);
    for (size_t r = 0; r < n_rows; r++)
        to.max[first + r] = j->attention->kernels->softmax_block(
            t->scores + r * BL_CACHE_BLOCK, bl__min_size(n_keys + r / group, BL_CACHE_BLOCK),
            rows + r * stride + cache->width);
    weigh_values(t, &part, skip, n_keys, rows);
}

/* Rows from `first` on. */
static void merge(const tile *t, state to, state from, size_t first, size_t n_rows) {
    size_t stride = t->j->attention->cache->width + BL_LANES;
    t->j->attention->kernels->merge_rows(to.max + first, to.rows + first * stride, from.max + first,
                                         from.rows + first * stride, n_rows - first, stride);
}

/* Tokens of the tile that see no key from position `first` on. */
static size_t tokens_before(const tile *t, size_t first) {
    size_t begin = t->span->n_past + t->first;
    return first > begin ? first - begin : 0;
}

/* What the tile gathers from one chunk; t->block is overwritten. */
static void attend_chunk(const tile *t, size_t chunk, state to) {
    size_t group = group_of(t->j->attention->cache->h), begin = chunk * CHUNK_BLOCKS;
    size_t last = (t->span->n_past + t->first + t->n_tokens - 1) / BL_CACHE_BLOCK;
    for (size_t b = begin; b < begin + CHUNK_BLOCKS && b <= last; b++) {
        size_t skip = tokens_before(t, b * BL_CACHE_BLOCK);
        attend_block(t, b, skip, b == begin ? to : t->block);
        if (b > begin)
            merge(t, to, t->block, skip * group, t->n_tokens * group);
    }
}

/* Divides by the sums. */
static void finish(const tile *t, state from) {
    const bl__attention *a = t->j->attention;
    const bl__hparams *h = a->h;
    size_t width = width_of(h), group = group_of(h), d = h->head_dim;
    for (size_t r = 0; r < t->n_tokens * group; r++) {
        float *row = from.rows + r * (width + BL_LANES), *sums = row + width;
        size_t token = t->span->first + t->first + r / group;
        for (size_t half = BL_LANES / 2; half; half /= 2)
            for (size_t l = 0; l < half; l++)
                sums[l] += sums[l + half];
        a->kernels->scale(row, 1.0f / sums[0], NULL, d,
                          t->j->out + (token * h->n_heads + t->kv_head * group + r % group) * d);
    }
}

/* Lays a tile out in scratch and loads its queries. */
static tile make_tile(const job *j, const bl__span *span, size_t kv_head, size_t first,
                      size_t n_tokens, float *scratch) {
    const bl__attention *a = j->attention;
    const bl__hparams *h = a->h;
    size_t d = h->head_dim, group = group_of(h), n_rows = n_tokens * group;
    size_t state_size = state_floats(h, n_rows);
    tile t = {.j = j, .span = span, .kv_head = kv_head, .first = first, .n_tokens = n_tokens};
    t.total = state_at(scratch, n_rows);
    t.chunk = state_at(scratch + state_size, n_rows);
    t.block = state_at(scratch + 2 * state_size, n_rows);
    t.scores = scratch + 3 * state_size;
    t.weights = t.scores + n_rows * BL_CACHE_BLOCK;
    t.q = t.weights + n_rows * BL_CACHE_BLOCK;
    t.steps = t.q + n_rows * d;
    for (size_t i = 0; i < n_tokens; i++)
        a->kernels->scale(j->q + ((span->first + first + i) * h->n_heads + kv_head * group) * d,
                          1.0f / sqrtf((float)d), NULL, group * d, t.q + i * group * d);
    return t;
}

static size_t tiles_of(const bl__attention *a, const bl__span *span) {
    return (span->n_tokens + a->tile_tokens - 1) / a->tile_tokens;
}

/* Later tiles see more keys and are taken first. */
static void attend_tile(const job *j, size_t i, float *scratch) {
    const bl__attention *a = j->attention;
    const bl__span *span = j->spans + j->n_spans - 1;
    size_t back = i / a->h->n_kv_heads;
    for (; back >= tiles_of(a, span); span--)
        back -= tiles_of(a, span);
    size_t first = (tiles_of(a, span) - 1 - back) * a->tile_tokens;
    size_t n = bl__min_size(a->tile_tokens, span->n_tokens - first);
    tile t = make_tile(j, span, i % a->h->n_kv_heads, first, n, scratch);
    size_t n_chunks = chunks_of(span->n_past + first + n);
    for (size_t c = 0; c < n_chunks; c++) {
        size_t skip = tokens_before(&t, c * CHUNK_BLOCKS * BL_CACHE_BLOCK);
        attend_chunk(&t, c, c ? t.chunk : t.total);
        if (c)
            merge(&t, t.total, t.chunk, skip * group_of(a->h), n * group_of(a->h));
    }
    finish(&t, t.total);
}

static state partial_at(const job *j, size_t kv_head, size_t chunk) {
    const bl__attention *a = j->attention;
    size_t group = group_of(a->h);
    return state_at(a->partial + (kv_head * j->n_chunks + chunk) * state_floats(a->h, group),
                    group);
}

static void attend_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    float *scratch = j->attention->scratch + part * j->attention->part_floats;
    for (size_t i = part; i < j->n_units; i += n_parts) {
        if (j->n_chunks == 0) {
            attend_tile(j, i, scratch);
            continue;
        }
        size_t kv_head = i / j->n_chunks, chunk = i % j->n_chunks;
        tile t = make_tile(j, j->spans, kv_head, 0, 1, scratch);
        attend_chunk(&t, chunk, partial_at(j, kv_head, chunk));
    }
}

/* Joins the chunks of one token. */
static void join_chunks(const job *j) {
    size_t n_kv_heads = j->attention->h->n_kv_heads, group = group_of(j->attention->h);
    for (size_t head = 0; head < n_kv_heads; head++) {
        tile t = {.j = j, .span = j->spans, .kv_head = head, .n_tokens = 1};
        for (size_t c = 1; c < j->n_chunks; c++)
            merge(&t, partial_at(j, head, 0), partial_at(j, head, c), 0, group);
        finish(&t, partial_at(j, head, 0));
    }
}

void bl__attention_run(bl__attention *attention, size_t layer, const bl__span *spans,
                       size_t n_spans, float *q, float *k, const float *v, float *out) {
    job j = {attention, layer, n_spans, spans, q, k, v, out, 0, 0};
    size_t n_kv_heads = attention->h->n_kv_heads, n_tokens = 0, n_tiles = 0;
    for (size_t i = 0; i < n_spans; i++) {
        j.n_units += runs_of(&spans[i]) * n_kv_heads;
        n_tiles += tiles_of(attention, &spans[i]);
        n_tokens += spans[i].n_tokens;
    }
    bl__pool_run(attention->pool, store_part, &j, bl__min_size(j.n_units, attention->max_parts));
    size_t n_chunks = chunks_of(spans[0].n_past + 1);
    if (n_tokens == 1 && n_chunks > 1 && bl__pool_threads(attention->pool) > 1)
        j.n_chunks = n_chunks;
    j.n_units = n_kv_heads * (j.n_chunks ? j.n_chunks : n_tiles);
    bl__pool_run(attention->pool, attend_part, &j, bl__min_size(j.n_units, attention->max_parts));
    if (j.n_chunks)
        join_chunks(&j);
}
