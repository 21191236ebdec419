/* Owns how samples are drawn. Every token is a forward pass over all that came before it: a sample
 * is short, and so it needs neither a cache nor memory that training has not got. */
#include "train/sample.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"

enum { MAX_TEXT = 1 << 24 };

struct bl__writer {
    const bl_tokenizer *tokenizer;
    size_t vocab, n_prompt, n_tokens; /* n_tokens: of the prompt and all that follows */
    double temperature;
    uint64_t seed;
    int32_t *ids, *targets; /* int32[n_tokens] */
    float *logits;          /* float[n_tokens][vocab] */
    bl__buffer text;
};

static bl_status read_prompt(bl__writer *w, const char *prompt, bl_token **ids, size_t *n,
                             bl_error *err) {
    if (prompt)
        return bl_tokenizer_encode(w->tokenizer, prompt, strlen(prompt), 0, ids, n, err);
    *n = 0;
    return BL_OK;
}

/* Sizes and fills everything; nothing to begin with leaves n_prompt 0. */
static bl_status prepare(bl__writer *w, const bl__recipe *r, bl_error *err) {
    bl_token *prompt = NULL, start = bl_tokenizer_bos(w->tokenizer);
    size_t n_prompt = 0, n_logits, room = (size_t)r->tokens;
    if (start < 0) /* what documents are divided by */
        start = bl_tokenizer_eos(w->tokenizer);
    bl_status status = read_prompt(w, r->prompt, &prompt, &n_prompt, err);
    if (status)
        return status;
    size_t n_start = start >= 0;
    w->n_prompt = n_start + n_prompt;
    if (w->n_prompt >= room) {
        status =
            bl__fail(err, BL_ERR_ARGUMENT, "prompt is %zu tokens, expected fewer than a row's %zu",
                     w->n_prompt, room);
        goto done;
    }
    w->n_tokens = bl__min_size(room, w->n_prompt + (size_t)r->sample_tokens);
    w->ids = bl__calloc(w->n_tokens, sizeof *w->ids);
    w->targets = bl__malloc_array(w->n_tokens, sizeof *w->targets);
    if (bl__mul_size(w->n_tokens, w->vocab, &n_logits))
        w->logits = bl__malloc_array(n_logits, sizeof *w->logits);
    if (!w->ids || !w->targets || !w->logits) {
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate for samples");
        goto done;
    }
    w->ids[0] = start;
    if (n_prompt)
        memcpy(w->ids + n_start, prompt, n_prompt * sizeof *prompt);
    for (size_t i = 0; i < w->n_tokens; i++)
        w->targets[i] = -1;
done:
    bl__free(prompt);
    return status;
}

bl_status bl__writer_create(const bl__recipe *r, const bl_tokenizer *tokenizer, bl__writer **out,
                            bl_error *err) {
    *out = NULL;
    if (!tokenizer || !r->sample_tokens)
        return BL_OK;
    bl__writer *w = bl__calloc(1, sizeof *w);
    if (!w)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate for samples");
    *w = (bl__writer){.tokenizer = tokenizer,
                      .vocab = (size_t)r->vocab,
                      .temperature = r->temperature,
                      .seed = (uint64_t)r->seed,
                      .text = bl__buffer_make(MAX_TEXT)};
    bl_status status = prepare(w, r, err);
    if (status || !w->n_prompt)
        bl__writer_free(w);
    else
        *out = w;
    return status;
}

void bl__writer_free(bl__writer *w) {
    if (!w)
        return;
    bl__free(w->ids);
    bl__free(w->targets);
    bl__free(w->logits);
    bl__buffer_free(&w->text);
    bl__free(w);
}

/* Softmax at the writer's temperature, or the likeliest (of equals the lowest) at 0. */
static int32_t choose(const bl__writer *w, const float *logits, bl__random *random) {
    size_t best = 0;
    double sum = 0;
    for (size_t i = 1; i < w->vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    if (w->temperature <= 0)
        return (int32_t)best;
    for (size_t i = 0; i < w->vocab; i++)
        sum += exp(((double)logits[i] - (double)logits[best]) / w->temperature);
    double left = bl__random_f64(random) * sum;
    for (size_t i = 0; i < w->vocab; i++)
        if ((left -= exp(((double)logits[i] - (double)logits[best]) / w->temperature)) < 0)
            return (int32_t)i;
    return (int32_t)best;
}

static void append(bl__buffer *text, const char *piece, size_t len) {
    for (size_t i = 0; i < len; i++)
        bl__buffer_putc(text, piece[i] ? piece[i] : ' '); /* what reads it takes NUL for the end */
}

static bl_status decode(bl__writer *w, size_t n, bl_error *err) {
    bl_decoder *decoder = NULL;
    size_t len;
    bl_status status = bl_decoder_create(w->tokenizer, 0, false, &decoder, err);
    if (status)
        return status;
    w->text.len = 0;
    w->text.failed = false;
    for (size_t i = 0; i < n; i++) {
        const char *piece = bl_decoder_push(decoder, w->ids[i], &len);
        append(&w->text, piece, len);
    }
    const char *rest = bl_decoder_finish(decoder, &len);
    append(&w->text, rest, len);
    bl__buffer_append(&w->text, "", 0); /* a NUL behind a text of nothing, too */
    bl_decoder_free(decoder);
    if (w->text.failed)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a sample");
    return BL_OK;
}

bl_status bl__writer_run(bl__writer *w, bl__network *net, uint64_t step, const char **text,
                         bl_error *err) {
    bl__random random;
    bl__random_seed(&random, w->seed * 0xd1342543de82ef95u + step);
    size_t n = w->n_prompt;
    while (n < w->n_tokens) {
        bl__network_step(net, w->ids, w->targets, 1, n, false, 1.0f, w->logits);
        w->ids[n] = choose(w, w->logits + (n - 1) * w->vocab, &random);
        if (bl_tokenizer_is_end(w->tokenizer, w->ids[n]))
            break;
        n++;
    }
    bl_status status = decode(w, n, err);
    if (!status)
        *text = w->text.data ? w->text.data : "";
    return status;
}
