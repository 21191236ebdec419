/* Owns onebit: the sign of each weight between two vectors, SVID of OneBit (arXiv 2402.11295,
 * section 3.2). |W| ~ a b^T of rank one, so W ~ sign(W) * (a b^T): what OneBit's training begins
 * with, and one magnitude a row and scales of columns to the layouts (bl_b1 and in_scale). */
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "compress/method.h"

/* Rounds of the power iteration; the next to largest singular value of |W| is far below the
 * largest, so few are needed. */
enum { MAX_ROUNDS = 50 };
static const double ROUND_GAIN = 1e-9;

typedef struct svid {
    double *row; /* double[rows]: a, then as b */
    double *col; /* double[cols] */
} svid;

static double square_of(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

/* row = |W| col / |col|^2, then col = |W|^T row / |row|^2: each the nearest to the other. Returns
 * |row|^2 |col|^2, which grows towards the square of the largest singular value. */
static double improve(const bl__problem *p, const svid *s) {
    double square = square_of(s->col, p->cols);
    for (size_t r = 0; r < p->rows; r++) {
        const float *w = p->weights + r * p->cols;
        double sum = 0;
        for (size_t c = 0; c < p->cols; c++)
            sum += fabs((double)w[c]) * s->col[c];
        s->row[r] = square > 0 ? sum / square : 0;
    }
    square = square_of(s->row, p->rows);
    for (size_t c = 0; c < p->cols; c++)
        s->col[c] = 0;
    for (size_t r = 0; r < p->rows && square > 0; r++) {
        const float *w = p->weights + r * p->cols;
        double factor = s->row[r] / square;
        for (size_t c = 0; c < p->cols; c++)
            s->col[c] += fabs((double)w[c]) * factor;
    }
    return square * square_of(s->col, p->cols);
}

/* The vectors, balanced so that both are of one length. |W| has no negative element, nor have they
 * (Perron and Frobenius). */
static void factorize(const bl__problem *p, const svid *s) {
    double before = 0;
    for (size_t c = 0; c < p->cols; c++)
        s->col[c] = 1;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        double now = improve(p, s);
        if (now - before <= ROUND_GAIN * now)
            break;
        before = now;
    }
    double rows = square_of(s->row, p->rows) / (double)p->rows;
    double cols = square_of(s->col, p->cols) / (double)p->cols;
    double balance = rows > 0 && cols > 0 ? sqrt(sqrt(cols / rows)) : 1;
    for (size_t r = 0; r < p->rows; r++)
        s->row[r] *= balance;
    for (size_t c = 0; c < p->cols; c++)
        s->col[c] /= balance;
}

static void fill(const bl__problem *p, const svid *s, bl__binarized *b) {
    for (size_t c = 0; c < p->cols; c++)
        b->col_scale[c] = (float)s->col[c];
    for (size_t r = 0; r < p->rows; r++) {
        for (size_t c = 0; c < p->cols; c++)
            b->codes[r * p->cols + c] = p->weights[r * p->cols + c] > 0;
        for (size_t block = 0; block < b->n_blocks; block++)
            bl__binarized_params(b, r, block)[BL_INNER_SCALE] = (float)s->row[r];
    }
}

static bl_status run(const bl__problem *p, bl__compressed *out, bl_error *err) {
    svid s = {.row = bl__malloc_array(p->rows, sizeof *s.row),
              .col = bl__malloc_array(p->cols, sizeof *s.col)};
    bl_status status = BL_OK;
    if (!s.row || !s.col)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate vectors of %zu and %zu", p->rows,
                          p->cols);
    if (!status && !(status = bl__binarized_create(p->rows, p->cols, true, &out->signs, err))) {
        factorize(p, &s);
        fill(p, &s, out->signs);
        status = bl__settle(p, out->signs, err);
    }
    bl__free(s.row);
    bl__free(s.col);
    return status ? status : bl__compressed_count(out, err);
}

const bl__method bl__method_onebit = {.name = "onebit",
                                      .summary = "signs between two vectors, where OneBit begins",
                                      .packs = true,
                                      .run = run};
