/* Owns the choice between the native layouts of ternary weights by their speed on this machine.
 * Must not know what is converted. */
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/random.h"
#include "convert/plan.h"
#include "kernels/kernels.h"
#include "quant/t2.h"
#include "quant/t5.h"

/* Rows of a common width, whole groups of T5. As many weights as the model has, so that a cache
 * holds as much of them, up to 64 and 52 MiB, beyond most last-level caches with what the other one
 * leaves there; below 8 and 6.5 MiB the rule stands, as all is in caches. */
enum {
    COLS = 2560,
    MIN_WEIGHTS = 1 << 25,
    MAX_WEIGHTS = 1 << 28,
    UNPACKED_TILES = 4,
    N_PASSES = 5 /* over MAX_WEIGHTS, more over fewer */
};

/* The rule's layout is taken where it is slower by less. */
static const double RULE_MAY_TAKE = 1.05;

typedef struct stream {
    const bl__kernels *kernels;
    bl__layout layout;
    size_t n_tiles;
    uint8_t *tiles;
    bl__q8 x;
} stream;

static size_t stride_of(bl__layout layout) {
    return layout == BL_LAYOUT_T2 ? bl__t2_stride(COLS) : bl__t5_stride(COLS);
}

/* Any byte is a weight of T5, and as good as any other to the kernels of T2. */
static void fill_part(void *context, size_t part, size_t n_parts) {
    const stream *s = context;
    size_t stride = stride_of(s->layout), end = s->n_tiles * (part + 1) / n_parts;
    bl__random random;
    bl__random_seed(&random, part);
    for (size_t at = s->n_tiles * part / n_parts * stride; at < end * stride; at += 8) {
        uint64_t bits = bl__random_u64(&random);
        memcpy(s->tiles + at, &bits, sizeof bits);
    }
}

/* One token by each matrix of a few tiles, as model/compute.c has it. */
static void read_part(void *context, size_t part, size_t n_parts) {
    const stream *s = context;
    const bl__kernels *k = s->kernels;
    size_t stride = stride_of(s->layout), end = s->n_tiles * (part + 1) / n_parts;
    float out[UNPACKED_TILES * BL_T2_ROWS];
    _Alignas(64) uint8_t t2[UNPACKED_TILES * (BL_T2_SCALE_BYTES + COLS / BL_T2_COLS * 64)];
    for (size_t tile = s->n_tiles * part / n_parts, n; tile < end; tile += n) {
        n = bl__min_size(UNPACKED_TILES, end - tile);
        const uint8_t *tiles = s->tiles + tile * stride;
        if (s->layout == BL_LAYOUT_T5 && k->t5_gemv) {
            k->t5_gemv(tiles, n * BL_T2_ROWS, COLS, 0, n, &s->x, out);
            continue;
        }
        if (s->layout == BL_LAYOUT_T5) {
            k->t5_unpack(tiles, COLS, 0, n, t2);
            tiles = t2;
        }
        k->ternary_gemm(tiles, n * BL_T2_ROWS, COLS, 0, n, &s->x, 1, out, n * BL_T2_ROWS);
    }
}

static double seconds_of(bl__pool *pool, stream *s) {
    double start = bl__seconds_now();
    bl__pool_run(pool, read_part, s, (size_t)bl__pool_threads(pool) * 4);
    return bl__seconds_now() - start;
}

/* Seconds for one token by n_weights of T2 and of T5, the best of a few passes. False when memory
 * is short. */
static bool measure(bl__pool *pool, size_t n_weights, double *seconds_t2, double *seconds_t5) {
    const size_t n_tiles = n_weights / (COLS * BL_T2_ROWS);
    const size_t n_passes = N_PASSES * (MAX_WEIGHTS / n_weights);
    int8_t q[COLS];
    float step = 1.0f;
    int32_t sum = 0;
    stream streams[2];
    double best[2];
    for (size_t i = 0; i < COLS; i++)
        sum += q[i] = (int8_t)(i * 37 % 255 - 127);
    for (size_t l = 0; l < 2; l++) {
        bl__layout layout = l ? BL_LAYOUT_T5 : BL_LAYOUT_T2;
        streams[l] = (stream){bl__kernels_get(),
                              layout,
                              n_tiles,
                              bl__pages_alloc(n_tiles * stride_of(layout)),
                              {q, COLS, &step, &sum}};
    }
    bool is_measured = streams[0].tiles && streams[1].tiles;
    for (size_t l = 0; is_measured && l < 2; l++)
        bl__pool_run(pool, fill_part, &streams[l], bl__pool_threads(pool));
    for (size_t pass = 0; is_measured && pass < n_passes; pass++)
        for (size_t l = 0; l < 2; l++) { /* in turn: other work meets both */
            double t = seconds_of(pool, &streams[l]);
            best[l] = pass == 0 || t < best[l] ? t : best[l];
        }
    for (size_t l = 0; l < 2; l++)
        if (streams[l].tiles)
            bl__pages_free(streams[l].tiles, n_tiles * stride_of(streams[l].layout));
    if (is_measured) {
        *seconds_t2 = best[0];
        *seconds_t5 = best[1];
    }
    return is_measured;
}

bl__layout bl__native_fastest(bl__pool *pool, uint64_t n_weights) {
    bl__layout rule = bl__layout_choose_native(false, n_weights);
    bl__layout other = rule == BL_LAYOUT_T2 ? BL_LAYOUT_T5 : BL_LAYOUT_T2;
    size_t n = n_weights < MAX_WEIGHTS ? (size_t)n_weights : MAX_WEIGHTS;
    double t2, t5;
    if (n < MIN_WEIGHTS || !measure(pool, n, &t2, &t5))
        return rule;
    return (rule == BL_LAYOUT_T2 ? t2 / t5 : t5 / t2) <= RULE_MAY_TAKE ? rule : other;
}
