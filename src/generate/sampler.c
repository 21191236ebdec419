/* Owns the choice of the next token: penalties, top-k, top-p, min-p, temperature, draw.
 *
 * Knows nothing of models or text. Everything that decides a draw is arithmetic that IEEE 754
 * pins down, in a fixed order, with an exponential of our own (libm picks variants by CPU that
 * differ in the last bit), so that a seed gives the same tokens on every machine. */
#include "bitloom/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"

enum { MAX_PENALTY_WINDOW = 65536 };

typedef struct candidate {
    double weight; /* exp of (logit - best), not normalised */
    float logit;
    bl_token id;
} candidate;

struct bl_sampler {
    bl_sampler_params params;
    size_t vocab;
    bl__random random;
    candidate *candidates; /* [n_kept], the working set of one draw */
    size_t n_kept;         /* min(top_k, vocab) */
    /* The last tokens, a ring, and how often each token is in it; NULL with penalties off. */
    bl_token *window; /* [penalty_last_n] */
    uint32_t *counts; /* [vocab] */
    size_t window_len, window_next;
};

bl_sampler_params bl_sampler_default_params(void) {
    return (bl_sampler_params){.temperature = 0.8f,
                               .top_k = 40,
                               .top_p = 0.95f,
                               .min_p = 0.05f,
                               .repeat_penalty = 1.0f,
                               .penalty_last_n = 64};
}

static bl_status check_params(const bl_sampler_params *p, size_t vocab, bl_error *err) {
    if (vocab == 0 || vocab > INT32_MAX)
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: vocab %zu, expected 1 to %d", vocab,
                        INT32_MAX);
    /* Written so that NaN fails every test. */
    if (!(p->temperature >= 0 && isfinite(p->temperature)))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: temperature %g, expected 0 or more",
                        (double)p->temperature);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: top_p %g, expected above 0, at most 1",
                        (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: min_p %g, expected 0 to 1",
                        (double)p->min_p);
    if (!(p->repeat_penalty > 0 && isfinite(p->repeat_penalty)))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: repeat_penalty %g, expected above 0",
                        (double)p->repeat_penalty);
    if (!isfinite(p->frequency_penalty))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: frequency_penalty %g, expected a number",
                        (double)p->frequency_penalty);
    if (!isfinite(p->presence_penalty))
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: presence_penalty %g, expected a number",
                        (double)p->presence_penalty);
    if (p->penalty_last_n < 0 || p->penalty_last_n > MAX_PENALTY_WINDOW)
        return bl__fail(err, BL_ERR_ARGUMENT, "sampler: penalty_last_n %d, expected 0 to %d",
                        (int)p->penalty_last_n, MAX_PENALTY_WINDOW);
    return BL_OK;
}

static bool has_penalties(const bl_sampler_params *p) {
    return p->penalty_last_n > 0 && (p->repeat_penalty != 1.0f || p->frequency_penalty != 0.0f ||
                                     p->presence_penalty != 0.0f);
}

bl_status bl_sampler_create(const bl_sampler_params *params, size_t vocab, bl_sampler **out,
                            bl_error *err) {
    bl_status status = check_params(params, vocab, err);
    if (status != BL_OK)
        return status;
    bl_sampler *sampler = bl__calloc(1, sizeof *sampler);
    if (!sampler)
        goto fail;
    sampler->params = *params;
    sampler->vocab = vocab;
    sampler->n_kept = vocab;
    if (params->top_k > 0 && (size_t)params->top_k < vocab)
        sampler->n_kept = (size_t)params->top_k;
    if (params->temperature > 0) {
        sampler->candidates = bl__malloc_array(sampler->n_kept, sizeof *sampler->candidates);
        if (!sampler->candidates)
            goto fail;
    }
    if (has_penalties(params)) {
        sampler->window = bl__calloc((size_t)params->penalty_last_n, sizeof *sampler->window);
        sampler->counts = bl__calloc(vocab, sizeof *sampler->counts);
        if (!sampler->window || !sampler->counts)
            goto fail;
    }
    bl__random_seed(&sampler->random, params->seed);
    *out = sampler;
    return BL_OK;
fail:
    bl_sampler_free(sampler);
    return bl__fail(err, BL_ERR_MEMORY, "sampler: no memory for a vocabulary of %zu", vocab);
}

void bl_sampler_free(bl_sampler *sampler) {
    if (!sampler)
        return;
    bl__free(sampler->candidates);
    bl__free(sampler->window);
    bl__free(sampler->counts);
    bl__free(sampler);
}

void bl_sampler_reset(bl_sampler *sampler) {
    sampler->window_len = sampler->window_next = 0;
    if (sampler->counts)
        memset(sampler->counts, 0, sampler->vocab * sizeof *sampler->counts);
    bl__random_seed(&sampler->random, sampler->params.seed);
}

