/* Owns the tables of SentencePiece BPE. Must not know files or how text is fed in.
 *
 * SentencePiece merges, of all neighbours whose joined text is a token, those with the token of the
 * highest score (Kudo and Richardson 2018, arXiv 1808.06226). All such pairs are listed once, here,
 * so that merging needs no texts: the same engine then serves both BPE kinds. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

enum { N_CODE_POINTS = 0x110000, FIRST_SPLITS = 1024 };

typedef struct token_split {
    uint32_t left, right, result;
} token_split;

typedef struct split_list {
    token_split *items;
    size_t n, room;
} split_list;

/* Tokens that merging may end in. Control tokens never come from text by merging, nor do bytes. */
static bool can_merge_into(const bl__vocab_token *token) {
    return token->text.len && token->type != BL_TOKEN_CONTROL && token->type != BL_TOKEN_UNKNOWN &&
           token->type != BL_TOKEN_BYTE &&
           bl__utf8_valid_prefix(token->text.data, token->text.len) == token->text.len;
}

/* Gives every character that occurs in a token a symbol: its own token, or a number from n_tokens
 * up when it only occurs inside longer ones. */
static bl_status init_chars(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    uint8_t *seen = bl__calloc(N_CODE_POINTS / 8, 1);
    if (!seen)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate its characters");
    size_t n_chars = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__string text = vocab->tokens[i].text;
        if (!can_merge_into(&vocab->tokens[i]))
            continue;
        for (size_t at = 0, n; at < text.len; at += n) {
            n = bl__utf8_len(text.data + at, text.len - at);
            uint32_t c = bl__utf8_decode(text.data + at, n);
            n_chars += !(seen[c / 8] >> c % 8 & 1);
            seen[c / 8] |= (uint8_t)(1 << c % 8);
        }
    }
    bl__free(seen);
    bl_status status = bl__textmap_create(n_chars, &tokenizer->chars, err);
    if (status)
        return status;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__string text = vocab->tokens[i].text;
        if (can_merge_into(&vocab->tokens[i]) && bl__utf8_len(text.data, text.len) == text.len)
            bl__textmap_add(&tokenizer->chars, text.data, text.len, (int32_t)i);
    }
    int32_t virtual_id = (int32_t)vocab->n_tokens;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__string text = vocab->tokens[i].text;
        if (!can_merge_into(&vocab->tokens[i]))
            continue;
        for (size_t at = 0, n; at < text.len; at += n) {
            n = bl__utf8_len(text.data + at, text.len - at);
            if (bl__textmap_add(&tokenizer->chars, text.data + at, n, virtual_id) == virtual_id)
                virtual_id++;
        }
    }
    return BL_OK;
}

/* The symbol spelt text[len], a part of a token; BL_SYMBOL_NONE when there is none. */
static uint32_t find_symbol(const bl_tokenizer *tokenizer, const char *text, size_t len) {
    bool single = bl__utf8_len(text, len) == len;
    int32_t id = single ? bl__textmap_find(&tokenizer->chars, text, len)
                        : bl__vocab_find(tokenizer->vocab, text, len);
    if (id < 0 || (!single && !can_merge_into(&tokenizer->vocab->tokens[id])))
        return BL_SYMBOL_NONE;
    return (uint32_t)id;
}

static bl_status add_split(split_list *list, token_split split, bl_error *err) {
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : FIRST_SPLITS;
        token_split *items = bl__realloc_array(list->items, room, sizeof *items);
        if (!items)
            return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate %zu merges", room);
        list->items = items;
        list->room = room;
    }
    list->items[list->n++] = split;
    return BL_OK;
}

