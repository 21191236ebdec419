/* Owns how a product is split over threads and which kernel does it. Must not know the graph. */
#include "model/compute.h"

#include <string.h>

#include "base/checked.h"
#include "quant/b1.h"
#include "quant/levels.h"
#include "quant/t5.h"

enum {
    BLOCK_ROWS = 8,       /* rows unpacked at a time for a float product */
    PARTS_PER_THREAD = 4, /* leaves threads that are free something to take */
    UNIT_ROWS = BL_T2_ROWS,
    UNPACKED_TILES = 2,   /* of T2 at a time, which stay in the first caches */
    UNPACKED_TOKENS = 96, /* that meet them: their activations stay in the second */
    DIGIT_FLOATS = UNPACKED_TOKENS * UNPACKED_TILES * BL_T2_ROWS, /* products not yet added up */
};
static_assert(UNPACKED_TILES * BL_T2_ROWS <= 4 * BLOCK_ROWS, "rows of scratch hold 2-bit tiles");

typedef struct group {
    bl__compute *compute;
    const bl__product *products;
    size_t n_products, n_tokens;
    size_t n_parts;     /* linears whose outputs a product adds up; each has its columns of x */
    const float *x;     /* float[n_tokens][n_parts * cols] */
    bool own_inputs;    /* each product quantizes an input of its own */
    float norm_eps;     /* of linears' own norms */
    size_t total_units; /* of UNIT_ROWS rows, over all products */
} group;

/* Whether kernels multiply integers with the weights as they are. */
static bool takes_integers(const bl__linear *linear) {
    return bl__layout_is_native(linear->layout) || bl__layout_is_levels(linear->layout);
}

/* Whether some linear works on int8 activations without being ternary, as a file that keeps its
 * ternary weights in an inexact layout has it. */
static bool needs_dequantized(const bl__linear *linear) {
    return linear->n_digits == 1 && !takes_integers(linear) && linear->layout != BL_LAYOUT_R2 &&
           linear->layout != BL_LAYOUT_C2;
}

/* What the linears of a model ask for. */
typedef struct needs {
    bool dequantized, own_inputs;
    size_t digits;
} needs;

static needs scan_linears(const bl_model *model) {
    needs n = {.digits = 1};
    for (size_t i = 0; i < model->hparams.n_layers; i++) {
        const bl__layer *l = &model->layers[i];
        const bl__linear *all[] = {&l->q, &l->k, &l->v, &l->gate, &l->up, l->o, l->down};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) {
            n.dequantized |= needs_dequantized(all[j]);
            n.own_inputs |= bl__linear_changes_input(all[j]);
            n.digits = all[j]->n_digits > n.digits ? all[j]->n_digits : n.digits;
        }
        n.own_inputs |= l->q.n_digits != l->k.n_digits || l->q.n_digits != l->v.n_digits ||
                        l->gate.n_digits != l->up.n_digits;
        for (size_t j = 1; j < model->hparams.n_groups; j++)
            n.dequantized |= needs_dequantized(&l->o[j]) || needs_dequantized(&l->down[j]);
    }
    return n;
}

