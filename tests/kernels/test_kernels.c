/* The kernel checker: every slot of every instruction set this machine can run against kernels/ref,
 * bit for bit, on random and extreme inputs, all tail lengths, with inaccessible pages right behind
 * and right before every buffer. `kernels_kernels --bench` times the same calls. */
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

#include "base/half.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "kernels/kernels.h"
#include "quant/b1.h"
#include "quant/t5.h"

/* A buffer that ends (or begins) at an inaccessible page. */
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

static void guarded_free(guarded g) {
    munmap(g.map, g.map_bytes);
}

static bl__random rng;
static bl__kernels ref;

static float random_float(void) {
    return (float)(bl__random_f64(&rng) * 2.0 - 1.0);
}

/* kind 0: uniform; 1: one huge element; 2: all equal; 3: zeros and denormals; 4: NaN and infinity;
 * 5: a signaling NaN; 6: halves between integers and 127, whose scale is 1 */
static void fill_floats(float *x, size_t n, int kind) {
    for (size_t i = 0; i < n; i++)
        x[i] = kind == 2 ? 0.37f : kind == 3 ? random_float() * 1e-40f : random_float();
    if (n && kind == 1)
        x[bl__random_below(&rng, n)] = -3e30f;
    if (n && kind == 4) {
        x[bl__random_below(&rng, n)] = NAN;
        x[bl__random_below(&rng, n)] = INFINITY;
    }
    for (size_t i = 0; i < n && kind == 6; i++)
        x[i] = i ? (float)bl__random_below(&rng, 254) - 126.5f : 127.0f;
    if (n && kind == 5) {
        const uint32_t signaling = 0x7f800001u;
        memcpy(&x[bl__random_below(&rng, n)], &signaling, sizeof signaling);
    }
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], 4) != 0 && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s: element %zu is %.9g, ref says %.9g", what, i, (double)a[i], (double)b[i]);
}

static void check_quantize(const bl__kernels *k) {
    for (size_t n = 1; n < 70; n++)
        for (int kind = 0; kind < 7; kind++)
            for (int at_end = 0; at_end < 2; at_end++) {
                size_t stride = (n + 15) / 16 * 16;
                guarded x = guarded_alloc(n * sizeof(float), at_end);
                guarded q = guarded_alloc(stride, at_end);
                int8_t want[80];
                float step, want_step;
                int32_t sum, want_sum;
                fill_floats((float *)(void *)x.data, n, kind);
                ref.quantize_i8((float *)(void *)x.data, n, want, stride, &want_step, &want_sum);
                k->quantize_i8((float *)(void *)x.data, n, (int8_t *)q.data, stride, &step, &sum);
                assert_memory_equal(q.data, want, stride);
                assert_same_bits(&step, &want_step, 1, "quantize step");
                assert_int_equal(sum, want_sum);
                guarded_free(x);
                guarded_free(q);
            }
}

/* mode 0: random codes 0 ... 2; 1: all 2 with activations 127; 2: all 0 with -128; 3: any bytes;
 * 4: all 3, which is no code, with -128 */
static void check_ternary_case(const bl__kernels *k, size_t rows, size_t cols, size_t n_tokens,
                               int mode) {
    size_t tiles = bl__t2_tiles(rows), bytes = tiles * bl__t2_stride(cols);
    size_t stride = bl__t2_blocks(cols) * 16, ldo = rows + 3;
    guarded w = guarded_alloc(bytes, true), q = guarded_alloc(n_tokens * stride, true);
    guarded out = guarded_alloc(n_tokens * ldo * sizeof(float), true);
    float *want = calloc(n_tokens * ldo, sizeof *want), *steps = calloc(n_tokens, sizeof *steps);
    int32_t *sums = calloc(n_tokens, sizeof *sums);
    for (size_t i = 0; i < bytes; i++) {
        uint8_t codes = 0;
        for (int p = 0; p < 4 && mode == 0; p++)
            codes = (uint8_t)(codes | bl__random_below(&rng, 3) << 2 * p);
        w.data[i] = mode == 0   ? codes
                    : mode == 1 ? 0xaa
                    : mode == 2 ? 0
                    : mode == 4 ? 0xff
                                : (uint8_t)bl__random_u64(&rng);
    }
    for (size_t tile = 0; tile < tiles; tile++)
        for (size_t r = 0; r < 16; r++) {
            float scale = random_float();
            memcpy(w.data + tile * bl__t2_stride(cols) + 4 * r, &scale, 4);
        }
    for (size_t t = 0; t < n_tokens; t++) {
        steps[t] = random_float();
        for (size_t c = 0; c < cols; c++) {
            int v = mode == 1                ? 127
                    : mode == 2 || mode == 4 ? -128
                                             : (int)bl__random_below(&rng, 256) - 128;
            ((int8_t *)q.data)[t * stride + c] = (int8_t)v;
            sums[t] += v;
        }
    }
    bl__q8 x = {.q = (int8_t *)q.data, .stride = stride, .step = steps, .sum = sums};
    memset(out.data, 0, n_tokens * ldo * sizeof(float));
    ref.ternary_gemm(w.data, rows, cols, 0, tiles, &x, n_tokens, want, ldo);
    size_t split = tiles / 2; /* two calls must make up one */
    k->ternary_gemm(w.data, rows, cols, 0, split, &x, n_tokens, (float *)(void *)out.data, ldo);
    k->ternary_gemm(w.data, rows, cols, split, tiles - split, &x, n_tokens,
                    (float *)(void *)out.data, ldo);
    assert_same_bits((float *)(void *)out.data, want, n_tokens * ldo, "ternary_gemm");
    guarded_free(w);
    guarded_free(q);
    guarded_free(out);
    free(want);
    free(steps);
    free(sums);
}

