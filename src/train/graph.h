/* Private to train/: the parts of the network and what they keep between forward and backward.
 *
 * A step works on slices of a few rows, so that what the backward pass needs stays near the caches
 * whatever the batch. Inside a slice (n tokens) everything but attention is done in blocks of
 * tokens that stay in a core's own cache: norms, quantization, products and activations of a block
 * follow one another without a pass over memory. Attention is done a row and KV head at a time.
 * Blocks and slices do not depend on threads, and sums over blocks are taken in their order. */
#ifndef BL_TRAIN_GRAPH_H
#define BL_TRAIN_GRAPH_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "kernels/train_kernels.h"
#include "train/network.h"

enum {
    BLOCK_TOKENS = 64,   /* of the layers' work */
    PIECE_TOKENS = 16,   /* of a block between the products of an FFN, whose rows are wide */
    HEAD_TOKENS = 32,    /* of the head's, whose rows are as wide as the vocabulary */
    ROW_CHUNK = 64,      /* rows of weights quantized at a time: whole tiles and panels */
    SLICE_TOKENS = 2048, /* tokens in a slice, at least a row */
    TOKEN_PAD = 64,      /* more in panels over tokens: not a power of two apart, so that what a
                          * product reads at a time does not meet in a few sets of a cache */
    GROUP_PANELS = 4,    /* of rows of a gradient that share what they read of the inputs */
    PARTS_PER_THREAD = 4 /* leaves threads that are free something to take */
};

/* What the weights of one group of a quantized linear have in common. */
typedef struct weight_group {
    float gamma;   /* value = gamma * code */
    float inverse; /* 1 / max(mean |W|, 1e-5), ternary */
    float centre;  /* mean W, binary */
} weight_group;

/* One linear of one layer, as the weights of the step have it. Quantized weights are in groups with
 * statistics of their own, by rows (q, k, v, gate, up: a group makes some of the outputs) or by
 * columns (o, down: a group multiplies its part of the input, and the groups' outputs are added in
 * their order). Column groups are matrices of their own. */
typedef struct linear {
    bl__param *param;
    size_t rows, cols;
    size_t row_groups, col_groups; /* at least one of them is 1 */
    size_t group_cols;             /* cols / col_groups */
    weight_group *groups;          /* [row_groups * col_groups] */
    uint8_t *tiles; /* T2 codes of each column group [rows][group_cols], for forward products; NULL
                       for floats */
    void *forward;  /* panels of W^T [cols][rows]; NULL unless floats, or blended with them */
    void *backward; /* panels of W [rows][group_cols] of each column group: codes, or floats */
    void *exact;    /* as forward, float32 whatever the precision */
    size_t forward_panel, exact_panel;       /* bytes */
    size_t group_tiles;                      /* bytes of one column group */
    const bl__param *in_vector, *out_vector; /* of onebit linears, else NULL */
    uint8_t *signs; /* of these: bits of the weights of each row, as they were packed last */
} linear;

/* The seven linears, and the four inputs that they have. */
enum { LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, N_LINEARS };
enum { INPUT_ATTN, INPUT_O, INPUT_FFN, INPUT_DOWN, N_INPUTS };

typedef enum norm_kind { NORM_NONE, NORM_RMS, NORM_LAYER } norm_kind;

/* A linear's input as its weight gradient needs it. That of o and down is in groups of columns,
 * each normalized and, where weights are quantized, quantized alone. */
typedef struct input {
    size_t cols;
    size_t norm_groups; /* that are normalized alone */
    size_t groups;      /* that have steps of their own */
    void *panels; /* panels of X [n_tokens][cols / groups] of each group: int8 values, or floats */
    float *steps; /* float[groups][slice_tokens]: x = step * value; NULL for floats */
    float *rstd;  /* float[norm_groups][slice_tokens]: of the norm before it */
    float *mean;  /* the same; NULL unless it is a LayerNorm */
    norm_kind kind;
    const bl__param *norm;
} input;

/* With config.recompute all but linears, norms and x are those of layer 0: what the layer computed
 * last is there. */
