/* How well a model predicts a text. */
#ifndef BITLOOM_PERPLEXITY_H
#define BITLOOM_PERPLEXITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Both cut the text's tokens into windows that follow each other, each evaluated alone; a rest
 * shorter than a window is left out. */
typedef enum bl_perplexity_protocol {
    /* llama-perplexity of llama.cpp: the tokens from n_ctx / 2 + 1 on are scored, so that each has
     * at least half a window before it; with BOS, it stands in place of every window's first token.
     */
    BL_PERPLEXITY_HALF,
    /* The papers' (arXiv 2210.17323 and its followers): all tokens but the first are scored; with
     * BOS, it stands before the text. */
    BL_PERPLEXITY_WHOLE,
} bl_perplexity_protocol;

typedef enum bl_perplexity_bos {
    BL_PERPLEXITY_BOS_AUTO, /* as the model's tokenizer says */
    BL_PERPLEXITY_BOS_ON,
    BL_PERPLEXITY_BOS_OFF,
} bl_perplexity_bos;

typedef struct bl_perplexity_params {
    bl_perplexity_protocol protocol;
    bl_perplexity_bos bos;
    uint32_t n_ctx;            /* tokens of a window, at least 4; 0 = 512 */
    uint32_t max_windows;      /* 0 = as many as the text has */
    bl_session_params session; /* n_ctx is set from above; n_batch 0 = a window, at most 512 */
} bl_perplexity_params;

typedef struct bl_perplexity_result {
    uint32_t n_ctx;
    uint64_t n_windows, n_scored;        /* tokens whose probability was asked for */
    uint64_t n_bytes;                    /* that the scored tokens stand for */
    double nats, nats_error;             /* mean of -ln p a token, and its standard error */
    double perplexity, perplexity_error; /* exp(nats), and exp(nats) * nats_error */
    double bits_per_byte;              /* the same as bits of each byte of text; 0 without bytes */
    double seconds, tokens_per_second; /* of tokens evaluated */
} bl_perplexity_result;

/* Told after each window; the result so far. Returns false to cancel. */
typedef bool (*bl_perplexity_progress)(void *user, const bl_perplexity_result *so_far,
                                       uint64_t n_windows);

/* Measures text[len]. params may be NULL; progress may be NULL.
 * Errors: BL_ERR_ARGUMENT (a text that is empty, not UTF-8 or shorter than a window or, by
 * BL_PERPLEXITY_HALF, than two, as llama-perplexity has it; BOS wanted of a vocabulary without it),
 * BL_ERR_FORMAT (a model whose logits are not finite), BL_ERR_CANCELLED, BL_ERR_MEMORY, those of
 * bl_session_create(). */
bl_status bl_perplexity_run(const bl_model *model, const bl_tokenizer *tokenizer, const char *text,
                            size_t len, const bl_perplexity_params *params,
                            bl_perplexity_progress progress, void *user, bl_perplexity_result *out,
                            bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
