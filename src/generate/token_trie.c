/* Owns the tree of tokens. Must not know grammars. */
#include "generate/token_trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { MAX_DEPTH = UINT16_MAX };

/* A token and its bytes, to be sorted. */
typedef struct entry {
    const uint8_t *bytes;
    uint32_t len;
    int32_t token;
} entry;

static int by_bytes(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    if (order == 0)
        order = (x->len > y->len) - (x->len < y->len);
    return order ? order : (x->token > y->token) - (x->token < y->token);
}

/* Bytes that the entry shares with the one before it. */
static size_t shared(const entry *list, size_t i) {
    size_t n = 0;
    if (i == 0)
        return 0;
    while (n < list[i].len && n < list[i - 1].len && list[i].bytes[n] == list[i - 1].bytes[n])
        n++;
    return n;
}

/* list[n], sorted, becomes nodes. */
static bl_status make_nodes(bl_token_trie *trie, const entry *list, size_t n, bl_error *err) {
    size_t n_nodes = 0;
    for (size_t i = 0; i < n; i++) {
        n_nodes += list[i].len - shared(list, i);
        trie->max_depth = list[i].len > trie->max_depth ? list[i].len : trie->max_depth;
    }
    trie->nodes = bl__malloc_array(n_nodes, sizeof *trie->nodes);
    uint32_t *open = bl__malloc_array(trie->max_depth + 1, sizeof *open); /* nodes on the way */
    if (!trie->nodes || !open) {
        bl__free(open);
        return bl__fail(err, BL_ERR_MEMORY, "token trie: no memory for %zu nodes", n_nodes);
    }
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        size_t same = shared(list, i);
        for (; depth > same; depth--)
            trie->nodes[open[depth]].end = (uint32_t)trie->n_nodes;
        if (i > 0 && same == list[i].len) { /* sorted: the one before has just these bytes */
            trie->nodes[open[depth]].has_twins = 1;
            trie->twins[list[i - 1].token] = list[i].token;
            continue;
        }
        while (depth < list[i].len) {
            uint8_t byte = list[i].bytes[depth++];
            open[depth] = (uint32_t)trie->n_nodes;
            trie->nodes[trie->n_nodes++] =
                (bl__trie_node){.token = -1, .depth = (uint16_t)depth, .byte = byte};
        }
        trie->nodes[open[depth]].token = list[i].token;
    }
    for (; depth > 0; depth--)
        trie->nodes[open[depth]].end = (uint32_t)trie->n_nodes;
    bl__free(open);
    return BL_OK;
}

/* Copies the bytes of every token that is text. */
static bl_status copy_bytes(bl_token_trie *trie, const bl_tokenizer *tokenizer, size_t n_tokens,
                            bl_error *err) {
    size_t total = 0, at = 0, len;
    for (size_t t = 0; t < n_tokens; t++) {
        bl_tokenizer_piece(tokenizer, (bl_token)t, 0, &len);
        total += len;
        trie->n_ends += bl_tokenizer_is_end(tokenizer, (bl_token)t);
    }
    if (total > UINT32_MAX)
        return bl__fail(err, BL_ERR_LIMIT, "token trie: %zu bytes of tokens", total);
    trie->bytes = bl__malloc(total);
    trie->bytes_first = bl__malloc_array(trie->vocab + 1, sizeof *trie->bytes_first);
    trie->ends = bl__malloc_array(trie->n_ends, sizeof *trie->ends);
    trie->twins = bl__malloc_array(trie->vocab, sizeof *trie->twins);
    if (!trie->bytes || !trie->bytes_first || !trie->ends || !trie->twins)
        return bl__fail(err, BL_ERR_MEMORY, "token trie: no memory for %zu bytes", total);
    trie->n_ends = 0;
    for (size_t t = 0; t < trie->vocab; t++) {
        trie->twins[t] = -1;
        trie->bytes_first[t] = (uint32_t)at;
        if (t >= n_tokens)
            continue;
        if (bl_tokenizer_is_end(tokenizer, (bl_token)t)) {
            trie->ends[trie->n_ends++] = (bl_token)t;
            continue;
        }
        const char *piece = bl_tokenizer_piece(tokenizer, (bl_token)t, 0, &len);
        if (len > MAX_DEPTH) /* no text needs it */
            continue;
        memcpy(trie->bytes + at, piece, len);
        at += len;
    }
    trie->bytes_first[trie->vocab] = (uint32_t)at;
    return BL_OK;
}

bl_status bl_token_trie_create(const bl_tokenizer *tokenizer, size_t vocab, bl_token_trie **out,
                               bl_error *err) {
    size_t n_tokens = bl_tokenizer_vocab_size(tokenizer), n = 0;
    if (vocab == 0)
        vocab = n_tokens;
    if (vocab > INT32_MAX)
        return bl__fail(err, BL_ERR_ARGUMENT, "token trie: %zu logits", vocab);
    n_tokens = bl__min_size(n_tokens, vocab);
    entry *list = NULL;
    bl_status status = BL_OK;
    bl_token_trie *trie = bl__calloc(1, sizeof *trie);
    if (!trie)
        return bl__fail(err, BL_ERR_MEMORY, "token trie: out of memory");
    trie->vocab = vocab;
    trie->n_words = (vocab + 63) / 64;
    status = copy_bytes(trie, tokenizer, n_tokens, err);
    if (status)
        goto fail;
    list = bl__malloc_array(vocab, sizeof *list);
    if (!list) {
        status = bl__fail(err, BL_ERR_MEMORY, "token trie: no memory for %zu tokens", vocab);
        goto fail;
    }
    for (size_t t = 0; t < vocab; t++) {
        uint32_t len = trie->bytes_first[t + 1] - trie->bytes_first[t];
        if (len > 0)
            list[n++] = (entry){trie->bytes + trie->bytes_first[t], len, (int32_t)t};
    }
    qsort(list, n, sizeof *list, by_bytes);
    status = make_nodes(trie, list, n, err);
fail:
    bl__free(list);
    if (status)
        bl_token_trie_free(trie);
    else
        *out = trie;
    return status;
}

void bl_token_trie_free(bl_token_trie *trie) {
    if (!trie)
        return;
    bl__free(trie->nodes);
    bl__free(trie->twins);
    bl__free(trie->bytes_first);
    bl__free(trie->bytes);
    bl__free(trie->ends);
    bl__free(trie);
}
