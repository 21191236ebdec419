/* Private to measure/: holding a model to its known answer. */
#ifndef BL_MEASURE_KNOWN_ANSWER_H
#define BL_MEASURE_KNOWN_ANSWER_H

#include "bitloom/model.h"
#include "bitloom/verify.h"

/* How a model's logits compare with those of the answer. Differences are in standard deviations of
 * the logits at their place, so that they mean the same for every model. */
typedef struct bl__answer_check {
    size_t n_same;        /* tokens that are the likeliest again */
    size_t first_other;   /* the first that is not, BL_KNOWN_TOKENS: none */
    double largest_gap;   /* from the token's logit up to the largest */
    double largest_drift; /* from the logit in the file */
    bool identical;       /* to the bit */
} bl__answer_check;

/* BL_ERR_ARGUMENT: a token that the model does not have. */
bl_status bl__known_answer_check(const bl_model *model, const bl_known_answer *answer,
                                 uint32_t n_threads, bl__answer_check *out, bl_error *err);

#endif
