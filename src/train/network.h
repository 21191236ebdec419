/* The network as the trainer sees it: float32 master weights, their gradients, one forward and one
 * backward pass over a batch of token rows. The graph is that of model/ (docs/model.md); weights
 * and inputs of linears are quantized in the forward pass, and gradients pass straight through
 * (arXiv 2310.11453 section 2.2, 2402.17764). Must not know optimizers, data or files.
 *
 * A network belongs to one thread at a time; it uses the pool's threads itself. Results do not
 * depend on how many those are. Everything is allocated by bl__network_create(). */
#ifndef BL_TRAIN_NETWORK_H
#define BL_TRAIN_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "bitloom/status.h"
#include "train/processes.h"

typedef enum bl__weight_mode {
    BL_WEIGHTS_FLOAT,   /* nothing is quantized: the full-precision twin */
    BL_WEIGHTS_TERNARY, /* absmean, b1.58 */
    BL_WEIGHTS_BINARY,  /* (W > mean W ? 1 : -1) x mean |W|, BitNet */
    BL_WEIGHTS_ONEBIT   /* output vector x sign W x input vector, OneBit (arXiv 2402.11295); inputs
                           of linears stay floats */
} bl__weight_mode;

/* What products of floats multiply in; they always add up in float32. Integer products (the forward
 * pass of quantized linears) are exact whichever it is. */
typedef enum bl__precision {
    BL_PRECISION_AUTO, /* bfloat16 where the processor multiplies it, else float32 */
    BL_PRECISION_FLOAT32,
    BL_PRECISION_BF16, /* slow where the processor lacks it */
    BL_PRECISION_INT8  /* as AUTO, but gradients that meet codes in int8, a step for 64 values */
} bl__precision;

typedef struct bl__network_config {
    uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab, context;
    float rope_base, norm_eps;
    bl__weight_mode weights;
    bl__precision precision;
    bool relu2;      /* else SiLU */
    bool sub_norms;  /* attn_sub_norm and ffn_sub_norm */
    bool layer_norm; /* in place of every RMS norm, and without weights: BitNet, arXiv 2310.11453 */
    bool recompute;  /* keep only the layers' inputs for the backward pass, which computes the rest
                        again: the same bits from less memory and more time */
    /* Groups of rows of q, k, v, gate and up, and of columns of o and down, that have statistics of
     * their own; so have the parts of the input of o and down, sub-norms included (arXiv
     * 2310.11453, "Model parallelism with Group Quantization and Normalization"). Divides
     * n_kv_heads and ffn_dim; 0 counts as 1. */
    uint32_t n_groups;
    bool blends; /* bl__network_set_lambda() will be called: makes room for float products */
    bool frozen; /* no gradients, and no step with a backward pass: a teacher. Steps multiply as
                    `precision` says, too */
    /* NULL, or processes whose number divides n_groups. Each then has its part of the heads, of
     * ffn_dim and of the linears between; all call bl__network_step() alike, and get one loss. */
    bl__processes *tensor;
} bl__network_config;

/* The tensors of one layer, in the order they have among the parameters. Parameter 0 is the
 * embedding, 1 + layer * BL_PARAMS_PER_LAYER + one of these a layer's, the last the final norm.
 * Without sub-norms those two have 0 rows, with layer_norm every norm has. So have, unless weights
 * are BL_WEIGHTS_ONEBIT, the vectors: of each linear, in the order of the linears here, that of its
 * inputs and that of its outputs. */
enum {
    BL_PARAM_ATTN_NORM,
    BL_PARAM_Q,
    BL_PARAM_K,
    BL_PARAM_V,
    BL_PARAM_ATTN_SUB_NORM,
    BL_PARAM_O,
    BL_PARAM_FFN_NORM,
    BL_PARAM_GATE,
    BL_PARAM_UP,
    BL_PARAM_FFN_SUB_NORM,
    BL_PARAM_DOWN,
    BL_PARAM_VECTORS,
    BL_PARAMS_PER_LAYER = BL_PARAM_VECTORS + 14
};

