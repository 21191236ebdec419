/* Owns the update of parameters. Must not know what they mean.
 *
 * Several processes share it as ZeRO-1 does (arXiv 1910.02054): each has the moments of its own
 * chunks alone; gradients are summed where they are needed, and new values go to all. */
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checked.h"
#include "base/error.h"
#include "kernels/train_kernels.h"

enum {
    CHUNK = 1 << 14 /* weights that a part takes at a time; fixed, so sums are too */,
    LINE = 16 /* floats of a cache line */
};

/* A piece of one parameter; flat is where it begins when all parameters lie in one row. */
typedef struct chunk {
    size_t param, first, n, flat;
} chunk;

struct bl__optimizer {
    bl__optimizer_config config;
    bl__param *params;
    size_t n_params;
    bl__pool *pool;
    bl__moments *moments; /* [n_params]: all of them, see bl__optimizer_moments() */
    bl__arena arena;      /* of the moments */
    size_t *flat;         /* [n_params + 1]: where parameters begin in the row */
    size_t n_chunks;
    chunk *chunks;
    double *squares; /* double[n_chunks] */
    uint64_t n_steps;
    double decay;
    bl__adamw_step factors; /* of the update in hand, those of decay apart */

    /* Process i updates chunks chunk_bounds[i] ... chunk_bounds[i + 1] - 1, which begin at
     * flat_bounds[i] of the row. This one's moments: float[its part of the row]. */
    bl__processes *processes, *tensor;
    size_t *chunk_bounds, *flat_bounds; /* [n_processes + 1] */
    float *first, *second;
    float *collected; /* float[the whole row], in process 0 of several */
};

static size_t count_of(const bl__param *p) {
    return p->rows * p->cols;
}

static size_t own_begin(const bl__optimizer *o) {
    return o->flat_bounds[bl__processes_rank(o->processes)];
}
static size_t own_end(const bl__optimizer *o) {
    return o->flat_bounds[bl__processes_rank(o->processes) + 1];
}

static void layout(bl__optimizer *o, bl__arena *arena) {
    bool alone = bl__processes_size(o->processes) == 1;
    size_t n = own_end(o) - own_begin(o);
    o->first = bl__arena_alloc(arena, n, sizeof(float));
    o->second = bl__arena_alloc(arena, n, sizeof(float));
    if (!alone && bl__processes_rank(o->processes) == 0)
        o->collected = bl__arena_alloc(arena, o->flat[o->n_params], sizeof(float));
    const float *second = alone ? o->second : o->collected;
    for (size_t i = 0; i < o->n_params && !arena->overflowed && arena->base; i++) {
        o->moments[i].first = alone ? o->first + o->flat[i] : o->params[i].grad;
        o->moments[i].second = second ? (float *)second + o->flat[i] : NULL;
    }
}

/* Parameters begin at cache lines of the row, as an arena lays them out. */
static void place_params(bl__optimizer *o) {
    for (size_t i = 0; i < o->n_params; i++) {
        size_t n = count_of(&o->params[i]);
        o->flat[i + 1] = o->flat[i] + (n + LINE - 1) / LINE * LINE;
    }
}

static size_t cut_chunks(const bl__optimizer *o, chunk *chunks) {
    size_t n = 0;
    for (size_t i = 0; i < o->n_params; i++)
        for (size_t at = 0; at < count_of(&o->params[i]); at += CHUNK, n++)
            if (chunks)
                chunks[n] = (chunk){i, at, bl__min_size(CHUNK, count_of(&o->params[i]) - at),
                                    o->flat[i] + at};
    return n;
}

static void share_chunks(bl__optimizer *o) {
    uint32_t size = bl__processes_size(o->processes);
    for (uint32_t i = 0; i <= size; i++) {
        size_t at = (size_t)bl__share(o->n_chunks, i, size);
        o->chunk_bounds[i] = at;
        o->flat_bounds[i] = at < o->n_chunks ? o->chunks[at].flat : o->flat[o->n_params];
    }
}

/* Several processes exchange values and gradients in long pieces, so these must lie in rows. */
static bool lie_in_rows(const bl__optimizer *o) {
    for (size_t i = 0; i < o->n_params; i++)
        if (o->params[i].value != o->params[0].value + o->flat[i] ||
            o->params[i].grad != o->params[0].grad + o->flat[i])
            return false;
    return true;
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
    o->processes = config->processes;
    o->tensor = config->tensor;
    size_t n_bounds = (size_t)bl__processes_size(o->processes) + 1;
    o->n_chunks = cut_chunks(o, NULL);
    o->moments = bl__calloc(n_params, sizeof *o->moments);
    o->flat = bl__calloc(n_params + 1, sizeof *o->flat);
    o->chunks = bl__calloc(o->n_chunks, sizeof *o->chunks);
    o->squares = bl__calloc(o->n_chunks, sizeof *o->squares);
    o->chunk_bounds = bl__calloc(n_bounds, sizeof *o->chunk_bounds);
    o->flat_bounds = bl__calloc(n_bounds, sizeof *o->flat_bounds);
    if (!o->moments || !o->flat || !o->chunks || !o->squares || !o->chunk_bounds || !o->flat_bounds)
        goto fail;
    place_params(o);
    cut_chunks(o, o->chunks);
    share_chunks(o);
    if (o->processes && !lie_in_rows(o)) {
        status = BL_ERR_ARGUMENT;
        goto fail;
    }
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
    bl__free(o->flat);
    bl__free(o->chunks);
    bl__free(o->squares);
    bl__free(o->chunk_bounds);
    bl__free(o->flat_bounds);
    bl__free(o);
}

