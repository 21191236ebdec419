/* Owns which rows of the output head are read for a token. Must not know how a bound comes about.
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
    head->digits = bl__arena_alloc(arena, dim + BL_SCREEN_COLS, 2);
    head->upper = bl__arena_alloc(arena, vocab + BL_SCREEN_ROWS, sizeof(float));
    head->ids = bl__arena_alloc(arena, vocab, sizeof *head->ids);
    head->best = bl__arena_alloc(arena, vocab, sizeof(float));
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

const float *bl__head_all(bl__head *head, bl__compute *compute) {
    if (head->has == BL_HEAD_ALL)
        return head->logits;
    const bl__product product = {head->linear, head->logits};
    bl__compute_products(compute, &product, 1, 0, head->x, 1);
    head->has = BL_HEAD_ALL;
    head->counts.rows += head->linear->rows;
    head->counts.n_whole++;
    return head->logits;
}

/* ---- the parts of a pass, on all threads ---- */

typedef struct pass {
    bl__head *head;
    bl__compute *compute;
    const uint8_t *tiles;
    size_t n_tiles; /* that are made */
    size_t n_ids;
    bl__screen_x x;
} pass;

static void screen_part(void *context, size_t part, size_t n_parts) {
    const pass *p = context;
    size_t cols = p->head->linear->cols, first = p->n_tiles * part / n_parts;
    p->compute->kernels->screen_rows(p->tiles + first * bl__screen_tile_bytes(cols), cols,
                                     p->n_tiles * (part + 1) / n_parts - first, &p->x,
                                     p->head->upper + first * BL_SCREEN_ROWS);
}

static void read_part(void *context, size_t part, size_t n_parts) {
    const pass *p = context;
    bl__head *head = p->head;
    size_t end = p->n_ids * (part + 1) / n_parts;
    for (size_t i = p->n_ids * part / n_parts; i < end; i++)
        bl__compute_dots(p->compute, head->linear, head->ids[i], 1, head->x, part,
                         head->logits + head->ids[i]);
}

/* Rows that the copy does not have yet. */
static void rest_part(void *context, size_t part, size_t n_parts) {
    const pass *p = context;
    bl__head *head = p->head;
    size_t first = p->n_tiles * BL_SCREEN_ROWS, n = head->linear->rows - first;
    size_t begin = first + n * part / n_parts, end = first + n * (part + 1) / n_parts;
    bl__compute_dots(p->compute, head->linear, begin, end - begin, head->x, part,
                     head->logits + begin);
}

/* Reads the rows ids[n_ids] and marks them as known. */
static void read_rows(pass *p) {
    if (p->n_ids)
        bl__pool_run(p->compute->pool, read_part, p, bl__min_size(p->n_ids, p->compute->max_parts));
    for (size_t i = 0; i < p->n_ids; i++)
        p->head->upper[p->head->ids[i]] = -INFINITY;
    p->head->counts.rows += p->n_ids;
}

/* ---- choosing rows ---- */

/* Restores heap[n], the lowest on top, below position i; ids, when there, go along. */
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

/* heap[m] = the highest of values[n], m <= n, the lowest of them on top, and ids[m] their places;
 * NaN counts as -infinity. ids may be NULL. */
static void find_highest(const float *values, size_t n, size_t m, float *heap, uint32_t *ids) {
    for (size_t i = 0; i < m; i++) {
        heap[i] = values[i] > -INFINITY ? values[i] : -INFINITY;
        if (ids)
            ids[i] = (uint32_t)i;
    }
    for (size_t i = m / 2; i-- > 0;)
        sift_down(heap, ids, m, i);
    for (size_t i = m; i < n; i++)
        if (values[i] > heap[0]) {
            heap[0] = values[i];
            if (ids)
                ids[0] = (uint32_t)i;
            sift_down(heap, ids, m, 0);
        }
}

/* The lowest logit that may matter, given those that are known. */
static double find_floor(bl__head *head, size_t n_best, float margin) {
    find_highest(head->logits, head->linear->rows, n_best, head->best, NULL);
    double floor = (double)head->best[0], highest = floor;
    for (size_t i = 1; i < n_best; i++)
        highest = (double)head->best[i] > highest ? (double)head->best[i] : highest;
    return highest - (double)margin < floor ? highest - (double)margin : floor;
}

static bool is_allowed(const uint64_t *allowed, size_t row) {
    return !allowed || allowed[row / 64] >> (row % 64) & 1;
}

/* Rows that are not allowed are as if their logits were -infinity. */
static void leave_out(pass *p, const uint64_t *allowed) {
    bl__head *head = p->head;
    size_t n = bl__min_size(p->n_tiles * BL_SCREEN_ROWS, head->linear->rows);
    for (size_t r = 0; r < head->linear->rows; r++)
        if (!is_allowed(allowed, r))
            (r < n ? head->upper : head->logits)[r] = -INFINITY;
}

