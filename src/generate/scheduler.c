/* Owns the thread that evaluates for all jobs: the queue, who joins, what a step is made of. Must
 * not know requests; what happens within a job is job.c's, which sequence it gets prefixes.c's. */
#include "generate/scheduler.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/error.h"
#include "generate/prefixes.h"

enum {
    DEFAULT_PARALLEL = 8,
    DEFAULT_KEPT = 32,
    DEFAULT_QUEUED = 64,
    DEFAULT_BATCH = 256,
    DEFAULT_CTX = 4096,
    MAX_SCORED = 16,  /* prompt tokens of a step whose logits are wanted */
    FIRST_SHARE = 16, /* prompt tokens of a step as long as their cost is not known */
    MAX_EMBEDDED = 64 /* prompt tokens embedded between two steps */
};
static const double DEFAULT_GAP = 2.2;

const double bl__scheduler_buckets[BL_N_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                    0.5,   1,    2.5,   5,    10,  30};

struct bl__scheduler {
    bl_session *session;
    const bl_tokenizer *tokenizer;
    size_t vocab, dim, n_batch;
    uint32_t n_parallel, max_queued;
    double max_gap;
    bool (*read_joules)(void *user, double *joules);
    void *read_joules_user;
    pthread_t thread;
    bool has_thread;
    /* The thread's own. */
    bl__prefixes prefixes;
    bl__job **active; /* [n_parallel], n_active of them, in the order in which they joined */
    size_t n_active;
    size_t n_reserved;    /* pages of the cache that the active ones may come to need */
    bl_batch_item *items; /* [n_batch + n_parallel] */
    size_t n_items;
    bl_reach *reaches;     /* [n_parallel + MAX_SCORED]: of the rows of logits */
    float *logits;         /* float[n_parallel + MAX_SCORED][vocab] */
    float *states;         /* float[MAX_EMBEDDED][dim] */
    double *write_seconds; /* [n_parallel + 1]: of a step that only writes, by texts; 0: unknown */
    double prompt_seconds; /* of one more token of a prompt in a step; 0: unknown */
    double joules;         /* when the step before ended */
    double last_step;      /* when the step before ended; 0: there was a pause */
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    bl__job *queue; /* oldest first */
    bool stopping;
    bl__scheduler_figures figures;
};

static void count_time(bl__histogram *histogram, double seconds) {
    size_t i = 0;
    while (i < BL_N_BUCKETS && seconds > bl__scheduler_buckets[i])
        i++;
    histogram->counts[i]++;
    histogram->sum += seconds;
}

/* ---- joining and leaving ---- */

/* Ends a job that has left the queue and the active ones. */
static void end_job(bl__scheduler *s, bl__job *job) {
    pthread_mutex_lock(&s->mutex);
    bl__scheduler_figures *f = &s->figures;
    f->n_finished += job->end.outcome == BL_JOB_FINISHED;
    f->n_cancelled += job->end.outcome == BL_JOB_CANCELLED;
    f->n_timed_out += job->end.outcome == BL_JOB_TIMED_OUT;
    f->n_failed += job->end.outcome == BL_JOB_FAILED;
    f->n_active = s->n_active;
    pthread_mutex_unlock(&s->mutex);
    bl__job_finish(job);
    bl__job_release(job);
}

/* Whether a job is to end before it is done, and how. */
static bool is_over(const bl__job *job, bool stopping, double now, bl__job_outcome *outcome) {
    *outcome = BL_JOB_STOPPED;
    if (stopping)
        return true;
    *outcome = BL_JOB_CANCELLED;
    if (atomic_load(&job->cancelled))
        return true;
    *outcome = BL_JOB_TIMED_OUT;
    return job->deadline > 0 && now > job->deadline;
}

static void leave(bl__scheduler *s, size_t i) {
    bl__job *job = s->active[i];
    bl__prefixes_leave(&s->prefixes, job);
    memmove(s->active + i, s->active + i + 1, (s->n_active - i - 1) * sizeof *s->active);
    s->n_active--;
    s->n_reserved -= job->n_pages;
    end_job(s, job);
}

