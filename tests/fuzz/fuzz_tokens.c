/* A token file from arbitrary bytes: parse, check, then read windows of both parts. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "train/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_windows(const bl__tokens *tokens, size_t row_tokens, bool ids_good) {
    enum { N_ROWS = 3, MAX_ROW = 8 };
    int32_t inputs[N_ROWS * MAX_ROW], targets[N_ROWS * MAX_ROW], firsts[N_ROWS * MAX_ROW];
    bl__windows windows;
    if (bl__windows_init(tokens, row_tokens, tokens->fingerprint, true, &windows, NULL) != BL_OK)
        return;
    for (size_t i = 0; i < 8; i++) {
        bl_status train =
            bl__windows_train(&windows, i * 977, N_ROWS, inputs, targets, firsts, NULL);
        bl_status valid = bl__windows_valid(&windows, i, N_ROWS, inputs, targets, firsts, NULL);
        if (ids_good && (train || valid))
            abort();
        for (size_t k = 0; !valid && k < N_ROWS * row_tokens; k++)
            if (firsts[k] < 0 || (size_t)firsts[k] > k % row_tokens ||
                (k % row_tokens && firsts[k] < firsts[k - 1]))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* Parsing wants 8-byte alignment, which a file's map has. */
    uint8_t *copy = aligned_alloc(8, (size / 8 + 1) * 8);
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    bl__tokens tokens;
    if (bl__tokens_parse(copy, size, &tokens, NULL) == BL_OK) {
        bool ids_good = bl__tokens_check(&tokens, NULL) == BL_OK;
        for (size_t row_tokens = 1; row_tokens <= 8; row_tokens++)
            read_windows(&tokens, row_tokens, ids_good);
        for (size_t i = 0; i < tokens.n_tokens; i++)
            if (tokens.docs[bl__tokens_doc(&tokens, i)] > i)
                abort();
    }
    free(copy);
    return 0;
}
