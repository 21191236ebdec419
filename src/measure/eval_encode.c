/* Owns items as tokens, and where in them a context ends. Must not know logits.
 *
 * As lm-evaluation-harness does it (TemplateLM._encode_pair and loglikelihood, and the cut of
 * HFLM._loglikelihood_tokens): context and continuation are encoded as one text, and as many tokens
 * as the context without its closing spaces has alone are the context's. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "measure/eval_set.h"
#include "tokenizer/jinja_text.h"

typedef struct encoder {
    const bl_tokenizer *tokenizer;
    bl_token bos;    /* what the tokenizer puts first; -1 = nothing */
    bl_token prefix; /* BOS, else EOS: before a continuation without a context; -1 = none */
    size_t n_vocab, n_ctx;
    bl__eval_tokens *list;
    bl__buffer text; /* context and continuation */
    bl_error *err;
} encoder;

/* What is put before every text; an EOS that may be put after it is left out. */
static bl_status find_bos(encoder *e) {
    bl_token *ids;
    size_t n;
    bl_token bos = bl_tokenizer_bos(e->tokenizer), eos = bl_tokenizer_eos(e->tokenizer);
    bl_status status =
        bl_tokenizer_encode(e->tokenizer, "", 0, BL_TOKENIZE_EXTRA, &ids, &n, e->err);
    if (status)
        return status;
    e->bos = n && ids[0] == bos ? bos : -1;
    e->prefix = bos >= 0 ? bos : eos;
    bl_free(ids);
    return BL_OK;
}

static bl_status append_tokens(encoder *e, const bl_token *ids, size_t n) {
    bl__eval_tokens *list = e->list;
    if (n > list->cap - list->n_tokens) {
        size_t cap = 2 * list->cap > list->n_tokens + n ? 2 * list->cap : list->n_tokens + n + 4096;
        void *larger = bl__realloc_array(list->tokens, cap, sizeof *list->tokens);
        if (!larger)
            return bl__fail(e->err, BL_ERR_MEMORY, "cannot allocate %zu tokens", cap);
        list->tokens = larger;
        list->cap = cap;
    }
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= e->n_vocab)
            return bl__fail(e->err, BL_ERR_ARGUMENT, "token %d, the model's head has %zu", ids[i],
                            e->n_vocab);
    if (n)
        memcpy(list->tokens + list->n_tokens, ids, n * sizeof *ids);
    list->n_tokens += n;
    return BL_OK;
}

/* Appends `first`, unless it is -1 or the text begins with it, and the text's tokens; *n receives
 * how many. keep false: only counts. */
static bl_status encode(encoder *e, const char *text, size_t len, bl_token first, bool keep,
                        size_t *n) {
    bl_token *ids;
    size_t n_ids;
    bl_status status =
        bl_tokenizer_encode(e->tokenizer, text, len, BL_TOKENIZE_SPECIAL, &ids, &n_ids, e->err);
    if (status)
        return status;
    size_t n_first = first >= 0 && !(n_ids && ids[0] == first);
    if (keep)
        status = append_tokens(e, &first, n_first);
    if (keep && !status)
        status = append_tokens(e, ids, n_ids);
    *n = n_first + n_ids;
    bl_free(ids);
    return status;
}

/* Tokens of the context alone, its closing spaces left to the continuation. */
static bl_status measure_context(encoder *e, const char *context, size_t *n) {
    size_t len = strlen(context);
    bl__jinja_trim(&context, &len, false, true);
    return encode(e, context, len, e->bos, false, n);
}

static bl_status encode_choice(encoder *e, const char *context, const char *continuation,
                               size_t n_context, bl__eval_choice *out) {
    size_t n;
    bl_token first = n_context ? e->bos : e->prefix;
    e->text.len = 0;
    if (!bl__buffer_puts(&e->text, context) || !bl__buffer_puts(&e->text, continuation))
        return bl__fail(e->err, BL_ERR_MEMORY, "cannot allocate a text");
    if (first < 0 && !n_context)
        return bl__fail(e->err, BL_ERR_ARGUMENT,
                        "the context is empty, and the vocabulary has neither BOS nor EOS");
    out->begin = e->list->n_tokens;
    bl_status status = encode(e, e->text.data, e->text.len, first, true, &n);
    if (status)
        return status;
    if (n_context == 0)
        n_context = 1;
    if (n <= n_context)
        return bl__fail(e->err, BL_ERR_ARGUMENT,
                        "a continuation adds no token to the %zu of its context", n_context);
    if (n - n_context > e->n_ctx)
        return bl__fail(e->err, BL_ERR_ARGUMENT,
                        "a continuation of %zu tokens, longer than a context of %zu", n - n_context,
                        e->n_ctx);
    if (n - 1 > e->n_ctx) { /* the last token is only predicted */
        size_t cut = n - 1 - e->n_ctx;
        out->begin += cut;
        n_context -= cut;
        n -= cut;
        e->list->n_cut++;
    }
    out->n = (uint32_t)n;
    out->n_context = (uint32_t)n_context;
    if (n - 1 > e->list->longest)
        e->list->longest = n - 1;
    return BL_OK;
}

static bl_status encode_item(encoder *e, const bl_eval_item *item, bl__eval_choice *choices) {
    bl_status status = BL_OK;
    size_t n_context = 0;
    for (uint32_t c = 0; c < item->n_choices && !status; c++) {
        if (c == 0 || item->contexts[c] != item->contexts[c - 1])
            status = measure_context(e, item->contexts[c], &n_context);
        if (!status)
            status =
                encode_choice(e, item->contexts[c], item->continuations[c], n_context, &choices[c]);
    }
    if (status && e->err) {
        char line[32];
        snprintf(line, sizeof line, "line %zu", item->line);
        bl__error_prefix(e->err, line);
    }
    return status;
}

bl_status bl__eval_encode(const bl_eval_set *set, size_t n_items, const bl_tokenizer *tokenizer,
                          size_t n_vocab, size_t n_ctx, bl__eval_tokens *out, bl_error *err) {
    encoder e = {.tokenizer = tokenizer,
                 .n_vocab = n_vocab,
                 .n_ctx = n_ctx,
                 .list = out,
                 .text = bl__buffer_make(SIZE_MAX / 2),
                 .err = err};
    bl_eval_item item;
    size_t n_choices = 0;
    *out = (bl__eval_tokens){.n_items = n_items};
    for (size_t i = 0; i < n_items; i++)
        n_choices += set->records[i].n_choices;
    out->choices = bl__malloc_array(n_choices, sizeof *out->choices);
    out->first_choice = bl__malloc_array(n_items + 1, sizeof *out->first_choice);
    if (!out->choices || !out->first_choice)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu choices", n_choices);
    bl_status status = find_bos(&e);
    n_choices = 0;
    for (size_t i = 0; i < n_items && !status; i++) {
        bl_eval_set_get(set, i, &item);
        out->first_choice[i] = n_choices;
        status = encode_item(&e, &item, out->choices + n_choices);
        n_choices += item.n_choices;
    }
    out->first_choice[n_items] = n_choices;
    bl__buffer_free(&e.text);
    return status;
}

void bl__eval_tokens_free(bl__eval_tokens *list) {
    bl__free(list->tokens);
    bl__free(list->choices);
    bl__free(list->first_choice);
    *list = (bl__eval_tokens){0};
}
