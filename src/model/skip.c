/* Owns which rows and columns are multiplied, and the split of that over threads. Must not know
 * norms, nor what comes before and after. */
#include "model/skip.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "quant/skip.h"
#include "quant/t2.h"

enum {
    BLOCK_TILES = 16, /* rows of up that many tokens meet while these lie in a cache, by 16 */
    GROUP = BL_SKIP_BLOCK,
    FEW_TOKENS = 4,     /* up to so many, down's columns are split over threads, not its rows */
    MIN_COLUMNS = 64,   /* of down, for a part */
    MANY_TOKENS = 8,    /* from so many on, weights may become tiles of T2 first: then they meet */
    DENSE_PERCENT = 40, /* more tokens at once, which pays when this share of them is needed */
    ROW_COST = 512,     /* what a row takes besides its columns, in columns */
    LIST_COST = 160     /* and a list of columns besides them */
};

static bool any_skips(const bl_model *model) {
    bool any = false;
    for (size_t i = 0; i < model->hparams.n_layers; i++)
        any |= model->layers[i].can_skip;
    return any;
}

void bl__skip_layout(bl__skip *skip, const bl_model *model, size_t max_tokens, bl__arena *arena) {
    const bl__hparams *h = &model->hparams;
    size_t dim = h->dim, ffn = h->ffn_dim, max_parts = skip->compute->max_parts;
    skip->wanted = model->sparsity != BL_SPARSITY_OFF;
    if (!any_skips(model))
        return;
    skip->order_stride = bl__skip_stride(dim) * 4;
    skip->dots_stride = bl__skip_stride(dim) * 4;
    skip->tiles_stride = BLOCK_TILES * bl__t2_stride(dim > ffn ? dim : ffn);
    skip->order = bl__arena_alloc(arena, max_tokens, skip->order_stride);
    skip->rows = bl__arena_alloc(arena, ffn, sizeof(uint32_t));
    skip->columns = bl__arena_alloc(arena, max_tokens * ffn, sizeof(uint32_t));
    skip->n_columns = bl__arena_alloc(arena, max_tokens, sizeof(size_t));
    skip->dots = bl__arena_alloc(arena, max_parts * skip->dots_stride, sizeof(int32_t));
    skip->tiles =
        max_tokens >= MANY_TOKENS ? bl__arena_alloc(arena, max_parts, skip->tiles_stride) : NULL;
    skip->n_used = bl__arena_alloc(arena, max_parts, sizeof(size_t));
}

/* ---- up ---- */

typedef struct gate_up {
    bl__skip *skip;
    const bl__layer *layer;
    size_t n_tokens;
    float *gate, *up;
} gate_up;

/* Whether 0 * up is 0 for whatever rows the token meets. */
static bool stays_finite(const gate_up *job, size_t t) {
    return (double)job->skip->compute->q8.step[t] * job->layer->up_bound < 1e38; /* not NaN */
}

static void order_part(void *context, size_t part, size_t n_parts) {
    const gate_up *job = context;
    const bl__skip *skip = job->skip;
    const bl__q8 *q8 = &skip->compute->q8;
    for (size_t t = job->n_tokens * part / n_parts; t < job->n_tokens * (part + 1) / n_parts; t++)
        bl__r2_order(q8->q + t * q8->stride, job->layer->up.cols,
                     skip->order + t * skip->order_stride);
}

static size_t count_positive(const float *x, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += x[i] > 0.0f;
    return count;
}

/* The rows from `first` on whose gate is positive. list: uint32[n]. */
static size_t list_positive(const float *gate, size_t first, size_t n, uint32_t *list) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        list[count] = (uint32_t)(first + i);
        count += gate[i] > 0.0f;
    }
    return count;
}

/* Rows first ... first + n - 1 of one token; returns how many were multiplied. */
static size_t up_rows(const gate_up *job, size_t t, size_t first, size_t n) {
    const bl__skip *skip = job->skip;
    const bl__linear *up = &job->layer->up;
    const bl__q8 *q8 = &skip->compute->q8;
    float *gate = job->gate + t * up->rows, *out = job->up + t * up->rows;
    uint32_t *list = skip->rows + first;
    bool all = !skip->wanted || !stays_finite(job, t);
    size_t n_listed = n;
    if (!all)
        n_listed = list_positive(gate + first, first, n, list);
    for (size_t i = 0; all && i < n; i++)
        list[i] = (uint32_t)(first + i);
    skip->compute->kernels->listed_rows(up->data, up->rows, up->cols, list, n_listed,
                                        skip->order + t * skip->order_stride, q8->sum[t],
                                        q8->step[t], out);
    if (all)
        skip->compute->kernels->relu2_mul(gate + first, out + first, n, gate + first);
    for (size_t r = first; !all && r < first + n; r++)
        gate[r] = gate[r] > 0.0f ? gate[r] * gate[r] * out[r] : 0.0f;
    return n_listed;
}

