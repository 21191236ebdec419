/* Private to generate/: how the loop of generation takes guessed tokens. */
#ifndef BL_GENERATE_SPECULATE_H
#define BL_GENERATE_SPECULATE_H

#include "bitloom/sampler.h"
#include "bitloom/speculate.h"

/* A generation begins: nothing is guessed. */
void bl__speculator_start(bl_speculator *speculator);

/* Tokens that the session holds and the text does not. */
size_t bl__speculator_n_ahead(const bl_speculator *speculator);

/* The logits within reach that the next token is drawn from: float[vocab], borrowed; NULL when they
 * are the session's own. */
const float *bl__speculator_logits(const bl_speculator *speculator);

/* Appends a token that was drawn to the session: nothing has to be done when it is the one that was
 * guessed; otherwise what was guessed is forgotten, and the token is evaluated with new guesses,
 * at most n_most of them. sampler: the one that draws, and has accepted the token; NULL when all
 * logits are wanted. */
bl_status bl__speculator_append(bl_speculator *speculator, bl_session *session, bl_token token,
                                size_t n_most, const bl_sampler *sampler, bl_error *err);

/* The end of a generation: forgets what was guessed, and the session's logits are those after the
 * last token of the text again. */
bl_status bl__speculator_finish(bl_speculator *speculator, bl_session *session, bl_error *err);

#endif
