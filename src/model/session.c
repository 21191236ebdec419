/* Owns a session's memory and the order of the forward pass.
 *
 *     h   = x + o(attn_sub_norm(attention(rope(q(n1)), rope(k(n1)), v(n1))))   n1 = attn_norm(x)
 *     x'  = h + down(ffn_sub_norm(act(gate(n2)) * up(n2)))                     n2 = ffn_norm(h)
 *
 * (arXiv 2504.12285 with both sub-norms; LLaMA without; BitNet, arXiv 2310.11453, with LayerNorms
 * in all places.) Must not know how products are made or which texts a batch belongs to. */
#include "model/session.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "bitloom/system.h"
#include "cpu/cpu.h"
#include "model/memory.h"
#include "model/work.h"

enum {
    DEFAULT_MAX_CTX = 4096,
    DEFAULT_BATCH = 256,
    MAX_BATCH = 65536,
    MIN_SCREENED_WEIGHTS = 8 << 20 /* smaller heads stay in the caches */
};

/* Lays all memory of a session out on an arena, measuring or real. */
static void lay_out(bl_session *s, bl__arena *arena) {
    const bl__hparams *h = &s->model->hparams;
    size_t n = s->n_batch, q_dim = (size_t)h->n_heads * h->head_dim;
    size_t kv_dim = (size_t)h->n_kv_heads * h->head_dim;
    size_t n_places = 0;
    if (!bl__mul_size(s->n_sequences, s->n_ctx, &n_places))
        arena->overflowed = true;
    s->tokens = bl__arena_alloc(arena, n_places, sizeof *s->tokens);
    s->row_tokens = bl__arena_alloc(arena, n, sizeof *s->row_tokens);
    s->wanted = bl__arena_alloc(arena, n, sizeof *s->wanted);
    s->x = bl__arena_alloc(arena, n * h->dim, sizeof(float));
    s->normed = bl__arena_alloc(arena, n * h->dim, sizeof(float));
    s->q = bl__arena_alloc(arena, n * q_dim, sizeof(float));
    s->k = bl__arena_alloc(arena, n * kv_dim, sizeof(float));
    s->v = bl__arena_alloc(arena, n * kv_dim, sizeof(float));
    s->attended = bl__arena_alloc(arena, n * q_dim, sizeof(float));
    s->gate = bl__arena_alloc(arena, n * h->ffn_dim, sizeof(float));
    s->up = bl__arena_alloc(arena, n * h->ffn_dim, sizeof(float));
    s->delta = bl__arena_alloc(arena, n * h->dim, sizeof(float));
    bl__compute_layout(&s->compute, s->model, n, arena);
    bl__head_layout(&s->head, &s->compute, arena);
    bl__skip_layout(&s->skip, s->model, n, arena);
    bl__attention_layout(&s->attention, s->n_ctx, arena);
    bl__pages_layout(&s->pages, s->n_pages, arena);
    size_t n_blocks = bl__cache_blocks(s->n_ctx);
    s->page_lists = bl__arena_alloc(arena, s->n_sequences, n_blocks * sizeof *s->page_lists);
    for (size_t i = 0; s->page_lists && i < s->n_sequences; i++)
        s->sequences[i].held = (bl__page_list){.pages = s->page_lists + i * n_blocks,
                                               .home = s->n_pages * i / s->n_sequences};
    size_t before = arena->used;
    bl__cache_layout(&s->cache, h, s->cache_type, s->n_pages, arena);
    s->cache_bytes = arena->used - before;
    s->memory_bytes = arena->used;
}

static bl_status allocate(bl_session *s, bl_error *err) {
    bl__arena measure = bl__arena_measuring();
    lay_out(s, &measure);
    if (measure.overflowed || s->n_pages > UINT32_MAX)
        return bl__fail(err, BL_ERR_LIMIT, "a session of %zu x %zu tokens is too large to address",
                        s->n_sequences, s->n_ctx);
    bl_status status = bl__memory_check_session(s, err);
    if (!status)
        status = bl__arena_create(measure.used, &s->arena, err);
    if (!status)
        lay_out(s, &s->arena);
    return status;
}