static void check_ternary(const bl__kernels *k) {
    for (size_t rows = 1; rows <= 33; rows += rows % 16 == 1 ? 14 : 1)
        for (size_t cols = 1; cols <= 50; cols++)
            check_ternary_case(k, rows, cols, 1 + (rows + cols) % 13, 0);
    for (int mode = 0; mode < 5; mode++)
        for (size_t n_tokens = 1; n_tokens <= 19; n_tokens += 3) {
            check_ternary_case(k, 32, 4096, n_tokens, mode); /* where int16 sums overflow */
            check_ternary_case(k, 20, 333, n_tokens, mode);
        }
    check_ternary_case(k, 16, 100000, 2, 1);
    check_ternary_case(k, 16, 100000, 1, 3);
    check_ternary_case(k, 16, 2200000, 1, 1); /* 16 times a sum of four columns overflows int32 */
    check_ternary_case(k, 20, 600, 70, 3);    /* more tokens than share one unpacking */
    check_ternary_case(k, 50, 1100, 211, 3);  /* several blocks of tokens, pieces of columns */
    check_ternary_case(k, 33, 2080, 97, 4);
    check_ternary_case(k, 48, 8640, 3, 0); /* of the 3B model */
}

/* The denser native layouts: tiles unpacked as ref unpacks them, products as ternary_gemm of those.
 * mode 0: any bytes, activations too; 1: the largest digits with 127; 2: with -128. */
static void check_native_case(const bl__kernels *k, bool is_t5, size_t rows, size_t cols,
                              int mode) {
    size_t tiles = bl__t2_tiles(rows), t2_bytes = tiles * bl__t2_stride(cols);
    size_t stride = is_t5 ? bl__t5_stride(cols) : bl__b1_stride(cols);
    size_t q_stride = bl__t2_blocks(cols) * 16, split = tiles / 2;
    guarded w = guarded_alloc(tiles * stride, true), q = guarded_alloc(q_stride, true);
    guarded t2 = guarded_alloc(t2_bytes, true), out = guarded_alloc(rows * sizeof(float), true);
    uint8_t *want_t2 = malloc(t2_bytes);
    float *want = calloc(rows, sizeof *want), step = random_float();
    int32_t sum = 0;
    for (size_t i = 0; i < tiles * stride; i++)
        w.data[i] = mode == 0 ? (uint8_t)bl__random_u64(&rng) : is_t5 ? 0xda : 0xff;
    for (size_t tile = 0; tile < tiles; tile++)
        for (size_t r = 0; r < 16; r++) {
            float scale = random_float();
            memcpy(w.data + tile * stride + 4 * r, &scale, 4);
        }
    for (size_t c = 0; c < cols; c++) {
        int v = mode == 1 ? 127 : mode == 2 ? -128 : (int)bl__random_below(&rng, 256) - 128;
        ((int8_t *)q.data)[c] = (int8_t)v;
        sum += v;
    }
    bl__q8 x = {.q = (int8_t *)q.data, .stride = q_stride, .step = &step, .sum = &sum};
    (is_t5 ? ref.t5_unpack : ref.b1_unpack)(w.data, cols, 0, tiles, want_t2);
    (is_t5 ? k->t5_unpack : k->b1_unpack)(w.data, cols, 0, split, t2.data);
    (is_t5 ? k->t5_unpack : k->b1_unpack)(w.data, cols, split, tiles - split,
                                          t2.data + split * bl__t2_stride(cols));
    assert_memory_equal(t2.data, want_t2, t2_bytes);
    if (is_t5 ? k->t5_gemv : k->b1_gemv) {
        float *got = (float *)(void *)out.data;
        ref.ternary_gemm(want_t2, rows, cols, 0, tiles, &x, 1, want, rows);
        (is_t5 ? k->t5_gemv : k->b1_gemv)(w.data, rows, cols, 0, split, &x, got);
        (is_t5 ? k->t5_gemv : k->b1_gemv)(w.data, rows, cols, split, tiles - split, &x, got);
        assert_same_bits(got, want, rows, is_t5 ? "t5_gemv" : "b1_gemv");
    }
    guarded_free(w);
    guarded_free(q);
    guarded_free(t2);
    guarded_free(out);
    free(want_t2);
    free(want);
}

