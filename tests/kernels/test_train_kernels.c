/* Checks the kernels of training: products against double precision and, for float32, bit for bit
 * against kernels/ref; loops bit for bit against ref; all tails, pages that must not be touched.
 * `kernels_train_kernels --bench` times products beside a chain of nothing but multiply-adds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/random.h"
#include "kernels/train_kernels.h"
#include "quant/quant.h"

static bl__random rng;

static float random_float(void) {
    return (float)(bl__random_f64(&rng) * 2.0 - 1.0);
}

/* Floats that end right before a page that must not be touched. */
typedef struct guarded {
    uint8_t *map;
    size_t map_bytes;
    float *data;
} guarded;

static guarded guarded_floats(size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = n * sizeof(float);
    size_t inner = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inner + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    mprotect(g.map + inner, page, PROT_NONE);
    g.data = (float *)(void *)(g.map + inner - bytes);
    for (size_t i = 0; i < n; i++)
        g.data[i] = random_float();
    return g;
}

static void guarded_free(guarded g) {
    munmap(g.map, g.map_bytes);
}

static size_t up(size_t n, size_t to) {
    return (n + to - 1) / to;
}

typedef struct product {
    size_t m, k, n;
    bool transposed_a; /* A packed as panels of A^T */
    bool transposed_b; /* B given as its transpose */
    bool accumulate;
} product;

static float operand(const bl__gemm *gemm, float x) {
    return gemm->group == 2 ? bl__bf16_to_f32(bl__f32_to_bf16(x)) : x;
}

/* Packs and multiplies a[m][k], b[k][n] (as given by p) into c[m][n]. */
static void run_product(const bl__gemm *gemm, const product *p, const float *a, const float *b,
                        float *c) {
    size_t units = up(p->k, gemm->group), b_panel = units * gemm->panel * 4;
    size_t m_panels = up(p->m, gemm->panel), n_panels = up(p->n, gemm->panel);
    guarded pa = guarded_floats((p->transposed_a ? m_panels * gemm->panel : p->m) * units);
    guarded pb = guarded_floats(n_panels * gemm->panel * units);
    if (p->transposed_b)
        gemm->pack_panels_t(b, p->k, p->k, p->n, pb.data, b_panel);
    else
        gemm->pack_panels(b, p->n, p->k, p->n, NULL, pb.data, b_panel);
    if (p->transposed_a)
        gemm->pack_panels(a, p->m, p->k, p->m, NULL, pa.data, b_panel);
    for (size_t i = 0; !p->transposed_a && i < p->m; i++)
        gemm->pack_row(a + i * p->k, p->k, 1.0f, pa.data + i * units);
    size_t rows = p->transposed_a ? gemm->panel : p->m;
    for (size_t i = 0; i < p->m; i += rows)
        for (size_t j = 0; j < n_panels; j++) {
            size_t m = p->m - i < rows ? p->m - i : rows, at = j * gemm->panel;
            size_t n = p->n - at < gemm->panel ? p->n - at : gemm->panel;
            size_t row = p->transposed_a ? 4 : units * 4;
            size_t unit = p->transposed_a ? gemm->panel * 4 : 4;
            gemm->multiply(pa.data + i * units, row, unit, pb.data + j * gemm->panel * units, units,
                           c + i * p->n + at, p->n, m, n, p->accumulate,
                           j + 1 < n_panels ? pb.data + (j + 1) * gemm->panel * units : NULL);
        }
    guarded_free(pa);
    guarded_free(pb);
}

static void check_product(const bl__gemm *gemm, const bl__gemm *ref, const product *p) {
    guarded a = guarded_floats(p->m * p->k), b = guarded_floats(p->k * p->n);
    guarded c = guarded_floats(p->m * p->n), want = guarded_floats(p->m * p->n);
    guarded before = guarded_floats(p->m * p->n);
    memcpy(want.data, c.data, p->m * p->n * sizeof(float));
    memcpy(before.data, c.data, p->m * p->n * sizeof(float));
    run_product(gemm, p, a.data, b.data, c.data);
    run_product(ref, p, a.data, b.data, want.data);
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            double sum = p->accumulate ? (double)before.data[i * p->n + j] : 0, size = fabs(sum);
            for (size_t k = 0; k < p->k; k++) {
                float x = p->transposed_a ? a.data[k * p->m + i] : a.data[i * p->k + k];
                float y = p->transposed_b ? b.data[j * p->k + k] : b.data[k * p->n + j];
                double term = (double)operand(gemm, x) * (double)operand(gemm, y);
                sum += term;
                size += fabs(term);
            }
            float found = c.data[i * p->n + j];
            if (!(fabs((double)found - sum) <= size * (double)(p->k + 2) * 0x1p-22))
                fail_msg("%s %zux%zux%zu: [%zu][%zu] is %.9g, expected %.9g", gemm->name, p->m,
                         p->k, p->n, i, j, (double)found, sum);
            if (gemm->group == 1)
                assert_memory_equal(&found, &want.data[i * p->n + j], sizeof found);
        }
    guarded_free(a);
    guarded_free(b);
    guarded_free(c);
    guarded_free(want);
    guarded_free(before);
}

