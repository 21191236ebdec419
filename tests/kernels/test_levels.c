/* The kernel checker for the layouts L1, L2 and S2 and for activations in digits: every level of
 * this machine against kernels/ref, bit for bit, all tail lengths, inaccessible pages right behind
 * every buffer. `kernels_levels --bench` times the products. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/half.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "kernels/kernels.h"

/* A buffer that ends at an inaccessible page. */
typedef struct guarded {
    uint8_t *map, *data;
    size_t map_bytes;
} guarded;

static guarded guarded_alloc(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inner + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    mprotect(g.map + inner, page, PROT_NONE);
    g.data = g.map + inner - bytes;
    return g;
}

static void guarded_free(guarded g) {
    munmap(g.map, g.map_bytes);
}

static bl__random rng;
static bl__kernels ref;

static float random_float(void) {
    return (float)(bl__random_f64(&rng) * 2.0 - 1.0);
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], 4) != 0 && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s: element %zu is %.9g, ref says %.9g", what, i, (double)a[i], (double)b[i]);
}

/* The products of ref itself, from rows as quant/ unpacks them: sums of integers, exact in double.
 */
static void check_meaning(bl__layout layout, const bl__levels *w, const bl__q8 *x, size_t n_tokens,
                          const float *got) {
    float *row = malloc(w->cols * sizeof *row);
    for (size_t r = 0; r < w->rows; r++) {
        const uint8_t *units = bl__levels_units(w, r / 16);
        float unit = w->b1 ? bl__load_f32(units + r % 16 * 4)
                           : bl__f16_to_f32(bl__load_u16(units + r % 16 * 2));
        bl__layout_unpack_row(layout, w->tensor, w->rows, w->cols, r, row);
        for (size_t t = 0; t < n_tokens; t++) {
            double sum = 0;
            for (size_t c = 0; c < w->cols; c++)
                sum += (double)row[c] / (double)unit * x->q[t * x->stride + c];
            float want = (float)rint(sum) * x->step[t] * unit;
            assert_same_bits(&got[t * w->rows + r], &want, 1, "ref");
        }
    }
    free(row);
}

/* mode 0: any bytes; 1: the largest levels with -128; 2: with 127; 3: levels -64 with -128. */
static void check_case(const bl__kernels *k, bl__layout layout, size_t rows, size_t cols,
                       size_t n_tokens, int mode) {
    size_t bytes, stride = (cols + 15) / 16 * 16, tiles = bl__t2_tiles(rows), split = tiles / 2;
    assert_int_equal(bl__layout_bytes(layout, rows, cols, &bytes, NULL), BL_OK);
    guarded tensor = guarded_alloc(bytes), q = guarded_alloc(n_tokens * stride);
    guarded out = guarded_alloc(n_tokens * rows * sizeof(float));
    float *want = calloc(n_tokens * rows, sizeof *want), *steps = calloc(n_tokens, sizeof *steps);
    int32_t *sums = calloc(n_tokens, sizeof *sums);
    const bl__levels w = bl__levels_of(layout, tensor.data, rows, cols);
    for (size_t i = 0; i < bytes; i++)
        tensor.data[i] = mode == 0 ? (uint8_t)bl__random_u64(&rng) : mode == 3 ? 128 : 255;
    for (size_t r = 0; r < rows; r++) {
        uint8_t *units = tensor.data + (bl__levels_units(&w, r / 16) - w.tensor);
        uint16_t unit = bl__f32_to_f16(random_float());
        float scale = random_float();
        if (w.b1)
            memcpy(units + r % 16 * 4, &scale, sizeof scale);
        else
            memcpy(units + r % 16 * 2, &unit, sizeof unit);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        steps[t] = random_float();
        for (size_t c = 0; c < cols; c++) {
            int v = mode == 0 ? (int)bl__random_below(&rng, 256) - 128 : mode == 2 ? 127 : -128;
            ((int8_t *)q.data)[t * stride + c] = (int8_t)v;
            sums[t] += v;
        }
    }
    const bl__q8 x = {(int8_t *)q.data, stride, steps, sums};
    float *got = (float *)(void *)out.data;
    ref.levels_gemm(&w, 0, tiles, &x, n_tokens, want, rows);
    if (mode == 0 && cols < 1000)
        check_meaning(layout, &w, &x, n_tokens, want);
    k->levels_gemm(&w, 0, split, &x, n_tokens, got, rows); /* two calls must make up one */
    k->levels_gemm(&w, split, tiles - split, &x, n_tokens, got + 16 * split, rows);
    assert_same_bits(got, want, n_tokens * rows, "levels_gemm");
    guarded_free(tensor);
    guarded_free(q);
    guarded_free(out);
    free(want);
    free(steps);
    free(sums);
}

static void check_levels(const bl__kernels *k) {
    static const bl__layout layouts[] = {BL_LAYOUT_L1, BL_LAYOUT_L2, BL_LAYOUT_S2, BL_LAYOUT_B1};
    for (size_t l = 0; l < 4; l++) {
        for (size_t cols = 1; cols <= 290; cols++)
            check_case(k, layouts[l], 1 + cols % 37, cols, 1 + cols % 5, 0);
        for (size_t n_tokens = 1; n_tokens <= 25; n_tokens += 3)
            check_case(k, layouts[l], 40, 576, n_tokens, 0);
        for (int mode = 0; mode < 4; mode++)
            check_case(k, layouts[l], 3, BL_LEVELS_MAX_COLS, 1 + (size_t)mode, mode);
    }
}

