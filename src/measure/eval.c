/* Owns the sums of logits over choices, and what is evaluated together. Must not know fields or
 * prompts. */
#include "bitloom/eval.h"

#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "measure/eval_set.h"
#include "measure/figures.h"
#include "measure/windows.h"

enum { MAX_BATCH = 512, MAX_SLOTS = 64 };
static const uint32_t SHARED = UINT32_MAX;
static const size_t LOGITS_BYTES = (size_t)64 << 20;     /* that are kept at a time, at most */
static const uint64_t CACHE_BYTES = (uint64_t)512 << 20; /* of all slots, where one fits in it */

/* Whose logits a row of the batch gives. */
typedef struct row {
    size_t item;
    uint32_t choice; /* SHARED: all choices, whose tokens are the same up to here */
    uint32_t position;
} row;

typedef struct run {
    const bl_eval_set *set;
    bl__eval_tokens list;
    bl_session *session;
    bl_batch_item *batch; /* bl_batch_item[n_batch], n_queued of them taken */
    row *rows;            /* row[max_rows], n_rows of them taken */
    float *logits;        /* float[max_rows][vocab] */
    size_t n_batch, n_queued, max_rows, n_rows, vocab;
    uint32_t n_slots;
    size_t group;               /* the first item that is in hand */
    bl_eval_answer *answers;    /* bl_eval_answer[n_slots]: of the items in hand */
    double sums[3], squares[3]; /* of right answers: plain, by characters, by bytes */
    bl_eval_result result;
} run;

static const bl__eval_choice *choice_of(const run *r, size_t item, uint32_t choice) {
    return &r->list.choices[r->list.first_choice[item] + choice];
}
static uint32_t count_choices(const run *r, size_t item) {
    return (uint32_t)(r->list.first_choice[item + 1] - r->list.first_choice[item]);
}
static const bl_token *tokens_of(const run *r, const bl__eval_choice *c) {
    return r->list.tokens + c->begin;
}

/* Whether the logits after a token of the choice tell of one of its continuation. */
static bool is_scored(const bl__eval_choice *c, size_t position) {
    return position + 1 >= c->n_context && position + 1 < c->n;
}

/* ---- a batch ---- */

static void score_row(run *r, const row *w, const float *logits) {
    double log_sum = bl__log_sum_exp(logits, r->vocab);
    bl_eval_answer *answer = &r->answers[w->item - r->group];
    uint32_t first = w->choice == SHARED ? 0 : w->choice;
    uint32_t end = w->choice == SHARED ? count_choices(r, w->item) : w->choice + 1;
    for (uint32_t c = first; c < end; c++) {
        const bl__eval_choice *choice = choice_of(r, w->item, c);
        if (is_scored(choice, w->position)) {
            bl_token next = tokens_of(r, choice)[w->position + 1];
            answer->log_likelihoods[c] += (double)logits[next] - log_sum;
        }
    }
}

/* Evaluates what is queued. */
static bl_status flush(run *r, bl_error *err) {
    if (!r->n_queued)
        return BL_OK;
    bl_status status =
        bl_session_eval_batch(r->session, r->batch, r->n_queued, r->n_rows ? r->logits : NULL, err);
    for (size_t i = 0; i < r->n_rows && !status; i++)
        score_row(r, &r->rows[i], r->logits + i * r->vocab);
    r->result.n_evaluated += r->n_queued;
    r->n_queued = r->n_rows = 0;
    return status;
}

/* Queues a token of a choice for a sequence; whether its logits are wanted follows. */
static bl_status queue(run *r, uint32_t sequence, size_t item, uint32_t choice, size_t position,
                       bl_error *err) {
    bl_status status = BL_OK;
    uint32_t first = choice == SHARED ? 0 : choice;
    uint32_t end = choice == SHARED ? count_choices(r, item) : choice + 1;
    bool wanted = false;
    for (uint32_t c = first; c < end; c++)
        wanted |= is_scored(choice_of(r, item, c), position);
    if (r->n_queued == r->n_batch || (wanted && r->n_rows == r->max_rows))
        status = flush(r, err);
    if (status)
        return status;
    bl_token token = tokens_of(r, choice_of(r, item, first))[position];
    r->batch[r->n_queued++] = (bl_batch_item){sequence, token, wanted};
    if (wanted)
        r->rows[r->n_rows++] = (row){item, choice, (uint32_t)position};
    return BL_OK;
}

