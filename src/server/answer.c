/* Owns records between two threads. Must not know what endpoints make of them.
 *
 * An answer has one owner for the request and one for each job; the last one frees it. */
#include "server/answer.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"

enum {
    MAX_STREAM_RECORDS = 1 << 20, /* bytes that a client may be behind */
    MAX_RECORDS = 1 << 27         /* of an answer that is given whole */
};

typedef struct choice {
    bl__answer *answer;
    bl__job *job;
    bool ended;       /* as the scheduler knows ... */
    bool seen, told;  /* ... as was seen when records were taken, and as the taker knows */
    bl__job_end end;  /* its embedding is kept below */
    float *embedding; /* float[dim]; NULL without one */
} choice;

/* Before the text and the log-probabilities of a piece. */
typedef struct record {
    size_t choice, len, n_logprobs;
    bl_token token;
    bool in_prompt, is_end;
} record;

struct bl__answer {
    pthread_mutex_t mutex; /* of what follows */
    size_t n_owners;
    bl__request *request; /* NULL once nobody listens */
    bl__buffer records;
    size_t n_ended;
    bool overflowed;
    /* The request's. */
    bl__models *models;
    bl__served *served;
    bl__taker taker;
    bl__usage *usage; /* of the response */
    size_t dim;
    bl__buffer taken; /* records that are being read */
    size_t read;      /* bytes of `taken` */
    size_t sent;      /* bytes of *taker.out that the client has */
    bool finished;
    size_t n_choices, n_submitted;
    choice choices[];
};

static void release(bl__answer *a) {
    pthread_mutex_lock(&a->mutex);
    bool last = --a->n_owners == 0;
    pthread_mutex_unlock(&a->mutex);
    if (!last)
        return;
    for (size_t i = 0; i < a->n_choices; i++)
        bl__free(a->choices[i].embedding);
    bl__buffer_free(&a->records);
    bl__buffer_free(&a->taken);
    pthread_mutex_destroy(&a->mutex);
    bl__free(a);
}

/* ---- the scheduler's side ---- */

static bool put_piece(void *user, const bl__piece *p) {
    choice *c = user;
    bl__answer *a = c->answer;
    if (p->len == 0 && p->n_logprobs == 0 && !p->in_prompt && !a->taker.every_token)
        return true;
    const record r = {.choice = (size_t)(c - a->choices),
                      .len = p->len,
                      .n_logprobs = p->n_logprobs,
                      .token = p->token,
                      .in_prompt = p->in_prompt};
    pthread_mutex_lock(&a->mutex);
    size_t bytes = sizeof r + p->len + p->n_logprobs * sizeof *p->logprobs;
    bool ok = bl__buffer_reserve(&a->records, bytes);
    if (ok) {
        bl__buffer_append(&a->records, &r, sizeof r);
        bl__buffer_append(&a->records, p->logprobs, p->n_logprobs * sizeof *p->logprobs);
        bl__buffer_append(&a->records, p->text, p->len);
    }
    a->overflowed = a->overflowed || !ok;
    if (a->request && a->taker.out)
        bl__request_wake(a->request);
    pthread_mutex_unlock(&a->mutex);
    return ok;
}

static void put_end(void *user, const bl__job_end *end) {
    choice *c = user;
    bl__answer *a = c->answer;
    pthread_mutex_lock(&a->mutex);
    c->end = *end;
    if (end->embedding && c->embedding)
        memcpy(c->embedding, end->embedding, a->dim * sizeof *c->embedding);
    c->end.embedding = c->embedding;
    c->ended = true;
    a->n_ended++;
    if (a->request && (a->taker.out || a->n_ended == a->n_choices))
        bl__request_wake(a->request);
    pthread_mutex_unlock(&a->mutex);
    release(a);
}

/* ---- the request's side ---- */

/* Hands the records of a->taken to the taker. */
static void read_records(bl__answer *a) {
    while (a->read < a->taken.len) {
        bl__logprob logprobs[BL_MAX_TOP_LOGPROBS + 1];
        record r;
        memcpy(&r, a->taken.data + a->read, sizeof r);
        a->read += sizeof r;
        memcpy(logprobs, a->taken.data + a->read, r.n_logprobs * sizeof *logprobs);
        a->read += r.n_logprobs * sizeof *logprobs;
        const bl__piece piece = {.text = a->taken.data + a->read,
                                 .len = r.len,
                                 .token = r.token,
                                 .logprobs = logprobs,
                                 .n_logprobs = r.n_logprobs,
                                 .in_prompt = r.in_prompt};
        a->read += r.len;
        a->taker.piece(a->taker.user, r.choice, &piece);
    }
    a->taken.len = a->read = 0;
}

