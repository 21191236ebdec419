/* Owns the update of parameters. Must not know what they mean. */
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checked.h"
#include "base/error.h"
#include "kernels/train_kernels.h"

enum { CHUNK = 1 << 14 /* weights that a part takes at a time; fixed, so sums are too */ };

/* A piece of one parameter. */
typedef struct chunk {
    size_t param, first, n;
} chunk;

struct bl__optimizer {
    bl__optimizer_config config;
    bl__param *params;
    size_t n_params;
    bl__pool *pool;
    bl__moments *moments;
    bl__arena arena; /* of the moments */
    size_t n_chunks;
    chunk *chunks;
    double *squares; /* double[n_chunks] */
    uint64_t n_steps;
    double decay;
    bl__adamw_step factors; /* of the update in hand, those of decay apart */
};

static size_t count_of(const bl__param *p) {
    return p->rows * p->cols;
}

static void layout(bl__optimizer *o, bl__arena *arena) {
    for (size_t i = 0; i < o->n_params; i++) {
        o->moments[i].first = bl__arena_alloc(arena, count_of(&o->params[i]), sizeof(float));
        o->moments[i].second = bl__arena_alloc(arena, count_of(&o->params[i]), sizeof(float));
    }
}

static size_t cut_chunks(const bl__optimizer *o, chunk *chunks) {
    size_t n = 0;
    for (size_t i = 0; i < o->n_params; i++)
        for (size_t at = 0; at < count_of(&o->params[i]); at += CHUNK, n++)
            if (chunks)
                chunks[n] = (chunk){i, at, bl__min_size(CHUNK, count_of(&o->params[i]) - at)};
    return n;
}

bl_status bl__optimizer_create(const bl__optimizer_config *config, bl__param *params,
                               size_t n_params, bl__pool *pool, bl__optimizer **out,
                               bl_error *err) {
    bl_status status = BL_ERR_MEMORY;
    bl__optimizer *o = bl__calloc(1, sizeof *o);
    if (!o)
        goto fail;
    o->config = *config;
    o->params = params;
    o->n_params = n_params;
    o->pool = pool;
    o->n_chunks = cut_chunks(o, NULL);
    o->moments = bl__calloc(n_params, sizeof *o->moments);
    o->chunks = bl__calloc(o->n_chunks, sizeof *o->chunks);
    o->squares = bl__calloc(o->n_chunks, sizeof *o->squares);
    if (!o->moments || !o->chunks || !o->squares)
        goto fail;
    cut_chunks(o, o->chunks);
    bl__arena measure = bl__arena_measuring();
    layout(o, &measure);
    if (measure.overflowed) {
        status = BL_ERR_LIMIT;
        goto fail;
    }
    if (bl__arena_create(measure.used, &o->arena, NULL) != BL_OK)
        goto fail;
    layout(o, &o->arena);
    *out = o;
    return BL_OK;
fail:
    bl__optimizer_free(o);
    return bl__fail(err, status, "cannot allocate the optimizer's state for %zu tensors", n_params);
}

void bl__optimizer_free(bl__optimizer *o) {
    if (!o)
        return;
    bl__arena_destroy(&o->arena);
    bl__free(o->moments);
    bl__free(o->chunks);
    bl__free(o->squares);
    bl__free(o);
}

bl__moments *bl__optimizer_moments(bl__optimizer *o) {
    return o->moments;
}
uint64_t bl__optimizer_steps(const bl__optimizer *o) {
    return o->n_steps;
}
void bl__optimizer_set_steps(bl__optimizer *o, uint64_t steps) {
    o->n_steps = steps;
}

/* ---- jobs over chunks ---- */

static void squares_part(void *context, size_t part, size_t n_parts) {
    const bl__optimizer *o = context;
    const bl__train_kernels *loops = bl__train_kernels_get();
    for (size_t i = o->n_chunks * part / n_parts; i < o->n_chunks * (part + 1) / n_parts; i++) {
        const chunk *c = &o->chunks[i];
        o->squares[i] = loops->sum_squares(o->params[c->param].grad + c->first, c->n);
    }
}

static void update_part(void *context, size_t part, size_t n_parts) {
    const bl__optimizer *o = context;
    const bl__train_kernels *loops = bl__train_kernels_get();
    for (size_t i = o->n_chunks * part / n_parts; i < o->n_chunks * (part + 1) / n_parts; i++) {
        const chunk *c = &o->chunks[i];
        const bl__param *p = &o->params[c->param];
        bl__adamw_step factors = o->factors;
        factors.keep = p->decays ? (float)(1.0 - o->decay) : 1.0f;
        loops->adamw(p->value + c->first, p->grad + c->first, o->moments[c->param].first + c->first,
                     o->moments[c->param].second + c->first, c->n, &factors);
    }
}

static void run(bl__optimizer *o, bl__part_fn fn) {
    bl__pool_run(o->pool, fn, o, bl__min_size(o->n_chunks, bl__pool_threads(o->pool) * 4));
}

double bl__optimizer_gradient_norm(bl__optimizer *o) {
    double total = 0;
    run(o, squares_part);
    for (size_t i = 0; i < o->n_chunks; i++)
        total += o->squares[i];
    return sqrt(total);
}

double bl__optimizer_step(bl__optimizer *o, double rate, double decay, double max_norm) {
    double norm = bl__optimizer_gradient_norm(o);
    if (!isfinite(norm)) {
        for (size_t i = 0; i < o->n_params; i++)
            memset(o->params[i].grad, 0, count_of(&o->params[i]) * sizeof(float));
        return norm;
    }
    double t = (double)++o->n_steps, beta1 = o->config.beta1, beta2 = o->config.beta2;
    double clip = max_norm > 0 ? max_norm / (norm + 1e-6) : 1.0;
    o->decay = rate * decay;
    o->factors = (bl__adamw_step){.clip = (float)(clip < 1.0 ? clip : 1.0),
                                  .beta1_rest = (float)(1.0 - beta1),
                                  .beta2 = (float)beta2,
                                  .beta2_rest = (float)(1.0 - beta2),
                                  .rate = (float)(rate / (1.0 - pow(beta1, t))),
                                  .root = (float)sqrt(1.0 - pow(beta2, t)),
                                  .eps = (float)o->config.eps};
    run(o, update_part);
    return norm;
}
