/* Owns the sums of losses over windows. Must not know who prints them. */
#include "bitloom/perplexity.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "measure/figures.h"
#include "measure/windows.h"

typedef struct run {
    const bl_tokenizer *tokenizer;
    bl_session *session;
    bl__windows windows;
    float *logits; /* float[rows][vocab] */
    size_t rows, vocab;
    double sum, sum_of_squares; /* of -ln p */
    bl_perplexity_result result;
} run;

static void score(run *r, const float *logits, bl_token target) {
    double loss = bl__log_sum_exp(logits, r->vocab) - (double)logits[target];
    size_t len;
    (void)bl_tokenizer_piece(r->tokenizer, target, 0, &len);
    r->sum += loss;
    r->sum_of_squares += loss * loss;
    r->result.n_scored++;
    r->result.n_bytes += len;
}

/* The window's last token is only predicted, so it is not evaluated. */
static bl_status run_window(run *r, size_t window, bl_error *err) {
    const bl_token *tokens = bl__windows_get(&r->windows, window);
    size_t end = r->windows.n_ctx - 1, first = r->windows.first;
    bl_session_truncate(r->session, 0);
    bl_status status = first ? bl_session_eval(r->session, tokens, first, NULL, err) : BL_OK;
    for (size_t at = first, n; at < end && !status; at += n) {
        n = end - at < r->rows ? end - at : r->rows;
        status = bl_session_eval(r->session, tokens + at, n, r->logits, err);
        for (size_t i = 0; i < n && !status; i++)
            score(r, r->logits + i * r->vocab, tokens[at + i + 1]);
    }
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
    out->n_ctx = (uint32_t)r->windows.n_ctx;
    out->n_windows = windows;
    out->nats = r->sum / n;
    out->nats_error = bl__standard_error(r->sum, r->sum_of_squares, n);
    out->perplexity = exp(out->nats);
    out->perplexity_error = out->perplexity * out->nats_error;
    out->bits_per_byte = out->n_bytes ? r->sum / log(2.0) / (double)out->n_bytes : 0;
    out->seconds = seconds;
    out->tokens_per_second =
        seconds > 0 ? (double)windows * (double)(r->windows.n_ctx - 1) / seconds : 0;
}

bl_status bl_perplexity_run(const bl_model *model, const bl_tokenizer *tokenizer, const char *text,
                            size_t len, const bl_perplexity_params *params,
                            bl_perplexity_progress progress, void *user, bl_perplexity_result *out,
                            bl_error *err) {
    const bl_perplexity_params p = params ? *params : (bl_perplexity_params){0};
    run r = {.tokenizer = tokenizer, .vocab = bl_model_get_info(model)->vocab};
    bl_status status = bl__windows_open(tokenizer, r.vocab, text, len, &p, &r.windows, err);
    if (status)
        return status;
    status = bl__windows_session(&r.windows, model, &p.session, &r.session, &r.rows, err);
    if (!status && !(r.logits = bl__malloc_array(r.rows * r.vocab, sizeof(float))))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu rows of logits", r.rows);
    double start = bl__seconds_now();
    size_t n = r.windows.n_windows;
    for (size_t w = 0; w < n && !status; w++) {
        status = run_window(&r, w, err);
        if (status)
            break;
        conclude(&r, w + 1, bl__seconds_now() - start);
        if (progress && !progress(user, &r.result, n))
            status =
                bl__fail(err, BL_ERR_CANCELLED, "cancelled after %zu of %zu windows", w + 1, n);
    }
    if (!status)
        *out = r.result;
    bl_session_free(r.session);
    bl__free(r.logits);
    bl__windows_close(&r.windows);
    return status;
}