/* ---- items ---- */

/* Tokens that all choices of an item begin with, and that are evaluated for each. */
static size_t count_shared(const run *r, size_t item) {
    const bl__eval_choice *first = choice_of(r, item, 0);
    size_t n = first->n - 1;
    for (uint32_t c = 1; c < count_choices(r, item); c++) {
        const bl__eval_choice *other = choice_of(r, item, c);
        size_t at = 0;
        while (at < n && at + 1 < other->n && tokens_of(r, first)[at] == tokens_of(r, other)[at])
            at++;
        n = at;
    }
    return n;
}

/* Evaluates items first ... end - 1, whose choices have a sequence each: what choices share once,
 * in the sequence of the first, then the rest of each. */
static bl_status run_group(run *r, size_t first, size_t end, bl_error *err) {
    bl_status status = BL_OK;
    size_t base = r->list.first_choice[first];
    r->group = first;
    for (uint32_t s = 0; s < r->n_slots; s++)
        bl_sequence_truncate(r->session, s, 0);
    for (size_t i = first; i < end; i++) {
        uint32_t sequence = (uint32_t)(r->list.first_choice[i] - base);
        size_t n_shared = count_shared(r, i);
        r->answers[i - first] = (bl_eval_answer){.item = i};
        for (size_t at = 0; at < n_shared && !status; at++)
            status = queue(r, sequence, i, SHARED, at, err);
    }
    if (!status)
        status = flush(r, err);
    for (size_t i = first; i < end && !status; i++) {
        uint32_t sequence = (uint32_t)(r->list.first_choice[i] - base);
        size_t n_shared = bl_sequence_n_past(r->session, sequence);
        for (uint32_t c = 1; c < count_choices(r, i) && !status; c++)
            status = bl_sequence_copy(r->session, sequence, sequence + c, n_shared, err);
        for (uint32_t c = 0; c < count_choices(r, i) && !status; c++)
            for (size_t at = n_shared; at + 1 < choice_of(r, i, c)->n && !status; at++)
                status = queue(r, sequence + c, i, c, at, err);
    }
    return status ? status : flush(r, err);
}

/* The first of those with the highest score: each log-likelihood divided by a length. */
static uint32_t best_choice(const double *scores, const uint32_t *lengths, uint32_t n) {
    uint32_t best = 0;
    double highest = -INFINITY;
    for (uint32_t c = 0; c < n; c++) {
        double score = lengths ? scores[c] / lengths[c] : scores[c];
        if (score > highest) {
            highest = score;
            best = c;
        }
    }
    return best;
}

static bl_status judge(run *r, bl_eval_answer *answer, bl_error *err) {
    bl_eval_item item;
    bl_eval_set_get(r->set, answer->item, &item);
    const double *scores = answer->log_likelihoods;
    for (uint32_t c = 0; c < item.n_choices; c++)
        if (!isfinite(scores[c]))
            return bl__fail(err, BL_ERR_FORMAT,
                            "line %zu: the model's logits are not finite numbers", item.line);
    answer->chosen = best_choice(scores, NULL, item.n_choices);
    answer->chosen_by_chars = best_choice(scores, item.n_chars, item.n_choices);
    answer->chosen_by_bytes = best_choice(scores, item.n_bytes, item.n_choices);
    const uint32_t chosen[] = {answer->chosen, answer->chosen_by_chars, answer->chosen_by_bytes};
    for (size_t i = 0; i < 3; i++) {
        r->sums[i] += chosen[i] == item.gold;
        r->squares[i] += chosen[i] == item.gold;
    }
    return BL_OK;
}

static void conclude(run *r, size_t n_items, double seconds) {
    bl_eval_result *out = &r->result;
    bl_eval_share *shares[] = {&out->acc, &out->norm, &out->bytes};
    double n = (double)n_items;
    for (size_t i = 0; i < 3; i++)
        *shares[i] =
            (bl_eval_share){r->sums[i] / n, bl__standard_error(r->sums[i], r->squares[i], n)};
    out->n_items = n_items;
    out->n_cut = r->list.n_cut;
    out->seconds = seconds;
    out->tokens_per_second = seconds > 0 ? (double)out->n_evaluated / seconds : 0;
}

