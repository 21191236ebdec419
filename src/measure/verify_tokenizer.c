/* Owns the sanity of a tokenizer: ids in range, every id decodes, texts come back. Must not know
 * what kind of tokenizer it is. */
#include <string.h>

#include "bitloom/verify.h"
#include "measure/findings.h"

/* Text of several scripts, digits, spaces and code. */
static const char *const samples[] = {
    "The quick brown fox jumps over the lazy dog.",
    "In 1984, 3.14159 of 27% -- and so on; isn't it? \"Yes!\"",
    "for (int i = 0; i < n; i++) {\n    sum += x[i];\n}\n",
    "na\xc3\xafve caf\xc3\xa9, \xce\xb1\xce\xb2\xce\xb3, \xd0\xbc\xd0\xb8\xd1\x80",
    "\xe4\xbd\xa0\xe5\xa5\xbd, \xe3\x81\x93\xe3\x82\x93, \xf0\x9f\x98\x80",
};

static void check_special(const bl__findings *f, const char *what, bl_token id, size_t n_tokens) {
    if (id >= 0 && (size_t)id >= n_tokens)
        bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_FAIL,
                         "%s is token %d, the vocabulary has %zu", what, id, n_tokens);
}

/* How many tokens decode to no byte, written out; their first by *first. */
static size_t count_silent(const bl_tokenizer *tokenizer, size_t n_tokens, size_t *first) {
    size_t n = 0;
    for (size_t i = 0; i < n_tokens; i++) {
        size_t len;
        (void)bl_tokenizer_piece(tokenizer, (bl_token)i, BL_DETOKENIZE_SPECIAL, &len);
        if (!len && !n++)
            *first = i;
    }
    return n;
}

/* Encodes and decodes one text. *same: it came back. */
static bl_status check_sample(const bl__findings *f, const bl_tokenizer *tokenizer,
                              const char *text, size_t n_tokens, bool *same, bl_error *err) {
    bl_token *ids = NULL;
    char *again = NULL;
    size_t n_ids = 0, len = 0;
    bl_status status = bl_tokenizer_encode(tokenizer, text, strlen(text), 0, &ids, &n_ids, err);
    for (size_t i = 0; !status && i < n_ids; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= n_tokens) {
            bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_FAIL,
                             "a text gives token %d, the vocabulary has %zu", ids[i], n_tokens);
            break;
        }
    if (!status)
        status = bl_tokenizer_decode(tokenizer, ids, n_ids, 0, &again, &len, err);
    if (!status)
        *same = len == strlen(text) && memcmp(again, text, len) == 0;
    bl_free(ids);
    bl_free(again);
    return status;
}

static bl_status check_texts(const bl__findings *f, const bl_tokenizer *tokenizer, size_t n_tokens,
                             size_t *n_same, bl_error *err) {
    bl_status status = BL_OK;
    *n_same = 0;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0] && !status; i++) {
        bool same = false;
        status = check_sample(f, tokenizer, samples[i], n_tokens, &same, err);
        *n_same += same;
        if (!status && !same)
            bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_WARN,
                             "a text does not come back: %.60s", samples[i]);
    }
    if (status && status != BL_ERR_MEMORY) {
        bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_FAIL, "%s", err->message);
        return BL_OK;
    }
    return status;
}

bl_status bl__verify_tokenizer(const bl__findings *f, const char *path, uint32_t vocab,
                               bl_error *err) {
    bl_tokenizer *tokenizer;
    bl_error problem;
    size_t n_same, first = 0;
    bl_status status = bl_tokenizer_open(path, &tokenizer, &problem);
    if (status == BL_ERR_MEMORY) {
        if (err)
            *err = problem;
        return status;
    }
    if (status) {
        bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_FAIL, "%s", problem.message);
        return BL_OK;
    }
    size_t n_tokens = bl_tokenizer_vocab_size(tokenizer);
    if (vocab && n_tokens > vocab)
        bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_FAIL,
                         "%zu tokens, the model's embedding has %u", n_tokens, vocab);
    check_special(f, "BOS", bl_tokenizer_bos(tokenizer), n_tokens);
    check_special(f, "EOS", bl_tokenizer_eos(tokenizer), n_tokens);
    size_t n_silent = count_silent(tokenizer, n_tokens, &first);
    if (n_silent)
        bl__findings_add(f, BL_CHECK_TOKENIZER, BL_VERIFY_WARN,
                         "%zu tokens decode to nothing, the first is %zu", n_silent, first);
    status = check_texts(f, tokenizer, n_tokens, &n_same, &problem);
    if (status && err)
        *err = problem;
    bl__findings_settle(f, BL_CHECK_TOKENIZER, BL_VERIFY_PASS,
                        "%s, %zu tokens, %zu of %zu texts "
                        "come back",
                        bl_tokenizer_kind(tokenizer), n_tokens, n_same,
                        sizeof samples / sizeof samples[0]);
    bl_tokenizer_close(tokenizer);
    return status;
}
