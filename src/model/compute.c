/* Owns how a product is split over threads and which kernel does it. Must not know the graph. */
#include "model/compute.h"

#include "base/checked.h"
#include "quant/b1.h"
#include "quant/t5.h"

enum {
    BLOCK_ROWS = 8,       /* rows unpacked at a time for a float product */
    PARTS_PER_THREAD = 4, /* leaves threads that are free something to take */
    UNIT_ROWS = BL_T2_ROWS,
    UNPACKED_TILES = 2,   /* of T2 at a time, which stay in the first caches */
    UNPACKED_TOKENS = 96, /* that meet them: their activations stay in the second */
};
static_assert(UNPACKED_TILES * BL_T2_ROWS <= 4 * BLOCK_ROWS, "rows of scratch hold 2-bit tiles");

typedef struct group {
    bl__compute *compute;
    const bl__product *products;
    size_t n_products, n_tokens;
    size_t n_parts;     /* linears whose outputs a product adds up; each has its columns of x */
    const float *x;     /* float[n_tokens][n_parts * cols] */
    size_t total_units; /* of UNIT_ROWS rows, over all products */
} group;

/* Whether some linear works on quantized activations without being ternary, as a file that keeps
 * its ternary weights in an inexact layout has it. */
static bool needs_dequantized(const bl__linear *linear) {
    return linear->int8 && !bl__layout_is_native(linear->layout) &&
           linear->layout != BL_LAYOUT_R2 && linear->layout != BL_LAYOUT_C2;
}

static void scan_linears(const bl_model *model, bool *dequantized, bool *normed) {
    for (size_t i = 0; i < model->hparams.n_layers; i++) {
        const bl__layer *l = &model->layers[i];
        const bl__linear *all[] = {&l->q, &l->k, &l->v, &l->gate, &l->up, l->o, l->down};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) {
            *dequantized |= needs_dequantized(all[j]);
            *normed |= all[j]->norm != NULL;
        }
        for (size_t j = 1; j < model->hparams.n_groups; j++)
            *dequantized |= needs_dequantized(&l->o[j]) || needs_dequantized(&l->down[j]);
    }
}

void bl__compute_layout(bl__compute *compute, const bl_model *model, size_t max_tokens,
                        bl__arena *arena) {
    const bl__hparams *h = &model->hparams;
    size_t q_dim = (size_t)h->n_heads * h->head_dim, max_cols = h->dim;
    max_cols = max_cols > h->ffn_dim ? max_cols : h->ffn_dim;
    max_cols = max_cols > q_dim ? max_cols : q_dim;
    bool dequantized = false, normed = false;
    scan_linears(model, &dequantized, &normed);
    compute->max_tokens = max_tokens;
    compute->max_parts = (size_t)bl__pool_threads(compute->pool) * PARTS_PER_THREAD;
    size_t n_groups = h->n_groups, padding = n_groups > 1 ? n_groups * BL_T2_COLS : 0;
    compute->n_groups = n_groups;
    compute->q8.stride = bl__t2_blocks(max_cols) * BL_T2_COLS;
    compute->q8.q = bl__arena_alloc(arena, max_tokens, compute->q8.stride + padding);
    compute->q8.step = bl__arena_alloc(arena, max_tokens * n_groups, sizeof(float));
    compute->q8.sum = bl__arena_alloc(arena, max_tokens * n_groups, sizeof(int32_t));
    compute->partial =
        n_groups > 1 ? bl__arena_alloc(arena, max_tokens * h->dim, sizeof(float)) : NULL;
    size_t floats = max_tokens * max_cols;
    compute->dequantized = dequantized ? bl__arena_alloc(arena, floats, sizeof(float)) : NULL;
    compute->normed = normed ? bl__arena_alloc(arena, floats, sizeof(float)) : NULL;
    /* floats; for tiles of T2, 4 * UNPACKED_TILES bytes a column, with scales and padding */
    compute->rows_stride = BLOCK_ROWS * max_cols + UNPACKED_TILES * BL_T2_ROWS * 2;
    compute->rows =
        bl__arena_alloc(arena, compute->max_parts * compute->rows_stride, sizeof(float));
}

