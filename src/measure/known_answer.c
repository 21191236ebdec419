/* Owns making known answers and comparing models with them. Must not know how they are stored. */
#include "measure/known_answer.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { N_CTX = BL_KNOWN_PROMPT + BL_KNOWN_TOKENS };

/* Any text would do whose continuation is not left to chance by every model. */
static const char text[] =
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity,";

/* The text's first tokens; where they do not suffice, or there is no tokenizer, tokens by rule. */
static bl_status make_prompt(const char *path, uint32_t vocab, bl_token prompt[BL_KNOWN_PROMPT],
                             bl_error *err) {
    bl_tokenizer *tokenizer = NULL;
    bl_token *ids = NULL;
    size_t n = 0;
    for (size_t i = 0; i < BL_KNOWN_PROMPT; i++)
        prompt[i] = (bl_token)((i * 7919 + 1) % vocab);
    bl_status status = bl_tokenizer_open(path, &tokenizer, err);
    if (!status)
        status =
            bl_tokenizer_encode(tokenizer, text, strlen(text), BL_TOKENIZE_EXTRA, &ids, &n, err);
    for (size_t i = 0; !status && i < n && i < BL_KNOWN_PROMPT; i++)
        if (ids[i] >= 0 && (uint32_t)ids[i] < vocab)
            prompt[i] = ids[i];
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
    return status == BL_ERR_MEMORY ? status : BL_OK; /* models without a tokenizer run as well */
}

static bl_token likeliest(const float *logits, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (bl_token)best;
}

static bl_status open_session(const bl_model *model, uint32_t n_threads, bl_session **out,
                              bl_error *err) {
    const bl_session_params params = {
        .n_ctx = N_CTX, .n_batch = N_CTX, .n_threads = n_threads, .cache_type = BL_CACHE_F32};
    return bl_session_create(model, &params, out, err);
}

bl_status bl_known_answer_make(const char *path, uint32_t n_threads, bl_known_answer *out,
                               bl_error *err) {
    const bl_model_params params = {.n_threads = n_threads};
    bl_known_answer answer = {0};
    bl_model *model = NULL;
    bl_session *session = NULL;
    bl_status status = bl_model_open(path, &params, &model, err);
    if (status)
        return status;
    uint32_t vocab = bl_model_get_info(model)->vocab;
    if ((status = make_prompt(path, vocab, answer.prompt, err)) ||
        (status = open_session(model, n_threads, &session, err)) ||
        (status = bl_session_eval(session, answer.prompt, BL_KNOWN_PROMPT, NULL, err)))
        goto done;
    for (size_t i = 0; i < BL_KNOWN_TOKENS && !status; i++) {
        const float *logits = bl_session_logits(session);
        answer.tokens[i] = likeliest(logits, vocab);
        answer.logits[i] = logits[answer.tokens[i]];
        if (!isfinite(answer.logits[i]))
            status = bl__fail(err, BL_ERR_FORMAT, "%s: its logits are not finite", path);
        else if (i + 1 < BL_KNOWN_TOKENS)
            status = bl_session_eval(session, &answer.tokens[i], 1, NULL, err);
    }
    if (!status)
        *out = answer;
done:
    bl_session_free(session);
    bl_model_close(model);
    return status;
}

/* NaN, from logits that are not finite or all the same, is the worst and stays. */
static double worse(double a, double b) {
    return isnan(a) || a >= b ? a : b;
}

/* Compares one place. logits: float[vocab]. */
static void compare(const float *logits, uint32_t vocab, const bl_known_answer *answer, size_t i,
                    bl__answer_check *check) {
    bl_token token = answer->tokens[i];
    double sum = 0, squares = 0, largest = (double)logits[likeliest(logits, vocab)];
    for (uint32_t k = 0; k < vocab; k++) {
        sum += (double)logits[k];
        squares += (double)logits[k] * (double)logits[k];
    }
    double mean = sum / vocab, deviation = sqrt(squares / vocab - mean * mean);
    double gap = (largest - (double)logits[token]) / deviation;
    double drift = fabs((double)logits[token] - (double)answer->logits[i]) / deviation;
    check->largest_gap = worse(check->largest_gap, gap);
    check->largest_drift = worse(check->largest_drift, drift);
    check->identical &= memcmp(&logits[token], &answer->logits[i], sizeof(float)) == 0;
    if (gap == 0)
        check->n_same++;
    else if (check->first_other == BL_KNOWN_TOKENS)
        check->first_other = i;
}

bl_status bl__known_answer_check(const bl_model *model, const bl_known_answer *answer,
                                 uint32_t n_threads, bl__answer_check *out, bl_error *err) {
    enum { N_EVAL = N_CTX - 1 }; /* nothing follows the last token */
    uint32_t vocab = bl_model_get_info(model)->vocab;
    bl_token tokens[N_CTX];
    bl_session *session = NULL;
    float *logits = NULL;
    memcpy(tokens, answer->prompt, sizeof answer->prompt);
    memcpy(tokens + BL_KNOWN_PROMPT, answer->tokens, sizeof answer->tokens);
    for (size_t i = 0; i < N_CTX; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab)
            return bl__fail(err, BL_ERR_ARGUMENT, "token %d, expected 0 to %u", tokens[i],
                            vocab - 1);
    bl_status status = open_session(model, n_threads, &session, err);
    if (status)
        return status;
    if (!(logits = bl__malloc_array((size_t)vocab * N_EVAL, sizeof *logits)))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %d rows of logits", (int)N_EVAL);
    else
        status = bl_session_eval(session, tokens, N_EVAL, logits, err);
    if (!status) {
        *out = (bl__answer_check){.first_other = BL_KNOWN_TOKENS, .identical = true};
        for (size_t i = 0; i < BL_KNOWN_TOKENS; i++)
            compare(logits + (BL_KNOWN_PROMPT - 1 + i) * vocab, vocab, answer, i, out);
    }
    bl__free(logits);
    bl_session_free(session);
    return status;
}