static const char *const all_levels[] = {"ref",        "avx2", "avxvnni", "avx512vnni",
                                         "avx512bf16", "neon", "dotprod"};
enum { N_LEVELS = sizeof all_levels / sizeof *all_levels };

static void products_are_right_at_every_level(void **state) {
    (void)state;
    const size_t ms[] = {1, 2, 5, 7, 8, 15, 33}, ks[] = {1, 2, 3, 16, 37},
                 ns[] = {1, 15, 16, 31, 32, 33, 70};
    bl__train_kernels ref, table;
    assert_true(bl__train_kernels_for("ref", &ref));
    for (size_t l = 0; l < N_LEVELS; l++) {
        if (!bl__train_kernels_for(all_levels[l], &table))
            continue;
        for (size_t i = 0; i < 7 * 5 * 7 * 8; i++) {
            product p = {ms[i % 7],   ks[i / 7 % 5], ns[i / 35 % 7],
                         i / 245 & 1, i / 490 & 1,   i / 980 & 1};
            check_product(&table.float32, &ref.float32, &p);
            check_product(&table.bf16, &ref.bf16, &p);
        }
    }
}

/* ---- int8: blocks of 64 with a step each ---- */

enum { INT8_BLOCK = 64, INT8_UNITS = 18, MAX_BLOCKS = 5 };

typedef struct int8_product {
    product p;
    guarded a;                              /* [m][k], or [k][m] */
    guarded b;                              /* int8_t[k][n] */
    float factors[INT8_BLOCK * MAX_BLOCKS]; /* of A's k; the first one of all where A is rows */
} int8_product;

static float a_value(const int8_product *t, size_t i, size_t k) {
    const float *a = t->a.data;
    return t->p.transposed_a ? a[k * t->p.m + i] * t->factors[k]
                             : a[i * t->p.k + k] * t->factors[0];
}

/* Blocks of every kind: of large and of small values, of zeros, and of values that count as zeros.
 */
static int8_product make_int8(const product *p) {
    int8_product t = {
        .p = *p, .a = guarded_floats(p->m * p->k), .b = guarded_floats((p->k * p->n + 3) / 4)};
    int8_t *b = (int8_t *)(t.b.data + (p->k * p->n + 3) / 4) - p->k * p->n;
    for (size_t i = 0; i < p->k * p->n; i++)
        b[i] = (int8_t)bl__random_below(&rng, 256);
    for (size_t i = 0; i < INT8_BLOCK * MAX_BLOCKS; i++)
        t.factors[i] = random_float();
    for (size_t i = 0; i < p->m; i++)
        for (size_t k = 0; k < p->k; k++) {
            static const float sizes[] = {1.0f, 1e-20f, 0.0f, 3e18f, 1e-31f};
            t.a.data[p->transposed_a ? k * p->m + i : i * p->k + k] *=
                sizes[(i + k / INT8_BLOCK) % 5];
        }
    return t;
}

static const int8_t *b_of(const int8_product *t) {
    size_t n = t->p.k * t->p.n;
    return (const int8_t *)(t->b.data + (n + 3) / 4) - n;
}