/* kind 0: uniform; 1: one huge element; 2: all equal; 3: zeros and denormals; 4: NaN and infinity;
 * 5: zeros */
static void check_digits(const bl__kernels *k) {
    for (size_t n = 1; n < 600; n += n < 70 ? 1 : 37)
        for (int kind = 0; kind < 6; kind++)
            for (size_t n_digits = 2; n_digits <= BL_MAX_DIGITS; n_digits++) {
                size_t stride = (n + 15) / 16 * 16 + 16;
                guarded x = guarded_alloc(n * sizeof(float)), q = guarded_alloc(n_digits * stride);
                int8_t *want = malloc(n_digits * stride);
                float *values = (float *)(void *)x.data, step[BL_MAX_DIGITS],
                      want_step[BL_MAX_DIGITS];
                int32_t sum[BL_MAX_DIGITS], want_sum[BL_MAX_DIGITS];
                for (size_t i = 0; i < n; i++)
                    values[i] = kind == 2   ? 0.37f
                                : kind == 3 ? random_float() * 1e-40f
                                : kind == 5 ? 0.0f
                                            : random_float();
                if (kind == 1 || kind == 4)
                    values[bl__random_below(&rng, n)] = kind == 1 ? -3e30f : NAN;
                if (kind == 4)
                    values[bl__random_below(&rng, n)] = INFINITY;
                ref.quantize_digits(values, n, n_digits, want, stride, want_step, want_sum);
                k->quantize_digits(values, n, n_digits, (int8_t *)q.data, stride, step, sum);
                assert_memory_equal(q.data, want, n_digits * stride);
                assert_same_bits(step, want_step, n_digits, "step of digits");
                assert_memory_equal(sum, want_sum, n_digits * sizeof *sum);
                for (size_t i = 0; i < n && (kind < 3 || kind == 5); i++) { /* close to x */
                    double value = 0, largest = 0;
                    for (size_t d = 0; d < n_digits; d++)
                        value += (double)want_step[d] * want[d * stride + i];
                    for (size_t c = 0; c < n; c++)
                        largest = fmax(largest, fabs((double)values[c]));
                    assert_true(fabs(value - (double)values[i]) <=
                                largest * (n_digits == 2 ? 1.6e-5 : 2.5e-7));
                }
                free(want);
                guarded_free(x);
                guarded_free(q);
            }
}

static void for_each_level(void (*check)(const bl__kernels *)) {
    char names[128], *at = names;
    snprintf(names, sizeof names, "%s", bl_kernel_levels());
    for (char *name; (name = strsep(&at, " "));) {
        bl__kernels k;
        if (bl__kernels_for(name, &k))
            check(&k);
    }
}

static void test_levels(void **state) {
    (void)state;
    for_each_level(check_levels);
}
static void test_digits(void **state) {
    (void)state;
    for_each_level(check_digits);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A tenth of the columns is salient. */
static void bench_layout(const bl__kernels *k, bl__layout layout) {
    enum { ROWS = 1536, COLS = 576, TOKENS = 96 };
    size_t bytes;
    assert_int_equal(bl__layout_bytes(layout, ROWS, COLS, &bytes, NULL), BL_OK);
    uint8_t *tensor = aligned_alloc(64, bytes);
    int8_t *q = calloc(TOKENS, COLS);
    float *out = calloc((size_t)TOKENS * ROWS, sizeof *out), steps[TOKENS] = {0};
    int32_t sums[TOKENS] = {0};
    const bl__levels w = bl__levels_of(layout, tensor, ROWS, COLS);
    const bl__q8 x = {q, COLS, steps, sums};
    memset(tensor, 0x11, bytes);
    for (size_t c = 0; w.salient && c < COLS / 8; c++)
        tensor[bl__levels_bitmap_at(&w) + c] = c % 5 < 4 ? 1 : 0;
    for (size_t n = 1; n <= TOKENS; n = n == 1 ? 3 : n * 32) {
        double best = 1e9;
        for (int i = 0; i < 200; i++) {
            double start = seconds();
            k->levels_gemm(&w, 0, bl__t2_tiles(ROWS), &x, n, out, ROWS);
            double took = seconds() - start;
            best = took < best ? took : best;
        }
        printf("%-12s %s %dx%d, %2zu tokens: %8.1f us, %6.1f Gop/s, %5.1f GB/s\n", k->level,
               bl__layout_get(layout)->name, ROWS, COLS, n, best * 1e6,
               2e-9 * (double)(ROWS * COLS) * (double)n / best, 1e-9 * (double)bytes / best);
    }
    free(tensor);
    free(q);
    free(out);
}

static void bench(const bl__kernels *k) {
    bench_layout(k, BL_LAYOUT_L1);
    bench_layout(k, BL_LAYOUT_L2);
    bench_layout(k, BL_LAYOUT_S2);
    bench_layout(k, BL_LAYOUT_B1);
}

int main(int argc, char **argv) {
    bl__random_seed(&rng, 43);
    bl__kernels_for("ref", &ref);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        for_each_level(bench);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_digits),
    };
    return cmocka_run_group_tests_name("levels", tests, NULL, NULL);
}
