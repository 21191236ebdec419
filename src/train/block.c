/* Owns a layer outside attention: norms, products and activations of one block of tokens after the
 * other, forward beside backward. Must not know attention or how products are done.
 *
 *     forward    n1 = norm(x; attn)   q, k, v = n1 W^T, rotated          | attention |
 *                h = x + norm(a; sub) Wo^T    g = act(n2 Wgate^T) * n2 Wup^T, n2 = norm(h; ffn)
 *                x' = h + norm(g; sub) Wdown^T
 * The gradient of the residual stream, net->gradient, is that of x', then of h, then of x. */
#include "train/graph.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

/* Tokens of one block: t ... t + n - 1 of the slice. */
typedef struct block {
    slice *s;
    bl__network *net;
    layer *l;
    scratch *w;
    size_t index, t, n;
} block;

/* The columns first ... first + n - 1 that the norm of an input takes alone, and its factor for
 * each token of the block. */
typedef struct norm_group {
    size_t first, n;
    float *rstd;
} norm_group;

static norm_group norm_group_of(const block *b, const input *in, size_t index) {
    size_t n = in->cols / in->norm_groups;
    return (norm_group){index * n, n, in->rstd + index * b->net->slice_tokens + b->t};
}

/* out[n][cols] = norm of x[n][cols], by the operations of bl__rms_norm(); or x itself where there
 * is no norm. */
static const float *normalize(const block *b, input *in, const float *x, float *out) {
    if (in->norm->rows == 0)
        return x;
    for (size_t index = 0; index < in->norm_groups; index++) {
        norm_group g = norm_group_of(b, in, index);
        for (size_t i = 0; i < b->n; i++) {
            size_t at = i * in->cols + g.first;
            float squares;
            b->net->kernels->dot_rows(x + at, g.n, 1, g.n, x + at, g.n, 1, &squares, 1);
            g.rstd[i] = 1.0f / sqrtf(squares / (float)g.n + b->net->config.norm_eps);
            b->net->loops->norm_apply(x + at, in->norm->value + g.first, g.rstd[i], g.n, out + at);
        }
    }
    return out;
}

/* dx[n][cols] = or += the gradient behind the norm of x, given dy. Without a norm dy is dx already
 * (see where). The norm's own gradient goes to the block's row of partial sums. */
static void normalize_backward(const block *b, size_t which, const float *dy, const float *x,
                               bool accumulate, float *dx) {
    const input *in = &b->l->inputs[which];
    float *partial = b->net->partial[which] + b->index * in->cols;
    memset(partial, 0, in->cols * sizeof *partial);
    for (size_t index = 0; index < in->norm_groups; index++) {
        norm_group g = norm_group_of(b, in, index);
        for (size_t i = 0; i < b->n; i++) {
            size_t at = i * in->cols + g.first;
            b->net->loops->norm_backward(dy + at, x + at, in->norm->value + g.first, g.rstd[i], g.n,
                                         accumulate, dx + at, partial + g.first);
        }
    }
}

static void rotate(const block *b, float *x, size_t n_heads, float sign) {
    const bl__network *net = b->net;
    size_t d = net->config.head_dim, half = d / 2;
    for (size_t i = 0; i < b->n; i++) {
        size_t pos = (b->t + i) % b->s->row_tokens - first_seen(b->s, b->t + i);
        for (size_t head = 0; head < n_heads; head++)
            net->loops->rope(x + ((b->t + i) * n_heads + head) * d, half, net->cosines + pos * half,
                             net->sines + pos * half, sign);
    }
}

/* ---- forward ---- */

static void forward_to_attention(const block *b) {
    bl__network *net = b->net;
    const bl__network_config *c = &net->config;
    layer *l = b->l;
    input *in = &l->inputs[INPUT_ATTN];
    const float *z = normalize(b, in, l->x + b->t * c->dim, b->w->a);
    bl__input_take(b->s, b->w, in, z, b->t, b->n, b->s->backward);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_Q], b->n, l->q + b->t * net->q_dim);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_K], b->n, l->k + b->t * net->kv_dim);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_V], b->n, l->v + b->t * net->kv_dim);
    rotate(b, l->q, c->n_heads, 1.0f);
    rotate(b, l->k, c->n_kv_heads, 1.0f);
}

