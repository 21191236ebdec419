/* Owns the memory and the invariants of vocabularies. Must not know any file format. */
#include "tokenizer/vocab.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/textmap.h"
#include "tokenizer/vocab_build.h"

enum { CHUNK_BYTES = 1 << 16, MAX_HOLES = 1 << 16 };

/* Texts live in chunks that never move. */
typedef struct text_chunk text_chunk;
struct text_chunk {
    text_chunk *next;
    size_t used, size;
    char bytes[];
};

typedef struct vocab_storage {
    text_chunk *chunks;
    bl__textmap by_text;
    uint8_t *is_end;   /* [n_tokens] */
    size_t merge_room; /* merges allocated */
    char *joined;      /* [2 * BL_VOCAB_MAX_TOKEN_BYTES] where merges join their halves */
} vocab_storage;

#define WIDE_BAR "\xef\xbd\x9c" /* U+FF5C */

/* Texts that end a generation whatever the file says about them; as llama.cpp has them. */
static const char *const END_TEXTS[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<eos>",
    "</s>",
    ("<" WIDE_BAR "end\xe2\x96\x81of\xe2\x96\x81sentence" WIDE_BAR ">"),
};

static vocab_storage *storage_of(const bl__vocab *vocab) {
    return vocab->storage;
}

void bl__vocab_free(bl__vocab *vocab) {
    if (!vocab)
        return;
    vocab_storage *storage = storage_of(vocab);
    if (storage) {
        for (text_chunk *chunk = storage->chunks, *next; chunk; chunk = next) {
            next = chunk->next;
            bl__free(chunk);
        }
        bl__textmap_destroy(&storage->by_text);
        bl__free(storage->is_end);
        bl__free(storage->joined);
        bl__free(storage);
    }
    bl__free(vocab->tokens);
    bl__free(vocab->merges);
    bl__free(vocab->ends);
    bl__free(vocab);
}

bl_status bl__vocab_check_holes(size_t n_ids, size_t n_tokens, bl_error *err) {
    if (n_ids > n_tokens && n_ids - n_tokens > MAX_HOLES)
        return bl__fail(err, BL_ERR_LIMIT, "vocabulary: ids up to %zu for %zu tokens", n_ids - 1,
                        n_tokens);
    return BL_OK;
}

bl_status bl__vocab_create(size_t n_tokens, bl__vocab **out, bl_error *err) {
    if (n_tokens == 0)
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: no tokens");
    if (n_tokens > BL_VOCAB_MAX_TOKENS)
        return bl__fail(err, BL_ERR_LIMIT, "vocabulary: %zu tokens, at most %d allowed", n_tokens,
                        BL_VOCAB_MAX_TOKENS);
    bl__vocab *vocab = bl__calloc(1, sizeof *vocab);
    vocab_storage *storage = bl__calloc(1, sizeof *storage);
    if (!vocab || !storage)
        goto fail;
    vocab->storage = storage;
    vocab->tokens = bl__calloc(n_tokens, sizeof *vocab->tokens);
    storage->is_end = bl__calloc(n_tokens, 1);
    if (!vocab->tokens || !storage->is_end)
        goto fail;
    for (size_t i = 0; i < n_tokens; i++) {
        vocab->tokens[i].text.data = "";
        vocab->tokens[i].type = BL_TOKEN_UNUSED;
    }
    vocab->pre = "";
    vocab->n_tokens = n_tokens;
    vocab->bos = vocab->eos = vocab->unk = vocab->pad = -1;
    *out = vocab;
    return BL_OK;
fail:
    if (!vocab || !vocab->storage)
        bl__free(storage);
    bl__vocab_free(vocab);
    return bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu tokens", n_tokens);
}

