/* Private to generate/: the tokens of a vocabulary as a tree of their bytes. */
#ifndef BL_GENERATE_TOKEN_TRIE_H
#define BL_GENERATE_TOKEN_TRIE_H

#include "bitloom/grammar.h"

/* Nodes lie in depth-first order: a node's first child comes right after it. */
typedef struct bl__trie_node {
    uint32_t end;      /* the first node after it that is not below it */
    int32_t token;     /* whose bytes lead here; -1 = none */
    uint16_t depth;    /* bytes that lead here, from 1 */
    uint8_t byte;      /* the last of them */
    uint8_t has_twins; /* other tokens have the same bytes */
} bl__trie_node;

/* Immutable. */
struct bl_token_trie {
    size_t vocab, n_words; /* n_words: of a mask */
    bl__trie_node *nodes;  /* [n_nodes] */
    size_t n_nodes, max_depth;
    int32_t *twins;        /* [vocab]: another token of the same bytes, -1 = no more */
    uint32_t *bytes_first; /* [vocab + 1]: token t is bytes[bytes_first[t] ...] */
    uint8_t *bytes;
    bl_token *ends; /* [n_ends]: tokens that end a generation */
    size_t n_ends;
};

#endif
