/* Many texts at once: whatever runs beside a job, it gets the text that it gets alone; jobs that
 * are cancelled, late or too many leave the others as they are; what prompts share is computed
 * once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <math.h>

#include <cmocka.h>
#include <pthread.h>
#include <time.h>

#include "base/alloc.h"
#include "generate/scheduler.h"
#include "tiny_model.h"

enum { N_CTX = 200, MAX_TOKENS = 256 };

static char path[256];
static bl_model *model;
static bl_tokenizer *tokenizer;

/* What a job gave. */
typedef struct heard {
    pthread_mutex_t mutex;
    pthread_cond_t ended_cond;
    bl_token tokens[MAX_TOKENS];
    float logprobs[MAX_TOKENS];
    size_t n, refuse_at; /* refuse_at > 0: the piece from which on nothing is taken */
    bool ended, holds;   /* holds: the scheduler is kept waiting */
    bl__job_end end;
} heard;

static bool take_piece(void *user, const bl__piece *piece) {
    heard *h = user;
    pthread_mutex_lock(&h->mutex);
    if (piece->token >= 0 && h->n < MAX_TOKENS) {
        h->logprobs[h->n] = piece->n_logprobs ? piece->logprobs[0].logprob : 0;
        h->tokens[h->n++] = piece->token;
    }
    while (h->holds)
        pthread_cond_wait(&h->ended_cond, &h->mutex);
    bool ok = h->refuse_at == 0 || h->n < h->refuse_at;
    pthread_mutex_unlock(&h->mutex);
    return ok;
}

static void take_end(void *user, const bl__job_end *end) {
    heard *h = user;
    pthread_mutex_lock(&h->mutex);
    h->end = *end;
    h->ended = true;
    pthread_cond_signal(&h->ended_cond);
    pthread_mutex_unlock(&h->mutex);
}

static void heard_init(heard *h) {
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->ended_cond, NULL);
}

static void wait_for(heard *h) {
    pthread_mutex_lock(&h->mutex);
    while (!h->ended)
        pthread_cond_wait(&h->ended_cond, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

static size_t n_heard(heard *h) {
    pthread_mutex_lock(&h->mutex);
    size_t n = h->n;
    pthread_mutex_unlock(&h->mutex);
    return n;
}

static bl__scheduler *start(uint32_t n_parallel, uint32_t max_queued) {
    bl__scheduler *s = NULL;
    bl_error err = {0};
    const bl__scheduler_params params = {
        .n_parallel = n_parallel,
        .n_kept = 4,
        .max_queued = max_queued,
        .session = {.n_ctx = N_CTX,
                    .n_threads = 1, /* alone whole heads, together screened ones */
                    .head = n_parallel == 1 ? BL_HEAD_FULL : BL_HEAD_SCREENED,
                    .n_batch = 32}};
    if (bl__scheduler_create(model, tokenizer, &params, &s, &err))
        fail_msg("%s", err.message);
    return s;
}

/* Job number i of a family: its own prompt, lengths and seed. */
static bl__job_params make_job(size_t i, bl_token *prompt, heard *h) {
    bl__job_params p = {.prompt = prompt,
                        .n_prompt = 3 + i * 17 % 90,
                        .sampling = bl_sampler_default_params(),
                        .max_tokens = 5 + i * 7 % 60,
                        .ignore_end = true,
                        .logprobs = i % 3 == 0,
                        .n_top = 2,
                        .sink = {take_piece, take_end, h}};
    uint32_t vocab = bl_model_get_info(model)->vocab;
    p.sampling.seed = i;
    p.sampling.temperature = i % 4 == 0 ? 0.0f : 1.0f;
    p.sampling.frequency_penalty = i % 5 == 0 ? 0.5f : 0.0f;
    for (size_t t = 0; t < p.n_prompt; t++) /* some begin alike */
        prompt[t] = (bl_token)((t < 40 ? t * 31 + i % 2 : t * 13 + i) % vocab);
    return p;
}

static void submit(bl__scheduler *s, const bl__job_params *params, bl__job **job) {
    bool full;
    bl_error err = {0};
    if (bl__scheduler_submit(s, params, job, &full, &err))
        fail_msg("%s", err.message);
}

enum { N_JOBS = 24 };

static void test_same_alone_and_together(void **state) {
    (void)state;
    static heard alone[N_JOBS], together[N_JOBS];
    static bl_token prompt[N_CTX];
    for (size_t i = 0; i < N_JOBS; i++) {
        bl__scheduler *s = start(1, 0); /* a fresh one: nothing is shared */
        heard_init(&alone[i]);
        bl__job_params p = make_job(i, prompt, &alone[i]);
        submit(s, &p, NULL);
        wait_for(&alone[i]);
        assert_int_equal(alone[i].end.outcome, BL_JOB_FINISHED);
        assert_int_equal(alone[i].end.reason, BL_STOP_LENGTH);
        assert_int_equal(alone[i].end.n_cached, 0);
        bl__scheduler_free(s);
    }
    bl__scheduler *s = start(5, 0);
    for (size_t i = 0; i < N_JOBS; i++) {
        heard_init(&together[i]);
        bl__job_params p = make_job(i, prompt, &together[i]);
        submit(s, &p, NULL);
    }
    size_t n_cached = 0;
    for (size_t i = 0; i < N_JOBS; i++) {
        wait_for(&together[i]);
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].tokens, alone[i].tokens, alone[i].n * sizeof(bl_token));
        assert_memory_equal(together[i].logprobs, alone[i].logprobs, alone[i].n * sizeof(float));
        n_cached += together[i].end.n_cached;
    }
    assert_true(n_cached > 0);
    bl__scheduler_figures figures;
    bl__scheduler_get_figures(s, &figures);
    assert_int_equal(figures.n_finished, N_JOBS);
    assert_int_equal(figures.n_queued, 0);
    assert_true(figures.n_rows > figures.n_steps);
    bl__scheduler_free(s);
}

