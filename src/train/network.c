/* Owns the parameters, the memory and the order of a step. Must not know how any part computes. */
#include "train/network.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"
#include "quant/t2.h"
#include "train/graph.h"

enum {
    MAX_LAYERS = 1024,
    MAX_WIDTH = 1 << 20, /* of dim, ffn_dim, heads x head_dim: integer products stay in int32 */
    MAX_VOCAB = 1 << 24,
    MAX_CONTEXT = 1 << 24,
    CHUNK_LOGITS = 1 << 22 /* gradients of logits kept at a time, at least HEAD_TOKENS rows */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bl__run_parts(bl__network *net, bl__phase phase, bl__part_fn fn, void *context,
                   size_t n_items) {
    double start = now();
    bl__pool_run(net->pool, fn, context, bl__min_size(n_items, net->n_parts));
    net->seconds[phase] += now() - start;
}

void bl__sum_over_processes(const slice *s) {
    double start = now();
    bl__processes_sum_all(s->net->config.tensor, s->net->sums, s->n_tokens * s->net->config.dim);
    s->net->seconds[BL_PHASE_EXCHANGE] += now() - start;
}

bl__param *bl__layer_param(const bl__network *net, size_t index, size_t which) {
    return &net->params[1 + index * BL_PARAMS_PER_LAYER + which];
}

/* ---- layout: the same walk measures and hands out ---- */

static size_t max3(size_t a, size_t b, size_t c) {
    a = a > b ? a : b;
    return a > c ? a : c;
}

static void *take_floats(bl__arena *arena, size_t rows, size_t cols) {
    size_t n;
    if (!bl__mul_size(rows, cols, &n)) {
        arena->overflowed = true;
        return NULL;
    }
    return bl__arena_alloc(arena, n, sizeof(float));
}

/* Panels of `groups` matrices [k][n]. */
static void *take_panels(const bl__network *net, bl__arena *arena, size_t groups, size_t k,
                         size_t n) {
    return take_floats(arena, groups * ceil_div(n, net->gemm->panel) * net->gemm->panel,
                       units_of(net->gemm, k));
}

/* The same of linears' gradients, which are codes at times. */
static void *take_backward_panels(const bl__network *net, bl__arena *arena, size_t groups, size_t k,
                                  size_t n) {
    const bl__gemm *floats = net->gemm, *codes = net->codes_gemm;
    bool both = is_quantized(net) && net->config.blends;
    if (!is_quantized(net) || (both && matrix_units(floats, k, n) > matrix_units(codes, k, n)))
        codes = floats;
    return take_floats(arena, groups * ceil_div(n, codes->panel) * codes->panel,
                       units_of(codes, k));
}

static void set_param(bl__network *net, bl__arena *arena, size_t index, size_t rows, size_t cols) {
    bl__param *p = &net->params[index];
    p->rows = p->whole_rows = rows;
    p->cols = p->whole_cols = cols;
    p->decays = false;
    p->col_groups = 1;
    p->value = take_floats(arena, rows, cols);
}

/* Rows of q, k, v, gate and up, columns of the rest, are what a process has a part of. */
static void place_param(const bl__network *net, bl__param *p, size_t which) {
    uint32_t rank = bl__processes_rank(net->config.tensor);
    uint32_t size = bl__processes_size(net->config.tensor);
    switch (which) {
    case BL_PARAM_Q:
    case BL_PARAM_K:
    case BL_PARAM_V:
    case BL_PARAM_GATE:
    case BL_PARAM_UP:
        p->whole_rows = p->rows * size;
        p->first_row = p->rows * rank;
        break;
    case BL_PARAM_ATTN_SUB_NORM:
    case BL_PARAM_FFN_SUB_NORM:
    case BL_PARAM_O:
    case BL_PARAM_DOWN:
        p->whole_cols = p->cols * size;
        p->first_col = p->cols * rank;
        break;
    }
}

static const char *const PARAM_NAMES[BL_PARAM_VECTORS] = {"input_layernorm",
                                                          "self_attn.q_proj",
                                                          "self_attn.k_proj",
                                                          "self_attn.v_proj",
                                                          "self_attn.attn_sub_norm",
                                                          "self_attn.o_proj",
                                                          "post_attention_layernorm",
                                                          "mlp.gate_proj",
                                                          "mlp.up_proj",
                                                          "mlp.ffn_sub_norm",
                                                          "mlp.down_proj"};
/* Which of a layer's parameters is which linear. */
static const unsigned char LINEAR_PARAMS[N_LINEARS] = {
    BL_PARAM_Q, BL_PARAM_K, BL_PARAM_V, BL_PARAM_O, BL_PARAM_GATE, BL_PARAM_UP, BL_PARAM_DOWN};

/* The vectors of linear `which`, called as OneBit's authors call them. */
static void layout_vectors(bl__network *net, bl__arena *arena, size_t index, size_t which) {
    static const char *const names[2] = {"input_factor", "weight_scale"};
    const bl__param *weight = bl__layer_param(net, index, LINEAR_PARAMS[which]);
    for (size_t i = 0; i < 2; i++) {
        bl__param *p = bl__layer_param(net, index, BL_PARAM_VECTORS + 2 * which + i);
        set_param(net, arena, (size_t)(p - net->params), net->config.weights == BL_WEIGHTS_ONEBIT,
                  i ? weight->rows : weight->cols);
        snprintf(p->name, sizeof p->name, "model.layers.%zu.%s.%s", index,
                 PARAM_NAMES[LINEAR_PARAMS[which]], names[i]);
        p->vector = i ? BL_VECTOR_OUT : BL_VECTOR_IN;
    }
}

static void layout_params(bl__network *net, bl__arena *arena) {
    const bl__network_config *c = &net->config;
    size_t dim = c->dim, ffn = c->ffn_dim, q = net->q_dim, kv = net->kv_dim;
    size_t norm = !c->layer_norm, sub = c->sub_norms && !c->layer_norm;
    const size_t shapes[BL_PARAM_VECTORS][2] = {{norm, dim}, {q, dim},   {kv, dim},   {kv, dim},
                                                {sub, q},    {dim, q},   {norm, dim}, {ffn, dim},
                                                {ffn, dim},  {sub, ffn}, {dim, ffn}};
    set_param(net, arena, 0, c->vocab, dim);
    net->params[0].decays = true;
    for (size_t i = 0; i < c->n_layers; i++) {
        for (size_t j = 0; j < BL_PARAM_VECTORS; j++) {
            bl__param *p = bl__layer_param(net, i, j);
            set_param(net, arena, (size_t)(p - net->params), shapes[j][0], shapes[j][1]);
            snprintf(p->name, sizeof p->name, "model.layers.%zu.%s.weight", i, PARAM_NAMES[j]);
            p->linear = j != BL_PARAM_ATTN_NORM && j != BL_PARAM_ATTN_SUB_NORM &&
                        j != BL_PARAM_FFN_NORM && j != BL_PARAM_FFN_SUB_NORM;
            p->decays = p->linear;
            if (j == BL_PARAM_O || j == BL_PARAM_DOWN)
                p->col_groups = c->n_groups;
            place_param(net, p, j);
        }
        for (size_t j = 0; j < N_LINEARS; j++)
            layout_vectors(net, arena, i, j);
    }
    set_param(net, arena, net->n_params - 1, norm, dim);
    snprintf(net->params[0].name, sizeof net->params[0].name, "model.embed_tokens.weight");
    snprintf(net->params[net->n_params - 1].name, sizeof net->params[0].name, "model.norm.weight");
    /* All values in a row, then all gradients: what processes exchange are pieces of rows. */
    for (size_t i = 0; i < net->n_params && !c->frozen; i++)
        net->params[i].grad = take_floats(arena, net->params[i].rows, net->params[i].cols);
}

static void layout_linear(bl__network *net, bl__arena *arena, linear *l, bl__param *param,
                          size_t row_groups, size_t col_groups, bool quantized) {
    const bl__gemm *exact = &net->loops->float32;
    bool floats = !quantized || net->config.blends;
    l->param = param;
    l->rows = param->rows;
    l->cols = param->cols;
    l->row_groups = row_groups;
    l->col_groups = col_groups;
    l->group_cols = l->cols / col_groups;
    l->forward_panel = panel_bytes(net->gemm, l->cols);
    if (!net->config.frozen && quantized)
        l->backward = take_backward_panels(net, arena, col_groups, l->rows, l->group_cols);
    else if (!net->config.frozen)
        l->backward = take_panels(net, arena, 1, l->rows, l->cols);
    if (quantized) {
        l->groups = bl__arena_alloc(arena, row_groups * col_groups, sizeof *l->groups);
        l->group_tiles = bl__t2_tiles(l->rows) * bl__t2_stride(l->group_cols);
        l->tiles = bl__arena_alloc(arena, col_groups * bl__t2_tiles(l->rows),
                                   bl__t2_stride(l->group_cols));
    }
    if (floats)
        l->forward = take_panels(net, arena, 1, l->cols, l->rows);
    if (floats && net->gemm != exact && !net->config.frozen) {
        l->exact_panel = panel_bytes(exact, l->cols);
        l->exact = take_floats(arena, ceil_div(l->rows, exact->panel) * exact->panel, l->cols);
    }
}

static void layout_onebit(bl__network *net, bl__arena *arena, linear *l, size_t index,
                          size_t which) {
    if (net->config.weights != BL_WEIGHTS_ONEBIT)
        return;
    l->in_vector = bl__layer_param(net, index, BL_PARAM_VECTORS + 2 * which);
    l->out_vector = bl__layer_param(net, index, BL_PARAM_VECTORS + 2 * which + 1);
    l->signs = bl__arena_alloc(arena, l->rows, ceil_div(l->cols, 8));
}

/* What a layer keeps beside its x, for all tokens of a slice. */
static void layout_activations(bl__network *net, bl__arena *arena, layer *l) {
    size_t n = net->slice_tokens;
    for (size_t i = 0; i < N_INPUTS; i++) {
        input *in = &l->inputs[i];
        in->panels =
            take_backward_panels(net, arena, in->groups, n + TOKEN_PAD, in->cols / in->groups);
        in->rstd = take_floats(arena, in->norm_groups, n);
        in->mean = in->kind == NORM_LAYER ? take_floats(arena, in->norm_groups, n) : NULL;
        in->steps = is_quantized(net) ? take_floats(arena, in->groups, n) : NULL;
    }
    l->h = take_floats(arena, n, net->config.dim);
    l->q = take_floats(arena, n, net->q_dim);
    l->k = take_floats(arena, n, net->kv_dim);
    l->v = take_floats(arena, n, net->kv_dim);
    l->attended = take_floats(arena, n, net->q_dim);
    l->log_sum = take_floats(arena, n, net->config.n_heads);
    l->gate = take_floats(arena, n, net->config.ffn_dim);
    l->up = take_floats(arena, n, net->config.ffn_dim);
}

/* Gives a layer the activations of another. */
static void share_activations(const layer *from, layer *l) {
    layer own = *l;
    *l = *from;
    memcpy(l->linears, own.linears, sizeof own.linears);
    for (size_t i = 0; i < N_INPUTS; i++)
        l->inputs[i].norm = own.inputs[i].norm;
    l->x = own.x;
}

static void layout_layer(bl__network *net, bl__arena *arena, size_t index) {
    static const unsigned char norms[N_INPUTS] = {BL_PARAM_ATTN_NORM, BL_PARAM_ATTN_SUB_NORM,
                                                  BL_PARAM_FFN_NORM, BL_PARAM_FFN_SUB_NORM};
    layer *l = &net->layers[index];
    size_t groups = is_quantized(net) ? net->config.n_groups : 1;
    for (size_t i = 0; i < N_LINEARS; i++) {
        bool by_cols = i == LINEAR_O || i == LINEAR_DOWN;
        layout_linear(net, arena, &l->linears[i], bl__layer_param(net, index, LINEAR_PARAMS[i]),
                      by_cols ? 1 : groups, by_cols ? groups : 1, is_quantized(net));
        layout_onebit(net, arena, &l->linears[i], index, i);
    }
    for (size_t i = 0; i < N_INPUTS; i++) {
        input *in = &l->inputs[i];
        bool is_split = i == INPUT_O || i == INPUT_DOWN;
        in->norm = bl__layer_param(net, index, norms[i]);
        in->cols = in->norm->cols;
        in->norm_groups = is_split ? net->config.n_groups : 1;
        in->groups = is_split ? groups : 1;
        in->kind = is_split && !net->config.sub_norms ? NORM_NONE
                   : net->config.layer_norm           ? NORM_LAYER
                                                      : NORM_RMS;
    }
    size_t before = arena->used;
    l->x = take_floats(arena, net->slice_tokens, net->config.dim);
    if (net->config.recompute && index)
        share_activations(&net->layers[0], l);
    else
        layout_activations(net, arena, l);
    net->activation_bytes += arena->used - before;
}

/* Panels of [k][n] in either precision: scratch serves steps with and without a backward pass. */
static void *take_any_panels(const bl__network *net, bl__arena *arena, size_t k, size_t n) {
    size_t a = net->loops->float32.panel, b = net->loops->bf16.panel, widest = a > b ? a : b;
    return take_floats(arena, ceil_div(n, widest) * widest, k);
}

static void layout_scratch(bl__network *net, bl__arena *arena, scratch *w) {
    size_t cols = net->max_cols, tokens = net->max_tokens, d = net->config.head_dim;
    size_t units = max3(cols, units_of(net->gemm, cols), units_of(net->codes_gemm, cols));
    size_t groups = net->config.n_groups, padding = groups > 1 ? groups * BL_T2_COLS : 0;
    w->a = take_floats(arena, BLOCK_TOKENS, cols);
    w->b = take_floats(arena, BLOCK_TOKENS, cols);
    w->c = take_floats(arena, BLOCK_TOKENS, cols);
    w->d = take_floats(arena, BLOCK_TOKENS, cols);
    w->rows = take_floats(arena, BLOCK_TOKENS, units);
    w->up_rows = take_floats(arena, BLOCK_TOKENS, units);
    w->q8.stride = bl__t2_blocks(cols) * BL_T2_COLS;
    w->q8.q = bl__arena_alloc(arena, BLOCK_TOKENS, w->q8.stride + padding);
    w->q8.step = take_floats(arena, groups, BLOCK_TOKENS);
    w->q8.sum = bl__arena_alloc(arena, groups * BLOCK_TOKENS, sizeof *w->q8.sum);
    w->row = groups > 1 ? take_floats(arena, 1, cols) : NULL;
    w->scores = take_floats(arena, BLOCK_TOKENS, net->score_stride);
    w->grads = take_floats(arena, BLOCK_TOKENS, net->score_stride);
    w->score_rows = take_floats(arena, BLOCK_TOKENS, tokens > d ? tokens : d);
    for (size_t i = 0; i < 2; i++) /* and the 128 bytes of each */
        w->score_panels[i] = take_any_panels(net, arena, BLOCK_TOKENS + 32, tokens);
    w->keys_t = take_any_panels(net, arena, d, tokens);
    w->values_t = take_any_panels(net, arena, d, tokens);
    w->keys = take_any_panels(net, arena, tokens, d);
    w->values = take_any_panels(net, arena, tokens, d);
    w->small[0] = take_any_panels(net, arena, BLOCK_TOKENS, d);
    w->small[1] = take_any_panels(net, arena, BLOCK_TOKENS, d);
    w->logits = take_floats(arena, HEAD_TOKENS + 1, net->config.vocab);
    w->logit_rows = take_floats(arena, HEAD_TOKENS, units_of(net->gemm, net->config.vocab));
}

/* What the backward pass of a slice needs. */
static void layout_gradients(bl__network *net, bl__arena *arena) {
    const bl__network_config *c = &net->config;
    size_t n = net->slice_tokens, n_blocks = ceil_div(n, BLOCK_TOKENS);
    net->gradient = take_floats(arena, n, c->dim);
    net->dq = take_floats(arena, n, net->q_dim);
    net->dk = take_floats(arena, n, net->kv_dim);
    net->dv = take_floats(arena, n, net->kv_dim);
    net->dattended = take_floats(arena, n, net->q_dim);
    net->output_dots = take_floats(arena, n, c->n_heads);
    for (size_t i = 0; i < N_LINEARS; i++) {
        const linear *l = &net->layers[0].linears[i];
        net->outputs[i] = take_backward_panels(net, arena, l->col_groups, n + TOKEN_PAD, l->rows);
    }
    for (size_t i = 0; i < N_INPUTS; i++)
        net->partial[i] = take_floats(arena, n_blocks, net->layers[0].inputs[i].cols);
    net->head_input = take_panels(net, arena, 1, net->chunk_tokens + TOKEN_PAD, c->dim);
    net->head_output = take_panels(net, arena, 1, net->chunk_tokens + TOKEN_PAD, c->vocab);
    net->final_partial = take_floats(arena, ceil_div(n, HEAD_TOKENS), c->dim);
}

static void layout_slice(bl__network *net, bl__arena *arena) {
    const bl__network_config *c = &net->config;
    size_t n = net->slice_tokens, n_blocks = ceil_div(n, BLOCK_TOKENS), half = c->head_dim / 2;
    size_t n_head_blocks = ceil_div(n, HEAD_TOKENS), n_chunks = ceil_div(c->vocab, ROW_CHUNK);
    net->cosines = take_floats(arena, net->max_tokens, half);
    net->sines = take_floats(arena, net->max_tokens, half);
    net->final = take_floats(arena, n, c->dim);
    net->sums = c->tensor ? take_floats(arena, n, c->dim) : NULL;
    for (size_t i = 0; i < N_LINEARS; i++)
        n_chunks += c->n_layers * ceil_div(net->layers[0].linears[i].rows, ROW_CHUNK);
    net->losses = bl__arena_alloc(arena, n_head_blocks, sizeof *net->losses);
    net->flips = bl__arena_alloc(arena, n_chunks, sizeof *net->flips);
    net->hidden_losses = bl__arena_alloc(arena, n_blocks, sizeof *net->hidden_losses);
    if (!c->frozen)
        layout_gradients(net, arena);
}

static void layout(bl__network *net, bl__arena *arena) {
    layout_params(net, arena);
    net->activation_bytes = 0;
    for (size_t i = 0; i < net->config.n_layers; i++)
        layout_layer(net, arena, i);
    layout_linear(net, arena, &net->head, &net->params[0], 1, 1, false);
    layout_slice(net, arena);
    for (size_t i = 0; i < bl__pool_threads(net->pool); i++)
        layout_scratch(net, arena, &net->scratch[i]);
}

/* ---- creation ---- */

static bl_status check_config(const bl__network_config *c, size_t n_rows, size_t n_tokens,
                              bl_error *err) {
    const struct {
        const char *name;
        uint64_t value, max;
    } sizes[] = {{"layers", c->n_layers, MAX_LAYERS},
                 {"dim", c->dim, MAX_WIDTH},
                 {"ffn_dim", c->ffn_dim, MAX_WIDTH},
                 {"heads", c->n_heads, MAX_WIDTH},
                 {"kv_heads", c->n_kv_heads, c->n_heads},
                 {"head_dim", c->head_dim, MAX_WIDTH},
                 {"heads x head_dim", (uint64_t)c->n_heads * c->head_dim, MAX_WIDTH},
                 {"vocab", c->vocab, MAX_VOCAB},
                 {"context", c->context, MAX_CONTEXT},
                 {"tokens in a row", n_tokens, c->context},
                 {"rows in a batch", n_rows, MAX_WIDTH}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max)
            return bl__fail(err, BL_ERR_ARGUMENT, "network: %s %llu, expected 1 to %llu",
                            sizes[i].name, (unsigned long long)sizes[i].value,
                            (unsigned long long)sizes[i].max);
    if (c->n_heads % c->n_kv_heads || c->head_dim % 2)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "network: %u heads, %u kv_heads, head_dim %u: expected heads in equal "
                        "groups and an even head_dim",
                        c->n_heads, c->n_kv_heads, c->head_dim);
    if (c->n_groups && (c->n_kv_heads % c->n_groups || c->ffn_dim % c->n_groups))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "network: %u groups, expected a divisor of kv_heads, %u, and ffn_dim, %u",
                        c->n_groups, c->n_kv_heads, c->ffn_dim);
    if (c->weights == BL_WEIGHTS_ONEBIT && c->n_groups > 1)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "network: onebit linears in %u groups; their vectors make groups of rows "
                        "and columns already",
                        c->n_groups);
    uint32_t size = bl__processes_size(c->tensor);
    if (size > 1 && (c->n_groups < size || c->n_groups % size))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "network: %u processes have parts of %u groups, expected a divisor", size,
                        c->n_groups);
    if (!(c->rope_base > 0) || !(c->norm_eps >= 0) || !isfinite(c->rope_base))
        return bl__fail(err, BL_ERR_ARGUMENT, "network: rope_base %g, norm_eps %g",
                        (double)c->rope_base, (double)c->norm_eps);
    return BL_OK;
}

