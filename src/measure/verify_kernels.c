/* Owns the self-test of the kernels that ships in the library: a processor, a build or a virtual
 * machine that computes wrongly is found where it runs. tests/kernels does the thorough work. */
#include "measure/verify_kernels.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "kernels/kernels.h"
#include "quant/levels.h"
#include "quant/quant.h"
#include "quant/skip.h"
#include "quant/t2.h"

/* Odd sizes, so that tails are met. */
enum {
    ROWS = 37,
    COLS = 331,
    STRIDE = 336,
    TOKENS = 21,
    TILES = 3,
    CELL_COLS = 2 * BL_CACHE_COLS,
    OUT = TOKENS * CELL_COLS,
    N_LISTED = 30,
    TILE_BYTES = TILES * (BL_T2_SCALE_BYTES + STRIDE / BL_T2_COLS * BL_T2_BLOCK_BYTES),
    LEVELS_BYTES = 64 * 84, /* of ROWS x COLS in S2, the largest of the three */
    SEED = 7,
    MAX_LEVELS = 16,
    MAX_NAME = 32
};

/* The problem and what one level makes of it. Matrices of floats have STRIDE columns. */
typedef struct bench {
    _Alignas(64) float x[TOKENS * STRIDE], w[ROWS * STRIDE];
    uint16_t half[ROWS * STRIDE];
    _Alignas(64) uint8_t tiles[TILE_BYTES], t5[TILE_BYTES], b1[TILE_BYTES], unpacked[TILE_BYTES];
    _Alignas(64) uint8_t r2[ROWS * 2 * BL_SKIP_BLOCK], c2[COLS * BL_SKIP_BLOCK];
    uint8_t levels[LEVELS_BYTES];
    uint32_t rows[N_LISTED], cols[N_LISTED];
    int8_t q[TOKENS * STRIDE];
    float step[TOKENS];
    int32_t sum[TOKENS];
    float out[OUT];
} bench;

static_assert(OUT >= TOKENS * ROWS && OUT >= STRIDE, "every slot's results fit");
static_assert(ROWS <= (int)BL_SKIP_BLOCK && COLS <= 2 * (int)BL_SKIP_BLOCK, "r2 and c2");
static_assert(ROWS * CELL_COLS <= sizeof((bench *)0)->tiles, "and so do its cells");
static_assert(TOKENS + TOKENS * ROWS <= OUT, "and rows to merge");

/* Where a slot's results lie in a bench. */
typedef struct slot {
    const char *name;
    void (*run)(const bl__kernels *k, bench *b);
    size_t offset, bytes;
} slot;

