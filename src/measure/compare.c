/* Owns the sums of differences between two models' predictions. Must not know who prints them. */
#include "bitloom/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "measure/windows.h"

typedef struct side {
    bl_session *session;
    float *logits; /* float[rows][vocab] */
    double loss;   /* sum of -ln p of the tokens that came */
} side;

typedef struct comparison {
    bl__windows windows;
    side a, b;
    size_t rows, vocab;
    double *kls; /* double[n_scored at the end] */
    double kl_sum, kl_squares, ratio_sum, ratio_squares;
    uint64_t n_agreed;
    bl_compare_result result;
} comparison;

static size_t likeliest(const float *logits, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* Takes the rows of both for one token. KL = sum p (ln p - ln q), with ln p = logit - log_sum. */
static void take(comparison *c, const float *a, const float *b, bl_token target) {
    double sum_a = bl__log_sum_exp(a, c->vocab), sum_b = bl__log_sum_exp(b, c->vocab), kl = 0;
    float largest = 0, difference = 0;
    for (size_t i = 0; i < c->vocab; i++) {
        double p = (double)a[i] - sum_a, q = (double)b[i] - sum_b;
        kl += exp(p) * (p - q);
        largest = fmaxf(largest, fabsf(a[i]));
        difference = fmaxf(difference, fabsf(a[i] - b[i]));
    }
    kl = kl > 0 ? kl : 0; /* rounding */
    double ratio = ((double)a[target] - sum_a) - ((double)b[target] - sum_b);
    c->a.loss += sum_a - (double)a[target];
    c->b.loss += sum_b - (double)b[target];
    c->kls[c->result.n_scored++] = kl;
    c->kl_sum += kl;
    c->kl_squares += kl * kl;
    c->ratio_sum += ratio;
    c->ratio_squares += ratio * ratio;
    c->n_agreed += likeliest(a, c->vocab) == likeliest(b, c->vocab);
    if (largest > 0)
        c->result.largest_difference =
            fmax(c->result.largest_difference, (double)difference / (double)largest);
    c->result.identical &= memcmp(a, b, c->vocab * sizeof *a) == 0;
}

static bl_status run_window(comparison *c, size_t window, bl_error *err) {
    const bl_token *tokens = bl__windows_get(&c->windows, window);
    size_t end = c->windows.n_ctx - 1, first = c->windows.first;
    bl_status status = BL_OK;
    side *sides[] = {&c->a, &c->b};
    for (size_t s = 0; s < 2 && !status; s++) {
        bl_session_truncate(sides[s]->session, 0);
        if (first)
            status = bl_session_eval(sides[s]->session, tokens, first, NULL, err);
    }
    for (size_t at = first, n; at < end && !status; at += n) {
        n = end - at < c->rows ? end - at : c->rows;
        for (size_t s = 0; s < 2 && !status; s++)
            status = bl_session_eval(sides[s]->session, tokens + at, n, sides[s]->logits, err);
        for (size_t i = 0; i < n && !status; i++)
            take(c, c->a.logits + i * c->vocab, c->b.logits + i * c->vocab, tokens[at + i + 1]);
    }
    if (!status && !(isfinite(c->a.loss) && isfinite(c->b.loss)))
        status =
            bl__fail(err, BL_ERR_FORMAT, "window %zu: the %s model's logits are not finite numbers",
                     window + 1, isfinite(c->a.loss) ? "second" : "first");
    return status;
}

static int compare_doubles(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* All but the quantiles, which need every token. */
static void conclude(comparison *c, size_t n_windows) {
    bl_compare_result *out = &c->result;
    double n = (double)out->n_scored;
    out->n_windows = n_windows;
    out->agreement = (double)c->n_agreed / n;
    out->kl = c->kl_sum / n;
    out->kl_error = bl__standard_error(c->kl_sum, c->kl_squares, n);
    out->perplexity_a = exp(c->a.loss / n);
    out->perplexity_b = exp(c->b.loss / n);
    out->log_ratio = c->ratio_sum / n;
    out->log_ratio_error = bl__standard_error(c->ratio_sum, c->ratio_squares, n);
}

static void conclude_quantiles(comparison *c) {
    size_t n = c->result.n_scored;
    qsort(c->kls, n, sizeof *c->kls, compare_doubles);
    c->result.kl_median = c->kls[n / 2];
    c->result.kl_99 = c->kls[(size_t)((double)(n - 1) * 0.99)];
    c->result.kl_max = c->kls[n - 1];
}

/* The two vocabularies must read the text alike. */
static bl_status match_tokens(const bl__windows *windows, const bl_tokenizer *other, size_t n_vocab,
                              const char *text, size_t len, const bl_perplexity_params *params,
                              bl_error *err) {
    bl__windows w;
    bl_status status = bl__windows_open(other, n_vocab, text, len, params, &w, err);
    if (status)
        return status;
    size_t n = w.n_tokens < windows->n_tokens ? w.n_tokens : windows->n_tokens, i = 0;
    while (i < n && w.tokens[i] == windows->tokens[i])
        i++;
    if (i < n || w.n_tokens != windows->n_tokens || w.bos != windows->bos)
        status = bl__fail(err, BL_ERR_ARGUMENT,
                          "the models read the text as other tokens, from token %zu on", i);
    bl__windows_close(&w);
    return status;
}

static bl_status prepare(comparison *c, const bl_model *a, const bl_model *b,
                         const bl_session_params *session_a, const bl_session_params *session_b,
                         bl_error *err) {
    size_t rows_b, n_scored = c->windows.n_windows * (c->windows.n_ctx - 1 - c->windows.first);
    bl_status status = bl__windows_session(&c->windows, a, session_a, &c->a.session, &c->rows, err);
    if (!status)
        status = bl__windows_session(&c->windows, b, session_b, &c->b.session, &rows_b, err);
    if (status)
        return status;
    c->rows = rows_b < c->rows ? rows_b : c->rows;
    c->a.logits = bl__malloc_array(c->rows * c->vocab, sizeof(float));
    c->b.logits = bl__malloc_array(c->rows * c->vocab, sizeof(float));
    c->kls = bl__malloc_array(n_scored, sizeof *c->kls);
    if (!c->a.logits || !c->b.logits || !c->kls)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu rows of logits", c->rows);
    return BL_OK;
}

bl_status bl_compare_run(const bl_model *a, const bl_tokenizer *tokenizer_a, const bl_model *b,
                         const bl_tokenizer *tokenizer_b, const char *text, size_t len,
                         const bl_perplexity_params *params, const bl_session_params *session_b,
                         bl_compare_progress progress, void *user, bl_compare_result *out,
                         bl_error *err) {
    const bl_perplexity_params p = params ? *params : (bl_perplexity_params){0};
    size_t vocab = bl_model_get_info(a)->vocab, vocab_b = bl_model_get_info(b)->vocab;
    comparison c = {.vocab = vocab, .result.identical = true};
    if (vocab != vocab_b)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "the first model's head has %zu tokens, the second's %zu", vocab, vocab_b);
    bl_status status = bl__windows_open(tokenizer_a, vocab, text, len, &p, &c.windows, err);
    if (status)
        return status;
    if (tokenizer_b)
        status = match_tokens(&c.windows, tokenizer_b, vocab, text, len, &p, err);
    if (!status)
        status = prepare(&c, a, b, &p.session, session_b ? session_b : &p.session, err);
    size_t n = c.windows.n_windows;
    for (size_t w = 0; w < n && !status; w++) {
        if ((status = run_window(&c, w, err)))
            break;
        conclude(&c, w + 1);
        if (progress && !progress(user, &c.result, n))
            status =
                bl__fail(err, BL_ERR_CANCELLED, "cancelled after %zu of %zu windows", w + 1, n);
    }
    if (!status) {
        conclude_quantiles(&c);
        *out = c.result;
    }
    bl_session_free(c.a.session);
    bl_session_free(c.b.session);
    bl__free(c.a.logits);
    bl__free(c.b.logits);
    bl__free(c.kls);
    bl__windows_close(&c.windows);
    return status;
}
