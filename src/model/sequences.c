/* Owns the texts of a session: which tokens and pages each holds, and how tokens of several texts
 * are put together in batches. Must not know the graph. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "model/session.h"

static bl_status check_token(const bl_session *s, bl_token token, bl_error *err) {
    uint32_t vocab = s->model->hparams.vocab;
    if (token < 0 || (uint32_t)token >= vocab)
        return bl__fail(err, BL_ERR_ARGUMENT, "token %d, expected 0 to %u", token, vocab - 1);
    return BL_OK;
}

static bl_status check_room(const bl_session *s, size_t sequence, size_t n_tokens, bl_error *err) {
    if (n_tokens > s->n_ctx - s->sequences[sequence].n_past)
        return bl__fail(err, BL_ERR_CONTEXT_FULL,
                        "%zu tokens do not fit: %zu of %zu in the context are taken", n_tokens,
                        s->sequences[sequence].n_past, s->n_ctx);
    return BL_OK;
}

/* ---- pages ---- */

/* Whether a sequence that goes on from position n_past writes to a page that others hold. */
static bool must_copy(const bl_session *s, const bl__sequence *of) {
    return of->n_past % BL_CACHE_BLOCK != 0 && bl__pages_shares_last(&s->pages, &of->held);
}

/* Gives a sequence a page of its own for the last one, of which it has let go already. */
static void copy_last_page(bl_session *s, bl__sequence *of) {
    uint32_t from = of->held.pages[--of->held.n_pages];
    bl__pages_grow(&s->pages, &of->held, of->held.n_pages + 1);
    bl__cache_copy_page(&s->cache, from, of->held.pages[of->held.n_pages - 1]);
}

static bl_status fail_full(const bl_session *s, size_t n_needed, size_t n_free, bl_error *err) {
    return bl__fail(err, BL_ERR_CONTEXT_FULL,
                    "%zu pages of %d tokens are needed, %zu of %zu in the cache are free", n_needed,
                    BL_CACHE_BLOCK, n_free, s->pages.n_pages);
}

/* Takes the pages that the sequences first ... end - 1 need to go on by n_batch tokens each, or
 * none. Of the texts that share a page and write to it the last one need not copy it. */
static bl_status reserve(bl_session *s, size_t first, size_t end, bl_error *err) {
    uint32_t *holders = s->pages.holders;
    size_t n_needed = 0;
    for (size_t q = first; q < end; q++) {
        bl__sequence *of = &s->sequences[q];
        of->copies = of->n_batch > 0 && must_copy(s, of);
        if (of->copies)
            holders[of->held.pages[of->held.n_pages - 1]]--;
        n_needed += bl__cache_blocks(of->n_past + of->n_batch) - of->held.n_pages + of->copies;
    }
    bool fits = n_needed <= s->pages.n_free;
    for (size_t q = first; q < end; q++) {
        bl__sequence *of = &s->sequences[q];
        if (of->copies && fits)
            copy_last_page(s, of);
        else if (of->copies)
            holders[of->held.pages[of->held.n_pages - 1]]++;
        if (fits)
            bl__pages_grow(&s->pages, &of->held, bl__cache_blocks(of->n_past + of->n_batch));
    }
    return fits ? BL_OK : fail_full(s, n_needed, s->pages.n_free, err);
}

/* Whether there are pages for n_rest tokens after the first n_keep of a sequence, once it has let
 * go of the others. */
static bl_status check_shift(const bl_session *s, const bl__sequence *of, size_t n_keep,
                             size_t n_rest, bl_error *err) {
    size_t n_kept = bl__cache_blocks(n_keep);
    size_t n_needed = bl__cache_blocks(n_keep + n_rest) - n_kept;
    size_t n_free = s->pages.n_free + bl__pages_freed_by(&s->pages, &of->held, n_kept);
    if (n_rest > 0 && n_keep % BL_CACHE_BLOCK)
        n_needed += s->pages.holders[of->held.pages[n_kept - 1]] > 1;
    return n_needed <= n_free ? BL_OK : fail_full(s, n_needed, n_free, err);
}

/* Forgets what a sequence holds from position n_past on. */
static void forget(bl_session *s, bl__sequence *of, size_t n_past) {
    of->n_past = n_past;
    bl__pages_shrink(&s->pages, &of->held, bl__cache_blocks(n_past));
}

bl_cache_pages bl_session_cache_pages(const bl_session *s) {
    return (bl_cache_pages){BL_CACHE_BLOCK, s->pages.n_pages, s->pages.n_free};
}

/* ---- batches ---- */

/* Puts a token in a row of the batch, at the end of its sequence. */
static void place_token(bl_session *s, size_t row, size_t sequence, bl_token token) {
    s->row_tokens[row] = token;
    s->tokens[sequence * s->n_ctx + s->sequences[sequence].n_past++] = token;
}