/* The copy of the head, where it is wanted and can be had. */
static bl_status choose_head(bl_session *s, bl_head head, bl_error *err) {
    const bl__linear *linear = s->head.linear;
    bool pays = linear->rows * linear->cols >= MIN_SCREENED_WEIGHTS;
    if (head > BL_HEAD_SCREENED)
        return bl__fail(err, BL_ERR_ARGUMENT, "head %d, expected 0 to %d", (int)head,
                        BL_HEAD_SCREENED);
    if (!s->model->screen || head == BL_HEAD_FULL || (head == BL_HEAD_AUTO && !pays))
        return BL_OK;
    if (!bl__screen_reserve(s->model->screen))
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes for a copy of the head",
                        s->model->screen->bytes);
    s->head.screen = s->model->screen;
    return BL_OK;
}

bl_status bl_session_create(const bl_model *model, const bl_session_params *params,
                            bl_session **out, bl_error *err) {
    bl_session_params p = params ? *params : (bl_session_params){0};
    uint32_t trained = model->hparams.context_length;
    if (p.n_batch > MAX_BATCH)
        return bl__fail(err, BL_ERR_ARGUMENT, "a batch of %u tokens, at most %d allowed", p.n_batch,
                        MAX_BATCH);
    if (p.n_sequences > BL_MAX_SEQUENCES)
        return bl__fail(err, BL_ERR_ARGUMENT, "%u sequences, at most %d allowed", p.n_sequences,
                        BL_MAX_SEQUENCES);
    if ((unsigned)p.cache_type > BL_CACHE_I4)
        return bl__fail(err, BL_ERR_ARGUMENT, "cache type %d, expected 0 to %d", (int)p.cache_type,
                        BL_CACHE_I4);
    bl_session *s = bl__calloc(1, sizeof *s);
    if (!s)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a session");
    s->n_sequences = p.n_sequences ? p.n_sequences : 1;
    s->sequences = bl__calloc(s->n_sequences, sizeof *s->sequences);
    s->spans = bl__calloc(s->n_sequences, sizeof *s->spans);
    if (!s->sequences || !s->spans) {
        bl_session_free(s);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u sequences", p.n_sequences);
    }
    if (p.kernels && !bl__kernels_for(p.kernels, &s->own_kernels)) {
        bl_session_free(s);
        return bl__fail(err, BL_ERR_ARGUMENT, "kernels \"%.32s\", expected one of: %s", p.kernels,
                        bl_kernel_levels());
    }
    s->model = model;
    s->kernels = p.kernels ? &s->own_kernels : bl__kernels_get();
    s->cache_type = p.cache_type;
    s->n_ctx = p.n_ctx ? p.n_ctx : bl__min_size(trained, DEFAULT_MAX_CTX);
    s->n_pages = s->n_sequences * bl__cache_blocks(s->n_ctx); /* more are of no use */
    if (p.cache_tokens)
        s->n_pages = bl__min_size(s->n_pages, bl__cache_blocks(p.cache_tokens));
    s->n_batch = bl__min_size(p.n_batch ? p.n_batch : DEFAULT_BATCH, s->n_sequences * s->n_ctx);
    bl_status status =
        bl__pool_create(p.n_threads ? p.n_threads : bl__cpu_physical_cores(), false, &s->pool, err);
    s->compute = (bl__compute){.kernels = s->kernels, .pool = s->pool};
    s->skip = (bl__skip){.compute = &s->compute};
    s->attention = (bl__attention){
        .kernels = s->kernels, .pool = s->pool, .h = &model->hparams, .cache = &s->cache};
    s->head = (bl__head){.linear = &model->head, .has = BL_HEAD_ALL};
    if (status || (status = choose_head(s, p.head, err)) || (status = allocate(s, err))) {
        bl_session_free(s);
        return status;
    }
    bl__attention_prepare(&s->attention, model->rope_divisors);
    *out = s;
    return BL_OK;
}

