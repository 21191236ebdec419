/* Owns the loop over blocks of columns. Must not know how any method chooses its values. */
#include "compress/block.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { ROWS_PER_PART = 16 };

/* ---- blocks ---- */

typedef struct rows_job {
    bl__block *block;
    bl__rows_fn fn;
} rows_job;

static void rows_part(void *context, size_t part, size_t n_parts) {
    const rows_job *j = context;
    size_t rows = j->block->problem->rows;
    j->fn(j->block, rows * part / n_parts, rows * (part + 1) / n_parts);
}

void bl__block_rows(bl__block *block, bl__rows_fn fn) {
    rows_job j = {block, fn};
    bl__pool *pool = block->problem->products->pool;
    size_t most = (size_t)bl__pool_threads(pool) * 4;
    size_t parts = (block->problem->rows + ROWS_PER_PART - 1) / ROWS_PER_PART;
    bl__pool_run(pool, rows_part, &j, bl__min_size(parts, most));
}

/* A course on its way. */
typedef struct travel {
    bl__block block; /* first, so that a block's rows find the rest */
    const bl__course *course;
    bool compensate;
    float *errors; /* float[rows][128]: minus the errors, over the factor's diagonal */
    bl__binarized *out;
} travel;

/* The code whose value is nearest to w, of those that may be taken. */
static unsigned choose(const float *params, bool salient, unsigned code, float col_scale, float w,
                       bl__rounding rounding) {
    unsigned best = code;
    float least = INFINITY;
    for (unsigned c = 0; c < 4; c++) {
        if (rounding == BL_ROUND_GROUP && !salient && (c & 2) != (code & 2))
            continue;
        float distance = fabsf(w - bl__binarized_value(params, salient, c, col_scale));
        if (distance < least) {
            least = distance;
            best = c;
        }
    }
    return best;
}

/* What weight c of a row, being w by now, becomes; its code is set. */
static float round_weight(const travel *t, size_t row, size_t c, float w) {
    const bl__block *b = &t->block;
    const float *params = b->params + row * BL_BINARIZED_PARAMS;
    uint8_t *code = b->codes + row * BL_BLOCK_COLS + c;
    if (t->course->value)
        return t->course->value(b, row, c, w);
    if (t->course->rounding != BL_ROUND_KEEP)
        *code =
            (uint8_t)choose(params, b->salient[c], *code, b->col_scale[c], w, t->course->rounding);
    return bl__binarized_value(params, b->salient[c], *code, b->col_scale[c]);
}

static void round_row(const travel *t, size_t row) {
    const bl__block *b = &t->block;
    const bl__problem *p = b->problem;
    float *w = b->weights + row * BL_BLOCK_COLS, *error = t->errors + row * BL_BLOCK_COLS;
    bool inside = t->compensate && t->course->rounding != BL_ROUND_KEEP;
    for (size_t c = 0; c < b->n; c++) {
        float value = round_weight(t, row, c, w[c]);
        error[c] = (value - w[c]) / bl__block_diagonal(b, c);
        w[c] = value;
        if (!inside)
            continue;
        const float *u = p->factor + (b->first + c) * p->cols + b->first;
        for (size_t k = c + 1; k < b->n; k++)
            w[k] += error[c] * u[k];
    }
}

static void round_rows(bl__block *block, size_t first, size_t end) {
    const travel *t = (const travel *)(const void *)block; /* its first member */
    for (size_t row = first; row < end; row++)
        round_row(t, row);
}

static void load_rows(bl__block *b, size_t first, size_t end) {
    const bl__problem *p = b->problem;
    for (size_t row = first; row < end; row++) {
        memcpy(b->weights + row * BL_BLOCK_COLS, p->weights + row * p->cols + b->first,
               b->n * sizeof(float));
        memset(b->weights + row * BL_BLOCK_COLS + b->n, 0, (BL_BLOCK_COLS - b->n) * sizeof(float));
        memset(b->codes + row * BL_BLOCK_COLS, 0, b->n);
        memset(b->params + row * BL_BINARIZED_PARAMS, 0, BL_BINARIZED_PARAMS * sizeof(float));
    }
}

