/* The product of AMX with its tiles in plain C, so that blocking, tails and layouts are checked on
 * every machine: bit for bit against kernels/ref, between inaccessible pages. The tiles here refuse
 * what the instructions refuse. Where the processor has AMX, test_kernels.c checks these too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/random.h"
#include "kernels/kernels.h"

/* The registers, and what LDTILECFG said of them. Source: Intel SDM volume 1 chapter 18, volume 2
 * LDTILECFG, TILELOADD, TILESTORED and TDPBSUD. */
enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };
static struct {
    uint8_t bytes[ROWS][ROW_BYTES];
    size_t rows, row_bytes;
} registers[TILES];
static bool is_configured;
static size_t n_multiplied; /* instructions */

static void configure(const uint8_t config[64]) {
    assert_int_equal(config[0], 1); /* palette */
    for (size_t i = 1; i < 16; i++)
        assert_int_equal(config[i], 0);
    memset(registers, 0, sizeof registers);
    for (size_t t = 0; t < 16; t++) {
        size_t row_bytes = config[16 + 2 * t] + 256u * config[17 + 2 * t], rows = config[48 + t];
        assert_true(row_bytes <= ROW_BYTES && rows <= ROWS);
        assert_true(!rows == !row_bytes); /* else #GP */
        if (t >= TILES)
            assert_int_equal(rows, 0);
        else {
            registers[t].rows = rows;
            registers[t].row_bytes = row_bytes;
        }
    }
    is_configured = true;
}

static void load(size_t t, const void *from, size_t stride) {
    assert_true(is_configured && registers[t].rows);
    memset(registers[t].bytes, 0, sizeof registers[t].bytes);
    for (size_t r = 0; r < registers[t].rows; r++)
        memcpy(registers[t].bytes[r], (const uint8_t *)from + r * stride, registers[t].row_bytes);
}

static void store(size_t t, void *to, size_t stride) {
    assert_true(is_configured && registers[t].rows);
    for (size_t r = 0; r < registers[t].rows; r++)
        memcpy((uint8_t *)to + r * stride, registers[t].bytes[r], registers[t].row_bytes);
}

/* c: int32[m][n] += a: int8[m][4 * k] x b: uint8[k][n][4], modulo 2^32. */
static void multiply(size_t c, size_t a, size_t b) {
    size_t m = registers[c].rows, n = registers[c].row_bytes / 4, k = registers[b].rows;
    assert_true(is_configured && m && n && k && c != a && c != b && a != b);
    assert_int_equal(registers[a].rows, m);
    assert_int_equal(registers[a].row_bytes, 4 * k);
    assert_int_equal(registers[b].row_bytes, 4 * n);
    assert_int_equal(registers[c].row_bytes % 4, 0);
    n_multiplied++;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            uint32_t sum;
            memcpy(&sum, registers[c].bytes[i] + 4 * j, sizeof sum);
            for (size_t l = 0; l < 4 * k; l++)
                sum += (uint32_t)((int8_t)registers[a].bytes[i][l] *
                                  (int)registers[b].bytes[l / 4][4 * j + l % 4]);
            memcpy(registers[c].bytes[i] + 4 * j, &sum, sizeof sum);
        }
}

#define TILE_CONFIGURE(config)   configure((const uint8_t *)(config))
#define TILE_LOAD(t, p, stride)  load(t, p, stride)
#define TILE_STORE(t, p, stride) store(t, p, stride)
#define TILE_MULTIPLY(c, a, b)   multiply(c, a, b)
#define TILE_RELEASE()           (is_configured = false)

#include "kernels/x86/gemm_amx.h"

/* A buffer that ends at an inaccessible page, or begins after one. */
typedef struct guarded {
    uint8_t *map, *data;
    size_t map_bytes;
} guarded;

static guarded guarded_alloc(size_t bytes, bool at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inner + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    mprotect(g.map, page, PROT_NONE);
    mprotect(g.map + page + inner, page, PROT_NONE);
    g.data = g.map + page + (at_end ? inner - bytes : 0);
    return g;
}

static bl__random rng;

