/* Owns what happens to one job: drawing a token, its text and its log-probabilities. */
#include "generate/job.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

static const size_t MAX_PIECE = (size_t)1 << 20;

static bl_status check(const bl__job_params *p, size_t vocab, bl_error *err) {
    if (p->n_prompt == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "the prompt is empty");
    for (size_t i = 0; i < p->n_prompt; i++)
        if (p->prompt[i] < 0 || (size_t)p->prompt[i] >= vocab)
            return bl__fail(err, BL_ERR_ARGUMENT, "token %d, expected 0 to %zu", p->prompt[i],
                            vocab - 1);
    if (p->n_biases > BL_MAX_LOGIT_BIASES)
        return bl__fail(err, BL_ERR_LIMIT, "%zu biases, expected at most %d", p->n_biases,
                        BL_MAX_LOGIT_BIASES);
    for (size_t i = 0; i < p->n_biases; i++)
        if (p->biases[i].token < 0 || (size_t)p->biases[i].token >= vocab)
            return bl__fail(err, BL_ERR_ARGUMENT, "bias of token %d, expected 0 to %zu",
                            p->biases[i].token, vocab - 1);
    if (p->n_top > BL_MAX_TOP_LOGPROBS)
        return bl__fail(err, BL_ERR_LIMIT, "%zu best tokens, expected at most %d", p->n_top,
                        BL_MAX_TOP_LOGPROBS);
    return BL_OK;
}

struct bl__constraint {
    atomic_int n_owners;
    bl_grammar *grammar;
};

bl__constraint *bl__constraint_create(bl_grammar *grammar) {
    bl__constraint *constraint = bl__malloc(sizeof *constraint);
    if (!constraint) {
        bl_grammar_free(grammar);
        return NULL;
    }
    atomic_init(&constraint->n_owners, 1);
    constraint->grammar = grammar;
    return constraint;
}

void bl__constraint_release(bl__constraint *constraint) {
    if (!constraint || atomic_fetch_sub(&constraint->n_owners, 1) > 1)
        return;
    bl_grammar_free(constraint->grammar);
    bl__free(constraint);
}

/* Whether the prompt has text, which decides if a first space of the answer is kept. */
static bool has_text(const bl_tokenizer *tokenizer, const bl_token *prompt, size_t n_prompt) {
    for (size_t i = 0; i < n_prompt; i++) {
        size_t len = 0;
        bl_tokenizer_piece(tokenizer, prompt[i], 0, &len);
        if (len > 0)
            return true;
    }
    return false;
}

bl_status bl__job_create(const bl__job_params *p, const bl_tokenizer *tokenizer, size_t vocab,
                         size_t dim, bl__job **out, bl_error *err) {
    bl_status status = check(p, vocab, err);
    if (status != BL_OK)
        return status;
    bl__job *job = bl__calloc(1, sizeof *job);
    if (!job)
        return bl__fail(err, BL_ERR_MEMORY, "no memory for a request");
    atomic_init(&job->n_owners, 1);
    atomic_init(&job->cancelled, false);
    job->tokenizer = tokenizer;
    job->n_prompt = p->n_prompt;
    job->max_tokens = p->max_tokens;
    job->only_prompt = p->only_prompt;
    job->logprobs = p->logprobs;
    job->n_top = p->logprobs ? p->n_top : 0;
    job->ignore_end = p->ignore_end;
    job->show_special = p->show_special;
    job->score_prompt = p->score_prompt;
    job->pool = (int)p->pool;
    job->n_biases = p->n_biases;
    job->client = p->client;
    job->sink = p->sink;
    job->token = -1;
    job->text = bl__buffer_make(MAX_PIECE);
    job->submitted = bl__seconds_now();
    job->deadline = p->seconds > 0 ? job->submitted + p->seconds : 0;
    job->end.n_prompt = p->n_prompt;
    job->prompt = bl__malloc_array(p->n_prompt, sizeof *job->prompt);
    job->biases = bl__malloc_array(p->n_biases, sizeof *job->biases);
    job->embedding = p->pool ? bl__calloc(dim, sizeof *job->embedding) : NULL;
    if (!job->prompt || !job->biases || (p->pool && !job->embedding) ||
        !bl__buffer_reserve(&job->text, 4096)) {
        status = bl__fail(err, BL_ERR_MEMORY, "no memory for a prompt of %zu tokens", p->n_prompt);
        goto fail;
    }
    memcpy(job->prompt, p->prompt, p->n_prompt * sizeof *job->prompt);
    if (p->n_biases)
        memcpy(job->biases, p->biases, p->n_biases * sizeof *job->biases);
    status = bl_sampler_create(&p->sampling, vocab, &job->sampler, err);
    if (status == BL_OK)
        status = bl__stop_filter_create(p->stops, p->n_stops, &job->filter, err);
    if (status == BL_OK)
        status = bl_decoder_create(
            tokenizer, p->show_special ? BL_DETOKENIZE_SPECIAL : 0,
            p->constraint || (!p->score_prompt && has_text(tokenizer, p->prompt, p->n_prompt)),
            &job->decoder, err);
    if (status == BL_OK && p->constraint) {
        atomic_fetch_add(&p->constraint->n_owners, 1);
        job->constraint = p->constraint;
        status = bl_matcher_create(p->constraint->grammar, p->trie, &job->matcher, err);
    }
    if (status != BL_OK)
        goto fail;
    *out = job;
    return BL_OK;
fail:
    bl__job_release(job);
    return status;
}

