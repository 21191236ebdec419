/* Constrained output: text that a grammar or a JSON schema allows, and no other.
 *
 * A grammar says which texts are whole. A matcher follows one text token by token and says which
 * tokens may come next, so that a sampler never draws another: what has been generated when the
 * matcher allows the end is whole, by construction. Text cut short before that (by max_tokens, the
 * context or a stop string) is the beginning of one; nothing is added to it.
 *
 * docs/grammar.md has the notations: GBNF as llama.cpp documents it, and the keywords of JSON
 * Schema that are understood. Whatever constrains and is not understood is refused by name.
 *
 * Grammars and token tries are immutable and may be shared by threads; a matcher belongs to one
 * thread at a time. */
#ifndef BITLOOM_GRAMMAR_H
#define BITLOOM_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_grammar bl_grammar;

/* From text[len] in GBNF, at most 1 MiB. Errors: BL_ERR_FORMAT with line and column (also rules
 * that are not defined, and grammars that no text matches), BL_ERR_UNSUPPORTED (left recursion, by
 * the rule's name), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_grammar_from_gbnf(const char *text, size_t len, bl_grammar **out, bl_error *err);

/* From a JSON schema, text[len], at most 1 MiB: the text is one value of it, in JSON. Properties
 * come in the order of the schema. Errors: BL_ERR_FORMAT (no JSON, no schema, or no value is of
 * it), BL_ERR_UNSUPPORTED (a keyword that constrains and is not understood), both with a JSON
 * pointer; BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_grammar_from_json_schema(const char *text, size_t len, bl_grammar **out,
                                      bl_error *err);

/* Any JSON object. */
bl_status bl_grammar_from_json_object(bl_grammar **out, bl_error *err);

void bl_grammar_free(bl_grammar *grammar); /* NULL is accepted; free its matchers first */

/* The tokens of a vocabulary by their bytes, made once for a tokenizer and used by all matchers. */
typedef struct bl_token_trie bl_token_trie;

/* vocab: the number of logits, which may differ from the tokenizer's tokens; 0 = as many as those.
 * Tokens without text are in no grammar's text. The tokenizer is not needed afterwards.
 * Errors: BL_ERR_MEMORY, BL_ERR_LIMIT. */
bl_status bl_token_trie_create(const bl_tokenizer *tokenizer, size_t vocab, bl_token_trie **out,
                               bl_error *err);
void bl_token_trie_free(bl_token_trie *trie); /* NULL is accepted; free its matchers first */

typedef struct bl_matcher bl_matcher;

/* A matcher at the beginning of a text. Grammar and trie are borrowed and must outlive it. It takes
 * memory as it meets new places of the grammar, at most some 100 MB. */
bl_status bl_matcher_create(const bl_grammar *grammar, const bl_token_trie *trie, bl_matcher **out,
                            bl_error *err);
void bl_matcher_free(bl_matcher *matcher); /* NULL is accepted */

/* Back to the beginning, for another text; what it has learnt of the grammar stays. */
void bl_matcher_reset(bl_matcher *matcher);

/* Which tokens may come next: *mask is uint64_t[(vocab + 63) / 64], token t is bit t % 64 of word
 * t / 64; borrowed, valid until the next call. Tokens that end a generation are among them when the
 * text is whole. Errors: BL_ERR_NOT_FOUND when no token may come (the vocabulary lacks a character
 * that the grammar asks for, or the text has ended), BL_ERR_LIMIT (too ambiguous a grammar),
 * BL_ERR_MEMORY. */
bl_status bl_matcher_mask(bl_matcher *matcher, const uint64_t **mask, bl_error *err);

/* Goes on by a token. Errors: BL_ERR_ARGUMENT when it may not come, then the matcher is unchanged;
 * BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_matcher_accept(bl_matcher *matcher, bl_token token, bl_error *err);

/* Whether the text so far is whole. */
bool bl_matcher_may_end(const bl_matcher *matcher);
/* Whether it is whole and nothing can follow. */
bool bl_matcher_must_end(const bl_matcher *matcher);

/* Bit `token` of a mask. */
static inline bool bl_mask_has(const uint64_t *mask, bl_token token) {
    return token >= 0 && (mask[(size_t)token / 64] >> ((size_t)token % 64) & 1);
}

#ifdef __cplusplus
}
#endif
#endif
