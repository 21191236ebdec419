/* Owns which rows of the output head are read for tokens. Must not know how a bound comes about.
 *
 * The copy says of every row what its logit is at most. The rows that look best are read; the
 * n_best-th of their logits is a floor, and only rows that can reach it are read besides. What is
 * read is what the whole head would give, to the bit, and no row left out can be among the best. */
#include "model/head.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

enum {
    MORE_LOOKS = 16, /* rows that look best, besides one for each that is wanted */
    MAX_SHARE = 4,   /* reading a quarter of all rows one by one is no gain any more */
    MAX_BACKOFF = 63
};

void bl__head_layout(bl__head *head, const bl__compute *compute, bl__arena *arena) {
    size_t vocab = head->linear->rows, dim = head->linear->cols;
    head->x = bl__arena_alloc(arena, dim, sizeof(float));
    head->logits = bl__arena_alloc(arena, vocab, sizeof(float));
    if (!head->screen)
        return;
    head->max_tokens = bl__min_size(BL_HEAD_TOKENS, compute->max_tokens);
    head->max_ids = vocab / MAX_SHARE + 1;
    head->digits_bytes = (dim + BL_SCREEN_COLS) * 2;
    head->digits = bl__arena_alloc(arena, head->max_tokens, head->digits_bytes);
    head->ids = bl__arena_alloc(arena, compute->max_parts, head->max_ids * 2 * sizeof *head->ids);
    head->best = bl__arena_alloc(arena, compute->max_parts, head->max_ids * 2 * sizeof(float));
    head->scratch =
        bl__arena_alloc(arena, compute->max_parts * bl__screen_scratch_floats(dim), sizeof(float));
}

void bl__head_take(bl__head *head, const float *x) {
    memcpy(head->x, x, head->linear->cols * sizeof *x);
    head->has = BL_HEAD_NONE;
}

void bl__head_put(bl__head *head, const float *logits) {
    memcpy(head->logits, logits, head->linear->rows * sizeof *logits);
    head->has = BL_HEAD_ALL;
}

static void read_whole(bl__head *head, bl__compute *compute, const float *x, size_t n_tokens,
                       float *logits) {
    const bl__product product = {head->linear, logits};
    bl__compute_products(compute, &product, 1, 0, x, n_tokens);
    head->counts.rows += head->linear->rows;
    head->counts.n_whole += n_tokens;
}

const float *bl__head_all(bl__head *head, bl__compute *compute) {
    if (head->has != BL_HEAD_ALL)
        read_whole(head, compute, head->x, 1, head->logits);
    head->has = BL_HEAD_ALL;
    return head->logits;
}

/* ---- bounds, on all threads ---- */

/* Tokens that meet the copy together; x and logits are those of bl__head_rows(). */
typedef struct pass {
    bl__head *head;
    bl__compute *compute;
    size_t n_tokens;
    const float *x;
    float *logits; /* at first the bounds of rows that the copy has */
    const bl_reach *reaches;
    const uint64_t *allowed; /* one bit for each row, for a token alone; NULL: all */
    const uint8_t *tiles;
    size_t n_tiles;                      /* that are made */
    bl__screen_x screen[BL_HEAD_TOKENS]; /* without digits where all logits are wanted */
    size_t n_read[BL_HEAD_TOKENS];       /* rows of the head; 0: too many can matter */
} pass;

static bool is_within_share(const bl__head *head, const bl_reach *reach) {
    return reach->n_best > 0 && reach->n_best <= head->linear->rows / BL_HEAD_MIN_SHARE;
}

static void prepare_part(void *context, size_t part, size_t n_parts) {
    pass *p = context;
    const bl__head *head = p->head;
    size_t cols = head->linear->cols;
    for (size_t t = part; t < p->n_tokens; t += n_parts) {
        int8_t *digits = head->digits + t * head->digits_bytes;
        p->n_read[t] = 0;
        if (!is_within_share(head, &p->reaches[t]) ||
            !bl__screen_prepare(p->x + t * cols, cols, p->n_tokens > 1 ? 1 : 2, digits,
                                &p->screen[t]))
            p->screen[t] = (bl__screen_x){0};
    }
}

