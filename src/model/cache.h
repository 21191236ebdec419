/* Private to model/: the keys and values that one sequence keeps, and which tokens of a batch are
 * a sequence's. */
#ifndef BL_MODEL_CACHE_H
#define BL_MODEL_CACHE_H

#include "base/arena.h"
#include "model/model.h"

/* The cache of one sequence, all layers and KV heads. Positions lie in blocks of BL_CACHE_BLOCK;
 * keys lie across, so that the scores of a block are a product of rows of cells as the weighted
 * values are (kernels.h, cells_product). int8 and 4-bit cells count steps of their own for each
 * position and group of a head's elements. */
typedef struct bl__cache {
    const bl__hparams *h;
    bl_cache_type type;
    size_t n_blocks;       /* of positions */
    size_t width;          /* head_dim in whole BL_CACHE_COLS: cells of a value's row */
    size_t n_groups;       /* of a head, with a step each; 0: cells are values */
    size_t group_dim;      /* elements of a group; width when there is one or none */
    size_t key_stride;     /* bytes of BL_CACHE_BLOCK cells */
    size_t value_stride;   /* bytes of `width` cells */
    uint8_t *keys;         /* cell[n_layers][n_kv_heads][n_blocks][head_dim][64], rotated */
    uint8_t *values;       /* cell[n_layers][n_kv_heads][n_blocks][64][width] */
    uint16_t *key_steps;   /* float16[n_layers][n_kv_heads][n_blocks][n_groups][64] */
    uint16_t *value_steps; /* the same */
} bl__cache;

/* A block of one KV head. */
typedef struct bl__cache_part {
    uint8_t *keys;   /* cell[head_dim][64] */
    uint8_t *values; /* cell[64][width] */
    uint16_t *key_steps, *value_steps;
} bl__cache_part;

/* Tokens of a batch that follow each other in one sequence: rows first ... of the batch's
 * activations are the sequence's positions n_past ... No two spans of a batch share a cache. */
typedef struct bl__span {
    bl__cache *cache;
    size_t first, n_past, n_tokens;
} bl__span;

/* Takes a cache of n_ctx positions from the arena (which may be measuring). */
void bl__cache_layout(bl__cache *cache, const bl__hparams *h, bl_cache_type type, size_t n_ctx,
                      bl__arena *arena);

/* Bytes of the keys and values of one position, in all layers. */
uint64_t bl__cache_position_bytes(const bl__cache *cache);

bl__cache_part bl__cache_at(const bl__cache *cache, size_t layer, size_t kv_head, size_t block);

/* Copies the first n positions of a cache, in whole blocks, to one of the same model, type and
 * size. */
void bl__cache_copy(const bl__cache *from, bl__cache *to, size_t n);

/* Keeps the keys and values of n positions of one block, its position `at` and those that follow.
 * k, v: rows of float[head_dim], stride floats apart. scratch: BL_CACHE_BLOCK * width * 4 bytes.
 * Rows of a block are stored by one thread at a time: 4-bit cells share bytes. */
void bl__cache_store(const bl__cache *cache, const bl__kernels *kernels, bl__cache_part part,
                     size_t at, size_t n, const float *k, const float *v, size_t stride,
                     void *scratch);

#endif
