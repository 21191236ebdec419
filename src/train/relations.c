/* Owns the loss between attention relations (arXiv 2510.13998, equations 10 to 12 and algorithm 1,
 * after MiniLM v2, arXiv 2012.15828). Must not know how either network computes.
 *
 * The queries of one layer, and likewise its keys and its values, are cut into heads. With u a
 * token's part of one over its length, and sums over the tokens of the document,
 *
 *     P_t = softmax_j(u_t u_j / temperature)    T_t the same of the teacher
 *     a token's part of the loss: KL(T_t | P_t), mean over heads, sum over queries, keys, values
 *     dS_t = P_t - T_t      dU = (dS + dS^T) U / temperature      dx = (dU - (u dU) u) / |x|
 *
 * Queries and keys are rotated as attention has them. A job is one head of one of the three in one
 * row; no more than BLOCK_TOKENS rows of P exist at a time in each. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "train/graph.h"

enum { STUDENT, TEACHER, N_SIDES };
enum { QUERIES, KEYS, VALUES, N_KINDS };

/* What one part of the job works in; width: of a head, of queries if that is more. */
typedef struct relation_part {
    float *units[N_SIDES]; /* float[n_tokens][width] */
    float *inverse;        /* float[n_tokens]: 1 / |x| of the student's; 0 for 0 */
    float *gradient;       /* float[n_tokens][width]: dU */
    float *row;            /* float[n_tokens] */
    size_t *ends;          /* size_t[n_tokens]: where in its row a token's document ends */
    void *across[N_SIDES]; /* panels of U^T [width][n_tokens] */
    void *down, *block;    /* panels of the student's U [n_tokens][width], and of a block of it */
} relation_part;

struct bl__relations {
    bl__arena arena;
    size_t layers[N_SIDES];
    size_t n_heads, all_heads, first_head; /* of this process, of the network, the first of these */
    float *taught[N_KINDS];                /* float[slice_tokens][...]: the teacher's q, k, v */
    double *losses;                        /* double[rows][N_KINDS][n_heads] */
    relation_part *parts;                  /* [n_parts] */
};

typedef struct relation_job {
    slice *s;
    bl__network *net;
    relation_part *p;
    scratch *w[N_SIDES];
    const bl__gemm *gemm;
    size_t first, n; /* tokens of the row in the slice */
    const float *x[N_SIDES];
    size_t stride[N_SIDES], width[N_SIDES];
    float *dx;
    float factor; /* of dU */
} relation_job;

/* ---- memory ---- */

static void *take(bl__arena *arena, size_t rows, size_t cols) {
    return bl__arena_alloc(arena, rows * cols, sizeof(float));
}

static void *take_panels(const bl__network *net, bl__arena *arena, size_t k, size_t n) {
    return bl__arena_alloc(arena, matrix_units(net->gemm, k, n), 4);
}

static void layout_part(const bl__network *net, const bl__network *teacher, const bl__relations *r,
                        bl__arena *arena, relation_part *p) {
    size_t n = net->max_tokens;
    const size_t widths[N_SIDES] = {net->q_dim / r->n_heads, teacher->q_dim / r->all_heads};
    for (size_t i = 0; i < N_SIDES; i++) {
        p->units[i] = take(arena, n, widths[i]);
        p->across[i] = take_panels(net, arena, widths[i], n);
    }
    p->inverse = take(arena, n, 1);
    p->gradient = take(arena, n, widths[STUDENT]);
    p->row = take(arena, n, 1);
    p->ends = bl__arena_alloc(arena, n, sizeof *p->ends);
    p->down = take_panels(net, arena, n, widths[STUDENT]);
    p->block = take_panels(net, arena, BLOCK_TOKENS, widths[STUDENT]);
}

static void layout(const bl__network *net, const bl__network *teacher, bl__relations *r,
                   bl__arena *arena) {
    const size_t dims[N_KINDS] = {teacher->q_dim, teacher->kv_dim, teacher->kv_dim};
    for (size_t i = 0; i < N_KINDS; i++)
        r->taught[i] = take(arena, net->slice_tokens, dims[i]);
    r->losses = bl__arena_alloc(arena, net->max_rows * N_KINDS * r->n_heads, sizeof *r->losses);
    for (size_t i = 0; i < net->n_parts; i++)
        layout_part(net, teacher, r, arena, &r->parts[i]);
}

