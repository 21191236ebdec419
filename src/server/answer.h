/* What the jobs of one request give, on its way from the scheduler's thread to the client.
 *
 * The scheduler must never wait: its sinks leave records in a bounded buffer here. Whoever answers
 * the request takes them, on another thread, and makes JSON of them. A client that takes too
 * little loses its answer; nobody else notices. */
#ifndef BL_SERVER_ANSWER_H
#define BL_SERVER_ANSWER_H

#include "generate/scheduler.h"
#include "server/models.h"
#include "server/router.h"

typedef struct bl__answer bl__answer;

/* What an endpoint makes of its jobs' pieces; called on one thread at a time, in order. */
typedef struct bl__taker {
    void (*piece)(void *user, size_t choice, const bl__piece *piece);
    void (*end)(void *user, size_t choice, const bl__job_end *end);
    /* All choices have ended. response: NULL in a stream, whose last bytes go to `out`. */
    void (*finish)(void *user, bl__response *response);
    void (*free)(void *user);
    void *user;
    bl__buffer *out;  /* in a stream: where piece, end and finish leave bytes; else NULL */
    bool every_token; /* pieces without text are wanted, too */
} bl__taker;

/* Holds served, which it releases in the end, and taker.user, which it frees in the end; both also
 * on failure, which fills the response and gives NULL. */
bl__answer *bl__answer_create(bl__models *models, bl__served *served, bl__request *request,
                              size_t n_choices, const bl__taker *taker, bl__response *response);
/* Submits the next choice's job; params->sink is set here. false, with the response filled, when
 * it cannot be; then call bl__answer_abandon(). */
bool bl__answer_submit(bl__answer *answer, bl__job_params *params, bl__response *response);
/* All are submitted: the response becomes a stream of `out`, or is given later. */
void bl__answer_respond(bl__answer *answer, bl__response *response);
/* Instead: cancels what was submitted. */
void bl__answer_abandon(bl__answer *answer);

#endif