static void run_quantize(const bl__kernels *k, bench *b) {
    for (size_t t = 0; t < TOKENS; t++)
        k->quantize_i8(b->x + t * STRIDE, COLS, b->q + t * STRIDE, STRIDE, &b->step[t], &b->sum[t]);
}
static void run_ternary(const bl__kernels *k, bench *b) {
    const bl__q8 x = {b->q, STRIDE, b->step, b->sum};
    k->ternary_gemm(b->tiles, ROWS, COLS, 0, TILES, &x, TOKENS, b->out, ROWS);
}
/* The denser layouts, with the loop of their own or by way of T2. */
static void run_t5(const bl__kernels *k, bench *b) {
    const bl__q8 x = {b->q, STRIDE, b->step, b->sum};
    k->t5_unpack(b->t5, COLS, 0, TILES, b->unpacked);
    if (k->t5_gemv)
        k->t5_gemv(b->t5, ROWS, COLS, 0, TILES, &x, b->out);
    else
        k->ternary_gemm(b->unpacked, ROWS, COLS, 0, TILES, &x, 1, b->out, ROWS);
}
static void run_t5_gemm(const bl__kernels *k, bench *b) {
    const bl__q8 x = {b->q, STRIDE, b->step, b->sum};
    k->t5_unpack(b->t5, COLS, 0, TILES, b->unpacked);
    if (k->t5_gemm)
        k->t5_gemm(b->t5, ROWS, COLS, 0, TILES, &x, TOKENS, b->out, ROWS);
    else
        k->ternary_gemm(b->unpacked, ROWS, COLS, 0, TILES, &x, TOKENS, b->out, ROWS);
}
static void run_b1(const bl__kernels *k, bench *b) {
    const bl__q8 x = {b->q, STRIDE, b->step, b->sum};
    k->b1_unpack(b->b1, COLS, 0, TILES, b->unpacked);
    if (k->b1_gemv)
        k->b1_gemv(b->b1, ROWS, COLS, 0, TILES, &x, b->out);
    else
        k->ternary_gemm(b->unpacked, ROWS, COLS, 0, TILES, &x, 1, b->out, ROWS);
}
static void run_levels(const bl__kernels *k, bench *b, bl__layout layout) {
    const bl__q8 x = {b->q, STRIDE, b->step, b->sum};
    const bl__levels w = bl__levels_of(layout, b->levels, ROWS, COLS);
    k->levels_gemm(&w, 0, TILES, &x, TOKENS, b->out, ROWS);
}
static void run_l1(const bl__kernels *k, bench *b) {
    run_levels(k, b, BL_LAYOUT_L1);
}
static void run_l2(const bl__kernels *k, bench *b) {
    run_levels(k, b, BL_LAYOUT_L2);
}
static void run_s2(const bl__kernels *k, bench *b) {
    run_levels(k, b, BL_LAYOUT_S2);
}
static void run_digits(const bl__kernels *k, bench *b) {
    for (size_t t = 0; t + BL_MAX_DIGITS <= TOKENS; t += BL_MAX_DIGITS)
        k->quantize_digits(b->x + t * STRIDE, COLS, BL_MAX_DIGITS, b->q + t * STRIDE, STRIDE,
                           &b->step[t], &b->sum[t]);
}
static void run_listed_rows(const bl__kernels *k, bench *b) {
    k->listed_rows(b->r2, ROWS, COLS, b->rows, N_LISTED, b->q, b->sum[0], b->step[0], b->out);
}
static void run_listed_columns(const bl__kernels *k, bench *b) {
    k->listed_columns(b->c2, ROWS, b->cols, N_LISTED, 0, 1, (int32_t *)(void *)b->out);
}
static void run_dot(const bl__kernels *k, bench *b) {
    k->dot_rows(b->w, STRIDE, ROWS, COLS, b->x, STRIDE, TOKENS, b->out, ROWS);
}
static void run_dot_f16(const bl__kernels *k, bench *b) {
    k->dot_rows_f16(b->half, STRIDE, ROWS, COLS, b->x, STRIDE, TOKENS, b->out, ROWS);
}
static void run_dot_bf16(const bl__kernels *k, bench *b) {
    k->dot_rows_bf16(b->half, STRIDE, ROWS, COLS, b->x, STRIDE, TOKENS, b->out, ROWS);
}
static void run_weighted_sum(const bl__kernels *k, bench *b) {
    k->weighted_sum(b->x, b->w, STRIDE, ROWS, COLS, b->out);
}
static void run_cells(const bl__kernels *k, bench *b, bl_cache_type type, const void *cells,
                      size_t stride) {
    k->cells_product(type, b->x, STRIDE, TOKENS, cells, stride, ROWS, CELL_COLS, b->out, CELL_COLS,
                     true);
}
static void run_cells_f32(const bl__kernels *k, bench *b) {
    run_cells(k, b, BL_CACHE_F32, b->w, STRIDE * sizeof *b->w);
}
static void run_cells_f16(const bl__kernels *k, bench *b) {
    run_cells(k, b, BL_CACHE_F16, b->half, STRIDE * sizeof *b->half);
}
static void run_cells_i8(const bl__kernels *k, bench *b) {
    run_cells(k, b, BL_CACHE_I8, b->tiles, CELL_COLS);
}
static void run_cells_i4(const bl__kernels *k, bench *b) {
    run_cells(k, b, BL_CACHE_I4, b->tiles, CELL_COLS / 2);
}
static void run_softmax(const bl__kernels *k, bench *b) {
    memcpy(b->out, b->x, BL_CACHE_BLOCK * sizeof(float));
    b->out[BL_CACHE_BLOCK + BL_LANES] =
        k->softmax_block(b->out, BL_CACHE_BLOCK - 3, b->out + BL_CACHE_BLOCK);
}
static void run_merge(const bl__kernels *k, bench *b) {
    memcpy(b->out, b->w, sizeof b->out);
    k->merge_rows(b->out, b->out + TOKENS, b->x, b->x + TOKENS, TOKENS, ROWS);
}
static void run_pack_f16(const bl__kernels *k, bench *b) {
    k->pack_f16(b->x, COLS, (uint16_t *)(void *)b->out);
}
static void run_scale(const bl__kernels *k, bench *b) {
    k->scale(b->x, 0.3f, b->w, COLS, b->out);
}
static void run_silu(const bl__kernels *k, bench *b) {
    k->silu_mul(b->x, b->w, COLS, b->out);
}
static void run_relu2(const bl__kernels *k, bench *b) {
    k->relu2_mul(b->x, b->w, COLS, b->out);
}
static void run_add(const bl__kernels *k, bench *b) {
    k->add(b->out, b->x, COLS);
    k->add_scaled(b->out, b->x, b->w, COLS);
}
static void run_rope(const bl__kernels *k, bench *b) {
    memcpy(b->out, b->x, STRIDE * sizeof(float));
    k->rope(b->out, 37, true, b->w, b->w + STRIDE);
    k->rope(b->out + 2 * 37, 37, false, b->w, b->w + STRIDE);
}
static void run_unpack_f16(const bl__kernels *k, bench *b) {
    k->unpack_f16(b->half, COLS, b->out);
}
static void run_unpack_bf16(const bl__kernels *k, bench *b) {
    k->unpack_bf16(b->half, COLS, b->out);
}