/* Takes what is there; false when some of it was lost. */
static bool take(bl__answer *a) {
    pthread_mutex_lock(&a->mutex);
    bl__buffer records = a->records;
    a->records = a->taken;
    a->records.max = records.max;
    a->taken = records;
    bool all = a->n_ended == a->n_choices, lost = a->overflowed;
    for (size_t i = 0; i < a->n_choices; i++)
        a->choices[i].seen = a->choices[i].ended;
    pthread_mutex_unlock(&a->mutex);
    read_records(a);
    for (size_t i = 0; i < a->n_choices; i++) {
        choice *c = &a->choices[i];
        if (!c->seen || c->told)
            continue;
        c->told = true;
        a->usage->n_prompt += c->end.n_prompt;
        a->usage->n_cached += c->end.n_cached;
        a->usage->n_generated += c->end.n_generated;
        a->taker.end(a->taker.user, i, &c->end);
    }
    a->finished = all;
    return !lost;
}

static long pull(void *user, char *out, size_t max) {
    bl__answer *a = user;
    bl__buffer *bytes = a->taker.out;
    if (a->sent == bytes->len) {
        bytes->len = a->sent = 0;
        if (a->finished)
            return BL_SOURCE_END;
        if (!take(a) || bytes->failed)
            return BL_SOURCE_BROKEN;
        if (a->finished)
            a->taker.finish(a->taker.user, NULL);
    }
    size_t n = bytes->len - a->sent < max ? bytes->len - a->sent : max;
    if (n > 0)
        memcpy(out, bytes->data + a->sent, n);
    a->sent += n;
    return n == 0 && a->finished ? BL_SOURCE_END : (long)n;
}

/* Not before every choice has ended. */
static void answer_later(void *user, bl__request *request, bl__response *response) {
    bl__answer *a = user;
    (void)request;
    bool whole = take(a);
    if (!a->finished) {
        response->later = answer_later;
        response->later_user = a;
    } else if (!whole) {
        bl__respond_error(response, 500, "server_error", NULL, NULL, "the answer is too long");
    } else {
        a->taker.finish(a->taker.user, response);
    }
}

static void cancel(void *user) {
    bl__answer *a = user;
    for (size_t i = 0; i < a->n_submitted; i++) {
        pthread_mutex_lock(&a->mutex);
        bool under_way = !a->choices[i].ended;
        pthread_mutex_unlock(&a->mutex);
        if (under_way)
            bl__scheduler_cancel(a->served->scheduler, a->choices[i].job);
    }
}

static void close_answer(void *user) {
    bl__answer *a = user;
    pthread_mutex_lock(&a->mutex);
    a->request = NULL;
    pthread_mutex_unlock(&a->mutex);
    cancel(a);
    for (size_t i = 0; i < a->n_submitted; i++)
        bl__job_release(a->choices[i].job);
    bl__models_release(a->models, a->served);
    a->taker.free(a->taker.user);
    release(a);
}

bl__answer *bl__answer_create(bl__models *models, bl__served *served, bl__request *request,
                              size_t n_choices, const bl__taker *taker, bl__response *response) {
    bl__answer *a = bl__calloc(1, sizeof *a + n_choices * sizeof *a->choices);
    if (!a) {
        bl__models_release(models, served);
        taker->free(taker->user);
        bl__respond_json(response, 500, NULL);
        return NULL;
    }
    pthread_mutex_init(&a->mutex, NULL);
    a->n_owners = 1;
    a->request = request;
    a->models = models;
    a->served = served;
    a->taker = *taker;
    a->usage = &response->usage;
    a->dim = bl_model_get_info(served->model)->dim;
    a->n_choices = n_choices;
    a->records = bl__buffer_make(taker->out ? MAX_STREAM_RECORDS : MAX_RECORDS);
    a->taken = bl__buffer_make(MAX_RECORDS);
    for (size_t i = 0; i < n_choices; i++)
        a->choices[i].answer = a;
    return a;
}

bool bl__answer_submit(bl__answer *a, bl__job_params *params, bl__response *response) {
    choice *c = &a->choices[a->n_submitted];
    bl_error err = {0};
    bool full = false;
    if (params->pool && !(c->embedding = bl__calloc(a->dim, sizeof *c->embedding))) {
        bl__respond_json(response, 500, NULL);
        return false;
    }
    params->is_part = a->n_submitted > 0;
    params->sink = (bl__job_sink){.piece = put_piece, .end = put_end, .user = c};
    pthread_mutex_lock(&a->mutex);
    a->n_owners++;
    pthread_mutex_unlock(&a->mutex);
    if (bl__scheduler_submit(a->served->scheduler, params, &c->job, &full, &err) == BL_OK) {
        a->n_submitted++;
        return true;
    }
    release(a);
    if (full) {
        bl__respond_error(response, 429, "rate_limit_error", NULL, "queue_full", "%s", err.message);
        bl__response_header(response, "Retry-After", "1");
    } else {
        bl__respond_failure(response, &err, NULL);
    }
    return false;
}

void bl__answer_respond(bl__answer *a, bl__response *response) {
    bl__source source = {.cancel = cancel, .close = close_answer, .user = a};
    if (a->taker.out) {
        source.pull = pull;
        bl__respond_stream(response, "text/event-stream; charset=utf-8", source);
    } else {
        bl__respond_later(response, answer_later, source);
    }
}

void bl__answer_abandon(bl__answer *a) {
    close_answer(a);
}
