/* Private to model/: the output head of a session: all logits, or only those that can matter. */
#ifndef BL_MODEL_HEAD_H
#define BL_MODEL_HEAD_H

#include "model/compute.h"
#include "model/screen.h"
#include "model/work.h"

typedef struct bl__head {
    const bl__linear *linear;
    bl__screen *screen; /* NULL: whole heads only */
    float *x;           /* float[dim]: the normed state whose logits are wanted */
    float *logits;      /* float[vocab] */
    enum { BL_HEAD_NONE, BL_HEAD_SOME, BL_HEAD_ALL } has; /* of x's logits */
    size_t n_best;                                        /* with some: what was asked for */
    float margin;
    int8_t *digits;   /* of x */
    float *upper;     /* float[vocab rounded up to 16]: at most this; -infinity once known */
    uint32_t *ids;    /* uint32_t[vocab]: rows to read */
    float *best;      /* float[vocab]: a heap */
    float *scratch;   /* for the copy's making */
    uint32_t n_plain; /* tokens to go without screening, after it did not pay */
    uint32_t backoff;
    bl__head_counts counts;
} bl__head;

enum {
    BL_HEAD_MIN_SHARE = 8,    /* more than vocab / 8 wanted: all rows are read */
    BL_HEAD_MAKING_STEPS = 16 /* tokens over which the copy is made */
};

/* linear, screen and, for scratch, compute->pool are set. */
void bl__head_layout(bl__head *head, const bl__compute *compute, bl__arena *arena);

/* New logits are wanted: those of x[dim], which is copied. */
void bl__head_take(bl__head *head, const float *x);

/* Logits that are known already, of all tokens. */
void bl__head_put(bl__head *head, const float *logits);

/* All logits of x. */
const float *bl__head_all(bl__head *head, bl__compute *compute);

/* Those among the n_best highest (ties included) or within `margin` of the highest are exact, and
 * the others that are not known are -infinity. */
const float *bl__head_best(bl__head *head, bl__compute *compute, size_t n_best, float margin);

/* The same among allowed tokens: one bit for each, from the lowest of allowed[0] on. Logits of
 * others mean nothing. */
const float *bl__head_allowed(bl__head *head, bl__compute *compute, size_t n_best, float margin,
                              const uint64_t *allowed);

#endif