/* t5_gemm: any bytes and activations, in two parts of the tiles. */
static void check_t5_gemm_case(const bl__kernels *k, size_t rows, size_t cols, size_t n_tokens) {
    size_t tiles = bl__t2_tiles(rows), stride = bl__t5_stride(cols), split = tiles / 2;
    size_t q_stride = bl__t2_blocks(cols) * 16, n = n_tokens * rows;
    guarded w = guarded_alloc(tiles * stride, true), q = guarded_alloc(n_tokens * q_stride, true);
    guarded out = guarded_alloc(n * sizeof(float), true);
    uint8_t *t2 = malloc(tiles * bl__t2_stride(cols));
    float *want = calloc(n, sizeof *want), *got = (float *)(void *)out.data;
    float *steps = calloc(n_tokens, sizeof *steps);
    int32_t *sums = calloc(n_tokens, sizeof *sums);
    for (size_t i = 0; i < tiles * stride; i++)
        w.data[i] = (uint8_t)bl__random_u64(&rng);
    for (size_t tile = 0; tile < tiles; tile++)
        for (size_t r = 0; r < 16; r++) {
            float scale = random_float();
            memcpy(w.data + tile * stride + 4 * r, &scale, 4);
        }
    for (size_t t = 0; t < n_tokens; t++) {
        steps[t] = random_float();
        for (size_t c = 0; c < q_stride; c++) {
            int v = c < cols ? (int)bl__random_below(&rng, 256) - 128 : 0;
            ((int8_t *)q.data)[t * q_stride + c] = (int8_t)v;
            sums[t] += v;
        }
    }
    bl__q8 x = {.q = (int8_t *)q.data, .stride = q_stride, .step = steps, .sum = sums};
    ref.t5_unpack(w.data, cols, 0, tiles, t2);
    ref.ternary_gemm(t2, rows, cols, 0, tiles, &x, n_tokens, want, rows);
    k->t5_gemm(w.data, rows, cols, 0, split, &x, n_tokens, got, rows);
    k->t5_gemm(w.data, rows, cols, split, tiles - split, &x, n_tokens, got, rows);
    assert_same_bits(got, want, n, "t5_gemm");
    guarded_free(w);
    guarded_free(q);
    guarded_free(out);
    free(t2);
    free(want);
    free(steps);
    free(sums);
}

static void check_t5_gemm(const bl__kernels *k) {
    for (size_t cols = 1; cols <= 330; cols++)
        check_t5_gemm_case(k, 1 + cols % 53, cols, 1 + cols % 29);
    for (size_t n_tokens = 1; n_tokens <= 41; n_tokens++)
        check_t5_gemm_case(k, 80, 1040 + 16 * (n_tokens % 5), n_tokens);
    check_t5_gemm_case(k, 50, 2001, 211); /* several blocks of tokens, pieces of columns */
}

static void check_native(const bl__kernels *k) {
    if (k->t5_gemm)
        check_t5_gemm(k);
    for (int is_t5 = 0; is_t5 < 2; is_t5++) {
        for (size_t cols = 1; cols <= 330; cols++)
            check_native_case(k, is_t5, 1 + cols % 37, cols, 0);
        for (int mode = 0; mode < 3; mode++) {
            check_native_case(k, is_t5, 48, 8640, mode);
            check_native_case(k, is_t5, 16, 2200016, mode); /* sums in place overflow int32 */
        }
    }
}

static void check_dots(const bl__kernels *k) {
    for (size_t cols = 1; cols < 70; cols++)
        for (int kind = 0; kind < 5; kind++) {
            size_t rows = 1 + cols % 11, n_tokens = 1 + cols % 7,
                   w_stride = cols + (size_t)kind % 3;
            guarded w = guarded_alloc((rows - 1) * w_stride * 4 + cols * 4, kind % 2);
            guarded x = guarded_alloc(n_tokens * cols * 4, kind % 2);
            guarded out = guarded_alloc(((n_tokens - 1) * (rows + 1) + rows) * 4, true);
            float want[7 * 12], *got = (float *)(void *)out.data;
            fill_floats((float *)(void *)w.data, (rows - 1) * w_stride + cols, kind);
            fill_floats((float *)(void *)x.data, n_tokens * cols, 0);
            ref.dot_rows((float *)(void *)w.data, w_stride, rows, cols, (float *)(void *)x.data,
                         cols, n_tokens, want, rows + 1);
            k->dot_rows((float *)(void *)w.data, w_stride, rows, cols, (float *)(void *)x.data,
                        cols, n_tokens, got, rows + 1);
            for (size_t t = 0; t < n_tokens; t++)
                assert_same_bits(got + t * (rows + 1), want + t * (rows + 1), rows, "dot_rows");
            guarded_free(w);
            guarded_free(x);
            guarded_free(out);
        }
}

/* kind 1: any bits, NaN, infinity and subnormals among them. */
static void check_half_dots(const bl__kernels *k) {
    for (size_t cols = 1; cols < 70; cols++)
        for (int kind = 0; kind < 4; kind++) {
            bool any = kind % 2, bf16 = kind / 2;
            size_t rows = 1 + cols % 11, n_tokens = 1 + cols % 9, w_stride = cols + cols % 3;
            size_t n_weights = (rows - 1) * w_stride + cols;
            guarded w = guarded_alloc(n_weights * 2, any),
                    x = guarded_alloc(n_tokens * cols * 4, any);
            guarded out = guarded_alloc(((n_tokens - 1) * (rows + 1) + rows) * 4, true);
            float want[9 * 12], unpacked[11 * 72], direct[9 * 12];
            uint16_t *halves = (uint16_t *)(void *)w.data;
            const float *floats = (const float *)(void *)x.data;
            float *got = (float *)(void *)out.data;
            for (size_t i = 0; i < n_weights; i++)
                halves[i] = any    ? (uint16_t)bl__random_below(&rng, 65536)
                            : bf16 ? bl__f32_to_bf16(random_float())
                                   : bl__f32_to_f16(random_float());
            fill_floats((float *)(void *)x.data, n_tokens * cols, 0);
            (bf16 ? ref.unpack_bf16 : ref.unpack_f16)(halves, n_weights, unpacked);
            ref.dot_rows(unpacked, w_stride, rows, cols, floats, cols, n_tokens, want, rows + 1);
            (bf16 ? ref.dot_rows_bf16 : ref.dot_rows_f16)(halves, w_stride, rows, cols, floats,
                                                          cols, n_tokens, direct, rows + 1);
            (bf16 ? k->dot_rows_bf16 : k->dot_rows_f16)(halves, w_stride, rows, cols, floats, cols,
                                                        n_tokens, got, rows + 1);
            for (size_t t = 0; t < n_tokens; t++) {
                size_t at = t * (rows + 1);
                assert_same_bits(direct + at, want + at, rows, "dot_rows of halves in ref");
                assert_same_bits(got + at, want + at, rows, "dot_rows of halves");
            }
            guarded_free(w);
            guarded_free(x);
            guarded_free(out);
        }
}

