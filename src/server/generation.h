/* What all endpoints that write text take: sampling, lengths, stops, streaming. */
#ifndef BL_SERVER_GENERATION_H
#define BL_SERVER_GENERATION_H

#include "generate/job.h"
#include "server/fields.h"
#include "server/models.h"

enum { BL_MAX_CHOICES = 16, BL_MAX_REQUEST_STOPS = 32 };

typedef struct bl__generation {
    bl_sampler_params sampling;
    size_t max_tokens; /* 0 = not given */
    size_t n_choices;
    const char *stops[BL_MAX_REQUEST_STOPS]; /* borrowed from the request's JSON */
    size_t n_stops;
    bl__logit_bias *biases; /* [n_biases] */
    size_t n_biases;
    bool stream, include_usage, ignore_end;
    double seconds; /* 0 = the server's limit */
} bl__generation;

/* Reads the fields that all have; those that endpoints name in their own way are left at their
 * defaults. Release with bl__generation_clear(), also after a failure. */
void bl__generation_parse(bl__fields *fields, bl__generation *out);
void bl__generation_clear(bl__generation *generation);
/* max_tokens under any of its names. */
void bl__generation_parse_length(bl__fields *fields, const char *const *names, size_t n,
                                 bl__generation *out);
bool bl__generation_add_stop(bl__generation *generation, const char *stop);

/* The parameters of choice i of these texts; the seed of each is another. */
bl__job_params bl__generation_job(const bl__generation *generation, size_t i);

/* Encodes a prompt that a template has rendered (special: with special tokens by their text), with
 * the BOS that the model wants, once, and without an EOS that it would append. *ids: bl_free(). On
 * failure fills the response; also for texts that are far too long for the context. */
bool bl__encode_prompt(const bl__served *served, const char *text, size_t len, bool special,
                       bl_token **ids, size_t *n_ids, const char *param, bl__response *response);

/* "stop", "length": the API's word for why a text ended. */
const char *bl__finish_reason(const bl__job_end *end);

#endif
