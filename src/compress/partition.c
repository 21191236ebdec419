/* Owns the two searches that part a block. Must not know what becomes of the parts. */
#include "compress/partition.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_BREAKS = 81 };

/* What a search looks at: weights, or salience. */
static void metric_row(const bl__block *b, size_t row, float *out) {
    const float *w = b->weights + row * BL_BLOCK_COLS;
    for (size_t c = 0; c < BL_BLOCK_COLS; c++) {
        float d = c < b->n ? bl__block_diagonal(b, c) : 1.0f;
        out[c] = c >= b->n ? 0 : b->problem->released ? w[c] * w[c] / (d * d) : w[c];
    }
}

/* ---- salient columns ---- */

typedef struct rank {
    double size;
    size_t column;
} rank;

static int by_size(const void *a, const void *b) {
    const rank *x = a, *y = b;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    return x->column < y->column ? -1 : 1;
}

static void rank_columns(const bl__block *b, bl__ranking ranking, rank ranks[BL_BLOCK_COLS]) {
    for (size_t c = 0; c < b->n; c++)
        ranks[c] = (rank){0, c};
    for (size_t r = 0; r < b->problem->rows; r++)
        for (size_t c = 0; c < b->n; c++) {
            double w = (double)b->weights[r * BL_BLOCK_COLS + c];
            ranks[c].size += ranking == BL_RANK_NORM ? w * w * w * w : w * w;
        }
    for (size_t c = 0; c < b->n; c++) {
        double d = (double)bl__block_diagonal(b, c);
        ranks[c].size =
            ranking == BL_RANK_NORM ? sqrt(ranks[c].size) / (d * d) : ranks[c].size / (d * d);
    }
    qsort(ranks, b->n, sizeof *ranks, by_size);
}

static size_t most_salient(const bl__block *b) {
    size_t most = BL_MAX_SALIENT - 1;
    return b->n - 1 < most ? b->n - 1 : most;
}

/* scratch[row][k - 1]: what is left of the row when its k first columns are salient. Both sides get
 * two signs, in the search alone: with one elsewhere, more salient columns would always be better.
 * The order of the columns is handed over in block->salient, which is not set yet. */
static void try_salient(bl__block *b, size_t first, size_t end) {
    size_t most = most_salient(b);
    for (size_t row = first; row < end; row++) {
        float metric[BL_BLOCK_COLS], mean, one, two;
        bl__selection some = {{0}}, rest = {{0}};
        metric_row(b, row, metric);
        for (size_t c = 0; c < b->n; c++)
            rest.of[c] = 1;
        for (size_t k = 0; k < most; k++) {
            some.of[b->salient[k]] = 1;
            rest.of[b->salient[k]] = 0;
            b->scratch[row * BL_BLOCK_COLS + k] =
                bl__group_residual(metric, &some, &mean, &one, &two).error +
                bl__group_residual(metric, &rest, &mean, &one, &two).error;
        }
    }
}

/* The column of scratch with the least sum, of n. */
static size_t least_error(const bl__block *b, size_t n) {
    size_t best = 0;
    double least = INFINITY;
    for (size_t k = 0; k < n; k++) {
        double sum = 0;
        for (size_t r = 0; r < b->problem->rows; r++)
            sum += (double)b->scratch[r * BL_BLOCK_COLS + k];
        if (sum < least) {
            least = sum;
            best = k;
        }
    }
    return best;
}

void bl__find_salient(bl__block *b, bl__ranking ranking) {
    rank ranks[BL_BLOCK_COLS];
    if (b->n < 2)
        return;
    rank_columns(b, ranking, ranks);
    for (size_t c = 0; c < b->n; c++)
        b->salient[c] = (uint8_t)ranks[c].column;
    bl__block_rows(b, try_salient);
    size_t count = least_error(b, most_salient(b)) + 1;
    memset(b->salient, 0, b->n);
    for (size_t k = 0; k < count; k++)
        b->salient[ranks[k].column] = 1;
}

/* ---- the break point ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Quantiles 0.10, 0.11 ... 0.90 of |metric|, salient columns counting as 0, interpolated. Done in
 * scratch, whose rows are b->n long meanwhile. */
