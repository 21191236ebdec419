/* Owns causal attention, forward and backward, a row and KV head at a time in blocks of queries.
 * Must not know linears, norms or the rest of the layer.
 *
 *     P = softmax(Q K^T / sqrt(d)), kept as one number a query: log_sum = log sum exp
 *     O = P V             dV = P^T dO      dP = dO V^T
 *     dS = P (dP - sum_d O dO) / sqrt(d)   dQ = dS K      dK = dS^T Q
 * The sums of O dO come from block.c, which has both in its hands (net->output_dots).
 * No more than one block of P, [BLOCK_TOKENS][keys], exists at a time. A query sees the keys from
 * slice.firsts, which only grows along a row, to itself; a block skips what none of its sees. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "train/graph.h"

/* One row's KV head. */
typedef struct head_job {
    slice *s;
    bl__network *net;
    layer *l;
    scratch *w;
    const bl__gemm *gemm;
    size_t kv_head, first; /* first token of the row in the slice */
    size_t n, d, group;    /* tokens, head_dim, query heads */
    size_t q_stride, kv_stride;
    float scale;
} head_job;

/* A block of queries of one query head. */
typedef struct query_block {
    size_t head, t, n; /* query head; tokens t ... t + n - 1 of the row */
    size_t begin;      /* first key that any sees, down to a whole panel */
    size_t n_keys;     /* t + n: keys begin ... n_keys - 1 count */
    size_t late; /* as many of the last keys, whole panels, as of the first queries, which see none
                    of them: half the block, or 0 */
    size_t at;   /* of its first value in [tokens][q_dim] */
} query_block;

static head_job make_job(slice *s, size_t item, scratch *w) {
    bl__network *net = s->net;
    const bl__network_config *c = &net->config;
    size_t d = c->head_dim;
    return (head_job){.s = s,
                      .net = net,
                      .l = &net->layers[s->index],
                      .w = w,
                      .gemm = s->gemm,
                      .kv_head = item % c->n_kv_heads,
                      .first = item / c->n_kv_heads * s->row_tokens,
                      .n = s->row_tokens,
                      .d = d,
                      .group = c->n_heads / c->n_kv_heads,
                      .q_stride = net->q_dim,
                      .kv_stride = net->kv_dim,
                      .scale = 1.0f / sqrtf((float)d)};
}

static query_block make_block(const head_job *j, size_t g, size_t t) {
    query_block q = {.head = j->kv_head * j->group + g, .t = t};
    q.n = bl__min_size(BLOCK_TOKENS, j->n - t);
    q.begin = first_seen(j->s, j->first + t) / j->gemm->panel * j->gemm->panel;
    q.n_keys = t + q.n;
    q.late = q.n == BLOCK_TOKENS && BLOCK_TOKENS / 2 % j->gemm->panel == 0 ? BLOCK_TOKENS / 2 : 0;
    q.at = (j->first + t) * j->q_stride + q.head * j->d;
    return q;
}

static size_t kv_at(const head_job *j) {
    return j->first * j->kv_stride + j->kv_head * j->d;
}

/* out[n][begin ... n_keys] = x[n][d] times the panels of a transposed [keys][d]. */
static void multiply_keys(const head_job *j, const query_block *q, const float *x,
                          const void *keys_t, float *out) {
    size_t row_bytes = units_of(j->gemm, j->d) * 4, bytes = panel_bytes(j->gemm, j->d);
    size_t stride = j->net->score_stride, first_late = q->n_keys - q->late;
    const char *panels = keys_t;
    for (size_t i = 0; i < q->n; i++)
        j->gemm->pack_row(x + q->at + i * j->q_stride, j->d, 1.0f,
                          (char *)j->w->score_rows + i * row_bytes);
    bl__multiply_rows(j->gemm, j->w->score_rows, row_bytes, q->n,
                      panels + q->begin / j->gemm->panel * bytes, bytes, j->d,
                      first_late - q->begin, out + q->begin, stride, false);
    bl__multiply_rows(j->gemm, (char *)j->w->score_rows + q->late * row_bytes, row_bytes,
                      q->n - q->late, panels + first_late / j->gemm->panel * bytes, bytes, j->d,
                      q->late, out + q->late * stride + first_late, stride, false);
}