bl_status bl__vocab_keep(bl__vocab *vocab, const char *text, size_t len, const char **out,
                         bl_error *err) {
    vocab_storage *storage = storage_of(vocab);
    text_chunk *chunk = storage->chunks;
    if (!chunk || len >= chunk->size - chunk->used) {
        size_t size = len < CHUNK_BYTES ? CHUNK_BYTES : len + 1;
        chunk = len < SIZE_MAX - sizeof *chunk - 1 ? bl__malloc(sizeof *chunk + size) : NULL;
        if (!chunk)
            return bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu bytes of text",
                            len);
        *chunk = (text_chunk){.next = storage->chunks, .size = size};
        storage->chunks = chunk;
    }
    char *copy = chunk->bytes + chunk->used;
    if (len)
        memcpy(copy, text, len);
    copy[len] = '\0';
    chunk->used += len + 1;
    *out = copy;
    return BL_OK;
}

bl_status bl__vocab_set_token(bl__vocab *vocab, size_t id, bl__string text, double score,
                              int64_t type, bl_error *err) {
    bl__vocab_token *token = &vocab->tokens[id];
    if (text.len > BL_VOCAB_MAX_TOKEN_BYTES)
        return bl__fail(err, BL_ERR_LIMIT,
                        "vocabulary: token %zu has %zu bytes, at most %d allowed", id, text.len,
                        BL_VOCAB_MAX_TOKEN_BYTES);
    if (!isfinite((float)score))
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: the score of token %zu is not finite", id);
    if (type < BL_TOKEN_NORMAL || type > BL_TOKEN_BYTE)
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: token %zu has type %lld, expected 1 ... 6",
                        id, (long long)type);
    const char *copy;
    bl_status status = bl__vocab_keep(vocab, text.data, text.len, &copy, err);
    if (status)
        return status;
    token->text = (bl__string){copy, text.len};
    token->score = (float)score;
    token->type = (uint8_t)type;
    return BL_OK;
}

bl_status bl__vocab_index(bl__vocab *vocab, bl_error *err) {
    vocab_storage *storage = storage_of(vocab);
    size_t n_texts = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        n_texts += vocab->tokens[i].text.len != 0;
    bl_status status = bl__textmap_create(n_texts, &storage->by_text, err);
    if (status)
        return status;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__string text = vocab->tokens[i].text;
        if (!text.len) /* nothing can ever become this token */
            continue;
        int32_t first = bl__textmap_add(&storage->by_text, text.data, text.len, (int32_t)i);
        if (first != (int32_t)i)
            return bl__fail(err, BL_ERR_FORMAT, "vocabulary: tokens %d and %zu are both \"%.60s\"",
                            first, i, text.data);
    }
    return BL_OK;
}

bl_token bl__vocab_find(const bl__vocab *vocab, const char *text, size_t len) {
    return bl__textmap_find(&storage_of(vocab)->by_text, text, len);
}

bl_status bl__vocab_reserve_merges(bl__vocab *vocab, size_t n_merges, bl_error *err) {
    vocab_storage *storage = storage_of(vocab);
    if (n_merges > BL_VOCAB_MAX_MERGES)
        return bl__fail(err, BL_ERR_LIMIT, "vocabulary: %zu merges, at most %d allowed", n_merges,
                        BL_VOCAB_MAX_MERGES);
    vocab->merges = bl__malloc_array(n_merges, sizeof *vocab->merges);
    storage->joined = bl__malloc(2 * BL_VOCAB_MAX_TOKEN_BYTES);
    if (!vocab->merges || !storage->joined)
        return bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu merges", n_merges);
    storage->merge_room = n_merges;
    return BL_OK;
}

static bl_status fail_merge(const bl__vocab *vocab, bl__string text, bl_error *err) {
    int len = text.len > 60 ? 60 : (int)text.len;
    return bl__fail(err, BL_ERR_FORMAT, "vocabulary: merge %zu names \"%.*s\", which is no token",
                    vocab->n_merges, len, text.data);
}

