/* Owns linears: how the step's weights come from the masters, and the three products of each. Must
 * not know what stands between linears.
 *
 * With quantized weights W ~ gamma C and inputs X ~ s Q (s a number a token), the forward product
 * is the exact integer one of inference, Y = s gamma (Q C^T). Backward, straight through,
 *     dX  = (gamma dY) C          dW += (s dY)^T Q
 * so that in bfloat16 only dY is ever rounded: C and Q are exact. Where columns are in groups, each
 * of them has products of its own: nothing passes between groups but sums of Y.
 *
 * The weights of onebit linears are made of signs and vectors (onebit.c), and their products are
 * those of floats: in bfloat16 the product of the vectors is rounded.
 *
 * While quantization comes in (lambda < 1), W = w + lambda (gamma C - w) and X = x + lambda (s Q -
 * x) are floats like those of a network without quantization, and so are the products. */
#include "train/graph.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "quant/quant.h"
#include "quant/t2.h"

/* Units of k at a time: the A strip and a B panel fit the first cache; where A is a panel too,
 * both do, with what is fetched for the next ones. */
enum { UNIT_BLOCK = 256, PANELS_BLOCK = 128 };

void bl__multiply_rows(const bl__gemm *gemm, const void *rows, size_t row_bytes, size_t m,
                       const void *panels, size_t panel_stride, size_t k, size_t n, float *c,
                       size_t ldc, bool accumulate) {
    size_t units = units_of(gemm, k), most = UNIT_BLOCK / gemm->block_units * gemm->block_units;
    for (size_t at = 0; at < units; at += most) {
        const char *a = (const char *)rows + at * 4;
        const char *b = (const char *)panels + at * gemm->panel * 4;
        size_t n_units = bl__min_size(most, units - at);
        for (size_t j = 0; j < n; j += gemm->panel, b += panel_stride)
            gemm->multiply(a, row_bytes, 4, b, n_units, c + j, ldc, m,
                           bl__min_size(gemm->panel, n - j), accumulate || at > 0,
                           j + gemm->panel < n ? b + panel_stride : NULL);
    }
}

void bl__multiply_panels(const bl__gemm *gemm, const void *out, size_t out_stride, const void *in,
                         size_t in_stride, size_t n_tokens, float *c, size_t ldc, size_t m,
                         size_t cols) {
    size_t units = units_of(gemm, n_tokens), unit = gemm->panel * 4, panel = gemm->panel;
    size_t most = PANELS_BLOCK / gemm->block_units * gemm->block_units;
    for (size_t group = 0; group < m; group += GROUP_PANELS * panel)
        for (size_t at = 0; at < units; at += most) {
            size_t n_units = bl__min_size(most, units - at);
            size_t end = bl__min_size(group + GROUP_PANELS * panel, m);
            bool goes_on = at + most < units, is_last = !goes_on && end == m;
            /* what comes after these units */
            const char *then_a = (const char *)out + (goes_on ? group : end) / panel * out_stride +
                                 (goes_on ? at + most : 0) * unit;
            const char *then_b = (const char *)in + (goes_on ? at + most : 0) * unit;
            const char *a = (const char *)out + group / panel * out_stride + at * unit;
            for (size_t i = group; i < end; i += panel, a += out_stride) {
                const char *b = (const char *)in + at * unit;
                for (size_t j = 0; j < cols; j += panel, b += in_stride) {
                    bool goes_right = j + panel < cols, goes_down = i + panel < end;
                    bool is_next_to_last = !goes_down && goes_right && j + 2 * panel >= cols;
                    const char *next = is_next_to_last && !is_last ? then_a
                                       : goes_right                ? b + in_stride
                                       : goes_down                 ? a + out_stride
                                       : is_last                   ? NULL
                                                                   : then_b;
                    gemm->multiply(a, 4, unit, b, n_units, c + i * ldc + j, ldc,
                                   bl__min_size(panel, m - i), bl__min_size(panel, cols - j), true,
                                   next);
                }
            }
        }
}

/* ---- the step's weights ---- */

/* Panels of W of a column group, from row `row` on, in the layout of a product; and how far they
 * are apart. */