/* out[n][d] = the rows of [n][begin ... n_keys] in scratch times the panels of [keys][d]. */
static void multiply_values(const head_job *j, const query_block *q, const void *values,
                            float *out) {
    const bl__gemm *gemm = j->gemm;
    size_t row_bytes = units_of(gemm, q->n_keys - q->begin) * 4, stride = panel_bytes(gemm, j->n);
    size_t n_early = q->n_keys - q->late - q->begin;
    const char *panels = (const char *)values + panel_bytes(gemm, q->begin);
    const char *late_rows = (const char *)j->w->score_rows + q->late * row_bytes;
    bl__multiply_rows(gemm, j->w->score_rows, row_bytes, q->n, panels, stride, n_early, j->d,
                      out + q->at, j->q_stride, false);
    bl__multiply_rows(gemm, late_rows + units_of(gemm, n_early) * 4, row_bytes, q->n - q->late,
                      panels + panel_bytes(gemm, n_early), stride, q->late, j->d,
                      out + q->at + q->late * j->q_stride, j->q_stride, true);
}

/* What each query of a block sees, and its numbers. */
typedef struct block_rows {
    size_t first[BLOCK_TOKENS], end[BLOCK_TOKENS];
    float log_sums[BLOCK_TOKENS], factors[BLOCK_TOKENS], dots[BLOCK_TOKENS];
} block_rows;

static bl__score_block make_scores(const head_job *j, const query_block *q, block_rows *rows) {
    scratch *w = j->w;
    size_t n_keys = q->n_keys - q->begin;
    for (size_t i = 0; i < q->n; i++) {
        rows->first[i] = first_seen(j->s, j->first + q->t + i) - q->begin;
        rows->end[i] = q->t + i + 1 - q->begin;
    }
    return (bl__score_block){.scores = w->scores + q->begin,
                             .grads = w->grads + q->begin,
                             .stride = j->net->score_stride,
                             .n_rows = q->n,
                             .n_keys = n_keys,
                             .first = rows->first,
                             .end = rows->end,
                             .scale = j->scale,
                             .log_sums = rows->log_sums,
                             .factors = rows->factors,
                             .dots = rows->dots,
                             .rows = w->score_rows,
                             .row_bytes = units_of(j->gemm, n_keys) * 4,
                             .p_panels = w->score_panels[0],
                             .ds_panels = w->score_panels[1],
                             .panel_bytes = score_panel(j->gemm, q->n)};
}

/* Where a query's log_sum and output_dot lie. */
static size_t number_at(const head_job *j, const query_block *q, size_t i) {
    return (j->first + q->t + i) * j->net->config.n_heads + q->head;
}

/* ---- forward ---- */

static void forward_block(const head_job *j, const query_block *q) {
    block_rows rows;
    float *out = j->l->attended + q->at;
    multiply_keys(j, q, j->l->q, j->w->keys_t, j->w->scores);
    bl__score_block scores = make_scores(j, q, &rows);
    j->gemm->softmax(&scores);
    multiply_values(j, q, j->w->values, j->l->attended);
    for (size_t i = 0; i < q->n; i++) {
        j->net->loops->scale(out + i * j->q_stride, j->d, rows.factors[i]);
        j->l->log_sum[number_at(j, q, i)] = rows.log_sums[i];
    }
}

static void forward_item(slice *s, size_t item, scratch *w) {
    head_job j = make_job(s, item, w);
    size_t at = kv_at(&j);
    j.gemm->pack_panels_t(j.l->k + at, j.kv_stride, j.d, j.n, w->keys_t, panel_bytes(j.gemm, j.d));
    j.gemm->pack_panels(j.l->v + at, j.kv_stride, j.n, j.d, NULL, w->values,
                        panel_bytes(j.gemm, j.n));
    for (size_t g = 0; g < j.group; g++)
        for (size_t t = 0; t < j.n; t += BLOCK_TOKENS) {
            query_block q = make_block(&j, g, t);
            forward_block(&j, &q);
        }
}

/* ---- backward ---- */

