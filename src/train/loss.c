/* Owns both ends of the network: final norm, tied head and cross-entropy, with targets or a
 * teacher's distribution, and the embedding's gradient. Must not know layers.
 *
 * Logits exist for HEAD_TOKENS tokens at a time; their gradients for a chunk of tokens, because the
 * head's weight gradient sums over tokens and is worth computing only for many of them at once. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "train/graph.h"

typedef struct head_block {
    slice *s;
    bl__network *net;
    scratch *w;
    size_t t, n; /* tokens of the slice */
} head_block;

static const bl__param *final_norm(const bl__network *net) {
    return &net->params[net->n_params - 1];
}

/* By the operations of bl__layer_norm() or bl__rms_norm(). */
static void normalize(const bl__network *net, const float *x, float *out, float stats[2]) {
    size_t dim = net->config.dim;
    float squares;
    if (net->config.layer_norm) {
        bl__layer_norm(net->kernels, x, net->config.norm_eps, dim, out, stats);
        return;
    }
    net->kernels->dot_rows(x, dim, 1, dim, x, dim, 1, &squares, 1);
    stats[1] = 1.0f / sqrtf(squares / (float)dim + net->config.norm_eps);
    net->loops->norm_apply(x, final_norm(net)->value, stats[1], dim, out);
}

/* Normalizes and packs the block; stats[n]: mean (of a LayerNorm) and rstd. */
static void take_input(const head_block *b, float (*stats)[2]) {
    bl__network *net = b->net;
    const bl__gemm *gemm = net->gemm;
    size_t dim = net->config.dim;
    const float *x = net->final + b->t * dim;
    for (size_t i = 0; i < b->n; i++, x += dim) {
        normalize(net, x, b->w->a + i * dim, stats[i]);
        b->s->gemm->pack_row(b->w->a + i * dim, dim, 1.0f,
                             (char *)b->w->rows + i * units_of(b->s->gemm, dim) * 4);
    }
    if (b->s->backward)
        gemm->pack_panels(b->w->a, dim, b->n, dim, NULL,
                          panels_at(gemm, net->head_input, b->t - b->s->chunk), chunk_panel(net));
}

/* Normalizes the block into stats and leaves its logits in scratch. */
static void make_logits(const head_block *b, float (*stats)[2]) {
    size_t vocab = b->net->config.vocab, dim = b->net->config.dim;
    take_input(b, stats);
    bl__multiply_rows(b->s->gemm, b->w->rows, units_of(b->s->gemm, dim) * 4, b->n,
                      forward_panels(b->s, &b->net->head), forward_panel_bytes(b->s, &b->net->head),
                      dim, vocab, b->w->logits, vocab, false);
}

/* The token's loss. Its logits become their gradients but for the factor, which packing applies. */
static double cross_entropy(const head_block *b, float *logits, int32_t target, float *factor) {
    const bl__train_kernels *loops = b->net->loops;
    size_t vocab = b->net->config.vocab;
    *factor = 0;
    if (target < 0)
        return 0;
    float max = loops->max(logits, vocab), wanted = logits[target];
    float sum = loops->exp_scaled(logits, vocab, 1.0f, max, logits);
    logits[target] -= sum;
    *factor = b->s->loss_scale / sum;
    return (double)max + log((double)sum) - (double)wanted;
}

/* The same where (1 - hard) of what is expected is the teacher's distribution, both over the
 * temperature: with p and t these distributions and q that without a temperature, d logits =
 * (1 - hard) / temperature (p - t) + hard (q - [at the target]). The teacher's logits are used up.
 */
static double soft_cross_entropy(const head_block *b, float *logits, float *teacher, int32_t target,
                                 float *factor) {
    const bl__train_kernels *loops = b->net->loops;
    size_t vocab = b->net->config.vocab;
    float hard = b->net->distillation.hard, scale = 1.0f / b->net->distillation.temperature;
    float *p = b->w->logits + HEAD_TOKENS * vocab;
    if (target < 0 || hard == 1)
        return cross_entropy(b, logits, target, factor);
    float max = loops->max(logits, vocab), wanted = logits[target];
    float sum_t =
        loops->exp_scaled(teacher, vocab, scale, scale * loops->max(teacher, vocab), teacher);
    float sum_p = loops->exp_scaled(logits, vocab, scale, scale * max, p), sum = 1;
    double soft = (double)(scale * max) + log((double)sum_p) -
                  (double)(scale / sum_t) * (double)loops->dot(teacher, logits, vocab);
    if (hard > 0)
        sum = loops->exp_scaled(logits, vocab, 1.0f, max, logits);
    loops->scale(logits, vocab, hard / sum);
    logits[target] -= hard;
    loops->scale(p, vocab, (1.0f - hard) * scale / sum_p);
    loops->add(logits, p, vocab);
    loops->scale(teacher, vocab, -(1.0f - hard) * scale / sum_t);
    loops->add(logits, teacher, vocab);
    *factor = b->s->loss_scale;
    return (double)(1.0f - hard) * soft +
           (double)hard * ((double)max + log((double)sum) - (double)wanted);
}

/* The teacher's logits of the block's tokens: float[n][vocab]. */
static float *teach(const head_block *b) {
    slice *s = b->s->teacher;
    float stats[HEAD_TOKENS][2];
    head_block of_teacher = {.s = s, .net = s->net, .w = own_scratch(s->net), b->t, b->n};
    make_logits(&of_teacher, stats);
    return of_teacher.w->logits;
}