static void fail_all(bl__scheduler *s, const bl_error *err) {
    while (s->n_active > 0) {
        bl__job *job = s->active[s->n_active - 1];
        job->end.outcome = BL_JOB_FAILED;
        job->end.error = *err;
        bl_sequence_truncate(s->session, job->sequence, 0);
        leave(s, s->n_active - 1);
    }
}

/* Takes those out of the queue that are over; *list gets them. Mutex held. */
static void sweep_queue(bl__scheduler *s, double now, bl__job **list) {
    *list = NULL;
    for (bl__job **at = &s->queue; *at;) {
        bl__job *job = *at;
        if (!is_over(job, s->stopping, now, &job->end.outcome)) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        s->figures.n_queued--;
        job->next = *list;
        *list = job;
    }
}

static size_t n_active_of(const bl__scheduler *s, uint64_t client) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_active; i++)
        n += s->active[i]->client == client;
    return n;
}

/* Pages of the cache that a job needs at most. What it shares with others it counts, too, so that
 * an active job always finds the pages it needs once nobody else keeps any. */
static size_t pages_for(const bl__scheduler *s, const bl__job *job) {
    bl_cache_pages pages = bl_session_cache_pages(s->session);
    size_t n = bl_session_n_ctx(s->session);
    if (job->only_prompt || job->pool)
        n = job->n_prompt;
    else if (job->max_tokens > 0 && job->max_tokens < n - job->n_prompt)
        n = job->n_prompt + job->max_tokens;
    n = (n + pages.page_tokens - 1) / pages.page_tokens;
    return bl__min_size(n, pages.n_pages);
}

static bool has_room(const bl__scheduler *s, const bl__job *job) {
    return pages_for(s, job) <= bl_session_cache_pages(s->session).n_pages - s->n_reserved;
}

/* Whether a job can join now; gives it its place. */
static bool can_join(bl__scheduler *s, bl__job *job) {
    size_t n_pages = pages_for(s, job);
    if (!has_room(s, job) || !bl__prefixes_place(&s->prefixes, job))
        return false;
    job->n_pages = n_pages;
    s->n_reserved += n_pages;
    return true;
}

/* Lets jobs join: always one of the client that has the fewest texts under way, of these the one
 * that has waited longest and whose prompt nobody is about to compute. None while there is no room
 * for the one that has waited longest of all, which others would keep out for ever. Mutex held. */
static void admit(bl__scheduler *s, double now) {
    while (s->n_active < s->n_parallel && s->queue && has_room(s, s->queue)) {
        bl__job **best = NULL;
        size_t fewest = SIZE_MAX;
        for (size_t limit = 0; limit <= s->n_active && !best; limit++)
            for (bl__job **at = &s->queue; *at && !best; at = &(*at)->next) {
                fewest = n_active_of(s, (*at)->client);
                if (fewest == limit && can_join(s, *at))
                    best = at;
            }
        if (!best)
            return;
        bl__job *job = *best;
        *best = job->next;
        job->next = NULL;
        job->admitted = now;
        s->figures.n_queued--;
        s->figures.n_cached += job->n_done;
        s->active[s->n_active++] = job;
        s->figures.n_active = s->n_active;
    }
}

/* ---- a step ---- */

static bool is_reading(const bl__job *job) {
    return job->n_done < job->n_prompt;
}

/* Tokens of prompts that the next step may have beside n_writing texts. */
static size_t prompt_budget(const bl__scheduler *s, size_t n_writing) {
    if (n_writing == 0)
        return s->n_batch;
    double alone = s->write_seconds[n_writing];
    if (alone <= 0)
        return 0; /* this step measures it */
    if (s->prompt_seconds <= 0)
        return FIRST_SHARE;
    double n = (s->max_gap - 1) * alone / s->prompt_seconds;
    return n < 1 ? 1 : n > (double)s->n_batch ? s->n_batch : (size_t)n;
}

static void add_item(bl__scheduler *s, const bl__job *job, bl_token token, bool wants_logits) {
    s->items[s->n_items++] = (bl_batch_item){job->sequence, token, wants_logits};
}

/* Adds the job's share of its prompt, of which at least the last token wants logits. */
static void add_prompt(bl__scheduler *s, bl__job *job, size_t *n_rows) {
    for (size_t i = 0; i < job->n_share; i++) {
        size_t at = job->n_done + i;
        bool wants = at + 1 == job->n_prompt || job->score_prompt;
        add_item(s, job, job->prompt[at], wants);
        if (wants && job->row == SIZE_MAX)
            job->row = *n_rows;
        if (wants)
            s->reaches[(*n_rows)++] = bl__job_reach(job);
    }
}