void bl_sampler_accept(bl_sampler *sampler, bl_token token) {
    if (!sampler->counts || token < 0 || (size_t)token >= sampler->vocab)
        return;
    size_t cap = (size_t)sampler->params.penalty_last_n;
    if (sampler->window_len == cap)
        sampler->counts[sampler->window[sampler->window_next]]--;
    else
        sampler->window_len++;
    sampler->window[sampler->window_next] = token;
    sampler->window_next = (sampler->window_next + 1) % cap;
    sampler->counts[token]++;
}

/* The logit that takes part in the choice. The repetition penalty is that of CTRL (arXiv
 * 1909.05858, section 4.1), with negative logits multiplied, since dividing them would reward
 * repetition. */
static inline float logit_of(const bl_sampler *sampler, const float *logits, size_t id) {
    float x = logits[id];
    if (sampler->counts && sampler->counts[id] > 0) {
        const bl_sampler_params *p = &sampler->params;
        x = x > 0 ? x / p->repeat_penalty : x * p->repeat_penalty;
        x -= (float)sampler->counts[id] * p->frequency_penalty + p->presence_penalty;
    }
    return x;
}

/* The first token from `id` on that may be drawn; vocab when there is none. allowed: NULL, or one
 * bit for each token. */
static inline size_t next_allowed(const bl_sampler *sampler, const uint64_t *allowed, size_t id) {
    if (!allowed || id >= sampler->vocab)
        return id;
    size_t word = id / 64, n_words = (sampler->vocab + 63) / 64;
    uint64_t bits = allowed[word] & ~(uint64_t)0 << id % 64;
    while (bits == 0) {
        if (++word == n_words)
            return sampler->vocab;
        bits = allowed[word];
    }
    return word * 64 + (size_t)__builtin_ctzll(bits);
}

static bl_token pick_best(const bl_sampler *sampler, const float *logits, const uint64_t *allowed) {
    bl_token best = -1;
    float best_logit = -INFINITY; /* so neither -inf nor NaN is ever taken */
    for (size_t id = next_allowed(sampler, allowed, 0); id < sampler->vocab;
         id = next_allowed(sampler, allowed, id + 1)) {
        float x = logit_of(sampler, logits, id);
        if (x > best_logit) {
            best_logit = x;
            best = (bl_token)id;
        }
    }
    return best;
}

/* A strict total order: higher logits first, then lower ids. */
static inline bool is_better(const candidate *a, const candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Restores the heap heap[n] below position i. The best element is at the top when best_first,
 * else the worst. */
static void sift_down(candidate *heap, size_t n, size_t i, bool best_first) {
    candidate moved = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && is_better(&heap[child + 1], &heap[child]) == best_first)
            child++;
        if (is_better(&moved, &heap[child]) == best_first)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

static void make_heap(candidate *heap, size_t n, bool best_first) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, best_first);
}

/* Fills candidates with the n_kept best tokens in no order, in O(vocab log n_kept) at worst and
 * one comparison per token mostly; returns how many there are. */
static size_t collect(bl_sampler *sampler, const float *logits, const uint64_t *allowed) {
    candidate *c = sampler->candidates;
    size_t n = 0;
    for (size_t id = next_allowed(sampler, allowed, 0); id < sampler->vocab;
         id = next_allowed(sampler, allowed, id + 1)) {
        float x = logit_of(sampler, logits, id);
        if (n == sampler->n_kept) {
            /* Ids rise, so an equal logit is worse than the one that is held. */
            if (!(x > c[0].logit))
                continue;
            c[0] = (candidate){.logit = x, .id = (bl_token)id};
            sift_down(c, n, 0, false);
        } else if (x > -INFINITY) {
            c[n++] = (candidate){.logit = x, .id = (bl_token)id};
            if (n == sampler->n_kept && n < sampler->vocab)
                make_heap(c, n, false);
        }
    }
    return n;
}

/* Puts candidates in the order of their ids, so that a draw among them does not depend on the
 * tokens that were left out. */
static void sort_by_id(candidate *c, size_t n) {
    for (size_t end = n, start = n / 2; end > 1;) {
        candidate moved;
        if (start > 0) {
            moved = c[--start]; /* the heap, the highest id on top, grows */
        } else {
            moved = c[--end];
            c[end] = c[0];
        }
        size_t i = start;
        for (size_t child; (child = 2 * i + 1) < end; i = child) {
            child += child + 1 < end && c[child + 1].id > c[child].id;
            if (c[child].id <= moved.id)
                break;
            c[i] = c[child];
        }
        c[i] = moved;
    }
}