/* With room for one text of the whole context jobs wait for each other, and get the same texts. */
static void test_little_room(void **state) {
    (void)state;
    static heard roomy[N_JOBS], tight[N_JOBS];
    static bl_token prompt[N_CTX];
    for (int round = 0; round < 2; round++) {
        bl__scheduler *s = NULL;
        const bl__scheduler_params params = {
            .n_parallel = 6,
            .n_kept = 6,
            .session = {.n_ctx = N_CTX, .n_threads = 1, .cache_tokens = round ? 1 : 0}};
        assert_int_equal(bl__scheduler_create(model, tokenizer, &params, &s, NULL), BL_OK);
        heard *all = round ? tight : roomy;
        for (size_t i = 0; i < N_JOBS; i++) {
            heard_init(&all[i]);
            bl__job_params p = make_job(i, prompt, &all[i]);
            if (i % 6 == 0)
                p.max_tokens = 0; /* until the context is full */
            submit(s, &p, NULL);
        }
        for (size_t i = 0; i < N_JOBS; i++)
            wait_for(&all[i]);
        bl__scheduler_figures figures;
        bl__scheduler_get_figures(s, &figures);
        assert_int_equal(figures.n_finished, N_JOBS);
        assert_true(figures.n_held <= figures.n_room);
        bl__scheduler_free(s);
    }
    for (size_t i = 0; i < N_JOBS; i++) {
        assert_int_equal(tight[i].n, roomy[i].n);
        assert_memory_equal(tight[i].tokens, roomy[i].tokens, roomy[i].n * sizeof(bl_token));
    }
}

