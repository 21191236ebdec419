/* Private to generate/: where guesses come from. */
#ifndef BL_GENERATE_DRAFTS_H
#define BL_GENERATE_DRAFTS_H

#include "bitloom/speculate.h"

/* A bl_draft_fn without a user: what followed the longest run of last tokens, at least two, where
 * it came before; of several the last. At most two guesses for each token of the run. */
size_t bl__draft_by_lookup(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                           size_t n_most);

/* A smaller model that writes on greedily as long as it is sure. */
typedef struct bl__draft_model bl__draft_model;

bl_status bl__draft_model_create(const bl_model *model, size_t n_ctx, uint32_t n_threads,
                                 bl__draft_model **out, bl_error *err);
void bl__draft_model_free(bl__draft_model *draft);

/* A bl_draft_fn; user: a bl__draft_model. */
size_t bl__draft_by_model(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                          size_t n_most);

/* Seconds that it spent catching up with a text that went on without it, since the last call. */
double bl__draft_model_catch_up(bl__draft_model *draft);

#endif
