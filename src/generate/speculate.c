/* Owns the course of speculation: what is guessed, what of it became text, and whether it pays.
 * Time decides only when to guess, never what the text is. Must not know how tokens are drawn. */
#include "generate/speculate.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "generate/drafts.h"

enum {
    DEFAULT_DRAFT = 16,
    FIRST_DRAFT = 4,  /* guesses of the first batch; more when all were right, else fewer */
    PLAIN_FIRST = 3,  /* tokens evaluated alone before guesses, to know what they cost */
    PLAIN_EVERY = 64, /* batches after which one is evaluated alone again */
    TRIAL = 4,        /* batches from which gain is judged */
    FIRST_PAUSE = 16, /* tokens without guesses once it does not pay; doubles each time */
    LONGEST_PAUSE = 1024
};
static const double FORGET = 0.8; /* what a measurement counts after the next one */
/* What takes so many times what it should is the system's doing and is counted as this at most. */
static const double OUTLIER = 4;

struct bl_speculator {
    bl_draft_fn draft;
    void *user;
    bl__draft_model *model; /* NULL without one */
    bool always;
    size_t n_ctx, vocab, n_draft;
    bl_token *history;    /* bl_token[n_ctx + 1]: the text that a guess follows */
    bl_token *batch;      /* bl_token[1 + n_draft]: the token drawn last and guesses */
    bl_batch_item *items; /* bl_batch_item[1 + n_draft]: the same tokens */
    bl_reach *reaches;    /* bl_reach[1 + n_draft]: which logits are needed after each */
    float *rows;          /* float[1 + n_draft][vocab]: these logits */
    /* The batch in hand: rows 0 ... n_rows - 1, of which `at` is the one to draw from next. */
    size_t n_rows, at;
    size_t n_wanted; /* guesses of the next batch */
    /* What it costs. */
    double plain_seconds;               /* of one token evaluated alone */
    double batch_seconds, batch_tokens; /* of the last batches, forgotten slowly */
    double all_seconds, all_plain;      /* of all batches, and what their text would have cost */
    double seconds;                     /* of the batch in hand */
    size_t n_plain, n_since_plain, n_trial, n_pause, next_pause;
    bl_speculation figures;
};

/* Of this thread's work: what other programs take from it says nothing of what a batch costs. */
static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bl_status choose_draft(bl_speculator *s, const bl_model *model,
                              const bl_speculator_params *p, bl_error *err) {
    s->draft = p->draft ? p->draft : bl__draft_by_lookup;
    s->user = p->user;
    if (p->draft || !p->draft_model)
        return BL_OK;
    uint32_t vocab = bl_model_get_info(p->draft_model)->vocab;
    if (vocab != bl_model_get_info(model)->vocab)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "the draft model has %u tokens, expected the %u of the model", vocab,
                        bl_model_get_info(model)->vocab);
    bl_status status =
        bl__draft_model_create(p->draft_model, s->n_ctx, p->n_threads, &s->model, err);
    s->draft = bl__draft_by_model;
    s->user = s->model;
    return status;
}

bl_status bl_speculator_create(const bl_model *model, size_t n_ctx,
                               const bl_speculator_params *params, bl_speculator **out,
                               bl_error *err) {
    const bl_speculator_params p = params ? *params : (bl_speculator_params){0};
    if (p.n_draft > BL_MAX_DRAFT)
        return bl__fail(err, BL_ERR_ARGUMENT, "drafts of %u tokens, at most %d allowed", p.n_draft,
                        BL_MAX_DRAFT);
    if (n_ctx < 1 || n_ctx > UINT32_MAX)
        return bl__fail(err, BL_ERR_ARGUMENT, "a context of %zu tokens", n_ctx);
    bl_speculator *s = bl__calloc(1, sizeof *s);
    if (!s)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a speculator");
    s->n_ctx = n_ctx;
    s->vocab = bl_model_get_info(model)->vocab;
    s->n_draft = p.n_draft ? p.n_draft : DEFAULT_DRAFT;
    s->always = p.always;
    s->n_wanted = bl__min_size(FIRST_DRAFT, s->n_draft);
    s->next_pause = FIRST_PAUSE;
    s->history = bl__malloc_array(n_ctx + 1, sizeof *s->history);
    s->batch = bl__malloc_array(1 + s->n_draft, sizeof *s->batch);
    s->items = bl__malloc_array(1 + s->n_draft, sizeof *s->items);
    s->reaches = bl__malloc_array(1 + s->n_draft, sizeof *s->reaches);
    s->rows = bl__malloc_array(1 + s->n_draft, s->vocab * sizeof *s->rows);
    bl_status status = BL_OK;
    if (!s->history || !s->batch || !s->items || !s->reaches || !s->rows)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate logits of %zu tokens", s->n_draft);
    if (!status)
        status = choose_draft(s, model, &p, err);
    if (status)
        bl_speculator_free(s);
    else
        *out = s;
    return status;
}