/* How many more tokens of its prompt the job can take in this step. */
static size_t can_read(const bl__job *job, size_t n_scored) {
    size_t n = job->pool ? 0 : job->n_prompt - job->n_done - job->n_share;
    return job->score_prompt ? bl__min_size(n, MAX_SCORED - n_scored) : n;
}

/* Shares the budget evenly among prompts, so that short ones are soon done and long ones go on;
 * what one does not need goes to the others, and what cannot be divided to those who came first. */
static void share_budget(bl__scheduler *s, size_t budget) {
    size_t n_readers = 1, n_scored = 0;
    while (budget > 0 && n_readers > 0) {
        n_readers = 0;
        for (size_t i = 0; i < s->n_active; i++)
            n_readers += can_read(s->active[i], n_scored) > 0;
        size_t share = n_readers ? (budget + n_readers - 1) / n_readers : 0;
        for (size_t i = 0; i < s->n_active && budget > 0; i++) {
            bl__job *job = s->active[i];
            size_t n = bl__min_size(bl__min_size(share, budget), can_read(job, n_scored));
            job->n_share += n;
            n_scored += job->score_prompt ? n : 0;
            budget -= n;
        }
    }
}

/* Puts the items of the next step together; returns how many of them are of prompts. */
static size_t compose(bl__scheduler *s, size_t *n_writing) {
    size_t n_rows = 0;
    s->n_items = *n_writing = 0;
    for (size_t i = 0; i < s->n_active; i++) {
        bl__job *job = s->active[i];
        job->row = SIZE_MAX;
        job->n_share = 0;
        if (job->token < 0)
            continue;
        add_item(s, job, job->token, true);
        job->row = n_rows;
        s->reaches[n_rows++] = bl__job_reach(job);
    }
    *n_writing = s->n_items;
    share_budget(s, prompt_budget(s, *n_writing));
    for (size_t i = 0; i < s->n_active; i++)
        add_prompt(s, s->active[i], &n_rows);
    return s->n_items - *n_writing;
}

/* Learns from a step how long steps take. */
static void learn(bl__scheduler *s, size_t n_writing, size_t n_reading, double seconds) {
    double *alone = &s->write_seconds[n_writing];
    if (n_reading == 0) {
        *alone = *alone > 0 ? *alone + 0.125 * (seconds - *alone) : seconds;
        return;
    }
    double each = (seconds - (n_writing ? *alone : 0)) / (double)n_reading;
    if (n_writing == 0 || *alone <= 0 || each <= 0)
        return; /* a large batch costs less per token than a small share beside texts */
    s->prompt_seconds =
        s->prompt_seconds > 0 ? s->prompt_seconds + 0.25 * (each - s->prompt_seconds) : each;
}

/* What the logits of its rows mean to a job; false when it is over. */
static bool take_rows(bl__scheduler *s, bl__job *job) {
    size_t first = job->n_done;
    bool was_reading = is_reading(job);
    job->n_done += job->n_share;
    if (was_reading && job->score_prompt) {
        if (first == 0 && job->n_share > 0 && !bl__job_score(job, 0, NULL, s->vocab))
            return false;
        /* The logits after token i score token i + 1. */
        for (size_t i = first; i < job->n_done && i + 1 < job->n_prompt; i++)
            if (!bl__job_score(job, i + 1, s->logits + (job->row + i - first) * s->vocab, s->vocab))
                return false;
    }
    if (is_reading(job) || job->row == SIZE_MAX)
        return true;
    size_t row = was_reading && job->score_prompt ? job->row + job->n_share - 1 : job->row;
    job->token = -1;
    if (bl_sequence_n_past(s->session, job->sequence) == bl_session_n_ctx(s->session) &&
        !job->only_prompt) {
        job->end.outcome = BL_JOB_FINISHED;
        job->end.reason = BL_STOP_CONTEXT;
        return false;
    }
    return bl__job_draw(job, s->logits + row * s->vocab, s->vocab);
}

