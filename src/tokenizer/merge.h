/* Byte pair merging: a table of pairs with ranks, and its application to one word.
 *
 * Both BPE kinds come down to this. Symbols are numbers: token ids, or ids from n_tokens up for
 * characters that only occur inside tokens, or BL_SYMBOL_NONE. */
#ifndef BL_TOKENIZER_MERGE_H
#define BL_TOKENIZER_MERGE_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

#define BL_SYMBOL_NONE UINT32_MAX
#define BL_RANK_NONE   UINT32_MAX

typedef struct bl__pair {
    uint64_t key;    /* left << 32 | right; UINT64_MAX = free */
    uint32_t rank;   /* lower merges first */
    uint32_t result; /* symbol */
} bl__pair;

typedef struct bl__pair_table {
    bl__pair *slots; /* [mask + 1] */
    size_t mask;
} bl__pair_table;

bl_status bl__pair_table_create(size_t n_pairs, bl__pair_table *out, bl_error *err);
void bl__pair_table_destroy(bl__pair_table *table);
/* A pair that is there already keeps its rank. No more pairs than announced. */
void bl__pair_table_add(bl__pair_table *table, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t result);

typedef struct bl__symbol {
    uint32_t id;
    uint32_t start; /* offset of its first byte in the word */
} bl__symbol;

/* Working memory for words, kept from one to the next. */
typedef struct bl__merger {
    const bl__pair_table *table;
    bl__symbol *symbols; /* [room]: the word goes in here, the result comes out */
    size_t room;
    struct merge_candidate *heap; /* [2 * link_room] */
    uint32_t *prev, *next;        /* [link_room], for long words */
    size_t link_room;
} bl__merger;

void bl__merger_destroy(bl__merger *merger);
/* Room for n symbols. */
bl_status bl__merger_reserve(bl__merger *merger, size_t n, bl_error *err);
/* Merges the pair of lowest rank, leftmost first among equals, as long as there is one. Takes
 * symbols[n], leaves symbols[*n]. O(n log n). */
bl_status bl__merger_run(bl__merger *merger, size_t *n, bl_error *err);

#endif