static void screen_part(void *context, size_t part, size_t n_parts) {
    const pass *p = context;
    const bl__kernels *kernels = p->compute->kernels;
    const bl__linear *linear = p->head->linear;
    size_t first = p->n_tiles * part / n_parts, end = p->n_tiles * (part + 1) / n_parts;
    size_t bytes = bl__screen_tile_bytes(linear->cols), n_full = linear->rows / BL_SCREEN_ROWS;
    kernels->screen_rows(p->tiles + first * bytes, linear->cols, bl__min_size(end, n_full) - first,
                         p->screen, p->n_tokens, p->logits + first * BL_SCREEN_ROWS, linear->rows);
    if (end <= n_full)
        return;
    float last[BL_HEAD_TOKENS][BL_SCREEN_ROWS]; /* of a tile that ends beyond the rows */
    kernels->screen_rows(p->tiles + n_full * bytes, linear->cols, 1, p->screen, p->n_tokens,
                         last[0], BL_SCREEN_ROWS);
    for (size_t t = 0; t < p->n_tokens; t++)
        if (p->screen[t].n_digits)
            memcpy(p->logits + t * linear->rows + n_full * BL_SCREEN_ROWS, last[t],
                   linear->rows % BL_SCREEN_ROWS * sizeof(float));
}

/* Logits of the rows that the copy does not have yet. */
static void rest_part(void *context, size_t part, size_t n_parts) {
    const pass *p = context;
    const bl__linear *linear = p->head->linear;
    size_t first = p->n_tiles * BL_SCREEN_ROWS, n = linear->rows - first;
    size_t begin = first + n * part / n_parts, end = first + n * (part + 1) / n_parts;
    bl__compute_dots(p->compute, linear, begin, end - begin, p->x, p->n_tokens, part,
                     p->logits + begin);
}

static bool is_allowed(const uint64_t *allowed, size_t row) {
    return allowed[row / 64] >> (row % 64) & 1;
}

/* Rows that are not allowed are as if their logits were -infinity. */
static void leave_out(const pass *p) {
    for (size_t r = 0; r < p->head->linear->rows; r++)
        if (!is_allowed(p->allowed, r))
            p->logits[r] = -INFINITY;
}

/* ---- what can matter ---- */

enum { RUN = 64 }; /* values looked at together, as mostly none of them matters */

static bool any_above(const float values[RUN], float x) {
    int any = 0;
    for (size_t i = 0; i < RUN; i++)
        any |= values[i] > x;
    return any;
}

static bool all_below(const float values[RUN], float x) {
    int any = 0;
    for (size_t i = 0; i < RUN; i++)
        any |= !(values[i] < x);
    return !any;
}

/* Restores heap[n], the lowest on top, below its top; ids, when there, go along. */
static void sift_down(float *heap, uint32_t *ids, size_t n, size_t i) {
    float value = heap[i];
    uint32_t id = ids ? ids[i] : 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (!(heap[child] < value))
            break;
        heap[i] = heap[child];
        if (ids)
            ids[i] = ids[child];
    }
    heap[i] = value;
    if (ids)
        ids[i] = id;
}

/* Keeps the highest of heap[m], the lowest of them on top, and of values[from ... n - 1]; ids,
 * when there, are places in values. NaN is never kept. */
static void push_highest(const float *values, size_t from, size_t n, float *heap, uint32_t *ids,
                         size_t m) {
    for (size_t i = from, end; i < n; i = end) {
        end = bl__min_size(i + RUN, n);
        if (end - i == RUN && !any_above(values + i, heap[0]))
            continue;
        for (; i < end; i++)
            if (values[i] > heap[0]) {
                heap[0] = values[i];
                if (ids)
                    ids[0] = (uint32_t)i;
                sift_down(heap, ids, m, 0);
            }
    }
}

/* heap[m] = the highest of values[n], 0 < m <= n, and ids[m] their places; NaN counts as -infinity.
 */
