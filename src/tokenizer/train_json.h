/* What learning has made, as files of the Hugging Face library. */
#ifndef BL_TOKENIZER_TRAIN_JSON_H
#define BL_TOKENIZER_TRAIN_JSON_H

#include <stdbool.h>

#include "tokenizer/train_bpe.h"

typedef struct bl__learnt {
    const bl__bpe *bpe;    /* texts: bytes, or U+2581 for spaces */
    size_t n_specials;     /* the first tokens */
    const char *bos, *eos; /* NULL = none */
    const char *regex;     /* byte-level: its split pattern; NULL = SentencePiece style */
    bool ignore_merges;
} bl__learnt;

/* Writes `path`, and tokenizer_config.json in its directory. */
bl_status bl__learnt_write(const bl__learnt *learnt, const char *path, bl_error *err);

#endif
