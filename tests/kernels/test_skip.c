/* The checker of the kernels that leave out rows and columns: every instruction set against
 * kernels/ref, and ref against the product of the same weights as T2 tiles. Lists of any length,
 * all tails, impossible codes, inaccessible pages around every buffer. `kernels_skip --bench` times
 * them. */
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

#include "base/random.h"
#include "bitloom/system.h"
#include "kernels/kernels.h"
#include "quant/skip.h"
#include "quant/t2.h"

static bl__random rng;
static bl__kernels ref;

/* A buffer between inaccessible pages that ends at one of them. */
typedef struct guarded {
    uint8_t *map, *data;
    size_t map_bytes;
} guarded;

static guarded guarded_alloc(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inner + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    mprotect(g.map, page, PROT_NONE);
    mprotect(g.map + page + inner, page, PROT_NONE);
    g.data = g.map + page + inner - bytes;
    return g;
}

static void guarded_free(guarded g) {
    munmap(g.map, g.map_bytes);
}

enum { CODES, ANY_BYTES, MOST, N_MODES }; /* MOST: 3, which is no code, times -128 */

/* The bytes of a tensor whose rows or columns are as long as `length`. */
static guarded make_tensor(size_t rows, size_t n, size_t length, int mode) {
    size_t scales = bl__skip_scale_bytes(rows), bytes = scales + n * bl__skip_stride(length);
    guarded w = guarded_alloc(bytes);
    for (size_t i = scales; i < bytes; i++) {
        unsigned codes = 0;
        for (int p = 0; p < 4; p++)
            codes |= (unsigned)bl__random_below(&rng, 3) << 2 * p;
        w.data[i] = mode == CODES       ? (uint8_t)codes
                    : mode == ANY_BYTES ? (uint8_t)bl__random_u64(&rng)
                                        : 0xff;
    }
    for (size_t r = 0; r < rows; r++) {
        float scale = (float)bl__random_f64(&rng) - 0.5f;
        memcpy(w.data + 4 * r, &scale, sizeof scale);
    }
    return w;
}

static int8_t random_activation(int mode) {
    return (int8_t)(mode == MOST ? -128 : (int)bl__random_below(&rng, 256) - 128);
}

static void check_rows_case(const bl__kernels *k, size_t rows, size_t cols, size_t n, int mode) {
    size_t padded = (cols + 255) / 256 * 256;
    guarded w = make_tensor(rows, rows, cols, mode), list = guarded_alloc(n * 4);
    guarded q = guarded_alloc(padded), order = guarded_alloc(padded), out = guarded_alloc(rows * 4);
    uint32_t *entry = (uint32_t *)(void *)list.data;
    float *got = (float *)(void *)out.data, *want = calloc(rows, sizeof *want);
    memset(q.data, 0, padded);
    for (size_t c = 0; c < cols; c++)
        q.data[c] = (uint8_t)random_activation(mode);
    bl__r2_order((const int8_t *)q.data, cols, (int8_t *)order.data);
    for (size_t i = 0; i < n; i++)
        entry[i] = (uint32_t)bl__random_below(&rng, rows);
    memset(got, 0, rows * sizeof *got);
    ref.listed_rows(w.data, rows, cols, entry, n, (int8_t *)order.data, 77, 0.3f, want);
    k->listed_rows(w.data, rows, cols, entry, n, (int8_t *)order.data, 77, 0.3f, got);
    assert_memory_equal(got, want, rows * sizeof *got);
    guarded_free(w);
    guarded_free(list);
    guarded_free(q);
    guarded_free(order);
    guarded_free(out);
    free(want);
}

