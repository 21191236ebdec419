/* One text to be generated for the scheduler: its prompt, sampler, stop rules and text so far.
 * Knows nothing of sessions and of other jobs. */
#ifndef BL_GENERATE_JOB_H
#define BL_GENERATE_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "bitloom/grammar.h"
#include "bitloom/generate.h"
#include "bitloom/sampler.h"
#include "bitloom/tokenizer.h"
#include "generate/stop.h"

enum { BL_MAX_TOP_LOGPROBS = 20, BL_MAX_LOGIT_BIASES = 4096 };

typedef struct bl__logprob {
    bl_token token;
    float logprob; /* natural logarithm, of the model's own distribution */
} bl__logprob;

typedef struct bl__logit_bias {
    bl_token token;
    float bias; /* added to the logit; -INFINITY forbids the token */
} bl__logit_bias;

/* A grammar that several jobs keep to; freed with the last of its owners. */
typedef struct bl__constraint bl__constraint;
/* Takes the grammar over, also on failure (no memory: NULL). The caller owns one share. */
bl__constraint *bl__constraint_create(bl_grammar *grammar);
void bl__constraint_release(bl__constraint *constraint); /* NULL is accepted */

/* What one step adds to a text. */
typedef struct bl__piece {
    const char *text; /* whole UTF-8 characters; empty while a stop string may begin here */
    size_t len;
    bl_token token;              /* -1: none, this is what was held back at the end */
    const bl__logprob *logprobs; /* the token's own, then the n_logprobs - 1 best, best first */
    size_t n_logprobs;           /* 0 unless asked for */
    bool in_prompt;              /* a token of the prompt, with score_prompt */
} bl__piece;

typedef enum bl__job_outcome {
    BL_JOB_FINISHED,  /* a stop rule held */
    BL_JOB_CANCELLED, /* by its owner, whose sink may have refused a piece */
    BL_JOB_TIMED_OUT, /* its deadline passed */
    BL_JOB_STOPPED,   /* the scheduler stops */
    BL_JOB_FAILED     /* see status */
} bl__job_outcome;

typedef struct bl__job_end {
    bl__job_outcome outcome;
    bl_stop_reason reason; /* when it finished */
    bl_error error;        /* when it failed */
    size_t n_prompt;       /* tokens of the prompt ... */
    size_t n_cached;       /* ... of which were computed for others before */
    size_t n_generated;
    double queue_seconds, prompt_seconds, generate_seconds;
    double joules;          /* of its tokens' share of each step; 0: not measured */
    const float *embedding; /* float[dim], borrowed for the call; NULL unless asked for */
} bl__job_end;

/* Called on the scheduler's thread; must not block. */
typedef struct bl__job_sink {
    bool (*piece)(void *user, const bl__piece *piece); /* false: cancel */
    void (*end)(void *user, const bl__job_end *end);   /* the last call */
    void *user;
} bl__job_sink;

typedef struct bl__job_params {
    const bl_token *prompt; /* bl_token[n_prompt], n_prompt > 0; copied like all else here */
    size_t n_prompt;
    bl_sampler_params sampling;
    size_t max_tokens; /* 0 = until another rule stops it */
    bool only_prompt;  /* generate nothing */
    const char *const *stops;
    size_t n_stops;
    const bl__logit_bias *biases; /* [n_biases] */
    size_t n_biases;
    bl__constraint *constraint; /* NULL: none; the job takes a share of it */
    const bl_token_trie *trie;  /* with a constraint: of the tokenizer; outlives the job */
    bool logprobs;              /* of every token */
    size_t n_top;               /* and of so many best ones, at most BL_MAX_TOP_LOGPROBS */
    bool ignore_end;            /* go on after an end token */
    bool show_special;
    bool score_prompt; /* hand out the prompt's tokens, too, with logprobs but the first's */
    enum { BL_POOL_NONE, BL_POOL_MEAN, BL_POOL_LAST } pool; /* embed the prompt instead */
    bool is_part;    /* of a request whose first job was let in: the queue takes it */
    double seconds;  /* from now until it is cut; 0 = no deadline */
    uint64_t client; /* jobs of one client wait for those of others */
    bl__job_sink sink;
} bl__job_params;

typedef struct bl__job bl__job;

struct bl__job {
    bl__job *next; /* in the queue */
    atomic_int n_owners;
    atomic_bool cancelled;
    bl_token *prompt; /* bl_token[n_prompt] */
    size_t n_prompt, max_tokens, n_top;
    bool only_prompt, logprobs, ignore_end, show_special, score_prompt;
    int pool;
    bl__logit_bias *biases;
    size_t n_biases;
    uint64_t client;
    double deadline; /* of bl__seconds_now(); 0 = none */
    bl__job_sink sink;
    const bl_tokenizer *tokenizer;
    bl_sampler *sampler;
    bl_decoder *decoder;
    bl__stop_filter *filter;
    bl__constraint *constraint; /* NULL without one, like its matcher */
    bl_matcher *matcher;
    bl__buffer text; /* what the piece in hand lets out */
    bl__logprob top[BL_MAX_TOP_LOGPROBS + 1];
    /* Used by the scheduler. */
    uint32_t sequence;
    size_t n_pages; /* of the cache that it may come to need */
    size_t n_done;  /* tokens of the prompt that are in the sequence */
    size_t n_share; /* of them in the step at hand */
    size_t row;     /* of the step's logits; SIZE_MAX: none */
    bl_token token; /* drawn and not yet evaluated; -1 = none */
    bool accepted;  /* the sampler knows the prompt */
    float *embedding;
    double submitted, admitted, first_drawn;
    bl__job_end end;
};

/* Everything that the job will need is allocated here. Errors: BL_ERR_ARGUMENT (stops, sampling,
 * tokens out of range), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__job_create(const bl__job_params *params, const bl_tokenizer *tokenizer, size_t vocab,
                         size_t dim, bl__job **out, bl_error *err);
/* Gives up one of the two ownerships: the scheduler's and that of whoever submitted. */
void bl__job_release(bl__job *job);

/* Which logits can decide the next draw, and what else is asked of them. */
bl_reach bl__job_reach(bl__job *job);
/* Draws from logits: float[vocab], which it may change, and hands the piece to the sink. Returns
 * false when the job is over, with end.outcome and end.reason set; else job->token is what to
 * evaluate next. */
bool bl__job_draw(bl__job *job, float *logits, size_t vocab);
/* Hands out token i of the prompt, scored by logits[vocab] (NULL for the first one). */
bool bl__job_score(bl__job *job, size_t i, const float *logits, size_t vocab);
/* Lets out what is still held back, where the end asks for it, and calls the sink's end. */
void bl__job_finish(bl__job *job);

#endif