static size_t backward_panel(const bl__gemm *gemm, const linear *l) {
    return panel_bytes(gemm, l->rows);
}
static void *backward_panels(const bl__gemm *gemm, const linear *l, size_t col_group, size_t row) {
    size_t bytes = ceil_div(l->group_cols, gemm->panel) * backward_panel(gemm, l);
    return panels_at(gemm, (char *)l->backward + col_group * bytes, row);
}

static linear *nth_linear(const bl__network *net, size_t i) {
    return &net->layers[i / N_LINEARS].linears[i % N_LINEARS];
}

/* A group of rows lies in one run of weights, one of columns in a run of every row. */
static void measure_group(const bl__network *net, linear *l, size_t index) {
    size_t n_runs = l->col_groups > 1 ? l->rows : 1;
    size_t run = l->col_groups > 1 ? l->group_cols : l->rows / l->row_groups * l->cols;
    const float *from = l->param->value + index * run;
    weight_group *group = &l->groups[index];
    double size = 0, sum = 0, n = (double)(n_runs * run);
    bl__absmean mean = {0};
    for (size_t i = 0; i < n_runs; i++)
        bl__absmean_add(&mean, from + i * l->cols, run);
    if (net->config.weights == BL_WEIGHTS_TERNARY) {
        group->inverse = bl__absmean_inverse(&mean);
        group->gamma = 1.0f / group->inverse;
        return;
    }
    for (size_t lane = 0; lane < 8; lane++)
        size += mean.lanes[lane];
    for (size_t i = 0; i < n_runs; i++)
        sum += net->loops->sum(from + i * l->cols, run);
    group->gamma = (float)(size / n);
    group->centre = (float)(sum / n);
}

static void measure_linear(const bl__network *net, linear *l) {
    for (size_t i = 0; i < l->row_groups * l->col_groups; i++)
        measure_group(net, l, i);
}

/* The group of weights in a row and column group. */
static const weight_group *group_at(const linear *l, size_t row, size_t col_group) {
    return &l->groups[l->row_groups > 1 ? row / (l->rows / l->row_groups) : col_group];
}

static void measure_part(void *context, size_t part, size_t n_parts) {
    bl__network *net = context;
    size_t n = net->config.n_layers * (size_t)N_LINEARS;
    for (size_t i = n * part / n_parts; i < n * (part + 1) / n_parts; i++)
        measure_linear(net, nth_linear(net, i));
}

static void make_codes(const bl__network *net, const weight_group *group, const float *from,
                       size_t n, int8_t *codes) {
    if (net->config.weights == BL_WEIGHTS_TERNARY)
        net->loops->ternary_codes(from, n, group->inverse, codes);
    else
        net->loops->binary_codes(from, n, group->centre, codes);
}

/* Rows first ... first + n - 1 of a column group of quantized weights: codes to tiles and panels.
 * Returns how many codes changed. */
static size_t pack_codes(const bl__network *net, scratch *w, const linear *l, size_t col_group,
                         size_t first, size_t n) {
    const bl__gemm *gemm = backward_gemm(net);
    size_t stride = w->q8.stride, cols = l->group_cols, changed = 0;
    uint8_t *tiles = l->tiles + col_group * l->group_tiles;
    for (size_t i = 0; i < n; i++) {
        size_t row = first + i;
        const weight_group *group = group_at(l, row, col_group);
        uint8_t *tile = tiles + row / BL_T2_ROWS * bl__t2_stride(cols);
        const float *from = l->param->value + row * l->cols + col_group * cols;
        int8_t *codes = w->q8.q + i * stride;
        memset(codes + cols, 0, bl__t2_blocks(cols) * BL_T2_COLS - cols);
        make_codes(net, group, from, cols, codes);
        changed += net->loops->pack_t2(codes, cols, row % BL_T2_ROWS, tile + BL_T2_SCALE_BYTES);
        memcpy(tile + row % BL_T2_ROWS * 4, &group->gamma, sizeof group->gamma);
    }
    if (l->backward)
        gemm->pack_panels_i8(w->q8.q, stride, n, cols, backward_panels(gemm, l, col_group, first),
                             backward_panel(gemm, l));
    return changed;
}