typedef struct layer {
    linear linears[N_LINEARS];
    input inputs[N_INPUTS];
    float *x, *h;     /* float[n_tokens][dim]: the residual stream before attention, before FFN */
    float *q, *k, *v; /* float[n_tokens][heads * head_dim], rotated */
    float *attended;  /* float[n_tokens][q_dim] */
    float *log_sum;   /* float[n_tokens][n_heads]: log of the sum of exponentials of the scores */
    float *gate, *up; /* float[n_tokens][ffn_dim] */
} layer;

typedef struct bl__relations bl__relations;

/* What one thread works in; nothing in it outlives a part of a job. */
typedef struct scratch {
    float *a, *b, *c, *d;  /* float[BLOCK_TOKENS][max_cols] */
    void *rows, *up_rows;  /* unit[BLOCK_TOKENS][max_cols / group] */
    bl__q8 q8;             /* BLOCK_TOKENS tokens; of several groups one after the other */
    float *row;            /* float[max_cols]; NULL without groups */
    float *scores, *grads; /* float[BLOCK_TOKENS][score_stride] */
    void *score_rows, *score_panels[2];
    void *keys_t, *keys, *values_t, *values; /* panels of one KV head */
    void *small[2];                          /* panels of a block of queries or their gradients */
    float *logits;                           /* float[HEAD_TOKENS + 1][vocab] */
    void *logit_rows;
} scratch;

struct bl__network {
    bl__network_config config; /* of the part that this process has */
    bl__network_config whole;
    bl__arena arena;
    bl__pool *pool;
    const bl__kernels *kernels;
    const bl__train_kernels *loops;
    const bl__gemm *gemm;       /* of floats */
    const bl__gemm *codes_gemm; /* of gradients with codes and quantized inputs */
    char compute[64];

    size_t n_params;
    bl__param *params;
    layer *layers;
    linear head; /* the embedding as a linear of floats */
    size_t q_dim, kv_dim, max_cols;
    size_t max_rows, max_tokens; /* of a step */
    size_t slice_tokens;         /* that buffers hold */
    size_t activation_bytes;     /* of the layers */
    size_t n_parts;
    scratch *scratch; /* [threads] */
    size_t score_stride;
    float *cosines, *sines; /* float[context][head_dim / 2] */

    /* one slice, shared by the layers */
    float *final;    /* float[n_tokens][dim]: what the final norm reads */
    float *gradient; /* float[n_tokens][dim]: of the residual stream */
    float *dq, *dk, *dv, *dattended;
    float *sums;              /* float[n_tokens][dim], summed over processes; NULL when alone */
    float *output_dots;       /* float[n_tokens][n_heads]: attention's output times its gradient */
    void *outputs[N_LINEARS]; /* panels of dY [n_tokens][rows], times the steps of each group */
    float *partial[N_INPUTS]; /* float[n_blocks][cols]: gradients of the norms' weights */

    /* the head, a chunk of tokens at a time */
    size_t chunk_tokens;
    void *head_input, *head_output; /* panels of [chunk_tokens][dim], [chunk_tokens][vocab] */
    float *final_partial;           /* float[n_head_blocks][dim] */
    double *losses;                 /* double[n_head_blocks] */

    /* distillation */
    bl__network *teacher; /* borrowed; NULL: none */
    bl__distillation distillation;
    bl__relations *relations;          /* NULL: none */
    double *hidden_losses;             /* double[n_blocks] */
    double hidden_loss, relation_loss; /* of the last step, or on the way there sums over tokens */

    float lambda;  /* 1: integer products of codes; below: float products of blended values */
    size_t *flips; /* size_t[n_chunks] of weights that changed their code */
    double flip_share;
    double seconds[BL_PHASES];
    bool quantized_before;
    const int32_t *firsts; /* borrowed; see bl__network_set_firsts() */
};

/* A slice of a step on its way. */
typedef struct slice {
    bl__network *net;
    const int32_t *inputs, *targets; /* int32[n_rows][row_tokens] */
    const int32_t *firsts;           /* the same, or NULL: 0 everywhere */
    size_t n_rows, row_tokens, n_tokens;
    size_t index; /* of the layer in hand */
    bool backward;
    bool again;              /* the layer's own values are wanted once more, not what follows */
    const bl__gemm *gemm;    /* of forward products: float32 when there is no backward pass */
    float loss_scale;        /* of every counted target's gradient */
    float *logits;           /* of the slice's first row, or NULL */
    size_t chunk, chunk_end; /* tokens of the head's chunk in hand */
    struct slice *teacher;   /* the same tokens in the teacher's network; NULL: none */
} slice;