static void run_int8(const bl__gemm *gemm, const int8_product *t, float *c) {
    const product *p = &t->p;
    size_t units = up(p->k, gemm->block) * gemm->block_units, b_panel = units * gemm->panel;
    size_t m_panels = up(p->m, gemm->panel), n_panels = up(p->n, gemm->panel);
    guarded pa = guarded_floats((p->transposed_a ? m_panels * gemm->panel : p->m) * units);
    guarded pb = guarded_floats(n_panels * b_panel);
    for (size_t k = 0; k < p->k; k += 16) { /* pieces, as activations come */
        size_t at = k / INT8_BLOCK * INT8_UNITS + k % INT8_BLOCK / 4;
        gemm->pack_panels_i8(b_of(t) + k * p->n, p->n, p->k - k < 16 ? p->k - k : 16, p->n,
                             pb.data + at * gemm->panel, b_panel * 4);
    }
    if (p->transposed_a)
        gemm->pack_panels(t->a.data, p->m, p->k, p->m, t->factors, pa.data, b_panel * 4);
    for (size_t i = 0; !p->transposed_a && i < p->m; i++)
        gemm->pack_row(t->a.data + i * p->k, p->k, t->factors[0], pa.data + i * units);
    size_t rows = p->transposed_a ? gemm->panel : p->m;
    for (size_t i = 0; i < p->m; i += rows)
        for (size_t j = 0; j < n_panels; j++) {
            size_t m = p->m - i < rows ? p->m - i : rows, at = j * gemm->panel;
            size_t n = p->n - at < gemm->panel ? p->n - at : gemm->panel;
            gemm->multiply(pa.data + i * units, p->transposed_a ? 4 : units * 4,
                           p->transposed_a ? gemm->panel * 4 : 4, pb.data + j * b_panel, units,
                           c + i * p->n + at, p->n, m, n, p->accumulate,
                           j + 1 < n_panels ? pb.data + (j + 1) * b_panel : NULL);
        }
    guarded_free(pa);
    guarded_free(pb);
}

/* One element of C by the contract's words, a block after the other. */
static float int8_element(const int8_product *t, size_t i, size_t j, float c) {
    for (size_t at = 0; at < t->p.k; at += INT8_BLOCK) {
        size_t n = t->p.k - at < INT8_BLOCK ? t->p.k - at : INT8_BLOCK;
        float max = 0.0f, step;
        int32_t sum = 0;
        for (size_t k = at; k < at + n; k++)
            max = fmaxf(max, fabsf(a_value(t, i, k)));
        for (size_t k = at; max >= 1e-30f && k < at + n; k++)
            sum += (int32_t)rintf(a_value(t, i, k) * (127.0f / max)) * b_of(t)[k * t->p.n + j];
        step = max >= 1e-30f ? max / 127.0f : 0.0f;
        c = fmaf((float)sum, step, c);
    }
    return c;
}

static void check_int8(const bl__gemm *gemm, const product *p) {
    int8_product t = make_int8(p);
    guarded c = guarded_floats(p->m * p->n), before = guarded_floats(p->m * p->n);
    memcpy(before.data, c.data, p->m * p->n * sizeof(float));
    run_int8(gemm, &t, c.data);
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            float from = p->accumulate ? before.data[i * p->n + j] : 0.0f;
            float want = int8_element(&t, i, j, from), found = c.data[i * p->n + j];
            if (memcmp(&found, &want, sizeof found) != 0)
                fail_msg("%s %zux%zux%zu: [%zu][%zu] is %.9g, expected %.9g", gemm->name, p->m,
                         p->k, p->n, i, j, (double)found, (double)want);
        }
    guarded_free(t.a);
    guarded_free(t.b);
    guarded_free(c);
    guarded_free(before);
}

static void int8_products_are_those_of_the_contract(void **state) {
    (void)state;
    const size_t ms[] = {1, 2, 5, 8, 15, 33, 150}, ks[] = {1, 4, 37, 63, 64, 65, 130, 300},
                 ns[] = {1, 15, 16, 31, 32, 33, 70};
    for (size_t l = 0; l < N_LEVELS; l++) {
        bl__train_kernels table;
        if (!bl__train_kernels_for(all_levels[l], &table))
            continue;
        for (size_t i = 0; i < 7 * 8 * 7 * 4; i++) {
            product p = {ms[i % 7], ks[i / 7 % 8], ns[i / 56 % 7], i / 392 & 1, false, i / 784 & 1};
            check_int8(&table.int8, &p);
        }
    }
}

