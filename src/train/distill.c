/* Owns what a network learns from a teacher beside its logits (those are in loss.c): the teacher's
 * forward pass, and the loss between hidden states; that between attention relations is in
 * relations.c. Must not know how either network computes.
 *
 * With t and x the residual streams that a layer of the teacher and of the network leave, a token's
 * part of the loss and its gradient are (arXiv 2402.11295, equation 8)
 *
 *     |t / |t| - x / |x||^2 = 2 - 2 cos,  cos = t x / (|t| |x|)
 *     d / dx = -2 / |x| (t / |t| - cos x / |x|) */
#include <math.h>
#include <time.h>

#include "base/checked.h"
#include "base/error.h"
#include "train/graph.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bl_status bl__network_set_teacher(bl__network *net, bl__network *teacher, const bl__distillation *d,
                                  bl_error *err) {
    static const bl__distillation nothing = {.temperature = 1};
    const bl__network_config *own = &net->config, *other = teacher ? &teacher->config : own;
    bl__relations *relations = NULL;
    d = teacher ? d : &nothing;
    if (other->vocab != own->vocab)
        return bl__fail(err, BL_ERR_ARGUMENT, "a vocabulary of %u, expected the network's, %u",
                        other->vocab, own->vocab);
    if (d->hidden > 0 && (other->n_layers != own->n_layers || other->dim != own->dim))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%u layers of %u, expected the network's %u of %u for a loss between "
                        "hidden states (distill_hidden 0 leaves it out)",
                        other->n_layers, other->dim, own->n_layers, own->dim);
    if (teacher && (teacher->slice_tokens < net->slice_tokens || teacher->pool != net->pool))
        return bl__fail(err, BL_ERR_ARGUMENT, "batches of %zu tokens, expected %zu",
                        teacher->slice_tokens, net->slice_tokens);
    if (d->relations > 0) {
        bl_status status = bl__relations_create(net, teacher, d, &relations, err);
        if (status)
            return status;
    }
    bl__relations_free(net->relations);
    net->relations = relations;
    net->teacher = teacher;
    net->distillation = *d;
    return BL_OK;
}

double bl__network_hidden_loss(const bl__network *net) {
    return net->hidden_loss;
}
double bl__network_relation_loss(const bl__network *net) {
    return net->relation_loss;
}

void bl__teacher_forward(slice *s, slice *teacher) {
    double start = now();
    *teacher = *s;
    teacher->net = s->net->teacher;
    teacher->backward = false;
    teacher->gemm = teacher->net->gemm;
    teacher->logits = NULL;
    s->teacher = teacher;
    for (teacher->index = 0; teacher->index < teacher->net->config.n_layers; teacher->index++) {
        bl__layer_forward(teacher);
        bl__relations_keep(s->net->relations, teacher);
    }
    s->net->seconds[BL_PHASE_TEACHER] += now() - start;
}

/* What layer `index` leaves in the residual stream: float[n_tokens][dim]. */
static const float *stream_after(const bl__network *net, size_t index) {
    return index + 1 < net->config.n_layers ? net->layers[index + 1].x : net->final;
}

/* Adds the gradient of factor x loss to dx[dim]; returns the loss, 0 where a state has no
 * direction. */
static double compare_states(const bl__network *net, const float *t, const float *x, float factor,
                             float *dx) {
    size_t dim = net->config.dim;
    float tt = net->loops->dot(t, t, dim), xx = net->loops->dot(x, x, dim);
    float tx = net->loops->dot(t, x, dim);
    if (tt == 0 || xx == 0)
        return 0;
    float length = sqrtf(tt) * sqrtf(xx), cosine = tx / length;
    float of_t = -2.0f * factor / length, of_x = 2.0f * factor * cosine / xx;
    for (size_t i = 0; i < dim; i++)
        dx[i] += of_t * t[i] + of_x * x[i];
    return 2.0 - 2.0 * (double)cosine;
}

static void hidden_part(void *context, size_t part, size_t n_parts) {
    const slice *s = context;
    bl__network *net = s->net;
    size_t n = ceil_div(s->n_tokens, BLOCK_TOKENS), dim = net->config.dim;
    const float *t = stream_after(s->teacher->net, s->index), *x = stream_after(net, s->index);
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++) {
        size_t end = bl__min_size((i + 1) * BLOCK_TOKENS, s->n_tokens);
        double loss = 0;
        for (size_t at = i * BLOCK_TOKENS; at < end; at++)
            if (s->targets[at] >= 0)
                loss += compare_states(net, t + at * dim, x + at * dim,
                                       net->distillation.hidden * s->loss_scale,
                                       net->gradient + at * dim);
        net->hidden_losses[i] = loss;
    }
}

void bl__hidden_backward(slice *s) {
    bl__network *net = s->net;
    size_t n = ceil_div(s->n_tokens, BLOCK_TOKENS);
    bl__run_parts(net, BL_PHASE_TEACHER, hidden_part, s, n);
    for (size_t i = 0; i < n; i++)
        net->hidden_loss += net->hidden_losses[i];
}