static void store_rows(bl__block *b, size_t first, size_t end) {
    const bl__problem *p = b->problem;
    bl__binarized *out = ((const travel *)(const void *)b)->out;
    size_t index = b->first / out->block;
    for (size_t row = first; row < end; row++) {
        memcpy(p->weights + row * p->cols + b->first, b->weights + row * BL_BLOCK_COLS,
               b->n * sizeof(float));
        memcpy(out->codes + row * p->cols + b->first, b->codes + row * BL_BLOCK_COLS, b->n);
        memcpy(bl__binarized_params(out, row, index), b->params + row * BL_BINARIZED_PARAMS,
               BL_BINARIZED_PARAMS * sizeof(float));
    }
}

static void run_block(travel *t) {
    bl__block *b = &t->block;
    const bl__problem *p = b->problem;
    size_t end = b->first + b->n;
    memset(b->salient, 0, b->n);
    for (size_t c = 0; c < b->n; c++)
        b->col_scale[c] = 1;
    bl__block_rows(b, load_rows);
    t->course->fit(b);
    bl__block_rows(b, round_rows);
    bl__block_rows(b, store_rows);
    memcpy(t->out->salient + b->first, b->salient, b->n);
    if (t->out->col_scale)
        memcpy(t->out->col_scale + b->first, b->col_scale, b->n * sizeof(float));
    if (t->compensate && end < p->cols)
        bl__multiply(p->products, (bl__matrix){t->errors, BL_BLOCK_COLS},
                     (bl__matrix){p->factor + b->first * p->cols + end, p->cols}, p->rows, b->n,
                     p->cols - end, p->weights + end, p->cols, true);
}

bl_status bl__compress_blocks(const bl__problem *p, const bl__course *course, bl__binarized *out,
                              bl_error *err) {
    uint8_t salient[BL_BLOCK_COLS];
    float col_scale[BL_BLOCK_COLS];
    size_t n = p->rows * BL_BLOCK_COLS;
    travel t = {.block = {.problem = p,
                          .weights = bl__malloc_array(n, sizeof(float)),
                          .salient = salient,
                          .codes = bl__malloc(n),
                          .params = bl__malloc_array(p->rows * BL_BINARIZED_PARAMS, sizeof(float)),
                          .col_scale = col_scale,
                          .scratch = bl__malloc_array(n, sizeof(float))},
                .course = course,
                .compensate = course->compensate && p->factor,
                .errors = bl__malloc_array(n, sizeof(float)),
                .out = out};
    bl__block *b = &t.block;
    bl_status status = bl__products_reserve(p->products, BL_BLOCK_COLS, p->cols, err);
    if (!status && (!b->weights || !b->codes || !b->params || !b->scratch || !t.errors))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate blocks of %zu rows", p->rows);
    for (; !status && b->first < p->cols; b->first += b->n) {
        b->n = bl__min_size(out->block, p->cols - b->first);
        run_block(&t);
    }
    bl__free(b->weights);
    bl__free(b->codes);
    bl__free(b->params);
    bl__free(b->scratch);
    bl__free(t.errors);
    return status;
}

typedef struct settling {
    const bl__problem *problem;
    const bl__binarized *signs;
} settling;

static void settle_part(void *context, size_t part, size_t n_parts) {
    const settling *s = context;
    const bl__binarized *m = s->signs;
    size_t end = m->rows * (part + 1) / n_parts;
    for (size_t row = m->rows * part / n_parts; row < end; row++) {
        float *w = s->problem->weights + row * m->cols;
        for (size_t c = 0; c < m->cols; c++)
            w[c] = bl__binarized_value(bl__binarized_params(m, row, c / m->block), m->salient[c],
                                       m->codes[row * m->cols + c],
                                       m->col_scale ? m->col_scale[c] : 1.0f);
    }
}

bl_status bl__settle(const bl__problem *problem, bl__binarized *signs, bl_error *err) {
    bl_status status = bl__binarized_round(signs, err);
    settling s = {problem, signs};
    if (!status)
        bl__pool_run(problem->products->pool, settle_part, &s,
                     bl__min_size(signs->rows, (size_t)bl__pool_threads(problem->products->pool)));
    return status;
}
