/* Owns the loop of generation: prompt, sample, stop rules, streamed text, evaluate, again.
 *
 * Knows sessions, tokenizers and samplers by their public headers only. After set-up it allocates
 * nothing. */
#include "bitloom/generate.h"

#include <time.h>

#include "base/error.h"
#include "generate/speculate.h"
#include "generate/stop.h"

enum { PROMPT_PART = 512 }; /* tokens between two calls of on_prompt */

typedef struct generation {
    bl_session *session;
    const bl_tokenizer *tokenizer;
    bl_sampler *sampler;
    const bl_generate_params *params;
    bl_text_fn on_text;
    void *user;
    bl_decoder *decoder;
    bl__stop_filter *filter;
    bl_generate_result result;
} generation;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool emit_text(void *user, const char *text, size_t len) {
    generation *g = user;
    return g->on_text ? g->on_text(g->user, text, len) : true;
}

/* Sets the reason and returns true when the verdict ends the generation. */
static bool is_stopped_by(generation *g, bl__stop_verdict verdict) {
    if (verdict == BL_STOP_FILTER_GO_ON)
        return false;
    g->result.reason = verdict == BL_STOP_FILTER_MATCHED ? BL_STOP_STRING : BL_STOP_CALLER;
    return true;
}

/* Whether text comes before what will be generated, which decides if a first space is kept. What a
 * grammar has allowed is kept as it is. */
static bool follows_text(const generation *g, const bl_token *prompt, size_t n_prompt) {
    if (bl_session_n_past(g->session) > 0 || g->params->matcher)
        return true;
    for (size_t i = 0; i < n_prompt; i++) {
        size_t len = 0;
        bl_tokenizer_piece(g->tokenizer, prompt[i], 0, &len);
        if (len > 0)
            return true;
    }
    return false;
}

/* Evaluates the prompt; *stopped when the caller wanted no more of it. */
static bl_status eval_prompt(generation *g, const bl_token *prompt, size_t n_prompt, bool *stopped,
                             bl_error *err) {
    size_t n_past = bl_session_n_past(g->session), n_ctx = bl_session_n_ctx(g->session);
    if (n_prompt == 0 && n_past == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "empty prompt in an empty session");
    if (n_prompt > n_ctx - n_past)
        return bl__fail(err, BL_ERR_CONTEXT_FULL,
                        "prompt of %zu tokens, expected at most %zu: the context holds %zu and "
                        "%zu are taken",
                        n_prompt, n_ctx - n_past, n_ctx, n_past);
    size_t part = g->params->on_prompt ? PROMPT_PART : n_prompt;
    for (size_t done = 0; done < n_prompt;) {
        size_t n = n_prompt - done < part ? n_prompt - done : part;
        bl_status status = bl_session_eval(g->session, prompt + done, n, NULL, err);
        if (status != BL_OK) {
            bl_session_truncate(g->session, n_past);
            return status;
        }
        for (size_t i = 0; i < n; i++)
            bl_sampler_accept(g->sampler, prompt[done + i]);
        done += n;
        g->result.n_prompt = done;
        if (g->params->on_prompt && !g->params->on_prompt(g->user, done, n_prompt)) {
            *stopped = true;
            return BL_OK;
        }
    }
    return BL_OK;
}

/* Tokens that the session holds beyond the text: those that are guessed. */
static size_t n_ahead(const generation *g) {
    return g->params->speculator ? bl__speculator_n_ahead(g->params->speculator) : 0;
}

/* The logits that the next token is drawn from. */
static const float *next_logits(const generation *g) {
    const float *guessed =
        g->params->speculator ? bl__speculator_logits(g->params->speculator) : NULL;
    const bl_reach reach = bl_sampler_reach(g->sampler);
    return guessed ? guessed : bl_session_best_logits(g->session, &reach);
}

/* The same when only some tokens are allowed. */
static const float *next_allowed_logits(const generation *g, const uint64_t *allowed) {
    const float *guessed =
        g->params->speculator ? bl__speculator_logits(g->params->speculator) : NULL;
    const bl_reach reach = bl_sampler_reach(g->sampler);
    return guessed ? guessed : bl_session_allowed_logits(g->session, &reach, allowed);
}

/* Draws the next token. */
static bl_status draw(generation *g, bl_token *token, bl_error *err) {
    const uint64_t *allowed = NULL;
    if (!g->params->matcher) {
        *token = bl_sampler_sample(g->sampler, next_logits(g));
    } else {
        bl_status status = bl_matcher_mask(g->params->matcher, &allowed, err);
        if (status != BL_OK)
            return status;
        *token = bl_sampler_sample_allowed(g->sampler, next_allowed_logits(g, allowed), allowed);
    }
    if (*token < 0)
        return bl__fail(err, BL_ERR_FORMAT,
                        "after %zu tokens: no logit is a number; the weights must be damaged",
                        bl_session_n_past(g->session) - n_ahead(g));
    return BL_OK;
}

/* Appends a token that was drawn to what the session holds. */
static bl_status append(generation *g, bl_token token, bl_error *err) {
    if (!g->params->speculator)
        return bl_session_eval(g->session, &token, 1, NULL, err);
    /* Guesses must fit in the context, and more than may be generated would be for nothing. */
    size_t n_text = bl_session_n_past(g->session) - n_ahead(g) + 1;
    size_t n_most = bl_session_n_ctx(g->session) - n_text;
    size_t n_left = g->params->max_tokens - g->result.n_generated - 1;
    if (g->params->max_tokens > 0 && n_left < n_most)
        n_most = n_left;
    /* With a grammar any logit may be needed. */
    return bl__speculator_append(g->params->speculator, g->session, token, n_most,
                                 g->params->matcher ? NULL : g->sampler, err);
}