void bl__job_release(bl__job *job) {
    if (!job || atomic_fetch_sub(&job->n_owners, 1) > 1)
        return;
    bl_sampler_free(job->sampler);
    bl_decoder_free(job->decoder);
    bl__stop_filter_free(job->filter);
    bl_matcher_free(job->matcher);
    bl__constraint_release(job->constraint);
    bl__buffer_free(&job->text);
    bl__free(job->prompt);
    bl__free(job->biases);
    bl__free(job->embedding);
    bl__free(job);
}

/* ---- log-probabilities ---- */

static bool is_better(const bl__logprob *a, const bl__logprob *b) {
    return a->logprob > b->logprob || (a->logprob == b->logprob && a->token < b->token);
}

/* Fills job->top with the token's and those of the n_top best, out of the raw logits. */
static size_t take_logprobs(bl__job *job, bl_token token, const float *logits, size_t vocab) {
    bl__logprob *best = job->top + 1;
    size_t n = 0;
    float highest = -INFINITY;
    for (size_t id = 0; id < vocab; id++)
        highest = logits[id] > highest ? logits[id] : highest;
    double sum = 0;
    for (size_t id = 0; id < vocab; id++)
        sum += logits[id] > -INFINITY ? exp((double)(logits[id] - highest)) : 0;
    double base = (double)highest + (sum > 0 ? log(sum) : 0);
    for (size_t id = 0; id < vocab && job->n_top > 0; id++) {
        bl__logprob entry = {(bl_token)id, logits[id]};
        if (n == job->n_top && !is_better(&entry, &best[n - 1]))
            continue;
        size_t at = n < job->n_top ? n++ : n - 1;
        for (; at > 0 && is_better(&entry, &best[at - 1]); at--)
            best[at] = best[at - 1];
        best[at] = entry;
    }
    job->top[0] = (bl__logprob){token, logits[token]};
    for (size_t i = 0; i <= n; i++) /* JSON has no infinity */
        job->top[i].logprob = (float)fmax((double)job->top[i].logprob - base, -9999.0);
    return n + 1;
}

/* ---- text ---- */

static bool keep_text(void *user, const char *text, size_t len) {
    bl__job *job = user;
    return bl__buffer_append(&job->text, text, len);
}

static bool hand_over(bl__job *job, bl_token token, size_t n_logprobs, bool in_prompt) {
    const bl__piece piece = {.text = job->text.len ? job->text.data : "",
                             .len = job->text.len,
                             .token = token,
                             .logprobs = job->top,
                             .n_logprobs = n_logprobs,
                             .in_prompt = in_prompt};
    bool wanted = !job->sink.piece || job->sink.piece(job->sink.user, &piece);
    job->text.len = 0;
    if (!wanted)
        job->end.outcome = BL_JOB_CANCELLED;
    return wanted;
}

static bool finish_by(bl__job *job, bl_stop_reason reason) {
    job->end.outcome = BL_JOB_FINISHED;
    job->end.reason = reason;
    return false;
}

static bool fail(bl__job *job, bl_status code, const char *what) {
    job->end.outcome = BL_JOB_FAILED;
    bl__fail(&job->end.error, code, "%s", what);
    return false;
}

static bool fail_with(bl__job *job, const bl_error *err) {
    job->end.outcome = BL_JOB_FAILED;
    job->end.error = *err;
    return false;
}

/* Draws a token that the constraint allows; false when there is none. */
static bool draw(bl__job *job, const float *logits, bl_token *token) {
    const uint64_t *allowed = NULL;
    bl_error err = {0};
    if (job->matcher && bl_matcher_mask(job->matcher, &allowed, &err) != BL_OK)
        return fail_with(job, &err);
    *token = bl_sampler_sample_allowed(job->sampler, logits, allowed);
    return *token >= 0 || fail(job, BL_ERR_FORMAT,
                               "no logit is a number: the weights must be damaged, or every token "
                               "was forbidden");
}