static void set_sizes(bl__network *net, size_t n_rows, size_t n_tokens) {
    const bl__network_config *c = &net->config;
    size_t rows = SLICE_TOKENS / n_tokens, chunk = CHUNK_LOGITS / c->vocab;
    rows = rows < 1 ? 1 : bl__min_size(rows, n_rows);
    net->loops = bl__train_kernels_get();
    net->kernels = bl__kernels_get();
    bool bf16 = c->precision == BL_PRECISION_BF16 ||
                (c->precision != BL_PRECISION_FLOAT32 && net->loops->native_bf16);
    net->gemm = bf16 ? &net->loops->bf16 : &net->loops->float32;
    bool int8 = c->precision == BL_PRECISION_INT8 && is_quantized(net) && !c->frozen;
    net->codes_gemm = int8 ? &net->loops->int8 : net->gemm;
    snprintf(net->compute, sizeof net->compute, "%s%s%s", net->gemm->name, int8 ? " + " : "",
             int8 ? net->codes_gemm->name : "");
    net->n_params = 2 + (size_t)c->n_layers * BL_PARAMS_PER_LAYER;
    net->q_dim = (size_t)c->n_heads * c->head_dim;
    net->kv_dim = (size_t)c->n_kv_heads * c->head_dim;
    net->max_cols = max3(c->dim, c->ffn_dim, net->q_dim);
    net->max_rows = n_rows;
    net->max_tokens = n_tokens;
    net->slice_tokens = rows * n_tokens;
    chunk = chunk / HEAD_TOKENS * HEAD_TOKENS;
    chunk = chunk < HEAD_TOKENS ? HEAD_TOKENS : chunk;
    net->chunk_tokens = bl__min_size(chunk, ceil_div(net->slice_tokens, 2) * 2);
    net->n_parts = (size_t)bl__pool_threads(net->pool) * PARTS_PER_THREAD;
    net->score_stride = ceil_div(n_tokens, BL_LANES) * BL_LANES;
}