static const slot slots[] = {
    {"quantize_i8", run_quantize, offsetof(bench, q), sizeof((bench *)0)->q},
    {"quantize_i8 steps", run_quantize, offsetof(bench, step), sizeof((bench *)0)->step},
    {"quantize_i8 sums", run_quantize, offsetof(bench, sum), sizeof((bench *)0)->sum},
    {"ternary_gemm", run_ternary, offsetof(bench, out), sizeof((bench *)0)->out},
    {"t5_unpack", run_t5, offsetof(bench, unpacked), sizeof((bench *)0)->unpacked},
    {"t5_gemv", run_t5, offsetof(bench, out), sizeof((bench *)0)->out},
    {"t5_gemm", run_t5_gemm, offsetof(bench, out), sizeof((bench *)0)->out},
    {"b1_unpack", run_b1, offsetof(bench, unpacked), sizeof((bench *)0)->unpacked},
    {"b1_gemv", run_b1, offsetof(bench, out), sizeof((bench *)0)->out},
    {"levels_gemm l1", run_l1, offsetof(bench, out), sizeof((bench *)0)->out},
    {"levels_gemm l2", run_l2, offsetof(bench, out), sizeof((bench *)0)->out},
    {"levels_gemm s2", run_s2, offsetof(bench, out), sizeof((bench *)0)->out},
    {"quantize_digits", run_digits, offsetof(bench, q), sizeof((bench *)0)->q},
    {"quantize_digits steps", run_digits, offsetof(bench, step), sizeof((bench *)0)->step},
    {"quantize_digits sums", run_digits, offsetof(bench, sum), sizeof((bench *)0)->sum},
    {"listed_rows", run_listed_rows, offsetof(bench, out), sizeof((bench *)0)->out},
    {"listed_columns", run_listed_columns, offsetof(bench, out), sizeof((bench *)0)->out},
    {"dot_rows", run_dot, offsetof(bench, out), sizeof((bench *)0)->out},
    {"dot_rows_f16", run_dot_f16, offsetof(bench, out), sizeof((bench *)0)->out},
    {"dot_rows_bf16", run_dot_bf16, offsetof(bench, out), sizeof((bench *)0)->out},
    {"weighted_sum", run_weighted_sum, offsetof(bench, out), sizeof((bench *)0)->out},
    {"cells_product f32", run_cells_f32, offsetof(bench, out), sizeof((bench *)0)->out},
    {"cells_product f16", run_cells_f16, offsetof(bench, out), sizeof((bench *)0)->out},
    {"cells_product i8", run_cells_i8, offsetof(bench, out), sizeof((bench *)0)->out},
    {"cells_product i4", run_cells_i4, offsetof(bench, out), sizeof((bench *)0)->out},
    {"softmax_block", run_softmax, offsetof(bench, out), sizeof((bench *)0)->out},
    {"merge_rows", run_merge, offsetof(bench, out), sizeof((bench *)0)->out},
    {"pack_f16", run_pack_f16, offsetof(bench, out), sizeof((bench *)0)->out},
    {"scale", run_scale, offsetof(bench, out), sizeof((bench *)0)->out},
    {"silu_mul", run_silu, offsetof(bench, out), sizeof((bench *)0)->out},
    {"relu2_mul", run_relu2, offsetof(bench, out), sizeof((bench *)0)->out},
    {"add", run_add, offsetof(bench, out), sizeof((bench *)0)->out},
    {"rope", run_rope, offsetof(bench, out), sizeof((bench *)0)->out},
    {"unpack_f16", run_unpack_f16, offsetof(bench, out), sizeof((bench *)0)->out},
    {"unpack_bf16", run_unpack_bf16, offsetof(bench, out), sizeof((bench *)0)->out},
};