static void test_shared_prompts(void **state) {
    (void)state;
    static bl_token prompt[N_CTX];
    bl__scheduler *s = start(4, 0);
    heard h[4];
    for (size_t t = 0; t < N_CTX; t++)
        prompt[t] = (bl_token)(t * 7 % bl_model_get_info(model)->vocab);
    /* Four at the same time: one of them computes what they share. */
    for (size_t i = 0; i < 4; i++) {
        heard_init(&h[i]);
        bl__job_params p = make_job(i, (bl_token[N_CTX]){0}, &h[i]);
        p.prompt = prompt;
        p.n_prompt = 100 + i;
        submit(s, &p, NULL);
    }
    size_t n_computed = 0;
    for (size_t i = 0; i < 4; i++) {
        wait_for(&h[i]);
        n_computed += h[i].end.n_prompt - h[i].end.n_cached;
    }
    assert_in_range(n_computed, 100, 200);
    /* And one that comes later; the last token is always evaluated. */
    heard later;
    heard_init(&later);
    bl__job_params p = make_job(9, (bl_token[N_CTX]){0}, &later);
    p.prompt = prompt;
    p.n_prompt = 100;
    submit(s, &p, NULL);
    wait_for(&later);
    assert_int_equal(later.end.n_cached, 99);
    bl__scheduler_free(s);
}

static void test_cancel_and_deadline(void **state) {
    (void)state;
    static bl_token prompt[N_CTX];
    bl__scheduler *s = start(2, 0);
    heard gone, refusing, late, waiting, fine;
    heard *all[] = {&gone, &refusing, &late, &waiting, &fine};
    bl__job *job = NULL, *queued = NULL;
    for (size_t i = 0; i < 5; i++)
        heard_init(all[i]);
    bl__job_params p = make_job(1, prompt, &gone);
    p.n_prompt = 5;
    p.max_tokens = 0;
    submit(s, &p, &job);
    refusing.refuse_at = 3;
    p.sink.user = &refusing;
    submit(s, &p, NULL);
    p.sink.user = &waiting;
    submit(s, &p, &queued);
    bl__scheduler_cancel(s, queued);
    bl__job_release(queued);
    while (n_heard(&gone) < 2)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    bl__scheduler_cancel(s, job);
    bl__job_release(job);
    p.sink.user = &late;
    p.seconds = 1e-9;
    submit(s, &p, NULL);
    p.sink.user = &fine;
    p.seconds = 0;
    p.max_tokens = 4;
    submit(s, &p, NULL);
    for (size_t i = 0; i < 5; i++)
        wait_for(all[i]);
    /* The context may have been full before the word came. */
    assert_true(gone.end.outcome == BL_JOB_CANCELLED || gone.end.reason == BL_STOP_CONTEXT);
    assert_int_equal(refusing.end.outcome, BL_JOB_CANCELLED);
    assert_int_equal(refusing.n, 3);
    assert_int_equal(late.end.outcome, BL_JOB_TIMED_OUT);
    assert_int_equal(fine.end.outcome, BL_JOB_FINISHED);
    assert_int_equal(fine.n, 4);
    bl__scheduler_free(s);
}

