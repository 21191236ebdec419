/* Distinct words and how often they occurred, in the order in which they first came. */
#ifndef BL_TOKENIZER_TRAIN_WORDS_H
#define BL_TOKENIZER_TRAIN_WORDS_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

typedef struct bl__counted_word {
    size_t start; /* of its bytes in text */
    uint32_t len, hash;
    uint64_t count;
} bl__counted_word;

typedef struct bl__word_counts {
    bl__counted_word *words; /* [n] */
    size_t n, room;
    char *text; /* [text_len] */
    size_t text_len, text_room;
    uint32_t *slots; /* [mask + 1] a word's index + 1; 0 = free */
    size_t mask;
    uint64_t n_total; /* words, repeated ones too */
} bl__word_counts;

/* Counts one word, len > 0, into a table that was zeroed at first.
 * BL_ERR_MEMORY, BL_ERR_LIMIT (2^32 distinct words). */
bl_status bl__word_counts_add(bl__word_counts *counts, const char *word, size_t len, bl_error *err);
void bl__word_counts_destroy(bl__word_counts *counts);

#endif
