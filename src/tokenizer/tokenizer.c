/* Owns bl_tokenizer: its tables, built once, and the questions about single tokens. Must not know
 * files; encoding is in encode.c, text from tokens in decode.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/bytelevel.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate its tables");
}

static bl_status init_specials(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    size_t n = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        n += bl__token_is_special(vocab, (bl_token)i) && vocab->tokens[i].text.len;
    bl__prefix *items = bl__malloc_array(n, sizeof *items);
    if (!items)
        return fail_memory(err);
    n = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        if (bl__token_is_special(vocab, (bl_token)i) && vocab->tokens[i].text.len)
            items[n++] = (bl__prefix){vocab->tokens[i].text, (int32_t)i};
    bl__prefixes_init(&tokenizer->specials, items, n);
    return BL_OK;
}

/* The token of every byte: a letter of the byte alphabet, or <0x00> ... <0xFF>. */
static void init_bytes(bl_tokenizer *tokenizer) {
    bool bpe = tokenizer->vocab->kind == BL_VOCAB_BPE;
    tokenizer->byte_fallback = true;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        size_t len = bpe ? bl__utf8_encode(bl__bytelevel_char((uint8_t)byte), text)
                         : (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        bl_token id = bl__vocab_find(tokenizer->vocab, text, len);
        tokenizer->byte_token[byte] = id;
        tokenizer->byte_fallback = tokenizer->byte_fallback && id >= 0;
    }
}

/* Words that are tokens, by their bytes, for vocabularies that take them whole. */
static bl_status init_words(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    bl_status status = bl__textmap_create(vocab->n_tokens, &tokenizer->words, err);
    for (size_t i = 0; i < vocab->n_tokens && !status; i++) {
        bl__string piece = tokenizer->pieces[i];
        if (piece.len && vocab->tokens[i].type == BL_TOKEN_NORMAL)
            bl__textmap_add(&tokenizer->words, piece.data, piece.len, (int32_t)i);
    }
    return status;
}

static bl_status init_bpe(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    bl_status status = bl__pair_table_create(vocab->n_merges, &tokenizer->pairs, err);
    if (status)
        return status;
    for (size_t i = 0; i < vocab->n_merges; i++) {
        bl__vocab_merge merge = vocab->merges[i];
        bl__pair_table_add(&tokenizer->pairs, merge.left, merge.right, (uint32_t)i, merge.result);
    }
    if (vocab->ignore_merges)
        status = init_words(tokenizer, err);
    if (!status)
        status = bl__pretokenizer_create(vocab->pre, &tokenizer->pretokenizer, err);
    return status;
}

bl_status bl__tokenizer_create(bl__vocab *vocab, bl_tokenizer **out, bl_error *err) {
    static const char *const kinds[] = {"bpe/", "spm", "unigram"};
    bl_tokenizer *tokenizer = bl__calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        bl__vocab_free(vocab);
        return fail_memory(err);
    }
    tokenizer->vocab = vocab;
    snprintf(tokenizer->kind, sizeof tokenizer->kind, "%s%s", kinds[vocab->kind], vocab->pre);
    bl_status status = bl__pieces_init(tokenizer, err);
    if (!status)
        status = init_specials(tokenizer, err);
    if (!status) {
        init_bytes(tokenizer);
        status = vocab->kind == BL_VOCAB_BPE   ? init_bpe(tokenizer, err)
                 : vocab->kind == BL_VOCAB_SPM ? bl__spm_init(tokenizer, err)
                                               : bl__unigram_init(tokenizer, err);
    }
    if (status) {
        bl_tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return BL_OK;
}

bl_status bl_tokenizer_open(const char *path, bl_tokenizer **out, bl_error *err) {
    bl__vocab *vocab;
    bl_status status = bl__vocab_open(path, &vocab, err);
    if (status)
        return status;
    status = bl__tokenizer_create(vocab, out, err);
    if (status)
        bl__error_prefix(err, path);
    return status;
}

void bl_tokenizer_close(bl_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    bl__vocab_free(tokenizer->vocab);
    bl__free(tokenizer->pieces);
    bl__free(tokenizer->piece_bytes);
    bl__prefixes_destroy(&tokenizer->specials);
    bl__pair_table_destroy(&tokenizer->pairs);
    bl__pretokenizer_free(tokenizer->pretokenizer);
    bl__textmap_destroy(&tokenizer->words);
    bl__textmap_destroy(&tokenizer->chars);
    bl__prefixes_destroy(&tokenizer->unigrams);
    bl__free(tokenizer);
}

const bl__vocab *bl__tokenizer_vocab(const bl_tokenizer *tokenizer) {
    return tokenizer->vocab;
}

size_t bl_tokenizer_vocab_size(const bl_tokenizer *tokenizer) {
    return tokenizer->vocab->n_tokens;
}

bl_token bl_tokenizer_bos(const bl_tokenizer *tokenizer) {
    return tokenizer->vocab->bos;
}

bl_token bl_tokenizer_eos(const bl_tokenizer *tokenizer) {
    return tokenizer->vocab->eos;
}

bool bl_tokenizer_is_end(const bl_tokenizer *tokenizer, bl_token token) {
    const bl__vocab *vocab = tokenizer->vocab;
    size_t low = 0, high = vocab->n_ends;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (vocab->ends[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < vocab->n_ends && vocab->ends[low] == token;
}

const char *bl_tokenizer_chat_template(const bl_tokenizer *tokenizer) {
    return tokenizer->vocab->chat_template;
}

const char *bl_tokenizer_kind(const bl_tokenizer *tokenizer) {
    return tokenizer->kind;
}
