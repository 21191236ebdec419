/* Owns the guessing of tokens. Must not know what becomes of a guess: a bad one costs time only. */
#include "generate/drafts.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum {
    MIN_MATCH = 2,      /* tokens that must have come before */
    PER_MATCH = 2,      /* guesses for each token that matches: longer matches are surer */
    ENOUGH_MATCH = 16,  /* longer ones are not better */
    LOOK_BACK = 1 << 15 /* tokens searched */
};

/* How many tokens before positions a < b are the same, up to ENOUGH_MATCH. */
static size_t common_before(const bl_token *tokens, size_t a, size_t b) {
    size_t n = 0;
    while (n < a && n < ENOUGH_MATCH && tokens[a - 1 - n] == tokens[b - 1 - n])
        n++;
    return n;
}

size_t bl__draft_by_lookup(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                           size_t n_most) {
    (void)user;
    size_t longest = MIN_MATCH - 1, from = 0;
    size_t first = n_tokens > LOOK_BACK ? n_tokens - LOOK_BACK : 0;
    for (size_t at = n_tokens - 1; at > first && longest < ENOUGH_MATCH; at--) {
        if (tokens[at - 1] != tokens[n_tokens - 1])
            continue;
        size_t n = common_before(tokens, at, n_tokens);
        if (n > longest) {
            longest = n;
            from = at;
        }
    }
    if (longest < MIN_MATCH)
        return 0;
    n_most = bl__min_size(n_most, PER_MATCH * longest);
    for (size_t i = 0; i < n_most; i++) /* what repeats goes on repeating */
        out[i] = from + i < n_tokens ? tokens[from + i] : out[from + i - n_tokens];
    return n_most;
}

struct bl__draft_model {
    bl_session *session;
    size_t vocab, n_held;
    bl_token *held; /* bl_token[n_ctx]: what the session holds */
    double catch_up;
};

static const double SURE = 0.4; /* probability below which a guess is not worth a place */

bl_status bl__draft_model_create(const bl_model *model, size_t n_ctx, uint32_t n_threads,
                                 bl__draft_model **out, bl_error *err) {
    bl__draft_model *draft = bl__calloc(1, sizeof *draft);
    const bl_session_params params = {.n_ctx = (uint32_t)n_ctx, .n_threads = n_threads};
    bl_status status = BL_OK;
    if (draft && (draft->held = bl__malloc_array(n_ctx, sizeof *draft->held)))
        status = bl_session_create(model, &params, &draft->session, err);
    else
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate a draft of %zu tokens", n_ctx);
    if (status) {
        bl__draft_model_free(draft);
        return status;
    }
    draft->vocab = bl_model_get_info(model)->vocab;
    *out = draft;
    return BL_OK;
}

void bl__draft_model_free(bl__draft_model *draft) {
    if (!draft)
        return;
    bl_session_free(draft->session);
    bl__free(draft->held);
    bl__free(draft);
}

static bool append(bl__draft_model *draft, const bl_token *tokens, size_t n) {
    if (n > bl_session_n_ctx(draft->session) - draft->n_held ||
        bl_session_eval(draft->session, tokens, n, NULL, NULL) != BL_OK)
        return false;
    memcpy(draft->held + draft->n_held, tokens, n * sizeof *tokens);
    draft->n_held += n;
    return true;
}

/* The likeliest token, or -1 when it is not likely enough. */
static bl_token sure_token(const float *logits, size_t vocab) {
    size_t best = 0;
    for (size_t id = 1; id < vocab; id++)
        best = logits[id] > logits[best] ? id : best;
    double sum = 0;
    for (size_t id = 0; id < vocab; id++)
        sum += exp((double)logits[id] - (double)logits[best]);
    return sum * SURE <= 1 ? (bl_token)best : -1; /* NaN too gives -1 */
}

/* Of this thread's work: what other programs take from it says nothing of what a batch costs. */
static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

size_t bl__draft_by_model(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                          size_t n_most) {
    bl__draft_model *draft = user;
    size_t common = 0, n = 0;
    while (common < draft->n_held && common + 1 < n_tokens && draft->held[common] == tokens[common])
        common++; /* the last token is always evaluated, for its logits */
    bl_session_truncate(draft->session, common);
    draft->n_held = common;
    double start = seconds_now();
    if (!append(draft, tokens + common, n_tokens - common))
        return 0;
    if (n_tokens - common > BL_MAX_DRAFT)
        draft->catch_up += seconds_now() - start;
    while (n < n_most) {
        bl_token token = sure_token(bl_session_logits(draft->session), draft->vocab);
        if (token < 0)
            break;
        out[n++] = token;
        if (n < n_most && !append(draft, &token, 1))
            break;
    }
    return n;
}

double bl__draft_model_catch_up(bl__draft_model *draft) {
    double seconds = draft->catch_up;
    draft->catch_up = 0;
    return seconds;
}
