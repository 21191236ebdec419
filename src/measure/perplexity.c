/* Owns windows of a text and the sums of their losses. Must not know who prints them. */
#include "bitloom/perplexity.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "kernels/exp.h"
#include "kernels/kernels.h"
#include "measure/figures.h"
#include "tokenizer/utf8.h"

enum { DEFAULT_CTX = 512, MIN_CTX = 4, MAX_CTX = 1 << 20, MAX_BATCH = 512 };
static const size_t LOGITS_BYTES = (size_t)64 << 20; /* that are kept at a time, at most */

typedef struct run {
    const bl_tokenizer *tokenizer;
    bl_session *session;
    bl_token *tokens; /* of the whole text */
    size_t n_tokens, n_ctx, n_windows;
    size_t first; /* the first position of a window whose logits count */
    bool bos_in_windows;
    float *logits; /* float[rows][vocab] */
    size_t rows, vocab;
    double sum, sum_of_squares; /* of -ln p */
    bl_perplexity_result result;
} run;

/* -ln p[target] where p = softmax(logits[n]): the maximum taken off, exponentials summed in
 * BL_LANES lanes. */
static double loss_of(const float *logits, size_t n, bl_token target) {
    float max = logits[0];
    double lanes[BL_LANES] = {0}, total = 0;
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    size_t i = 0;
    for (; i + BL_LANES <= n; i += BL_LANES)
        for (size_t l = 0; l < BL_LANES; l++)
            lanes[l] += (double)exp_inline(logits[i + l] - max);
    for (; i < n; i++)
        lanes[i % BL_LANES] += (double)exp_inline(logits[i] - max);
    for (size_t l = 0; l < BL_LANES; l++)
        total += lanes[l];
    return log(total) + (double)max - (double)logits[target];
}

static void score(run *r, const float *logits, bl_token target) {
    double loss = loss_of(logits, r->vocab, target);
    size_t len;
    (void)bl_tokenizer_piece(r->tokenizer, target, 0, &len);
    r->sum += loss;
    r->sum_of_squares += loss * loss;
    r->result.n_scored++;
    r->result.n_bytes += len;
}

/* The window's last token is only predicted, so it is not evaluated. */
static bl_status run_window(run *r, size_t window, bl_error *err) {
    bl_token *tokens = r->tokens + window * r->n_ctx, kept = tokens[0];
    bl_session_truncate(r->session, 0);
    if (r->bos_in_windows)
        tokens[0] = bl_tokenizer_bos(r->tokenizer);
    bl_status status = r->first ? bl_session_eval(r->session, tokens, r->first, NULL, err) : BL_OK;
    for (size_t at = r->first, n; at < r->n_ctx - 1 && !status; at += n) {
        n = r->n_ctx - 1 - at < r->rows ? r->n_ctx - 1 - at : r->rows;
        status = bl_session_eval(r->session, tokens + at, n, r->logits, err);
        for (size_t i = 0; i < n && !status; i++)
            score(r, r->logits + i * r->vocab, tokens[at + i + 1]);
    }
    tokens[0] = kept;
    if (!status && !isfinite(r->sum))
        status = bl__fail(err, BL_ERR_FORMAT,
                          "window %zu: the model's logits are not finite numbers", window + 1);
    return status;
}

/* Means from the sums: the standard error is that of a mean of independent losses, as
 * llama-perplexity prints it. */
static void conclude(run *r, size_t windows, double seconds) {
    bl_perplexity_result *out = &r->result;
    double n = (double)out->n_scored;
    out->n_ctx = (uint32_t)r->n_ctx;
    out->n_windows = windows;
    out->nats = r->sum / n;
    double variance = r->sum_of_squares / n - out->nats * out->nats;
    out->nats_error = n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
    out->perplexity = exp(out->nats);
    out->perplexity_error = out->perplexity * out->nats_error;
    out->bits_per_byte = out->n_bytes ? r->sum / log(2.0) / (double)out->n_bytes : 0;
    out->seconds = seconds;
    out->tokens_per_second = seconds > 0 ? (double)windows * (double)(r->n_ctx - 1) / seconds : 0;
}

