/* Owns how dense products are split over threads. Must not know what is multiplied. */
#include "compress/products.h"

#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum {
    UNIT_BLOCK = 256, /* of k at a time: a strip of A and a panel of B stay in the first caches */
    ROWS_PER_PART = 64,
    MAX_PANEL = 64
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bl__products bl__products_make(bl__pool *pool) {
    return (bl__products){.gemm = &bl__train_kernels_get()->float32, .pool = pool};
}

void bl__products_free(bl__products *products) {
    bl__aligned_free(products->panels);
    *products = (bl__products){0};
}

static size_t n_panels(const bl__products *p, size_t n) {
    return (n + p->gemm->panel - 1) / p->gemm->panel;
}

bl_status bl__products_reserve(bl__products *p, size_t k, size_t n, bl_error *err) {
    size_t floats = 0, bytes = 0;
    if (!bl__mul_size(k, n_panels(p, n) * p->gemm->panel, &floats) ||
        !bl__mul_size(floats, sizeof(float), &bytes))
        return bl__fail(err, BL_ERR_LIMIT, "an operand of %zu x %zu is too large to address", k, n);
    if (floats <= p->room)
        return BL_OK;
    bl__aligned_free(p->panels);
    p->room = 0;
    p->panels = bl__aligned_alloc(bytes);
    if (!p->panels)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes for an operand", bytes);
    p->room = floats;
    return BL_OK;
}

/* One product, shared by the parts that do it. */
typedef struct job {
    const bl__products *p;
    bl__matrix a, b;
    size_t m, k, n;
    float *c;
    size_t c_stride;
    bool add, transposed;
    double *h;        /* of a gram matrix */
    const char *left; /* its left operand's panels; NULL: the same */
} job;

static size_t panel_bytes(const job *j) {
    return j->k * j->p->gemm->panel * sizeof(float);
}

static const char *panel_at(const job *j, size_t i) {
    return (const char *)j->p->panels + i * panel_bytes(j);
}

static void pack_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    const bl__gemm *gemm = j->p->gemm;
    size_t total = n_panels(j->p, j->n), first = total * part / n_parts;
    size_t end = total * (part + 1) / n_parts, col = first * gemm->panel;
    if (first == end)
        return;
    size_t n = bl__min_size(end * gemm->panel, j->n) - col;
    char *out = (char *)j->p->panels + first * panel_bytes(j);
    if (j->transposed)
        gemm->pack_panels_t(j->b.data + col * j->b.stride, j->b.stride, j->k, n, out,
                            panel_bytes(j));
    else
        gemm->pack_panels(j->b.data + col, j->b.stride, j->k, n, NULL, out, panel_bytes(j));
}

static void multiply_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    const bl__gemm *gemm = j->p->gemm;
    size_t first = j->m * part / n_parts, m = j->m * (part + 1) / n_parts - first;
    const float *a = j->a.data + first * j->a.stride;
    float *c = j->c + first * j->c_stride;
    for (size_t at = 0; at < j->k; at += UNIT_BLOCK) {
        size_t units = bl__min_size(UNIT_BLOCK, j->k - at), total = n_panels(j->p, j->n);
        for (size_t i = 0; i < total; i++) {
            const char *b = panel_at(j, i) + at * gemm->panel * sizeof(float);
            size_t col = i * gemm->panel;
            gemm->multiply(a + at, j->a.stride * sizeof(float), sizeof(float), b, units, c + col,
                           j->c_stride, m, bl__min_size(gemm->panel, j->n - col), j->add || at > 0,
                           i + 1 < total ? b + panel_bytes(j) : NULL);
        }
    }
}

static size_t parts_of(const bl__products *p, size_t n, size_t each) {
    size_t most = (size_t)bl__pool_threads(p->pool) * 4, parts = (n + each - 1) / each;
    return parts < most ? parts : most;
}