/* Rows first ... first + n - 1 as float products take them: masters, or made in scratch. */
static const float *float_rows(const bl__network *net, scratch *w, const linear *l, size_t first,
                               size_t n) {
    const float *from = l->param->value + first * l->cols;
    size_t cols = l->group_cols;
    if (l->signs) {
        bl__onebit_rows(l, first, n, w->a);
        return w->a;
    }
    for (size_t at = 0; l->tiles && at < n * l->col_groups; at++) {
        const float *x = from + at * cols;
        const weight_group *group = group_at(l, first + at / l->col_groups, at % l->col_groups);
        make_codes(net, group, x, cols, w->q8.q);
        for (size_t c = 0; c < cols; c++)
            w->a[at * cols + c] = x[c] + net->lambda * (group->gamma * (float)w->q8.q[c] - x[c]);
    }
    return l->tiles ? w->a : from;
}

static void pack_floats(const bl__network *net, scratch *w, const linear *l, size_t first,
                        size_t n) {
    const bl__gemm *gemm = net->gemm;
    const float *from = float_rows(net, w, l, first, n);
    gemm->pack_panels_t(from, l->cols, l->cols, n,
                        (char *)l->forward + first / gemm->panel * l->forward_panel,
                        l->forward_panel);
    for (size_t g = 0; l->backward && g < l->col_groups; g++)
        gemm->pack_panels(from + g * l->group_cols, l->cols, n, l->group_cols, NULL,
                          backward_panels(gemm, l, g, first), backward_panel(gemm, l));
}

/* Chunks of all linears in their order, then those of the head. */
static void pack_part(void *context, size_t part, size_t n_parts) {
    bl__network *net = context;
    size_t n_linears = net->config.n_layers * (size_t)N_LINEARS, total = 0;
    for (size_t i = 0; i <= n_linears; i++)
        total += ceil_div(i < n_linears ? nth_linear(net, i)->rows : net->head.rows, ROW_CHUNK);
    size_t begin = total * part / n_parts, end = total * (part + 1) / n_parts;
    for (size_t i = 0, base = 0; i <= n_linears && base < end; i++) {
        const linear *l = i < n_linears ? nth_linear(net, i) : &net->head;
        size_t n_chunks = ceil_div(l->rows, ROW_CHUNK);
        for (size_t c = 0; c < n_chunks; c++) {
            if (base + c < begin || base + c >= end)
                continue;
            size_t first = c * ROW_CHUNK, n = bl__min_size(ROW_CHUNK, l->rows - first);
            net->flips[base + c] = l->signs ? bl__onebit_keep_signs(l, first, n) : 0;
            for (size_t g = 0; l->tiles && g < l->col_groups; g++)
                net->flips[base + c] += pack_codes(net, own_scratch(net), l, g, first, n);
            if (!l->tiles || !uses_codes(net)) /* in place of the codes' panels */
                pack_floats(net, own_scratch(net), l, first, n);
        }
        base += n_chunks;
    }
}

void bl__linears_prepare(bl__network *net) {
    size_t n_linears = net->config.n_layers * (size_t)N_LINEARS, n_chunks = 0, n_weights = 0;
    if (is_quantized(net))
        bl__run_parts(net, BL_PHASE_QUANTIZE, measure_part, net, n_linears);
    for (size_t i = 0; i < n_linears; i++) {
        n_chunks += ceil_div(nth_linear(net, i)->rows, ROW_CHUNK);
        n_weights += nth_linear(net, i)->rows * nth_linear(net, i)->cols;
    }
    bl__run_parts(net, BL_PHASE_QUANTIZE, pack_part, net,
                  n_chunks + ceil_div(net->head.rows, ROW_CHUNK));
    size_t flips = 0;
    for (size_t i = 0; i < n_chunks; i++)
        flips += net->flips[i];
    net->flip_share = net->quantized_before ? (double)flips / (double)n_weights : 0.0;
    net->quantized_before = true;
}