/* The same layer counted from the last one; cuts that both networks and all processes can make. */
static bl_status place(const bl__network *net, const bl__network *teacher,
                       const bl__distillation *d, bl__relations *r, bl_error *err) {
    const bl__network_config *own = &net->whole, *other = &teacher->whole;
    uint32_t size = bl__processes_size(own->tensor);
    uint32_t nth = d->relation_layer ? d->relation_layer : own->n_layers;
    uint32_t heads = d->relation_heads ? d->relation_heads : own->n_kv_heads;
    if (nth > own->n_layers || other->n_layers + nth <= own->n_layers)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "relation_layer %u, which is as far from the last of %u layers as from the "
                        "teacher's %u",
                        nth, own->n_layers, other->n_layers);
    const uint32_t dims[] = {own->n_heads * own->head_dim, own->n_kv_heads * own->head_dim,
                             other->n_heads * other->head_dim, other->n_kv_heads * other->head_dim};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        if (dims[i] % heads)
            return bl__fail(err, BL_ERR_ARGUMENT,
                            "relation_heads %u, expected a divisor of the widths %u and %u of "
                            "queries and keys, and of the teacher's, %u and %u",
                            heads, dims[0], dims[1], dims[2], dims[3]);
    if (heads % size)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "relation_heads %u, expected a multiple of tensor_parallel, %u", heads,
                        size);
    r->layers[STUDENT] = nth - 1;
    r->layers[TEACHER] = other->n_layers + nth - own->n_layers - 1;
    r->all_heads = heads;
    r->n_heads = heads / size;
    r->first_head = r->n_heads * bl__processes_rank(own->tensor);
    return BL_OK;
}

bl_status bl__relations_create(const bl__network *net, const bl__network *teacher,
                               const bl__distillation *d, bl__relations **out, bl_error *err) {
    bl__arena measure = bl__arena_measuring();
    bl__relations *r = bl__calloc(1, sizeof *r);
    bl_status status = BL_ERR_MEMORY;
    if (!r || !(r->parts = bl__calloc(net->n_parts, sizeof *r->parts))) {
        bl__fail(err, status, "cannot allocate room for attention relations");
        goto fail;
    }
    if ((status = place(net, teacher, d, r, err)))
        goto fail;
    layout(net, teacher, r, &measure);
    if (measure.overflowed) {
        status = bl__fail(err, BL_ERR_LIMIT, "attention relations: their sizes overflow");
        goto fail;
    }
    if ((status = bl__arena_create(measure.used, &r->arena, err)))
        goto fail;
    layout(net, teacher, r, &r->arena);
    *out = r;
    return BL_OK;
fail:
    bl__relations_free(r);
    return status;
}

void bl__relations_free(bl__relations *r) {
    if (!r)
        return;
    bl__arena_destroy(&r->arena);
    bl__free(r->parts);
    bl__free(r);
}

size_t bl__relations_bytes(const bl__relations *r) {
    return r ? r->arena.size : 0;
}

/* ---- one head of one row ---- */

static void find_ends(const relation_job *j) {
    size_t end = j->n;
    for (size_t t = j->n; t-- > 0;) {
        if (t + 1 < j->n && first_seen(j->s, j->first + t) != first_seen(j->s, j->first + t + 1))
            end = t + 1;
        j->p->ends[t] = end;
    }
}

static void take_units(const relation_job *j, int side) {
    const bl__train_kernels *loops = j->net->loops;
    size_t width = j->width[side];
    float *u = j->p->units[side];
    for (size_t t = 0; t < j->n; t++, u += width) {
        const float *x = j->x[side] + t * j->stride[side];
        float squares = loops->dot(x, x, width);
        float inverse = squares > 0 ? 1.0f / sqrtf(squares) : 0.0f;
        memcpy(u, x, width * sizeof *u);
        loops->scale(u, width, inverse);
        if (side == STUDENT)
            j->p->inverse[t] = inverse;
    }
    j->gemm->pack_panels_t(j->p->units[side], width, width, j->n, j->p->across[side],
                           panel_bytes(j->gemm, width));
}

