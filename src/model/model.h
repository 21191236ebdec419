/* Private to model/: hyper-parameters and weights of an opened model. All of it is constant once
 * bl_model_open() has returned. */
#ifndef BL_MODEL_MODEL_H
#define BL_MODEL_MODEL_H

#include "base/file.h"
#include "base/pool.h"
#include "bitloom/model.h"
#include "formats/gguf.h"
#include "kernels/kernels.h"
#include "model/screen.h"
#include "quant/quant.h"

typedef enum bl__activation { BL_ACTIVATION_SILU, BL_ACTIVATION_RELU2 } bl__activation;

typedef struct bl__hparams {
    char architecture[32];
    uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab, context_length;
    float norm_eps;        /* of every norm of the graph */
    float linear_norm_eps; /* of norms inside linears, before and after, where they exist */
    bl__activation activation;
    bool layer_norm;       /* LayerNorm without weights before every linear and the head, instead of
                              RMS norms: BitNet, arXiv 2310.11453 */
    bool int8_activations; /* linears quantize their input to int8 per token */
    bool rope_halves;      /* pairs (i, i + n_rot / 2); otherwise (2i, 2i + 1) */
    uint32_t n_rot;        /* elements of a head that rotate, even, <= head_dim */
    float rope_base;
    float rope_factor;      /* linear scaling: positions count 1 / factor; 1 = none */
    uint32_t n_groups;      /* of columns of o and down; divides n_kv_heads and ffn_dim */
    bool haar;              /* linears multiply the Haar transform of their input */
    bool output_layer_norm; /* LayerNorm without weights after every linear: OneBit, 2402.11295 */
} bl__hparams;

/* Reads and checks every hyper-parameter. Errors name the key. */
bl_status bl__hparams_read(const bl__gguf *gguf, bl__hparams *out, bl_error *err);

/* y = x W^T for weights[rows][cols]. */
typedef struct bl__linear {
    size_t rows, cols;
    bl__layout layout;
    const uint8_t *data; /* in the file's map, or in `owned` */
    void *owned;         /* repacked weights, or NULL */
    size_t owned_bytes;
    /* Activations become integers first: int8, one step a token, as a model was trained (1), or as
     * many digits, which stand for floats (kernels.h); 0: they stay floats. */
    unsigned n_digits;
    float scale;       /* multiplies the result */
    const float *norm; /* float[cols]: RMS norm of the input inside this linear; NULL = none */
    float *in_scale;   /* float[cols], owned: multiplies the input, after the norm; NULL = none */
    bool haar;         /* then the input is transformed, see quant/binarized.h */
    bool output_norm;  /* LayerNorm without weights of the result */
} bl__linear;

/* Whether a linear changes its input before it is quantized, so that others cannot share it. */
static inline bool bl__linear_changes_input(const bl__linear *linear) {
    return linear->norm || linear->in_scale || linear->haar;
}

typedef struct bl__layer {
    const float *attn_norm, *attn_sub_norm; /* float[dim], float[n_heads * head_dim] or NULL */
    const float *ffn_norm, *ffn_sub_norm;   /* float[dim], float[ffn_dim] or NULL */
    bl__linear q, k, v, gate, up;
    /* [n_groups] each: [dim][n_heads * head_dim / n_groups] and [dim][ffn_dim / n_groups]. Each
     * multiplies its own columns of the input, normalized and quantized alone; the outputs are
     * added in order. */
    bl__linear *o, *down;
    /* Whether rows of up and columns of down can be left out: up is R2 and down C2 then. */
    bool can_skip;
    double up_bound; /* times the step of a token: no element of up is larger; see skip.h */
} bl__layer;

struct bl_model {
    bl__filemap map; /* owned; empty when the bytes are the caller's */
    bl__gguf *gguf;
    bl__hparams hparams;
    bl_model_info info;
    char *name;
    bl__linear embedding; /* [vocab][dim]; rows are looked up */
    bl__linear head;      /* [vocab][dim]; shares the embedding's data when tied */
    const float *output_norm;
    const float *rope_divisors; /* float[n_rot / 2]: each frequency is divided by it; or NULL */
    bl__layer *layers;
    bl__screen *screen; /* of the head, shared by all sessions; NULL: it has none */
    bl_sparsity sparsity;
    bool is_in_memory; /* the file: it takes no more when it is read */
};

/* Opens a model from the bytes of a GGUF file, which are borrowed. pool may be NULL. */
bl_status bl__model_from_bytes(const uint8_t *data, size_t len, bl_sparsity sparsity,
                               bl__pool *pool, bl_model **out, bl_error *err);

/* Finds, checks and, where needed, repacks every weight. The model's map, gguf and hparams are
 * set; pool may be NULL. On failure what was built is left for bl__weights_free(). */
bl_status bl__weights_load(bl_model *model, bl__pool *pool, bl_error *err);
void bl__weights_free(bl_model *model);

#endif
