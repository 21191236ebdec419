/* Which sequence of a session a new prompt goes to, and what of it is there already. Private to
 * the scheduler. */
#ifndef BL_GENERATE_PREFIXES_H
#define BL_GENERATE_PREFIXES_H

#include "bitloom/model.h"
#include "generate/job.h"

/* What the scheduler knows of a sequence. */
typedef struct bl__place {
    bl__job *job;      /* NULL: kept for its beginning, or empty */
    uint64_t last_use; /* counts uses: the least is the oldest */
} bl__place;

typedef struct bl__prefixes {
    bl_session *session;
    bl__place *places; /* [n] */
    size_t n;
    uint64_t n_uses;
} bl__prefixes;

/* Gives the job a sequence, which holds as much of its prompt as any does, and sets job->sequence,
 * n_done and end.n_cached. Returns false, and does nothing, when all sequences are taken, or when a
 * job that is under way is about to compute a good part of this prompt: then waiting is quicker. */
bool bl__prefixes_place(bl__prefixes *prefixes, bl__job *job);
/* The job is over; its sequence is kept for others. */
void bl__prefixes_leave(bl__prefixes *prefixes, bl__job *job);
/* Empties the kept sequence that was used longest ago; false when there is none. */
bool bl__prefixes_evict(bl__prefixes *prefixes);

#endif