/* out[n][begin ... end - 1]: cosines between the tokens from t on and all of these. */
static void multiply_units(const relation_job *j, int side, size_t t, size_t n, size_t begin,
                           size_t end, float *out) {
    const bl__gemm *gemm = j->gemm;
    size_t width = j->width[side], row = units_of(gemm, width) * 4;
    char *rows = j->w[side]->rows;
    for (size_t i = 0; i < n; i++)
        gemm->pack_row(j->p->units[side] + (t + i) * width, width, 1.0f, rows + i * row);
    size_t bytes = panel_bytes(gemm, width);
    bl__multiply_rows(gemm, rows, row, n,
                      (const char *)j->p->across[side] + begin / gemm->panel * bytes, bytes, width,
                      end - begin, out + begin, j->net->score_stride, false);
}

/* KL(T | P) of the rows of cosines s[n] and taught[n]; s becomes the factor times P - T. */
static double compare_rows(const relation_job *j, float *s, float *taught, size_t n) {
    const bl__train_kernels *loops = j->net->loops;
    float scale = 1.0f / j->net->distillation.relation_temperature, *t = j->p->row;
    float max = scale * loops->max(s, n), max_t = scale * loops->max(taught, n);
    float sum_t = loops->exp_scaled(taught, n, scale, max_t, t);
    loops->scale(taught, n, -1.0f);
    loops->add(taught, s, n);
    double more = (double)(scale / sum_t) * (double)loops->dot(t, taught, n);
    float sum = loops->exp_scaled(s, n, scale, max, s);
    loops->scale(s, n, j->factor / sum);
    loops->scale(t, n, -j->factor / sum_t);
    loops->add(s, t, n);
    return (double)max - (double)max_t + log((double)sum / (double)sum_t) - more;
}

/* Rows of dS of a block of tokens times U, and its columns times theirs. */
static void add_gradients(const relation_job *j, size_t t, size_t n, size_t begin, size_t end) {
    const bl__gemm *gemm = j->gemm;
    scratch *w = j->w[STUDENT];
    size_t width = j->width[STUDENT], row = units_of(gemm, end - begin) * 4;
    size_t by_tokens = panel_bytes(gemm, j->n), by_block = panel_bytes(gemm, n);
    float *ds = w->scores + begin, *gradient = j->p->gradient;
    for (size_t i = 0; i < n; i++)
        gemm->pack_row(ds + i * j->net->score_stride, end - begin, 1.0f,
                       (char *)w->score_rows + i * row);
    bl__multiply_rows(gemm, w->score_rows, row, n,
                      (const char *)j->p->down + panel_bytes(gemm, begin), by_tokens, end - begin,
                      width, gradient + t * width, width, true);
    gemm->pack_panels(ds, j->net->score_stride, n, end - begin, NULL, w->score_panels[0],
                      score_panel(gemm, n));
    gemm->pack_panels(j->p->units[STUDENT] + t * width, width, n, width, NULL, j->p->block,
                      by_block);
    bl__multiply_panels(gemm, w->score_panels[0], score_panel(gemm, n), j->p->block, by_block, n,
                        gradient + begin * width, width, end - begin, width);
}

/* Losses and gradients of the tokens t ... t + n - 1. */
static double compare_block(const relation_job *j, size_t t, size_t n) {
    size_t stride = j->net->score_stride, panel = j->gemm->panel;
    size_t begin = first_seen(j->s, j->first + t) / panel * panel, end = j->p->ends[t + n - 1];
    float *scores = j->w[STUDENT]->scores, *taught = j->w[STUDENT]->grads;
    double loss = 0;
    multiply_units(j, STUDENT, t, n, begin, end, scores);
    multiply_units(j, TEACHER, t, n, begin, end, taught);
    for (size_t i = 0; i < n; i++) {
        size_t first = first_seen(j->s, j->first + t + i), last = j->p->ends[t + i];
        float *s = scores + i * stride;
        if (j->s->targets[j->first + t + i] < 0)
            last = first;
        else
            loss += compare_rows(j, s + first, taught + i * stride + first, last - first);
        memset(s + begin, 0, (first - begin) * sizeof *s);
        memset(s + last, 0, (end - last) * sizeof *s);
    }
    add_gradients(j, t, n, begin, end);
    return loss;
}