void bl_speculator_free(bl_speculator *s) {
    if (!s)
        return;
    bl__draft_model_free(s->model);
    bl__free(s->history);
    bl__free(s->batch);
    bl__free(s->items);
    bl__free(s->reaches);
    bl__free(s->rows);
    bl__free(s);
}

bl_speculation bl_speculator_figures(const bl_speculator *s) {
    bl_speculation figures = s->figures;
    figures.gain = s->all_seconds > 0 ? s->all_plain / s->all_seconds : 0;
    return figures;
}

void bl__speculator_start(bl_speculator *s) {
    s->n_rows = s->at = 0;
    s->n_plain = 0; /* the context may have another length: what a token costs is measured anew */
}

size_t bl__speculator_n_ahead(const bl_speculator *s) {
    return s->n_rows ? s->n_rows - 1 - s->at : 0;
}

const float *bl__speculator_logits(const bl_speculator *s) {
    return s->n_rows ? s->rows + s->at * s->vocab : NULL;
}

/* ---- whether it pays ---- */

/* Whether the next token is evaluated with guesses. */
static bool is_time_to_guess(bl_speculator *s) {
    if (s->n_plain < PLAIN_FIRST || s->n_since_plain >= PLAIN_EVERY)
        return false;
    if (s->n_pause > 0) {
        s->n_pause--;
        return false;
    }
    return true;
}

static void count_plain(bl_speculator *s, double seconds) {
    double before = s->plain_seconds, n = (double)++s->n_plain;
    if (n > 1 && seconds > OUTLIER * before)
        seconds = OUTLIER * before;
    double share = n < PLAIN_FIRST ? 1 / n : 1 - FORGET;
    s->plain_seconds = before + share * (seconds - before);
    s->n_since_plain = 0;
    s->figures.n_plain++;
}

/* What became of the batch in hand is known: s->at of its guesses were right. */
static void settle(bl_speculator *s) {
    size_t n_guessed = s->n_rows - 1, n_right = s->at;
    s->n_wanted = n_right == n_guessed ? s->n_wanted + 2 : n_right + 2;
    s->n_wanted = bl__min_size(s->n_wanted, s->n_draft);
    s->figures.n_accepted += n_right;
    s->n_rows = s->at = 0;
    s->all_seconds += s->seconds;
    s->all_plain += (double)(n_right + 1) * s->plain_seconds;
    s->batch_seconds = FORGET * s->batch_seconds + s->seconds;
    s->batch_tokens = FORGET * s->batch_tokens + (double)(n_right + 1);
    if (++s->n_trial < TRIAL || s->always)
        return;
    if (s->batch_tokens * s->plain_seconds > s->batch_seconds) {
        s->next_pause = FIRST_PAUSE;
        return;
    }
    s->n_pause = s->next_pause;
    s->next_pause = bl__min_size(2 * s->next_pause, LONGEST_PAUSE);
    s->n_trial = 0;
    s->batch_seconds = s->batch_tokens = 0;
    s->n_wanted = bl__min_size(FIRST_DRAFT, s->n_draft);
}

/* ---- batches ---- */

