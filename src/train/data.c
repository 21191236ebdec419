/* Owns the reading of token files. Must not know windows or how files are made. */
#include "train/data.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "tokenizer/textmap.h"
#include "tokenizer/vocab.h"

static bl_status fail_field(bl_error *err, const char *field, uint64_t found, const char *expected,
                            uint64_t limit) {
    return bl__fail(err, BL_ERR_FORMAT, "token file: %s: found %llu, expected %s %llu", field,
                    (unsigned long long)found, expected, (unsigned long long)limit);
}

/* Everything of the header that can be judged without the rest. */
static bl_status read_header(const uint8_t *data, size_t len, bl__tokens *out, bl_error *err) {
    if (len < BL_TOKENS_HEADER || memcmp(data, "BLTOKENS", 8) != 0)
        return bl__fail(err, BL_ERR_FORMAT,
                        "not a token file: no \"BLTOKENS\" at its start (make one with bitloom "
                        "data build)");
    uint32_t version = bl__load_u32(data + 8);
    if (version != BL_TOKENS_VERSION)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "token file: version %u, expected %d", version,
                        BL_TOKENS_VERSION);
    uint32_t width = bl__load_u32(data + 12);
    uint64_t vocab = bl__load_u64(data + 16), n_tokens = bl__load_u64(data + 24);
    uint64_t n_docs = bl__load_u64(data + 32), n_train = bl__load_u64(data + 40);
    if (width != 2 && width != 4)
        return bl__fail(err, BL_ERR_FORMAT, "token file: bytes of an id: found %u, expected 2 or 4",
                        width);
    if (vocab == 0 || vocab > INT32_MAX)
        return fail_field(err, "vocabulary", vocab, "1 to", INT32_MAX);
    if (n_tokens > (len - BL_TOKENS_HEADER) / width)
        return fail_field(err, "tokens", n_tokens, "at most, by the file's size,",
                          (len - BL_TOKENS_HEADER) / width);
    if (n_train > n_tokens)
        return fail_field(err, "tokens for training", n_train, "at most", n_tokens);
    if (n_docs > n_tokens || (n_tokens && !n_docs))
        return fail_field(err, "documents", n_docs, "at least 1 and at most", n_tokens);
    *out = (bl__tokens){.width = width,
                        .vocab = (size_t)vocab,
                        .n_tokens = (size_t)n_tokens,
                        .n_docs = (size_t)n_docs,
                        .n_train = (size_t)n_train,
                        .fingerprint = bl__load_u64(data + 48),
                        .text_bytes = bl__load_u64(data + 56)};
    return BL_OK;
}

static bl_status check_docs(const bl__tokens *tokens, bl_error *err) {
    for (size_t i = 0; i < tokens->n_docs; i++) {
        uint64_t least = i ? tokens->docs[i - 1] + 1 : 0;
        uint64_t most = i ? tokens->n_tokens - 1 : 0;
        if (tokens->docs[i] < least || tokens->docs[i] > most)
            return bl__fail(err, BL_ERR_FORMAT,
                            "token file: document %zu begins at token %llu, expected %llu to %llu",
                            i, (unsigned long long)tokens->docs[i], (unsigned long long)least,
                            (unsigned long long)most);
    }
    return BL_OK;
}

bl_status bl__tokens_parse(const uint8_t *data, size_t len, bl__tokens *out, bl_error *err) {
    bl__tokens tokens;
    bl_status status = read_header(data, len, &tokens, err);
    if (status)
        return status;
    /* Neither can overflow: the ids fit the file, and there are no more documents than ids. */
    size_t ids_end = (BL_TOKENS_HEADER + tokens.n_tokens * tokens.width + 7) & ~(size_t)7;
    uint64_t expected = (uint64_t)ids_end + (uint64_t)tokens.n_docs * 8;
    if (len != expected)
        return fail_field(err, "size", len, "bytes, by its header,", expected);
    tokens.ids = data + BL_TOKENS_HEADER;
    tokens.docs = (const uint64_t *)(const void *)(data + ids_end);
    status = check_docs(&tokens, err);
    if (!status)
        *out = tokens;
    return status;
}

bl_status bl__tokens_open(const char *path, bl__tokens *out, bl_error *err) {
    bl__filemap map;
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status;
    bl__tokens tokens;
    status = bl__tokens_parse(map.data, map.len, &tokens, err);
    if (status) {
        bl__error_prefix(err, path);
        bl__filemap_close(&map);
        return status;
    }
    tokens.map = map;
    *out = tokens;
    return BL_OK;
}

void bl__tokens_close(bl__tokens *tokens) {
    bl__filemap_close(&tokens->map);
    *tokens = (bl__tokens){0};
}

bl_status bl__tokens_check(const bl__tokens *tokens, bl_error *err) {
    for (size_t i = 0; i < tokens->n_tokens; i++)
        if (bl__tokens_id(tokens, i) >= tokens->vocab)
            return bl__fail(err, BL_ERR_FORMAT, "token file: token %zu: id %u, expected below %zu",
                            i, bl__tokens_id(tokens, i), tokens->vocab);
    return BL_OK;
}

size_t bl__tokens_doc(const bl__tokens *tokens, size_t i) {
    size_t low = 0, high = tokens->n_docs; /* docs[low] <= i < docs[high] */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (tokens->docs[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint64_t fold(uint64_t hash, const void *data, size_t len) {
    uint64_t both[2] = {hash, bl__text_hash(data, len)};
    return bl__text_hash((const char *)both, sizeof both);
}

uint64_t bl__tokenizer_fingerprint(const bl_tokenizer *tokenizer) {
    const bl__vocab *vocab = bl__tokenizer_vocab(tokenizer);
    uint64_t hash = fold(vocab->n_tokens, vocab->pre, strlen(vocab->pre));
    const uint8_t flags[] = {(uint8_t)vocab->kind, vocab->add_space_prefix,
                             vocab->remove_extra_whitespaces, vocab->ignore_merges, vocab->nfc};
    hash = fold(hash, flags, sizeof flags);
    for (size_t i = 0; i < vocab->n_tokens; i++)
        hash = fold(hash, vocab->tokens[i].text.data, vocab->tokens[i].text.len);
    /* Merges are in the order of their ranks; unigram models have scores instead. */
    for (size_t i = 0; i < vocab->n_merges; i++)
        hash = fold(hash, &vocab->merges[i], sizeof vocab->merges[i]);
    for (size_t i = 0; i < vocab->n_tokens && vocab->kind == BL_VOCAB_UNIGRAM; i++)
        hash = fold(hash, &vocab->tokens[i].score, sizeof vocab->tokens[i].score);
    return hash;
}

bl_status bl__tokens_match(const bl__tokens *tokens, const bl_tokenizer *tokenizer, bl_error *err) {
    size_t vocab = bl_tokenizer_vocab_size(tokenizer);
    if (tokens->vocab != vocab)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "token file: made with a vocabulary of %zu tokens, the tokenizer has %zu",
                        tokens->vocab, vocab);
    uint64_t fingerprint = bl__tokenizer_fingerprint(tokenizer);
    if (tokens->fingerprint != fingerprint)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "token file: made with another tokenizer (fingerprint %016llx, this one's "
                        "is %016llx)",
                        (unsigned long long)tokens->fingerprint, (unsigned long long)fingerprint);
    return BL_OK;
}