/* Hands rows to jobs and counts; those that are over leave. */
static void take_step(bl__scheduler *s, double start, double end) {
    for (size_t i = 0; i < s->n_active;) {
        bl__job *job = s->active[i];
        bool was_first = job->first_drawn <= 0;
        size_t n_before = job->end.n_generated;
        bool goes_on = take_rows(s, job);
        pthread_mutex_lock(&s->mutex);
        s->figures.n_prompt += job->n_share;
        s->figures.n_generated += job->end.n_generated - n_before;
        if (job->end.n_generated > n_before && was_first)
            count_time(&s->figures.first_token, end - job->submitted);
        else if (job->end.n_generated > n_before)
            count_time(&s->figures.between_tokens, end - (s->last_step > 0 ? s->last_step : start));
        pthread_mutex_unlock(&s->mutex);
        if (goes_on)
            i++;
        else
            leave(s, i);
    }
}

/* Evaluates part of one prompt whose states are wanted. */
static void embed_some(bl__scheduler *s) {
    size_t i = 0;
    while (i < s->n_active && !s->active[i]->pool)
        i++;
    if (i == s->n_active)
        return;
    bl__job *job = s->active[i];
    size_t n = bl__min_size(MAX_EMBEDDED, job->n_prompt - job->n_done);
    bl_status status;
    do {
        status = bl_sequence_embed(s->session, job->sequence, job->prompt + job->n_done, n,
                                   s->states, &job->end.error);
    } while (status == BL_ERR_CONTEXT_FULL && bl__prefixes_evict(&s->prefixes));
    if (status != BL_OK) {
        job->end.outcome = BL_JOB_FAILED;
        leave(s, i);
        return;
    }
    job->n_done += n;
    if (job->pool == BL_POOL_LAST)
        memcpy(job->embedding, s->states + (n - 1) * s->dim, s->dim * sizeof *s->states);
    for (size_t t = 0; t < n && job->pool == BL_POOL_MEAN; t++)
        for (size_t d = 0; d < s->dim; d++)
            job->embedding[d] += s->states[t * s->dim + d] / (float)job->n_prompt;
    pthread_mutex_lock(&s->mutex);
    s->figures.n_prompt += n;
    pthread_mutex_unlock(&s->mutex);
    if (!is_reading(job)) {
        job->end.outcome = BL_JOB_FINISHED;
        leave(s, i);
    }
}

/* Gives every job what its tokens of this step took. */
static void share_energy(bl__scheduler *s) {
    double joules = s->joules;
    if (!s->read_joules || !s->read_joules(s->read_joules_user, &joules))
        return;
    double each = (joules - s->joules) / (double)s->n_items;
    for (size_t i = 0; i < s->n_active; i++) {
        bl__job *job = s->active[i];
        job->end.joules += each * (double)(job->token >= 0 ? 1 : job->n_share);
    }
    s->joules = joules;
}

static void step(bl__scheduler *s) {
    size_t n_writing;
    bl_error err = {0};
    embed_some(s);
    size_t n_reading = compose(s, &n_writing);
    if (s->n_items == 0)
        return;
    if (s->read_joules && s->last_step <= 0)
        s->read_joules(s->read_joules_user, &s->joules);
    double start = bl__seconds_now();
    bl_status status;
    do { /* what is kept goes when the room is needed */
        status =
            bl_session_eval_best(s->session, s->items, s->n_items, s->reaches, s->logits, &err);
    } while (status == BL_ERR_CONTEXT_FULL && bl__prefixes_evict(&s->prefixes));
    double end = bl__seconds_now();
    if (status != BL_OK) {
        fail_all(s, &err);
        return;
    }
    learn(s, n_writing, n_reading, end - start);
    share_energy(s);
    pthread_mutex_lock(&s->mutex);
    s->figures.n_steps++;
    s->figures.n_rows += s->n_items;
    s->figures.busy_seconds += end - start;
    bl_cache_pages pages = bl_session_cache_pages(s->session);
    s->figures.n_held = (pages.n_pages - pages.n_free) * pages.page_tokens;
    s->figures.n_room = pages.n_pages * pages.page_tokens;
    pthread_mutex_unlock(&s->mutex);
    take_step(s, start, end);
    s->last_step = end;
}

