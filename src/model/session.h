/* Private to model/: what a session holds, and the forward pass of one batch. */
#ifndef BL_MODEL_SESSION_H
#define BL_MODEL_SESSION_H

#include "model/attention.h"
#include "model/compute.h"
#include "model/head.h"
#include "model/pages.h"
#include "model/skip.h"

/* One of the texts that a session holds. */
typedef struct bl__sequence {
    bl__page_list held; /* pages of its keys and values, as many as n_past tokens need */
    size_t n_past;      /* tokens that are evaluated */
    size_t n_batch;     /* scratch of whoever makes up a batch: this sequence's part of it */
    bool copies;        /* likewise: it will write to a page that others hold */
} bl__sequence;

struct bl_session {
    const bl_model *model;
    const bl__kernels *kernels;
    bl__kernels own_kernels; /* where the caller asked for a level */
    bl__pool *pool;
    bl__arena arena;
    bl__compute compute;
    bl__skip skip;
    bl__attention attention;
    bl_cache_type cache_type;
    size_t n_sequences, n_ctx, n_batch, n_pages;
    size_t cache_bytes, memory_bytes; /* of the arena: keys and values; everything */
    bl__cache cache;
    bl__pages pages;         /* of the cache */
    uint32_t *page_lists;    /* uint32_t[n_sequences][blocks of n_ctx] */
    bl_token *tokens;        /* bl_token[n_sequences][n_ctx]: the texts so far */
    bl__sequence *sequences; /* bl__sequence[n_sequences] */
    /* The batch in hand. */
    bl_token *row_tokens; /* bl_token[n_batch] */
    uint32_t *wanted;     /* uint32_t[n_batch]: rows whose logits are wanted, in the order asked */
    bl__span *spans;      /* bl__span[n_sequences]: whose rows they are, n_spans of them */
    size_t n_spans;
    /* Its activations. */
    float *x;      /* float[n_batch][dim]: the residual stream */
    float *normed; /* float[n_batch][dim] */
    float *q, *k, *v;
    float *attended;  /* float[n_batch][n_heads * head_dim] */
    float *gate, *up; /* float[n_batch][ffn_dim] */
    float *delta;     /* float[n_batch][dim]: what a block adds to x */
    bl__head head;    /* logits of sequence 0 */
};

/* Evaluates row_tokens[n_tokens], n_tokens <= n_batch, which spans[n_spans] cover in order, and
 * writes logits: float[n_wanted][vocab] of rows wanted[n_wanted], those within reaches[n_wanted]
 * or, when it is NULL, all. NULL as logits leaves the one row that is wanted to the session's head.
 * Texts stay as they are. */
void bl__session_forward(bl_session *session, size_t n_tokens, size_t n_wanted,
                         const bl_reach *reaches, float *logits);

/* The states of the first n_tokens rows of the last batch, as the output head would see them:
 * float[n_tokens][dim]. For batches whose logits nobody wanted. */
void bl__session_states(bl_session *session, size_t n_tokens, float *states);

#endif
