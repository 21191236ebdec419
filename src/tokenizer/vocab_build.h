/* Building a bl__vocab: what the readers of the different files share. */
#ifndef BL_TOKENIZER_VOCAB_BUILD_H
#define BL_TOKENIZER_VOCAB_BUILD_H

#include "tokenizer/vocab.h"

/* A vocabulary of n_tokens empty, unused tokens and no special ids.
 * BL_ERR_LIMIT above BL_VOCAB_MAX_TOKENS, BL_ERR_FORMAT for none. */
bl_status bl__vocab_create(size_t n_tokens, bl__vocab **out, bl_error *err);

/* For files that give each token its id: refuses ids 0 ... n_ids - 1 of which far more are unused
 * than published vocabularies leave, before memory is taken for them. */
bl_status bl__vocab_check_holes(size_t n_ids, size_t n_tokens, bl_error *err);

/* Copies text[len] into the vocabulary; the copy ends with a NUL. */
bl_status bl__vocab_keep(bl__vocab *vocab, const char *text, size_t len, const char **out,
                         bl_error *err);

/* id < n_tokens; checks length, score and type. */
bl_status bl__vocab_set_token(bl__vocab *vocab, size_t id, bl__string text, double score,
                              int64_t type, bl_error *err);

/* After the last token: makes bl__vocab_find() work. Two tokens of one text are an error. */
bl_status bl__vocab_index(bl__vocab *vocab, bl_error *err);

/* After bl__vocab_index(). Merges come best first; all three texts must be tokens. */
bl_status bl__vocab_reserve_merges(bl__vocab *vocab, size_t n_merges, bl_error *err);
bl_status bl__vocab_add_merge(bl__vocab *vocab, bl__string left, bl__string right, bl_error *err);

/* Marks an id as one that ends a generation. An id out of range is an error naming `what`. */
bl_status bl__vocab_add_end(bl__vocab *vocab, int64_t id, const char *what, bl_error *err);

/* Last step, after bl__vocab_index(): completes the set of end tokens by their well-known texts and
 * checks special ids and flags against each other. */
bl_status bl__vocab_finish(bl__vocab *vocab, bl_error *err);

#endif
