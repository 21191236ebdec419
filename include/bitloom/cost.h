/* What a network costs by arithmetic alone: memory of its parts at any precision, and the energy of
 * its products. Estimates, never measurements. */
#ifndef BITLOOM_COST_H
#define BITLOOM_COST_H

#include <stdint.h>

#include "bitloom/dummy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The parts that take memory, in numbers. */
typedef struct bl_cost_parts {
    uint64_t linears;  /* weights of the layers' matrices */
    uint64_t head;     /* weights of the embedding, which is the head too */
    uint64_t norms;    /* weights of norms, sub-norms not counted */
    uint64_t position; /* keys and values that a token of context adds */
} bl_cost_parts;

/* Of a shape with gated feed-forward layers and a tied head. */
bl_cost_parts bl_cost_count(const bl_dummy_shape *shape);

/* Bytes of n numbers at so many bits each, which need not be whole (1.6): n * bits / 8. */
double bl_cost_bytes(uint64_t n, double bits);

/* Multiplications and additions of one pass over n_tokens tokens. */
typedef struct bl_cost_operations {
    double linear_multiply, linear_add;       /* of the layers' matrices, done in full */
    double scale_multiply;                    /* of their scales alone, when weights are 1-bit */
    double attention_multiply, attention_add; /* q k^T and the sum of values, without a mask */
} bl_cost_operations;

/* n_matrices: of dim x ffn_dim in a layer, 3 with a gate, 2 without. The head is not counted, as in
 * arXiv 2310.11453, whose formulas these are: a product of m x n by n x p takes m n p
 * multiplications and m (n - 1) p additions; with 1-bit weights m p + m n multiplications. */
bl_cost_operations bl_cost_count_operations(const bl_dummy_shape *shape, uint32_t n_matrices,
                                            uint32_t n_tokens);

typedef enum bl_cost_precision {
    BL_COST_FP32,
    BL_COST_FP16,
    BL_COST_ONE_BIT, /* int8 additions in linears, float16 for scales and attention */
} bl_cost_precision;

typedef enum bl_cost_node { BL_COST_45NM, BL_COST_7NM } bl_cost_node;

typedef struct bl_cost_energy {
    double multiply, add; /* joules */
} bl_cost_energy;

/* By the picojoules of one operation in table 3 of arXiv 2310.11453. The 0.007 that it prints for
 * an int8 addition in 7 nm is taken as 0.0073: the cells of its table 1 need between 0.00728 and
 * 0.00742. */
bl_cost_energy bl_cost_estimate(const bl_cost_operations *operations, bl_cost_precision precision,
                                bl_cost_node node);

/* Joules of reading so many bytes from dynamic memory: 640 picojoules for 32 bits, the figure of
 * 45 nm in arXiv 1506.02626 (figure 1, after Horowitz, ISSCC 2014). Memory made since takes less.
 */
double bl_cost_read(double bytes);

#ifdef __cplusplus
}
#endif
#endif