/* A token of random digits or, by mode, of the largest of either sign. */
static bl__screen_x fill_digits(uint8_t *digits, size_t groups, uint32_t n_digits, int mode) {
    int most = n_digits == 2 ? 64 : 127;
    bl__screen_x x = {.digits = (const int8_t *)digits, .n_digits = n_digits, .step = 0.013f};
    for (size_t d = 0; d < groups * 4 * n_digits; d++) {
        int digit = mode == 1   ? most
                    : mode == 2 ? -most
                                : (int)bl__random_below(&rng, 2 * (size_t)most + 1) - most;
        digits[d] = (uint8_t)digit;
        *(n_digits == 1 || d % 8 < 4 ? &x.high_sum : &x.low_sum) += digit;
    }
    fill_floats(&x.of_scale, 1, 0);
    fill_floats(&x.of_error, 1, 0);
    fill_floats(&x.of_norm, 1, 0);
    fill_floats(&x.of_any, 1, 0);
    return x;
}

/* mode 0: any codes and digits; 1: the largest of one sign; 2: codes 0 with the lowest digits; 3:
 * rows whose scale, error and norm are infinite. */
static void check_screen_of(const bl__kernels *k, size_t cols, size_t n_tiles, size_t n_tokens,
                            int mode) {
    enum { MAX_TILES = 5, MAX_TOKENS = 33, ROWS = MAX_TILES * 16 };
    size_t groups = (cols + 3) / 4, bytes = n_tiles * bl__screen_tile_bytes(cols);
    guarded tiles = guarded_alloc(bytes, true), digits[MAX_TOKENS];
    size_t stride = n_tiles * 16 + n_tokens % 3;
    size_t n_floats = (n_tokens - 1) * stride + n_tiles * 16;
    guarded upper = guarded_alloc(n_floats * sizeof(float), true);
    static float want[MAX_TOKENS * (ROWS + 2)];
    bl__screen_x x[MAX_TOKENS];
    for (size_t b = 0; b < bytes; b++)
        tiles.data[b] = mode == 1 ? 255 : mode == 2 ? 0 : (uint8_t)bl__random_below(&rng, 256);
    for (size_t t = 0; t < n_tiles; t++) {
        float *head = (float *)(void *)(tiles.data + t * bl__screen_tile_bytes(cols));
        fill_floats(head, 48, 0);
        for (size_t r = 0; mode == 3 && r < 48; r += 5)
            head[r] = INFINITY;
    }
    uint32_t n_digits = 1 + (uint32_t)bl__random_below(&rng, 2);
    for (size_t t = 0; t < n_tokens; t++) {
        if (bl__random_below(&rng, 8) == 0)
            n_digits = 3 - n_digits;
        digits[t] = guarded_alloc(groups * 4 * n_digits, true);
        x[t] = fill_digits(digits[t].data, groups, n_digits, mode);
        if (n_tokens > 1 && bl__random_below(&rng, 8) == 0)
            x[t].n_digits = 0; /* nothing is written */
    }
    memset(upper.data, 0, n_floats * sizeof(float));
    memset(want, 0, sizeof want);
    ref.screen_rows(tiles.data, cols, n_tiles, x, n_tokens, want, stride);
    k->screen_rows(tiles.data, cols, n_tiles, x, n_tokens, (float *)(void *)upper.data, stride);
    assert_same_bits((float *)(void *)upper.data, want, n_floats, "screen_rows");
    guarded_free(tiles);
    for (size_t t = 0; t < n_tokens; t++)
        guarded_free(digits[t]);
    guarded_free(upper);
}

static void check_screen(const bl__kernels *k) {
    for (size_t i = 0; i < 80; i++)
        for (int mode = 0; mode < 4; mode++)
            check_screen_of(k, i < 70 ? i + 1 : 2567 - i, 1 + i % 3, 1, mode);
    for (size_t n_tokens = 2; n_tokens <= 33; n_tokens++)
        for (int mode = 0; mode < 4; mode++)
            check_screen_of(k, 1 + bl__random_below(&rng, 60), 1 + n_tokens % 5, n_tokens, mode);
}