/* The next n rows of the batch, from row `first` on, will be of one sequence. */
static void add_span(bl_session *s, size_t sequence, size_t first, size_t n) {
    bl__sequence *of = &s->sequences[sequence];
    s->spans[s->n_spans++] = (bl__span){of->held.pages, first, of->n_past, n};
}

/* Appends tokens for which there is room and pages are taken. all_logits: float[n_tokens][vocab] or
 * NULL; last_logits: float[vocab] or NULL; to_head: the session's head is to have the last ones.
 * tokens may be those of the sequence itself, further on. */
static void append(bl_session *s, size_t sequence, const bl_token *tokens, size_t n_tokens,
                   float *all_logits, float *last_logits, bool to_head) {
    size_t vocab = s->model->hparams.vocab;
    for (size_t at = 0, n; at < n_tokens; at += n) {
        n = bl__min_size(s->n_batch, n_tokens - at);
        bool last = at + n == n_tokens;
        s->n_spans = 0;
        add_span(s, sequence, 0, n);
        for (size_t row = 0; row < n; row++) {
            place_token(s, row, sequence, tokens[at + row]);
            s->wanted[row] = (uint32_t)row;
        }
        if (all_logits) {
            bl__session_forward(s, n, n, NULL, all_logits + at * vocab);
        } else {
            s->wanted[0] = (uint32_t)(n - 1);
            bl__session_forward(s, n, last && (last_logits || to_head), NULL, last_logits);
        }
    }
    if (all_logits && to_head)
        bl__head_put(&s->head, all_logits + (n_tokens - 1) * vocab);
}

bl_status bl_session_eval(bl_session *s, const bl_token *tokens, size_t n_tokens, float *all_logits,
                          bl_error *err) {
    if (n_tokens == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "no tokens to evaluate");
    bl_status status = check_room(s, 0, n_tokens, err);
    for (size_t t = 0; t < n_tokens && !status; t++)
        status = check_token(s, tokens[t], err);
    s->sequences[0].n_batch = n_tokens;
    if (!status)
        status = reserve(s, 0, 1, err);
    if (!status)
        append(s, 0, tokens, n_tokens, all_logits, NULL, true);
    return status;
}

/* Refuses a batch that cannot be evaluated as a whole. */
static bl_status check_items(bl_session *s, const bl_batch_item *items, size_t n_items,
                             const float *logits, bl_error *err) {
    bl_status status = BL_OK;
    if (n_items == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "no tokens to evaluate");
    for (size_t q = 0; q < s->n_sequences; q++)
        s->sequences[q].n_batch = 0;
    for (size_t i = 0; i < n_items && !status; i++) {
        if (items[i].sequence >= s->n_sequences)
            return bl__fail(err, BL_ERR_ARGUMENT, "sequence %u, expected 0 to %zu",
                            items[i].sequence, s->n_sequences - 1);
        if (items[i].wants_logits && !logits)
            return bl__fail(err, BL_ERR_ARGUMENT,
                            "item %zu wants logits, and there is no place "
                            "for them",
                            i);
        status = check_token(s, items[i].token, err);
        s->sequences[items[i].sequence].n_batch++;
    }
    for (size_t q = 0; q < s->n_sequences && !status; q++)
        status = check_room(s, q, s->sequences[q].n_batch, err);
    return status;
}

/* Evaluates n_items <= n_batch items, the rows sorted by sequence; returns how many logits. */
static size_t eval_items(bl_session *s, const bl_batch_item *items, size_t n_items,
                         const bl_reach *reaches, float *logits) {
    size_t n_wanted = 0, first = 0;
    for (size_t q = 0; q < s->n_sequences; q++)
        s->sequences[q].n_batch = 0;
    for (size_t i = 0; i < n_items; i++)
        s->sequences[items[i].sequence].n_batch++;
    s->n_spans = 0;
    for (size_t q = 0; q < s->n_sequences; q++) { /* counts become the first row of each */
        size_t n = s->sequences[q].n_batch;
        if (n > 0)
            add_span(s, q, first, n);
        s->sequences[q].n_batch = first;
        first += n;
    }
    for (size_t i = 0; i < n_items; i++) {
        size_t row = s->sequences[items[i].sequence].n_batch++;
        place_token(s, row, items[i].sequence, items[i].token);
        if (items[i].wants_logits)
            s->wanted[n_wanted++] = (uint32_t)row;
    }
    bl__session_forward(s, n_items, n_wanted, reaches, logits);
    return n_wanted;
}

bl_status bl_session_eval_best(bl_session *s, const bl_batch_item *items, size_t n_items,
                               const bl_reach *reaches, float *logits, bl_error *err) {
    bl_status status = check_items(s, items, n_items, logits, err);
    if (!status)
        status = reserve(s, 0, s->n_sequences, err);
    if (status)
        return status;
    for (size_t at = 0, n; at < n_items; at += n) {
        n = bl__min_size(s->n_batch, n_items - at);
        size_t n_wanted = eval_items(s, items + at, n, reaches, logits);
        if (logits)
            logits += n_wanted * s->model->hparams.vocab;
        if (reaches)
            reaches += n_wanted;
    }
    return BL_OK;
}