/* Chunks as in pack_part, floats only. */
static void pack_exact_part(void *context, size_t part, size_t n_parts) {
    bl__network *net = context;
    const bl__gemm *gemm = &net->loops->float32;
    size_t n_linears = net->config.n_layers * (size_t)N_LINEARS;
    for (size_t i = 0; i <= n_linears; i++) {
        const linear *l = i < n_linears ? nth_linear(net, i) : &net->head;
        bool wanted = l->exact && (!l->tiles || !uses_codes(net));
        size_t n_chunks = wanted ? ceil_div(l->rows, ROW_CHUNK) : 0;
        for (size_t c = n_chunks * part / n_parts; c < n_chunks * (part + 1) / n_parts; c++) {
            size_t first = c * ROW_CHUNK, n = bl__min_size(ROW_CHUNK, l->rows - first);
            gemm->pack_panels_t(float_rows(net, own_scratch(net), l, first, n), l->cols, l->cols, n,
                                (char *)l->exact + first / gemm->panel * l->exact_panel,
                                l->exact_panel);
        }
    }
}

void bl__linears_prepare_exact(bl__network *net) {
    if (net->gemm != &net->loops->float32)
        bl__run_parts(net, BL_PHASE_QUANTIZE, pack_exact_part, net, net->n_parts);
}

/* ---- products of a block ---- */

/* Where the quantized tokens of a group of columns lie. */
static bl__q8 group_q8(const scratch *w, size_t n_groups, size_t cols, size_t group) {
    bl__q8 q8 = w->q8;
    if (n_groups > 1)
        q8.stride = bl__t2_blocks(cols) * BL_T2_COLS;
    q8.q += group * BLOCK_TOKENS * q8.stride;
    q8.step += group * BLOCK_TOKENS;
    q8.sum += group * BLOCK_TOKENS;
    return q8;
}

/* Quantizes a group of columns of x, tokens of the block from `at` on. */
static void take_group(const slice *s, scratch *w, input *in, size_t group, const float *x,
                       size_t at, size_t t, size_t n_tokens, bool keep) {
    const bl__network *net = s->net;
    size_t cols = in->cols / in->groups;
    bl__q8 q8 = group_q8(w, in->groups, cols, group);
    q8.q += at * q8.stride;
    q8.step += at;
    q8.sum += at;
    for (size_t i = 0; i < n_tokens; i++) {
        const float *row = x + i * in->cols + group * cols;
        net->kernels->quantize_i8(row, cols, q8.q + i * q8.stride, q8.stride, &q8.step[i],
                                  &q8.sum[i]);
        /* the quantizer takes NaN for a number; a training run must see it */
        float probe = in->kind ? in->rstd[group * net->slice_tokens + t + i]
                               : net->loops->dot(row, row, cols);
        if (!isfinite(probe))
            q8.step[i] = NAN;
    }
    if (!keep)
        return;
    const bl__gemm *gemm = backward_gemm(net);
    char *panels = (char *)in->panels + group * token_panels(net, cols);
    gemm->pack_panels_i8(q8.q, q8.stride, n_tokens, cols, panels_at(gemm, panels, t),
                         token_panel(net));
    memcpy(in->steps + group * net->slice_tokens + t, q8.step, n_tokens * sizeof *in->steps);
}

/* x[n_tokens][cols] blended with its quantized values, in scratch->c, which block.c leaves free. */
static const float *blend_inputs(const slice *s, scratch *w, const input *in, const float *x,
                                 size_t n_tokens) {
    const bl__network *net = s->net;
    size_t cols = in->cols / in->groups;
    for (size_t at = 0; at < n_tokens * in->groups; at++) {
        const float *from = x + at * cols;
        float *to = w->c + at * cols, step;
        net->kernels->quantize_i8(from, cols, w->q8.q, bl__t2_blocks(cols) * BL_T2_COLS, &step,
                                  w->q8.sum);
        for (size_t c = 0; c < cols; c++)
            to[c] = from[c] + net->lambda * ((float)w->q8.q[c] * step - from[c]);
    }
    return w->c;
}

