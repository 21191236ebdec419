/* Private to model/: the output head of a session: all logits, or only those
 * that can matter. */
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
    bl_reach reach;                                       /* with some: what was asked for */
    /* Scratch: */
    size_t max_tokens, max_ids, digits_bytes;
    int8_t *digits;   /* int8[max_tokens][digits_bytes] */
    uint32_t *ids;    /* uint32_t[max_parts][2 * max_ids]: rows to read */
    float *best;      /* float[max_parts][2 * max_ids] */
    float *scratch;   /* for the copy's making */
    uint32_t n_plain; /* tokens to go without screening, after it did not pay */
    uint32_t backoff;
    bl__head_counts counts;
} bl__head;

enum {
    BL_HEAD_MIN_SHARE = 8,     /* more than vocab / 8 wanted: all rows are read */
    BL_HEAD_MAKING_STEPS = 16, /* batches over which the copy is made */
    BL_HEAD_TOKENS = 32        /* that meet the copy together */
};

/* linear and screen are set, and compute is laid out. */
void bl__head_layout(bl__head *head, const bl__compute *compute, bl__arena *arena);

/* New logits are wanted: those of x[dim], which is copied. */
void bl__head_take(bl__head *head, const float *x);

/* Logits that are known already, of all tokens. */
void bl__head_put(bl__head *head, const float *logits);

/* All logits of x. */
const float *bl__head_all(bl__head *head, bl__compute *compute);

/* Those of x within reach are exact, and the others that are not known are -infinity. */
const float *bl__head_best(bl__head *head, bl__compute *compute, const bl_reach *reach);

/* The same for n_tokens tokens, each with a reach of its own, which leaves x and its logits alone.
 * x: float[n_tokens][dim]; logits: float[n_tokens][vocab]. */
void bl__head_rows(bl__head *head, bl__compute *compute, const float *x, size_t n_tokens,
                   const bl_reach *reaches, float *logits);

/* The same among allowed tokens: one bit for each, from the lowest of allowed[0] on. Logits of
 * others mean nothing. */
const float *bl__head_allowed(bl__head *head, bl__compute *compute, const bl_reach *reach,
                              const uint64_t *allowed);

#endif