void bl__compute_layout(bl__compute *compute, const bl_model *model, size_t max_tokens,
                        bl__arena *arena) {
    const bl__hparams *h = &model->hparams;
    size_t q_dim = (size_t)h->n_heads * h->head_dim, max_cols = h->dim;
    max_cols = max_cols > h->ffn_dim ? max_cols : h->ffn_dim;
    max_cols = max_cols > q_dim ? max_cols : q_dim;
    const needs n = scan_linears(model);
    compute->max_tokens = max_tokens;
    compute->max_cols = max_cols;
    compute->max_parts = (size_t)bl__pool_threads(compute->pool) * PARTS_PER_THREAD;
    compute->max_digits = n.digits;
    size_t n_groups = h->n_groups, padding = n_groups > 1 ? n_groups * BL_T2_COLS : 0;
    size_t n_inputs = n.own_inputs ? BL_MAX_PRODUCTS : 1,
           q8_rows = n_inputs * n.digits * max_tokens;
    compute->n_groups = n_groups;
    compute->q8.stride = bl__t2_blocks(max_cols) * BL_T2_COLS;
    compute->q8.q = bl__arena_alloc(arena, q8_rows, compute->q8.stride + padding);
    compute->q8.step = bl__arena_alloc(arena, q8_rows * n_groups, sizeof(float));
    compute->q8.sum = bl__arena_alloc(arena, q8_rows * n_groups, sizeof(int32_t));
    compute->partial =
        n_groups > 1 ? bl__arena_alloc(arena, max_tokens * h->dim, sizeof(float)) : NULL;
    size_t floats = max_tokens * max_cols;
    compute->dequantized =
        n.dequantized ? bl__arena_alloc(arena, n_inputs * floats, sizeof(float)) : NULL;
    compute->changed =
        n.own_inputs ? bl__arena_alloc(arena, n_inputs * floats, sizeof(float)) : NULL;
    /* floats; for tiles of T2, 4 * UNPACKED_TILES bytes a column, with scales and padding */
    compute->rows_stride = BLOCK_ROWS * max_cols + UNPACKED_TILES * BL_T2_ROWS * 2;
    compute->rows =
        bl__arena_alloc(arena, compute->max_parts * compute->rows_stride, sizeof(float));
    compute->digits =
        n.digits > 1
            ? bl__arena_alloc(arena, compute->max_parts * (size_t)DIGIT_FLOATS, sizeof(float))
            : NULL;
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

/* The quantized tokens of a product, or of its part. */
static bl__q8 input_q8(const group *g, const bl__product *product, size_t part) {
    const bl__compute *compute = g->compute;
    bl__q8 q8 = compute->q8;
    size_t index = g->own_inputs ? (size_t)(product - g->products) : 0;
    size_t first = index * compute->max_tokens * compute->max_digits;
    if (g->n_parts > 1) {
        q8.stride = bl__t2_blocks(product->linear->cols) * BL_T2_COLS;
        first = part * g->n_tokens;
    }
    q8.q += first * q8.stride;
    q8.step += first;
    q8.sum += first;
    return q8;
}

/* Where a product's floats begin in a buffer [BL_MAX_PRODUCTS][max_tokens][max_cols]. */
static size_t input_at(const group *g, const bl__product *product) {
    const bl__compute *compute = g->compute;
    size_t index = g->own_inputs ? (size_t)(product - g->products) : 0;
    return index * compute->max_tokens * compute->max_cols;
}
/* Inputs as linears changed them, and as int8 has them: float[n_tokens][n_parts * cols]. */
static float *changed_input(const group *g, const bl__product *product) {
    return g->compute->changed + input_at(g, product);
}
static float *dequantized_input(const group *g, const bl__product *product) {
    return g->compute->dequantized + input_at(g, product);
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
static void dense_rows(const group *g, const bl__product *product, size_t part, float *out,
                       size_t first, size_t end, float *scratch) {
    const bl__compute *compute = g->compute;
    const bl__linear *linear = &product->linear[part];
    const float *x = linear->n_digits == 1              ? dequantized_input(g, product)
                     : bl__linear_changes_input(linear) ? changed_input(g, product)
                                                        : g->x;
    size_t x_stride = g->n_parts * linear->cols;
    x += part * linear->cols;
    for (size_t row = first; row < end; row += BLOCK_ROWS) {
        size_t n = bl__min_size(BLOCK_ROWS, end - row);
        multiply_rows(compute, linear, row, n, x, x_stride, g->n_tokens, out + row, scratch);
    }
}

void bl__compute_dots(const bl__compute *compute, const bl__linear *linear, size_t first, size_t n,
                      const float *x, size_t n_tokens, size_t part, float *out) {
    float *scratch = compute->rows + part * compute->rows_stride;
    for (size_t done = 0, some; done < n; done += some) {
        some = bl__min_size(BLOCK_ROWS, n - done);
        multiply_rows(compute, linear, first + done, some, x, linear->cols, n_tokens, out + done,
                      scratch);
    }
    for (size_t t = 0; linear->scale != 1.0f && t < n_tokens; t++)
        for (size_t r = 0; r < n; r++)
            out[t * linear->rows + r] *= linear->scale;
}

void bl__compute_expect_row(const bl__linear *linear, size_t row) {
    enum { LINE_BYTES = 64 };
    bool is_half = linear->layout == BL_LAYOUT_F16 || linear->layout == BL_LAYOUT_BF16;
    size_t bytes = linear->cols * (is_half ? 2 : linear->layout == BL_LAYOUT_F32 ? 4 : 0);
    for (size_t at = 0; at < bytes; at += LINE_BYTES)
        __builtin_prefetch(linear->data + row * bytes + at);
}

static size_t units_of(const bl__linear *linear) {
    return (linear->rows + UNIT_ROWS - 1) / UNIT_ROWS;
}

/* n tiles from `first` on of a linear in a native layout times n_tokens tokens or digits:
 * out[t * out_stride + r], r from the first of these rows on. */
static void native_rows(const bl__compute *compute, const bl__linear *linear, const bl__q8 *q8,
                        size_t n_tokens, size_t first, size_t n, float *out, size_t out_stride,
                        float *scratch) {
    const bl__kernels *k = compute->kernels;
    size_t rows = linear->rows - first * BL_T2_ROWS, cols = linear->cols;
    bool is_t5 = linear->layout == BL_LAYOUT_T5;
    size_t stride = linear->layout == BL_LAYOUT_T2 ? bl__t2_stride(cols)
                    : is_t5                        ? bl__t5_stride(cols)
                                                   : bl__b1_stride(cols);
    const uint8_t *data = linear->data + first * stride;
    if (linear->layout == BL_LAYOUT_T2) {
        k->ternary_gemm(data, rows, cols, 0, n, q8, n_tokens, out, out_stride);
        return;
    }
    if (n_tokens == 1 && (is_t5 ? k->t5_gemv : k->b1_gemv)) {
        (is_t5 ? k->t5_gemv : k->b1_gemv)(data, rows, cols, 0, n, q8, out);
        return;
    }
    if (is_t5 && k->t5_gemm) {
        k->t5_gemm(data, rows, cols, 0, n, q8, n_tokens, out, out_stride);
        return;
    }
    for (size_t t = 0, n_here; t < n_tokens; t += n_here) {
        n_here = bl__min_size(UNPACKED_TOKENS, n_tokens - t);
        bl__q8 x = {q8->q + t * q8->stride, q8->stride, q8->step + t, q8->sum + t};
        for (size_t tile = 0, here; tile < n; tile += here) {
            uint8_t *tiles = (uint8_t *)scratch;
            size_t row = tile * BL_T2_ROWS;
            here = bl__min_size(UNPACKED_TILES, n - tile);
            (is_t5 ? k->t5_unpack : k->b1_unpack)(data, cols, tile, here, tiles);
            k->ternary_gemm(tiles, rows - row, cols, 0, here, &x, n_here,
                            out + t * out_stride + row, out_stride);
        }
    }
}

/* The same for every layout whose kernels take integers. */
static void integer_rows(const bl__compute *compute, const bl__linear *linear, const bl__q8 *q8,
                         size_t n_tokens, size_t first, size_t n, float *out, size_t out_stride,
                         float *scratch) {
    /* B1: what three digits have in common is looked up once */
    if (!bl__layout_is_levels(linear->layout) &&
        !(linear->layout == BL_LAYOUT_B1 && linear->n_digits > 1)) {
        native_rows(compute, linear, q8, n_tokens, first, n, out, out_stride, scratch);
        return;
    }
    const bl__levels levels =
        bl__levels_of(linear->layout, linear->data, linear->rows, linear->cols);
    compute->kernels->levels_gemm(&levels, first, n, q8, n_tokens, out, out_stride);
}

/* Rows of n tiles from `first` on whose activations are digits: out[n_tokens][rows], from the first
 * of these rows on. A digit is a token to the kernels; what they give is added up, the digit that
 * counts most first. */
static void digit_rows(const group *g, const bl__linear *linear, const bl__q8 *q8, size_t first,
                       size_t n, float *out, float *scratch, float *digits) {
    const bl__kernels *k = g->compute->kernels;
    size_t n_digits = linear->n_digits, end = first + n;
    for (size_t t = 0, n_here; t < g->n_tokens; t += n_here) {
        n_here = bl__min_size(UNPACKED_TOKENS / n_digits, g->n_tokens - t);
        const bl__q8 x = {q8->q + t * n_digits * q8->stride, q8->stride, q8->step + t * n_digits,
                          q8->sum + t * n_digits};
        size_t n_tiles = DIGIT_FLOATS / (n_here * n_digits * BL_T2_ROWS);
        for (size_t tile = first, here; tile < end; tile += here) {
            size_t row = tile * BL_T2_ROWS, n_rows;
            here = bl__min_size(n_tiles, end - tile);
            n_rows = bl__min_size(here * BL_T2_ROWS, linear->rows - row);
            integer_rows(g->compute, linear, &x, n_here * n_digits, tile, here, digits, n_rows,
                         scratch);
            for (size_t i = 0; i < n_here; i++) {
                float *to = out + (t + i) * linear->rows + (row - first * BL_T2_ROWS);
                const float *from = digits + i * n_digits * n_rows;
                memcpy(to, from, n_rows * sizeof *to);
                for (size_t d = 1; d < n_digits; d++)
                    k->add(to, from + d * n_rows, n_rows);
            }
        }
    }
}

/* Computes the units first ... first + n - 1 of one product. */
static void product_units(const group *g, const bl__product *product, size_t first, size_t n,
                          size_t thread_part) {
    const bl__compute *compute = g->compute;
    float *scratch = compute->rows + thread_part * compute->rows_stride;
    size_t rows = product->linear->rows, row = first * UNIT_ROWS;
    size_t end = bl__min_size((first + n) * UNIT_ROWS, rows);
    for (size_t part = 0; part < g->n_parts; part++) {
        const bl__linear *linear = &product->linear[part];
        bl__q8 q8 = input_q8(g, product, part);
        float *out = part ? compute->partial : product->out;
        if (linear->n_digits > 1)
            digit_rows(g, linear, &q8, first, n, out + row, scratch,
                       compute->digits + thread_part * DIGIT_FLOATS);
        else if (linear->n_digits == 1 && takes_integers(linear))
            integer_rows(compute, linear, &q8, g->n_tokens, first, n, out + row, rows, scratch);
        else
            dense_rows(g, product, part, out, row, end, scratch);
        for (size_t t = 0; linear->scale != 1.0f && t < g->n_tokens; t++)
            compute->kernels->scale(out + t * rows + row, linear->scale, NULL, end - row,
                                    out + t * rows + row);
        for (size_t t = 0; part && t < g->n_tokens; t++)
            compute->kernels->add(product->out + t * rows + row, out + t * rows + row, end - row);
    }
}

static void group_part(void *context, size_t part, size_t n_parts) {
    const group *g = context;
    size_t begin = g->total_units * part / n_parts, end = g->total_units * (part + 1) / n_parts;
    for (size_t p = 0, base = 0; p < g->n_products; p++) {
        size_t units = units_of(g->products[p].linear);
        size_t first = begin > base ? begin - base : 0;
        size_t last = end > base ? bl__min_size(end - base, units) : 0;
        if (first < last)
            product_units(g, &g->products[p], first, last - first, part);
        base += units;
    }
}

/* The input of one token as its linear wants it. */
static const float *change_input(const group *g, const bl__product *product, size_t t) {
    const bl__compute *compute = g->compute;
    const bl__linear *linear = product->linear;
    size_t cols = linear->cols;
    const float *x = g->x + t * cols;
    float *to, scratch[2 * BL_BINARIZED_BLOCK];
    if (!bl__linear_changes_input(linear))
        return x;
    to = changed_input(g, product) + t * cols;
    if (linear->norm)
        bl__rms_norm(compute->kernels, x, linear->norm, g->norm_eps, cols, to);
    else if (linear->haar)
        memcpy(to, x, cols * sizeof *to);
    if (linear->haar)
        bl__haar(to, cols, scratch);
    if (linear->in_scale)
        compute->kernels->scale(linear->norm || linear->haar ? to : x, 1.0f, linear->in_scale, cols,
                                to);
    return to;
}

/* Quantizes one token of a product or of its part, and writes it back as floats where that is
 * wanted. */
static void quantize_token(const group *g, const bl__product *product, size_t t, size_t part) {
    const bl__compute *compute = g->compute;
    const bl__linear *linear = product->linear;
    size_t cols = linear->cols, n = linear->n_digits;
    bl__q8 q8 = input_q8(g, product, part);
    const float *x =
        g->n_parts > 1 ? g->x + (t * g->n_parts + part) * cols : change_input(g, product, t);
    if (n > 1)
        compute->kernels->quantize_digits(x, cols, n, q8.q + t * n * q8.stride, q8.stride,
                                          q8.step + t * n, q8.sum + t * n);
    if (n != 1)
        return;
    int8_t *q = q8.q + t * q8.stride;
    compute->kernels->quantize_i8(x, cols, q, q8.stride, &q8.step[t], &q8.sum[t]);
    if (!compute->dequantized)
        return;
    float *back = dequantized_input(g, product) + (t * g->n_parts + part) * cols;
    for (size_t c = 0; c < cols; c++)
        back[c] = (float)q[c] * q8.step[t];
}

static void quantize_part(void *context, size_t part, size_t n_parts) {
    const group *g = context;
    size_t n_inputs = g->own_inputs ? g->n_products : 1;
    size_t n = n_inputs * g->n_tokens * g->n_parts, end = n * (part + 1) / n_parts;
    for (size_t i = n * part / n_parts; i < end; i++) {
        size_t token = i / g->n_parts;
        quantize_token(g, &g->products[token / g->n_tokens], token % g->n_tokens, i % g->n_parts);
    }
}

/* LayerNorm of the tokens of one part, of all products that end with one. */
static void norm_outputs(void *context, size_t part, size_t n_parts) {
    const group *g = context;
    size_t end = g->n_tokens * (part + 1) / n_parts;
    for (size_t p = 0; p < g->n_products; p++)
        for (size_t t = g->n_tokens * part / n_parts; t < end; t++) {
            size_t rows = g->products[p].linear->rows;
            float *y = g->products[p].out + t * rows;
            if (g->products[p].linear->output_norm)
                bl__layer_norm(g->compute->kernels, y, g->norm_eps, rows, y, NULL);
        }
}

static void run_group(group *g) {
    bl__compute *compute = g->compute;
    const bl__linear *first = g->products[0].linear;
    bool quantizes = false, output_norms = false;
    size_t n_token_parts = bl__min_size(g->n_tokens, compute->max_parts);
    g->total_units = 0;
    g->own_inputs = false;
    for (size_t p = 0; p < g->n_products; p++) {
        const bl__linear *linear = g->products[p].linear;
        g->total_units += units_of(linear);
        g->own_inputs |= bl__linear_changes_input(linear) || linear->n_digits != first->n_digits;
        quantizes |= linear->n_digits > 0;
        output_norms |= linear->output_norm;
    }
    if (quantizes || g->own_inputs)
        bl__pool_run(compute->pool, quantize_part, g, n_token_parts);
    bl__pool_run(compute->pool, group_part, g, bl__min_size(g->total_units, compute->max_parts));
    if (output_norms)
        bl__pool_run(compute->pool, norm_outputs, g, n_token_parts);
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
    product_units(&g, &product, first, n, part);
}

void bl__compute_products(bl__compute *compute, const bl__product *products, size_t n_products,
                          float norm_eps, const float *x, size_t n_tokens) {
    group g = {.compute = compute,
               .products = products,
               .n_products = n_products,
               .n_tokens = n_tokens,
               .n_parts = 1,
               .x = x,
               .norm_eps = norm_eps};
    run_group(&g);
}

void bl__compute_sum(bl__compute *compute, const bl__linear *parts, size_t n_groups, float norm_eps,
                     const float *x, size_t n_tokens, float *out) {
    const bl__product product = {parts, out};
    group g = {.compute = compute,
               .products = &product,
               .n_products = 1,
               .n_parts = n_groups,
               .n_tokens = n_tokens,
               .x = x,
               .norm_eps = norm_eps};
    run_group(&g);
}