/* mode 0: any bytes; 1: all codes 2 with activations 127; 2: all 3, which is no code, with -128 */
static void check_case(size_t rows, size_t cols, size_t n_tokens, int mode, bool at_end) {
    size_t tiles = bl__t2_tiles(rows), bytes = tiles * bl__t2_stride(cols);
    size_t stride = bl__t2_blocks(cols) * BL_T2_COLS, ldo = rows + 3, n = n_tokens * ldo;
    guarded w = guarded_alloc(bytes, at_end), q = guarded_alloc(n_tokens * stride, at_end);
    guarded out = guarded_alloc(n * sizeof(float), at_end);
    float *want = calloc(n, sizeof *want), *got = (float *)(void *)out.data;
    float *steps = calloc(n_tokens, sizeof *steps);
    int32_t *sums = calloc(n_tokens, sizeof *sums);
    for (size_t i = 0; i < bytes; i++)
        w.data[i] = mode == 1 ? 0xaa : mode == 2 ? 0xff : (uint8_t)bl__random_u64(&rng);
    for (size_t r = 0; r < tiles * BL_T2_ROWS; r++) {
        float scale = (float)bl__random_f64(&rng) - 0.5f;
        memcpy(w.data + r / 16 * bl__t2_stride(cols) + 4 * (r % 16), &scale, sizeof scale);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        steps[t] = (float)bl__random_f64(&rng);
        for (size_t c = 0; c < cols; c++) {
            int v = mode == 1 ? 127 : mode == 2 ? -128 : (int)bl__random_below(&rng, 256) - 128;
            ((int8_t *)q.data)[t * stride + c] = (int8_t)v;
            sums[t] += v;
        }
    }
    const bl__q8 x = {.q = (int8_t *)q.data, .stride = stride, .step = steps, .sum = sums};
    bl__kernels ref;
    bl__kernels_for("ref", &ref);
    ref.ternary_gemm(w.data, rows, cols, 0, tiles, &x, n_tokens, want, ldo);
    size_t split = tiles / 2; /* two calls must make up one */
    amx_gemm(w.data, rows, cols, 0, split, &x, n_tokens, got, ldo);
    amx_gemm(w.data, rows, cols, split, tiles - split, &x, n_tokens, got, ldo);
    assert_true(!is_configured); /* tiles that stay in use slow the system down */
    if (memcmp(got, want, n * sizeof *got) != 0)
        fail_msg("%zu rows, %zu columns, %zu tokens, mode %d: not the bits of ref", rows, cols,
                 n_tokens, mode);
    munmap(w.map, w.map_bytes);
    munmap(q.map, q.map_bytes);
    munmap(out.map, out.map_bytes);
    free(want);
    free(steps);
    free(sums);
}

static void test_tails(void **state) {
    (void)state;
    for (size_t n_tokens = 1; n_tokens <= 66; n_tokens += n_tokens % 16 == 1 ? 13 : 1)
        for (size_t cols = 1; cols <= 150; cols += cols % 16 == 1 ? 14 : 1)
            check_case(1 + (n_tokens + cols) % 50, cols, n_tokens, 0, cols % 2);
}

static void test_blocks(void **state) {
    (void)state;
    const size_t tokens[] = {16, 32, 95, 96, 97, 130};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        for (size_t cols = 1008; cols <= 1088; cols += 16) /* one piece and two */
            check_case(i % 2 ? 33 : 48, cols, tokens[i], 0, true);
}

static void test_extremes(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        check_case(32, 4096, 32, mode, true);
        check_case(20, 333, 17, mode, false);
    }
    check_case(1, 100000, 3, 2, true);
}

/* Whole tiles are what the instruction is for: as few of them as there can be. */
static void test_count(void **state) {
    (void)state;
    n_multiplied = 0;
    check_case(64, 2560, 64, 0, true);
    assert_int_equal(n_multiplied, 64 / 16 * (64 / 16) * (2560 / 64));
}

int main(void) {
    bl__random_seed(&rng, 42);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tails), cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_extremes),
                                       cmocka_unit_test(test_count)};
    return cmocka_run_group_tests_name("amx", tests, NULL, NULL);
}
