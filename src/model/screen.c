/* Owns the making of the copy and the arithmetic of its bound. Must not know which logits are
 * wanted. */
#include "model/screen.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "model/compute.h"

enum { LARGEST_OF_TWO = 8191 /* 64 * 128 - 1 */, LARGEST_OF_ONE = 127 };

/* A token whose largest element is at most so many times their root mean square has an error of one
 * digit about as large as that of the copy's rows. It is 3.5 or so for normal ones; activations of
 * trained models with a few large elements need two digits. */
static const double ONE_DIGIT_CREST = 5;

/* Norms up to here are bounded: their products stay far from the largest float. */
static const double LARGEST_NORM = 1e18;
/* Half a unit in the last place, relative: the error of one float operation. */
static const double HALF_ULP = 0x1p-24;

bl__screen *bl__screen_create(size_t rows, size_t cols) {
    bl__screen *screen = bl__calloc(1, sizeof *screen);
    if (!screen)
        return NULL;
    screen->rows = rows;
    screen->cols = cols;
    screen->n_tiles = (rows + BL_SCREEN_ROWS - 1) / BL_SCREEN_ROWS;
    if (!bl__mul_size(screen->n_tiles, bl__screen_tile_bytes(cols), &screen->bytes))
        screen->bytes = 0; /* cannot be reserved */
    atomic_flag_clear(&screen->is_building);
    return screen;
}

void bl__screen_free(bl__screen *screen) {
    if (!screen)
        return;
    bl__pages_free(atomic_load(&screen->tiles), screen->bytes);
    bl__free(screen);
}

bool bl__screen_reserve(bl__screen *screen) {
    if (atomic_load(&screen->tiles))
        return true;
    uint8_t *expected = NULL, *tiles = screen->bytes ? bl__pages_alloc(screen->bytes) : NULL;
    if (!tiles)
        return false;
    if (!atomic_compare_exchange_strong(&screen->tiles, &expected, tiles))
        bl__pages_free(tiles, screen->bytes); /* another session was faster */
    return true;
}

/* ---- rows ---- */

/* The largest relative error of a sum in lanes of n products, all of one sign. */
static double sum_error(size_t n) {
    return ((double)((n + BL_LANES - 1) / BL_LANES) + 16) * HALF_ULP;
}

/* A float that is not below x, but for what an addition of 1e-6 of it would hide. */
static float pad(double x) {
    return (float)(x * (1 + 1e-6));
}

/* scale, error and norm of a row whose code is q: |w - scale q| <= error, |w|, |scale q| <= norm,
 * and no element of w - scale q is above 0.5001 scale. Infinite when w has no such bounds. */
static void describe_row(const bl__kernels *kernels, const float *w, const int8_t *q, float scale,
                         size_t cols, float *residual, float *error, float *norm) {
    float squares, residual_squares;
    for (size_t c = 0; c < cols; c++)
        residual[c] = w[c] - scale * (float)q[c];
    kernels->dot_rows(w, cols, 1, cols, w, cols, 1, &squares, cols);
    kernels->dot_rows(residual, cols, 1, cols, residual, cols, 1, &residual_squares, cols);
    /* Squares below the smallest float are lost: each is of an element below 1e-19 or so. */
    double tiny = 1e-18 * (double)cols, rounding = 1 + sum_error(cols);
    double of_w = sqrt((double)squares) * rounding + tiny;
    double of_residual = sqrt((double)residual_squares) * rounding + tiny;
    /* The residual itself was rounded twice, by at most 2 HALF_ULP (|w| + |residual|). */
    of_residual += 8 * HALF_ULP * (of_w + of_residual);
    bool bounded = of_w < LARGEST_NORM && of_residual < LARGEST_NORM;
    *error = bounded ? pad(of_residual) : INFINITY;
    *norm = bounded ? pad(of_w + of_residual) : INFINITY;
}

typedef struct build {
    bl__screen *screen;
    bl__compute *compute;
    const bl__linear *head;
    size_t first, n_tiles;
    float *scratch;
} build;

size_t bl__screen_scratch_floats(size_t cols) {
    size_t q_bytes = (cols + BL_LANES - 1) / BL_LANES * BL_LANES;
    return 2 * cols + q_bytes / sizeof(float);
}

static void build_tile(const build *job, size_t tile, float *scratch) {
    const bl__kernels *kernels = job->compute->kernels;
    size_t cols = job->screen->cols, stride = (cols + BL_LANES - 1) / BL_LANES * BL_LANES;
    float *w = scratch, *residual = scratch + cols;
    int8_t *q = (int8_t *)(void *)(scratch + 2 * cols);
    uint8_t *out = atomic_load(&job->screen->tiles) + tile * bl__screen_tile_bytes(cols);
    float head[3][BL_SCREEN_ROWS] = {{0}};
    for (size_t r = 0; r < BL_SCREEN_ROWS; r++) {
        size_t row = tile * BL_SCREEN_ROWS + r;
        int32_t sum;
        if (row >= job->screen->rows)
            break;
        bl__compute_row(job->compute, job->head, row, w);
        kernels->quantize_i8(w, cols, q, stride, &head[0][r], &sum);
        describe_row(kernels, w, q, head[0][r], cols, residual, &head[1][r], &head[2][r]);
        if (!(head[2][r] < INFINITY))
            head[0][r] = 0;
        uint8_t *codes = out + BL_SCREEN_HEAD_BYTES + BL_SCREEN_COLS * r;
        for (size_t c = 0; c < cols;
             c += BL_SCREEN_COLS, codes += BL_SCREEN_COLS * BL_SCREEN_ROWS) {
            uint32_t four;
            memcpy(&four, q + c, sizeof four);
            four ^= 0x80808080u;
            memcpy(codes, &four, sizeof four);
        }
    }
    memcpy(out, head, sizeof head);
}