size_t bl__optimizer_bytes(const bl__optimizer *o) {
    return o->arena.size;
}

/* A piece of the row of gradients. */
static void zero_gradients(bl__optimizer *o, size_t begin, size_t end) {
    memset(o->params[0].grad + begin, 0, (end - begin) * sizeof(float));
}

bl__moments *bl__optimizer_moments(bl__optimizer *o) {
    size_t begin = own_begin(o), n = own_end(o) - begin;
    if (!o->processes)
        return o->moments;
    float *to = o->params[0].grad;
    memcpy(to + begin, o->second, n * sizeof *to);
    bl__processes_collect(o->processes, to, o->flat_bounds, sizeof *to);
    if (o->collected)
        memcpy(o->collected, to, o->flat[o->n_params] * sizeof *to);
    memcpy(to + begin, o->first, n * sizeof *to);
    bl__processes_collect(o->processes, to, o->flat_bounds, sizeof *to);
    return o->moments;
}

void bl__optimizer_return_moments(bl__optimizer *o) {
    if (o->processes)
        zero_gradients(o, 0, o->flat[o->n_params]);
}

void bl__optimizer_set_moments(bl__optimizer *o, size_t param, bool second, const void *moments) {
    /* the parameter's place in the row, cut to this process's part */
    size_t begin = o->flat[param], end = begin + count_of(&o->params[param]), own = own_begin(o);
    size_t from = begin > own ? begin : own, to = bl__min_size(end, own_end(o));
    if (from < to)
        memcpy((second ? o->second : o->first) + (from - own),
               (const char *)moments + (from - begin) * sizeof(float), (to - from) * sizeof(float));
}

uint64_t bl__optimizer_steps(const bl__optimizer *o) {
    return o->n_steps;
}
void bl__optimizer_set_steps(bl__optimizer *o, uint64_t steps) {
    o->n_steps = steps;
}

/* ---- jobs over this process's chunks ---- */

static size_t n_own_chunks(const bl__optimizer *o) {
    uint32_t rank = bl__processes_rank(o->processes);
    return o->chunk_bounds[rank + 1] - o->chunk_bounds[rank];
}

static void squares_part(void *context, size_t part, size_t n_parts) {
    const bl__optimizer *o = context;
    const bl__train_kernels *loops = bl__train_kernels_get();
    size_t own = o->chunk_bounds[bl__processes_rank(o->processes)], n = n_own_chunks(o);
    for (size_t i = own + n * part / n_parts; i < own + n * (part + 1) / n_parts; i++) {
        const chunk *c = &o->chunks[i];
        o->squares[i] = loops->sum_squares(o->params[c->param].grad + c->first, c->n);
    }
}

static void update_part(void *context, size_t part, size_t n_parts) {
    const bl__optimizer *o = context;
    const bl__train_kernels *loops = bl__train_kernels_get();
    size_t own = o->chunk_bounds[bl__processes_rank(o->processes)], n = n_own_chunks(o);
    for (size_t i = own + n * part / n_parts; i < own + n * (part + 1) / n_parts; i++) {
        const chunk *c = &o->chunks[i];
        const bl__param *p = &o->params[c->param];
        size_t at = c->flat - own_begin(o);
        bl__adamw_step factors = o->factors;
        factors.keep = p->decays ? (float)(1.0 - o->decay) : 1.0f;
        loops->adamw(p->value + c->first, p->grad + c->first, o->first + at, o->second + at, c->n,
                     &factors);
    }
}

static void run(bl__optimizer *o, bl__part_fn fn) {
    bl__pool_run(o->pool, fn, o, bl__min_size(n_own_chunks(o), bl__pool_threads(o->pool) * 4));
}

/* Of gradients that have been summed over processes, each in its own part. */
static double measure_norm(bl__optimizer *o) {
    double total = 0, parts = 0;
    run(o, squares_part);
    bl__processes_gather(o->processes, o->squares, o->chunk_bounds, sizeof *o->squares);
    for (size_t i = 0; i < o->n_chunks; i++)
        *(o->tensor && bl__param_is_part(&o->params[o->chunks[i].param]) ? &parts : &total) +=
            o->squares[i];
    bl__processes_sum(o->tensor, &parts, 1);
    return sqrt(total + parts);
}

double bl__optimizer_gradient_norm(bl__optimizer *o) {
    return measure_norm(o);
}

double bl__optimizer_step(bl__optimizer *o, double rate, double decay, double max_norm) {
    if (o->processes)
        bl__processes_sum_shares(o->processes, o->params[0].grad, o->flat_bounds);
    double norm = measure_norm(o);
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
    if (o->processes) {
        zero_gradients(o, 0, own_begin(o));
        zero_gradients(o, own_end(o), o->flat[o->n_params]);
        bl__processes_gather(o->processes, o->params[0].value, o->flat_bounds, sizeof(float));
    }
    return norm;
}