typedef enum bl__vector { BL_VECTOR_NONE, BL_VECTOR_IN, BL_VECTOR_OUT } bl__vector;

/* One parameter tensor: [rows][cols]; norms have one row. */
typedef struct bl__param {
    char name[64]; /* as transformers names it: "model.layers.0.self_attn.q_proj.weight" */
    size_t rows, cols;
    /* The part that this process has begins at a row and a column of the whole tensor. */
    size_t whole_rows, whole_cols, first_row, first_col;
    bool linear;         /* quantized in the forward pass, unless weights are BL_WEIGHTS_FLOAT */
    bl__vector vector;   /* of a onebit linear */
    bool decays;         /* a matrix or the embedding: weight decay is for it */
    size_t col_groups;   /* of o and down: config's n_groups; 1 for others */
    float *value, *grad; /* float[rows][cols] */
} bl__param;

typedef struct bl__network bl__network;

/* Sizes and allocates everything for batches of up to n_rows rows of up to n_tokens tokens; values
 * and gradients are zero. The pool (or NULL) is borrowed and must outlive the network.
 * Errors: BL_ERR_ARGUMENT (a size that is 0, beyond its limit or does not fit the others),
 * BL_ERR_LIMIT (the sizes overflow), BL_ERR_MEMORY. */
bl_status bl__network_create(const bl__network_config *config, size_t n_rows, size_t n_tokens,
                             bl__pool *pool, bl__network **out, bl_error *err);
void bl__network_free(bl__network *network);

const bl__network_config *bl__network_get_config(const bl__network *network);
size_t bl__network_bytes(const bl__network *network);
/* Those of them that keep activations for the backward pass. */
size_t bl__network_activation_bytes(const bl__network *network);
/* "bf16 avx512bf16", "float32 avx2 + int8 avxvnni": what products of floats multiply in, and
 * gradients if otherwise, and the kernels that do it. */
const char *bl__network_compute(const bl__network *network);

/* params[n]; values and gradients may be written between steps. */
bl__param *bl__network_params(bl__network *network, size_t *n);

static inline bool bl__param_is_part(const bl__param *p) {
    return p->rows * p->cols < p->whole_rows * p->whole_cols;
}

/* Normal(0, std) weights, norms of one, from a seed: the same on every machine with the same
 * mathematical library. Vectors as by bl__network_factorize(). */
void bl__network_initialize(bl__network *network, float std, uint64_t seed);
/* Gives onebit linears the vectors with which they come nearest to their weights: SVID, arXiv
 * 2402.11295. Does nothing to others. */
void bl__network_factorize(bl__network *network);

void bl__network_zero_gradients(bl__network *network);

/* How far quantization has come in, 0 ... 1, from the next bl__network_quantize() on; 1 at first.
 * Below 1 every quantized linear multiplies w + lambda (quantized w - w) by inputs blended alike,
 * in float products; gradients pass straight through. Float weights, and networks that were not
 * made to blend, know 1 only. */
void bl__network_set_lambda(bl__network *network, float lambda);

/* Quantizes the weights for the steps that follow; call after every change of values. */
void bl__network_quantize(bl__network *network);

/* The share of quantized weights whose code (-1, 0, 1) the last bl__network_quantize() changed; 0
 * after the first one. */
double bl__network_flips(const bl__network *network);

/* For rows that hold several documents: firsts[n_rows][n_tokens] of the steps that follow says for
 * each token where in its row its document begins: 0 ... its own place, never less than that of the
 * token before. It sees nothing earlier, and positions count from there, so that a document gets
 * what it would get alone. Borrowed; NULL (as after creation): every row is one document. */
void bl__network_set_firsts(bl__network *network, const int32_t *firsts);