/* Angles are rounded to float32 where transformers rounds them; see model/attention.c. */
static void prepare_rope(bl__network *net) {
    size_t half = net->config.head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)net->config.head_dim;
        float frequency = 1.0f / (float)pow((double)net->config.rope_base, (double)exponent);
        for (size_t pos = 0; pos < net->max_tokens; pos++) {
            float angle = (float)pos * frequency;
            net->cosines[pos * half + i] = (float)cos((double)angle);
            net->sines[pos * half + i] = (float)sin((double)angle);
        }
    }
}

/* The network of this process's groups. */
static void take_part(bl__network *net, const bl__network_config *whole) {
    uint32_t size = bl__processes_size(whole->tensor);
    net->whole = *whole;
    net->config = *whole;
    net->config.recompute |= whole->frozen; /* nothing waits for a backward pass */
    net->config.n_groups = whole->n_groups ? whole->n_groups / size : 1;
    net->config.n_heads /= size;
    net->config.n_kv_heads /= size;
    net->config.ffn_dim /= size;
}

bl_status bl__network_create(const bl__network_config *config, size_t n_rows, size_t n_tokens,
                             bl__pool *pool, bl__network **out, bl_error *err) {
    bl_status status = check_config(config, n_rows, n_tokens, err);
    if (status != BL_OK)
        return status;
    bl__network *net = bl__calloc(1, sizeof *net);
    if (!net)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a network");
    take_part(net, config);
    net->lambda = 1.0f;
    net->pool = pool;
    set_sizes(net, n_rows, n_tokens);
    net->params = bl__calloc(net->n_params, sizeof *net->params);
    net->layers = bl__calloc(config->n_layers, sizeof *net->layers);
    net->scratch = bl__calloc(bl__pool_threads(pool), sizeof *net->scratch);
    if (!net->params || !net->layers || !net->scratch) {
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate a network of %u layers",
                          config->n_layers);
        goto fail;
    }
    bl__arena measure = bl__arena_measuring();
    layout(net, &measure);
    if (measure.overflowed) {
        status = bl__fail(err, BL_ERR_LIMIT, "network: its sizes overflow");
        goto fail;
    }
    if ((status = bl__arena_create(measure.used, &net->arena, err)) != BL_OK)
        goto fail;
    layout(net, &net->arena);
    prepare_rope(net);
    *out = net;
    return BL_OK;
