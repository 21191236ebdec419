/* What a request says about the form of its answer: response_format, grammar, tools that must be
 * called. */
#ifndef BL_SERVER_CONSTRAINT_H
#define BL_SERVER_CONSTRAINT_H

#include "generate/job.h"
#include "server/fields.h"
#include "server/models.h"
#include "server/tools.h"

/* Reads response_format (or `name`, as other endpoints call it) and grammar; tools may be NULL.
 * *out: NULL without a constraint; release it. false with the response filled. */
bool bl__constraint_parse(bl__fields *fields, const char *name, const bl__tools *tools,
                          bl__constraint **out);
/* Puts it into a job's parameters; false with the response filled. */
bool bl__constraint_set(bl__models *models, bl__served *served, bl__constraint *constraint,
                        bl__job_params *job, bl__response *response);

#endif