/* All rows of some tiles for all tokens, as tiles of T2. */
static void up_tiles(const gate_up *job, size_t tile, size_t n_tiles, uint8_t *tiles) {
    const bl__linear *up = &job->layer->up;
    size_t first = tile * BL_T2_ROWS, n = bl__min_size(n_tiles * BL_T2_ROWS, up->rows - first);
    bl__r2_to_tiles(up->data, up->rows, up->cols, tile, n_tiles, tiles);
    job->skip->compute->kernels->ternary_gemm(tiles, up->rows - first, up->cols, 0, n_tiles,
                                              &job->skip->compute->q8, job->n_tokens,
                                              job->up + first, up->rows);
    for (size_t t = 0; t < job->n_tokens; t++) {
        float *gate = job->gate + t * up->rows + first;
        job->skip->compute->kernels->relu2_mul(gate, job->up + t * up->rows + first, n, gate);
    }
}

/* Some tiles of gate, then what is needed of the same tiles of up. */
static void gate_up_part(void *context, size_t part, size_t n_parts) {
    const gate_up *job = context;
    bl__skip *skip = job->skip;
    size_t rows = job->layer->up.rows, cols = job->layer->up.cols;
    size_t n_tiles = bl__t2_tiles(rows), used = 0;
    size_t end = n_tiles * (part + 1) / n_parts;
    for (size_t tile = n_tiles * part / n_parts, n; tile < end; tile += n) {
        n = job->n_tokens == 1 ? end - tile : bl__min_size(BLOCK_TILES, end - tile);
        size_t first = tile * BL_T2_ROWS, n_rows = bl__min_size(n * BL_T2_ROWS, rows - first);
        size_t needed = 0;
        bl__compute_tiles(skip->compute, &job->layer->gate, tile, n, job->n_tokens, part,
                          job->gate);
        for (size_t t = 0; job->n_tokens >= MANY_TOKENS && t < job->n_tokens; t++)
            needed += skip->wanted ? count_positive(job->gate + t * rows + first, n_rows) : n_rows;
        if (needed * (cols + ROW_COST) * 100 > n_rows * job->n_tokens * cols * DENSE_PERCENT) {
            up_tiles(job, tile, n, skip->tiles + part * skip->tiles_stride);
            used += n_rows * job->n_tokens;
        } else {
            for (size_t t = 0; t < job->n_tokens; t++)
                used += up_rows(job, t, first, n_rows);
        }
    }
    skip->n_used[part] = used;
}

void bl__skip_gate_up(bl__skip *skip, const bl__layer *layer, const float *x, size_t n_tokens,
                      float *gate, float *up) {
    bl__compute *compute = skip->compute;
    gate_up job = {skip, layer, n_tokens, gate, up};
    size_t n_parts = bl__min_size(bl__t2_tiles(layer->up.rows), compute->max_parts);
    bl__compute_quantize(compute, &layer->gate, x, n_tokens);
    bl__pool_run(compute->pool, order_part, &job, bl__min_size(n_tokens, compute->max_parts));
    bl__pool_run(compute->pool, gate_up_part, &job, n_parts);
    uint64_t all = (uint64_t)n_tokens * layer->up.rows;
    skip->counts.rows += all;
    skip->counts.rows_skipped += all;
    for (size_t part = 0; part < n_parts; part++)
        skip->counts.rows_skipped -= skip->n_used[part];
}

/* ---- down ---- */

typedef struct down {
    bl__skip *skip;
    const bl__linear *linear;
    size_t n_tokens;
    float *out;
    size_t token; /* of column_part */
} down;

/* Entries of the activations that are not zero, 8 of which are looked at together. */
static size_t list_nonzero(const int8_t *q, size_t n, uint32_t *list) {
    size_t count = 0, c = 0;
    for (; c + 8 <= n; c += 8) {
        uint64_t eight;
        memcpy(&eight, q + c, sizeof eight);
        for (size_t i = 0; eight && i < 8; i++) {
            list[count] = (uint32_t)(c + i) << 8 | (uint8_t)q[c + i];
            count += q[c + i] != 0;
        }
    }
    for (; c < n; c++)
        if (q[c])
            list[count++] = (uint32_t)c << 8 | (uint8_t)q[c];
    return count;
}

static void list_part(void *context, size_t part, size_t n_parts) {
    const down *job = context;
    const bl__skip *skip = job->skip;
    const bl__q8 *q8 = &skip->compute->q8;
    size_t cols = job->linear->cols;
    for (size_t t = job->n_tokens * part / n_parts; t < job->n_tokens * (part + 1) / n_parts; t++) {
        const int8_t *q = q8->q + t * q8->stride;
        uint32_t *list = skip->columns + t * cols;
        skip->n_columns[t] = skip->wanted ? list_nonzero(q, cols, list) : cols;
        for (size_t c = 0; !skip->wanted && c < cols; c++)
            list[c] = (uint32_t)c << 8 | (uint8_t)q[c];
    }
}