void bl_session_free(bl_session *s) {
    if (!s)
        return;
    bl__pool_free(s->pool);
    bl__arena_destroy(&s->arena);
    bl__free(s->sequences);
    bl__free(s->spans);
    bl__free(s);
}

/* A vector operation on every token of a batch, spread over the threads. */
typedef struct batch {
    bl_session *s;
    size_t n_tokens, width;
    size_t n_groups;     /* of a norm: equal parts of the width, each normalized alone */
    const float *weight; /* of a norm; NULL = no norm */
    const float *in;
    float *out;
    const uint32_t *rows; /* uint32_t[n_tokens]: the row of `in` that is token t; NULL = t */
} batch;

/* out[n] = norm of x, which out may be. weight: of an RMS norm. */
static void normalize(const bl_session *s, const float *x, const float *weight, size_t n,
                      float *out) {
    const bl__hparams *h = &s->model->hparams;
    if (h->layer_norm)
        bl__layer_norm(s->kernels, x, h->norm_eps, n, out, NULL);
    else
        bl__rms_norm(s->kernels, x, weight, h->norm_eps, n, out);
}

static void norm_token(const batch *b, const float *in, float *out) {
    size_t n = b->width / b->n_groups;
    for (size_t at = 0; at < b->width; at += n)
        normalize(b->s, in + at, b->weight ? b->weight + at : NULL, n, out + at);
}

static void norm_part(void *context, size_t part, size_t n_parts) {
    const batch *b = context;
    size_t end = b->n_tokens * (part + 1) / n_parts;
    for (size_t t = b->n_tokens * part / n_parts; t < end; t++)
        norm_token(b, b->in + (b->rows ? b->rows[t] : t) * b->width, b->out + t * b->width);
}

/* gate becomes act(gate) * up and, where there is one, its sub-norm. */
static void activate_part(void *context, size_t part, size_t n_parts) {
    const batch *b = context;
    size_t end = b->n_tokens * (part + 1) / n_parts;
    const bl__hparams *h = &b->s->model->hparams;
    for (size_t t = b->n_tokens * part / n_parts; t < end; t++) {
        float *gate = b->out + t * b->width;
        if (h->activation == BL_ACTIVATION_RELU2)
            b->s->kernels->relu2_mul(gate, b->in + t * b->width, b->width, gate);
        else
            b->s->kernels->silu_mul(gate, b->in + t * b->width, b->width, gate);
        if (b->weight || h->layer_norm)
            norm_token(b, gate, gate);
    }
}

static void norm_tokens(bl_session *s, const float *in, const float *weight, size_t n_tokens,
                        size_t width, size_t n_groups, float *out) {
    batch b = {s, n_tokens, width, n_groups, weight, in, out, NULL};
    bl__pool_run(s->pool, norm_part, &b, bl__min_size(n_tokens, s->compute.max_parts));
}

static void products(bl_session *s, const bl__product *list, size_t n, const float *x,
                     size_t n_tokens) {
    bl__compute_products(&s->compute, list, n, s->model->hparams.linear_norm_eps, x, n_tokens);
}

/* s->delta = x W^T of a linear whose columns are in groups. */
static void sum_products(bl_session *s, const bl__linear *parts, const float *x, size_t n_tokens) {
    const bl__hparams *h = &s->model->hparams;
    bl__compute_sum(&s->compute, parts, h->n_groups, h->linear_norm_eps, x, n_tokens, s->delta);
}

static void attention_block(bl_session *s, size_t i, size_t n_tokens) {
    const bl__hparams *h = &s->model->hparams;
    const bl__layer *layer = &s->model->layers[i];
    const bl__product qkv[] = {{&layer->q, s->q}, {&layer->k, s->k}, {&layer->v, s->v}};
    norm_tokens(s, s->x, layer->attn_norm, n_tokens, h->dim, 1, s->normed);
    products(s, qkv, 3, s->normed, n_tokens);
    bl__attention_run(&s->attention, i, s->spans, s->n_spans, s->q, s->k, s->v, s->attended);
    if (layer->attn_sub_norm || h->layer_norm)
        norm_tokens(s, s->attended, layer->attn_sub_norm, n_tokens,
                    (size_t)h->n_heads * h->head_dim, h->n_groups, s->attended);
    sum_products(s, layer->o, s->attended, n_tokens);
    s->kernels->add(s->x, s->delta, n_tokens * h->dim);
}

