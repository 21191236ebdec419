/* Text to token ids and back.
 *
 * A bl_tokenizer is immutable after opening and may be shared by any number of threads.
 * Text is bytes: invalid UTF-8 is accepted everywhere and survives where the vocabulary has a
 * byte fallback. */
#ifndef BITLOOM_TOKENIZER_H
#define BITLOOM_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t bl_token; /* 0 ... vocab - 1; -1 means "no token" */

typedef struct bl_tokenizer bl_tokenizer;

/* Opens the tokenizer of a GGUF file (a vocabulary-only one will do), of a Hugging Face directory
 * (tokenizer.json or tokenizer.model with its companions), or of one of those two files.
 * Errors: BL_ERR_IO, BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (an unknown model or pre-tokenizer, by
 * name), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_tokenizer_open(const char *path, bl_tokenizer **out, bl_error *err);
void bl_tokenizer_close(bl_tokenizer *tokenizer); /* NULL is accepted */

size_t bl_tokenizer_vocab_size(const bl_tokenizer *tokenizer);
bl_token bl_tokenizer_bos(const bl_tokenizer *tokenizer); /* -1 when there is none */
bl_token bl_tokenizer_eos(const bl_tokenizer *tokenizer); /* -1 when there is none */

/* True for every token that ends a generation: EOS, end of turn, end of message. */
bool bl_tokenizer_is_end(const bl_tokenizer *tokenizer, bl_token token);

/* The model's Jinja chat template, NUL-terminated, borrowed; NULL when the model carries none. */
const char *bl_tokenizer_chat_template(const bl_tokenizer *tokenizer);

/* The name of the vocabulary's kind for people, such as "bpe/llama-bpe" or "spm". */
const char *bl_tokenizer_kind(const bl_tokenizer *tokenizer);

enum {
    BL_TOKENIZE_EXTRA = 1,   /* add BOS and EOS where the model says so */
    BL_TOKENIZE_SPECIAL = 2, /* recognise special tokens written out in the text */
};

/* Encodes text[len] (need not be NUL-terminated). *ids is allocated, release it with bl_free().
 * Time is O(len log len) at worst. */
bl_status bl_tokenizer_encode(const bl_tokenizer *tokenizer, const char *text, size_t len,
                              unsigned flags, bl_token **ids, size_t *n_ids, bl_error *err);

enum {
    BL_DETOKENIZE_SPECIAL = 1, /* write special tokens out; without it they decode to nothing */
};

/* The bytes that one token decodes to, borrowed from the tokenizer, not NUL-terminated; may be a
 * fragment of a UTF-8 character, and *len may be 0. A token out of range gives *len = 0. */
const char *bl_tokenizer_piece(const bl_tokenizer *tokenizer, bl_token token, unsigned flags,
                               size_t *len);

/* Decodes ids[n_ids] to bytes. *text is allocated and NUL-terminated (the NUL is not counted in
 * *len); release it with bl_free(). The space that a SentencePiece model puts before a text is
 * removed again. */
bl_status bl_tokenizer_decode(const bl_tokenizer *tokenizer, const bl_token *ids, size_t n_ids,
                              unsigned flags, char **text, size_t *len, bl_error *err);

/* Streaming decoder: never hands out part of a UTF-8 character. Belongs to one thread at a time.
 * Pushing allocates nothing. */
typedef struct bl_decoder bl_decoder;

/* continues_text: true when the ids follow text that is already there (a prompt), so that the
 * first SentencePiece space is kept; false when they start a text. The tokenizer must outlive it.
 */
bl_status bl_decoder_create(const bl_tokenizer *tokenizer, unsigned flags, bool continues_text,
                            bl_decoder **out, bl_error *err);
void bl_decoder_free(bl_decoder *decoder);
/* Adds one token and returns the bytes that are now complete: text[*len], valid until the next
 * call. Bytes that cannot become UTF-8 any more are replaced by U+FFFD. */
const char *bl_decoder_push(bl_decoder *decoder, bl_token token, size_t *len);
/* What is still held back at the end (an unfinished character becomes U+FFFD). */
const char *bl_decoder_finish(bl_decoder *decoder, size_t *len);

#ifdef __cplusplus
}
#endif
#endif