/* From dU to the gradient of x, added to what is there. */
static void finish(const relation_job *j) {
    const bl__train_kernels *loops = j->net->loops;
    size_t width = j->width[STUDENT];
    float *u = j->p->units[STUDENT], *du = j->p->gradient;
    for (size_t t = 0; t < j->n; t++, u += width, du += width) {
        loops->scale(u, width, -loops->dot(u, du, width));
        loops->add(du, u, width);
        loops->scale(du, width, j->p->inverse[t]);
        loops->add(j->dx + t * j->stride[STUDENT], du, width);
    }
}

static double run_job(const relation_job *j) {
    double loss = 0;
    size_t width = j->width[STUDENT];
    find_ends(j);
    take_units(j, STUDENT);
    take_units(j, TEACHER);
    j->gemm->pack_panels(j->p->units[STUDENT], width, j->n, width, NULL, j->p->down,
                         panel_bytes(j->gemm, j->n));
    memset(j->p->gradient, 0, j->n * width * sizeof *j->p->gradient);
    for (size_t t = 0; t < j->n; t += BLOCK_TOKENS)
        loss += compare_block(j, t, bl__min_size(BLOCK_TOKENS, j->n - t));
    finish(j);
    return loss;
}

/* ---- a slice ---- */

static relation_job make_job(slice *s, size_t part, size_t item) {
    bl__network *net = s->net, *teacher = s->teacher->net;
    const bl__relations *r = net->relations;
    const layer *l = &net->layers[s->index];
    size_t head = item % r->n_heads, kind = item / r->n_heads % N_KINDS;
    const float *const own[N_KINDS] = {l->q, l->k, l->v};
    float *const gradients[N_KINDS] = {net->dq, net->dk, net->dv};
    relation_job j = {.s = s, .net = net, .p = &r->parts[part], .gemm = s->gemm};
    j.w[STUDENT] = own_scratch(net);
    j.w[TEACHER] = own_scratch(teacher);
    j.n = s->row_tokens;
    j.first = item / r->n_heads / N_KINDS * j.n;
    j.stride[STUDENT] = kind == QUERIES ? net->q_dim : net->kv_dim;
    j.stride[TEACHER] = kind == QUERIES ? teacher->q_dim : teacher->kv_dim;
    j.width[STUDENT] = j.stride[STUDENT] / r->n_heads;
    j.width[TEACHER] = j.stride[TEACHER] / r->all_heads;
    j.x[STUDENT] = own[kind] + j.first * j.stride[STUDENT] + head * j.width[STUDENT];
    j.x[TEACHER] =
        r->taught[kind] + j.first * j.stride[TEACHER] + (r->first_head + head) * j.width[TEACHER];
    j.dx = gradients[kind] + j.first * j.stride[STUDENT] + head * j.width[STUDENT];
    j.factor = net->distillation.relations * s->loss_scale /
               ((float)r->all_heads * net->distillation.relation_temperature);
    return j;
}

static size_t count_items(const slice *s) {
    return s->n_rows * N_KINDS * s->net->relations->n_heads;
}

static void relations_part(void *context, size_t part, size_t n_parts) {
    slice *s = context;
    size_t n = count_items(s);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
        relation_job j = make_job(s, part, i);
        s->net->relations->losses[i] = run_job(&j);
    }
}

void bl__relations_keep(bl__relations *r, const slice *teacher) {
    const bl__network *net = teacher->net;
    const layer *l = &net->layers[teacher->index];
    if (!r || teacher->index != r->layers[TEACHER])
        return;
    memcpy(r->taught[QUERIES], l->q, teacher->n_tokens * net->q_dim * sizeof(float));
    memcpy(r->taught[KEYS], l->k, teacher->n_tokens * net->kv_dim * sizeof(float));
    memcpy(r->taught[VALUES], l->v, teacher->n_tokens * net->kv_dim * sizeof(float));
}

void bl__relations_backward(slice *s) {
    bl__network *net = s->net;
    const bl__relations *r = net->relations;
    if (!s->teacher || !r || s->index != r->layers[STUDENT])
        return;
    size_t n = count_items(s);
    bl__run_parts(net, BL_PHASE_TEACHER, relations_part, s, n);
    for (size_t i = 0; i < n; i++)
        net->relation_loss += r->losses[i] / (double)r->all_heads;
}