static void take_floats(const slice *s, scratch *w, const input *in, const float *x, size_t at,
                        size_t t, size_t n_tokens, bool keep) {
    const bl__network *net = s->net;
    size_t cols = in->cols / in->groups;
    for (size_t i = 0; i < n_tokens; i++)
        s->gemm->pack_row(x + i * in->cols, in->cols, 1.0f,
                          (char *)w->rows + (at + i) * units_of(s->gemm, in->cols) * 4);
    for (size_t g = 0; keep && g < in->groups; g++)
        net->gemm->pack_panels(
            x + g * cols, in->cols, n_tokens, cols, NULL,
            panels_at(net->gemm, (char *)in->panels + g * token_panels(net, cols), t),
            token_panel(net));
}

void bl__input_take(const slice *s, scratch *w, input *in, const float *x, size_t at, size_t t,
                    size_t n_tokens, bool keep) {
    const bl__network *net = s->net;
    for (size_t g = 0; uses_codes(net) && g < in->groups; g++)
        take_group(s, w, in, g, x, at, t, n_tokens, keep);
    if (uses_codes(net))
        return;
    if (is_quantized(net))
        x = blend_inputs(s, w, in, x, n_tokens);
    take_floats(s, w, in, x, at, t, n_tokens, keep);
}

void bl__linear_forward(const slice *s, const scratch *w, const linear *l, size_t n_tokens,
                        float *y) {
    const bl__network *net = s->net;
    for (size_t g = 0; uses_codes(net) && g < l->col_groups; g++) {
        bl__q8 q8 = group_q8(w, l->col_groups, l->group_cols, g);
        float *out = g ? w->c : y;
        net->kernels->ternary_gemm(l->tiles + g * l->group_tiles, l->rows, l->group_cols, 0,
                                   bl__t2_tiles(l->rows), &q8, n_tokens, out, l->rows);
        if (g)
            net->loops->add(y, out, n_tokens * l->rows);
    }
    if (!uses_codes(net))
        bl__multiply_rows(s->gemm, w->rows, units_of(s->gemm, l->cols) * 4, n_tokens,
                          forward_panels(s, l), forward_panel_bytes(s, l), l->cols, l->rows, y,
                          l->rows, false);
}

/* Which input each linear reads. */
static const unsigned char input_of[N_LINEARS] = {
    [LINEAR_Q] = INPUT_ATTN,   [LINEAR_K] = INPUT_ATTN,   [LINEAR_V] = INPUT_ATTN,
    [LINEAR_O] = INPUT_O,      [LINEAR_GATE] = INPUT_FFN, [LINEAR_UP] = INPUT_FFN,
    [LINEAR_DOWN] = INPUT_DOWN};

/* Packs gamma dy of one token. */
static void pack_gradient(const bl__network *net, scratch *w, const linear *l, size_t col_group,
                          const float *dy, void *out) {
    const bl__gemm *gemm = backward_gemm(net);
    if (l->row_groups == 1 || !uses_codes(net)) {
        gemm->pack_row(dy, l->rows, uses_codes(net) ? l->groups[col_group].gamma : 1.0f, out);
        return;
    }
    memcpy(w->row, dy, l->rows * sizeof *dy);
    size_t n = l->rows / l->row_groups;
    for (size_t g = 0; g < l->row_groups; g++)
        net->loops->scale(w->row + g * n, n, l->groups[g].gamma);
    gemm->pack_row(w->row, l->rows, 1.0f, out);
}

/* dy for the products of a group of columns: rows times gamma, panels times the inputs' steps. */
static void pack_gradients(const slice *s, scratch *w, size_t which, size_t g, const float *dy,
                           size_t t, size_t n_tokens, void *rows) {
    const bl__network *net = s->net;
    const bl__gemm *gemm = backward_gemm(net);
    const layer *here = &net->layers[s->index];
    const linear *l = &here->linears[which];
    const float *steps = uses_codes(net) ? here->inputs[input_of[which]].steps : NULL;
    char *out = (char *)net->outputs[which] + g * token_panels(net, l->rows);
    gemm->pack_panels(dy, l->rows, n_tokens, l->rows,
                      steps ? steps + g * net->slice_tokens + t : NULL, panels_at(gemm, out, t),
                      token_panel(net));
    for (size_t i = 0; i < n_tokens; i++)
        pack_gradient(net, w, l, g, dy + i * l->rows,
                      (char *)rows + i * units_of(gemm, l->rows) * 4);
}

