/* Choosing the next token from logits.
 *
 * A bl_sampler belongs to one thread at a time; sampling allocates nothing. The same parameters,
 * seed and logits give the same tokens on every machine. */
#ifndef BITLOOM_SAMPLER_H
#define BITLOOM_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The chain, in this order: penalties, top-k, top-p, min-p, temperature, draw. */
typedef struct bl_sampler_params {
    float temperature;       /* >= 0; 0 = greedy (ties go to the lowest id) */
    int32_t top_k;           /* keep the k best; <= 0 = all */
    float top_p;             /* (0, 1]; keep the smallest set of at least this probability */
    float min_p;             /* [0, 1]; keep tokens with at least min_p x the best probability */
    float repeat_penalty;    /* > 0; divides positive and multiplies negative logits; 1 = off */
    float frequency_penalty; /* subtracted once per occurrence; 0 = off */
    float presence_penalty;  /* subtracted once if present; 0 = off */
    int32_t penalty_last_n;  /* how many last tokens count; 0 = off, at most 65536 */
    uint64_t seed;
} bl_sampler_params;

/* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalties over the last 64, seed 0. */
bl_sampler_params bl_sampler_default_params(void);

typedef struct bl_sampler bl_sampler;

/* Errors: BL_ERR_ARGUMENT naming the parameter, its value and its range; BL_ERR_MEMORY. */
bl_status bl_sampler_create(const bl_sampler_params *params, size_t vocab, bl_sampler **out,
                            bl_error *err);
void bl_sampler_free(bl_sampler *sampler);

/* Draws from logits: float[vocab], left untouched. NaN and -infinity are never chosen; -1 when
 * there is nothing else. */
bl_token bl_sampler_sample(bl_sampler *sampler, const float *logits);
/* As if only some tokens were there: token t may be drawn when bit t % 64 of allowed[t / 64] is
 * set, as in a bl_matcher's mask. allowed: uint64_t[(vocab + 63) / 64], no bit beyond the
 * vocabulary; NULL: all. What the token is depends on the logits of allowed tokens only. */
bl_token bl_sampler_sample_allowed(bl_sampler *sampler, const float *logits,
                                   const uint64_t *allowed);
/* Which logits can decide the next draw: with only those of bl_session_best_logits() within this
 * reach, bl_sampler_sample() draws the same token as with all of them. */
bl_reach bl_sampler_reach(const bl_sampler *sampler);
/* The same for the draw after n_more further tokens have been accepted, whatever they are. */
bl_reach bl_sampler_reach_after(const bl_sampler *sampler, size_t n_more);
/* Tells the sampler that a token (of the prompt or the answer) was taken, for the penalties. */
void bl_sampler_accept(bl_sampler *sampler, bl_token token);
/* Forgets the history and starts the random numbers anew from the seed. */
void bl_sampler_reset(bl_sampler *sampler);

#ifdef __cplusplus
}
#endif
#endif