static void ffn_block(bl_session *s, size_t i, size_t n_tokens) {
    const bl__hparams *h = &s->model->hparams;
    const bl__layer *layer = &s->model->layers[i];
    const bl__product gate_up[] = {{&layer->gate, s->gate}, {&layer->up, s->up}};
    norm_tokens(s, s->x, layer->ffn_norm, n_tokens, h->dim, 1, s->normed);
    if (layer->can_skip) {
        bl__skip_gate_up(&s->skip, layer, s->normed, n_tokens, s->gate, s->up);
        if (layer->ffn_sub_norm || h->layer_norm)
            norm_tokens(s, s->gate, layer->ffn_sub_norm, n_tokens, h->ffn_dim, 1, s->gate);
        bl__skip_down(&s->skip, layer, s->gate, n_tokens, s->delta);
    } else {
        products(s, gate_up, 2, s->normed, n_tokens);
        batch b = {s, n_tokens, h->ffn_dim, h->n_groups, layer->ffn_sub_norm, s->up, s->gate, NULL};
        bl__pool_run(s->pool, activate_part, &b, bl__min_size(n_tokens, s->compute.max_parts));
        sum_products(s, layer->down, s->gate, n_tokens);
    }
    s->kernels->add(s->x, s->delta, n_tokens * h->dim);
}

void bl__session_forward(bl_session *s, size_t n_tokens, size_t n_wanted, const bl_reach *reaches,
                         float *logits) {
    const bl_model *m = s->model;
    size_t dim = m->hparams.dim;
    for (size_t t = 0; t < n_tokens; t++)
        bl__compute_row(&s->compute, &m->embedding, (size_t)s->row_tokens[t], s->x + t * dim);
    for (size_t i = 0; i < m->hparams.n_layers; i++) {
        attention_block(s, i, n_tokens);
        ffn_block(s, i, n_tokens);
    }
    if (n_wanted == 0)
        return;
    batch b = {s, n_wanted, dim, 1, m->output_norm, s->x, s->normed, s->wanted};
    bl__pool_run(s->pool, norm_part, &b, bl__min_size(n_wanted, s->compute.max_parts));
    if (!logits) {
        bl__head_take(&s->head, s->normed);
        return;
    }
    if (reaches) {
        bl__head_rows(&s->head, &s->compute, s->normed, n_wanted, reaches, logits);
        return;
    }
    const bl__product head = {&m->head, logits};
    products(s, &head, 1, s->normed, n_wanted);
}

void bl__session_states(bl_session *s, size_t n_tokens, float *states) {
    norm_tokens(s, s->x, s->model->output_norm, n_tokens, s->model->hparams.dim, 1, states);
}

bl_skipped bl_session_skipped(const bl_session *s) {
    return s->skip.counts;
}

bl__work bl__session_work(const bl_session *s) {
    bl__work work = bl__model_work(s->model);
    work.position_bytes = bl__cache_position_bytes(&s->cache);
    return work;
}

const bl_model *bl__session_model(const bl_session *s) {
    return s->model;
}

bl__head_counts bl__session_head_counts(const bl_session *s) {
    return s->head.counts;
}

double bl__session_head_row_bytes(const bl_session *s) {
    const bl__hparams *h = &s->model->hparams;
    double bytes = (double)bl__model_work(s->model).head_bytes;
    return (bytes - (double)h->dim * sizeof(float)) / h->vocab;
}

uint32_t bl__session_copy_steps(const bl_session *s) {
    return s->head.screen ? BL_HEAD_MAKING_STEPS : 0;
}