static void find_highest(const float *values, size_t n, size_t m, float *heap, uint32_t *ids) {
    for (size_t i = 0; i < m; i++) {
        heap[i] = values[i] > -INFINITY ? values[i] : -INFINITY;
        ids[i] = (uint32_t)i;
    }
    for (size_t i = m / 2; i-- > 0;)
        sift_down(heap, ids, m, i);
    push_highest(values, m, n, heap, ids, m);
}

/* One token's search among the rows 0 ... n - 1, whose logits are bounds at first; those from n on
 * are known. */
typedef struct search {
    const pass *pass;
    size_t n;
    const float *x;
    float *logits;
    uint32_t *ids;       /* uint32_t[2 * max_ids]: rows to read, those that look best first */
    size_t first, n_ids; /* of them in hand */
    float *heap, *looks; /* float[max_ids]; looks: logits of the rows that look best */
    size_t part;         /* whose scratch memory is free */
    bool alone;          /* every thread and all scratch memory are free */
} search;

static void read_part(void *context, size_t part, size_t n_parts) {
    const search *s = context;
    const uint32_t *ids = s->ids + s->first;
    size_t end = s->n_ids * (part + 1) / n_parts;
    for (size_t i = s->n_ids * part / n_parts; i < end; i++) {
        if (i + 1 < end)
            bl__compute_expect_row(s->pass->head->linear, ids[i + 1]);
        bl__compute_dots(s->pass->compute, s->pass->head->linear, ids[i], 1, s->x, 1,
                         s->alone ? part : s->part, s->logits + ids[i]);
    }
}

/* Reads n rows of ids from `first` on. */
static void read_rows(search *s, size_t first, size_t n) {
    bl__compute *compute = s->pass->compute;
    s->first = first;
    s->n_ids = n;
    if (s->alone && n > 1)
        bl__pool_run(compute->pool, read_part, s, bl__min_size(n, compute->max_parts));
    else
        read_part(s, 0, 1);
}

/* The lowest logit that may matter, given those that are known: no float that is below it matters.
 */
static float find_floor(const search *s, size_t n_looks, const bl_reach *reach) {
    size_t n_best = reach->n_best;
    float *heap = s->heap;
    for (size_t i = 0; i < n_best; i++)
        heap[i] = -INFINITY;
    push_highest(s->looks, 0, n_looks, heap, NULL, n_best);
    push_highest(s->logits, s->n, s->pass->head->linear->rows, heap, NULL, n_best);
    double floor = (double)heap[0], highest = floor;
    for (size_t i = 1; i < n_best; i++)
        highest = (double)heap[i] > highest ? (double)heap[i] : highest;
    if (highest - (double)reach->margin < floor)
        floor = highest - (double)reach->margin;
    float nearest = (float)floor;
    return (double)nearest < floor ? nextafterf(nearest, INFINITY) : nearest;
}

/* Adds the rows whose bounds are not below the floor to ids after the first n_looks; the logits of
 * all others become -infinity. Returns how many, or SIZE_MAX when they are too many. Rows that are
 * known have -infinity for a bound. */
static size_t list_candidates(search *s, size_t n_looks, float floor) {
    size_t n = 0, most = s->pass->head->max_ids;
    for (size_t r = 0, end; r < s->n; r = end) {
        end = bl__min_size(r + RUN, s->n);
        bool none = end - r == RUN && all_below(s->logits + r, floor);
        for (; r < end; r++) {
            float bound = s->logits[r];
            s->logits[r] = -INFINITY;
            if (none || bound < floor || bound == -INFINITY)
                continue;
            if (n == most)
                return SIZE_MAX;
            s->ids[n_looks + n++] = (uint32_t)r;
        }
    }
    return n;
}

/* The logits of a token in place of its bounds; returns how many rows were read, 0 when so many can
 * matter that the whole head is to be read instead. */