/* out[begin ... n_keys][d] += p^T x[n][d], both in panels over the block's queries. */
static void add_transposed(const head_job *j, const query_block *q, const void *p,
                           const void *panels, float *out) {
    const bl__gemm *gemm = j->gemm;
    size_t bytes = panel_bytes(gemm, q->n), p_bytes = score_panel(gemm, q->n);
    for (size_t key = q->begin; key < q->n_keys; key += gemm->panel) {
        size_t first = key < q->n_keys - q->late ? 0 : q->late, skip = panel_bytes(gemm, first);
        const char *a = (const char *)p + (key - q->begin) / gemm->panel * p_bytes + skip;
        const char *b = (const char *)panels + skip;
        for (size_t c = 0; c < j->d; c += gemm->panel, b += bytes)
            gemm->multiply(a, 4, gemm->panel * 4, b, units_of(gemm, q->n - first),
                           out + key * j->kv_stride + c, j->kv_stride,
                           bl__min_size(gemm->panel, q->n_keys - key),
                           bl__min_size(gemm->panel, j->d - c), true, NULL);
    }
}

static void backward_block(const head_job *j, const query_block *q) {
    const bl__network *net = j->net;
    scratch *w = j->w;
    block_rows rows;
    const float *queries = j->l->q + q->at, *dout = net->dattended + q->at;
    size_t bytes = panel_bytes(j->gemm, q->n), at = kv_at(j);
    multiply_keys(j, q, j->l->q, w->keys_t, w->scores);
    multiply_keys(j, q, net->dattended, w->values_t, w->grads);
    bl__score_block scores = make_scores(j, q, &rows);
    for (size_t i = 0; i < q->n; i++) {
        rows.log_sums[i] = j->l->log_sum[number_at(j, q, i)];
        rows.dots[i] = net->output_dots[number_at(j, q, i)];
    }
    j->gemm->softmax_backward(&scores);
    multiply_values(j, q, w->keys, net->dq);
    j->gemm->pack_panels(queries, j->q_stride, q->n, j->d, NULL, w->small[0], bytes);
    j->gemm->pack_panels(dout, j->q_stride, q->n, j->d, NULL, w->small[1], bytes);
    add_transposed(j, q, w->score_panels[1], w->small[0], net->dk + at);
    add_transposed(j, q, w->score_panels[0], w->small[1], net->dv + at);
}

static void backward_item(slice *s, size_t item, scratch *w) {
    head_job j = make_job(s, item, w);
    size_t at = kv_at(&j), by_dim = panel_bytes(j.gemm, j.d);
    const float *k = j.l->k + at, *v = j.l->v + at;
    j.gemm->pack_panels_t(k, j.kv_stride, j.d, j.n, w->keys_t, by_dim);
    j.gemm->pack_panels_t(v, j.kv_stride, j.d, j.n, w->values_t, by_dim);
    j.gemm->pack_panels(k, j.kv_stride, j.n, j.d, NULL, w->keys, panel_bytes(j.gemm, j.n));
    for (size_t i = 0; i < j.n; i++) {
        memset(j.net->dk + at + i * j.kv_stride, 0, j.d * sizeof(float));
        memset(j.net->dv + at + i * j.kv_stride, 0, j.d * sizeof(float));
    }
    for (size_t g = 0; g < j.group; g++)
        for (size_t t = 0; t < j.n; t += BLOCK_TOKENS) {
            query_block q = make_block(&j, g, t);
            backward_block(&j, &q);
        }
}

/* ---- jobs over the rows and KV heads of a slice ---- */

static size_t count_items(const slice *s) {
    return s->n_rows * s->net->config.n_kv_heads;
}

static void forward_part(void *context, size_t part, size_t n_parts) {
    slice *s = context;
    size_t n = count_items(s);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++)
        forward_item(s, i, own_scratch(s->net));
}

static void backward_part(void *context, size_t part, size_t n_parts) {
    slice *s = context;
    size_t n = count_items(s);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++)
        backward_item(s, i, own_scratch(s->net));
}

void bl__attention_forward(slice *s) {
    bl__run_parts(s->net, BL_PHASE_ATTENTION, forward_part, s, count_items(s));
}

void bl__attention_backward(slice *s) {
    bl__run_parts(s->net, BL_PHASE_ATTENTION_BACK, backward_part, s, count_items(s));
}
