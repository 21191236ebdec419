/* Owns the sharing of prompts: sequences found by their longest common beginning, evicted when
 * they were used longest ago. Must not know when jobs run. */
#include "generate/prefixes.h"

enum { WORTH_WAITING = 32 /* tokens that somebody else is about to compute */ };

static size_t common(const bl_token *a, size_t n_a, const bl_token *b, size_t n_b) {
    size_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Tokens at the start of the job's prompt that sequence i holds. The last token of a prompt is
 * always evaluated, for its logits. */
static size_t held_of(const bl__prefixes *p, uint32_t i, const bl__job *job) {
    return common(bl_sequence_tokens(p->session, i), bl_sequence_n_past(p->session, i), job->prompt,
                  job->n_prompt - 1);
}

static bool somebody_computes(const bl__prefixes *p, const bl__job *job, size_t held) {
    for (size_t i = 0; i < p->n; i++) {
        const bl__job *other = p->places[i].job;
        if (other && other->n_done < other->n_prompt &&
            common(other->prompt, other->n_prompt, job->prompt, job->n_prompt - 1) >=
                held + WORTH_WAITING)
            return true;
    }
    return false;
}

/* An empty sequence that is free, else the one that was used longest ago; n when none is free. */
static uint32_t find_free(const bl__prefixes *p) {
    size_t best = p->n;
    for (size_t i = 0; i < p->n; i++) {
        if (p->places[i].job)
            continue;
        if (bl_sequence_n_past(p->session, (uint32_t)i) == 0)
            return (uint32_t)i;
        if (best == p->n || p->places[i].last_use < p->places[best].last_use)
            best = i;
    }
    return (uint32_t)best;
}

bool bl__prefixes_place(bl__prefixes *p, bl__job *job) {
    uint32_t to = find_free(p), from = 0;
    size_t held = 0;
    if (to == p->n)
        return false;
    bool looks = !job->score_prompt && !job->pool; /* these need every token evaluated */
    for (uint32_t i = 0; i < p->n && looks; i++) {
        size_t n = held_of(p, i, job);
        /* Of equals, one that is free and holds nothing else can be taken as it is. */
        bool fits =
            n == held && n > 0 && !p->places[i].job && bl_sequence_n_past(p->session, i) == n;
        if (n > held || fits) {
            held = n;
            from = i;
        }
    }
    if (looks && somebody_computes(p, job, held))
        return false;
    if (held > 0 && !p->places[from].job && bl_sequence_n_past(p->session, from) == held)
        to = from;
    if (held == 0 || to == from)
        bl_sequence_truncate(p->session, to, held);
    else if (bl_sequence_copy(p->session, from, to, held, NULL) != BL_OK)
        bl_sequence_truncate(p->session, to, held = 0);
    if (held > 0)
        p->places[from].last_use = ++p->n_uses;
    p->places[to] = (bl__place){job, ++p->n_uses};
    job->sequence = to;
    job->n_done = job->end.n_cached = held;
    return true;
}

void bl__prefixes_leave(bl__prefixes *p, bl__job *job) {
    p->places[job->sequence] = (bl__place){NULL, ++p->n_uses};
}

bool bl__prefixes_evict(bl__prefixes *p) {
    uint32_t oldest = UINT32_MAX;
    for (uint32_t i = 0; i < p->n; i++)
        if (!p->places[i].job && bl_sequence_n_past(p->session, i) > 0 &&
            (oldest == UINT32_MAX || p->places[i].last_use < p->places[oldest].last_use))
            oldest = i;
    if (oldest == UINT32_MAX)
        return false;
    bl_sequence_truncate(p->session, oldest, 0);
    return true;
}