static inline size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}
/* Whether linears have codes; those of onebit weights are products of floats. */
static inline bool is_quantized(const bl__network *net) {
    return net->config.weights == BL_WEIGHTS_TERNARY || net->config.weights == BL_WEIGHTS_BINARY;
}
/* Whether linears of the layers multiply codes now; otherwise floats. */
static inline bool uses_codes(const bl__network *net) {
    return is_quantized(net) && net->lambda >= 1.0f;
}
/* 4-byte units that k values take, and bytes of one panel of so many. */
static inline size_t units_of(const bl__gemm *gemm, size_t k) {
    return ceil_div(k, gemm->block) * gemm->block_units;
}
/* Where value k begins among the units: a multiple of group. */
static inline size_t unit_at(const bl__gemm *gemm, size_t k) {
    return k / gemm->block * gemm->block_units + k % gemm->block / gemm->group;
}
/* What linears' gradients multiply in now. */
static inline const bl__gemm *backward_gemm(const bl__network *net) {
    return uses_codes(net) ? net->codes_gemm : net->gemm;
}
static inline size_t panel_bytes(const bl__gemm *gemm, size_t k) {
    return units_of(gemm, k) * gemm->panel * 4;
}
/* 4-byte units of a whole matrix in panels. */
static inline size_t matrix_units(const bl__gemm *gemm, size_t k, size_t n) {
    return ceil_div(n, gemm->panel) * gemm->panel * units_of(gemm, k);
}
/* Bytes of one panel of scores over n queries; a line more, so that panels, which are written side
 * by side, do not meet in a few sets of a cache. */
static inline size_t score_panel(const bl__gemm *gemm, size_t n) {
    return panel_bytes(gemm, n) + 128;
}
/* Panels of W^T for the slice's products. */
static inline const void *forward_panels(const slice *s, const linear *l) {
    return s->gemm == s->net->gemm ? l->forward : l->exact;
}
static inline size_t forward_panel_bytes(const slice *s, const linear *l) {
    return s->gemm == s->net->gemm ? l->forward_panel : l->exact_panel;
}
/* Panels of gradients and inputs over the tokens of a slice are this far apart, however many tokens
 * it has. */
static inline size_t token_panel(const bl__network *net) {
    return panel_bytes(backward_gemm(net), net->slice_tokens + TOKEN_PAD);
}
/* Where value k of each panel begins; k is a multiple of group. */
static inline void *panels_at(const bl__gemm *gemm, void *panels, size_t k) {
    return (char *)panels + unit_at(gemm, k) * gemm->panel * 4;
}
/* The first token of its row that token t of the slice sees. */
static inline size_t first_seen(const slice *s, size_t t) {
    return s->firsts ? (size_t)s->firsts[t] : 0;
}
/* Bytes of panels over the tokens of a slice, of n columns. */
static inline size_t token_panels(const bl__network *net, size_t n) {
    return ceil_div(n, backward_gemm(net)->panel) * token_panel(net);
}
/* The same over the tokens of a chunk of the head's. */
static inline size_t chunk_panel(const bl__network *net) {
    return panel_bytes(net->gemm, net->chunk_tokens + TOKEN_PAD);
}
bl__param *bl__layer_param(const bl__network *net, size_t index, size_t which);

/* Sums net->sums over processes. */
void bl__sum_over_processes(const slice *s);

/* The scratch of the thread that does a part. */
static inline scratch *own_scratch(const bl__network *net) {
    return &net->scratch[bl__pool_thread()];
}

/* Runs fn for parts of n items; the time counts for `phase`. */
void bl__run_parts(bl__network *net, bl__phase phase, bl__part_fn fn, void *context,
                   size_t n_items);

/* ---- linear.c ---- */

/* Quantizes and packs every weight. */
void bl__linears_prepare(bl__network *net);
/* Packs the weights of float products in float32, for steps without a backward pass. */
void bl__linears_prepare_exact(bl__network *net);
/* c[m][n] = or += rows[m] B, where rows have k values and lie row_bytes apart. */
void bl__multiply_rows(const bl__gemm *gemm, const void *rows, size_t row_bytes, size_t m,
                       const void *panels, size_t panel_stride, size_t k, size_t n, float *c,
                       size_t ldc, bool accumulate);
