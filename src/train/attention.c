/* Owns causal attention, forward and backward, a row and KV head at a time in blocks of queries.
 * Must not know linears, norms or the rest of the layer.
 *
 *     P = softmax(Q K^T / sqrt(d)), kept as one number a query: log_sum = log sum exp
 *     O = P V             dV = P^T dO      dP = dO V^T
 *     dS = P (dP - sum_d O dO) / sqrt(d)   dQ = dS K      dK = dS^T Q
 * The sums of O dO come from block.c, which has both in its hands (net->output_dots).
 * No more than one block of P, [BLOCK_TOKENS][keys], exists at a time. */
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
    size_t n_keys;     /* t + n */
    size_t at;         /* of its first value in [tokens][q_dim] */
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
    q.n_keys = t + q.n;
    q.at = (j->first + t) * j->q_stride + q.head * j->d;
    return q;
}

static size_t kv_at(const head_job *j) {
    return j->first * j->kv_stride + j->kv_head * j->d;
}

/* out[n][n_keys] = x[n][d] times the panels of a transposed [keys][d]. */
static void multiply_keys(const head_job *j, const query_block *q, const float *x,
                          const void *keys_t, float *out) {
    size_t row_bytes = units_of(j->gemm, j->d) * 4;
    for (size_t i = 0; i < q->n; i++)
        j->gemm->pack_row(x + q->at + i * j->q_stride, j->d, 1.0f,
                          (char *)j->w->score_rows + i * row_bytes);
    bl__multiply_rows(j->gemm, j->w->score_rows, row_bytes, q->n, keys_t,
                      panel_bytes(j->gemm, j->d), j->d, q->n_keys, out, j->net->score_stride,
                      false);
}

/* out[n][d] = p[n][n_keys] times the panels of [keys][d]. */
static void multiply_values(const head_job *j, const query_block *q, const float *p,
                            const void *values, float *out) {
    size_t row_bytes = units_of(j->gemm, q->n_keys) * 4;
    for (size_t i = 0; i < q->n; i++)
        j->gemm->pack_row(p + i * j->net->score_stride, q->n_keys, 1.0f,
                          (char *)j->w->score_rows + i * row_bytes);
    bl__multiply_rows(j->gemm, j->w->score_rows, row_bytes, q->n, values,
                      panel_bytes(j->gemm, j->n), q->n_keys, j->d, out + q->at, j->q_stride, false);
}

/* ---- forward ---- */

/* Unnormalized probabilities of one query; what it cannot see gets 0. Returns 1 / their sum. */
static float softmax_row(const head_job *j, float *row, size_t n_seen, size_t n_keys,
                         float *log_sum) {
    const bl__train_kernels *loops = j->net->loops;
    float max = loops->max(row, n_seen) * j->scale;
    float sum = loops->exp_scaled(row, n_seen, j->scale, max, row);
    memset(row + n_seen, 0, (n_keys - n_seen) * sizeof *row);
    *log_sum = max + logf(sum);
    return 1.0f / sum;
}

static void forward_block(const head_job *j, const query_block *q) {
    const bl__network *net = j->net;
    float factors[BLOCK_TOKENS], *p = j->w->scores, *out = j->l->attended + q->at;
    multiply_keys(j, q, j->l->q, j->w->keys_t, p);
    for (size_t i = 0; i < q->n; i++)
        factors[i] =
            softmax_row(j, p + i * net->score_stride, q->t + i + 1, q->n_keys,
                        &j->l->log_sum[(j->first + q->t + i) * net->config.n_heads + q->head]);
    multiply_values(j, q, p, j->w->values, j->l->attended);
    for (size_t i = 0; i < q->n; i++)
        net->loops->scale(out + i * j->q_stride, j->d, factors[i]);
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

/* From scores and dP to P and dS, of one block. */
static void probabilities_backward(const head_job *j, const query_block *q, float *p, float *ds) {
    const bl__network *net = j->net;
    for (size_t i = 0; i < q->n; i++) {
        float *row = p + i * net->score_stride, *grad = ds + i * net->score_stride;
        size_t n_seen = q->t + i + 1, at = (j->first + q->t + i) * net->config.n_heads + q->head;
        size_t hidden = (q->n_keys - n_seen) * sizeof *row;
        net->loops->exp_scaled(row, n_seen, j->scale,
                               j->l->log_sum[(j->first + q->t + i) * net->config.n_heads + q->head],
                               row);
        net->loops->softmax_backward(row, grad, n_seen, net->output_dots[at], j->scale);
        memset(row + n_seen, 0, hidden);
        memset(grad + n_seen, 0, hidden);
    }
}

/* out[keys][d] += p[n][n_keys]^T x[n][d], the latter in panels. */
static void add_transposed(const head_job *j, const query_block *q, const float *p,
                           const void *panels, float *out) {
    const bl__gemm *gemm = j->gemm;
    size_t bytes = panel_bytes(gemm, q->n);
    gemm->pack_panels(p, j->net->score_stride, q->n, q->n_keys, NULL, j->w->score_panels, bytes);
    for (size_t key = 0; key < q->n_keys; key += gemm->panel)
        for (size_t c = 0; c < j->d; c += gemm->panel)
            gemm->multiply((char *)j->w->score_panels + key / gemm->panel * bytes, 4,
                           gemm->panel * 4, (const char *)panels + c / gemm->panel * bytes,
                           units_of(gemm, q->n), out + key * j->kv_stride + c, j->kv_stride,
                           bl__min_size(gemm->panel, q->n_keys - key),
                           bl__min_size(gemm->panel, j->d - c), true);
}

static void backward_block(const head_job *j, const query_block *q) {
    const bl__network *net = j->net;
    scratch *w = j->w;
    const float *queries = j->l->q + q->at, *dout = net->dattended + q->at;
    size_t bytes = panel_bytes(j->gemm, q->n), at = kv_at(j);
    multiply_keys(j, q, j->l->q, w->keys_t, w->scores);
    multiply_keys(j, q, net->dattended, w->values_t, w->grads);
    probabilities_backward(j, q, w->scores, w->grads);
    multiply_values(j, q, w->grads, w->keys, net->dq);
    j->gemm->pack_panels(queries, j->q_stride, q->n, j->d, NULL, w->small[0], bytes);
    j->gemm->pack_panels(dout, j->q_stride, q->n, j->d, NULL, w->small[1], bytes);
    add_transposed(j, q, w->grads, w->small[0], net->dk + at);
    add_transposed(j, q, w->scores, w->small[1], net->dv + at);
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
        forward_item(s, i, &s->net->scratch[part]);
}

static void backward_part(void *context, size_t part, size_t n_parts) {
    slice *s = context;
    size_t n = count_items(s);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++)
        backward_item(s, i, &s->net->scratch[part]);
}

void bl__attention_forward(slice *s) {
    bl__run_parts(s->net, BL_PHASE_ATTENTION, forward_part, s, count_items(s));
}

void bl__attention_backward(slice *s) {
    bl__run_parts(s->net, BL_PHASE_ATTENTION_BACK, backward_part, s, count_items(s));
}