static void check_weighted_sum(const bl__kernels *k) {
    for (size_t cols = 1; cols < 70; cols++)
        for (size_t rows = 0; rows < 9; rows += 1 + rows / 3) {
            size_t stride = cols + rows % 2;
            guarded v = guarded_alloc((rows ? (rows - 1) * stride + cols : 1) * 4, true);
            guarded p = guarded_alloc(rows * 4 + 4, false), out = guarded_alloc(cols * 4, true);
            float want[80];
            fill_floats((float *)(void *)v.data, rows ? (rows - 1) * stride + cols : 1, 0);
            fill_floats((float *)(void *)p.data, rows, 0);
            ref.weighted_sum((float *)(void *)p.data, (float *)(void *)v.data, stride, rows, cols,
                             want);
            k->weighted_sum((float *)(void *)p.data, (float *)(void *)v.data, stride, rows, cols,
                            (float *)(void *)out.data);
            assert_same_bits((float *)(void *)out.data, want, cols, "weighted_sum");
            guarded_free(v);
            guarded_free(p);
            guarded_free(out);
        }
}

static void check_unpack(const bl__kernels *k) {
    enum { N = 65536 };
    uint16_t *all = malloc(N * sizeof *all);
    float *got = malloc(N * sizeof *got), *want = malloc(N * sizeof *want);
    for (size_t i = 0; i < N; i++)
        all[i] = (uint16_t)i;
    for (size_t cut = 0; cut < 17; cut++) {
        ref.unpack_f16(all + cut, N - 2 * cut, want);
        k->unpack_f16(all + cut, N - 2 * cut, got);
        assert_same_bits(got, want, N - 2 * cut, "unpack_f16");
        ref.unpack_bf16(all + cut, N - 2 * cut, want);
        k->unpack_bf16(all + cut, N - 2 * cut, got);
        assert_same_bits(got, want, N - 2 * cut, "unpack_bf16");
    }
    free(all);
    free(got);
    free(want);
}

/* Calls check for every level but ref. */
static void for_each_level(void (*check)(const bl__kernels *)) {
    char names[128];
    snprintf(names, sizeof names, "%s", bl_kernel_levels());
    for (char *save, *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        bl__kernels k;
        assert_true(bl__kernels_for(name, &k));
        assert_string_equal(k.level, name);
        check(&k);
    }
}

static void test_quantize(void **state) {
    (void)state;
    for_each_level(check_quantize);
}
static void test_ternary(void **state) {
    (void)state;
    for_each_level(check_ternary);
}
static void test_native(void **state) {
    (void)state;
    for_each_level(check_native);
}
static void test_dots(void **state) {
    (void)state;
    for_each_level(check_dots);
}
static void test_half_dots(void **state) {
    (void)state;
    for_each_level(check_half_dots);
}
static void test_screen(void **state) {
    (void)state;
    for_each_level(check_screen);
}
static void test_weighted_sum(void **state) {
    (void)state;
    for_each_level(check_weighted_sum);
}
static void test_unpack(void **state) {
    (void)state;
    for_each_level(check_unpack);
}

static void test_exp(void **state) {
    (void)state;
    for (double x = -86.0; x < 87.0; x += 0.00137) {
        float got = bl__exp((float)x);
        double want = exp((double)(float)x);
        if (fabs((double)got - want) > 2.0 * 1.2e-7 * want)
            fail_msg("exp(%.9g) = %.9g, expected %.9g", x, (double)got, want);
    }
    assert_true(bl__exp(0.0f) == 1.0f);
    assert_true(bl__exp(-INFINITY) < 1e-37f && bl__exp(-INFINITY) >= 0.0f);
    assert_true(isfinite(bl__exp(INFINITY)));
}

/* rows x n weights times n x cols cells of each type, some of them garbage */
static void check_cells_case(const bl__kernels *k, bl_cache_type type, size_t rows, size_t n,
                             size_t cols, int kind, bool add) {
    size_t bytes = type == BL_CACHE_F32   ? 4 * cols
                   : type == BL_CACHE_F16 ? 2 * cols
                   : type == BL_CACHE_I8  ? cols
                                          : cols / 2;
    size_t b_stride = n > 1 ? bytes + 4 : bytes, a_stride = n + 3, out_stride = cols + 5;
    size_t n_out = (rows - 1) * out_stride + cols, n_a = (rows - 1) * a_stride + n;
    guarded a = guarded_alloc(n_a * sizeof(float), true);
    guarded b = guarded_alloc((n - 1) * b_stride + bytes, true);
    guarded out = guarded_alloc(n_out * sizeof(float), true);
    float *want = calloc(n_out, sizeof *want);
    fill_floats((float *)(void *)a.data, n_a, kind);
    fill_floats(want, n_out, 0);
    memcpy(out.data, want, n_out * sizeof *want);
    for (size_t i = 0; i < (n - 1) * b_stride + bytes; i++)
        b.data[i] = (uint8_t)bl__random_u64(&rng);
    for (size_t i = 0; type == BL_CACHE_F32 && i < n; i++)
        fill_floats((float *)(void *)(b.data + i * b_stride), cols, kind);
    ref.cells_product(type, (float *)(void *)a.data, a_stride, rows, b.data, b_stride, n, cols,
                      want, out_stride, add);
    k->cells_product(type, (float *)(void *)a.data, a_stride, rows, b.data, b_stride, n, cols,
                     (float *)(void *)out.data, out_stride, add);
    for (size_t i = 0; i < n_out; i++) /* what lies between the rows too */
        assert_same_bits((float *)(void *)out.data + i, want + i, 1, "cells_product");
    free(want);
    guarded_free(a);
    guarded_free(b);
    guarded_free(out);
}