/* c[m][cols] += dY^T X for some panels of rows of dY, GROUP_PANELS at a time; both in panels over
 * n_tokens tokens. Rows of c are ldc apart. */
void bl__multiply_panels(const bl__gemm *gemm, const void *out, size_t out_stride, const void *in,
                         size_t in_stride, size_t n_tokens, float *c, size_t ldc, size_t m,
                         size_t cols);
/* Takes x[n_tokens][cols] as the input of linears: quantized in scratch->q8, or packed in
 * scratch->rows, from token `at` of the block on; with `keep` also packed at token t of input. */
void bl__input_take(const slice *s, scratch *w, input *in, const float *x, size_t at, size_t t,
                    size_t n_tokens, bool keep);
/* y[n_tokens][rows] = x W^T of what was taken last; scratch->c is used where columns are in groups.
 */
void bl__linear_forward(const slice *s, const scratch *w, const linear *l, size_t n_tokens,
                        float *y);
/* dx[n_tokens][cols] = or += dy W; packs dy at token t of net->outputs[which] too. */
void bl__linear_backward(const slice *s, scratch *w, size_t which, const float *dy, size_t t,
                         size_t n_tokens, float *dx, bool accumulate);
/* The same in two: packs dy for both products, of a linear without groups of columns, and
 * multiplies. rows: unit[n_tokens][rows / group]. */
void bl__gradient_pack(const slice *s, scratch *w, size_t which, const float *dy, size_t t,
                       size_t n_tokens, void *rows);
void bl__gradient_multiply(const slice *s, size_t which, const void *rows, size_t n_tokens,
                           float *dx, bool accumulate);
/* Adds the slice's gradients of all weights of the layer in hand. */
void bl__linears_gradient(slice *s);

/* ---- onebit.c ---- */

/* out[n][cols]: the weights of rows first ... first + n - 1, sign and vectors multiplied. */
void bl__onebit_rows(const linear *l, size_t first, size_t n, float *out);
/* Keeps the signs of these rows; returns how many were others before. */
size_t bl__onebit_keep_signs(const linear *l, size_t first, size_t n);

/* ---- distill.c ---- */

/* Runs the teacher's layers over the slice's tokens; *teacher is what the slice shall point to. */
void bl__teacher_forward(slice *s, slice *teacher);
/* Adds the gradient of the loss between what the layer in hand and the teacher's leave in the
 * residual stream to net->gradient, and the loss to net->hidden_loss. */
void bl__hidden_backward(slice *s);

/* ---- relations.c ---- */

/* Room for the loss between attention relations, where d gives it a weight. Errors: as
 * bl__network_set_teacher(). */
bl_status bl__relations_create(const bl__network *net, const bl__network *teacher,
                               const bl__distillation *d, bl__relations **out, bl_error *err);
void bl__relations_free(bl__relations *relations); /* NULL is accepted */
size_t bl__relations_bytes(const bl__relations *relations);
/* Keeps what the teacher's layer in hand has, if it is the one that counts. */
void bl__relations_keep(bl__relations *relations, const slice *teacher);
/* If the layer in hand is the one: adds the gradients of its rotated queries and keys and of its
 * values to net->dq, dk, dv, behind attention's, and the loss to net->relation_loss. */
void bl__relations_backward(slice *s);

/* ---- block.c: everything of a layer between two attentions, forward and backward ---- */

void bl__layer_forward(slice *s);
/* What the layer in hand keeps, from its x, as bl__layer_forward() left it. */
void bl__layer_recompute(slice *s);
void bl__layer_backward(slice *s);

/* ---- attention.c ---- */

void bl__attention_forward(slice *s);
/* From net->dattended and net->output_dots to net->dq, dk, dv; still rotated. */
void bl__attention_backward(slice *s);

/* ---- loss.c ---- */

/* Final norm, head and cross-entropy; with backward, the gradients of head and final norm, and
 * net->gradient. Returns the slice's summed loss. */
double bl__head_run(slice *s);
/* Adds net->gradient to the rows of the embedding that the slice's tokens took. */
void bl__embedding_gradient(slice *s);

#endif