/* False when so many rows can matter that the whole head is read instead. */
static bool read_what_matters(pass *p, size_t n_best, float margin) {
    bl__head *head = p->head;
    size_t rows = head->linear->rows, n = bl__min_size(p->n_tiles * BL_SCREEN_ROWS, rows);
    size_t n_looks = bl__min_size(n_best + n_best / 4 + MORE_LOOKS, n / 2);
    for (size_t r = 0; r < n; r++)
        head->logits[r] = -INFINITY;
    find_highest(head->upper, n, n_looks, head->best, head->ids);
    p->n_ids = 0;
    for (size_t i = 0; i < n_looks; i++)
        if (head->upper[head->ids[i]] != -INFINITY)
            head->ids[p->n_ids++] = head->ids[i];
    read_rows(p);
    double floor = find_floor(head, n_best, margin);
    p->n_ids = 0;
    for (size_t r = 0; r < n; r++)
        if (!((double)head->upper[r] < floor) && head->upper[r] != -INFINITY)
            head->ids[p->n_ids++] = (uint32_t)r;
    if (p->n_ids > rows / MAX_SHARE)
        return false;
    read_rows(p);
    return true;
}

/* allowed: NULL, or one bit for each row. */
static bool screen(bl__head *head, bl__compute *compute, size_t n_best, float margin,
                   const uint64_t *allowed) {
    bl__screen *copy = head->screen;
    pass p = {.head = head, .compute = compute};
    if (!bl__screen_prepare(head->x, head->linear->cols, head->digits, &p.x))
        return false;
    bl__screen_extend(copy, compute, head->linear,
                      (copy->n_tiles + BL_HEAD_MAKING_STEPS - 1) / BL_HEAD_MAKING_STEPS,
                      head->scratch);
    p.tiles = atomic_load(&copy->tiles);
    p.n_tiles = atomic_load(&copy->n_ready);
    if (p.n_tiles == 0)
        return false;
    bl__pool_run(compute->pool, screen_part, &p, bl__min_size(p.n_tiles, compute->max_parts));
    head->counts.copy_bytes += p.n_tiles * bl__screen_tile_bytes(head->linear->cols);
    if (p.n_tiles < copy->n_tiles) {
        bl__pool_run(compute->pool, rest_part, &p, compute->max_parts);
        head->counts.rows += head->linear->rows - p.n_tiles * BL_SCREEN_ROWS;
    }
    if (allowed)
        leave_out(&p, allowed);
    return read_what_matters(&p, n_best, margin);
}

/* Screens if that has paid so far; false when the whole head is to be read. */
static bool try_screen(bl__head *head, bl__compute *compute, size_t n_best, float margin,
                       const uint64_t *allowed) {
    if (!head->screen || n_best == 0 || n_best > head->linear->rows / BL_HEAD_MIN_SHARE)
        return false;
    if (head->n_plain) {
        head->n_plain--;
        return false;
    }
    head->has = BL_HEAD_NONE;
    if (screen(head, compute, n_best, margin, allowed)) {
        head->backoff = 0;
        return true;
    }
    head->n_plain = head->backoff;
    head->backoff = head->backoff < MAX_BACKOFF ? 2 * head->backoff + 1 : MAX_BACKOFF;
    return false;
}

const float *bl__head_best(bl__head *head, bl__compute *compute, size_t n_best, float margin) {
    bool known =
        head->has == BL_HEAD_SOME && n_best > 0 && n_best <= head->n_best && margin <= head->margin;
    if (known || head->has == BL_HEAD_ALL)
        return head->logits;
    head->counts.n_tokens++;
    if (!try_screen(head, compute, n_best, margin, NULL))
        return bl__head_all(head, compute);
    head->has = BL_HEAD_SOME;
    head->n_best = n_best;
    head->margin = margin;
    return head->logits;
}

/* Reads the allowed rows one by one; false when they are too many for that. */
static bool read_allowed(bl__head *head, bl__compute *compute, const uint64_t *allowed) {
    pass p = {.head = head, .compute = compute};
    size_t rows = head->linear->rows;
    for (size_t r = 0; r < rows; r++) {
        if (!is_allowed(allowed, r))
            continue;
        if (p.n_ids == rows / MAX_SHARE)
            return false;
        head->ids[p.n_ids++] = (uint32_t)r;
    }
    head->has = BL_HEAD_NONE;
    for (size_t r = 0; r < rows; r++)
        head->logits[r] = -INFINITY;
    read_rows(&p);
    return true;
}

const float *bl__head_allowed(bl__head *head, bl__compute *compute, size_t n_best, float margin,
                              const uint64_t *allowed) {
    if (head->has == BL_HEAD_ALL)
        return head->logits;
    head->counts.n_tokens++;
    if (head->screen && (read_allowed(head, compute, allowed) ||
                         try_screen(head, compute, n_best, margin, allowed)))
        return head->logits;
    return bl__head_all(head, compute);
}
