/* Owns the public view of token files. Must not know their format. */
#include "base/alloc.h"
#include "base/error.h"
#include "bitloom/data.h"
#include "train/data.h"

struct bl_data {
    bl__tokens tokens;
};

bl_status bl_data_open(const char *path, bl_data **out, bl_error *err) {
    bl_data *data = bl__calloc(1, sizeof *data);
    if (!data)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate its description", path);
    bl_status status = bl__tokens_open(path, &data->tokens, err);
    if (status) {
        bl__free(data);
        return status;
    }
    *out = data;
    return BL_OK;
}

void bl_data_close(bl_data *data) {
    if (!data)
        return;
    bl__tokens_close(&data->tokens);
    bl__free(data);
}

bl_data_info bl_data_get_info(const bl_data *data) {
    const bl__tokens *tokens = &data->tokens;
    return (bl_data_info){.vocab = tokens->vocab,
                          .bytes_per_id = tokens->width,
                          .n_tokens = tokens->n_tokens,
                          .n_docs = tokens->n_docs,
                          .n_train_tokens = tokens->n_train,
                          .text_bytes = tokens->text_bytes,
                          .fingerprint = tokens->fingerprint};
}

bl_status bl_data_check(const bl_data *data, bl_error *err) {
    return bl__tokens_check(&data->tokens, err);
}

bl_status bl_data_match(const bl_data *data, const bl_tokenizer *tokenizer, bl_error *err) {
    return bl__tokens_match(&data->tokens, tokenizer, err);
}

bl_status bl_data_read(const bl_data *data, uint64_t first, size_t n, bl_token *ids,
                       bl_error *err) {
    const bl__tokens *tokens = &data->tokens;
    if (first > tokens->n_tokens || n > tokens->n_tokens - first)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: tokens %llu and %zu more, of %zu",
                        (unsigned long long)first, n, tokens->n_tokens);
    for (size_t i = 0; i < n; i++) {
        uint32_t id = bl__tokens_id(tokens, (size_t)first + i);
        if (id >= tokens->vocab)
            return bl__fail(err, BL_ERR_FORMAT, "token file: token %zu: id %u, expected below %zu",
                            (size_t)first + i, id, tokens->vocab);
        ids[i] = (bl_token)id;
    }
    return BL_OK;
}

bl_status bl_data_document(const bl_data *data, uint64_t doc, uint64_t *first, uint64_t *n,
                           bl_error *err) {
    const bl__tokens *tokens = &data->tokens;
    if (doc >= tokens->n_docs)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: document %llu, of %zu",
                        (unsigned long long)doc, tokens->n_docs);
    uint64_t end = doc + 1 < tokens->n_docs ? tokens->docs[doc + 1] : tokens->n_tokens;
    *first = tokens->docs[doc];
    *n = end - *first;
    return BL_OK;
}