static void run(bl__products *p, job *j) {
    double start = seconds_now();
    if (!j->m || !j->n)
        return;
    bl__pool_run(p->pool, pack_part, j, parts_of(p, n_panels(p, j->n), 1));
    bl__pool_run(p->pool, multiply_part, j, parts_of(p, j->m, ROWS_PER_PART));
    p->seconds += seconds_now() - start;
    p->n_flops += 2.0 * (double)j->m * (double)j->n * (double)j->k;
}

void bl__multiply_t(bl__products *p, bl__matrix a, bl__matrix b, size_t m, size_t k, size_t n,
                    float *c, size_t c_stride, bool add) {
    job j = {p, a, b, m, k, n, c, c_stride, add, true, NULL, NULL};
    run(p, &j);
}

void bl__multiply(bl__products *p, bl__matrix a, bl__matrix b, size_t m, size_t k, size_t n,
                  float *c, size_t c_stride, bool add) {
    job j = {p, a, b, m, k, n, c, c_stride, add, false, NULL, NULL};
    run(p, &j);
}

/* Panels part, part + n_parts, ... of rows of h: a panel times itself and those after it. Every
 * element has one order of sums, whatever the threads. */
static void gram_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    const bl__gemm *gemm = j->p->gemm;
    size_t width = gemm->panel, total = n_panels(j->p, j->n);
    float c[MAX_PANEL * MAX_PANEL];
    for (size_t i = part; i < total; i += n_parts)
        for (size_t o = j->left ? 0 : i; o < total; o++) {
            const char *left = j->left ? j->left + i * panel_bytes(j) : panel_at(j, i);
            size_t m = bl__min_size(width, j->n - i * width);
            size_t n = bl__min_size(width, j->n - o * width);
            for (size_t at = 0; at < j->k; at += UNIT_BLOCK)
                gemm->multiply(left + at * width * sizeof(float), sizeof(float),
                               width * sizeof(float), panel_at(j, o) + at * width * sizeof(float),
                               bl__min_size(UNIT_BLOCK, j->k - at), c, width, m, n, at > 0, NULL);
            for (size_t r = 0; r < m; r++)
                for (size_t s = 0; s < n; s++)
                    j->h[(i * width + r) * j->n + o * width + s] += (double)c[r * width + s];
        }
}

void bl__gram_add(bl__products *p, const float *x, size_t k, size_t n, double *h) {
    double start = seconds_now();
    for (size_t at = 0; at < k; at += BL_GRAM_RUN) {
        job j = {
            .p = p, .b = {x + at * n, n}, .k = bl__min_size(BL_GRAM_RUN, k - at), .n = n, .h = h};
        bl__pool_run(p->pool, pack_part, &j, parts_of(p, n_panels(p, n), 1));
        bl__pool_run(p->pool, gram_part, &j, parts_of(p, n_panels(p, n), 1));
        p->n_flops += (double)n * (double)n * (double)j.k;
    }
    p->seconds += seconds_now() - start;
}

void bl__cross_add(bl__products *p, const float *a, const float *b, size_t k, size_t n, double *c) {
    double start = seconds_now();
    bl__products left = *p; /* packs into the second half of the room */
    left.panels += BL_GRAM_RUN * n_panels(p, n) * p->gemm->panel;
    for (size_t at = 0; at < k; at += BL_GRAM_RUN) {
        job j = {
            .p = p, .b = {b + at * n, n}, .k = bl__min_size(BL_GRAM_RUN, k - at), .n = n, .h = c};
        job l = j;
        l.p = &left;
        l.b.data = a + at * n;
        j.left = (const char *)left.panels;
        bl__pool_run(p->pool, pack_part, &j, parts_of(p, n_panels(p, n), 1));
        bl__pool_run(p->pool, pack_part, &l, parts_of(p, n_panels(p, n), 1));
        bl__pool_run(p->pool, gram_part, &j, parts_of(p, n_panels(p, n), 1));
        p->n_flops += 2.0 * (double)n * (double)n * (double)j.k;
    }
    p->seconds += seconds_now() - start;
}
