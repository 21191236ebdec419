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

/* Tokens of one block, or of a piece of one: t ... t + n - 1 of the slice. */
typedef struct block {
    slice *s;
    bl__network *net;
    layer *l;
    scratch *w;
    size_t index, t, n;
    size_t at; /* tokens of the block before a piece */
} block;

static block piece_of(const block *b, size_t at) {
    block piece = *b;
    piece.at = at;
    piece.t += at;
    piece.n = bl__min_size(PIECE_TOKENS, b->n - at);
    return piece;
}

/* The columns first ... first + n - 1 that the norm of an input takes alone, and its factor for
 * each token of the block. */
typedef struct norm_group {
    size_t first, n;
    float *rstd, *mean; /* mean: of a LayerNorm */
} norm_group;

static norm_group norm_group_of(const block *b, const input *in, size_t index) {
    size_t n = in->cols / in->norm_groups, at = index * b->net->slice_tokens + b->t;
    return (norm_group){index * n, n, in->rstd + at, in->mean ? in->mean + at : NULL};
}

static void layer_norm(const block *b, const input *in, norm_group g, const float *x, float *out) {
    for (size_t i = 0; i < b->n; i++) {
        float stats[2];
        size_t at = i * in->cols + g.first;
        bl__layer_norm(b->net->kernels, x + at, b->net->config.norm_eps, g.n, out + at, stats);
        g.mean[i] = stats[0];
        g.rstd[i] = stats[1];
    }
}

/* out[n][cols] = norm of x[n][cols], by the operations of bl__rms_norm() or bl__layer_norm(); or x
 * itself where there is no norm. */
static const float *normalize(const block *b, input *in, const float *x, float *out) {
    if (in->kind == NORM_NONE)
        return x;
    for (size_t index = 0; index < in->norm_groups; index++) {
        norm_group g = norm_group_of(b, in, index);
        if (in->kind == NORM_LAYER)
            layer_norm(b, in, g, x, out);
        for (size_t i = 0; in->kind == NORM_RMS && i < b->n; i++) {
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
    if (b->at == 0)
        memset(partial, 0, in->cols * sizeof *partial);
    for (size_t index = 0; index < in->norm_groups; index++) {
        norm_group g = norm_group_of(b, in, index);
        for (size_t i = 0; i < b->n; i++) {
            size_t at = i * in->cols + g.first;
            if (in->kind == NORM_LAYER)
                b->net->loops->layer_norm_backward(dy + at, x + at, g.mean[i], g.rstd[i], g.n,
                                                   accumulate, dx + at);
            else
                b->net->loops->norm_backward(dy + at, x + at, in->norm->value + g.first, g.rstd[i],
                                             g.n, accumulate, dx + at, partial + g.first);
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
    bl__input_take(b->s, b->w, in, z, 0, b->t, b->n, b->s->backward);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_Q], b->n, l->q + b->t * net->q_dim);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_K], b->n, l->k + b->t * net->kv_dim);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_V], b->n, l->v + b->t * net->kv_dim);
    rotate(b, l->q, c->n_heads, 1.0f);
    rotate(b, l->k, c->n_kv_heads, 1.0f);
}

static void activate(const block *b, const float *gate, const float *up, float *out) {
    size_t n = b->n * b->net->config.ffn_dim;
    (b->net->config.relu2 ? b->net->loops->relu2_glu : b->net->loops->silu_glu)(gate, up, n, out);
}

/* Where the block's part of a sum over processes goes. */
static float *sums_of(const block *b) {
    return b->net->sums + b->t * b->net->config.dim;
}

/* y[n][dim]: the product of o. */
static void project_attention(const block *b, float *y) {
    layer *l = b->l;
    const float *z = normalize(b, &l->inputs[INPUT_O], l->attended + b->t * b->net->q_dim, b->w->a);
    bl__input_take(b->s, b->w, &l->inputs[INPUT_O], z, 0, b->t, b->n, b->s->backward);
    bl__linear_forward(b->s, b->w, &l->linears[LINEAR_O], b->n, y);
}

static void add_attention(const block *b, const float *y) {
    size_t dim = b->net->config.dim, at = b->t * dim;
    b->net->loops->add_to(b->l->x + at, y, b->n * dim, b->l->h + at);
}

