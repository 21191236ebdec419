/* Owns the estimate of energy from counts of operations and bytes. Must not know counters. */
#include "bitloom/cost.h"
#include "measure/energy.h"
#include "measure/figures.h"

enum { DEFAULT_BATCH = 256 };

/* Products with the matrices of layers and attention of a token, `depth` positions before it, and,
 * for a share of tokens, with the head. */
static double arithmetic_of_token(const bl_model_info *info, double depth, double head_share) {
    const bl_dummy_shape shape = {.n_layers = info->n_layers,
                                  .dim = info->dim,
                                  .ffn_dim = info->ffn_dim,
                                  .n_heads = info->n_heads,
                                  .n_kv_heads = info->n_kv_heads,
                                  .vocab = info->vocab};
    double heads = (double)info->n_layers * info->n_heads * info->head_dim;
    double head = head_share * info->vocab;
    bl_cost_operations o = bl_cost_count_operations(&shape, 3, 1);
    o.attention_multiply = o.attention_add = 2 * heads * (depth + 1);
    const bl_cost_operations of_head = {.linear_multiply = head * info->dim,
                                        .linear_add = head * (info->dim - 1.0)};
    bl_cost_energy layers =
        bl_cost_estimate(&o, info->int8_activations ? BL_COST_ONE_BIT : BL_COST_FP16, BL_COST_7NM);
    bl_cost_energy rest = bl_cost_estimate(&of_head, BL_COST_FP16, BL_COST_7NM);
    return layers.multiply + layers.add + rest.multiply + rest.add;
}

bl_energy_estimate bl__energy_of_token(const bl_model_info *info, const bl_bench_test *test,
                                       double bytes_per_token) {
    double n = test->n_prompt ? test->n_prompt : test->n_generate;
    double depth = test->depth + (n - 1) / 2; /* on average */
    return (bl_energy_estimate){.arithmetic =
                                    arithmetic_of_token(info, depth, test->n_prompt ? 1 / n : 1),
                                .memory = bl_cost_read(bytes_per_token)};
}

/* All tokens of a test. */
static bl_energy_estimate of_test(const bl_session *session, const bl_bench_test *test) {
    double n = test->n_prompt ? test->n_prompt : test->n_generate;
    bl__work work = bl__session_work(session);
    if (n == 0)
        return (bl_energy_estimate){0, 0};
    bl_energy_estimate e = bl__energy_of_token(bl_model_get_info(bl__session_model(session)), test,
                                               bl__bench_bytes(test, &work));
    return (bl_energy_estimate){n * e.arithmetic, n * e.memory};
}

void bl_energy_estimate_text(const bl_session *session, size_t n_batch, size_t n_prompt,
                             size_t n_generated, bl_energy_estimate *prompt,
                             bl_energy_estimate *generated) {
    bl_bench_test test = {.n_prompt = (uint32_t)n_prompt,
                          .n_streams = 1,
                          .n_batch = (uint32_t)(n_batch ? n_batch : DEFAULT_BATCH)};
    *prompt = of_test(session, &test);
    test = (bl_bench_test){
        .n_generate = (uint32_t)n_generated, .n_streams = 1, .depth = (uint32_t)n_prompt};
    *generated = of_test(session, &test);
}