/* Rows first ... first + n - 1 as floats: in place for float32, else into scratch. */
static const float *unpack_rows(const bl__compute *compute, const bl__linear *linear, size_t first,
                                size_t n, float *scratch) {
    size_t cols = linear->cols;
    if (linear->layout == BL_LAYOUT_F32 && (uintptr_t)linear->data % sizeof(float) == 0)
        return (const float *)(const void *)linear->data + first * cols;
    for (size_t r = 0; r < n; r++) {
        const uint16_t *halves = (const uint16_t *)(const void *)linear->data + (first + r) * cols;
        if (linear->layout == BL_LAYOUT_F16)
            compute->kernels->unpack_f16(halves, cols, scratch + r * cols);
        else if (linear->layout == BL_LAYOUT_BF16)
            compute->kernels->unpack_bf16(halves, cols, scratch + r * cols);
        else
            bl__layout_unpack_row(linear->layout, linear->data, linear->rows, cols, first + r,
                                  scratch + r * cols);
    }
    return scratch;
}

void bl__compute_row(const bl__compute *compute, const bl__linear *table, size_t row, float *out) {
    const float *from = unpack_rows(compute, table, row, 1, out);
    for (size_t c = 0; from != out && c < table->cols; c++)
        out[c] = from[c];
}

/* The quantized tokens of a product's part. */
static bl__q8 part_q8(const group *g, size_t cols, size_t part) {
    bl__q8 q8 = g->compute->q8;
    if (g->n_parts > 1)
        q8.stride = bl__t2_blocks(cols) * BL_T2_COLS;
    q8.q += part * g->n_tokens * q8.stride;
    q8.step += part * g->n_tokens;
    q8.sum += part * g->n_tokens;
    return q8;
}

/* Rows row ... row + n - 1 times n_tokens activations: out[n_tokens][stride of all rows]. */
static void multiply_rows(const bl__compute *compute, const bl__linear *linear, size_t row,
                          size_t n, const float *x, size_t x_stride, size_t n_tokens, float *out,
                          float *scratch) {
    const bl__kernels *kernels = compute->kernels;
    size_t cols = linear->cols;
    const uint16_t *halves = (const uint16_t *)(const void *)linear->data + row * cols;
    if (linear->layout == BL_LAYOUT_F16)
        kernels->dot_rows_f16(halves, cols, n, cols, x, x_stride, n_tokens, out, linear->rows);
    else if (linear->layout == BL_LAYOUT_BF16)
        kernels->dot_rows_bf16(halves, cols, n, cols, x, x_stride, n_tokens, out, linear->rows);
    else
        kernels->dot_rows(unpack_rows(compute, linear, row, n, scratch), cols, n, cols, x, x_stride,
                          n_tokens, out, linear->rows);
}

/* Rows first ... end - 1 of one part into out[n_tokens][rows]. */
static void dense_rows(const group *g, const bl__linear *linear, size_t part, float *out,
                       size_t first, size_t end, float *scratch) {
    const bl__compute *compute = g->compute;
    const float *x = (linear->int8 ? compute->dequantized : g->x) + part * linear->cols;
    size_t x_stride = g->n_parts * linear->cols;
    for (size_t row = first; row < end; row += BLOCK_ROWS) {
        size_t n = bl__min_size(BLOCK_ROWS, end - row);
        multiply_rows(compute, linear, row, n, x, x_stride, g->n_tokens, out + row, scratch);
        for (size_t t = 0; linear->scale != 1.0f && t < g->n_tokens; t++)
            for (size_t r = 0; r < n; r++)
                out[t * linear->rows + row + r] *= linear->scale;
    }
}

