/* Owns the count of what a token costs. Must not know how it is evaluated. */
#include "model/work.h"

#include "model/model.h"
#include "quant/skip.h"

/* Bytes of a matrix as it lies in memory; loading has shown that its size can be computed. */
static uint64_t linear_bytes(const bl__linear *linear) {
    size_t bytes = 0;
    (void)bl__layout_bytes(linear->layout, linear->rows, linear->cols, &bytes, NULL);
    size_t vector = linear->cols * sizeof(float);
    return bytes + (linear->norm ? vector : 0) + (linear->in_scale ? vector : 0);
}

static void add_linear(const bl__linear *linear, bl__work *work) {
    work->layer_bytes += linear_bytes(linear);
    work->int8_macs += (uint64_t)linear->rows * linear->cols * linear->n_digits;
}

static void add_layer(const bl__hparams *h, const bl__layer *layer, bl__work *work) {
    const bl__linear *linears[] = {&layer->q, &layer->k, &layer->v, &layer->gate, &layer->up};
    size_t norms = 2 * (size_t)h->dim;
    norms += layer->attn_sub_norm ? (size_t)h->n_heads * h->head_dim : 0;
    norms += layer->ffn_sub_norm ? h->ffn_dim : 0;
    work->layer_bytes += norms * sizeof(float);
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++)
        add_linear(linears[i], work);
    for (size_t g = 0; g < h->n_groups; g++) {
        add_linear(&layer->o[g], work);
        add_linear(&layer->down[g], work);
    }
}

bl__work bl__model_work(const bl_model *model) {
    const bl__hparams *h = &model->hparams;
    bl__work work = {.head_bytes = linear_bytes(&model->head) + h->dim * sizeof(float),
                     .token_bytes = linear_bytes(&model->embedding) / h->vocab};
    work.row_bytes = work.column_bytes = bl__skip_stride(h->dim);
    for (size_t i = 0; i < h->n_layers; i++)
        add_layer(h, &model->layers[i], &work);
    return work;
}
