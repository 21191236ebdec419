/* What evaluating tokens must read and multiply, whatever the kernels: the yardstick of speed. For
 * rooms that measure. */
#ifndef BL_MODEL_WORK_H
#define BL_MODEL_WORK_H

#include <stdint.h>

#include "bitloom/model.h"

typedef struct bl__work {
    uint64_t layer_bytes;    /* weights and norms of all layers as they run: once for a batch */
    uint64_t head_bytes;     /* output norm and head: once for a batch that gives logits */
    uint64_t token_bytes;    /* the embedding's row: once for each token */
    uint64_t position_bytes; /* keys and values of a position: for each position attended to */
    uint64_t row_bytes;      /* of layer_bytes: a row of up that is skipped */
    uint64_t column_bytes;   /* and a column of down */
    uint64_t int8_macs;      /* multiply-adds of int8 activations, for each token */
} bl__work;

/* Of a session as it was created. */
bl__work bl__session_work(const bl_session *session);

/* The model that a session runs. */
const bl_model *bl__session_model(const bl_session *session);

/* How the output head was read so far, by bl_session_best_logits() and bl_session_eval_best(). */
typedef struct bl__head_counts {
    uint64_t n_tokens;   /* whose logits were asked for */
    uint64_t copy_bytes; /* of the low-bit copy */
    uint64_t rows;       /* of the head itself; once for tokens that meet a row together */
    uint64_t n_whole;    /* tokens for which all rows were read */
} bl__head_counts;
bl__head_counts bl__session_head_counts(const bl_session *session);
/* Bytes of a row of the head, on average. */
double bl__session_head_row_bytes(const bl_session *session);
/* Whether the session has a copy of the head, made or to be made, and how many tokens make it. */
uint32_t bl__session_copy_steps(const bl_session *session);

/* Private to model/: all but position_bytes, which depends on the session's cache. */
bl__work bl__model_work(const bl_model *model);

#endif