/* Makes room for one more token; *full when there is none to be made. */
static bl_status make_room(generation *g, bool *full, bl_error *err) {
    size_t n_past = bl_session_n_past(g->session);
    *full = false;
    if (n_ahead(g) > 0 || n_past < bl_session_n_ctx(g->session))
        return BL_OK;
    /* Half of what may go, goes: each shift evaluates the rest anew, so shifts must be rare. */
    size_t n_keep = g->params->n_keep;
    size_t n_drop = n_keep < n_past ? (n_past - n_keep + 1) / 2 : 0;
    if (!g->params->context_shift || n_drop == 0 || n_drop == n_past) {
        *full = true;
        return BL_OK;
    }
    if (g->params->speculator) { /* what the next token would be drawn from is computed anew */
        bl_status status = bl__speculator_finish(g->params->speculator, g->session, err);
        if (status != BL_OK)
            return status;
    }
    return bl_session_shift(g->session, n_keep, n_drop, err);
}

/* One token: samples, streams its text, evaluates it. *done when a stop rule holds. */
static bl_status step(generation *g, bool *done, bl_error *err) {
    *done = true;
    if (g->params->matcher && bl_matcher_must_end(g->params->matcher)) {
        g->result.reason = BL_STOP_END;
        return BL_OK;
    }
    if (g->params->max_tokens > 0 && g->result.n_generated == g->params->max_tokens) {
        g->result.reason = BL_STOP_LENGTH;
        return BL_OK;
    }
    bool full;
    bl_status status = make_room(g, &full, err);
    if (status != BL_OK)
        return status;
    if (full) {
        g->result.reason = BL_STOP_CONTEXT;
        return BL_OK;
    }
    bl_token token;
    status = draw(g, &token, err);
    if (status != BL_OK)
        return status;
    bool is_end =
        (!g->params->ignore_end || g->params->matcher) && bl_tokenizer_is_end(g->tokenizer, token);
    bl__stop_verdict verdict = BL_STOP_FILTER_GO_ON;
    if (!is_end || g->params->show_special) {
        size_t len;
        const char *text = bl_decoder_push(g->decoder, token, &len);
        verdict = bl__stop_filter_push(g->filter, text, len, emit_text, g);
    }
    if (is_end) {
        if (!is_stopped_by(g, verdict))
            g->result.reason = BL_STOP_END;
        return BL_OK;
    }
    bl_sampler_accept(g->sampler, token);
    if (g->params->matcher)
        status = bl_matcher_accept(g->params->matcher, token, err);
    if (status == BL_OK)
        status = append(g, token, err);
    if (status != BL_OK)
        return status;
    g->result.n_generated++;
    if (g->params->on_token)
        g->params->on_token(g->user, token);
    *done = is_stopped_by(g, verdict);
    return BL_OK;
}

/* Lets out what decoder and filter still hold back. */
static void flush_text(generation *g) {
    if (g->result.reason == BL_STOP_STRING || g->result.reason == BL_STOP_CALLER)
        return;
    size_t len;
    const char *text = bl_decoder_finish(g->decoder, &len);
    if (!is_stopped_by(g, bl__stop_filter_push(g->filter, text, len, emit_text, g)))
        is_stopped_by(g, bl__stop_filter_finish(g->filter, emit_text, g));
}

bl_status bl_generate(bl_session *session, const bl_tokenizer *tokenizer, bl_sampler *sampler,
                      const bl_token *prompt, size_t n_prompt, const bl_generate_params *params,
                      bl_text_fn on_text, void *user, bl_generate_result *result, bl_error *err) {
    static const bl_generate_params defaults;
    generation g = {.session = session,
                    .tokenizer = tokenizer,
                    .sampler = sampler,
                    .params = params ? params : &defaults,
                    .on_text = on_text,
                    .user = user};
    bool done = false;
    double start = seconds_now();
    bl_status status = bl__stop_filter_create(g.params->stops, g.params->n_stops, &g.filter, err);
    if (status != BL_OK)
        goto fail;
    status = bl_decoder_create(tokenizer, g.params->show_special ? BL_DETOKENIZE_SPECIAL : 0,
                               follows_text(&g, prompt, n_prompt), &g.decoder, err);
    if (status != BL_OK)
        goto fail;
    status = eval_prompt(&g, prompt, n_prompt, &done, err);
    if (status != BL_OK)
        goto fail;
    if (done)
        g.result.reason = BL_STOP_CALLER;
    if (g.params->speculator)
        bl__speculator_start(g.params->speculator);
    double between = seconds_now();
    g.result.prompt_seconds = between - start;
    while (!done && status == BL_OK)
        status = step(&g, &done, err);
    if (g.params->speculator) {
        bl_status finished = bl__speculator_finish(g.params->speculator, session, err);
        status = status == BL_OK ? finished : status;
    }
    if (status != BL_OK)
        goto fail;
    flush_text(&g);
    g.result.generate_seconds = seconds_now() - between;
    if (result)
        *result = g.result;
fail:
    bl_decoder_free(g.decoder);
    bl__stop_filter_free(g.filter);
    return status;
}
