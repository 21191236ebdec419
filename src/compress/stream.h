/* Private to compress/: the calibration text on its way through a float model, one layer at a time.
 *
 * A layer is gone through in stages, so that what each matrix sees comes from the matrices before
 * it as they are by then, compressed or not; between stages, H = 2 X^T X of the inputs is there. A
 * second path may keep to the float weights, for what the inputs would have been.
 * Memory: for each path the residual stream and the attended values of all tokens, and one sample's
 * activations. */
#ifndef BL_COMPRESS_STREAM_H
#define BL_COMPRESS_STREAM_H

#include "compress/products.h"
#include "model/attention.h"
#include "model/model.h"

/* The matrices of a layer, in the order in which they are compressed. */
typedef enum bl__matrix_id {
    BL_MATRIX_Q,
    BL_MATRIX_K,
    BL_MATRIX_V,
    BL_MATRIX_O,
    BL_MATRIX_GATE,
    BL_MATRIX_UP,
    BL_MATRIX_DOWN,
    BL_N_MATRICES
} bl__matrix_id;

/* "attn_q" ...: as tensors are called between "blk.N." and ".weight". */
const char *bl__matrix_name(bl__matrix_id id);
const bl__linear *bl__layer_matrix(const bl__layer *layer, bl__matrix_id id);

/* Inputs that matrices share: one Hessian each. */
typedef enum bl__input {
    BL_INPUT_QKV,
    BL_INPUT_O,
    BL_INPUT_GATE_UP,
    BL_INPUT_DOWN,
    BL_N_INPUTS
} bl__input;

/* The text as one set of weights takes it. */
typedef struct bl__path {
    float *x;                            /* float[n_samples * length][dim]: the residual stream */
    float *attended;                     /* float[n_samples * length][n_heads * head_dim] */
    const float *weights[BL_N_MATRICES]; /* float[rows][cols] of the layer in hand; borrowed */
} bl__path;

typedef struct bl__stream {
    const bl_model *model;
    const bl__kernels *kernels;
    bl__products *products;
    bl__hparams one_layer; /* the model's, for a cache of one layer */
    bl__arena arena;
    bl__attention attention;
    bl__cache cache; /* of one sample at a time, as is pages, 0, 1 ... */
    uint32_t *pages;
    size_t n_samples, length;
    bl__path paths[2]; /* of the weights as they become, and of those of the model */
    size_t n_paths;
    float *normed; /* float[length][dim], of one sample, as are the next ones */
    float *q, *k, *v, *gate, *up;
    float *input; /* float[length][widest]: the first path's, while the second finds its own */
    /* Told after each sample; false to cancel. May be NULL. */
    bool (*progress)(void *user, size_t done, size_t n);
    void *user;
} bl__stream;

/* originals: the float model's weights, for a second path; NULL without. */
bl_status bl__stream_create(const bl_model *model, bl__products *products, float *const *weights,
                            float *const *originals, size_t n_samples, size_t length,
                            bl__stream **out, bl_error *err);
void bl__stream_free(bl__stream *stream);

/* x = the embeddings of tokens[n_samples * length]. */
void bl__stream_embed(bl__stream *stream, const bl_token *tokens);
/* Unpacks the matrices of layer i to floats: weights[id][rows][cols]. BL_ERR_FORMAT for what no
 * layout defines. */
bl_status bl__layer_unpack(const bl_model *model, size_t i, float *const *weights, bl_error *err);

/* Columns of an input's matrices. */
size_t bl__input_cols(const bl_model *model, bl__input input);
/* Goes on to where the input of the next matrices is known, and sets hessian[cols][cols], the upper
 * triangle of 2 X^T X / n_tokens, unless it is NULL, and with two paths cross[cols][cols], the
 * whole of 2 X'^T X / n_tokens, X' the second path's. Inputs come in their order, 0 first; the
 * weights before an input are final by then. BL_ERR_CANCELLED. */
bl_status bl__stream_advance(bl__stream *stream, size_t layer, bl__input input, double *hessian,
                             double *cross, bl_error *err);
/* The rest of the layer, after the last input. */
bl_status bl__stream_finish(bl__stream *stream, size_t layer, bl_error *err);

#endif