/* Guesses what follows the session's tokens and batch[0]; returns how many tokens. */
static size_t guess(bl_speculator *s, const bl_session *session, size_t n_most) {
    size_t n_past = bl_sequence_n_past(session, 0);
    n_most = bl__min_size(n_most, bl__min_size(s->n_wanted, s->n_draft));
    if (n_most == 0 || n_past >= s->n_ctx)
        return 0;
    memcpy(s->history, bl_sequence_tokens(session, 0), n_past * sizeof *s->history);
    s->history[n_past] = s->batch[0];
    size_t n =
        bl__min_size(s->draft(s->user, s->history, n_past + 1, s->batch + 1, n_most), n_most);
    for (size_t i = 0; i < n; i++) /* the function may be anyone's */
        if (s->batch[1 + i] < 0 || (size_t)s->batch[1 + i] >= s->vocab)
            return i;
    return n;
}

/* What a draw needs once n_more further tokens are accepted. */
static bl_reach reach_of(const bl_sampler *sampler, size_t n_more) {
    return sampler ? bl_sampler_reach_after(sampler, n_more) : (bl_reach){.n_best = 0};
}

/* The batch's first n tokens, and of the logits after them what the sampler may need. */
static bl_status evaluate_batch(bl_speculator *s, bl_session *session, size_t n,
                                const bl_sampler *sampler, bl_error *err) {
    for (size_t i = 0; i < n; i++) {
        s->items[i] = (bl_batch_item){0, s->batch[i], true};
        s->reaches[i] = reach_of(sampler, i);
    }
    return bl_session_eval_best(session, s->items, n, s->reaches, s->rows, err);
}

static bl_status evaluate(bl_speculator *s, bl_session *session, bl_token token, size_t n_most,
                          const bl_sampler *sampler, bl_error *err) {
    double start = seconds_now();
    s->batch[0] = token;
    size_t n = is_time_to_guess(s) ? guess(s, session, n_most) : 0;
    if (n == 0) {
        start = seconds_now(); /* that there is nothing to guess costs next to nothing */
        static const bl_reach usual = {.n_best = 40};
        const bl_reach reach = sampler ? reach_of(sampler, 0) : usual; /* part of the cost */
        bl_status status = bl_session_eval(session, &token, 1, NULL, err);
        if (!status)
            bl_session_best_logits(session, &reach);
        count_plain(s, seconds_now() - start);
        return status;
    }
    bl_status status = evaluate_batch(s, session, 1 + n, sampler, err);
    if (status)
        return status;
    double most = OUTLIER * (double)(1 + n) * s->plain_seconds, spent = seconds_now() - start;
    if (s->model)
        spent -= bl__draft_model_catch_up(s->model);
    s->seconds = spent < most ? spent : most;
    s->n_rows = 1 + n;
    s->at = 0;
    s->n_since_plain++;
    s->figures.n_batches++;
    s->figures.n_drafted += n;
    return BL_OK;
}

bl_status bl__speculator_append(bl_speculator *s, bl_session *session, bl_token token,
                                size_t n_most, const bl_sampler *sampler, bl_error *err) {
    if (s->n_rows > 0) {
        size_t n_ahead = bl__speculator_n_ahead(s);
        if (n_ahead > 0 && s->batch[s->at + 1] == token) {
            s->at++;
            return BL_OK;
        }
        bl_session_truncate(session, bl_session_n_past(session) - n_ahead);
        settle(s);
    }
    return evaluate(s, session, token, n_most, sampler, err);
}

bl_status bl__speculator_finish(bl_speculator *s, bl_session *session, bl_error *err) {
    if (s->n_rows == 0)
        return BL_OK;
    /* The batch's first token is in the text. */
    size_t n_text = bl_session_n_past(session) - bl__speculator_n_ahead(s);
    settle(s);
    bl_token last = bl_sequence_tokens(session, 0)[n_text - 1];
    bl_session_truncate(session, n_text - 1);
    return bl_session_eval(session, &last, 1, NULL, err);
}
