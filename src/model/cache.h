/* Private to model/: the keys and values that the sequences of a session keep, and which tokens of
 * a batch are a sequence's. */
#ifndef BL_MODEL_CACHE_H
#define BL_MODEL_CACHE_H

#include "base/arena.h"
#include "model/model.h"

/* A cache of pages. A page holds a block of BL_CACHE_BLOCK positions of some sequence, in all
 * layers and KV heads: memory is taken up as pages are first used. Keys lie across, so that the
 * scores of a block are a product of rows of cells as the weighted values are (kernels.h,
 * cells_product). int8 and 4-bit cells count steps of their own for each position and group of a
 * head's elements.
 */
typedef struct bl__cache {
    const bl__hparams *h;
    bl_cache_type type;
    size_t n_pages;
    size_t width;        /* head_dim in whole BL_CACHE_COLS: cells of a value's row */
    size_t n_groups;     /* of a head, with a step each; 0: cells are values */
    size_t group_dim;    /* elements of a group; width when there is one or none */
    size_t key_stride;   /* bytes of BL_CACHE_BLOCK cells */
    size_t value_stride; /* bytes of `width` cells */
    /* Bytes of a part: where its values and steps begin, and all of it. */
    size_t values_at, key_steps_at, value_steps_at, part_bytes;
    /* part[n_layers][n_kv_heads][n_pages]: what a head attends to is one stream where pages follow
     * each other, which prefetchers see; pages one after the other are read at two thirds of the
     * pace. */
    uint8_t *parts;
} bl__cache;

/* What a page has of one KV head of a layer. */
typedef struct bl__cache_part {
    uint8_t *keys;                     /* cell[head_dim][64], rotated */
    uint8_t *values;                   /* cell[64][width] */
    uint16_t *key_steps, *value_steps; /* float16[n_groups][64] */
} bl__cache_part;

/* Tokens of a batch that follow each other in one sequence: rows first ... of the batch's
 * activations are the sequence's positions n_past ... No two spans of a batch share a sequence, and
 * none the page that another writes to. */
typedef struct bl__span {
    const uint32_t *pages; /* uint32_t[]: the page of each block of the sequence's positions */
    size_t first, n_past, n_tokens;
} bl__span;

/* Blocks of the first n positions. */
static inline size_t bl__cache_blocks(size_t n) {
    return n / BL_CACHE_BLOCK + (n % BL_CACHE_BLOCK != 0);
}

/* Takes a cache of n_pages pages from the arena (which may be measuring). */
void bl__cache_layout(bl__cache *cache, const bl__hparams *h, bl_cache_type type, size_t n_pages,
                      bl__arena *arena);

/* Bytes of the keys and values of one position, in all layers. */
uint64_t bl__cache_position_bytes(const bl__cache *cache);

bl__cache_part bl__cache_at(const bl__cache *cache, size_t page, size_t layer, size_t kv_head);

/* Gives page `to` what page `from` holds. */
void bl__cache_copy_page(bl__cache *cache, size_t from, size_t to);

/* Keeps the keys and values of n positions of one block, its position `at` and those that follow.
 * k, v: rows of float[head_dim], stride floats apart. scratch: BL_CACHE_BLOCK * width * 4 bytes.
 * Rows of a block are stored by one thread at a time: 4-bit cells share bytes. */
void bl__cache_store(const bl__cache *cache, const bl__kernels *kernels, bl__cache_part part,
                     size_t at, size_t n, const float *k, const float *v, size_t stride,
                     void *scratch);

#endif
