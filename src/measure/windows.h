/* Private to measure/: a text cut into windows of tokens, and what logits say about a token. */
#ifndef BL_MEASURE_WINDOWS_H
#define BL_MEASURE_WINDOWS_H

#include <stddef.h>

#include "bitloom/perplexity.h"

typedef struct bl__windows {
    bl_token *tokens; /* of the whole text; owned */
    size_t n_tokens, n_ctx, n_windows;
    size_t first; /* the first position of a window whose logits count */
    bl_token bos; /* in place of every window's first token; -1 = none */
} bl__windows;

/* Checks and encodes text[len]; n_vocab: what the model's head has. Errors: as
 * bl_perplexity_run()'s. */
bl_status bl__windows_open(const bl_tokenizer *tokenizer, size_t n_vocab, const char *text,
                           size_t len, const bl_perplexity_params *params, bl__windows *out,
                           bl_error *err);
void bl__windows_close(bl__windows *windows);

/* The tokens of window i: bl_token[n_ctx], valid until the next call. */
const bl_token *bl__windows_get(bl__windows *windows, size_t i);

/* A session for windows, and how many rows of logits to take at a time. */
bl_status bl__windows_session(const bl__windows *windows, const bl_model *model,
                              const bl_session_params *params, bl_session **out, size_t *n_rows,
                              bl_error *err);

/* ln of the sum of exp(logits[n]). */
double bl__log_sum_exp(const float *logits, size_t n);

/* Of the mean of n independent values, from their sum and the sum of their squares. */
double bl__standard_error(double sum, double squares, double n);

#endif