static void check_cells(const bl__kernels *k) {
    for (int type = BL_CACHE_F16; type <= BL_CACHE_I4; type++)
        for (size_t rows = 1; rows <= 14; rows++)
            for (size_t cols = 32; cols <= 160; cols += 32)
                check_cells_case(k, (bl_cache_type)type, rows, 1 + bl__random_below(&rng, 70), cols,
                                 (int)(rows % 6), rows % 2);
}

static void check_softmax_block(const bl__kernels *k) {
    for (size_t n = 1; n <= BL_CACHE_BLOCK; n++)
        for (int kind = 0; kind < 6; kind++) {
            float x[BL_CACHE_BLOCK], want[BL_CACHE_BLOCK], sums[BL_LANES], want_sums[BL_LANES];
            fill_floats(want, BL_CACHE_BLOCK, kind);
            for (size_t i = 0; i < BL_CACHE_BLOCK && kind == 0; i++)
                want[i] *= 100.0f;
            memcpy(x, want, sizeof x);
            float most = ref.softmax_block(want, n, want_sums), got = k->softmax_block(x, n, sums);
            assert_same_bits(&got, &most, 1, "softmax_block, maximum");
            assert_same_bits(x, want, BL_CACHE_BLOCK, "softmax_block");
            assert_same_bits(sums, want_sums, BL_LANES, "softmax_block, sums");
        }
}

static void check_merge_rows(const bl__kernels *k) {
    for (size_t rows = 1; rows < 40; rows++)
        for (size_t width = 48; width < 52; width++) {
            float to[2][40 * 52], from[40 * 52], to_max[2][40], from_max[40];
            fill_floats(to[0], rows * width, (int)(rows % 5));
            fill_floats(from, rows * width, 0);
            fill_floats(to_max[0], rows, 0);
            fill_floats(from_max, rows, rows % 7 == 0 ? 4 : 0);
            from_max[rows - 1] = to_max[0][rows - 1];
            memcpy(to[1], to[0], sizeof to[0]);
            memcpy(to_max[1], to_max[0], sizeof to_max[0]);
            ref.merge_rows(to_max[0], to[0], from_max, from, rows, width);
            k->merge_rows(to_max[1], to[1], from_max, from, rows, width);
            assert_same_bits(to_max[1], to_max[0], rows, "merge_rows, maximum");
            assert_same_bits(to[1], to[0], rows * width, "merge_rows");
        }
}

static void check_pack_f16(const bl__kernels *k) {
    for (size_t n = 1; n < 70; n++)
        for (int kind = 0; kind < 5; kind++) {
            guarded x = guarded_alloc(n * sizeof(float), true), out = guarded_alloc(2 * n, true);
            uint16_t want[70];
            float got_floats[70], want_floats[70];
            fill_floats((float *)(void *)x.data, n, kind);
            for (size_t i = 0; i < n && kind == 2; i++) /* any bits */
                memcpy(x.data + 4 * i, &(uint32_t){(uint32_t)bl__random_u64(&rng)}, 4);
            ref.pack_f16((float *)(void *)x.data, n, want);
            k->pack_f16((float *)(void *)x.data, n, (uint16_t *)(void *)out.data);
            ref.unpack_f16(want, n, want_floats);
            ref.unpack_f16((uint16_t *)(void *)out.data, n, got_floats);
            assert_same_bits(got_floats, want_floats, n, "pack_f16");
            for (size_t i = 0; i < n; i++)
                assert_true(fabsf(want_floats[i]) <= 65504.0f || isnan(want_floats[i]));
            guarded_free(x);
            guarded_free(out);
        }
}

