/* Learning merges: byte pair encoding over counted words (arXiv 1508.07909, algorithm 1).
 *
 * Which pair comes next depends on counts and ids alone, so the result is a function of the words,
 * whatever their order. It is that of the Hugging Face trainer for the same words and alphabet. */
#ifndef BL_TOKENIZER_TRAIN_BPE_H
#define BL_TOKENIZER_TRAIN_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "formats/gguf.h"

enum { BL_BPE_MAX_PIECE = 512 /* bytes of a token that merging may make */ };

typedef struct bl__bpe_word {
    size_t start; /* of its symbols, ids of tokens */
    uint32_t len;
    uint64_t count;
} bl__bpe_word;

typedef struct bl__bpe_merge {
    uint32_t left, right, result;
} bl__bpe_merge;

typedef struct bl__bpe {
    bl__string *texts; /* [n_tokens], each allocated */
    size_t n_tokens, room;
    size_t n_reserved;     /* tokens below this are never made by merging */
    bl__bpe_merge *merges; /* [n_merges] */
    size_t n_merges, merges_room;
} bl__bpe;

/* Appends a token; the text is copied. */
bl_status bl__bpe_add_token(bl__bpe *bpe, const char *text, size_t len, bl_error *err);
void bl__bpe_destroy(bl__bpe *bpe);

/* Merges the most frequent pair of neighbours (of several, the one of lower left id, then lower
 * right id) everywhere, until there are `vocab` tokens or no pair occurs twice. bpe holds reserved
 * tokens and the alphabet; symbols and words[n_words] are worked in and lose their contents. */
bl_status bl__bpe_learn(bl__bpe *bpe, size_t vocab, uint32_t *symbols, bl__bpe_word *words,
                        size_t n_words, bl_error *err);

#endif