bl_status bl_session_eval_batch(bl_session *s, const bl_batch_item *items, size_t n_items,
                                float *logits, bl_error *err) {
    return bl_session_eval_best(s, items, n_items, NULL, logits, err);
}

const float *bl_session_logits(bl_session *s) {
    return bl__head_all(&s->head, &s->compute);
}
const float *bl_session_best_logits(bl_session *s, const bl_reach *reach) {
    return bl__head_best(&s->head, &s->compute, reach);
}
const float *bl_session_allowed_logits(bl_session *s, const bl_reach *reach,
                                       const uint64_t *allowed) {
    return bl__head_allowed(&s->head, &s->compute, reach, allowed);
}
size_t bl_session_n_past(const bl_session *s) {
    return s->sequences[0].n_past;
}
size_t bl_session_n_ctx(const bl_session *s) {
    return s->n_ctx;
}
size_t bl_session_n_sequences(const bl_session *s) {
    return s->n_sequences;
}
size_t bl_session_bytes(const bl_session *s) {
    return s->arena.size;
}
size_t bl_sequence_n_past(const bl_session *s, uint32_t sequence) {
    return sequence < s->n_sequences ? s->sequences[sequence].n_past : 0;
}

const bl_token *bl_sequence_tokens(const bl_session *s, uint32_t sequence) {
    return sequence < s->n_sequences ? s->tokens + sequence * s->n_ctx : NULL;
}

void bl_sequence_truncate(bl_session *s, uint32_t sequence, size_t n_past) {
    if (sequence < s->n_sequences)
        forget(s, &s->sequences[sequence], bl__min_size(n_past, s->sequences[sequence].n_past));
}

void bl_session_truncate(bl_session *s, size_t n_past) {
    bl_sequence_truncate(s, 0, n_past);
}

bl_status bl_sequence_copy(bl_session *s, uint32_t from, uint32_t to, size_t n_tokens,
                           bl_error *err) {
    if (from >= s->n_sequences || to >= s->n_sequences)
        return bl__fail(err, BL_ERR_ARGUMENT, "sequence %u, expected 0 to %zu",
                        from < to ? to : from, s->n_sequences - 1);
    if (n_tokens > s->sequences[from].n_past)
        return bl__fail(err, BL_ERR_ARGUMENT, "cannot copy %zu tokens of a sequence of %zu",
                        n_tokens, s->sequences[from].n_past);
    if (from == to) {
        bl_sequence_truncate(s, to, n_tokens);
        return BL_OK;
    }
    memcpy(s->tokens + to * s->n_ctx, s->tokens + from * s->n_ctx, n_tokens * sizeof *s->tokens);
    bl__pages_share(&s->pages, &s->sequences[from].held, &s->sequences[to].held,
                    bl__cache_blocks(n_tokens));
    s->sequences[to].n_past = n_tokens;
    return BL_OK;
}

static bl_status shift(bl_session *s, uint32_t sequence, size_t n_keep, size_t n_drop,
                       float *logits, bool to_head, bl_error *err) {
    if (sequence >= s->n_sequences)
        return bl__fail(err, BL_ERR_ARGUMENT, "sequence %u, expected 0 to %zu", sequence,
                        s->n_sequences - 1);
    bl__sequence *of = &s->sequences[sequence];
    if (n_keep > of->n_past || n_drop > of->n_past - n_keep)
        return bl__fail(err, BL_ERR_ARGUMENT, "cannot drop %zu tokens after the first %zu of %zu",
                        n_drop, n_keep, of->n_past);
    size_t n_rest = of->n_past - n_keep - n_drop;
    if (n_drop == 0)
        return BL_OK;
    bl_status status = check_shift(s, of, n_keep, n_rest, err);
    if (status)
        return status;
    forget(s, of, n_keep);
    of->n_batch = n_rest;
    status = reserve(s, sequence, (size_t)sequence + 1, err);
    if (status)
        return status;
    /* The rest moves down as it is appended, behind where it is read. */
    append(s, sequence, s->tokens + sequence * s->n_ctx + n_keep + n_drop, n_rest, NULL, logits,
           to_head);
    return BL_OK;
}

bl_status bl_sequence_shift(bl_session *s, uint32_t sequence, size_t n_keep, size_t n_drop,
                            float *logits, bl_error *err) {
    return shift(s, sequence, n_keep, n_drop, logits, false, err);
}

bl_status bl_session_shift(bl_session *s, size_t n_keep, size_t n_drop, bl_error *err) {
    return shift(s, 0, n_keep, n_drop, NULL, true, err);
}