/* From the gradients of logits to those of the residual stream, and panels for the head's own. */
static void backward(const head_block *b, float (*stats)[2], const float *factors) {
    bl__network *net = b->net;
    const bl__gemm *gemm = net->gemm;
    scratch *w = b->w;
    size_t dim = net->config.dim, vocab = net->config.vocab;
    size_t row_bytes = units_of(gemm, vocab) * 4;
    gemm->pack_panels(w->logits, vocab, b->n, vocab, factors,
                      panels_at(gemm, net->head_output, b->t - b->s->chunk), chunk_panel(net));
    for (size_t i = 0; i < b->n; i++)
        gemm->pack_row(w->logits + i * vocab, vocab, factors[i],
                       (char *)w->logit_rows + i * row_bytes);
    bl__multiply_rows(gemm, w->logit_rows, row_bytes, b->n, net->head.backward,
                      panel_bytes(gemm, vocab), vocab, dim, w->b, dim, false);
    float *partial = net->final_partial + b->t / HEAD_TOKENS * dim;
    memset(partial, 0, dim * sizeof *partial);
    for (size_t i = 0; i < b->n; i++) {
        const float *x = net->final + (b->t + i) * dim;
        float *dx = net->gradient + (b->t + i) * dim;
        if (net->config.layer_norm)
            net->loops->layer_norm_backward(w->b + i * dim, x, stats[i][0], stats[i][1], dim, false,
                                            dx);
        else
            net->loops->norm_backward(w->b + i * dim, x, final_norm(net)->value, stats[i][1], dim,
                                      false, dx, partial);
    }
}

static void run_block(const head_block *b) {
    bl__network *net = b->net;
    size_t vocab = net->config.vocab, row = b->s->row_tokens;
    float stats[HEAD_TOKENS][2], factors[HEAD_TOKENS];
    float *teacher = b->s->teacher ? teach(b) : NULL;
    double loss = 0;
    make_logits(b, stats);
    for (size_t i = 0; i < b->n; i++) {
        float *logits = b->w->logits + i * vocab;
        if (b->s->logits && b->t + i < row)
            memcpy(b->s->logits + (b->t + i) * vocab, logits, vocab * sizeof *logits);
        int32_t target = b->s->targets[b->t + i];
        loss += teacher ? soft_cross_entropy(b, logits, teacher + i * vocab, target, &factors[i])
                        : cross_entropy(b, logits, target, &factors[i]);
    }
    net->losses[b->t / HEAD_TOKENS] = loss;
    if (b->s->backward)
        backward(b, stats, factors);
}

static void head_part(void *context, size_t part, size_t n_parts) {
    slice *s = context;
    size_t n = ceil_div(s->chunk_end - s->chunk, HEAD_TOKENS);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
        head_block b = {.s = s, .net = s->net, .w = own_scratch(s->net)};
        b.t = s->chunk + i * HEAD_TOKENS;
        b.n = bl__min_size(HEAD_TOKENS, s->chunk_end - b.t);
        run_block(&b);
    }
}

static void head_gradient_part(void *context, size_t part, size_t n_parts) {
    const slice *s = context;
    const bl__network *net = s->net;
    const bl__gemm *gemm = net->gemm;
    size_t dim = net->config.dim, vocab = net->config.vocab, panel = gemm->panel;
    size_t n = ceil_div(vocab, panel), bytes = chunk_panel(net);
    size_t begin = n * part / n_parts, end = n * (part + 1) / n_parts;
    size_t first = begin * panel, past = bl__min_size(end * panel, vocab);
    bl__multiply_panels(gemm, (char *)net->head_output + begin * bytes, bytes, net->head_input,
                        bytes, s->chunk_end - s->chunk, net->params[0].grad + first * dim, dim,
                        past - first, dim);
}

double bl__head_run(slice *s) {
    bl__network *net = s->net;
    size_t n_blocks = ceil_div(s->n_tokens, HEAD_TOKENS);
    for (s->chunk = 0; s->chunk < s->n_tokens; s->chunk = s->chunk_end) {
        s->chunk_end = bl__min_size(s->chunk + net->chunk_tokens, s->n_tokens);
        bl__run_parts(net, BL_PHASE_HEAD, head_part, s,
                      ceil_div(s->chunk_end - s->chunk, HEAD_TOKENS));
        if (s->backward)
            bl__run_parts(net, BL_PHASE_HEAD_GRADIENT, head_gradient_part, s,
                          ceil_div(net->config.vocab, net->gemm->panel));
    }
    double loss = 0;
    for (size_t i = 0; i < n_blocks; i++)
        loss += net->losses[i];
    for (size_t i = 0; s->backward && final_norm(net)->rows && i < n_blocks; i++)
        net->loops->add(final_norm(net)->grad, net->final_partial + i * net->config.dim,
                        net->config.dim);
    return loss;
}

/* Columns of the embedding, so that no two parts meet in a row that several tokens took. */
static void embedding_part(void *context, size_t part, size_t n_parts) {
    const slice *s = context;
    const bl__network *net = s->net;
    size_t dim = net->config.dim;
    size_t begin = dim * part / n_parts, end = dim * (part + 1) / n_parts;
    for (size_t t = 0; t < s->n_tokens; t++)
        net->loops->add(net->params[0].grad + (size_t)s->inputs[t] * dim + begin,
                        net->gradient + t * dim + begin, end - begin);
}

void bl__embedding_gradient(slice *s) {
    bl__run_parts(s->net, BL_PHASE_EMBEDDING, embedding_part, s, ceil_div(s->net->config.dim, 64));
}