/* What is not finite shows in every element that it is part of, and in no other. */
static void int8_products_keep_what_is_not_finite(void **state) {
    (void)state;
    static const float values[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t l = 0; l < N_LEVELS; l++) {
        bl__train_kernels table;
        for (size_t i = 0; i < 8 && bl__train_kernels_for(all_levels[l], &table); i++) {
            product p = {140, 300, 33, i / 4, false, true};
            int8_product t = make_int8(&p);
            guarded c = guarded_floats(p.m * p.n);
            t.a.data[p.transposed_a ? 100 * p.m + 4 : 4 * p.k + 100] = values[i % 4];
            run_int8(&table.int8, &t, c.data);
            for (size_t at = 0; at < p.m * p.n; at++)
                assert_true((bool)isnan(c.data[at]) == (at / p.n == 4));
            guarded_free(t.a);
            guarded_free(t.b);
            guarded_free(c);
        }
    }
}

/* ---- blocks of scores ---- */

enum { SCORE_ROWS = 9, SCORE_KEYS = 101 };

/* A block of scores and all that it points at. */
typedef struct scores {
    bl__score_block block;
    guarded scores, grads, rows, p_panels, ds_panels;
    size_t first[SCORE_ROWS], end[SCORE_ROWS];
    float log_sums[SCORE_ROWS], factors[SCORE_ROWS], dots[SCORE_ROWS];
} scores;

static void make_scores(const bl__gemm *gemm, size_t n_rows, size_t n_keys, scores *s) {
    size_t panels = up(n_keys, gemm->panel), panel_units = up(n_rows, gemm->group) * gemm->panel;
    *s = (scores){.scores = guarded_floats(n_rows * n_keys),
                  .grads = guarded_floats(n_rows * n_keys),
                  .rows = guarded_floats(n_rows * up(n_keys, gemm->group)),
                  .p_panels = guarded_floats(panels * panel_units),
                  .ds_panels = guarded_floats(panels * panel_units)};
    for (size_t i = 0; i < n_rows; i++) {
        s->end[i] = 1 + bl__random_below(&rng, n_keys);
        s->first[i] = bl__random_below(&rng, s->end[i]);
        s->log_sums[i] = 2 + random_float();
        s->dots[i] = random_float();
    }
    s->block = (bl__score_block){.scores = s->scores.data,
                                 .grads = s->grads.data,
                                 .stride = n_keys,
                                 .n_rows = n_rows,
                                 .n_keys = n_keys,
                                 .first = s->first,
                                 .end = s->end,
                                 .scale = 1.7f,
                                 .log_sums = s->log_sums,
                                 .factors = s->factors,
                                 .dots = s->dots,
                                 .rows = s->rows.data,
                                 .row_bytes = up(n_keys, gemm->group) * 4,
                                 .p_panels = s->p_panels.data,
                                 .ds_panels = s->ds_panels.data,
                                 .panel_bytes = panel_units * 4};
}

static void free_scores(scores *s) {
    guarded_free(s->scores);
    guarded_free(s->grads);
    guarded_free(s->rows);
    guarded_free(s->p_panels);
    guarded_free(s->ds_panels);
}

static float unit_value(const bl__gemm *gemm, const void *unit, size_t index) {
    uint16_t half;
    float value;
    if (gemm->group == 1) {
        memcpy(&value, unit, sizeof value);
        return value;
    }
    memcpy(&half, (const char *)unit + 2 * index, sizeof half);
    return bl__bf16_to_f32(half);
}

static float row_value(const bl__gemm *gemm, const scores *s, size_t i, size_t key) {
    return unit_value(gemm,
                      (const char *)s->block.rows + i * s->block.row_bytes + key / gemm->group * 4,
                      key % gemm->group);
}

static float panel_value(const bl__gemm *gemm, const scores *s, const void *panels, size_t i,
                         size_t key) {
    size_t unit = i / gemm->group * gemm->panel + key % gemm->panel;
    return unit_value(gemm,
                      (const char *)panels + key / gemm->panel * s->block.panel_bytes + unit * 4,
                      i % gemm->group);
}

static void check_close(const bl__gemm *gemm, const char *what, float found, double want) {
    double bound = (gemm->group == 2 ? 0x1p-8 : 1e-5) * fabs(want) + 1e-6;
    if (!(fabs((double)found - want) <= bound))
        fail_msg("%s, %s: %.9g, expected %.9g", gemm->name, what, (double)found, want);
}