static void check_columns_case(const bl__kernels *k, size_t rows, size_t cols, size_t n, int mode) {
    size_t groups = (rows + 255) / 256, n_dots = groups * 256;
    guarded w = make_tensor(rows, cols, rows, mode), list = guarded_alloc(n * 4);
    guarded out = guarded_alloc(n_dots * 4);
    uint32_t *entry = (uint32_t *)(void *)list.data;
    int32_t *got = (int32_t *)(void *)out.data, *want = calloc(n_dots, sizeof *want);
    for (size_t i = 0; i < n; i++)
        entry[i] = (uint32_t)bl__random_below(&rng, cols) << 8 | (uint8_t)random_activation(mode);
    for (size_t i = 0; i < n_dots; i++)
        got[i] = want[i] = (int32_t)i; /* they are added to */
    ref.listed_columns(w.data, rows, entry, n, 0, groups, want);
    size_t split = groups / 2; /* two calls must make up one */
    k->listed_columns(w.data, rows, entry, n, 0, split, got);
    k->listed_columns(w.data, rows, entry, n, split, groups - split, got + split * 256);
    assert_memory_equal(got, want, n_dots * sizeof *got);
    guarded_free(w);
    guarded_free(list);
    guarded_free(out);
    free(want);
}

static void check_level(const bl__kernels *k) {
    for (int mode = 0; mode < N_MODES; mode++) {
        for (size_t n = 0; n <= 37; n++) {
            check_rows_case(k, 1 + n % 19, 1 + n * 31, n, mode);
            check_columns_case(k, 1 + n * 31, 1 + n % 19, n, mode);
        }
        check_rows_case(k, 40, 6912, 100, mode); /* where int16 sums overflow */
        check_columns_case(k, 600, 700, 1500, mode);
        check_columns_case(k, 256, 50, 70000, mode); /* where sums of plane 3 overflow int32 */
    }
    check_rows_case(k, 3, 1000000, 3, MOST);
}

/* Calls check for every level. */
static void for_each_level(void (*check)(const bl__kernels *)) {
    char names[128];
    snprintf(names, sizeof names, "%s", bl_kernel_levels());
    for (char *save, *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        bl__kernels k;
        assert_true(bl__kernels_for(name, &k));
        check(&k);
    }
}

static void test_levels(void **state) {
    (void)state;
    for_each_level(check_level);
}

/* Random activations for one token, and their sum. */
static int8_t *make_activations(size_t cols, size_t stride, int32_t *sum) {
    int8_t *q = calloc(stride, 1);
    *sum = 0;
    for (size_t c = 0; c < cols; c++) {
        q[c] = bl__random_below(&rng, 3) ? 0 : random_activation(CODES);
        *sum += q[c];
    }
    return q;
}

/* All rows of an R2 tensor give what its tiles give. */
static void check_r2_tiles(size_t rows, size_t cols) {
    size_t n_tiles = bl__t2_tiles(rows), stride = (cols + 255) / 256 * 256;
    guarded w = make_tensor(rows, rows, cols, CODES);
    guarded tiles = guarded_alloc(n_tiles * bl__t2_stride(cols));
    uint32_t *list = calloc(rows, sizeof *list);
    int8_t *order = calloc(stride, 1);
    float step = 0.7f, *got = calloc(rows, sizeof *got), *want = calloc(rows, sizeof *want);
    int32_t sum;
    int8_t *q = make_activations(cols, stride, &sum);
    bl__q8 x = {.q = q, .stride = bl__t2_blocks(cols) * 16, .step = &step, .sum = &sum};
    bl__r2_order(q, cols, order);
    for (size_t r = 0; r < rows; r++)
        list[r] = (uint32_t)r;
    ref.listed_rows(w.data, rows, cols, list, rows, order, sum, step, want);
    size_t split = n_tiles / 2;
    bl__r2_to_tiles(w.data, rows, cols, 0, split, tiles.data);
    bl__r2_to_tiles(w.data, rows, cols, split, n_tiles - split,
                    tiles.data + split * bl__t2_stride(cols));
    ref.ternary_gemm(tiles.data, rows, cols, 0, n_tiles, &x, 1, got, rows);
    assert_memory_equal(got, want, rows * sizeof *got);
    guarded_free(w);
    guarded_free(tiles);
    free(list);
    free(order);
    free(got);
    free(want);
    free(q);
}