static size_t find_logits(search *s, const bl_reach *reach) {
    const bl__head *head = s->pass->head;
    size_t n_looks = bl__min_size(reach->n_best + reach->n_best / 4 + MORE_LOOKS, s->n / 2);
    n_looks = bl__min_size(n_looks, head->max_ids);
    if (n_looks == 0 || reach->n_best > head->max_ids)
        return 0;
    find_highest(s->logits, s->n, n_looks, s->heap, s->ids);
    size_t n_best_looking = n_looks;
    n_looks = 0;
    for (size_t i = 0; i < n_best_looking; i++)
        if (s->logits[s->ids[i]] != -INFINITY)
            s->ids[n_looks++] = s->ids[i];
    read_rows(s, 0, n_looks);
    for (size_t i = 0; i < n_looks; i++) {
        s->looks[i] = s->logits[s->ids[i]];
        s->logits[s->ids[i]] = -INFINITY;
    }
    size_t n = list_candidates(s, n_looks, find_floor(s, n_looks, reach));
    if (n == SIZE_MAX)
        return 0;
    for (size_t i = 0; i < n_looks; i++)
        s->logits[s->ids[i]] = s->looks[i];
    read_rows(s, n_looks, n);
    return n_looks + n;
}

static void search_part(void *context, size_t part, size_t n_parts) {
    pass *p = context;
    const bl__head *head = p->head;
    size_t rows = head->linear->rows;
    for (size_t t = part; t < p->n_tokens; t += n_parts) {
        if (p->screen[t].n_digits == 0)
            continue;
        search s = {.pass = p, .x = p->x + t * head->linear->cols};
        s.n = bl__min_size(p->n_tiles * BL_SCREEN_ROWS, rows);
        s.logits = p->logits + t * rows;
        s.ids = head->ids + part * 2 * head->max_ids;
        s.heap = head->best + part * 2 * head->max_ids;
        s.looks = s.heap + head->max_ids;
        s.part = part;
        s.alone = p->n_tokens == 1;
        p->n_read[t] = find_logits(&s, &p->reaches[t]);
    }
}

/* ---- tokens together ---- */

/* Fills n_read and, where it is not 0, logits. Returns whether that paid. */
static bool screen(pass *p) {
    bl__head *head = p->head;
    bl__compute *compute = p->compute;
    bl__screen *copy = head->screen;
    size_t n_parts = bl__min_size(p->n_tokens, compute->max_parts), n_screened = 0, n_failed = 0;
    bl__pool_run(compute->pool, prepare_part, p, n_parts);
    for (size_t t = 0; t < p->n_tokens; t++)
        n_screened += p->screen[t].n_digits > 0;
    if (n_screened == 0)
        return false;
    bl__screen_extend(copy, compute, head->linear,
                      (copy->n_tiles + BL_HEAD_MAKING_STEPS - 1) / BL_HEAD_MAKING_STEPS,
                      head->scratch);
    p->tiles = atomic_load(&copy->tiles);
    p->n_tiles = atomic_load(&copy->n_ready);
    if (p->n_tiles == 0)
        return false;
    bl__pool_run(compute->pool, screen_part, p, bl__min_size(p->n_tiles, compute->max_parts));
    head->counts.copy_bytes += p->n_tiles * bl__screen_tile_bytes(head->linear->cols);
    if (p->n_tiles < copy->n_tiles) {
        bl__pool_run(compute->pool, rest_part, p, compute->max_parts);
        head->counts.rows += head->linear->rows - p->n_tiles * BL_SCREEN_ROWS;
    }
    if (p->allowed)
        leave_out(p);
    if (p->n_tokens == 1) /* a search that may use all threads itself */
        search_part(p, 0, 1);
    else
        bl__pool_run(compute->pool, search_part, p, n_parts);
    for (size_t t = 0; t < p->n_tokens; t++) {
        head->counts.rows += p->n_read[t];
        n_failed += p->screen[t].n_digits > 0 && p->n_read[t] == 0;
    }
    return 2 * n_failed < n_screened;
}

/* The whole head for tokens that need it; few that do not are taken along where they lie between,
 * since reading it once more would take longer. */
static void complete(const pass *p) {
    enum { GAP = 4 };
    const bl__linear *linear = p->head->linear;
    for (size_t t = 0, end; t < p->n_tokens; t = end) {
        end = t + 1;
        if (p->n_read[t])
            continue;
        for (size_t next = end; next < p->n_tokens && next <= end + GAP; next++)
            if (!p->n_read[next])
                end = next + 1;
        read_whole(p->head, p->compute, p->x + t * linear->cols, end - t,
                   p->logits + t * linear->rows);
    }
}