/* exp(x) for x <= 0, good to about 1e-15: 2^k times a Taylor series of |r| <= ln(2) / 2. */
static double exp_fixed(double x) {
    static const double inverse_factorials[] = {1.0 / 6227020800,
                                                1.0 / 479001600,
                                                1.0 / 39916800,
                                                1.0 / 3628800,
                                                1.0 / 362880,
                                                1.0 / 40320,
                                                1.0 / 5040,
                                                1.0 / 720,
                                                1.0 / 120,
                                                1.0 / 24,
                                                1.0 / 6,
                                                1.0 / 2,
                                                1.0,
                                                1.0};
    if (!(x > -700)) /* below 1e-304, and far from the subnormals */
        return 0;
    int k = (int)(x * 0x1.71547652b82fep+0 - 0.5);
    double r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
    double sum = inverse_factorials[0];
    for (size_t i = 1; i < sizeof inverse_factorials / sizeof *inverse_factorials; i++)
        sum = sum * r + inverse_factorials[i];
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* Sets every weight to exp((logit - best) / temperature) and returns their sum. An infinite best
 * logit shares all the probability with its equals. */
static double weigh(candidate *c, size_t n, float best, double temperature) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double below = c[i].logit == best ? 0.0 : (double)c[i].logit - (double)best;
        c[i].weight = exp_fixed(below / temperature);
        sum += c[i].weight;
    }
    return sum;
}

/* Reduces (*c)[n] to the smallest set of best candidates whose probability reaches top_p, the best
 * one last; returns its size, at least 1. */
static size_t keep_top_p(candidate **c, size_t n, double total, double top_p) {
    /* Candidates this light weigh at most (1 - top_p) of the total together, so the set is found
     * without them. Few others are left mostly, and a heap is made of those only. */
    double negligible = (1 - top_p) * total / (double)n;
    candidate *heap = *c;
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (heap[i].weight > negligible)
            heap[n_heap++] = heap[i];
    make_heap(heap, n_heap, true);
    double sum = 0;
    size_t left = n_heap; /* what is popped goes to the end */
    while (left > 0 && !(sum >= top_p * total)) {
        candidate top = heap[0];
        heap[0] = heap[--left];
        sift_down(heap, left, 0, true);
        heap[left] = top;
        sum += top.weight;
    }
    *c = heap + left;
    return n_heap - left;
}

static size_t keep_min_p(candidate *c, size_t n, double min_p) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (c[i].weight >= min_p) /* the best one weighs 1 */
            c[kept++] = c[i];
    return kept;
}

static bl_token draw(const candidate *c, size_t n, double point) {
    size_t last = 0; /* of positive weight: rounding may leave `point` at the very end */
    for (size_t i = 0; i < n; i++) {
        if (c[i].weight <= 0)
            continue;
        if (point < c[i].weight)
            return c[i].id;
        point -= c[i].weight;
        last = i;
    }
    return c[last].id;
}

/* Whether penalties only ever lower a logit. */
static bool penalties_lower(const bl_sampler_params *p) {
    return p->repeat_penalty >= 1 && p->frequency_penalty >= 0 && p->presence_penalty >= 0;
}

bl_reach bl_sampler_reach(const bl_sampler *sampler) {
    return bl_sampler_reach_after(sampler, 0);
}

bl_reach bl_sampler_reach_after(const bl_sampler *sampler, size_t n_more) {
    const bl_sampler_params *p = &sampler->params;
    const bl_reach all = {.n_best = 0};
    size_t n_lowered = 0;
    if (sampler->counts)
        n_lowered = bl__min_size(sampler->window_len + n_more, (size_t)p->penalty_last_n);
    if (sampler->counts && !penalties_lower(p))
        return all;
    /* At most n_lowered of the highest logits fall behind others. */
    if (p->temperature == 0)
        return (bl_reach){.n_best = 1 + n_lowered};
    if (sampler->n_kept < sampler->vocab)
        return (bl_reach){.n_best = sampler->n_kept + n_lowered};
    /* top-p needs the sum of all weights, and a draw from all tokens all of them; min-p alone cuts
     * where exp(logit - best) falls below it, but for rounding. */
    if (p->top_p < 1 || p->min_p <= 0 || n_lowered > 0)
        return all;
    return (bl_reach){.n_best = 1, .margin = (float)(1e-3 - log((double)p->min_p))};
}

bl_token bl_sampler_sample(bl_sampler *sampler, const float *logits) {
    return bl_sampler_sample_allowed(sampler, logits, NULL);
}

bl_token bl_sampler_sample_allowed(bl_sampler *sampler, const float *logits,
                                   const uint64_t *allowed) {
    const bl_sampler_params *p = &sampler->params;
    if (p->temperature == 0)
        return pick_best(sampler, logits, allowed);
    size_t n = collect(sampler, logits, allowed);
    if (n == 0)
        return -1;
    candidate *c = sampler->candidates;
    if (sampler->n_kept < sampler->vocab)
        sort_by_id(c, n);
    float best = c[0].logit;
    for (size_t i = 1; i < n; i++)
        best = c[i].logit > best ? c[i].logit : best;
    if (p->top_p < 1 || p->min_p > 0) {
        double total = weigh(c, n, best, 1.0);
        if (p->top_p < 1)
            n = keep_top_p(&c, n, total, (double)p->top_p);
        if (p->min_p > 0)
            n = keep_min_p(c, n, (double)p->min_p);
    }
    double total = weigh(c, n, best, (double)p->temperature);
    return draw(c, n, bl__random_f64(&sampler->random) * total);
}
