/* Owns the arithmetic of memory and energy. Must not know files or models, only shapes. */
#include "bitloom/cost.h"

bl_cost_parts bl_cost_count(const bl_dummy_shape *shape) {
    uint64_t layers = shape->n_layers, dim = shape->dim, ffn = shape->ffn_dim;
    uint64_t kv = dim / shape->n_heads * shape->n_kv_heads;
    return (bl_cost_parts){.linears = layers * (2 * dim * dim + 2 * dim * kv + 3 * dim * ffn),
                           .head = (uint64_t)shape->vocab * dim,
                           .norms = (2 * layers + 1) * dim,
                           .position = 2 * layers * kv};
}

double bl_cost_bytes(uint64_t n, double bits) {
    return (double)n * bits / 8;
}

/* Adds the products of n_tokens inputs of `cols` with a matrix of rows x cols. */
static void add_linear(bl_cost_operations *o, double n_tokens, double rows, double cols,
                       double times) {
    o->linear_multiply += times * n_tokens * rows * cols;
    o->linear_add += times * n_tokens * rows * (cols - 1);
    o->scale_multiply += times * n_tokens * (rows + cols);
}

bl_cost_operations bl_cost_count_operations(const bl_dummy_shape *shape, uint32_t n_matrices,
                                            uint32_t n_tokens) {
    bl_cost_operations o = {0};
    double m = n_tokens, layers = shape->n_layers, dim = shape->dim, ffn = shape->ffn_dim;
    double heads = shape->n_heads, head = dim / heads, kv = head * shape->n_kv_heads;
    add_linear(&o, m, dim, dim, 2 * layers);
    add_linear(&o, m, kv, dim, 2 * layers);
    add_linear(&o, m, ffn, dim, (n_matrices - 1) * layers);
    add_linear(&o, m, dim, ffn, layers);
    o.attention_multiply = layers * heads * 2 * m * m * head;
    o.attention_add = layers * heads * (m * (head - 1) * m + m * (m - 1) * head);
    return o;
}

bl_cost_energy bl_cost_estimate(const bl_cost_operations *o, bl_cost_precision precision,
                                bl_cost_node node) {
    static const double picojoules[2][5] = {/* multiply and add of fp32, of fp16, add of int8 */
                                            [BL_COST_45NM] = {3.7, 0.9, 1.1, 0.4, 0.03},
                                            [BL_COST_7NM] = {1.31, 0.38, 0.34, 0.16, 0.0073}};
    const double *pj = picojoules[node];
    const double *real = precision == BL_COST_FP32 ? pj : pj + 2;
    double multiply = o->attention_multiply * real[0], add = o->attention_add * real[1];
    if (precision == BL_COST_ONE_BIT) {
        multiply += o->scale_multiply * real[0];
        add += o->linear_add * pj[4];
    } else {
        multiply += o->linear_multiply * real[0];
        add += o->linear_add * real[1];
    }
    return (bl_cost_energy){multiply * 1e-12, add * 1e-12};
}

double bl_cost_read(double bytes) {
    return bytes * (640e-12 / 4);
}
