/* Speculation: several tokens of a text for one pass over the weights, without changing the text.
 *
 * A cheap guess at the next tokens is evaluated together with the token that was drawn last. Then
 * the sampler draws from the logits after each of them as if they had come one by one, and as long
 * as what it draws is what was guessed, a token costs nothing more; the first one that differs is
 * what counts, and what was guessed after it is forgotten. Logits do not depend on how tokens are
 * split in batches and the sampler takes the same random numbers in the same order, so the text is
 * the same to the byte with every guess, temperature and penalty. (Leviathan et al., arXiv
 * 2211.17192, accept by a ratio of probabilities instead, which keeps the distribution only.) */
#ifndef BITLOOM_SPECULATE_H
#define BITLOOM_SPECULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A bl_speculator serves one session, one thread at a time, for any number of bl_generate(). */
typedef struct bl_speculator bl_speculator;

/* Guesses what follows tokens[n_tokens], n_tokens > 0: writes at most n_most tokens to out and
 * returns how many. Whatever it writes, the text stays the same. */
typedef size_t (*bl_draft_fn)(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                              size_t n_most);

typedef struct bl_speculator_params {
    /* Where guesses come from: a function; else a smaller model with the same tokens, borrowed;
     * else what followed the last tokens when they came before ("prompt lookup"). */
    bl_draft_fn draft;
    void *user;
    const bl_model *draft_model;
    uint32_t n_threads; /* of the draft model; 0 = all physical cores */
    uint32_t n_draft;   /* tokens guessed at once, at most BL_MAX_DRAFT; 0 = 16 */
    bool always;        /* go on where it does not pay; otherwise it pauses by itself */
} bl_speculator_params;

enum { BL_MAX_DRAFT = 64 };

/* For sessions of `model` and of n_ctx tokens. params may be NULL: prompt lookup. Errors:
 * BL_ERR_ARGUMENT (n_draft; a draft model of another vocabulary size), those of
 * bl_session_create(). */
bl_status bl_speculator_create(const bl_model *model, size_t n_ctx,
                               const bl_speculator_params *params, bl_speculator **out,
                               bl_error *err);
void bl_speculator_free(bl_speculator *speculator);

/* Since it was created. */
typedef struct bl_speculation {
    uint64_t n_batches;  /* evaluated with guesses in them */
    uint64_t n_drafted;  /* guessed tokens in them */
    uint64_t n_accepted; /* of those, tokens that became text */
    uint64_t n_plain;    /* tokens evaluated alone */
    double gain;         /* of those batches: how many times as fast as tokens evaluated alone, the
                            guessing included; 0 = not known */
} bl_speculation;

bl_speculation bl_speculator_figures(const bl_speculator *speculator);

#ifdef __cplusplus
}
#endif
#endif
