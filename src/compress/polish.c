/* Owns coordinate descent on codes and levels. Must not know where they come from.
 *
 * With r = target - w of a row and g = H r, changing w by d changes the error r H r^T by
 * d H d^T - 2 d g^T: for one column, the best change is g / H_cc; for a number that columns move
 * along f with, it is f g^T / f H f^T. g follows each change by rows of H: at once within the block
 * in hand, by one product when the block is done elsewhere. */
#include "compress/polish.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { MOST_UNITS = 63, TURNS = 2 };

typedef struct job {
    const bl__problem *problem;
    bl__binarized *signs;
    float *pull;    /* float[rows][cols]: g */
    float *changes; /* float[rows][128]: minus what the weights of the block in hand moved by */
    size_t block;
    unsigned n_codes;
} job;

/* One row of a block on its way: columns first ... first + n - 1. */
typedef struct row {
    const bl__binarized *m;
    const float *hessian; /* of these columns: float[n], rows of H m->cols apart */
    size_t index, block, first, n;
    float *w; /* float[n] */
    float *g; /* float[n] */
    uint8_t *codes;
    float unit; /* what levels are whole multiples of */
    unsigned n_codes;
} row;

static void move_column(const row *r, size_t c, float to) {
    const float *h = r->hessian + c * r->m->cols;
    float by = to - r->w[c];
    r->w[c] = to;
    for (size_t k = 0; k < r->n; k++)
        r->g[k] -= by * h[k];
}

static float col_scale_of(const row *r, size_t c) {
    return r->m->col_scale ? r->m->col_scale[r->first + c] : 1.0f;
}

static bool is_salient(const row *r, size_t c) {
    return r->m->salient[r->first + c];
}

static void improve_codes(const row *r) {
    const float *params = bl__binarized_params(r->m, r->index, r->block);
    for (size_t c = 0; c < r->n; c++) {
        float now = r->w[c], wanted = now + r->g[c] / r->hessian[c * (r->m->cols + 1)];
        float least = fabsf(wanted - now), best = now;
        for (unsigned code = 0; code < r->n_codes; code++) {
            float value = bl__binarized_value(params, is_salient(r, c), code, col_scale_of(r, c));
            if (fabsf(wanted - value) < least) {
                least = fabsf(wanted - value);
                best = value;
                r->codes[c] = (uint8_t)code;
            }
        }
        if (best != now)
            move_column(r, c, best);
    }
}

/* A number that some columns of a block move with. */
typedef struct mover {
    size_t n, columns[BL_BINARIZED_BLOCK];
    float along[BL_BINARIZED_BLOCK];
} mover;

/* The change that lowers the error most, in whole units. */
static float best_change(const row *r, const mover *f) {
    double pull = 0, curve = 0;
    for (size_t i = 0; i < f->n; i++) {
        const float *h = r->hessian + f->columns[i] * r->m->cols;
        float sum = 0;
        for (size_t k = 0; k < f->n; k++)
            sum += f->along[k] * h[f->columns[k]];
        curve += (double)(f->along[i] * sum);
        pull += (double)(f->along[i] * r->g[f->columns[i]]);
    }
    return curve > 0 ? rintf((float)(pull / curve) / r->unit) * r->unit : 0;
}

/* Brings the weights of these columns in line with parameters that have changed. */
static void follow(const row *r, const mover *f, const float *params) {
    for (size_t i = 0; i < f->n; i++) {
        size_t c = f->columns[i];
        move_column(r, c,
                    bl__binarized_value(params, is_salient(r, c), r->codes[c], col_scale_of(r, c)));
    }
}

/* The level of one code among the columns that are not salient. */
static void improve_level(const row *r, unsigned code) {
    float *p = bl__binarized_params(r->m, r->index, r->block);
    float *mean = &p[code & 2 ? BL_OUTER_MEAN : BL_INNER_MEAN], *scale = mean + 1;
    mover f = {.n = 0};
    for (size_t c = 0; c < r->n; c++)
        if (!is_salient(r, c) && r->codes[c] == code) {
            f.columns[f.n] = c;
            f.along[f.n++] = col_scale_of(r, c);
        }
    float change = best_change(r, &f), low = *mean - *scale, high = *mean + *scale;
    *(code & 1 ? &high : &low) += change;
    if (change == 0 || fabsf(code & 1 ? high : low) > MOST_UNITS * r->unit)
        return;
    *mean = (low + high) * 0.5f;
    *scale = (high - low) * 0.5f;
    follow(r, &f, p);
}