bl_status bl__vocab_add_merge(bl__vocab *vocab, bl__string left, bl__string right, bl_error *err) {
    vocab_storage *storage = storage_of(vocab);
    if (vocab->n_merges == storage->merge_room)
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: more merges than announced");
    bl_token l = left.len ? bl__vocab_find(vocab, left.data, left.len) : -1;
    if (l < 0)
        return fail_merge(vocab, left, err);
    bl_token r = right.len ? bl__vocab_find(vocab, right.data, right.len) : -1;
    if (r < 0)
        return fail_merge(vocab, right, err);
    /* Both are tokens, hence no longer than BL_VOCAB_MAX_TOKEN_BYTES. */
    memcpy(storage->joined, left.data, left.len);
    memcpy(storage->joined + left.len, right.data, right.len);
    bl__string joined = {storage->joined, left.len + right.len};
    bl_token result = bl__vocab_find(vocab, joined.data, joined.len);
    if (result < 0)
        return fail_merge(vocab, joined, err);
    vocab->merges[vocab->n_merges++] =
        (bl__vocab_merge){(uint32_t)l, (uint32_t)r, (uint32_t)result};
    return BL_OK;
}

bl_status bl__vocab_add_end(bl__vocab *vocab, int64_t id, const char *what, bl_error *err) {
    if (id < 0 || (uint64_t)id >= vocab->n_tokens)
        return bl__fail(err, BL_ERR_FORMAT, "%s: token %lld, but the vocabulary has %zu tokens",
                        what, (long long)id, vocab->n_tokens);
    storage_of(vocab)->is_end[id] = 1;
    return BL_OK;
}

/* Marks tokens by their text. One with bars is never ordinary text: where the file calls it normal
 * it is made a control token, so that it is neither spelt out to the user nor taken apart in a chat
 * template. Others, such as </s>, are words of HTML in some vocabularies and mean the end only
 * where the file sets them apart. */
static void mark_known_ends(bl__vocab *vocab) {
    for (size_t i = 0; i < sizeof END_TEXTS / sizeof *END_TEXTS; i++) {
        const char *text = END_TEXTS[i];
        bl_token id = bl__vocab_find(vocab, text, strlen(text));
        if (id < 0)
            continue;
        bool barred = text[1] == '|' || strncmp(text + 1, WIDE_BAR, strlen(WIDE_BAR)) == 0;
        if (!barred && vocab->tokens[id].type == BL_TOKEN_NORMAL)
            continue;
        storage_of(vocab)->is_end[id] = 1;
        vocab->tokens[id].type = BL_TOKEN_CONTROL;
    }
}

bl_status bl__vocab_finish(bl__vocab *vocab, bl_error *err) {
    const struct {
        const char *name;
        bl_token id;
    } ids[] = {{"beginning of text", vocab->bos},
               {"end of text", vocab->eos},
               {"unknown", vocab->unk},
               {"padding", vocab->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id < -1 || (ids[i].id >= 0 && (size_t)ids[i].id >= vocab->n_tokens))
            return bl__fail(err, BL_ERR_FORMAT,
                            "vocabulary: the %s token is %d, but there are %zu tokens", ids[i].name,
                            ids[i].id, vocab->n_tokens);
    if (vocab->add_bos && vocab->bos < 0)
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: asks to add a BOS token but names none");
    if (vocab->add_eos && vocab->eos < 0)
        return bl__fail(err, BL_ERR_FORMAT, "vocabulary: asks to add an EOS token but names none");

    uint8_t *is_end = storage_of(vocab)->is_end;
    mark_known_ends(vocab);
    if (vocab->eos >= 0)
        is_end[vocab->eos] = 1;
    size_t n = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        n += is_end[i];
    vocab->ends = bl__malloc_array(n, sizeof *vocab->ends);
    if (!vocab->ends)
        return bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu end tokens", n);
    for (size_t i = 0; i < vocab->n_tokens; i++)
        if (is_end[i])
            vocab->ends[vocab->n_ends++] = (bl_token)i;
    return BL_OK;
}
