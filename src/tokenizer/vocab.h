/* A vocabulary, whatever file it came from: tokens, merges, special ids and flags.
 *
 * Readers copy all they keep, so the bytes given may go away afterwards. All of them check what
 * they hand out: ids in range or -1, merges that name existing tokens, finite scores. */
#ifndef BL_TOKENIZER_VOCAB_H
#define BL_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "bitloom/tokenizer.h"
#include "formats/gguf.h"

enum {
    BL_VOCAB_MAX_TOKENS = 1 << 22,     /* ten times the largest vocabulary published */
    BL_VOCAB_MAX_MERGES = 1 << 23,     /* ... */
    BL_VOCAB_MAX_TOKEN_BYTES = 1 << 14 /* of one token's text */
};

typedef enum bl__vocab_kind {
    BL_VOCAB_BPE = 0,    /* byte-level, by merges ("gpt2" in GGUF) */
    BL_VOCAB_SPM = 1,    /* SentencePiece BPE, by scores or merges ("llama" in GGUF) */
    BL_VOCAB_UNIGRAM = 2 /* SentencePiece unigram ("t5" in GGUF) */
} bl__vocab_kind;

/* Values as in GGUF's tokenizer.ggml.token_type and in sentencepiece_model.proto. */
typedef enum bl__token_type {
    BL_TOKEN_NORMAL = 1,
    BL_TOKEN_UNKNOWN = 2,
    BL_TOKEN_CONTROL = 3,
    BL_TOKEN_USER_DEFINED = 4,
    BL_TOKEN_UNUSED = 5,
    BL_TOKEN_BYTE = 6
} bl__token_type;

typedef struct bl__vocab_token {
    bl__string text;     /* as the file spells it: byte-level alphabet, U+2581 for spaces, <0x0A> */
    float score;         /* 0 where the file has none */
    uint8_t type;        /* bl__token_type */
    bool lstrip, rstrip; /* special and added tokens: swallow the white space beside them */
} bl__vocab_token;

typedef struct bl__vocab_merge {
    uint32_t left, right, result; /* ids; result's text = left's text + right's text */
} bl__vocab_merge;

typedef struct bl__vocab {
    bl__vocab_kind kind;
    const char *pre; /* BPE: a name that bl__pretokenizer_create() knows; "" otherwise */

    size_t n_tokens;
    bl__vocab_token *tokens; /* [n_tokens] */
    size_t n_merges;
    bl__vocab_merge *merges; /* [n_merges], best first; SPM: only when the file ranks by merges */

    bl_token bos, eos, unk, pad; /* -1 when there is none */
    size_t n_ends;
    bl_token *ends; /* [n_ends] ids that end a generation, ascending, eos among them */

    bool add_bos, add_eos;
    bool add_space_prefix;         /* SPM, unigram: a text starts as if after a space */
    bool remove_extra_whitespaces; /* SPM, unigram: runs of spaces count as one, ends are trimmed */
    bool ignore_merges;            /* BPE: a word that is a token is taken whole */
    bool nfc;                      /* text is brought to Unicode NFC first */
    bool has_scores;               /* the file gave scores */

    const char *chat_template; /* NUL-terminated; NULL when there is none */

    void *storage; /* private: owns everything above */
} bl__vocab;

void bl__vocab_free(bl__vocab *vocab);

/* The id of the token spelt text[len], -1 when there is none. Constant time. */
bl_token bl__vocab_find(const bl__vocab *vocab, const char *text, size_t len);

/* From the metadata of a GGUF file. */
bl_status bl__vocab_from_gguf(const bl__gguf *gguf, bl__vocab **out, bl_error *err);

/* The JSON files beside a Hugging Face tokenizer; absent ones have data == NULL. */
typedef struct bl__vocab_companions {
    bl__string tokenizer_config;   /* tokenizer_config.json */
    bl__string generation_config;  /* generation_config.json */
    bl__string special_tokens_map; /* special_tokens_map.json */
    bl__string added_tokens;       /* added_tokens.json: beside a tokenizer.model only */
    bl__string model_config;       /* config.json: bos/eos ids where nothing else gives them */
    bl__string chat_template;      /* chat_template.jinja, text */
} bl__vocab_companions;

/* From the bytes of a tokenizer.json. companions may be NULL.
 * BL_ERR_UNSUPPORTED quotes the first thing in it that we would not do exactly. */
bl_status bl__vocab_from_json(bl__string json, const bl__vocab_companions *companions,
                              bl__vocab **out, bl_error *err);

/* From the bytes of a tokenizer.model (a sentencepiece ModelProto). companions may be NULL. */
bl_status bl__vocab_from_sentencepiece(bl__string model, const bl__vocab_companions *companions,
                                       bl__vocab **out, bl_error *err);

/* From a path: a GGUF file, a Hugging Face directory (tokenizer.json, else tokenizer.model, else
 * our tokenizer.gguf), or one of the first two files with its companions beside it. Errors name the
 * file. */
bl_status bl__vocab_open(const char *path, bl__vocab **out, bl_error *err);

/* Declares the tokenizer.* keys as llama.cpp reads them. Rows of the embedding beyond n_tokens are
 * given names and the type unused, up to n_vocab_padded (0 or n_tokens: none). */
bl_status bl__vocab_write_gguf(const bl__vocab *vocab, bl__gguf_writer *writer,
                               size_t n_vocab_padded, bl_error *err);

/* A tokenizer over a vocabulary, which it takes over (also freed on failure). */
bl_status bl__tokenizer_create(bl__vocab *vocab, bl_tokenizer **out, bl_error *err);
/* Borrowed. */
const bl__vocab *bl__tokenizer_vocab(const bl_tokenizer *tokenizer);

#endif