static void quantile_breaks(bl__block *b, float breaks[N_BREAKS]) {
    size_t count = 0;
    for (size_t r = 0; r < b->problem->rows; r++) {
        float metric[BL_BLOCK_COLS];
        metric_row(b, r, metric);
        for (size_t c = 0; c < b->n; c++)
            b->scratch[count++] = b->salient[c] ? 0 : fabsf(metric[c]);
    }
    qsort(b->scratch, count, sizeof *b->scratch, by_value);
    for (size_t i = 0; i < N_BREAKS; i++) {
        double at = (0.10 + 0.01 * (double)i) * (double)(count - 1);
        size_t low = (size_t)at, high = low + 1 < count ? low + 1 : low;
        double share = at - (double)low;
        breaks[i] =
            (float)((double)b->scratch[low] * (1 - share) + (double)b->scratch[high] * share);
    }
}

/* 0.10, 0.11 ... 0.90 of the largest |w| that is not salient. */
static void even_breaks(const bl__block *b, float breaks[N_BREAKS]) {
    float most = 0;
    for (size_t r = 0; r < b->problem->rows; r++)
        for (size_t c = 0; c < b->n; c++)
            if (!b->salient[c])
                most = fmaxf(most, fabsf(b->weights[r * BL_BLOCK_COLS + c]));
    for (size_t i = 0; i < N_BREAKS; i++)
        breaks[i] = (0.10f + 0.01f * (float)i) * most;
}

/* Outer weights lie beyond the break; the paper counts those on it as inner ones. */
static bool is_outer(const bl__block *b, float metric, float at) {
    return b->problem->released ? fabsf(metric) >= at : fabsf(metric) > at;
}

static void select_by_break(const bl__block *b, const float *metric, float at,
                            bl__row_groups *groups) {
    for (size_t c = 0; c < BL_BLOCK_COLS; c++) {
        bool counts = c < b->n && !b->salient[c], outer = is_outer(b, metric[c], at);
        groups->inner.of[c] = counts && !outer;
        groups->outer.of[c] = counts && outer;
    }
}

/* A block with the breaks to try. */
typedef struct breaks_block {
    bl__block block; /* first, so that a block's rows find the rest */
    float breaks[N_BREAKS];
    size_t chosen;
} breaks_block;

static void try_breaks(bl__block *b, size_t first, size_t end) {
    const breaks_block *t = (const breaks_block *)(const void *)b;
    bl__row_groups groups;
    float metric[BL_BLOCK_COLS];
    for (size_t row = first; row < end; row++) {
        metric_row(b, row, metric);
        for (size_t i = 0; i < N_BREAKS; i++) {
            select_by_break(b, metric, t->breaks[i], &groups);
            b->scratch[row * BL_BLOCK_COLS + i] = bl__group_of(metric, &groups.inner).error +
                                                  bl__group_of(metric, &groups.outer).error;
        }
    }
}

static void apply_break(bl__block *b, size_t first, size_t end) {
    const breaks_block *t = (const breaks_block *)(const void *)b;
    float metric[BL_BLOCK_COLS];
    for (size_t row = first; row < end; row++) {
        metric_row(b, row, metric);
        for (size_t c = 0; c < b->n; c++)
            if (!b->salient[c] && is_outer(b, metric[c], t->breaks[t->chosen]))
                b->codes[row * BL_BLOCK_COLS + c] |= 2;
    }
}

void bl__split_block(bl__block *b) {
    breaks_block t = {.block = *b};
    if (b->problem->released)
        quantile_breaks(b, t.breaks);
    else
        even_breaks(b, t.breaks);
    bl__block_rows(&t.block, try_breaks);
    t.chosen = least_error(b, N_BREAKS);
    bl__block_rows(&t.block, apply_break);
}

void bl__select_groups(const bl__block *b, size_t row, bl__row_groups *out) {
    const uint8_t *codes = b->codes + row * BL_BLOCK_COLS;
    for (size_t c = 0; c < BL_BLOCK_COLS; c++) {
        bool there = c < b->n, salient = there && b->salient[c];
        bool outer = there && !salient && codes[c] & 2;
        out->salient.of[c] = salient;
        out->outer.of[c] = outer;
        out->inner.of[c] = there && !salient && !outer;
    }
}
