/* Generating text: evaluates a prompt, samples until a stop rule holds, streams the text. */
#ifndef BITLOOM_GENERATE_H
#define BITLOOM_GENERATE_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/grammar.h"
#include "bitloom/model.h"
#include "bitloom/sampler.h"
#include "bitloom/speculate.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bl_stop_reason {
    BL_STOP_LENGTH = 0,  /* max_tokens reached */
    BL_STOP_END = 1,     /* the model ended its text (EOS set) */
    BL_STOP_STRING = 2,  /* a stop string appeared; it is not part of the text */
    BL_STOP_CONTEXT = 3, /* the context is full */
    BL_STOP_CALLER = 4,  /* the callback returned false */
} bl_stop_reason;

/* Told every generated token that the session holds, in order. */
typedef void (*bl_token_fn)(void *user, bl_token token);
/* Told after each part of the prompt how much of it is evaluated. Returns false to stop. */
typedef bool (*bl_prompt_fn)(void *user, size_t n_done, size_t n_prompt);

typedef struct bl_generate_params {
    size_t max_tokens;        /* 0 = until another rule stops it */
    const char *const *stops; /* stop strings, n_stops of them, borrowed */
    size_t n_stops;
    bool ignore_end;    /* go on after an end token */
    bool context_shift; /* make room when the context is full instead of stopping */
    size_t n_keep;      /* with context_shift: tokens at the start that are always kept */
    bool show_special;  /* write special tokens out in the text */
    /* Guesses tokens, for the same text in less time; NULL = none. Made for this session's model
     * and n_ctx, and for no other session. */
    bl_speculator *speculator;
    /* Keeps the text within a grammar; NULL = none. It goes on from where it is: reset it for a new
     * text. The text ends when it is whole and the model ends it or nothing can follow; ignore_end
     * does not apply. Guesses that the grammar does not allow are wrong guesses. */
    bl_matcher *matcher;
    bl_token_fn on_token;   /* NULL is allowed for both */
    bl_prompt_fn on_prompt; /* the prompt is evaluated in parts of 512 tokens when set */
} bl_generate_params;

typedef struct bl_generate_result {
    bl_stop_reason reason;
    size_t n_prompt;    /* prompt tokens evaluated */
    size_t n_generated; /* tokens sampled, an end token that stopped it not counted */
    double prompt_seconds, generate_seconds;
} bl_generate_result;

/* Receives text[len], whole UTF-8 characters, as soon as no stop string can begin in it. Returns
 * false to stop. */
typedef bool (*bl_text_fn)(void *user, const char *text, size_t len);

/* Evaluates prompt[n_prompt] after what the session already holds, then generates. An empty prompt
 * goes on from the session's logits. The sampler is told of the prompt's tokens too. on_text and
 * result may be NULL; user is handed to all callbacks. After BL_OK the session holds the evaluated
 * prompt and every generated token, ready to go on.
 * Errors: BL_ERR_CONTEXT_FULL when the prompt does not fit; BL_ERR_ARGUMENT for a bad stop string,
 * or nothing to go on from; BL_ERR_FORMAT when no logit is a number; those of bl_session_eval() and
 * bl_matcher_mask().
 * When the prompt fails the session is as before; later it keeps what it holds. */
bl_status bl_generate(bl_session *session, const bl_tokenizer *tokenizer, bl_sampler *sampler,
                      const bl_token *prompt, size_t n_prompt, const bl_generate_params *params,
                      bl_text_fn on_text, void *user, bl_generate_result *result, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