fail:
    bl__network_free(net);
    return status;
}

void bl__network_free(bl__network *net) {
    if (!net)
        return;
    bl__relations_free(net->relations);
    bl__arena_destroy(&net->arena);
    bl__free(net->params);
    bl__free(net->layers);
    bl__free(net->scratch);
    bl__free(net);
}

/* ---- parameters ---- */

const bl__network_config *bl__network_get_config(const bl__network *net) {
    return &net->whole;
}
size_t bl__network_bytes(const bl__network *net) {
    return net->arena.size + bl__relations_bytes(net->relations);
}
size_t bl__network_activation_bytes(const bl__network *net) {
    return net->activation_bytes;
}
const char *bl__network_compute(const bl__network *net) {
    return net->compute;
}
double bl__network_seconds(const bl__network *net, bl__phase phase) {
    return net->seconds[phase];
}
double bl__network_flips(const bl__network *net) {
    return net->flip_share;
}

bl__param *bl__network_params(bl__network *net, size_t *n) {
    *n = net->n_params;
    return net->params;
}

/* Box and Muller's method. */
static float random_normal(bl__random *random) {
    double u = 1.0 - bl__random_f64(random), angle = 6.283185307179586 * bl__random_f64(random);
    return (float)(sqrt(-2.0 * log(u)) * cos(angle));
}