static void test_full_queue_and_stop(void **state) {
    (void)state;
    static bl_token prompt[N_CTX];
    bl__scheduler *s = start(1, 2);
    heard h[8];
    size_t n_taken = 0, n_full = 0;
    for (size_t i = 0; i < 8; i++) {
        bool full = false;
        heard_init(&h[n_taken]);
        h[n_taken].holds = i == 0; /* it keeps the scheduler until the queue has been seen full */
        bl__job_params p = make_job(1, prompt, &h[n_taken]);
        p.max_tokens = 0;
        p.client = i < 7 ? 1 : 2;
        bl_status status = bl__scheduler_submit(s, &p, NULL, &full, NULL);
        assert_true(status == BL_OK || (status == BL_ERR_LIMIT && full));
        n_taken += status == BL_OK;
        n_full += full;
        while (i == 0 && n_heard(&h[0]) == 0)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    /* One is written, two wait, and one more of a client that has none waiting. */
    assert_int_equal(n_taken, 4);
    assert_int_equal(n_full, 4);
    pthread_mutex_lock(&h[0].mutex);
    h[0].holds = false;
    pthread_cond_signal(&h[0].ended_cond);
    pthread_mutex_unlock(&h[0].mutex);
    bl__scheduler_free(s);
    for (size_t i = 0; i < n_taken; i++) {
        assert_true(h[i].ended);
        assert_true(h[i].end.outcome == BL_JOB_STOPPED || h[i].end.outcome == BL_JOB_FINISHED);
    }
}

static void test_scores_and_embeddings(void **state) {
    (void)state;
    static bl_token prompt[N_CTX];
    bl__scheduler *s = start(3, 0);
    uint32_t vocab = bl_model_get_info(model)->vocab, dim = bl_model_get_info(model)->dim;
    heard scored, embedded, both;
    heard_init(&scored);
    heard_init(&embedded);
    heard_init(&both);
    bl__job_params p = make_job(6, prompt, &scored);
    p.n_prompt = 70;
    p.only_prompt = p.score_prompt = p.logprobs = true;
    submit(s, &p, NULL);
    bl__job_params e = make_job(6, prompt, &embedded);
    e.n_prompt = 70;
    e.pool = BL_POOL_MEAN;
    submit(s, &e, NULL);
    wait_for(&scored);
    wait_for(&embedded);
    assert_int_equal(scored.n, 70);
    assert_memory_equal(scored.tokens, prompt, 70 * sizeof *prompt);
    assert_true(embedded.end.outcome == BL_JOB_FINISHED && embedded.end.embedding != NULL);
    /* The same scores from a session of its own. */
    bl_session *session = NULL;
    assert_int_equal(bl_session_create(model, &(bl_session_params){.n_ctx = N_CTX, .n_threads = 1},
                                       &session, NULL),
                     BL_OK);
    float *logits = malloc((size_t)70 * vocab * sizeof *logits);
    assert_int_equal(bl_session_eval(session, prompt, 70, logits, NULL), BL_OK);
    for (size_t t = 1; t < 70; t++) {
        double sum = 0, highest = -1e30;
        const float *row = logits + (t - 1) * vocab;
        for (size_t v = 0; v < vocab; v++)
            highest = (double)row[v] > highest ? (double)row[v] : highest;
        for (size_t v = 0; v < vocab; v++)
            sum += exp((double)row[v] - highest);
        double want = (double)row[prompt[t]] - highest - log(sum);
        assert_true(fabs(want - (double)scored.logprobs[t]) < 1e-4);
    }
    (void)dim;
    free(logits);
    bl_session_free(session);
    bl__scheduler_free(s);
}

static void test_refusals_and_memory(void **state) {
    (void)state;
    static bl_token prompt[N_CTX + 1];
    bl__scheduler *s = start(2, 0);
    heard h;
    bool full;
    bl__job_params p = make_job(1, prompt, &h);
    p.n_prompt = N_CTX;
    assert_int_equal(bl__scheduler_submit(s, &p, NULL, &full, NULL), BL_ERR_CONTEXT_FULL);
    p.n_prompt = 0;
    assert_int_equal(bl__scheduler_submit(s, &p, NULL, &full, NULL), BL_ERR_ARGUMENT);
    p.n_prompt = 2;
    prompt[1] = (bl_token)bl_model_get_info(model)->vocab;
    assert_int_equal(bl__scheduler_submit(s, &p, NULL, &full, NULL), BL_ERR_ARGUMENT);
    prompt[1] = 1;
    p.sampling.top_p = 2;
    assert_int_equal(bl__scheduler_submit(s, &p, NULL, &full, NULL), BL_ERR_ARGUMENT);
    p.sampling.top_p = 1;
    const bl__logit_bias bias = {-1, 0};
    p.biases = &bias;
    p.n_biases = 1;
    assert_int_equal(bl__scheduler_submit(s, &p, NULL, &full, NULL), BL_ERR_ARGUMENT);
    p.n_biases = 0;
    p.max_tokens = 1;
    p.sampling.frequency_penalty = 1;
    for (long n = 1;; n++) {
        heard_init(&h);
        bl__alloc_fail_at(n);
        bl_status status = bl__scheduler_submit(s, &p, NULL, &full, NULL);
        if (status == BL_OK)
            wait_for(&h);
        bl__alloc_fail_at(0);
        if (status == BL_OK && h.end.outcome == BL_JOB_FINISHED)
            break;
        assert_true(status == BL_ERR_MEMORY || h.end.outcome == BL_JOB_FAILED);
    }
    bl__scheduler_free(s);
    for (long n = 1;; n++) {
        const bl__scheduler_params params = {.session = {.n_ctx = 8, .n_threads = 1}};
        bl__alloc_fail_at(n);
        bl_status status = bl__scheduler_create(model, tokenizer, &params, &s, NULL);
        bl__alloc_fail_at(0);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
    }
    bl__scheduler_free(s);
}

/* A forbidden token never comes, a wanted one always does. */
static void test_biases(void **state) {
    (void)state;
    static bl_token prompt[N_CTX];
    bl__scheduler *s = start(1, 0);
    heard h;
    heard_init(&h);
    bl__job_params p = make_job(2, prompt, &h);
    const bl__logit_bias biases[] = {{7, 100}, {8, -INFINITY}};
    p.biases = biases;
    p.n_biases = 2;
    p.max_tokens = 10;
    submit(s, &p, NULL);
    wait_for(&h);
    assert_int_equal(h.n, 10);
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(h.tokens[i], 7);
    bl__scheduler_free(s);
}

static int set_up(void **state) {
    (void)state;
    bl_error err = {0};
    const char *name = BITLOOM_MODELS "/novels-6m.gguf";
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/scheduler-%d.gguf", folder ? folder : "/tmp", (int)getpid());
    bl_tokenizer *t = NULL;
    if (bl_tokenizer_open(name, &t, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    tokenizer = t;
    tiny_model tiny = tiny_model_default();
    tiny.vocab = (uint32_t)bl_tokenizer_vocab_size(t);
    tiny.context = N_CTX;
    tiny_model_write(&tiny, 3, path);
    if (bl_model_open(path, &(bl_model_params){.n_threads = 1}, &model, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    bl_model_close(model);
    bl_tokenizer_close(tokenizer);
    unlink(path);
    return 0;
}

/* A joule passes between any two readings. */
static bool read_clockwork(void *user, double *joules) {
    *joules = ++*(double *)user;
    return true;
}

/* Every step's energy goes to its jobs, and nothing of the pauses. */
static void test_energy_is_shared(void **state) {
    (void)state;
    static heard heards[6];
    static bl_token prompt[N_CTX];
    double clockwork = 0, sum = 0;
    bl__scheduler *s = NULL;
    bl_error err;
    bl__scheduler_figures figures;
    const bl__scheduler_params params = {.n_parallel = 3,
                                         .session = {.n_ctx = N_CTX, .n_threads = 1, .n_batch = 32},
                                         .read_joules = read_clockwork,
                                         .read_joules_user = &clockwork};
    assert_int_equal(bl__scheduler_create(model, tokenizer, &params, &s, &err), BL_OK);
    for (size_t i = 0; i < 6; i++) {
        heard_init(&heards[i]);
        bl__job_params p = make_job(i, prompt, &heards[i]);
        submit(s, &p, NULL);
        if (i == 3) /* a pause, or not, as it comes */
            for (size_t k = 0; k <= i; k++)
                wait_for(&heards[k]);
    }
    for (size_t i = 0; i < 6; i++) {
        wait_for(&heards[i]);
        assert_true(heards[i].end.joules > 0);
        sum += heards[i].end.joules;
    }
    bl__scheduler_get_figures(s, &figures);
    assert_true(fabs(sum - (double)figures.n_steps) < 1e-6);
    bl__scheduler_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_alone_and_together),
        cmocka_unit_test(test_little_room),
        cmocka_unit_test(test_shared_prompts),
        cmocka_unit_test(test_cancel_and_deadline),
        cmocka_unit_test(test_full_queue_and_stop),
        cmocka_unit_test(test_scores_and_embeddings),
        cmocka_unit_test(test_refusals_and_memory),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_energy_is_shared),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