void bl__compute_dots(const bl__compute *compute, const bl__linear *linear, size_t first, size_t n,
                      const float *x, size_t part, float *out) {
    float *scratch = compute->rows + part * compute->rows_stride;
    for (size_t done = 0, some; done < n; done += some) {
        some = bl__min_size(BLOCK_ROWS, n - done);
        multiply_rows(compute, linear, first + done, some, x, linear->cols, 1, out + done, scratch);
    }
    for (size_t r = 0; linear->scale != 1.0f && r < n; r++)
        out[r] *= linear->scale;
}

static size_t units_of(const bl__linear *linear) {
    return (linear->rows + UNIT_ROWS - 1) / UNIT_ROWS;
}

/* n tiles from `first` on of a linear in a native layout: rows of out[n_tokens][rows]. */
static void native_rows(const group *g, const bl__linear *linear, const bl__q8 *q8, size_t first,
                        size_t n, float *out, float *scratch) {
    const bl__kernels *k = g->compute->kernels;
    size_t rows = linear->rows, cols = linear->cols;
    bool is_t5 = linear->layout == BL_LAYOUT_T5;
    if (linear->layout == BL_LAYOUT_T2) {
        k->ternary_gemm(linear->data, rows, cols, first, n, q8, g->n_tokens, out, rows);
        return;
    }
    if (g->n_tokens == 1 && (is_t5 ? k->t5_gemv : k->b1_gemv)) {
        (is_t5 ? k->t5_gemv : k->b1_gemv)(linear->data, rows, cols, first, n, q8, out);
        return;
    }
    for (size_t t = 0, n_tokens; t < g->n_tokens; t += n_tokens) {
        n_tokens = bl__min_size(UNPACKED_TOKENS, g->n_tokens - t);
        bl__q8 x = {q8->q + t * q8->stride, q8->stride, q8->step + t, q8->sum + t};
        for (size_t tile = first, end = first + n, here; tile < end; tile += here) {
            uint8_t *tiles = (uint8_t *)scratch;
            size_t row = tile * BL_T2_ROWS;
            here = bl__min_size(UNPACKED_TILES, end - tile);
            (is_t5 ? k->t5_unpack : k->b1_unpack)(linear->data, cols, tile, here, tiles);
            k->ternary_gemm(tiles, rows - row, cols, 0, here, &x, n_tokens, out + t * rows + row,
                            rows);
        }
    }
}

/* Computes the units first ... first + n - 1 of one product. */
static void product_units(const group *g, const bl__product *product, size_t first, size_t n,
                          float *scratch) {
    size_t rows = product->linear->rows, row = first * UNIT_ROWS;
    size_t end = bl__min_size((first + n) * UNIT_ROWS, rows);
    for (size_t part = 0; part < g->n_parts; part++) {
        const bl__linear *linear = &product->linear[part];
        bl__q8 q8 = part_q8(g, linear->cols, part);
        float *out = part ? g->compute->partial : product->out;
        if (linear->int8 && bl__layout_is_native(linear->layout))
            native_rows(g, linear, &q8, first, n, out, scratch);
        else
            dense_rows(g, linear, part, out, row, end, scratch);
        for (size_t t = 0; part && t < g->n_tokens; t++)
            g->compute->kernels->add(product->out + t * rows + row, out + t * rows + row,
                                     end - row);
    }
}

static void group_part(void *context, size_t part, size_t n_parts) {
    const group *g = context;
    size_t begin = g->total_units * part / n_parts, end = g->total_units * (part + 1) / n_parts;
    float *scratch = g->compute->rows + part * g->compute->rows_stride;
    for (size_t p = 0, base = 0; p < g->n_products; p++) {
        size_t units = units_of(g->products[p].linear);
        size_t first = begin > base ? begin - base : 0;
        size_t last = end > base ? bl__min_size(end - base, units) : 0;
        if (first < last)
            product_units(g, &g->products[p], first, last - first, scratch);
        base += units;
    }
}

