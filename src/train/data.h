/* Token files and the windows that training reads from them.
 *
 * Owns the format: 128 bytes of header, all little-endian,
 *
 *     offset  type    what
 *          0  u8[8]   "BLTOKENS"
 *          8  u32     version, 1
 *         12  u32     bytes of an id: 2 or 4
 *         16  u64     ids are below this (the tokenizer's vocabulary)
 *         24  u64     n_tokens
 *         32  u64     n_docs
 *         40  u64     n_train: tokens before this one are for training, the rest is held out
 *         48  u64     fingerprint of the tokenizer, see bl__tokenizer_fingerprint()
 *         56  u64     bytes of text that the tokens were made from
 *         64  u8[64]  0
 *
 * then the ids, zeros up to a multiple of 8 bytes, and u64[n_docs]: where each document begins,
 * ascending, the first one 0. Nothing follows.
 *
 * A bl__tokens and a bl__windows do not change after opening and may be shared by threads. Must not
 * know networks or how text becomes tokens. */
#ifndef BL_TRAIN_DATA_H
#define BL_TRAIN_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

enum { BL_TOKENS_HEADER = 128, BL_TOKENS_VERSION = 1 };

typedef struct bl__tokens {
    size_t width; /* bytes of an id: 2 or 4 */
    size_t vocab; /* 1 ... 2^31 - 1 */
    size_t n_tokens, n_docs;
    size_t n_train;       /* 0 ... n_tokens: the first token held out */
    uint64_t fingerprint; /* of the tokenizer */
    uint64_t text_bytes;
    const void *ids;      /* uint16_t or uint32_t [n_tokens]; not checked, see below */
    const uint64_t *docs; /* [n_docs] first tokens of documents, ascending, below n_tokens */
    bl__filemap map;
} bl__tokens;

/* Maps a token file and checks everything but the ids. Errors name path and field:
 * BL_ERR_NOT_FOUND, BL_ERR_IO, BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (a newer version). */
bl_status bl__tokens_open(const char *path, bl__tokens *out, bl_error *err);
void bl__tokens_close(bl__tokens *tokens); /* a zeroed one is accepted */
/* The same from bytes, which are borrowed and lie at a multiple of 8. */
bl_status bl__tokens_parse(const uint8_t *data, size_t len, bl__tokens *out, bl_error *err);

/* Reads all ids once; BL_ERR_FORMAT names the first one that is not below vocab. */
bl_status bl__tokens_check(const bl__tokens *tokens, bl_error *err);
/* BL_ERR_ARGUMENT unless the ids are this tokenizer's. */
bl_status bl__tokens_match(const bl__tokens *tokens, const bl_tokenizer *tokenizer, bl_error *err);

static inline uint32_t bl__tokens_id(const bl__tokens *tokens, size_t i) {
    return tokens->width == 2 ? ((const uint16_t *)tokens->ids)[i]
                              : ((const uint32_t *)tokens->ids)[i];
}
/* The document that token i belongs to: 0 ... n_docs - 1. */
size_t bl__tokens_doc(const bl__tokens *tokens, size_t i);

/* Hash of all that decides how text becomes ids: kind, pre-tokenizer, tokens, merges. */
uint64_t bl__tokenizer_fingerprint(const bl_tokenizer *tokenizer);

/* The tokens cut into windows: row_tokens inputs, and as targets the same shifted by one.
 *
 * Training takes every window once an epoch, in an order that is a pseudo-random permutation
 * computed from (seed, epoch, place): no state, so a run goes on at any place. What the last window
 * leaves over (fewer than row_tokens tokens) stays out at random at either end, anew each epoch. */
typedef struct bl__windows {
    const bl__tokens *tokens; /* borrowed */
    size_t row_tokens;
    uint64_t seed;
    bool mask_documents;    /* a target that is the first token of a document becomes -1, and firsts
                               say where documents begin */
    size_t n_train_windows; /* of one epoch */
    size_t n_valid_windows; /* the last one may be partial */
} bl__windows;

/* BL_ERR_ARGUMENT when there is not one whole window for training; held-out tokens may be none. */
bl_status bl__windows_init(const bl__tokens *tokens, size_t row_tokens, uint64_t seed,
                           bool mask_documents, bl__windows *out, bl_error *err);

/* Windows number first ... first + n_rows - 1 of training's endless sequence, into inputs and
 * targets: int32[n_rows][row_tokens]. Number i is of epoch i / n_train_windows.
 * firsts: NULL or the same shape: where in its row each token's document begins, 0 for one that
 * began before; all 0 without mask_documents.
 * BL_ERR_FORMAT for an id that is not below vocab. */
bl_status bl__windows_train(const bl__windows *windows, uint64_t first, size_t n_rows,
                            int32_t *inputs, int32_t *targets, int32_t *firsts, bl_error *err);

/* Windows of the held-out tokens in their order. Past the last token, and in rows past the last
 * window, inputs are 0 and targets -1. */
bl_status bl__windows_valid(const bl__windows *windows, size_t first, size_t n_rows,
                            int32_t *inputs, int32_t *targets, int32_t *firsts, bl_error *err);

#endif