/* y[n][dim]: the product of down; scratch->a may be it. */
static void run_ffn(const block *b, float *y) {
    bl__network *net = b->net;
    layer *l = b->l;
    scratch *w = b->w;
    size_t dim = net->config.dim, ffn = net->config.ffn_dim;
    const float *z = normalize(b, &l->inputs[INPUT_FFN], l->h + b->t * dim, w->a);
    bl__input_take(b->s, w, &l->inputs[INPUT_FFN], z, 0, b->t, b->n, b->s->backward);
    float *gate = l->gate + b->t * ffn, *up = l->up + b->t * ffn;
    bl__linear_forward(b->s, w, &l->linears[LINEAR_GATE], b->n, gate);
    bl__linear_forward(b->s, w, &l->linears[LINEAR_UP], b->n, up);
    for (size_t i = 0; i < b->n; i += PIECE_TOKENS) {
        block piece = piece_of(b, i);
        activate(&piece, gate + i * ffn, up + i * ffn, w->a);
        z = normalize(&piece, &l->inputs[INPUT_DOWN], w->a, w->b);
        bl__input_take(b->s, w, &l->inputs[INPUT_DOWN], z, i, piece.t, piece.n, b->s->backward);
    }
    if (b->s->again)
        return;
    bl__linear_forward(b->s, w, &l->linears[LINEAR_DOWN], b->n, y);
}

static void add_ffn(const block *b, const float *y) {
    const bl__network *net = b->net;
    size_t dim = net->config.dim, at = b->t * dim;
    float *to = b->s->index + 1 < net->config.n_layers ? b->l[1].x : net->final;
    net->loops->add_to(b->l->h + at, y, b->n * dim, to + at);
}

static void forward_from_attention(const block *b) {
    project_attention(b, b->w->b);
    add_attention(b, b->w->b);
    run_ffn(b, b->w->a);
    if (!b->s->again)
        add_ffn(b, b->w->a);
}

/* The same in three stages, between which net->sums is summed. */
static void forward_to_o(const block *b) {
    project_attention(b, sums_of(b));
}
static void forward_to_down(const block *b) {
    add_attention(b, sums_of(b));
    run_ffn(b, sums_of(b));
}
static void forward_from_down(const block *b) {
    add_ffn(b, sums_of(b));
}

/* ---- backward ---- */

/* From the gradient of down's input to those of gate and up. */
static void activation_backward(const block *b, const float *dg, float *dgate, float *dup) {
    bl__network *net = b->net;
    scratch *w = b->w;
    size_t ffn = net->config.ffn_dim;
    const float *gate = b->l->gate + b->t * ffn, *up = b->l->up + b->t * ffn;
    if (net->config.sub_norms) {
        activate(b, gate, up, dgate);
        normalize_backward(b, INPUT_DOWN, dg, dgate, false, w->c);
        dg = w->c;
    }
    (net->config.relu2 ? net->loops->relu2_glu_backward
                       : net->loops->silu_glu_backward)(dg, gate, up, b->n * ffn, dgate, dup);
}

/* dz[n][dim]: of what gate and up read; scratch->a may be it. */
static void ffn_backward(const block *b, float *dz) {
    const bl__network *net = b->net;
    scratch *w = b->w;
    bl__linear_backward(b->s, w, LINEAR_DOWN, net->gradient + b->t * net->config.dim, b->t, b->n,
                        w->a, false);
    for (size_t i = 0; i < b->n; i += PIECE_TOKENS) {
        block piece = piece_of(b, i);
        size_t at = i * net->config.ffn_dim;
        activation_backward(&piece, w->a + at, w->b + at, w->d + at);
    }
    bl__gradient_pack(b->s, w, LINEAR_GATE, w->b, b->t, b->n, w->rows);
    bl__gradient_pack(b->s, w, LINEAR_UP, w->d, b->t, b->n, w->up_rows);
    bl__gradient_multiply(b->s, LINEAR_GATE, w->rows, b->n, dz, false);
    bl__gradient_multiply(b->s, LINEAR_UP, w->up_rows, b->n, dz, true);
}

/* From dz on to the residual stream, and through o. */
static void o_backward(const block *b, const float *dz) {
    bl__network *net = b->net;
    layer *l = b->l;
    scratch *w = b->w;
    size_t dim = net->config.dim;
    bool sub_norms = net->config.sub_norms;
    float *dx = net->gradient + b->t * dim, *da = net->dattended + b->t * net->q_dim;
    normalize_backward(b, INPUT_FFN, dz, l->h + b->t * dim, true, dx);

    bl__linear_backward(b->s, w, LINEAR_O, dx, b->t, b->n, sub_norms ? w->a : da, false);
    if (sub_norms)
        normalize_backward(b, INPUT_O, w->a, l->attended + b->t * net->q_dim, false, da);
    size_t d = net->config.head_dim, first = b->t * net->config.n_heads;
    for (size_t i = first; i < first + b->n * net->config.n_heads; i++)
        net->output_dots[i] = net->loops->dot(l->attended + i * d, net->dattended + i * d, d);
}