static void check_softmax(const bl__gemm *gemm, size_t n_rows, size_t n_keys) {
    scores s;
    make_scores(gemm, n_rows, n_keys, &s);
    double x[SCORE_ROWS][SCORE_KEYS];
    for (size_t i = 0; i < n_rows; i++)
        for (size_t key = 0; key < n_keys; key++)
            x[i][key] = (double)s.scores.data[i * n_keys + key] * 1.7;
    gemm->softmax(&s.block);
    for (size_t i = 0; i < n_rows; i++) {
        double sum = 0, max = x[i][s.first[i]];
        for (size_t key = s.first[i]; key < s.end[i]; key++)
            max = fmax(max, x[i][key]);
        for (size_t key = 0; key < up(n_keys, gemm->group) * gemm->group; key++) {
            bool seen = key >= s.first[i] && key < s.end[i];
            double want = seen ? exp(x[i][key] - max) : 0;
            sum += want;
            check_close(gemm, "p", row_value(gemm, &s, i, key), want);
        }
        check_close(gemm, "log of the sum", s.log_sums[i], max + log(sum));
        check_close(gemm, "1 / sum", s.factors[i], 1 / sum);
    }
    free_scores(&s);
}

static void check_softmax_backward(const bl__gemm *gemm, size_t n_rows, size_t n_keys) {
    scores s;
    make_scores(gemm, n_rows, n_keys, &s);
    double p[SCORE_ROWS + 1][SCORE_KEYS + 32] = {{0}}, ds[SCORE_ROWS + 1][SCORE_KEYS + 32] = {{0}};
    for (size_t i = 0; i < n_rows; i++)
        for (size_t key = s.first[i]; key < s.end[i]; key++) {
            size_t at = i * n_keys + key;
            p[i][key] = exp((double)s.scores.data[at] * 1.7 - (double)s.log_sums[i]);
            ds[i][key] = p[i][key] * ((double)s.grads.data[at] - (double)s.dots[i]) * 1.7;
        }
    gemm->softmax_backward(&s.block);
    for (size_t i = 0; i < up(n_rows, gemm->group) * gemm->group; i++)
        for (size_t key = 0; key < up(n_keys, gemm->panel) * gemm->panel; key++) {
            check_close(gemm, "P", panel_value(gemm, &s, s.block.p_panels, i, key), p[i][key]);
            check_close(gemm, "dS", panel_value(gemm, &s, s.block.ds_panels, i, key), ds[i][key]);
            if (i < n_rows && key < up(n_keys, gemm->group) * gemm->group)
                check_close(gemm, "dS of a row", row_value(gemm, &s, i, key), ds[i][key]);
        }
    free_scores(&s);
}

static void scores_are_right_at_every_level(void **state) {
    (void)state;
    const size_t keys[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 70, 97, SCORE_KEYS};
    for (size_t l = 0; l < N_LEVELS; l++) {
        bl__train_kernels table;
        if (!bl__train_kernels_for(all_levels[l], &table))
            continue;
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            for (size_t n_rows = 1; n_rows <= SCORE_ROWS; n_rows++) {
                check_softmax(&table.float32, n_rows, keys[i]);
                check_softmax(&table.bf16, n_rows, keys[i]);
                check_softmax_backward(&table.float32, n_rows, keys[i]);
                check_softmax_backward(&table.bf16, n_rows, keys[i]);
            }
    }
}

/* ---- loops: the same bits as ref on every tail length ---- */

enum { MAX_N = 70, ARRAYS = 6 };

/* What a loop reads and writes, ending at a page that must not be touched. */
typedef struct arrays {
    guarded x[ARRAYS];
    float scalar;
    double wide;
} arrays;

static void copy_arrays(const arrays *from, arrays *to, size_t n) {
    for (size_t i = 0; i < ARRAYS; i++)
        memcpy(to->x[i].data, from->x[i].data, n * sizeof(float));
}

