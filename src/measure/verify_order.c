/* Owns telling x86 from ARM order in I2_S files, which carry no mark of it. Must not know what is
 * done about it.
 *
 * Read in the wrong order, a matrix has the right weights in the wrong columns: blocks of 16
 * columns change places within each 128, so no histogram shows it. But columns are inputs, and what
 * makes an input is stored elsewhere, in an order that cannot be mistaken: the norm in front of the
 * matrix has a weight for it, and the matrices that wrote it have a row. Trained models agree with
 * themselves: an input of small weights in its norm, or of a row with few weights, is an input
 * whose column has unusually many or few weights that are not zero.
 *
 * So each pair (counts by column, what is known of the inputs) gives a rank correlation, r, and
 * S = sum of n r^2 over all pairs. Where the 8 blocks of every 128 columns go is a permutation; S
 * is computed for the one that is right if the file is as x86 writes it, for the one that is right
 * if it is as ARM does, and for thousands at random, whose mean and deviation say what chance
 * gives. A file without structure (random weights) stands out in neither order. */
#include "measure/verify_order.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"

enum { BLOCKS = 8, BLOCK_COLS = 16, GROUP_COLS = 128, N_RANDOM = 4096, SEED = 1, NAME_BYTES = 64 };

/* The sums of products over all groups of block a of x with block b of y, both with mean 0 and
 * variance 1: any permutation of blocks has its correlation in these. */
typedef struct relation {
    double n;
    double product[BLOCKS][BLOCKS];
} relation;

typedef struct scene {
    const bl__gguf *gguf;
    const bl__tensor_stats *stats;
    relation *relations;
    size_t n_relations, cap;
    bool no_memory;
} scene;

typedef struct sized {
    double value;
    size_t place;
} sized;

static int compare_sized(const void *a, const void *b) {
    double x = ((const sized *)a)->value, y = ((const sized *)b)->value;
    return (x > y) - (x < y);
}

/* x[n] become their ranks, equal values sharing the mean of theirs, with mean 0 and variance 1.
 * False when all are equal. order: sized[n]. */
static bool standardize(double *x, size_t n, sized *order) {
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        order[i] = (sized){x[i], i};
    qsort(order, n, sizeof *order, compare_sized);
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && !(order[end].value > order[i].value))
            end++;
        double rank = 0.5 * (double)(i + end) - 0.5 * (double)n;
        for (size_t k = i; k < end; k++)
            x[order[k].place] = rank;
        squares += rank * rank * (double)(end - i);
    }
    if (!(squares > 0))
        return false;
    double factor = 1 / sqrt(squares / (double)n);
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
    return true;
}

static const bl__gguf_tensor *find_tensor(const scene *s, size_t layer, const char *name) {
    char text[NAME_BYTES];
    snprintf(text, sizeof text, "blk.%zu.%s.weight", layer, name);
    return bl__gguf_find_tensor(s->gguf, text);
}

static const bl__tensor_stats *stats_of(const scene *s, const bl__gguf_tensor *t) {
    return &s->stats[t - s->gguf->tensors];
}

/* Adds the relation of x[n] and y[n], which are overwritten. */
static void add_relation(scene *s, double *x, double *y, size_t n, sized *order) {
    if (!standardize(x, n, order) || !standardize(y, n, order))
        return;
    if (s->n_relations == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        relation *grown = bl__realloc_array(s->relations, cap, sizeof *grown);
        if (!grown) {
            s->no_memory = true;
            return;
        }
        s->relations = grown;
        s->cap = cap;
    }
    relation *r = &s->relations[s->n_relations++];
    *r = (relation){.n = (double)n};
    for (size_t g = 0; g < n; g += GROUP_COLS)
        for (size_t a = 0; a < BLOCKS; a++)
            for (size_t b = 0; b < BLOCKS; b++)
                for (size_t k = 0; k < BLOCK_COLS; k++)
                    r->product[a][b] += x[g + a * BLOCK_COLS + k] * y[g + b * BLOCK_COLS + k];
}

/* What is known of n inputs: the sizes of a norm's weights, or the sum of what rows hold. */
typedef struct source {
    const bl__gguf_tensor *norm, *rows[2];
    size_t repeat, head_dim; /* each head of rows[0] serves `repeat` heads of inputs; 0: one */
} source;

/* False when the source does not fit. */
static bool fill_source(const scene *s, const source *from, size_t n, double *y) {
    if (from->norm) {
        if (from->norm->layout != BL_LAYOUT_F32 || from->norm->rows != 1 || from->norm->cols != n)
            return false;
        bl__layout_unpack_row(BL_LAYOUT_F32, from->norm->data, 1, n, 0, (float *)(void *)y);
        for (size_t i = n; i-- > 0;) { /* from the end: floats become doubles in place */
            float weight;
            memcpy(&weight, (const char *)y + i * sizeof weight, sizeof weight);
            y[i] = fabs((double)weight);
        }
        return true;
    }
    memset(y, 0, n * sizeof *y);
    for (size_t k = 0; k < 2; k++) {
        const bl__gguf_tensor *t = from->rows[k];
        const uint32_t *counts = t ? stats_of(s, t)->row_counts : NULL;
        if (!t)
            continue;
        if (!counts || t->rows * (from->repeat ? from->repeat : 1) != n)
            return false;
        for (size_t i = 0; i < n; i++) {
            size_t head = from->head_dim ? i / from->head_dim / from->repeat : 0;
            y[i] += counts[from->head_dim ? head * from->head_dim + i % from->head_dim : i];
        }
    }
    return from->rows[0] != NULL;
}

