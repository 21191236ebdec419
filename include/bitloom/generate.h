/* Generating text: evaluates a prompt, samples until a stop rule holds, streams the text. */
#ifndef BITLOOM_GENERATE_H
#define BITLOOM_GENERATE_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/model.h"
#include "bitloom/sampler.h"
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

typedef struct bl_generate_params {
    size_t max_tokens;        /* 0 = until another rule stops it */
    const char *const *stops; /* stop strings, n_stops of them, borrowed */
    size_t n_stops;
    bool ignore_end;    /* go on after an end token */
    bool context_shift; /* make room when the context is full instead of stopping */
    size_t n_keep;      /* with context_shift: tokens at the start that are always kept */
    bool show_special;  /* write special tokens out in the text */
} bl_generate_params;

typedef struct bl_generate_result {
    bl_stop_reason reason;
    size_t n_prompt;    /* prompt tokens evaluated */
    size_t n_generated; /* tokens sampled, an end token not counted */
    double prompt_seconds, generate_seconds;
} bl_generate_result;

/* Receives text[len], whole UTF-8 characters, as soon as no stop string can begin in it. Returns
 * false to stop. */
typedef bool (*bl_text_fn)(void *user, const char *text, size_t len);

/* Evaluates prompt[n_prompt] after what the session already holds, then generates. on_text and
 * result may be NULL. After BL_OK the session holds prompt and answer, ready to go on.
 * Errors: BL_ERR_CONTEXT_FULL when the prompt does not fit; those of bl_session_eval(). */
bl_status bl_generate(bl_session *session, const bl_tokenizer *tokenizer, bl_sampler *sampler,
                      const bl_token *prompt, size_t n_prompt, const bl_generate_params *params,
                      bl_text_fn on_text, void *user, bl_generate_result *result, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