/* Draws the whole row, and keeps what lies in this process's part. */
static void initialize_row(bl__param *p, size_t row, float std, bl__random *random) {
    for (size_t col = 0; col < p->whole_cols; col++) {
        float value = std * random_normal(random);
        if (row - p->first_row < p->rows && col - p->first_col < p->cols)
            p->value[(row - p->first_row) * p->cols + (col - p->first_col)] = value;
    }
}

void bl__network_initialize(bl__network *net, float std, uint64_t seed) {
    bl__random random;
    bl__random_seed(&random, seed);
    for (size_t i = 0; i < net->n_params; i++) {
        bl__param *p = &net->params[i];
        for (size_t j = 0; j < p->rows * p->cols; j++)
            p->value[j] = 1.0f;
        for (size_t row = 0; p->decays && row < p->whole_rows; row++)
            initialize_row(p, row, std, &random);
    }
    bl__network_factorize(net);
}

void bl__network_zero_gradients(bl__network *net) {
    for (size_t i = 0; i < net->n_params && !net->config.frozen; i++)
        memset(net->params[i].grad, 0, net->params[i].rows * net->params[i].cols * sizeof(float));
}

void bl__network_set_lambda(bl__network *net, float lambda) {
    if (is_quantized(net) && net->config.blends)
        net->lambda = lambda;
}