/* The loops that are plain C at every level. */
static void check_loops(const bl__kernels *k) {
    for (size_t n = 1; n < 70; n++)
        for (int kind = 0; kind < 5; kind++) {
            float x[70], y[70], w[70], got[70], want[70];
            fill_floats(x, 70, kind);
            fill_floats(y, 70, 0);
            fill_floats(w, 70, 0);
#define SAME(slot, ...)                                                                            \
    do {                                                                                           \
        memcpy(got, x, sizeof x);                                                                  \
        memcpy(want, x, sizeof x);                                                                 \
        float *out = want;                                                                         \
        ref.slot(__VA_ARGS__);                                                                     \
        out = got;                                                                                 \
        k->slot(__VA_ARGS__);                                                                      \
        assert_same_bits(got, want, 70, #slot);                                                    \
    } while (0)
            SAME(scale, out, 0.3f, w, n, out);
            SAME(scale, out, 0.3f, NULL, n, out);
            SAME(silu_mul, out, y, n, out);
            SAME(relu2_mul, out, y, n, out);
            SAME(add, out, y, n);
            SAME(add_scaled, out, y, w, n);
            SAME(rope, out, n / 2, true, y, w);
            SAME(rope, out, n / 2, false, y, w);
#undef SAME
        }
}

static void test_floats(void **state) {
    (void)state;
    for_each_level(check_cells);
    for_each_level(check_softmax_block);
    for_each_level(check_merge_rows);
    for_each_level(check_pack_f16);
    for_each_level(check_loops);
}

/* Blocks merged give the softmax over all of them. */
static void test_softmax(void **state) {
    (void)state;
    enum { BLOCKS = 3, N = BLOCKS * BL_CACHE_BLOCK };
    float x[N], sums[BLOCKS][BL_LANES], most[BLOCKS];
    double want_sum = 0.0, max = -1e30, keep[N];
    for (size_t i = 0; i < N; i++) {
        x[i] = 20.0f * random_float();
        keep[i] = (double)x[i];
        max = keep[i] > max ? keep[i] : max;
    }
    for (size_t i = 0; i < N; i++)
        want_sum += exp(keep[i] - max);
    for (size_t b = 0; b < BLOCKS; b++) {
        double block_sum = 0.0;
        most[b] = ref.softmax_block(x + b * BL_CACHE_BLOCK, BL_CACHE_BLOCK, sums[b]);
        for (size_t i = b * BL_CACHE_BLOCK; i < (b + 1) * BL_CACHE_BLOCK; i++) {
            assert_true(fabs((double)x[i] - exp(keep[i] - (double)most[b])) < 1e-6);
            block_sum += (double)x[i];
        }
        for (size_t l = 0; l < BL_LANES; l++)
            block_sum -= (double)sums[b][l];
        assert_true(fabs(block_sum) < 1e-5);
        if (b)
            ref.merge_rows(&most[0], sums[0], &most[b], sums[b], 1, BL_LANES);
    }
    for (size_t l = 1; l < BL_LANES; l++)
        sums[0][0] += sums[0][l];
    assert_true((double)most[0] == max);
    assert_true(fabs((double)sums[0][0] - want_sum) < 1e-5 * want_sum);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Several tokens of T5. */
static void bench_t5_gemm(const bl__kernels *k) {
    enum { ROWS = 2560, COLS = 6912, TOKENS = 32 };
    size_t tiles = bl__t2_tiles(ROWS), bytes = tiles * bl__t5_stride(COLS);
    uint8_t *w = aligned_alloc(64, bytes), *t2 = aligned_alloc(64, 2 * bl__t2_stride(COLS));
    int8_t *q = aligned_alloc(64, TOKENS * COLS);
    float *out = calloc((size_t)TOKENS * ROWS, sizeof *out), steps[TOKENS] = {0};
    int32_t sums[TOKENS] = {0};
    memset(w, 0x64, bytes);
    memset(q, 1, TOKENS * COLS);
    bl__q8 x = {.q = q, .stride = COLS, .step = steps, .sum = sums};
    for (size_t n = 2; n <= TOKENS; n *= 2) {
        double best = 1e9;
        for (int i = 0; i < 7; i++) {
            double start = seconds();
            if (k->t5_gemm)
                k->t5_gemm(w, ROWS, COLS, 0, tiles, &x, n, out, ROWS);
            for (size_t t = 0; t < tiles && !k->t5_gemm; t += 2) {
                k->t5_unpack(w, COLS, t, 2, t2);
                k->ternary_gemm(t2, ROWS - 16 * t, COLS, 0, 2, &x, n, out + 16 * t, ROWS);
            }
            double took = seconds() - start;
            best = took < best ? took : best;
        }
        printf("%-12s t5 %dx%d, %2zu tokens: %8.1f us, %6.1f Gop/s, %5.1f GB/s\n", k->level, ROWS,
               COLS, n, best * 1e6, 2e-9 * (double)(ROWS * COLS) * (double)n / best,
               1e-9 * (double)bytes / best);
    }
    free(w);
    free(t2);
    free(q);
    free(out);
}

/* One token of a denser layout, as a model calls it. */
static void bench_native(const bl__kernels *k, bool is_t5) {
    enum { ROWS = 2560, COLS = 6912 };
    size_t stride = is_t5 ? bl__t5_stride(COLS) : bl__b1_stride(COLS);
    size_t tiles = bl__t2_tiles(ROWS), bytes = tiles * stride;
    uint8_t *w = aligned_alloc(64, bytes), *t2 = aligned_alloc(64, 2 * bl__t2_stride(COLS));
    int8_t *q = aligned_alloc(64, COLS);
    float *out = calloc(ROWS, sizeof *out), step = 0;
    int32_t sum = 0;
    memset(w, 0x64, bytes);
    memset(q, 1, COLS);
    bl__q8 x = {.q = q, .stride = COLS, .step = &step, .sum = &sum};
    double best = 1e9;
    bool fused = (is_t5 ? k->t5_gemv : k->b1_gemv) != NULL;
    for (int i = 0; i < 7; i++) {
        double start = seconds();
        if (fused)
            (is_t5 ? k->t5_gemv : k->b1_gemv)(w, ROWS, COLS, 0, tiles, &x, out);
        for (size_t t = 0; t < tiles && !fused; t += 2) {
            (is_t5 ? k->t5_unpack : k->b1_unpack)(w, COLS, t, 2, t2);
            k->ternary_gemm(t2, ROWS - 16 * t, COLS, 0, 2, &x, 1, out + 16 * t, ROWS);
        }
        double took = seconds() - start;
        best = took < best ? took : best;
    }
    printf("%-12s %s %dx%d, %-13s %8.1f us, %6.1f Gop/s, %5.1f GB/s\n", k->level,
           is_t5 ? "t5" : "b1", ROWS, COLS, fused ? "1 token:" : "unpack, gemm:", best * 1e6,
           2e-9 * (double)(ROWS * COLS) / best, 1e-9 * (double)bytes / best);
    free(w);
    free(t2);
    free(q);
    free(out);
}

static void bench_ternary(const bl__kernels *k) {
    enum { ROWS = 2560, COLS = 6912, TOKENS = 64 };
    size_t bytes = bl__t2_tiles(ROWS) * bl__t2_stride(COLS), stride = COLS;
    uint8_t *w = aligned_alloc(64, bytes);
    int8_t *q = aligned_alloc(64, TOKENS * stride);
    float *out = calloc((size_t)TOKENS * ROWS, sizeof *out), steps[TOKENS] = {0};
    int32_t sums[TOKENS] = {0};
    memset(w, 0x55, bytes);
    memset(q, 1, TOKENS * stride);
    bl__q8 x = {.q = q, .stride = stride, .step = steps, .sum = sums};
    bench_native(k, true);
    bench_t5_gemm(k);
    bench_native(k, false);
    for (size_t n = 1; n <= TOKENS; n *= 8) {
        double best = 1e9;
        for (int i = 0; i < 7; i++) {
            double start = seconds();
            k->ternary_gemm(w, ROWS, COLS, 0, bl__t2_tiles(ROWS), &x, n, out, ROWS);
            double took = seconds() - start;
            best = took < best ? took : best;
        }
        printf("%-12s ternary_gemm %dx%d, %2zu tokens: %8.1f us, %6.1f Gop/s, %5.1f GB/s\n",
               k->level, ROWS, COLS, n, best * 1e6, 2e-9 * (double)(ROWS * COLS) * (double)n / best,
               1e-9 * (double)bytes / best);
    }
    free(w);
    free(q);
    free(out);
}

/* A head of 64 MiB and more, from memory. */
static void bench_halves(const bl__kernels *k) {
    enum { ROWS = 32768, COLS = 2560, TOKENS = 16 };
    size_t n = (size_t)ROWS * COLS;
    uint16_t *w = aligned_alloc(64, n * sizeof *w);
    float *x = calloc((size_t)TOKENS * COLS, sizeof *x), *out = calloc((size_t)TOKENS * ROWS, 4);
    for (size_t i = 0; i < n; i++)
        w[i] = (uint16_t)(0x3c00 + i % 64);
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (size_t t = 1; t <= TOKENS; t *= 4) {
            double best = 1e9;
            for (int i = 0; i < 5; i++) {
                double start = seconds();
                for (size_t r = 0; r < ROWS; r += 8)
                    (bf16 ? k->dot_rows_bf16 : k->dot_rows_f16)(w + r * COLS, COLS, 8, COLS, x,
                                                                COLS, t, out + r, ROWS);
                double took = seconds() - start;
                best = took < best ? took : best;
            }
            printf("%-12s dot_rows_%s %dx%d, %2zu tokens: %8.1f us, %6.1f GFLOP/s, %5.1f GB/s\n",
                   k->level, bf16 ? "bf16" : "f16", ROWS, COLS, t, best * 1e6,
                   2e-9 * (double)n * (double)t / best, 2e-9 * (double)n / best);
        }
    free(w);
    free(x);
    free(out);
}

static void bench_screen(const bl__kernels *k) {
    enum { ROWS = 65536, COLS = 2560, MOST = 32 };
    size_t bytes = ROWS / 16 * bl__screen_tile_bytes(COLS);
    uint8_t *tiles = aligned_alloc(64, bytes);
    int8_t *digits = calloc(COLS * MOST, 2);
    float *upper = calloc((size_t)ROWS * MOST, sizeof *upper);
    bl__screen_x x[MOST];
    memset(tiles, 1, bytes);
    for (uint32_t n_digits = 2; n_digits > 0; n_digits--)
        for (size_t n = 1; n <= MOST; n *= n < 4 ? 4 : 2) {
            double best = 1e9;
            for (size_t t = 0; t < n; t++)
                x[t] = (bl__screen_x){
                    .digits = digits + t * COLS * 2, .n_digits = n_digits, .step = 1};
            for (int i = 0; i < 5; i++) {
                double start = seconds();
                k->screen_rows(tiles, COLS, ROWS / 16, x, n, upper, ROWS);
                double took = seconds() - start;
                best = took < best ? took : best;
            }
            printf("%-12s screen_rows %dx%d, %2zu tokens of %u digits: %8.1f us, %5.1f GB/s, "
                   "%5.0f Gop/s\n",
                   k->level, ROWS, COLS, n, n_digits, best * 1e6, 1e-9 * (double)bytes / best,
                   2e-9 * ROWS * COLS * (double)(n * n_digits) / best);
        }
    free(tiles);
    free(digits);
    free(upper);
}

int main(int argc, char **argv) {
    bl__random_seed(&rng, 42);
    bl__kernels_for("ref", &ref);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        for_each_level(bench_ternary);
        for_each_level(bench_halves);
        for_each_level(bench_screen);
        return 0;
    }
    printf("kernel levels: %s\n", bl_kernel_levels());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize),  cmocka_unit_test(test_ternary),
        cmocka_unit_test(test_native),    cmocka_unit_test(test_dots),
        cmocka_unit_test(test_half_dots), cmocka_unit_test(test_weighted_sum),
        cmocka_unit_test(test_unpack),    cmocka_unit_test(test_exp),
        cmocka_unit_test(test_softmax),   cmocka_unit_test(test_floats),
        cmocka_unit_test(test_screen),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