/* Mean cross-entropy in nats over n_rows x n_tokens predictions: inputs, targets:
 * int32[n_rows][n_tokens], ids below vocab; targets below 0 do not count (0 when none does).
 * With backward, gradients of (scale x loss) are added to every param's grad. logits: NULL or
 * float[n_tokens][vocab], that of row 0. NaN when weights or activations are not finite. */
double bl__network_step(bl__network *network, const int32_t *inputs, const int32_t *targets,
                        size_t n_rows, size_t n_tokens, bool backward, float scale, float *logits);

/* To be called once after the last step of an update, before gradients are used: steps give onebit
 * linears the gradients of their products' weights, which this makes those of signs (straight
 * through) and vectors. The weights must be those of the steps. Does nothing to other networks. */
void bl__network_finish_gradients(bl__network *network);

/* What a network learns from a teacher, and how much of it. */
typedef struct bl__distillation {
    float hard;              /* 0 ... 1, the share of the text's own next tokens */
    float temperature;       /* > 0; of both distributions, where the teacher's is learned */
    float hidden, relations; /* weights of two more losses */
    uint32_t relation_layer; /* 1 ... n_layers, the teacher's as far from its last one; 0: last */
    uint32_t relation_heads; /* that queries, keys and values are cut into; 0: n_kv_heads */
    float relation_temperature; /* > 0 */
} bl__distillation;

/* A teacher for the steps with a backward pass that follow, which run it over the same tokens. With
 * p' and p'' the softmaxes of the network's logits and of the teacher's, over the temperature,
 *     loss = (1 - hard) CE(p'', p') + hard CE(target, p)           what bl__network_step() returns
 *     gradients are those of scale x (loss + hidden x H + relations x R), means over the tokens
 *     that count, H = sum over layers of |t / |t| - x / |x||^2
 * where t and x are what a layer leaves in the residual stream (arXiv 2402.11295, equations 7 to
 * 9), and R is the loss between attention relations (arXiv 2510.13998, section 3.3; relations.c).
 * The teacher is borrowed, has its weights quantized, the pool of the network and room for as
 * large a batch; its own steps may come between. NULL: none, and *d is not read.
 * Errors: BL_ERR_ARGUMENT (another vocabulary; hidden > 0 and other layers or another dim;
 * relations > 0 and a layer or heads that one of them does not have), BL_ERR_MEMORY. */
bl_status bl__network_set_teacher(bl__network *network, bl__network *teacher,
                                  const bl__distillation *d, bl_error *err);
/* H and R of the last step with a backward pass; 0 without a teacher or a weight. */
double bl__network_hidden_loss(const bl__network *network);
double bl__network_relation_loss(const bl__network *network);

/* Where the time of quantization and steps went, since the network was created. */
#define BL_NETWORK_PHASES(X)                                                                       \
    X(QUANTIZE, "quantize and pack weights")                                                       \
    X(TO_ATTENTION, "forward to attention")                                                        \
    X(ATTENTION, "attention forward")                                                              \
    X(FROM_ATTENTION, "forward from attention")                                                    \
    X(TEACHER, "teacher's layers, states, relations")                                              \
    X(HEAD, "head, loss and gradient of logits")                                                   \
    X(HEAD_GRADIENT, "gradient of the head")                                                       \
    X(BACK_TO_ATTENTION, "backward to attention")                                                  \
    X(ATTENTION_BACK, "attention backward")                                                        \
    X(BACK_FROM_ATTENTION, "backward from attention")                                              \
    X(GRADIENTS, "gradients of linears")                                                           \
    X(EMBEDDING, "gradient of the embedding")                                                      \
    X(EXCHANGE, "sums over processes")

typedef enum bl__phase {
#define BL_PHASE_ENUM(name, text) BL_PHASE_##name,
    BL_NETWORK_PHASES(BL_PHASE_ENUM)
#undef BL_PHASE_ENUM
        BL_PHASES
} bl__phase;

double bl__network_seconds(const bl__network *network, bl__phase phase);

#endif