void bl__network_quantize(bl__network *net) {
    bl__linears_prepare(net);
}

/* ---- a step ---- */

void bl__network_set_firsts(bl__network *net, const int32_t *firsts) {
    net->firsts = firsts;
}

static double run_slice(slice *s) {
    bl__network *net = s->net;
    slice teacher;
    if (s->backward && net->teacher)
        bl__teacher_forward(s, &teacher);
    for (s->index = 0; s->index < net->config.n_layers; s->index++)
        bl__layer_forward(s);
    double loss = bl__head_run(s);
    if (!s->backward)
        return loss;
    for (s->index = net->config.n_layers; s->index-- > 0;) {
        /* the last layer's are still there */
        if (net->config.recompute && s->index + 1 < net->config.n_layers)
            bl__layer_recompute(s);
        if (s->teacher && net->distillation.hidden > 0)
            bl__hidden_backward(s);
        bl__layer_backward(s);
    }
    bl__embedding_gradient(s);
    return loss;
}

double bl__network_step(bl__network *net, const int32_t *inputs, const int32_t *targets,
                        size_t n_rows, size_t n_tokens, bool backward, float scale, float *logits) {
    size_t per_slice = bl__min_size(net->slice_tokens / n_tokens, n_rows), n_counted = 0;
    for (size_t i = 0; i < n_rows * n_tokens; i++)
        n_counted += targets[i] >= 0;
    double loss = 0, counted = n_counted ? (double)n_counted : 1.0;
    bool exact = !backward && !net->config.frozen;
    if (backward)
        net->hidden_loss = net->relation_loss = 0;
    if (exact)
        bl__linears_prepare_exact(net);
    for (size_t row = 0; row < n_rows; row += per_slice) {
        slice s = {.net = net,
                   .inputs = inputs + row * n_tokens,
                   .targets = targets + row * n_tokens,
                   .firsts = net->firsts ? net->firsts + row * n_tokens : NULL,
                   .row_tokens = n_tokens,
                   .backward = backward,
                   .gemm = exact ? &net->loops->float32 : net->gemm,
                   .loss_scale = (float)((double)scale / counted),
                   .logits = row == 0 ? logits : NULL};
        s.n_rows = bl__min_size(per_slice, n_rows - row);
        s.n_tokens = s.n_rows * n_tokens;
        loss += run_slice(&s);
    }
    if (backward) {
        bl__processes_sum(net->relations ? net->config.tensor : NULL, &net->relation_loss, 1);
        net->hidden_loss /= counted;
        net->relation_loss /= counted;
    }
    return loss / counted;
}