static void backward_to_attention(const block *b) {
    ffn_backward(b, b->w->a);
    o_backward(b, b->w->a);
}

/* dz[n][dim]: of what q, k and v read. */
static void qkv_backward(const block *b, float *dz) {
    bl__network *net = b->net;
    const bl__network_config *c = &net->config;
    rotate(b, net->dq, c->n_heads, -1.0f);
    rotate(b, net->dk, c->n_kv_heads, -1.0f);
    size_t q_at = b->t * net->q_dim, kv_at = b->t * net->kv_dim;
    bl__linear_backward(b->s, b->w, LINEAR_Q, net->dq + q_at, b->t, b->n, dz, false);
    bl__linear_backward(b->s, b->w, LINEAR_K, net->dk + kv_at, b->t, b->n, dz, true);
    bl__linear_backward(b->s, b->w, LINEAR_V, net->dv + kv_at, b->t, b->n, dz, true);
}

static void input_backward(const block *b, const float *dz) {
    size_t at = b->t * b->net->config.dim;
    normalize_backward(b, INPUT_ATTN, dz, b->l->x + at, true, b->net->gradient + at);
}

static void backward_from_attention(const block *b) {
    qkv_backward(b, b->w->a);
    input_backward(b, b->w->a);
}

/* The same in four stages, with sums over processes after the first and the third. */
static void backward_to_ffn(const block *b) {
    ffn_backward(b, sums_of(b));
}
static void backward_to_o(const block *b) {
    o_backward(b, sums_of(b));
}
static void backward_to_qkv(const block *b) {
    qkv_backward(b, sums_of(b));
}
static void backward_to_input(const block *b) {
    input_backward(b, sums_of(b));
}

/* ---- jobs over the blocks of a slice ---- */

static void embed(const block *b) {
    size_t dim = b->net->config.dim;
    for (size_t i = b->t; i < b->t + b->n; i++)
        memcpy(b->l->x + i * dim, b->net->params[0].value + (size_t)b->s->inputs[i] * dim,
               dim * sizeof(float));
}

typedef struct job {
    slice *s;
    void (*run)(const block *);
} job;

static void run_blocks(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    slice *s = j->s;
    bl__network *net = s->net;
    size_t n = ceil_div(s->n_tokens, BLOCK_TOKENS);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
        block b = {.s = s, .net = net, .l = &net->layers[s->index], .w = own_scratch(net)};
        b.index = i;
        b.t = i * BLOCK_TOKENS;
        b.n = bl__min_size(BLOCK_TOKENS, s->n_tokens - b.t);
        j->run(&b);
    }
}

static void run_job(slice *s, bl__phase phase, void (*run)(const block *)) {
    job j = {s, run};
    bl__run_parts(s->net, phase, run_blocks, &j, ceil_div(s->n_tokens, BLOCK_TOKENS));
}

static void before_attention(const block *b) {
    if (b->s->index == 0)
        embed(b);
    forward_to_attention(b);
}

void bl__layer_forward(slice *s) {
    run_job(s, BL_PHASE_TO_ATTENTION, before_attention);
    bl__attention_forward(s);
    if (!s->net->sums) {
        run_job(s, BL_PHASE_FROM_ATTENTION, forward_from_attention);
        return;
    }
    run_job(s, BL_PHASE_FROM_ATTENTION, forward_to_o);
    bl__sum_over_processes(s);
    run_job(s, BL_PHASE_FROM_ATTENTION, forward_to_down);
    if (s->again)
        return;
    bl__sum_over_processes(s);
    run_job(s, BL_PHASE_FROM_ATTENTION, forward_from_down);
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
    bool is_alone = !s->net->sums;
    if (is_alone) {
        run_job(s, BL_PHASE_BACK_TO_ATTENTION, backward_to_attention);
    } else {
        run_job(s, BL_PHASE_BACK_TO_ATTENTION, backward_to_ffn);
        bl__sum_over_processes(s);
        run_job(s, BL_PHASE_BACK_TO_ATTENTION, backward_to_o);
    }
    bl__attention_backward(s);
    bl__relations_backward(s);
    if (is_alone) {
        run_job(s, BL_PHASE_BACK_FROM_ATTENTION, backward_from_attention);
    } else {
        run_job(s, BL_PHASE_BACK_FROM_ATTENTION, backward_to_qkv);
        bl__sum_over_processes(s);
        run_job(s, BL_PHASE_BACK_FROM_ATTENTION, backward_to_input);
    }
    bl__linears_gradient(s);
    reduce_norms(s);
}