/* And the columns of a C2 tensor that meet something. */
static void check_c2_tiles(size_t rows, size_t cols) {
    size_t groups = (rows + 255) / 256, stride = bl__t2_blocks(cols) * 16, n = 0;
    guarded w = make_tensor(rows, cols, rows, CODES);
    guarded tiles = guarded_alloc(16 * bl__t2_stride(cols));
    uint32_t *list = calloc(cols, sizeof *list);
    int32_t *dots = calloc(groups * 256, sizeof *dots), sum;
    float step = 0.7f, *got = calloc(rows, sizeof *got);
    int8_t *q = make_activations(cols, stride, &sum);
    bl__q8 x = {.q = q, .stride = stride, .step = &step, .sum = &sum};
    for (size_t c = 0; c < cols; c++)
        if (q[c])
            list[n++] = (uint32_t)c << 8 | (uint8_t)q[c];
    ref.listed_columns(w.data, rows, list, n, 0, groups, dots);
    for (size_t g = 0; g < groups; g++) {
        size_t left = rows - g * 256;
        bl__c2_to_tiles(w.data, rows, cols, g, tiles.data);
        ref.ternary_gemm(tiles.data, left, cols, 0, bl__t2_tiles(left < 256 ? left : 256), &x, 1,
                         got + g * 256, rows);
    }
    for (size_t r = 0; r < rows; r++) {
        float scale, want;
        memcpy(&scale, w.data + 4 * r, sizeof scale);
        want = (float)(dots[r] - sum) * step * scale;
        assert_memory_equal(&got[r], &want, sizeof want);
    }
    guarded_free(w);
    guarded_free(tiles);
    free(list);
    free(dots);
    free(got);
    free(q);
}

static void test_tiles(void **state) {
    (void)state;
    for (size_t i = 1; i < 60; i++) {
        check_r2_tiles(1 + i * 7 % 50, 1 + i * 13);
        check_c2_tiles(1 + i * 13, 1 + i * 7 % 50);
    }
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* From the caches: every 1st, 2nd, 5th, 10th of 6912 rows or columns with 2560 weights each. */
static void bench_level(const bl__kernels *k) {
    enum { N = 6912, LENGTH = 2560 };
    guarded w = make_tensor(N, N, LENGTH, CODES);
    uint32_t *list = calloc(N, sizeof *list);
    int8_t *q = calloc(LENGTH, 1);
    float *out = calloc(N, sizeof *out);
    int32_t *dots = calloc(LENGTH, sizeof *dots);
    for (size_t every = 1; every <= 10; every += 1 + every / 2 + every / 3) {
        double best[2] = {1e9, 1e9};
        size_t n = 0;
        for (size_t r = 0; r < N; r += every)
            list[n++] = (uint32_t)r;
        for (int i = 0; i < 7; i++) {
            double start = seconds();
            k->listed_rows(w.data, N, LENGTH, list, n, q, 0, 1, out);
            double middle = seconds();
            for (size_t c = 0; c < n; c++)
                list[c] = (uint32_t)(c * every) << 8 | 5;
            double again = seconds();
            k->listed_columns(w.data, LENGTH, list, n, 0, LENGTH / 256, dots);
            double end = seconds();
            for (size_t c = 0; c < n; c++)
                list[c] = (uint32_t)(c * every);
            best[0] = middle - start < best[0] ? middle - start : best[0];
            best[1] = end - again < best[1] ? end - again : best[1];
        }
        for (int i = 0; i < 2; i++)
            printf("%-12s listed_%s, %zu of %d: %8.1f us, %6.1f Gop/s\n", k->level,
                   i ? "columns" : "rows   ", n, N, best[i] * 1e6,
                   2e-9 * (double)n * LENGTH / best[i]);
    }
    guarded_free(w);
    free(list);
    free(q);
    free(out);
    free(dots);
}

int main(int argc, char **argv) {
    bl__random_seed(&rng, 7);
    bl__kernels_for("ref", &ref);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        for_each_level(bench_level);
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels), cmocka_unit_test(test_tiles)};
    return cmocka_run_group_tests_name("skip", tests, NULL, NULL);
}