static void multiply_gradients(const slice *s, size_t which, size_t g, const void *rows,
                               size_t n_tokens, float *dx, bool accumulate) {
    const bl__gemm *gemm = backward_gemm(s->net);
    const linear *l = &s->net->layers[s->index].linears[which];
    bl__multiply_rows(gemm, rows, units_of(gemm, l->rows) * 4, n_tokens,
                      backward_panels(gemm, l, g, 0), backward_panel(gemm, l), l->rows,
                      l->group_cols, dx + g * l->group_cols, l->cols, accumulate);
}

void bl__gradient_pack(const slice *s, scratch *w, size_t which, const float *dy, size_t t,
                       size_t n_tokens, void *rows) {
    pack_gradients(s, w, which, 0, dy, t, n_tokens, rows);
}

void bl__gradient_multiply(const slice *s, size_t which, const void *rows, size_t n_tokens,
                           float *dx, bool accumulate) {
    multiply_gradients(s, which, 0, rows, n_tokens, dx, accumulate);
}

void bl__linear_backward(const slice *s, scratch *w, size_t which, const float *dy, size_t t,
                         size_t n_tokens, float *dx, bool accumulate) {
    const linear *l = &s->net->layers[s->index].linears[which];
    for (size_t g = 0; g < l->col_groups; g++) {
        pack_gradients(s, w, which, g, dy, t, n_tokens, w->rows);
        multiply_gradients(s, which, g, w->rows, n_tokens, dx, accumulate);
    }
}

/* ---- gradients of weights: a part takes panels of rows of dY ---- */

/* n panels of rows from panel p on. */
static void add_gradient(const slice *s, size_t which, size_t p, size_t n) {
    const bl__network *net = s->net;
    const layer *here = &net->layers[s->index];
    const linear *l = &here->linears[which];
    const bl__gemm *gemm = backward_gemm(net);
    size_t first = p * gemm->panel, m = bl__min_size(n * gemm->panel, l->rows - first);
    for (size_t g = 0; g < l->col_groups; g++) {
        const char *out = (char *)net->outputs[which] + g * token_panels(net, l->rows);
        const char *in =
            (char *)here->inputs[input_of[which]].panels + g * token_panels(net, l->group_cols);
        bl__multiply_panels(
            gemm, out + p * token_panel(net), token_panel(net), in, token_panel(net), s->n_tokens,
            l->param->grad + first * l->cols + g * l->group_cols, l->cols, m, l->group_cols);
    }
}

/* The first panel of l at or past `work`, of the linears' panels one after the other, each of as
 * much work as it has columns; the linear's own begin at base. */
static size_t panel_at(const linear *l, size_t n_panels, size_t base, size_t work) {
    return work > base ? bl__min_size(ceil_div(work - base, l->cols), n_panels) : 0;
}

static void gradient_part(void *context, size_t part, size_t n_parts) {
    const slice *s = context;
    const bl__network *net = s->net;
    const layer *here = &net->layers[s->index];
    size_t panel = backward_gemm(net)->panel, total = 0;
    for (size_t i = 0; i < N_LINEARS; i++)
        total += ceil_div(here->linears[i].rows, panel) * here->linears[i].cols;
    for (size_t i = 0, base = 0; i < N_LINEARS; i++) {
        const linear *l = &here->linears[i];
        size_t n_panels = ceil_div(l->rows, panel);
        size_t p = panel_at(l, n_panels, base, total * part / n_parts);
        size_t last = panel_at(l, n_panels, base, total * (part + 1) / n_parts);
        if (p < last)
            add_gradient(s, i, p, last - p);
        base += n_panels * l->cols;
    }
}

void bl__linears_gradient(slice *s) {
    bl__network *net = s->net;
    size_t n_panels = 0;
    for (size_t i = 0; i < N_LINEARS; i++)
        n_panels += ceil_div(net->layers[s->index].linears[i].rows, backward_gemm(net)->panel);
    bl__run_parts(net, BL_PHASE_GRADIENTS, gradient_part, s, n_panels);
}