/* to[n][dim] = from + delta */
static void add_residual(const block *b, const float *from, const float *delta, float *to) {
    size_t n = b->n * b->net->config.dim;
    memcpy(to, from, n * sizeof *to);
    b->net->loops->add(to, delta, n);
}

static void activate(const block *b, const float *gate, const float *up, float *out) {
    size_t n = b->n * b->net->config.ffn_dim;
    (b->net->config.relu2 ? b->net->loops->relu2_glu : b->net->loops->silu_glu)(gate, up, n, out);
}

static void forward_from_attention(const block *b) {
    bl__network *net = b->net;
    layer *l = b->l;
    scratch *w = b->w;
    size_t dim = net->config.dim, ffn = net->config.ffn_dim, at = b->t * dim;
    float *next = (b->s->index + 1 < net->config.n_layers ? l[1].x : net->final) + at;

    const float *z = normalize(b, &l->inputs[INPUT_O], l->attended + b->t * net->q_dim, w->a);
    bl__input_take(b->s, w, &l->inputs[INPUT_O], z, b->t, b->n, b->s->backward);
    bl__linear_forward(b->s, w, &l->linears[LINEAR_O], b->n, w->b);
    add_residual(b, l->x + at, w->b, l->h + at);

    z = normalize(b, &l->inputs[INPUT_FFN], l->h + at, w->a);
    bl__input_take(b->s, w, &l->inputs[INPUT_FFN], z, b->t, b->n, b->s->backward);
    float *gate = l->gate + b->t * ffn, *up = l->up + b->t * ffn;
    bl__linear_forward(b->s, w, &l->linears[LINEAR_GATE], b->n, gate);
    bl__linear_forward(b->s, w, &l->linears[LINEAR_UP], b->n, up);
    activate(b, gate, up, w->a);
    z = normalize(b, &l->inputs[INPUT_DOWN], w->a, w->b);
    bl__input_take(b->s, w, &l->inputs[INPUT_DOWN], z, b->t, b->n, b->s->backward);
    if (b->s->again)
        return;
    bl__linear_forward(b->s, w, &l->linears[LINEAR_DOWN], b->n, w->a);
    add_residual(b, l->h + at, w->a, next);
}

/* ---- backward ---- */

static void backward_to_attention(const block *b) {
    bl__network *net = b->net;
    layer *l = b->l;
    scratch *w = b->w;
    size_t dim = net->config.dim, ffn = net->config.ffn_dim;
    bool relu2 = net->config.relu2, sub_norms = net->config.sub_norms;
    float *dx = net->gradient + b->t * dim, *gate = l->gate + b->t * ffn, *up = l->up + b->t * ffn;

    bl__linear_backward(b->s, w, LINEAR_DOWN, dx, b->t, b->n, w->a, false);
    const float *dg = w->a;
    if (sub_norms) {
        activate(b, gate, up, w->b);
        normalize_backward(b, INPUT_DOWN, w->a, w->b, false, w->c);
        dg = w->c;
    }
    (relu2 ? net->loops->relu2_glu_backward
           : net->loops->silu_glu_backward)(dg, gate, up, b->n * ffn, w->b, w->d);
    bl__linear_backward(b->s, w, LINEAR_GATE, w->b, b->t, b->n, w->a, false);
    bl__linear_backward(b->s, w, LINEAR_UP, w->d, b->t, b->n, w->a, true);
    normalize_backward(b, INPUT_FFN, w->a, l->h + b->t * dim, true, dx);

    float *da = net->dattended + b->t * net->q_dim;
    bl__linear_backward(b->s, w, LINEAR_O, dx, b->t, b->n, sub_norms ? w->a : da, false);
    if (sub_norms)
        normalize_backward(b, INPUT_O, w->a, l->attended + b->t * net->q_dim, false, da);
    size_t d = net->config.head_dim, first = b->t * net->config.n_heads;
    for (size_t i = first; i < first + b->n * net->config.n_heads; i++)
        net->output_dots[i] = net->loops->dot(l->attended + i * d, net->dattended + i * d, d);
}

