/* Owns which tokens training sees when. Must not know where tokens come from.
 *
 * The order of an epoch is a Feistel network over the smallest even number of bits that holds every
 * window; a place that it sends outside is sent on until it lands inside. Both are bijections, so
 * every window comes once, and any place can be asked for without the ones before. */
#include <string.h>

#include "base/error.h"
#include "train/data.h"

enum { ROUNDS = 6 };

/* SplitMix64's finalizer. */
static uint64_t scramble(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t epoch_key(uint64_t seed, uint64_t epoch) {
    return scramble(scramble(seed + 0x9e3779b97f4a7c15u) + epoch * 0xd1342543de82ef95u);
}

/* Where place i < n of an order lands: 0 ... n - 1. */
static uint64_t permute(uint64_t key, uint64_t n, uint64_t i) {
    unsigned half = 1;
    while (half < 32 && n > (uint64_t)1 << (2 * half))
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t next = left ^ (scramble(key + (round << 32 | right)) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

bl_status bl__windows_init(const bl__tokens *tokens, size_t row_tokens, uint64_t seed,
                           bool mask_documents, bl__windows *out, bl_error *err) {
    if (row_tokens == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: windows of 0 tokens");
    if (tokens->n_train <= row_tokens)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "data: %zu tokens for training, expected at least one window of %zu and "
                        "one token more",
                        tokens->n_train, row_tokens);
    size_t n_valid = tokens->n_tokens - tokens->n_train;
    size_t n_targets = n_valid ? n_valid - 1 : 0;
    *out = (bl__windows){.tokens = tokens,
                         .row_tokens = row_tokens,
                         .seed = seed,
                         .mask_documents = mask_documents,
                         .n_train_windows = (tokens->n_train - 1) / row_tokens,
                         .n_valid_windows = n_targets / row_tokens + (n_targets % row_tokens != 0)};
    return BL_OK;
}

/* Drops the targets that begin documents; the window's inputs are tokens start ... start + n - 1.
 */
static void mask_starts(const bl__tokens *tokens, size_t start, size_t n, int32_t *targets) {
    for (size_t doc = bl__tokens_doc(tokens, start) + 1;
         doc < tokens->n_docs && tokens->docs[doc] <= start + n; doc++)
        targets[tokens->docs[doc] - start - 1] = -1;
}

/* Where the documents of the window begin; padding is one of its own. */
static void find_firsts(const bl__windows *windows, size_t start, size_t n, int32_t *firsts) {
    const bl__tokens *tokens = windows->tokens;
    bool apart = windows->mask_documents && n;
    size_t doc = apart ? bl__tokens_doc(tokens, start) + 1 : 0;
    int32_t first = 0;
    for (size_t i = 0; i < windows->row_tokens; i++) {
        if (apart && ((doc < tokens->n_docs && tokens->docs[doc] == start + i) || i == n)) {
            first = (int32_t)i;
            doc++;
        }
        firsts[i] = first;
    }
}

/* One row of n inputs and their targets, which are there; the rest is padding. */
static bl_status fill_row(const bl__windows *windows, size_t start, size_t n, int32_t *inputs,
                          int32_t *targets, int32_t *firsts, bl_error *err) {
    const bl__tokens *tokens = windows->tokens;
    for (size_t i = 0; i <= n && n; i++) {
        uint32_t id = bl__tokens_id(tokens, start + i);
        if (id >= tokens->vocab)
            return bl__fail(err, BL_ERR_FORMAT, "token file: token %zu: id %u, expected below %zu",
                            start + i, id, tokens->vocab);
        if (i < n)
            inputs[i] = (int32_t)id;
        if (i)
            targets[i - 1] = (int32_t)id;
    }
    for (size_t i = n; i < windows->row_tokens; i++) {
        inputs[i] = 0;
        targets[i] = -1;
    }
    if (windows->mask_documents && n)
        mask_starts(tokens, start, n, targets);
    if (firsts)
        find_firsts(windows, start, n, firsts);
    return BL_OK;
}

bl_status bl__windows_train(const bl__windows *windows, uint64_t first, size_t n_rows,
                            int32_t *inputs, int32_t *targets, int32_t *firsts, bl_error *err) {
    size_t row_tokens = windows->row_tokens, n_windows = windows->n_train_windows;
    size_t slack = (windows->tokens->n_train - 1) % row_tokens;
    bl_status status = BL_OK;
    for (size_t row = 0; row < n_rows && !status; row++) {
        uint64_t number = first + row;
        uint64_t key = epoch_key(windows->seed, number / n_windows);
        size_t skipped = (size_t)(scramble(~key) % ((uint64_t)slack + 1));
        size_t window = (size_t)permute(key, n_windows, number % n_windows);
        status =
            fill_row(windows, skipped + window * row_tokens, row_tokens, inputs + row * row_tokens,
                     targets + row * row_tokens, firsts ? firsts + row * row_tokens : NULL, err);
    }
    return status;
}

bl_status bl__windows_valid(const bl__windows *windows, size_t first, size_t n_rows,
                            int32_t *inputs, int32_t *targets, int32_t *firsts, bl_error *err) {
    const bl__tokens *tokens = windows->tokens;
    size_t row_tokens = windows->row_tokens;
    bl_status status = BL_OK;
    for (size_t row = 0; row < n_rows && !status; row++) {
        size_t start = 0, n = 0;
        if (first < windows->n_valid_windows && row < windows->n_valid_windows - first) {
            start = tokens->n_train + (first + row) * row_tokens;
            n = tokens->n_tokens - 1 - start;
            n = n < row_tokens ? n : row_tokens;
        }
        status = fill_row(windows, start, n, inputs + row * row_tokens, targets + row * row_tokens,
                          firsts ? firsts + row * row_tokens : NULL, err);
    }
    return status;
}