/* Every way to cut every token in two symbols. */
static bl_status list_splits(const bl_tokenizer *tokenizer, split_list *list, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    bl_status status = BL_OK;
    for (size_t i = 0; i < vocab->n_tokens && !status; i++) {
        bl__string text = vocab->tokens[i].text;
        /* User-defined tokens are found in the text beforehand. */
        if (!can_merge_into(&vocab->tokens[i]) || vocab->tokens[i].type == BL_TOKEN_USER_DEFINED)
            continue;
        if (text.len > BL_SPM_MAX_MERGED_BYTES)
            return bl__fail(err, BL_ERR_LIMIT, "tokenizer: token %zu has %zu bytes, at most %d", i,
                            text.len, BL_SPM_MAX_MERGED_BYTES);
        for (size_t at = bl__utf8_len(text.data, text.len); at < text.len && !status;
             at += bl__utf8_len(text.data + at, text.len - at)) {
            uint32_t left = find_symbol(tokenizer, text.data, at);
            if (left == BL_SYMBOL_NONE)
                continue;
            uint32_t right = find_symbol(tokenizer, text.data + at, text.len - at);
            if (right != BL_SYMBOL_NONE)
                status = add_split(list, (token_split){left, right, (uint32_t)i}, err);
        }
    }
    return status;
}

typedef struct scored_token {
    float score;
    uint32_t id;
} scored_token;

static int compare_scores(const void *a, const void *b) {
    const scored_token *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* ranks[id]: 0 for the highest score; equal scores share a rank, so that the leftmost goes first.
 */
static bl_status rank_scores(const bl__vocab *vocab, uint32_t **out, bl_error *err) {
    size_t n = vocab->n_tokens;
    scored_token *sorted = bl__malloc_array(n, sizeof *sorted);
    uint32_t *ranks = bl__malloc_array(n, sizeof *ranks);
    if (!sorted || !ranks) {
        bl__free(sorted);
        bl__free(ranks);
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot rank %zu tokens", n);
    }
    for (size_t i = 0; i < n; i++)
        sorted[i] = (scored_token){vocab->tokens[i].score, (uint32_t)i};
    qsort(sorted, n, sizeof *sorted, compare_scores);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += i && sorted[i].score < sorted[i - 1].score;
        ranks[sorted[i].id] = rank;
    }
    bl__free(sorted);
    *out = ranks;
    return BL_OK;
}

/* Enters a merge and notes whether it joins a word to the space mark of the next. */
static void add_pair(bl_tokenizer *tokenizer, token_split split, size_t left_len, uint32_t rank) {
    bl__string text = tokenizer->vocab->tokens[split.result].text;
    if (bl__utf8_is_space_mark(text.data + left_len, text.len - left_len) &&
        !bl__utf8_ends_with_space_mark(text.data, left_len))
        tokenizer->split_words = false;
    bl__pair_table_add(&tokenizer->pairs, split.left, split.right, rank, split.result);
}

/* Length of a symbol that begins a token's text. */
static size_t symbol_len(const bl__vocab *vocab, uint32_t symbol, bl__string text) {
    return symbol < vocab->n_tokens ? vocab->tokens[symbol].text.len
                                    : bl__utf8_len(text.data, text.len);
}

static bl_status init_pairs_by_score(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    split_list list = {0};
    uint32_t *ranks = NULL;
    bl_status status = list_splits(tokenizer, &list, err);
    if (!status)
        status = rank_scores(vocab, &ranks, err);
    if (!status)
        status = bl__pair_table_create(list.n, &tokenizer->pairs, err);
    for (size_t i = 0; i < list.n && !status; i++) {
        token_split split = list.items[i];
        size_t left_len = symbol_len(vocab, split.left, vocab->tokens[split.result].text);
        add_pair(tokenizer, split, left_len, ranks[split.result]);
    }
    bl__free(list.items);
    bl__free(ranks);
    return status;
}

bl_status bl__spm_init(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    tokenizer->split_words = true;
    bl_status status = init_chars(tokenizer, err);
    if (status)
        return status;
    if (!vocab->n_merges)
        return init_pairs_by_score(tokenizer, err);
    status = bl__pair_table_create(vocab->n_merges, &tokenizer->pairs, err);
    for (size_t i = 0; i < vocab->n_merges && !status; i++) {
        bl__vocab_merge merge = vocab->merges[i];
        add_pair(tokenizer, (token_split){merge.left, merge.right, merge.result},
                 vocab->tokens[merge.left].text.len, (uint32_t)i);
    }
    return status;
}
