/* Owns the cutting of texts into windows. Must not know what is summed over them. */
#include "measure/windows.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "kernels/exp.h"
#include "kernels/kernels.h"
#include "tokenizer/utf8.h"

enum { DEFAULT_CTX = 512, MIN_CTX = 4, MAX_CTX = 1 << 20, MAX_BATCH = 512 };
static const size_t LOGITS_BYTES = (size_t)64 << 20; /* that are kept at a time, at most */

/* The maximum taken off, exponentials summed in BL_LANES lanes. */
double bl__log_sum_exp(const float *logits, size_t n) {
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
    return log(total) + (double)max;
}

static bl_status put_bos_first(bl__windows *w, bl_token bos, bl_error *err) {
    bl_token *longer = bl__malloc_array(w->n_tokens + 1, sizeof *longer);
    if (!longer)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu tokens", w->n_tokens + 1);
    longer[0] = bos;
    memcpy(longer + 1, w->tokens, w->n_tokens * sizeof *longer);
    bl_free(w->tokens);
    w->tokens = longer;
    w->n_tokens++;
    return BL_OK;
}

/* Encodes the text; BOS before it, or in each window, as the protocol has it. */
static bl_status encode(bl__windows *w, const bl_tokenizer *tokenizer, const char *text, size_t len,
                        const bl_perplexity_params *p, bl_error *err) {
    bl_token bos = bl_tokenizer_bos(tokenizer);
    size_t valid = bl__utf8_valid_prefix(text, len);
    if (!len)
        return bl__fail(err, BL_ERR_ARGUMENT, "the text is empty");
    if (valid < len)
        return bl__fail(err, BL_ERR_ARGUMENT, "the text is not UTF-8: byte %zu is 0x%02x", valid,
                        (unsigned)(unsigned char)text[valid]);
    if (p->bos == BL_PERPLEXITY_BOS_ON && bos < 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "BOS is asked for, the vocabulary has none");
    unsigned flags = p->bos == BL_PERPLEXITY_BOS_OFF ? 0 : BL_TOKENIZE_EXTRA;
    bl_status status =
        bl_tokenizer_encode(tokenizer, text, len, flags, &w->tokens, &w->n_tokens, err);
    if (status)
        return status;
    bool has_bos = w->n_tokens && bos >= 0 && w->tokens[0] == bos;
    if (p->bos == BL_PERPLEXITY_BOS_ON && !has_bos) {
        if ((status = put_bos_first(w, bos, err)))
            return status;
        has_bos = true;
    }
    bool in_windows =
        has_bos && p->bos != BL_PERPLEXITY_BOS_OFF && p->protocol == BL_PERPLEXITY_HALF;
    w->bos = in_windows ? bos : -1;
    return BL_OK;
}

bl_status bl__windows_open(const bl_tokenizer *tokenizer, size_t n_vocab, const char *text,
                           size_t len, const bl_perplexity_params *p, bl__windows *out,
                           bl_error *err) {
    bool half = p->protocol == BL_PERPLEXITY_HALF;
    bl__windows w = {.n_ctx = p->n_ctx ? p->n_ctx : DEFAULT_CTX};
    if (w.n_ctx < MIN_CTX || w.n_ctx > MAX_CTX)
        return bl__fail(err, BL_ERR_ARGUMENT, "a window of %zu tokens, expected %d to %d", w.n_ctx,
                        MIN_CTX, MAX_CTX);
    if (bl_tokenizer_vocab_size(tokenizer) > n_vocab)
        return bl__fail(err, BL_ERR_ARGUMENT, "the tokenizer has %zu tokens, the model's head %zu",
                        bl_tokenizer_vocab_size(tokenizer), n_vocab);
    size_t least = half ? 2 * w.n_ctx : w.n_ctx;
    bl_status status = encode(&w, tokenizer, text, len, p, err);
    if (!status && w.n_tokens < least)
        status = bl__fail(err, BL_ERR_ARGUMENT,
                          "the text has %zu tokens, expected at least %zu for %s of %zu",
                          w.n_tokens, least, half ? "two windows" : "a window", w.n_ctx);
    if (status) {
        bl_free(w.tokens);
        return status;
    }
    w.n_windows = w.n_tokens / w.n_ctx;
    if (p->max_windows && p->max_windows < w.n_windows)
        w.n_windows = p->max_windows;
    w.first = half ? w.n_ctx / 2 : 0;
    *out = w;
    return BL_OK;
}

void bl__windows_close(bl__windows *windows) {
    bl_free(windows->tokens);
    windows->tokens = NULL;
}

const bl_token *bl__windows_get(bl__windows *windows, size_t i) {
    bl_token *tokens = windows->tokens + i * windows->n_ctx;
    if (windows->bos >= 0)
        tokens[0] = windows->bos;
    return tokens;
}

bl_status bl__windows_session(const bl__windows *windows, const bl_model *model,
                              const bl_session_params *params, bl_session **out, size_t *n_rows,
                              bl_error *err) {
    bl_session_params p = *params;
    size_t rows = LOGITS_BYTES / sizeof(float) / bl_model_get_info(model)->vocab;
    p.n_ctx = (uint32_t)windows->n_ctx;
    if (!p.n_batch)
        p.n_batch = (uint32_t)(windows->n_ctx < MAX_BATCH ? windows->n_ctx : MAX_BATCH);
    *n_rows = rows < 1 ? 1 : rows < p.n_batch ? rows : p.n_batch;
    return bl_session_create(model, &p, out, err);
}

double bl__standard_error(double sum, double squares, double n) {
    double mean = sum / n, variance = squares / n - mean * mean;
    return n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
}