static bl_status run_items(run *r, bl_eval_progress progress, void *user, bl_error *err) {
    double start = bl__seconds_now();
    size_t n = r->list.n_items;
    bl_status status = BL_OK;
    for (size_t first = 0, end; first < n && !status; first = end) {
        for (end = first + 1; end < n; end++)
            if (r->list.first_choice[end + 1] - r->list.first_choice[first] > r->n_slots)
                break;
        status = run_group(r, first, end, err);
        for (size_t i = first; i < end && !status; i++) {
            bl_eval_answer *answer = &r->answers[i - first];
            status = judge(r, answer, err);
            if (status)
                break;
            conclude(r, i + 1, bl__seconds_now() - start);
            if (progress && !progress(user, answer, &r->result, n))
                status =
                    bl__fail(err, BL_ERR_CANCELLED, "cancelled after %zu of %zu items", i + 1, n);
        }
    }
    return status;
}

/* Room for as many choices as the cache may take, at least for those of one item. */
static uint32_t choose_slots(const run *r, const bl_model_info *info, uint32_t wanted) {
    uint64_t bytes = (uint64_t)info->n_layers * info->n_kv_heads * info->head_dim * 4;
    uint64_t slots = CACHE_BYTES / (bytes * r->list.longest);
    uint32_t least = 2;
    for (size_t i = 0; i < r->list.n_items; i++)
        least = count_choices(r, i) > least ? count_choices(r, i) : least;
    if (wanted)
        slots = wanted;
    else if (slots > MAX_SLOTS)
        slots = MAX_SLOTS;
    return slots < least ? least : (uint32_t)slots;
}

static bl_status prepare(run *r, const bl_model *model, const bl_session_params *session,
                         bl_error *err) {
    bl_session_params p = *session;
    p.n_ctx = (uint32_t)r->list.longest;
    p.n_batch = p.n_batch ? p.n_batch : MAX_BATCH;
    p.n_sequences = r->n_slots = choose_slots(r, bl_model_get_info(model), p.n_sequences);
    r->n_batch = p.n_batch;
    r->max_rows = LOGITS_BYTES / sizeof(float) / r->vocab;
    r->max_rows = r->max_rows < 1 ? 1 : r->max_rows < r->n_batch ? r->max_rows : r->n_batch;
    r->batch = bl__malloc_array(r->n_batch, sizeof *r->batch);
    r->rows = bl__malloc_array(r->max_rows, sizeof *r->rows);
    r->logits = bl__malloc_array(r->max_rows * r->vocab, sizeof *r->logits);
    r->answers = bl__malloc_array(r->n_slots, sizeof *r->answers);
    if (!r->batch || !r->rows || !r->logits || !r->answers)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu rows of logits", r->max_rows);
    return bl_session_create(model, &p, &r->session, err);
}

bl_status bl_eval_run(const bl_model *model, const bl_tokenizer *tokenizer, const bl_eval_set *set,
                      const bl_eval_params *params, bl_eval_progress progress, void *user,
                      bl_eval_result *out, bl_error *err) {
    const bl_eval_params p = params ? *params : (bl_eval_params){0};
    const bl_model_info *info = bl_model_get_info(model);
    size_t n = p.max_items && p.max_items < set->n ? p.max_items : set->n;
    size_t n_ctx = p.session.n_ctx ? p.session.n_ctx : info->context_length;
    run r = {.set = set, .vocab = info->vocab};
    bl_status status = bl__eval_encode(set, n, tokenizer, r.vocab, n_ctx, &r.list, err);
    if (!status)
        status = prepare(&r, model, &p.session, err);
    if (!status)
        status = run_items(&r, progress, user, err);
    if (!status)
        *out = r.result;
    bl_session_free(r.session);
    bl__free(r.batch);
    bl__free(r.rows);
    bl__free(r.logits);
    bl__free(r.answers);
    bl__eval_tokens_free(&r.list);
    return status;
}