static float random_float(bl__random *random) {
    return (float)(bl__random_f64(random) - 0.5);
}

/* A row of random weights in every layout that has kernels. */
static bl_status fill_row(bench *b, size_t row, bl__random *random, bl_error *err) {
    uint8_t codes[COLS];
    float ternary[COLS], binary[COLS], scale = 0.25f + random_float(random) / 8;
    for (size_t i = 0; i < COLS; i++) {
        codes[i] = (uint8_t)bl__random_below(random, 3);
        ternary[i] = scale * (float)(codes[i] - 1);
        binary[i] = codes[i] & 1 ? scale : -scale;
    }
    bl__t2_pack_row(codes, scale, COLS, row, b->tiles);
    bl__r2_pack_row(codes, scale, ROWS, COLS, row, b->r2);
    bl__c2_pack_row(codes, scale, ROWS, COLS, row, b->c2);
    bl_status status =
        bl__layout_pack_rows(BL_LAYOUT_T5, ternary, ROWS, COLS, row, 1, 0, b->t5, err);
    return status ? status
                  : bl__layout_pack_rows(BL_LAYOUT_B1, binary, ROWS, COLS, row, 1, 0, b->b1, err);
}

static bl_status fill(bench *b, const bl__kernels *ref, bl_error *err) {
    bl_status status = BL_OK;
    bl__random random;
    bl__random_seed(&random, SEED);
    for (size_t i = 0; i < TOKENS * STRIDE; i++)
        b->x[i] = 4 * random_float(&random);
    for (size_t i = 0; i < ROWS * STRIDE; i++) {
        b->w[i] = random_float(&random);
        b->half[i] = bl__f32_to_f16(b->w[i]);
    }
    for (size_t i = 0; i < LEVELS_BYTES; i++)
        b->levels[i] = (uint8_t)bl__random_below(&random, 256);
    for (size_t r = 0; r < ROWS; r++) {
        uint16_t unit = bl__f32_to_f16(random_float(&random));
        memcpy(b->levels + 2 * r, &unit, sizeof unit);
    }
    for (size_t r = 0; r < ROWS && !status; r++)
        status = fill_row(b, r, &random, err);
    for (uint32_t i = 0; i < N_LISTED; i++) {
        b->rows[i] = i + i / 5;
        b->cols[i] = 11 * i << 8 | (uint32_t)bl__random_below(&random, 256);
    }
    run_quantize(ref, b);
    return status;
}

/* The levels above ref that this machine has; n of them. */
static size_t find_levels(const bl__kernels *ref, bl__kernels levels[MAX_LEVELS]) {
    size_t n_levels = 0;
    for (const char *at = bl_kernel_levels(); *at && n_levels < MAX_LEVELS; at += strspn(at, " ")) {
        char name[MAX_NAME];
        size_t n = strcspn(at, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, at);
        at += n;
        bl__kernels *level = &levels[n_levels];
        if (strcmp(name, ref->level) == 0 || !bl__kernels_for(name, level))
            continue;
        n_levels++;
    }
    return n_levels;
}

/* Compares one slot; *failed gets the first difference unless it has one. */
static void check_slot(const slot *s, const bl__kernels *ref, const bl__kernels *levels, size_t n,
                       bench *problem, bench *found, bench *expected, char *failed, size_t len,
                       size_t *n_failed) {
    memcpy(expected, problem, sizeof *expected);
    s->run(ref, expected);
    for (size_t i = 0; i < n; i++) {
        memcpy(found, problem, sizeof *found);
        s->run(&levels[i], found);
        if (memcmp((char *)expected + s->offset, (char *)found + s->offset, s->bytes) == 0)
            continue;
        if (!*n_failed)
            snprintf(failed, len, "%s: %s", levels[i].level, s->name);
        ++*n_failed;
    }
}

bl_status bl__verify_kernels(char *failed, size_t len, size_t *n_failed, bl_error *err) {
    bl__kernels ref, levels[MAX_LEVELS];
    bench *b = bl__aligned_alloc(3 * sizeof *b); /* the problem, what is expected and found */
    *n_failed = 0;
    failed[0] = '\0';
    if (!b)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the kernels' self-test");
    bl_status status = BL_OK;
    if (bl__kernels_for("ref", &ref) && !(status = fill(b, &ref, err))) {
        size_t n = find_levels(&ref, levels);
        for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++)
            check_slot(&slots[i], &ref, levels, n, b, b + 1, b + 2, failed, len, n_failed);
    }
    bl__aligned_free(b);
    return status;
}