/* Tells the sampler of the prompt, once. */
static void accept_prompt(bl__job *job) {
    for (size_t i = 0; i < job->n_prompt && !job->accepted; i++)
        bl_sampler_accept(job->sampler, job->prompt[i]);
    job->accepted = true;
}

bl_reach bl__job_reach(bl__job *job) {
    const bl_reach all = {.n_best = 0};
    if (job->logprobs || job->score_prompt || job->matcher)
        return all;
    for (size_t i = 0; i < job->n_biases; i++)
        if (job->biases[i].bias > 0)
            return all; /* it may lift a token from anywhere */
    accept_prompt(job);
    bl_reach reach = bl_sampler_reach(job->sampler);
    if (reach.margin > 0 && job->n_biases > 0)
        return all;
    if (reach.n_best > 0) /* so many of the best may be lowered */
        reach.n_best += job->n_biases;
    return reach;
}

bool bl__job_draw(bl__job *job, float *logits, size_t vocab) {
    accept_prompt(job);
    if (job->first_drawn <= 0) {
        job->first_drawn = bl__seconds_now();
    }
    if (job->only_prompt)
        return finish_by(job, BL_STOP_LENGTH);
    for (size_t i = 0; i < job->n_biases; i++)
        logits[job->biases[i].token] += job->biases[i].bias;
    bl_token token;
    if (!draw(job, logits, &token))
        return false;
    for (size_t i = 0; i < job->n_biases && job->logprobs; i++)
        if (isfinite(job->biases[i].bias))
            logits[job->biases[i].token] -= job->biases[i].bias;
    if ((!job->ignore_end || job->matcher) && bl_tokenizer_is_end(job->tokenizer, token))
        return finish_by(job, BL_STOP_END);
    bl_error err = {0};
    if (job->matcher && bl_matcher_accept(job->matcher, token, &err) != BL_OK)
        return fail_with(job, &err);
    size_t n_logprobs = job->logprobs ? take_logprobs(job, token, logits, vocab) : 0;
    size_t len;
    const char *text = bl_decoder_push(job->decoder, token, &len);
    bl__stop_verdict verdict = bl__stop_filter_push(job->filter, text, len, keep_text, job);
    if (verdict == BL_STOP_FILTER_REFUSED)
        return fail(job, BL_ERR_MEMORY, "no memory for the text");
    job->end.n_generated++;
    bl_sampler_accept(job->sampler, token);
    if (!hand_over(job, token, n_logprobs, false))
        return false;
    if (verdict == BL_STOP_FILTER_MATCHED)
        return finish_by(job, BL_STOP_STRING);
    if (job->matcher && bl_matcher_must_end(job->matcher))
        return finish_by(job, BL_STOP_END);
    if (job->max_tokens > 0 && job->end.n_generated == job->max_tokens)
        return finish_by(job, BL_STOP_LENGTH);
    job->token = token;
    return true;
}

bool bl__job_score(bl__job *job, size_t i, const float *logits, size_t vocab) {
    bl_token token = job->prompt[i];
    size_t n_logprobs = logits && job->logprobs ? take_logprobs(job, token, logits, vocab) : 0;
    size_t len;
    const char *text = bl_decoder_push(job->decoder, token, &len);
    if (!keep_text(job, text, len))
        return fail(job, BL_ERR_MEMORY, "no memory for the text");
    return hand_over(job, token, n_logprobs, true);
}

void bl__job_finish(bl__job *job) {
    double now = bl__seconds_now();
    bool flushes = job->end.outcome == BL_JOB_FINISHED && job->end.reason != BL_STOP_STRING;
    if (flushes && !job->pool) {
        size_t len;
        const char *text = bl_decoder_finish(job->decoder, &len);
        bl__stop_verdict verdict = bl__stop_filter_push(job->filter, text, len, keep_text, job);
        if (verdict == BL_STOP_FILTER_GO_ON)
            bl__stop_filter_finish(job->filter, keep_text, job);
        else if (verdict == BL_STOP_FILTER_MATCHED)
            job->end.reason = BL_STOP_STRING;
        if (job->text.len > 0)
            hand_over(job, -1, 0, false);
    }
    double admitted = job->admitted > 0 ? job->admitted : now;
    double drawn = job->first_drawn > 0 ? job->first_drawn : now;
    job->end.queue_seconds = admitted - job->submitted;
    job->end.prompt_seconds = drawn - admitted;
    job->end.generate_seconds = now - drawn;
    job->end.embedding = job->embedding;
    if (job->sink.end)
        job->sink.end(job->sink.user, &job->end);
}