/* Whether screening is to be tried, after it did not pay some time. */
static bool is_worth_trying(bl__head *head) {
    if (!head->screen || head->n_plain == 0)
        return head->screen != NULL;
    head->n_plain--;
    return false;
}

static void learn(bl__head *head, bool paid) {
    if (paid) {
        head->backoff = 0;
        return;
    }
    head->n_plain = head->backoff;
    head->backoff = head->backoff < MAX_BACKOFF ? 2 * head->backoff + 1 : MAX_BACKOFF;
}

static void find_rows(bl__head *head, bl__compute *compute, const float *x, size_t n_tokens,
                      const bl_reach *reaches, const uint64_t *allowed, float *logits) {
    const bl__linear *linear = head->linear;
    size_t n_screened = 0;
    head->counts.n_tokens += n_tokens;
    for (size_t t = 0; t < n_tokens; t++)
        n_screened += is_within_share(head, &reaches[t]);
    if (n_screened == 0 || !is_worth_trying(head)) {
        read_whole(head, compute, x, n_tokens, logits);
        return;
    }
    bool paid = true;
    for (size_t t = 0, n; t < n_tokens; t += n) {
        n = bl__min_size(head->max_tokens, n_tokens - t);
        pass p = {.head = head,
                  .compute = compute,
                  .n_tokens = n,
                  .x = x + t * linear->cols,
                  .logits = logits + t * linear->rows,
                  .reaches = reaches + t,
                  .allowed = allowed};
        paid &= screen(&p);
        complete(&p);
    }
    learn(head, paid);
}

void bl__head_rows(bl__head *head, bl__compute *compute, const float *x, size_t n_tokens,
                   const bl_reach *reaches, float *logits) {
    find_rows(head, compute, x, n_tokens, reaches, NULL, logits);
}

const float *bl__head_best(bl__head *head, bl__compute *compute, const bl_reach *reach) {
    bool known = head->has == BL_HEAD_SOME && reach->n_best > 0 &&
                 reach->n_best <= head->reach.n_best && reach->margin <= head->reach.margin;
    if (known || head->has == BL_HEAD_ALL)
        return head->logits;
    uint64_t n_whole = head->counts.n_whole;
    find_rows(head, compute, head->x, 1, reach, NULL, head->logits);
    head->has = head->counts.n_whole == n_whole ? BL_HEAD_SOME : BL_HEAD_ALL;
    head->reach = *reach;
    return head->logits;
}

/* Reads the allowed rows one by one; false when they are too many for that. */
static bool read_allowed(bl__head *head, bl__compute *compute, const uint64_t *allowed) {
    const pass p = {.head = head, .compute = compute};
    search s = {.pass = &p, .x = head->x, .logits = head->logits, .ids = head->ids, .alone = true};
    size_t rows = head->linear->rows, n = 0;
    for (size_t r = 0; r < rows; r++) {
        if (!is_allowed(allowed, r))
            continue;
        if (n == rows / MAX_SHARE)
            return false;
        head->ids[n++] = (uint32_t)r;
    }
    for (size_t r = 0; r < rows; r++)
        head->logits[r] = -INFINITY;
    read_rows(&s, 0, n);
    head->counts.rows += n;
    return true;
}

const float *bl__head_allowed(bl__head *head, bl__compute *compute, const bl_reach *reach,
                              const uint64_t *allowed) {
    if (head->has == BL_HEAD_ALL)
        return head->logits;
    uint64_t n_whole = head->counts.n_whole;
    head->has = BL_HEAD_NONE;
    if (head->screen && read_allowed(head, compute, allowed))
        head->counts.n_tokens++;
    else
        find_rows(head, compute, head->x, 1, reach, allowed, head->logits);
    if (head->counts.n_whole > n_whole)
        head->has = BL_HEAD_ALL;
    return head->logits;
}