/* Quantizes the tokens of one part, and writes them back as floats where that is wanted. */
static void quantize_part(void *context, size_t part, size_t n_parts) {
    const group *g = context;
    bl__compute *compute = g->compute;
    size_t cols = g->products[0].linear->cols, n = g->n_tokens * g->n_parts;
    size_t end = n * (part + 1) / n_parts;
    for (size_t i = n * part / n_parts; i < end; i++) {
        size_t t = i / g->n_parts;
        bl__q8 q8 = part_q8(g, cols, i % g->n_parts);
        int8_t *q = q8.q + t * q8.stride;
        compute->kernels->quantize_i8(g->x + i * cols, cols, q, q8.stride, &q8.step[t], &q8.sum[t]);
        for (size_t c = 0; compute->dequantized && c < cols; c++)
            compute->dequantized[i * cols + c] = (float)q[c] * q8.step[t];
    }
}

static void run_group(group *g) {
    bl__compute *compute = g->compute;
    bool int8 = false;
    g->total_units = 0;
    for (size_t p = 0; p < g->n_products; p++) {
        g->total_units += units_of(g->products[p].linear);
        int8 |= g->products[p].linear->int8;
    }
    if (int8)
        bl__pool_run(compute->pool, quantize_part, g,
                     bl__min_size(g->n_tokens, compute->max_parts));
    bl__pool_run(compute->pool, group_part, g, bl__min_size(g->total_units, compute->max_parts));
}

void bl__compute_quantize(bl__compute *compute, const bl__linear *linear, const float *x,
                          size_t n_tokens) {
    const bl__product product = {linear, NULL};
    group g = {.compute = compute,
               .products = &product,
               .n_products = 1,
               .n_tokens = n_tokens,
               .n_parts = 1,
               .x = x};
    bl__pool_run(compute->pool, quantize_part, &g, bl__min_size(n_tokens, compute->max_parts));
}

void bl__compute_tiles(bl__compute *compute, const bl__linear *linear, size_t first, size_t n,
                       size_t n_tokens, size_t part, float *out) {
    const bl__product product = {linear, out};
    const group g = {.compute = compute,
                     .products = &product,
                     .n_products = 1,
                     .n_tokens = n_tokens,
                     .n_parts = 1};
    product_units(&g, &product, first, n, compute->rows + part * compute->rows_stride);
}

void bl__compute_products(bl__compute *compute, const bl__product *products, size_t n_products,
                          float norm_eps, const float *x, size_t n_tokens) {
    group g = {.compute = compute, .n_tokens = n_tokens, .n_parts = 1, .x = x};
    bool own_norms = false;
    for (size_t p = 0; p < n_products; p++)
        own_norms |= products[p].linear->norm != NULL;
    if (!own_norms) {
        g.products = products;
        g.n_products = n_products;
        run_group(&g);
        return;
    }
    for (size_t p = 0; p < n_products; p++) { /* each has its own input */
        const bl__linear *linear = products[p].linear;
        size_t cols = linear->cols;
        for (size_t t = 0; linear->norm && t < n_tokens; t++)
            bl__rms_norm(compute->kernels, x + t * cols, linear->norm, norm_eps, cols,
                         compute->normed + t * cols);
        g.x = linear->norm ? compute->normed : x;
        g.products = &products[p];
        g.n_products = 1;
        run_group(&g);
    }
}

void bl__compute_sum(bl__compute *compute, const bl__linear *parts, size_t n_groups, float norm_eps,
                     const float *x, size_t n_tokens, float *out) {
    const bl__product product = {parts, out};
    group g = {.compute = compute,
               .products = &product,
               .n_products = 1,
               .n_parts = n_groups,
               .n_tokens = n_tokens,
               .x = x};
    if (n_groups > 1)
        run_group(&g);
    else
        bl__compute_products(compute, &product, 1, norm_eps, x, n_tokens);
}