static void build_part(void *context, size_t part, size_t n_parts) {
    const build *job = context;
    float *scratch = job->scratch + part * bl__screen_scratch_floats(job->screen->cols);
    size_t end = job->n_tiles * (part + 1) / n_parts;
    for (size_t i = job->n_tiles * part / n_parts; i < end; i++)
        build_tile(job, job->first + i, scratch);
}

void bl__screen_extend(bl__screen *screen, bl__compute *compute, const bl__linear *head,
                       size_t n_tiles, float *scratch) {
    if (atomic_load(&screen->n_ready) == screen->n_tiles ||
        atomic_flag_test_and_set(&screen->is_building))
        return;
    size_t first = atomic_load(&screen->n_ready);
    build job = {.screen = screen, .compute = compute, .head = head, .first = first};
    job.n_tiles = bl__min_size(n_tiles, screen->n_tiles - first);
    job.scratch = scratch;
    bl__pool_run(compute->pool, build_part, &job, bl__min_size(job.n_tiles, compute->max_parts));
    atomic_store(&screen->n_ready, first + job.n_tiles);
    atomic_flag_clear(&screen->is_building);
}

/* ---- activations ---- */

/* Splits x into out->n_digits digits; returns sum (x - step (128 high + low))^2. */
static double split(const float *x, size_t cols, double max, int8_t *digits, bl__screen_x *out) {
    double residual_squares = 0;
    size_t n_digits = out->n_digits, stride = n_digits * BL_SCREEN_COLS;
    double largest = n_digits == 2 ? LARGEST_OF_TWO : LARGEST_OF_ONE;
    out->digits = digits;
    out->step = (float)(max / largest);
    out->high_sum = out->low_sum = 0;
    memset(digits, 0, (cols + BL_SCREEN_COLS - 1) / BL_SCREEN_COLS * stride);
    for (size_t c = 0; c < cols; c++) {
        int32_t value = (int32_t)lrint((double)x[c] * (largest / max)), high = value;
        int8_t *to = digits + c / BL_SCREEN_COLS * stride + c % BL_SCREEN_COLS;
        if (n_digits == 2) {
            high = (value + 64 + 8192) / 128 - 64;
            to[BL_SCREEN_COLS] = (int8_t)(value - 128 * high);
            out->low_sum += value - 128 * high;
        }
        to[0] = (int8_t)high;
        out->high_sum += high;
        double residual = (double)x[c] - (double)out->step * value;
        residual_squares += residual * residual;
    }
    return residual_squares;
}

/* The part of the bound that is due to rows' residuals e, |e . x|: elements of x above a limit
 * count by e's largest element, 0.5001 scale, the others by its norm (Hoelder, Cauchy-Schwarz). A
 * few large activations would otherwise make all of the norm. Tries some limits with what an even
 * residual gives, |e| = scale sqrt(cols / 12), and keeps the best. */
static void weigh_residual(const float *x, size_t cols, double squares, bl__screen_x *out) {
    double mean = sqrt(squares / (double)cols), best = 0, even = sqrt((double)cols / 12);
    for (int i = 0; i < 6; i++) {
        double limit = i ? mean * (double)(1 << i) : INFINITY, large = 0, small_squares = 0;
        for (size_t c = 0; c < cols; c++) {
            double a = fabs((double)x[c]);
            large += a > limit ? a : 0;
            small_squares += a > limit ? 0 : a * a;
        }
        double cost = 0.5001 * large + even * sqrt(small_squares);
        if (i && !(cost < best))
            continue;
        best = cost;
        out->of_scale = pad(0.5001 * large);
        out->of_error = pad(sqrt(small_squares));
    }
}

bool bl__screen_prepare(const float *x, size_t cols, uint32_t min_digits, int8_t *digits,
                        bl__screen_x *out) {
    double squares = 0, max = 0;
    for (size_t c = 0; c < cols; c++) {
        double a = fabs((double)x[c]);
        squares += a * a;
        max = a > max ? a : max;
    }
    double norm = sqrt(squares);
    if (!(norm < LARGEST_NORM && max > 1 / LARGEST_NORM))
        return false;
    bool one =
        min_digits == 1 && max * max * (double)cols <= ONE_DIGIT_CREST * ONE_DIGIT_CREST * squares;
    out->n_digits = one ? 1 : 2;
    double residual = sqrt(split(x, cols, max, digits, out));
    weigh_residual(x, cols, squares, out);
    /* Roundings of the exact logit's lanes, and of the copy's own arithmetic (below 16). */
    double rounding = ((double)((cols + BL_LANES - 1) / BL_LANES) + 48) * HALF_ULP;
    out->of_norm = pad(residual + rounding * norm);
    out->of_any = 1e-30f;
    return true;
}