static void run_loop(const bl__train_kernels *k, int which, size_t n, arrays *a) {
    static const bl__adamw_step step = {0.7f, 0.99f, 0.1f, 0.95f, 0.05f, 1e-2f, 0.3f, 1e-8f};
    float *x0 = a->x[0].data, *x1 = a->x[1].data, *x2 = a->x[2].data, *x3 = a->x[3].data,
          *x4 = a->x[4].data;
    a->scalar = 0;
    a->wide = 0;
    switch (which) {
    case 0:
        a->scalar = k->max(x0, n);
        break;
    case 1:
        a->wide = k->sum_squares(x0, n);
        break;
    case 2:
        a->scalar = k->dot(x0, x1, n);
        break;
    case 3:
        a->scalar = k->exp_scaled(x0, n, 3.0f, 0.5f, x1);
        break;
    case 4:
        k->softmax_backward(x0, x1, n, 0.3f, 0.2f);
        break;
    case 5:
        k->scale(x0, n, 1.7f);
        break;
    case 6:
        k->add(x0, x1, n);
        k->add_to(x0, x1, n, x2);
        break;
    case 7:
        k->norm_apply(x0, x1, 1.3f, n, x2);
        break;
    case 8:
        k->norm_backward(x0, x1, x2, 1.3f, n, false, x3, x4);
        break;
    case 9:
        k->norm_backward(x0, x1, x2, 1.3f, n, true, x3, x4);
        break;
    case 10:
        k->relu2_glu(x0, x1, n, x2);
        break;
    case 11:
        k->silu_glu(x0, x1, n, x2);
        break;
    case 12:
        k->relu2_glu_backward(x0, x1, x2, n, x3, x4);
        break;
    case 13:
        k->silu_glu_backward(x0, x1, x2, n, x3, x4);
        break;
    case 14:
        k->rope(x0, n / 2, x1, x2, -1.0f);
        break;
    case 15:
        a->wide = k->sum(x0, n);
        break;
    case 16:
        k->ternary_codes(x0, n, 1.4f, (int8_t *)x1);
        break;
    case 17:
        k->binary_codes(x0, n, 0.1f, (int8_t *)x1);
        break;
    case 18:
        k->layer_norm_backward(x0, x1, 0.2f, 1.3f, n, false, x2);
        break;
    case 19:
        k->layer_norm_backward(x0, x1, 0.2f, 1.3f, n, true, x2);
        break;
    default:
        for (size_t i = 0; i < n; i++)
            x3[i] = fabsf(x3[i]);
        k->adamw(x0, x1, x2, x3, n, &step);
    }
}

static void loops_have_the_bits_of_ref(void **state) {
    (void)state;
    enum { LOOPS = 21 };
    bl__train_kernels ref, table;
    assert_true(bl__train_kernels_for("ref", &ref));
    for (size_t l = 1; l < N_LEVELS; l++)
        for (size_t n = 1; n < MAX_N && bl__train_kernels_for(all_levels[l], &table); n++) {
            arrays start, want, found;
            for (size_t i = 0; i < ARRAYS; i++) {
                start.x[i] = guarded_floats(n);
                want.x[i] = guarded_floats(n);
                found.x[i] = guarded_floats(n);
            }
            for (int which = 0; which < LOOPS; which++) {
                copy_arrays(&start, &want, n);
                copy_arrays(&start, &found, n);
                run_loop(&ref, which, n, &want);
                run_loop(&table, which, n, &found);
                bool same = memcmp(&want.scalar, &found.scalar, sizeof want.scalar) == 0 &&
                            memcmp(&want.wide, &found.wide, sizeof want.wide) == 0;
                for (size_t i = 0; i < ARRAYS; i++)
                    same &= memcmp(want.x[i].data, found.x[i].data, n * sizeof(float)) == 0;
                if (!same)
                    fail_msg("%s: loop %d differs from ref for n = %zu", all_levels[l], which, n);
            }
            for (size_t i = 0; i < ARRAYS; i++) {
                guarded_free(start.x[i]);
                guarded_free(want.x[i]);
                guarded_free(found.x[i]);
            }
        }
}

