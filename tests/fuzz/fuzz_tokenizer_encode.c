/* Arbitrary text through small vocabularies of all kinds: the first byte chooses vocabulary and
 * flags. Ids are in range, text comes back byte by byte, and streaming it gives valid UTF-8. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/bytelevel.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocab_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_PRE = 6, N_TOKENIZERS = N_PRE + 2 };
static const char *const PRE[N_PRE] = {"default", "llama-bpe", "gpt-2",
                                       "qwen2",   "falcon",    "smollm"};
/* Each longer one is the merge of two that come before it. */
static const char *const PIECES[] = {"th", "the", "in", "er", "aa", "aaaa", "12", "123", "''"};
enum { N_PIECES = sizeof PIECES / sizeof *PIECES };
static const char *const HALVES[N_PIECES][2] = {{"t", "h"}, {"th", "e"}, {"i", "n"},
                                                {"e", "r"}, {"a", "a"},  {"aa", "aa"},
                                                {"1", "2"}, {"12", "3"}, {"'", "'"}};
static bl_tokenizer *tokenizers[N_TOKENIZERS];

static void must(bl_status status) {
    if (status)
        abort();
}

static bl__string string(const char *text) {
    return (bl__string){text, strlen(text)};
}

/* 256 bytes, control and user-defined tokens, and PIECES, with and without a space mark. */
static bl__vocab *make_vocab(bl__vocab_kind kind, const char *pre) {
    bl__vocab *vocab;
    size_t id = 0;
    must(bl__vocab_create(256 + 4 + 2 * N_PIECES + 128, &vocab, NULL));
    vocab->kind = kind;
    vocab->pre = pre;
    for (unsigned byte = 0; byte < 256; byte++, id++) {
        char text[8];
        size_t len = kind == BL_VOCAB_BPE ? bl__utf8_encode(bl__bytelevel_char((uint8_t)byte), text)
                                          : (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        int type = kind == BL_VOCAB_BPE ? BL_TOKEN_NORMAL : BL_TOKEN_BYTE;
        must(bl__vocab_set_token(vocab, id, (bl__string){text, len}, 0, type, NULL));
    }
    must(bl__vocab_set_token(vocab, id++, string("<unk>"), 0, BL_TOKEN_UNKNOWN, NULL));
    must(bl__vocab_set_token(vocab, id++, string("<s>"), 0, BL_TOKEN_CONTROL, NULL));
    must(bl__vocab_set_token(vocab, id++, string("<tool>"), 0, BL_TOKEN_USER_DEFINED, NULL));
    must(bl__vocab_set_token(vocab, id++, string("<tool_call>"), 0, BL_TOKEN_USER_DEFINED, NULL));
    for (size_t i = 0; i < N_PIECES; i++)
        must(bl__vocab_set_token(vocab, id++, string(PIECES[i]), -(double)i, 1, NULL));
    for (size_t i = 0; i < N_PIECES && kind != BL_VOCAB_BPE; i++) {
        char text[16];
        snprintf(text, sizeof text, BL_UTF8_SPACE_MARK "%s", PIECES[i]);
        must(bl__vocab_set_token(vocab, id++, string(text), -(double)(i / 2), 1, NULL));
    }
    for (char c = '!'; c <= '~' && kind != BL_VOCAB_BPE; c++)
        must(bl__vocab_set_token(vocab, id++, (bl__string){&c, 1}, -50, 1, NULL));
    if (kind != BL_VOCAB_BPE)
        must(bl__vocab_set_token(vocab, id++, string(BL_UTF8_SPACE_MARK), -60, 1, NULL));
    must(bl__vocab_index(vocab, NULL));
    must(bl__vocab_reserve_merges(vocab, N_PIECES, NULL));
    for (size_t i = 0; i < N_PIECES && kind == BL_VOCAB_BPE; i++)
        must(bl__vocab_add_merge(vocab, string(HALVES[i][0]), string(HALVES[i][1]), NULL));
    vocab->unk = 256;
    vocab->bos = 257;
    vocab->add_bos = true;
    vocab->add_space_prefix = kind != BL_VOCAB_BPE;
    must(bl__vocab_finish(vocab, NULL));
    return vocab;
}

static void make_tokenizers(void) {
    for (int i = 0; i < N_PRE; i++)
        must(bl__tokenizer_create(make_vocab(BL_VOCAB_BPE, PRE[i]), &tokenizers[i], NULL));
    must(bl__tokenizer_create(make_vocab(BL_VOCAB_SPM, ""), &tokenizers[N_PRE], NULL));
    must(bl__tokenizer_create(make_vocab(BL_VOCAB_UNIGRAM, ""), &tokenizers[N_PRE + 1], NULL));
}

static void check_stream(const bl_tokenizer *tokenizer, const bl_token *ids, size_t n) {
    bl_decoder *decoder;
    must(bl_decoder_create(tokenizer, 1, false, &decoder, NULL));
    for (size_t i = 0; i <= n; i++) {
        size_t len;
        const char *text =
            i < n ? bl_decoder_push(decoder, ids[i], &len) : bl_decoder_finish(decoder, &len);
        if (bl__utf8_valid_prefix(text, len) != len)
            abort();
    }
    bl_decoder_free(decoder);
}

/* True when text holds a U+2581, which SentencePiece gives back as a space. */
static bool has_mark(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (bl__utf8_is_space_mark(text + i, len - i))
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tokenizers[0])
        make_tokenizers();
    if (!size)
        return 0;
    const bl_tokenizer *tokenizer = tokenizers[data[0] % N_TOKENIZERS];
    unsigned flags = data[0] / N_TOKENIZERS % 4;
    const char *text = (const char *)data + 1;
    size_t len = size - 1, n, back_len;
    bl_token *ids;
    char *back;
    must(bl_tokenizer_encode(tokenizer, text, len, flags, &ids, &n, NULL));
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= bl_tokenizer_vocab_size(tokenizer))
            abort();
    check_stream(tokenizer, ids, n);
    size_t skip = flags & BL_TOKENIZE_EXTRA ? 1 : 0; /* BOS */
    must(bl_tokenizer_decode(tokenizer, ids + skip, n - skip, 1, &back, &back_len, NULL));
    if (!has_mark(text, len) && (back_len != len || memcmp(back, text, len) != 0))
        abort();
    bl_free(back);
    bl_free(ids);
    return 0;
}