/* One of the three parameters of salient columns; sign: the bit of codes that is its sign, 0 for
 * the mean. */
static void improve_salient(const row *r, bl__binarized_param param, unsigned sign) {
    float *p = bl__binarized_params(r->m, r->index, r->block);
    mover f = {.n = 0};
    for (size_t c = 0; c < r->n; c++)
        if (is_salient(r, c)) {
            f.columns[f.n] = c;
            f.along[f.n++] = (!sign || r->codes[c] & sign ? 1.0f : -1.0f) * col_scale_of(r, c);
        }
    float change = best_change(r, &f), before = p[param];
    p[param] += change;
    float most =
        fabsf(p[BL_SALIENT_MEAN]) + fabsf(p[BL_SALIENT_SCALE1]) + fabsf(p[BL_SALIENT_SCALE2]);
    if (change == 0 || most > MOST_UNITS * r->unit)
        p[param] = before;
    else
        follow(r, &f, p);
}

static void polish_row(const row *r) {
    improve_codes(r);
    for (size_t turn = 0; turn < TURNS; turn++) {
        for (unsigned code = 0; code < r->n_codes; code++)
            improve_level(r, code);
        improve_salient(r, BL_SALIENT_MEAN, 0);
        improve_salient(r, BL_SALIENT_SCALE1, 1);
        improve_salient(r, BL_SALIENT_SCALE2, 2);
        improve_codes(r);
    }
}

static void polish_part(void *context, size_t part, size_t n_parts) {
    job *j = context;
    const bl__binarized *m = j->signs;
    size_t first = j->block * m->block, n = bl__min_size(m->block, m->cols - first);
    size_t end = m->rows * (part + 1) / n_parts;
    float g[BL_BINARIZED_BLOCK];
    for (size_t i = m->rows * part / n_parts; i < end; i++) {
        float *changes = j->changes + i * BL_BINARIZED_BLOCK;
        row r = {.m = m,
                 .hessian = j->problem->hessian + first * (m->cols + 1),
                 .index = i,
                 .block = j->block,
                 .first = first,
                 .n = n,
                 .w = j->problem->weights + i * m->cols + first,
                 .g = g,
                 .codes = m->codes + i * m->cols + first,
                 .unit = m->units[i],
                 .n_codes = j->n_codes};
        memcpy(g, j->pull + i * m->cols + first, n * sizeof *g);
        memcpy(changes, r.w, n * sizeof *changes);
        if (r.unit > 0)
            polish_row(&r);
        for (size_t c = 0; c < n; c++)
            changes[c] -= r.w[c];
    }
}

/* One block of all rows, and what its changes do to the pull on all columns. */
static void polish_block(job *j) {
    const bl__problem *p = j->problem;
    size_t first = j->block * j->signs->block;
    size_t n = bl__min_size(j->signs->block, p->cols - first);
    bl__pool *pool = p->products->pool;
    bl__pool_run(pool, polish_part, j, bl__min_size(p->rows, (size_t)bl__pool_threads(pool) * 8));
    bl__multiply(p->products, (bl__matrix){j->changes, BL_BINARIZED_BLOCK},
                 (bl__matrix){p->hessian + first * p->cols, p->cols}, p->rows, n, p->cols, j->pull,
                 p->cols, true);
}

bl_status bl__polish(const bl__problem *p, const float *target, unsigned n_codes, size_t n_sweeps,
                     bl__binarized *signs, bl_error *err) {
    size_t n = p->rows * p->cols;
    bl_status status = bl__products_reserve(p->products, p->cols, p->cols, err);
    job j = {.problem = p,
             .signs = signs,
             .pull = bl__malloc_array(n, sizeof(float)),
             .changes = bl__malloc_array(p->rows, BL_BINARIZED_BLOCK * sizeof(float)),
             .n_codes = n_codes};
    float *rest = bl__malloc_array(n, sizeof *rest);
    if (!status && (!j.pull || !j.changes || !rest))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate the errors of %zu weights", n);
    if (!status) {
        for (size_t i = 0; i < n; i++)
            rest[i] = target[i] - p->weights[i];
        bl__multiply(p->products, (bl__matrix){rest, p->cols}, (bl__matrix){p->hessian, p->cols},
                     p->rows, p->cols, p->cols, j.pull, p->cols, false);
        for (size_t sweep = 0; sweep < n_sweeps; sweep++)
            for (j.block = 0; j.block < signs->n_blocks; j.block++)
                polish_block(&j);
    }
    bl__free(rest);
    bl__free(j.pull);
    bl__free(j.changes);
    return status;
}