/* Codes packed as a tile come back by the layout's own unpacking, and changes are counted. */
static void tiles_are_those_of_the_layout(void **state) {
    (void)state;
    for (size_t l = 0; l < N_LEVELS; l++) {
        bl__train_kernels table;
        if (!bl__train_kernels_for(all_levels[l], &table))
            continue;
        for (size_t cols = 1; cols < MAX_N; cols++) {
            int8_t codes[16][80] = {{0}};
            uint8_t tile[64 + 64 * 5] = {0};
            float row[80], one = 1.0f;
            for (size_t r = 0; r < 16; r++) {
                for (size_t c = 0; c < cols; c++)
                    codes[r][c] = (int8_t)(bl__random_below(&rng, 3) - 1);
                memcpy(tile + 4 * r, &one, sizeof one);
                table.pack_t2(codes[r], cols, r, tile + 64);
                assert_int_equal(table.pack_t2(codes[r], cols, r, tile + 64), 0);
                codes[r][cols - 1] = (int8_t)(codes[r][cols - 1] == 1 ? -1 : 1);
                assert_int_equal(table.pack_t2(codes[r], cols, r, tile + 64), 1);
            }
            for (size_t r = 0; r < 16; r++) {
                bl__layout_unpack_row(BL_LAYOUT_T2, tile, 16, cols, r, row);
                assert_true(bl__layout_check_row(BL_LAYOUT_T2, tile, 16, cols, r));
                for (size_t c = 0; c < cols; c++)
                    assert_true(row[c] == (float)codes[r][c]);
            }
        }
    }
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The drivers' loops in short: B panel by panel, A in strips that stay in the first cache. */
static double time_product(const bl__gemm *gemm, size_t m, size_t k, size_t n, bool transposed_a) {
    size_t units = k / gemm->block * gemm->block_units;
    size_t rows = transposed_a ? gemm->panel : 64, row = transposed_a ? 4 : units * 4;
    size_t unit = transposed_a ? gemm->panel * 4 : 4, b_panel = units * gemm->panel;
    size_t block = 256 / gemm->block_units * gemm->block_units;
    guarded x = guarded_floats(m * k), y = guarded_floats(k * n), c = guarded_floats(m * n);
    guarded a = guarded_floats(m * units), b = guarded_floats(n * units);
    for (size_t i = 0; !transposed_a && i < m; i++)
        gemm->pack_row(x.data + i * k, k, 1.0f, a.data + i * units);
    if (transposed_a)
        gemm->pack_panels(x.data, m, k, m, NULL, a.data, b_panel * 4);
    if (gemm->group == 4)
        gemm->pack_panels_i8((const int8_t *)y.data, n, k, n, b.data, b_panel * 4);
    else
        gemm->pack_panels(y.data, n, k, n, NULL, b.data, b_panel * 4);
    double best = 1e9;
    for (int r = 0; r < 20; r++) {
        double t = seconds();
        for (size_t i = 0; i < m; i += rows)
            for (size_t kb = 0; kb < units; kb += block)
                for (size_t j = 0; j < n; j += gemm->panel)
                    gemm->multiply((char *)a.data + i * units * 4 + kb * unit, row, unit,
                                   b.data + j * units + kb * gemm->panel,
                                   units - kb < block ? units - kb : block, c.data + i * n + j, n,
                                   rows, gemm->panel, kb > 0,
                                   b.data + (j + gemm->panel) * units + kb * gemm->panel);
        t = seconds() - t;
        best = t < best ? t : best;
    }
    guarded_free(a);
    guarded_free(b);
    guarded_free(c);
    guarded_free(x);
    guarded_free(y);
    return 2.0 * (double)m * (double)k * (double)n / best * 1e-9;
}

static void bench_gemm(const bl__gemm *gemm) {
    printf("%-18s", gemm->name);
    printf(" 4096x256x512 %6.1f", time_product(gemm, 4096, 256, 512, false));
    printf("  4096x512x256 %6.1f", time_product(gemm, 4096, 512, 256, false));
    printf("  4096x1536x512 %6.1f", time_product(gemm, 4096, 1536, 512, false));
    printf("  256x4096x512 %6.1f Gop/s\n", time_product(gemm, 256, 4096, 512, true));
}

static void bench(void) {
    for (size_t l = 1; l < N_LEVELS; l++) {
        bl__train_kernels table;
        if (!bl__train_kernels_for(all_levels[l], &table))
            continue;
        bench_gemm(table.native_bf16 ? &table.bf16 : &table.float32);
        if (!table.native_bf16) /* whose level has the int8 products of the one below */
            bench_gemm(&table.int8);
    }
}

int main(int argc, char **argv) {
    bl__random_seed(&rng, 5);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right_at_every_level),
        cmocka_unit_test(int8_products_are_those_of_the_contract),
        cmocka_unit_test(int8_products_keep_what_is_not_finite),
        cmocka_unit_test(scores_are_right_at_every_level),
        cmocka_unit_test(loops_have_the_bits_of_ref),
        cmocka_unit_test(tiles_are_those_of_the_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
