/* Cutting text into the words that byte-level BPE works on, by the regular expressions that the
 * vocabularies were trained with.
 *
 * A bl__pretokenizer is immutable and shared by threads; a bl__splitter belongs to one call. */
#ifndef BL_TOKENIZER_PRETOKENIZER_H
#define BL_TOKENIZER_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"
#include "formats/gguf.h"

typedef struct bl__pretokenizer_name {
    const char *name;   /* as in tokenizer.ggml.pre */
    int rule;           /* private: which expressions */
    bool ignore_merges; /* its vocabularies take a word that is a token whole, and begin with BOS */
} bl__pretokenizer_name;

/* NULL for a name that is not known. Several names share one rule. */
const bl__pretokenizer_name *bl__pretokenizer_lookup(bl__string name);

/* The name for a tokenizer.json whose words come from this regular expression alone; NULL when it
 * is none of ours. For LLaMA 3's expression there are two names. */
const char *bl__pretokenizer_by_regex(bl__string regex, bool ignore_merges);

/* The other way round: the regular expression for a tokenizer.json, NULL when there is not one. */
const char *bl__pretokenizer_regex(const char *name);

typedef struct bl__pretokenizer bl__pretokenizer;
bl_status bl__pretokenizer_create(const char *name, bl__pretokenizer **out, bl_error *err);
void bl__pretokenizer_free(bl__pretokenizer *pretokenizer);

/* Receives a word, never empty. */
typedef bl_status (*bl__word_fn)(void *user, const char *word, size_t len, bl_error *err);

typedef struct bl__splitter bl__splitter;
bl_status bl__splitter_create(const bl__pretokenizer *pretokenizer, bl__splitter **out,
                              bl_error *err);
void bl__splitter_free(bl__splitter *splitter);
/* Hands every byte of text[len] to fn, in order, as words. Bytes that are not UTF-8 make words of
 * their own. Time is linear in len. */
bl_status bl__splitter_run(bl__splitter *splitter, const char *text, size_t len, bl__word_fn fn,
                           void *user, bl_error *err);

#endif