/* Encodes the text; BOS before it, or in each window, as the protocol has it. */
static bl_status encode(run *r, const bl_model *model, const char *text, size_t len,
                        const bl_perplexity_params *p, bl_error *err) {
    bl_token bos = bl_tokenizer_bos(r->tokenizer);
    size_t valid = bl__utf8_valid_prefix(text, len);
    if (!len)
        return bl__fail(err, BL_ERR_ARGUMENT, "the text is empty");
    if (valid < len)
        return bl__fail(err, BL_ERR_ARGUMENT, "the text is not UTF-8: byte %zu is 0x%02x", valid,
                        (unsigned)(unsigned char)text[valid]);
    if (p->bos == BL_PERPLEXITY_BOS_ON && bos < 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "BOS is asked for, the vocabulary has none");
    if (bl_tokenizer_vocab_size(r->tokenizer) > bl_model_get_info(model)->vocab)
        return bl__fail(err, BL_ERR_ARGUMENT, "the tokenizer has %zu tokens, the model's head %u",
                        bl_tokenizer_vocab_size(r->tokenizer), bl_model_get_info(model)->vocab);
    unsigned flags = p->bos == BL_PERPLEXITY_BOS_OFF ? 0 : BL_TOKENIZE_EXTRA;
    bl_status status =
        bl_tokenizer_encode(r->tokenizer, text, len, flags, &r->tokens, &r->n_tokens, err);
    if (status)
        return status;
    bool has_bos = r->n_tokens && bos >= 0 && r->tokens[0] == bos;
    if (p->bos == BL_PERPLEXITY_BOS_ON && !has_bos) {
        bl_token *longer = bl__malloc_array(r->n_tokens + 1, sizeof *longer);
        if (!longer)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu tokens", r->n_tokens + 1);
        longer[0] = bos;
        for (size_t i = 0; i < r->n_tokens; i++)
            longer[i + 1] = r->tokens[i];
        bl_free(r->tokens);
        r->tokens = longer;
        r->n_tokens++;
        has_bos = true;
    }
    r->bos_in_windows =
        has_bos && p->bos != BL_PERPLEXITY_BOS_OFF && p->protocol == BL_PERPLEXITY_HALF;
    return BL_OK;
}

static bl_status prepare(run *r, const bl_model *model, const char *text, size_t len,
                         const bl_perplexity_params *p, bl_error *err) {
    r->n_ctx = p->n_ctx ? p->n_ctx : DEFAULT_CTX;
    r->vocab = bl_model_get_info(model)->vocab;
    if (r->n_ctx < MIN_CTX || r->n_ctx > MAX_CTX)
        return bl__fail(err, BL_ERR_ARGUMENT, "a window of %zu tokens, expected %d to %d", r->n_ctx,
                        MIN_CTX, MAX_CTX);
    bl_status status = encode(r, model, text, len, p, err);
    if (status)
        return status;
    bool half = p->protocol == BL_PERPLEXITY_HALF;
    size_t least = half ? 2 * r->n_ctx : r->n_ctx;
    if (r->n_tokens < least)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "the text has %zu tokens, expected at least %zu for %s of %zu", r->n_tokens,
                        least, half ? "two windows" : "a window", r->n_ctx);
    r->n_windows = r->n_tokens / r->n_ctx;
    if (p->max_windows && p->max_windows < r->n_windows)
        r->n_windows = p->max_windows;
    r->first = half ? r->n_ctx / 2 : 0;
    bl_session_params session = p->session;
    session.n_ctx = (uint32_t)r->n_ctx;
    if (!session.n_batch)
        session.n_batch = (uint32_t)(r->n_ctx < MAX_BATCH ? r->n_ctx : MAX_BATCH);
    r->rows = LOGITS_BYTES / sizeof(float) / r->vocab;
    r->rows = r->rows < 1 ? 1 : r->rows < session.n_batch ? r->rows : session.n_batch;
    r->logits = bl__malloc_array(r->rows * r->vocab, sizeof(float));
    if (!r->logits)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu rows of logits", r->rows);
    return bl_session_create(model, &session, &r->session, err);
}

bl_status bl_perplexity_run(const bl_model *model, const bl_tokenizer *tokenizer, const char *text,
                            size_t len, const bl_perplexity_params *params,
                            bl_perplexity_progress progress, void *user, bl_perplexity_result *out,
                            bl_error *err) {
    bl_perplexity_params p = params ? *params : (bl_perplexity_params){0};
    run r = {.tokenizer = tokenizer};
    bl_status status = prepare(&r, model, text, len, &p, err);
    double start = bl__seconds_now();
    for (size_t w = 0; w < r.n_windows && !status; w++) {
        status = run_window(&r, w, err);
        if (!status) {
            conclude(&r, w + 1, bl__seconds_now() - start);
            if (progress && !progress(user, &r.result, r.n_windows))
                status = bl__fail(err, BL_ERR_CANCELLED, "cancelled after %zu of %zu windows",
                                  w + 1, r.n_windows);
        }
    }
    if (!status)
        *out = r.result;
    bl_session_free(r.session);
    bl__free(r.logits);
    bl_free(r.tokens);
    return status;
}
