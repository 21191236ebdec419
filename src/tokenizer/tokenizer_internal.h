/* What the files that implement include/bitloom/tokenizer.h share. */
#ifndef BL_TOKENIZER_INTERNAL_H
#define BL_TOKENIZER_INTERNAL_H

#include "bitloom/tokenizer.h"
#include "tokenizer/merge.h"
#include "tokenizer/prefixes.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/textmap.h"
#include "tokenizer/vocab.h"

enum {
    BL_ENCODE_MAX_BYTES = 1 << 30,     /* of one text */
    BL_SPM_MAX_MERGED_BYTES = 1 << 10, /* of a token that merging can make */
    BL_KIND_NAME_BYTES = 64
};

/* Immutable once created. */
struct bl_tokenizer {
    bl__vocab *vocab; /* owned */
    char kind[BL_KIND_NAME_BYTES];

    bl__string *pieces; /* [n_tokens] the bytes each token decodes to */
    char *piece_bytes;  /* where they lie */
    size_t max_piece;   /* longest of them */

    bl__prefixes specials; /* tokens recognised in text before anything else */

    /* Both BPE kinds. */
    bl__pair_table pairs;
    bl_token byte_token[256]; /* BPE: of the byte's letter; else of <0xXX>; -1 = none */
    bool byte_fallback;       /* all of byte_token[] exist */

    /* Byte-level BPE. */
    bl__pretokenizer *pretokenizer;
    bl__textmap words; /* with ignore_merges: decoded bytes -> token */

    /* SentencePiece BPE. */
    bl__textmap chars; /* character -> symbol, of every character in any token */
    bool split_words;  /* no merge crosses the beginning of a run of U+2581 */

    /* SentencePiece unigram. */
    bl__prefixes unigrams;
    double unknown_score;
};

static inline bool bl__token_is_special(const bl__vocab *vocab, bl_token id) {
    uint8_t type = vocab->tokens[id].type;
    return type == BL_TOKEN_CONTROL || type == BL_TOKEN_UNKNOWN || type == BL_TOKEN_USER_DEFINED;
}

/* A growing list of ids. */
typedef struct bl__token_list {
    bl_token *ids;
    size_t n, room;
} bl__token_list;

bl_status bl__token_list_reserve(bl__token_list *list, size_t extra, bl_error *err);

/* Pieces and the two tables of SPM; on failure the tokenizer is closed by the caller. */
bl_status bl__pieces_init(bl_tokenizer *tokenizer, bl_error *err);
bl_status bl__spm_init(bl_tokenizer *tokenizer, bl_error *err);
bl_status bl__unigram_init(bl_tokenizer *tokenizer, bl_error *err);

/* Splits text[len], normalized, into the tokens of highest total score and appends them. */
bl_status bl__unigram_encode(const bl_tokenizer *tokenizer, const char *text, size_t len,
                             bl__token_list *list, bl_error *err);

#endif
