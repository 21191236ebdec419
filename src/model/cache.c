/* Owns where keys and values lie in pages and how they are rounded. Must not know whose pages are
 * which, or what attention does with them. */
#include "model/cache.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/half.h"

/* Bytes of n cells, a multiple of BL_CACHE_COLS. */
static size_t cells_bytes(bl_cache_type type, size_t n) {
    return type == BL_CACHE_F32   ? 4 * n
           : type == BL_CACHE_F16 ? 2 * n
           : type == BL_CACHE_I8  ? n
                                  : n / 2;
}

static size_t whole_lines(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

void bl__cache_layout(bl__cache *cache, const bl__hparams *h, bl_cache_type type, size_t n_pages,
                      bl__arena *arena) {
    size_t width = (h->head_dim + BL_CACHE_COLS - 1) / BL_CACHE_COLS * BL_CACHE_COLS, n_parts = 0;
    if (!bl__mul_size((size_t)h->n_layers * h->n_kv_heads, n_pages, &n_parts))
        arena->overflowed = true;
    *cache = (bl__cache){.h = h, .type = type, .n_pages = n_pages, .width = width};
    cache->n_groups = type == BL_CACHE_I8 ? 1 : type == BL_CACHE_I4 ? width / BL_CACHE_COLS : 0;
    cache->group_dim = type == BL_CACHE_I4 ? BL_CACHE_COLS : width;
    cache->key_stride = cells_bytes(type, BL_CACHE_BLOCK);
    cache->value_stride = cells_bytes(type, width);
    size_t steps = BL_CACHE_BLOCK * cache->n_groups * sizeof(uint16_t);
    cache->values_at = whole_lines(h->head_dim * cache->key_stride);
    cache->key_steps_at = cache->values_at + whole_lines(BL_CACHE_BLOCK * cache->value_stride);
    cache->value_steps_at = cache->key_steps_at + steps;
    cache->part_bytes = cache->value_steps_at + steps;
    cache->parts = bl__arena_alloc(arena, n_parts, cache->part_bytes);
    /* A text's first token touches every head's stream. In huge pages of the system that clears
     * megabytes for each of them, most of a second, and reading gains nothing from them. */
    if (cache->parts)
        bl__pages_scatter(cache->parts, n_parts * cache->part_bytes);
}

uint64_t bl__cache_position_bytes(const bl__cache *cache) {
    const bl__hparams *h = cache->h;
    uint64_t keys = (uint64_t)h->head_dim * cache->key_stride / BL_CACHE_BLOCK;
    uint64_t steps = 2 * cache->n_groups * sizeof(uint16_t);
    return (uint64_t)h->n_layers * h->n_kv_heads * (keys + cache->value_stride + steps);
}

bl__cache_part bl__cache_at(const bl__cache *cache, size_t page, size_t layer, size_t kv_head) {
    size_t i = (layer * cache->h->n_kv_heads + kv_head) * cache->n_pages + page;
    uint8_t *part = cache->parts + i * cache->part_bytes;
    return (bl__cache_part){part, part + cache->values_at,
                            (uint16_t *)(void *)(part + cache->key_steps_at),
                            (uint16_t *)(void *)(part + cache->value_steps_at)};
}

void bl__cache_copy_page(bl__cache *cache, size_t from, size_t to) {
    size_t n = (size_t)cache->h->n_layers * cache->h->n_kv_heads;
    for (size_t i = 0; i < n; i++) {
        uint8_t *parts = cache->parts + i * cache->n_pages * cache->part_bytes;
        memcpy(parts + to * cache->part_bytes, parts + from * cache->part_bytes, cache->part_bytes);
    }
}

/* to[c][0 ... n - 1] = from[0 ... n - 1][c], rows of `to` BL_CACHE_BLOCK apart. */
#define TRANSPOSE(name, cell)                                                                      \
    static void name(const cell *from, size_t stride, size_t n, size_t cols, cell *to) {           \
        for (size_t c = 0; c < cols; c++)                                                          \
            for (size_t i = 0; i < n; i++)                                                         \
                to[c * BL_CACHE_BLOCK + i] = from[i * stride + c];                                 \
    }
TRANSPOSE(transpose_bytes, int8_t)
TRANSPOSE(transpose_halves, uint16_t)
TRANSPOSE(transpose_floats, float)

/* The step of a group of at most BL_CACHE_COLS elements, by which the largest is -8, and nibbles:
 * x ~ (nibble - 8) * step. */
static uint16_t quantize_i4(const float *x, size_t n, uint8_t nibbles[BL_CACHE_COLS]) {
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    uint16_t step = bl__f32_to_f16(fmaxf(-8192.0f, fminf(8192.0f, most)) / -8.0f);
    float value = bl__f16_to_f32(step), inverse = value != 0.0f ? 1.0f / value : 0.0f;
    for (size_t i = 0; i < n; i++) {
        float r = rintf(x[i] * inverse) + 8.0f;
        r = r > 0.0f ? r : 0.0f; /* NaN too */
        nibbles[i] = (uint8_t)(r < 15.0f ? r : 15.0f);
    }
    return step;
}

/* Where the nibble of column c is in a row of 4-bit cells. */
static void set_nibble(uint8_t *row, size_t c, uint8_t nibble) {
    uint8_t *byte = &row[c / 32 * 16 + c % 16];
    *byte = (uint8_t)(c % 32 < 16 ? (*byte & 0xf0) | nibble : (*byte & 0x0f) | nibble << 4);
}

/* One position's key, or with `across` unset its value. */
static void store_i4(const bl__cache *cache, const float *x, bool across, size_t at, uint8_t *cells,
                     uint16_t *steps) {
    size_t d = cache->h->head_dim;
    for (size_t g = 0; g < cache->n_groups; g++) {
        size_t first = g * BL_CACHE_COLS, n = bl__min_size(BL_CACHE_COLS, d - first);
        uint8_t nibbles[BL_CACHE_COLS];
        steps[g * BL_CACHE_BLOCK + at] = quantize_i4(x + first, n, nibbles);
        for (size_t i = 0; i < n; i++)
            if (across)
                set_nibble(cells + (first + i) * cache->key_stride, at, nibbles[i]);
            else
                set_nibble(cells + at * cache->value_stride, first + i, nibbles[i]);
    }
}

static void store_i8(const bl__cache *cache, const bl__kernels *kernels, const float *x, size_t at,
                     int8_t *cells, uint16_t *steps) {
    float step;
    int32_t sum;
    kernels->quantize_i8(x, cache->h->head_dim, cells, cache->width, &step, &sum);
    kernels->pack_f16(&step, 1, &steps[at]);
}

void bl__cache_store(const bl__cache *cache, const bl__kernels *kernels, bl__cache_part part,
                     size_t at, size_t n, const float *k, const float *v, size_t stride,
                     void *scratch) {
    size_t d = cache->h->head_dim, width = cache->width;
    uint16_t *halves = scratch;
    int8_t *bytes = scratch;
    for (size_t i = 0; i < n; i++, v += stride) {
        uint8_t *to = part.values + (at + i) * cache->value_stride;
        if (cache->type == BL_CACHE_F32)
            memcpy(to, v, d * sizeof *v);
        else if (cache->type == BL_CACHE_F16)
            kernels->pack_f16(v, d, (uint16_t *)(void *)to);
        else if (cache->type == BL_CACHE_I8)
            store_i8(cache, kernels, v, at + i, (int8_t *)to, part.value_steps);
        else
            store_i4(cache, v, false, at + i, part.values, part.value_steps);
    }
    for (size_t i = 0; i < n; i++) {
        const float *row = k + i * stride;
        if (cache->type == BL_CACHE_F16)
            kernels->pack_f16(row, d, halves + i * width);
        else if (cache->type == BL_CACHE_I8)
            store_i8(cache, kernels, row, at + i, bytes + i * width, part.key_steps);
        else if (cache->type == BL_CACHE_I4)
            store_i4(cache, row, true, at + i, part.keys, part.key_steps);
    }
    if (cache->type == BL_CACHE_F32)
        transpose_floats(k, stride, n, d, (float *)(void *)part.keys + at);
    else if (cache->type == BL_CACHE_F16)
        transpose_halves(halves, width, n, d, (uint16_t *)(void *)part.keys + at);
    else if (cache->type == BL_CACHE_I8)
        transpose_bytes(bytes, width, n, d, (int8_t *)part.keys + at);
}
