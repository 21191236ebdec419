/* Owns onebit linears, OneBit (arXiv 2402.11295): W[r][c] = out[r] sign(L[r][c]) in[c] with latent
 * weights L and two vectors. Products take W as floats; here are W itself, the way back from its
 * gradient G to those of the three,
 *
 *     dout[r] = sum over c of G in[c] sign      din[c] = sum over r of G out[r] sign
 *     dL[r][c] = G out[r] in[c]                 as if sign(L) were L
 *
 * and SVID, which finds vectors for weights: sign(W) with the rank-1 matrix nearest to |W|. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "train/graph.h"

enum { MAX_ROUNDS = 30 /* of power iteration; about ten are enough for |W| of a trained model */ };
static const double ROUND_GAIN = 1e-12; /* of the singular value, which errs by the square of what
                                         * its vectors do */

/* Of 0 and what is not a number +, as the packed layout has it: there a bit says "negative". */
static inline float with_sign(float value, float latent) {
    return latent < 0 ? -value : value;
}

void bl__onebit_rows(const linear *l, size_t first, size_t n, float *out) {
    const float *in = l->in_vector->value;
    for (size_t r = first; r < first + n; r++, out += l->cols) {
        const float *latent = l->param->value + r * l->cols;
        float scale = l->out_vector->value[r];
        for (size_t c = 0; c < l->cols; c++) /* a latent that is not finite must show */
            out[c] = with_sign(scale * in[c], latent[c]) + latent[c] * 0.0f;
    }
}

size_t bl__onebit_keep_signs(const linear *l, size_t first, size_t n) {
    size_t changed = 0, row_bytes = ceil_div(l->cols, 8);
    for (size_t r = first; r < first + n; r++) {
        const float *latent = l->param->value + r * l->cols;
        uint8_t *kept = l->signs + r * row_bytes;
        for (size_t at = 0; at < l->cols; at += 8) {
            unsigned bits = 0;
            for (size_t c = at; c < at + 8 && c < l->cols; c++)
                bits |= (unsigned)(latent[c] < 0) << (c - at);
            for (unsigned others = bits ^ kept[at / 8]; others; others &= others - 1)
                changed++;
            kept[at / 8] = (uint8_t)bits;
        }
    }
    return changed;
}

/* ---- gradients ---- */

static void map_gradient(const linear *l) {
    const float *in = l->in_vector->value;
    float *din = l->in_vector->grad;
    for (size_t r = 0; r < l->rows; r++) {
        const float *latent = l->param->value + r * l->cols;
        float *grad = l->param->grad + r * l->cols, scale = l->out_vector->value[r];
        double sum = 0;
        for (size_t c = 0; c < l->cols; c++) {
            float g = with_sign(grad[c], latent[c]);
            sum += (double)(g * in[c]);
            din[c] += g * scale;
            grad[c] *= scale * in[c];
        }
        l->out_vector->grad[r] += (float)sum;
    }
}

/* ---- SVID ---- */

/* to[r] = sum over c of |W| from[c], over divisor. */
static void multiply(const bl__param *w, const float *from, double divisor, float *to) {
    for (size_t r = 0; r < w->rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < w->cols; c++)
            sum += (double)(fabsf(w->value[r * w->cols + c]) * from[c]);
        to[r] = (float)(sum / divisor);
    }
}

/* to[c] = sum over r of |W| from[r], over divisor. */
static void multiply_transposed(const bl__param *w, const float *from, double divisor, float *to) {
    memset(to, 0, w->cols * sizeof *to);
    for (size_t r = 0; r < w->rows; r++) {
        float factor = (float)((double)from[r] / divisor);
        for (size_t c = 0; c < w->cols; c++)
            to[c] += fabsf(w->value[r * w->cols + c]) * factor;
    }
}

static double square_of(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static void scale(float *x, size_t n, double factor) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((double)x[i] * factor);
}

/* The leading singular vectors of |W| by power iteration, each times the root of the singular
 * value. They have no negative element, as |W| has none (Perron and Frobenius). Of zeros alone: out
 * is zero and in ones, so that a gradient can move out. */
static void factorize(const linear *l) {
    const bl__param *w = l->param;
    float *in = l->in_vector->value, *out = l->out_vector->value;
    double before = 0, in_square, out_square = 0;
    for (size_t c = 0; c < l->cols; c++)
        in[c] = 1.0f;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        in_square = square_of(in, l->cols);
        multiply(w, in, in_square, out);
        out_square = square_of(out, l->rows);
        if (!(out_square > 0))
            return;
        multiply_transposed(w, out, out_square, in);
        double value = sqrt(out_square * square_of(in, l->cols));
        if (fabs(value - before) <= ROUND_GAIN * value)
            break;
        before = value;
    }
    in_square = square_of(in, l->cols);
    double balance = sqrt(sqrt(in_square / out_square)); /* of two vectors of one length */
    scale(out, l->rows, balance);
    scale(in, l->cols, 1.0 / balance);
}

/* ---- jobs over all linears ---- */

typedef struct job {
    bl__network *net;
    void (*run)(const linear *);
} job;

static void run_linears(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    size_t n = j->net->config.n_layers * (size_t)N_LINEARS;
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++)
        j->run(&j->net->layers[i / N_LINEARS].linears[i % N_LINEARS]);
}

static void run_job(bl__network *net, bl__phase phase, void (*run)(const linear *)) {
    job j = {net, run};
    if (net->config.weights == BL_WEIGHTS_ONEBIT)
        bl__run_parts(net, phase, run_linears, &j, net->config.n_layers * (size_t)N_LINEARS);
}

void bl__network_finish_gradients(bl__network *net) {
    run_job(net, BL_PHASE_GRADIENTS, map_gradient);
}

void bl__network_factorize(bl__network *net) {
    run_job(net, BL_PHASE_QUANTIZE, factorize);
}