static const float *scales_of(const bl__linear *linear) {
    return (const float *)(const void *)linear->data;
}

/* Some columns of one token, all rows. */
static void column_part(void *context, size_t part, size_t n_parts) {
    const down *job = context;
    const bl__skip *skip = job->skip;
    const bl__linear *linear = job->linear;
    const uint32_t *list = skip->columns + job->token * linear->cols;
    size_t n = skip->n_columns[job->token], first = n * part / n_parts;
    int32_t *dots = skip->dots + part * skip->dots_stride;
    memset(dots, 0, skip->dots_stride * sizeof *dots);
    skip->compute->kernels->listed_columns(linear->data, linear->rows, list + first,
                                           n * (part + 1) / n_parts - first, 0,
                                           skip->dots_stride / GROUP, dots);
}

/* One token after the other: whole columns are read, as they lie side by side. */
static void down_few(down *job) {
    const bl__skip *skip = job->skip;
    const bl__linear *linear = job->linear;
    const bl__q8 *q8 = &skip->compute->q8;
    for (size_t t = 0; t < job->n_tokens; t++) {
        size_t n_parts = bl__min_size(bl__pool_threads(skip->compute->pool),
                                      1 + skip->n_columns[t] / MIN_COLUMNS);
        job->token = t;
        bl__pool_run(skip->compute->pool, column_part, job, n_parts);
        bl__scale_dots(skip->dots, n_parts, skip->dots_stride, q8->sum[t], q8->step[t],
                       scales_of(linear), linear->rows, job->out + t * linear->rows);
    }
}

/* Some groups of 256 rows, tokens one after the other: what they have in common is in a cache. */
static void rows_part(void *context, size_t part, size_t n_parts) {
    const down *job = context;
    const bl__skip *skip = job->skip;
    const bl__linear *linear = job->linear;
    const bl__q8 *q8 = &skip->compute->q8;
    size_t n_units = skip->dots_stride / GROUP * job->n_tokens;
    for (size_t i = n_units * part / n_parts; i < n_units * (part + 1) / n_parts; i++) {
        size_t group = i / job->n_tokens, t = i % job->n_tokens, first = group * GROUP;
        int32_t dots[GROUP] = {0};
        skip->compute->kernels->listed_columns(linear->data, linear->rows,
                                               skip->columns + t * linear->cols, skip->n_columns[t],
                                               group, 1, dots);
        bl__scale_dots(dots, 1, 0, q8->sum[t], q8->step[t], scales_of(linear) + first,
                       bl__min_size(GROUP, linear->rows - first),
                       job->out + t * linear->rows + first);
    }
}

/* Some groups of 256 rows, as tiles of T2. */
static void tiles_part(void *context, size_t part, size_t n_parts) {
    const down *job = context;
    const bl__skip *skip = job->skip;
    const bl__linear *linear = job->linear;
    uint8_t *tiles = skip->tiles + part * skip->tiles_stride;
    size_t n_groups = skip->dots_stride / GROUP;
    for (size_t g = n_groups * part / n_parts; g < n_groups * (part + 1) / n_parts; g++) {
        size_t left = linear->rows - g * GROUP;
        bl__c2_to_tiles(linear->data, linear->rows, linear->cols, g, tiles);
        skip->compute->kernels->ternary_gemm(
            tiles, left, linear->cols, 0, bl__t2_tiles(bl__min_size(left, GROUP)),
            &skip->compute->q8, job->n_tokens, job->out + g * GROUP, linear->rows);
    }
}

void bl__skip_down(bl__skip *skip, const bl__layer *layer, const float *x, size_t n_tokens,
                   float *out) {
    bl__compute *compute = skip->compute;
    down job = {.skip = skip, .linear = layer->down, .n_tokens = n_tokens, .out = out};
    size_t n_groups = skip->dots_stride / GROUP, needed = 0, all = n_tokens * layer->down->cols;
    bl__compute_quantize(compute, layer->down, x, n_tokens);
    bl__pool_run(compute->pool, list_part, &job, bl__min_size(n_tokens, compute->max_parts));
    for (size_t t = 0; t < n_tokens; t++)
        needed += skip->n_columns[t];
    bool dense =
        n_tokens >= MANY_TOKENS && (needed + n_tokens * LIST_COST) * 100 > all * DENSE_PERCENT;
    if (dense)
        bl__pool_run(compute->pool, tiles_part, &job, bl__min_size(n_groups, compute->max_parts));
    else if (n_tokens > FEW_TOKENS)
        bl__pool_run(compute->pool, rows_part, &job,
                     bl__min_size(n_groups * n_tokens, compute->max_parts));
    else
        down_few(&job);
    skip->counts.columns += all;
    skip->counts.columns_skipped += dense ? 0 : all - needed;
}
