/* Parts of answers that several endpoints write. */
#ifndef BL_SERVER_FORMAT_H
#define BL_SERVER_FORMAT_H

#include <jansson.h>

#include "generate/job.h"
#include "server/models.h"

/* {"prompt_tokens": ..., "completion_tokens": ..., "total_tokens": ...,
 *  "prompt_tokens_details": {"cached_tokens": ...}} */
json_t *bl__usage_json(const bl__usage *usage);
/* Adds the end of one more text, without its prompt. */
void bl__usage_add(bl__usage *usage, const bl__job_end *end);
/* Adds "usage", "timings" (as llama.cpp's server calls them) and, where it is measured, "energy"
 * to an answer, which may be NULL. */
void bl__put_usage(json_t *answer, const bl__usage *usage);
/* An entry of chat's logprobs.content: the token, its bytes and the best ones beside it. */
json_t *bl__logprob_json(const bl__served *served, const bl__piece *piece);
/* The text of a token as a JSON string; bytes that are no UTF-8 become U+FFFD. */
json_t *bl__token_json(const bl__served *served, bl_token token);
/* The error of a job that did not finish, as {"error": ...}; NULL when it did. */
json_t *bl__end_error(const bl__job_end *end);
/* The same as a response; false when it did finish. */
bool bl__respond_end(bl__response *response, const bl__job_end *end);

#endif
