/* Private to model/: feed-forward blocks with ReLU^2 that leave out what meets zeros.
 *
 *     g = relu(gate)^2 * up       row r of up is not needed where gate[r] is not positive
 *     down(q), q = int8 of g      column c of down is not needed where q[c] is 0
 *
 * Results are those of the plain block, to the bit. Of down, because sums of integers are exact. Of
 * up, because 0 * up is 0 whose sign no one sees (the sub-norm squares it, int8 has one zero), as
 * long as up is finite: its magnitude is at most 256 * cols * step * max(1, max scale), and a token
 * for which that could overflow is multiplied in full. NaN as a gate counts as 0, as it does in
 * relu2_mul of the kernels. */
#ifndef BL_MODEL_SKIP_H
#define BL_MODEL_SKIP_H

#include "model/compute.h"

typedef struct bl__skip {
    bl__compute *compute;
    bool wanted;   /* false: the same products with every row and column */
    int8_t *order; /* int8[max_tokens][order_stride]: input of up in R2's order */
    size_t order_stride;
    uint32_t *rows;    /* uint32[ffn_dim]: of up, listed by the part that owns them */
    uint32_t *columns; /* uint32[max_tokens][ffn_dim]: entries of down, see kernels.h */
    size_t *n_columns; /* size_t[max_tokens] */
    int32_t *dots;     /* int32[max_parts][dots_stride]: of down's rows, each of some columns */
    size_t dots_stride;
    uint8_t *tiles; /* uint8[max_parts][tiles_stride]: weights as T2, for many tokens at once */
    size_t tiles_stride;
    size_t *n_used; /* size_t[max_parts]: rows that a part has multiplied */
    bl_skipped counts;
} bl__skip;

/* Takes scratch for batches of max_tokens from the arena (which may be measuring); nothing for a
 * model that has no layer for it. compute is set by the caller and laid out. */
void bl__skip_layout(bl__skip *skip, const bl_model *model, size_t max_tokens, bl__arena *arena);

/* gate = relu(gate(x))^2 * up(x) of a layer that can skip. x: float[n_tokens][dim]; gate, up:
 * float[n_tokens][ffn_dim], up being scratch. */
void bl__skip_gate_up(bl__skip *skip, const bl__layer *layer, const float *x, size_t n_tokens,
                      float *gate, float *up);

/* out[n_tokens][dim] = down(x), x: float[n_tokens][ffn_dim], of such a layer. */
void bl__skip_down(bl__skip *skip, const bl__layer *layer, const float *x, size_t n_tokens,
                   float *out);

#endif