/* Ends those of the active jobs that are cancelled or late. */
static void sweep_active(bl__scheduler *s, bool stopping) {
    double now = bl__seconds_now();
    for (size_t i = 0; i < s->n_active;) {
        bl__job_outcome outcome;
        if (is_over(s->active[i], stopping, now, &outcome)) {
            s->active[i]->end.outcome = outcome;
            leave(s, i);
        } else {
            i++;
        }
    }
}

static void *run(void *user) {
    bl__scheduler *s = user;
    for (;;) {
        bl__job *over;
        pthread_mutex_lock(&s->mutex);
        while (!s->queue && s->n_active == 0 && !s->stopping) {
            s->last_step = 0;
            pthread_cond_wait(&s->changed, &s->mutex);
        }
        bool stopping = s->stopping;
        sweep_queue(s, bl__seconds_now(), &over);
        pthread_mutex_unlock(&s->mutex);
        while (over) {
            bl__job *job = over;
            over = job->next;
            end_job(s, job);
        }
        sweep_active(s, stopping);
        if (stopping)
            return NULL;
        pthread_mutex_lock(&s->mutex);
        admit(s, bl__seconds_now());
        pthread_mutex_unlock(&s->mutex);
        step(s);
    }
}

/* ---- from outside ---- */

static bl_status allocate(bl__scheduler *s, bl_error *err) {
    size_t n_sequences = s->prefixes.n, n_logits = 0;
    s->active = bl__malloc_array(s->n_parallel, sizeof *s->active);
    s->items = bl__malloc_array(s->n_batch + s->n_parallel, sizeof *s->items);
    if (bl__mul_size(s->n_parallel + MAX_SCORED, s->vocab, &n_logits))
        s->logits = bl__malloc_array(n_logits, sizeof *s->logits);
    s->reaches = bl__malloc_array(s->n_parallel + MAX_SCORED, sizeof *s->reaches);
    s->states = bl__malloc_array((size_t)MAX_EMBEDDED * s->dim, sizeof *s->states);
    s->write_seconds = bl__calloc(s->n_parallel + 1, sizeof *s->write_seconds);
    s->prefixes.places = bl__calloc(n_sequences, sizeof *s->prefixes.places);
    if (!s->active || !s->items || !s->reaches || !s->logits || !s->states || !s->write_seconds ||
        !s->prefixes.places)
        return bl__fail(err, BL_ERR_MEMORY, "no memory for %u texts at the same time",
                        s->n_parallel);
    return BL_OK;
}

bl_status bl__scheduler_create(const bl_model *model, const bl_tokenizer *tokenizer,
                               const bl__scheduler_params *params, bl__scheduler **out,
                               bl_error *err) {
    uint32_t n_parallel = params->n_parallel ? params->n_parallel : DEFAULT_PARALLEL;
    uint32_t n_kept = params->n_kept ? params->n_kept : DEFAULT_KEPT;
    bl_session_params session = params->session;
    if (n_parallel > BL_MAX_SEQUENCES || n_kept > BL_MAX_SEQUENCES - n_parallel)
        return bl__fail(err, BL_ERR_ARGUMENT, "%u texts and %u more kept, expected at most %d",
                        n_parallel, n_kept, BL_MAX_SEQUENCES);
    bl__scheduler *s = bl__calloc(1, sizeof *s);
    if (!s)
        return bl__fail(err, BL_ERR_MEMORY, "no memory for a scheduler");
    const bl_model_info *info = bl_model_get_info(model);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->tokenizer = tokenizer;
    s->vocab = info->vocab;
    s->dim = info->dim;
    s->n_parallel = n_parallel;
    s->read_joules = params->read_joules;
    s->read_joules_user = params->read_joules_user;
    s->max_queued = params->max_queued ? params->max_queued : DEFAULT_QUEUED;
    s->max_gap = params->max_gap > 1 ? params->max_gap : DEFAULT_GAP;
    s->n_batch = session.n_batch ? session.n_batch : DEFAULT_BATCH;
    s->prefixes.n = session.n_sequences = n_parallel + n_kept;
    session.n_batch = (uint32_t)(s->n_batch + n_parallel);
    if (!session.n_ctx)
        session.n_ctx = info->context_length < DEFAULT_CTX ? info->context_length : DEFAULT_CTX;
    if (session.cache_tokens == 0)
        session.cache_tokens = (size_t)n_parallel * session.n_ctx;
    else if (session.cache_tokens < session.n_ctx)
        session.cache_tokens = session.n_ctx;
    bl_status status = allocate(s, err);
    if (status == BL_OK)
        status = bl_session_create(model, &session, &s->session, err);
    s->prefixes.session = s->session;
    if (status == BL_OK && pthread_create(&s->thread, NULL, run, s) != 0)
        status = bl__fail(err, BL_ERR_MEMORY, "cannot start a thread");
    if (status != BL_OK) {
        bl__scheduler_free(s);
        return status;
    }
    s->has_thread = true;
    *out = s;
    return BL_OK;
}