static void backward_from_attention(const block *b) {
    bl__network *net = b->net;
    layer *l = b->l;
    scratch *w = b->w;
    const bl__network_config *c = &net->config;
    rotate(b, net->dq, c->n_heads, -1.0f);
    rotate(b, net->dk, c->n_kv_heads, -1.0f);
    size_t q_at = b->t * net->q_dim, kv_at = b->t * net->kv_dim;
    bl__linear_backward(b->s, w, LINEAR_Q, net->dq + q_at, b->t, b->n, w->a, false);
    bl__linear_backward(b->s, w, LINEAR_K, net->dk + kv_at, b->t, b->n, w->a, true);
    bl__linear_backward(b->s, w, LINEAR_V, net->dv + kv_at, b->t, b->n, w->a, true);
    normalize_backward(b, INPUT_ATTN, w->a, l->x + b->t * c->dim, true,
                       net->gradient + b->t * c->dim);
}

/* ---- jobs over the blocks of a slice ---- */

static void embed(const block *b) {
    size_t dim = b->net->config.dim;
    for (size_t i = b->t; i < b->t + b->n; i++)
        memcpy(b->l->x + i * dim, b->net->params[0].value + (size_t)b->s->inputs[i] * dim,
               dim * sizeof(float));
}

static void run_blocks(slice *s, size_t part, size_t n_parts, void (*run)(const block *)) {
    bl__network *net = s->net;
    size_t n = ceil_div(s->n_tokens, BLOCK_TOKENS);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
        block b = {.s = s, .net = net, .l = &net->layers[s->index], .w = &net->scratch[part]};
        b.index = i;
        b.t = i * BLOCK_TOKENS;
        b.n = bl__min_size(BLOCK_TOKENS, s->n_tokens - b.t);
        run(&b);
    }
}

static void before_attention(const block *b) {
    if (b->s->index == 0)
        embed(b);
    forward_to_attention(b);
}

static void before_part(void *context, size_t part, size_t n_parts) {
    run_blocks(context, part, n_parts, before_attention);
}
static void after_part(void *context, size_t part, size_t n_parts) {
    run_blocks(context, part, n_parts, forward_from_attention);
}
static void backward_before_part(void *context, size_t part, size_t n_parts) {
    run_blocks(context, part, n_parts, backward_to_attention);
}
static void backward_after_part(void *context, size_t part, size_t n_parts) {
    run_blocks(context, part, n_parts, backward_from_attention);
}

void bl__layer_forward(slice *s) {
    size_t n_blocks = ceil_div(s->n_tokens, BLOCK_TOKENS);
    bl__run_parts(s->net, BL_PHASE_TO_ATTENTION, before_part, s, n_blocks);
    bl__attention_forward(s);
    bl__run_parts(s->net, BL_PHASE_FROM_ATTENTION, after_part, s, n_blocks);
}

void bl__layer_recompute(slice *s) {
    s->again = true;
    bl__layer_forward(s);
    s->again = false;
}

/* Adds the blocks' sums to the norms' gradients, in the order of the blocks. */
static void reduce_norms(slice *s) {
    bl__network *net = s->net;
    size_t n_blocks = ceil_div(s->n_tokens, BLOCK_TOKENS);
    for (size_t which = 0; which < N_INPUTS; which++) {
        const input *in = &net->layers[s->index].inputs[which];
        for (size_t i = 0; in->norm->rows && i < n_blocks; i++)
            net->loops->add(in->norm->grad, net->partial[which] + i * in->cols, in->cols);
    }
}

void bl__layer_backward(slice *s) {
    size_t n_blocks = ceil_div(s->n_tokens, BLOCK_TOKENS);
    bl__run_parts(s->net, BL_PHASE_BACK_TO_ATTENTION, backward_before_part, s, n_blocks);
    bl__attention_backward(s);
    bl__run_parts(s->net, BL_PHASE_BACK_FROM_ATTENTION, backward_after_part, s, n_blocks);
    bl__linears_gradient(s);
    reduce_norms(s);
}
