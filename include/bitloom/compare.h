/* How far two models, or one model on two kernels, predict the same. */
#ifndef BITLOOM_COMPARE_H
#define BITLOOM_COMPARE_H

#include "bitloom/perplexity.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Over the tokens that the protocol scores. p are the probabilities by `a`, q those by `b`. */
typedef struct bl_compare_result {
    uint64_t n_windows, n_scored;
    double agreement;    /* share of tokens for which both find the same token most likely */
    double kl, kl_error; /* mean of sum p ln(p / q) in nats, and its standard error */
    double kl_median, kl_99, kl_max; /* of the tokens' own */
    double largest_difference;       /* of two logits, as a share of the row's largest magnitude */
    bool identical;                  /* every logit has the same bits */
    double perplexity_a, perplexity_b;
    double log_ratio, log_ratio_error; /* mean of ln p - ln q of the tokens: ln (b's perplexity /
                                          a's), and its standard error */
} bl_compare_result;

/* Told after each window. Returns false to cancel. */
typedef bool (*bl_compare_progress)(void *user, const bl_compare_result *so_far,
                                    uint64_t n_windows);

/* Compares over text[len], by params (NULL: defaults). session_b: the session of b, such as other
 * kernels; NULL = as a's in params. a and b may be one model. Both tokenizers must give the text
 * the same tokens; tokenizer_b NULL = the same.
 * Errors: BL_ERR_ARGUMENT (also: heads of different sizes, other tokens), otherwise as
 * bl_perplexity_run(). */
bl_status bl_compare_run(const bl_model *a, const bl_tokenizer *tokenizer_a, const bl_model *b,
                         const bl_tokenizer *tokenizer_b, const char *text, size_t len,
                         const bl_perplexity_params *params, const bl_session_params *session_b,
                         bl_compare_progress progress, void *user, bl_compare_result *out,
                         bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