static void relate(scene *s, const bl__gguf_tensor *to, const source *from) {
    if (!to || to->layout != BL_LAYOUT_I2_S || to->cols % GROUP_COLS || s->no_memory)
        return;
    const uint32_t *counts = stats_of(s, to)->col_counts;
    size_t n = to->cols;
    double *x = bl__malloc_array(n, sizeof *x), *y = bl__malloc_array(n, sizeof *y);
    sized *order = bl__malloc_array(n, sizeof *order);
    if (!x || !y || !order) {
        s->no_memory = true;
    } else if (counts && fill_source(s, from, n, y)) {
        for (size_t i = 0; i < n; i++)
            x[i] = counts[i];
        add_relation(s, x, y, n, order);
    }
    bl__free(x);
    bl__free(y);
    bl__free(order);
}

/* 0 when the file does not say. */
static uint32_t count_kv_heads(const bl__gguf *gguf) {
    char key[NAME_BYTES];
    bl__string name = {.data = ""};
    uint32_t count = 0;
    (void)bl__gguf_get_string(gguf, "general.architecture", false, &name, NULL);
    snprintf(key, sizeof key, "%.*s.attention.head_count_kv", (int)(name.len < 32 ? name.len : 32),
             name.data);
    (void)bl__gguf_get_u32(gguf, key, false, &count, NULL);
    return count;
}

static void relate_layer(scene *s, size_t layer) {
    const bl__gguf_tensor *o = find_tensor(s, layer, "attn_output"),
                          *down = find_tensor(s, layer, "ffn_down"),
                          *gate = find_tensor(s, layer, "ffn_gate"),
                          *up = find_tensor(s, layer, "ffn_up"),
                          *v = find_tensor(s, layer, "attn_v");
    static const char *const readers[] = {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"};
    static const char *const norms[] = {"attn_norm", "ffn_norm"};
    for (size_t i = 0; i < 5; i++) {
        const bl__gguf_tensor *norm = find_tensor(s, layer, norms[i > 2]);
        const bl__gguf_tensor *to = find_tensor(s, layer, readers[i]);
        if (norm)
            relate(s, to, &(source){.norm = norm});
        if (o && down)
            relate(s, to, &(source){.rows = {o, down}});
    }
    const source inner[] = {
        {.norm = find_tensor(s, layer, "ffn_sub_norm")}, {.rows = {gate}}, {.rows = {up}}};
    for (size_t i = 0; i < 3; i++)
        if (inner[i].norm || inner[i].rows[0])
            relate(s, down, &inner[i]);
    const bl__gguf_tensor *sub_norm = find_tensor(s, layer, "attn_sub_norm");
    if (sub_norm)
        relate(s, o, &(source){.norm = sub_norm});
    uint32_t kv_heads = count_kv_heads(s->gguf);
    if (o && v && kv_heads && v->rows % kv_heads == 0 && o->cols % v->rows == 0)
        relate(s, o,
               &(source){.rows = {v}, .repeat = o->cols / v->rows, .head_dim = v->rows / kv_heads});
}

/* S for the blocks of x as places[] says: block b of the inputs is read where places[b] lies. */
static double strength(const scene *s, const uint8_t places[BLOCKS]) {
    double sum = 0;
    for (size_t i = 0; i < s->n_relations; i++) {
        const relation *r = &s->relations[i];
        double product = 0;
        for (size_t b = 0; b < BLOCKS; b++)
            product += r->product[places[b]][b];
        sum += product * product / r->n;
    }
    return sum;
}

static void weigh(const scene *s, bl__order_evidence *out) {
    /* Block b = 4h + g of 16 columns as ARM packs them, h the half of the group and g the place in
     * the byte, is unpacked to block 2g + h by the x86 rule. */
    static const uint8_t x86[BLOCKS] = {0, 1, 2, 3, 4, 5, 6, 7},
                         arm[BLOCKS] = {0, 2, 4, 6, 1, 3, 5, 7};
    double sum = 0, squares = 0;
    bl__random random;
    bl__random_seed(&random, SEED);
    for (size_t i = 0; i < N_RANDOM; i++) {
        uint8_t places[BLOCKS];
        memcpy(places, x86, sizeof places);
        for (size_t k = BLOCKS; k > 1; k--) {
            size_t other = (size_t)bl__random_below(&random, k);
            uint8_t swap = places[k - 1];
            places[k - 1] = places[other];
            places[other] = swap;
        }
        double value = strength(s, places);
        sum += value;
        squares += value * value;
    }
    double mean = sum / N_RANDOM, variance = squares / N_RANDOM - mean * mean;
    double deviation = sqrt(variance > 0 ? variance : 0);
    out->n_relations = s->n_relations;
    if (deviation > 0) {
        out->x86 = (strength(s, x86) - mean) / deviation;
        out->arm = (strength(s, arm) - mean) / deviation;
    }
}

bl__order_evidence bl__order_weigh(const bl__gguf *gguf, const bl__tensor_stats *stats,
                                   bool *no_memory) {
    scene s = {.gguf = gguf, .stats = stats};
    bl__order_evidence evidence = {0};
    for (size_t layer = 0; !s.no_memory && find_tensor(&s, layer, "attn_q"); layer++)
        relate_layer(&s, layer);
    if (s.n_relations && !s.no_memory)
        weigh(&s, &evidence);
    bl__free(s.relations);
    *no_memory = s.no_memory;
    return evidence;
}