void bl__scheduler_free(bl__scheduler *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->mutex);
    s->stopping = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    if (s->has_thread)
        pthread_join(s->thread, NULL);
    bl_session_free(s->session);
    bl__free(s->active);
    bl__free(s->items);
    bl__free(s->logits);
    bl__free(s->reaches);
    bl__free(s->states);
    bl__free(s->write_seconds);
    bl__free(s->prefixes.places);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    bl__free(s);
}

/* Whether the queue takes another job of a client. One that has none in it finds room when others
 * fill it, up to twice its length. Mutex held. */
static bool takes_one_more(const bl__scheduler *s, uint64_t client) {
    if (s->figures.n_queued < s->max_queued)
        return true;
    for (const bl__job *job = s->queue; job; job = job->next)
        if (job->client == client)
            return false;
    return s->figures.n_queued / 2 < s->max_queued;
}

/* Puts a job at the end of the queue. */
static bl_status enqueue(bl__scheduler *s, bl__job *job, bool is_part, bool *full, bl_error *err) {
    bl_status status = BL_OK;
    pthread_mutex_lock(&s->mutex);
    if (s->stopping) {
        status = bl__fail(err, BL_ERR_CANCELLED, "the server is stopping");
    } else if (!is_part && !takes_one_more(s, job->client)) {
        *full = true;
        s->figures.n_refused++;
        status = bl__fail(err, BL_ERR_LIMIT, "%zu requests wait already; try again later",
                          s->figures.n_queued);
    } else {
        bl__job **end = &s->queue;
        while (*end)
            end = &(*end)->next;
        *end = job;
        s->figures.n_queued++;
        s->figures.n_jobs++;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->mutex);
    return status;
}

bl_status bl__scheduler_submit(bl__scheduler *s, const bl__job_params *params, bl__job **out,
                               bool *full, bl_error *err) {
    size_t n_ctx = bl_session_n_ctx(s->session);
    size_t n_most = params->only_prompt || params->pool ? n_ctx : n_ctx - 1;
    bl__job *job = NULL;
    *full = false;
    if (params->n_prompt > n_most)
        return bl__fail(err, BL_ERR_CONTEXT_FULL,
                        "the prompt has %zu tokens, the context holds %zu%s", params->n_prompt,
                        n_ctx, n_most < n_ctx ? " with at least one to write" : "");
    bl_status status = bl__job_create(params, s->tokenizer, s->vocab, s->dim, &job, err);
    if (status != BL_OK)
        return status;
    if (out)
        atomic_fetch_add(&job->n_owners, 1);
    status = enqueue(s, job, params->is_part, full, err);
    if (status != BL_OK) {
        if (out)
            bl__job_release(job);
        bl__job_release(job);
        return status;
    }
    if (out)
        *out = job;
    return BL_OK;
}

void bl__scheduler_cancel(bl__scheduler *s, bl__job *job) {
    atomic_store(&job->cancelled, true);
    pthread_mutex_lock(&s->mutex);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

size_t bl__scheduler_n_ctx(const bl__scheduler *s) {
    return bl_session_n_ctx(s->session);
}

size_t bl__scheduler_bytes(const bl__scheduler *s) {
    return bl_session_bytes(s->session);
}

void bl__scheduler_get_figures(bl__scheduler *s, bl__scheduler_figures *out) {
    pthread_mutex_lock(&s->mutex);
    *out = s->figures;
    pthread_mutex_unlock(&s->mutex);
}
