/* Owns the way from text to ids: special tokens first, then normalization, words, merging. Must not
 * know files.
 *
 * Everything that changes during a call lives in an `encoder`, so that a tokenizer can be shared by
 * threads. Words repeat, so a small table of the last ones and their ids spares most of the work.
 */
#include <ctype.h>
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

enum {
    CACHED_WORD_BYTES = 23,
    CACHED_WORD_IDS = 8,
    MIN_CACHE_WORDS = 1 << 4,
    MAX_CACHE_WORDS = 1 << 14,
    BYTES_PER_CACHED_WORD = 16 /* of text: short texts get a small cache */
};

/* 64 bytes, one cache line. */
typedef struct cached_word {
    uint64_t hash;
    uint8_t len; /* 0 = free */
    char bytes[CACHED_WORD_BYTES];
    bl_token ids[CACHED_WORD_IDS]; /* -1 after the last */
} cached_word;
_Static_assert(sizeof(cached_word) == 64, "a cached word fills one cache line");

typedef struct encoder {
    const bl_tokenizer *tokenizer;
    bl__token_list list;
    size_t fragment; /* list.n where the present stretch of ordinary text began */
    bl__merger merger;
    bl__splitter *splitter;
    cached_word *cache; /* [cache_mask + 1] */
    size_t cache_mask;
    char *text; /* [text_room] normalized text */
    size_t text_room;
    bool after_special; /* at the start of the text or behind a special token */
} encoder;

bl_status bl__token_list_reserve(bl__token_list *list, size_t extra, bl_error *err) {
    if (extra <= list->room - list->n)
        return BL_OK;
    size_t need;
    bl_token *ids = NULL;
    if (bl__add_size(list->n, extra, &need) && bl__add_size(need, need / 2, &need))
        ids = bl__realloc_array(list->ids, need, sizeof *ids);
    if (!ids)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate the ids");
    list->ids = ids;
    list->room = need;
    return BL_OK;
}

static bl_status reserve_text(encoder *enc, size_t room, bl_error *err) {
    if (room <= enc->text_room)
        return BL_OK;
    bl__free(enc->text);
    enc->text_room = 0;
    enc->text = bl__malloc(room);
    if (!enc->text)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate %zu bytes of text", room);
    enc->text_room = room;
    return BL_OK;
}

/* Room must be there. Unknown tokens in a row count as one, as in SentencePiece. */
static void add_id(encoder *enc, bl_token id) {
    bl__token_list *list = &enc->list;
    bool again =
        id == enc->tokenizer->vocab->unk && list->n > enc->fragment && list->ids[list->n - 1] == id;
    if (!again)
        list->ids[list->n++] = id;
}

static bool find_cached(encoder *enc, const char *word, size_t len, uint64_t hash) {
    const cached_word *entry = &enc->cache[hash & enc->cache_mask];
    if (entry->hash != hash || entry->len != len || memcmp(entry->bytes, word, len) != 0)
        return false;
    for (size_t i = 0; i < CACHED_WORD_IDS && entry->ids[i] >= 0; i++)
        add_id(enc, entry->ids[i]);
    return true;
}

static void cache_word(encoder *enc, const char *word, size_t len, uint64_t hash,
                       const bl_token *ids, size_t n) {
    if (n > CACHED_WORD_IDS)
        return;
    cached_word *entry = &enc->cache[hash & enc->cache_mask];
    entry->hash = hash;
    entry->len = (uint8_t)len;
    memcpy(entry->bytes, word, len);
    for (size_t i = 0; i < CACHED_WORD_IDS; i++)
        entry->ids[i] = i < n ? ids[i] : -1;
}

/* The word's first symbols: its bytes (byte-level BPE) or its characters (SentencePiece). */
static size_t make_symbols(const encoder *enc, const char *word, size_t len, bl__symbol *symbols) {
    const bl_tokenizer *tokenizer = enc->tokenizer;
    if (tokenizer->vocab->kind == BL_VOCAB_BPE) {
        for (size_t i = 0; i < len; i++) {
            bl_token id = tokenizer->byte_token[(uint8_t)word[i]];
            symbols[i] = (bl__symbol){id < 0 ? BL_SYMBOL_NONE : (uint32_t)id, (uint32_t)i};
        }
        return len;
    }
    size_t n_symbols = 0;
    for (size_t i = 0, n; i < len; i += n) {
        n = bl__utf8_len(word + i, len - i);
        n = n ? n : 1;
        int32_t id = bl__textmap_find(&tokenizer->chars, word + i, n);
        symbols[n_symbols++] = (bl__symbol){id < 0 ? BL_SYMBOL_NONE : (uint32_t)id, (uint32_t)i};
    }
    return n_symbols;
}

/* Appends what stands for bytes that no token covers: byte tokens, or the unknown token, or, like
 * the reference implementations, nothing. */
static void add_uncovered(encoder *enc, const char *bytes, size_t len) {
    const bl_tokenizer *tokenizer = enc->tokenizer;
    bool bytewise = tokenizer->byte_fallback && tokenizer->vocab->kind != BL_VOCAB_BPE;
    for (size_t i = 0; bytewise && i < len; i++)
        add_id(enc, tokenizer->byte_token[(uint8_t)bytes[i]]);
    if (!bytewise && tokenizer->vocab->unk >= 0)
        add_id(enc, tokenizer->vocab->unk);
}

static bl_status merge_word(encoder *enc, const char *word, size_t len, bl_error *err) {
    bl__merger *merger = &enc->merger;
    bl_status status = bl__merger_reserve(merger, len, err);
    if (status)
        return status;
    size_t n = make_symbols(enc, word, len, merger->symbols);
    status = bl__merger_run(merger, &n, err);
    for (size_t i = 0; i < n && !status; i++) {
        size_t start = merger->symbols[i].start;
        size_t end = i + 1 < n ? merger->symbols[i + 1].start : len;
        uint32_t id = merger->symbols[i].id;
        if (id < enc->tokenizer->vocab->n_tokens)
            add_id(enc, (bl_token)id);
        else
            add_uncovered(enc, word + start, end - start);
    }
    return status;
}

static bl_status encode_word(void *user, const char *word, size_t len, bl_error *err) {
    encoder *enc = user;
    bl__token_list *list = &enc->list;
    /* Never more tokens than bytes; one more makes room for what the cache may hold. */
    bl_status status =
        bl__token_list_reserve(list, len > CACHED_WORD_IDS ? len : CACHED_WORD_IDS, err);
    if (status)
        return status;
    bool cacheable = len <= CACHED_WORD_BYTES;
    uint64_t hash = cacheable ? bl__text_hash(word, len) : 0;
    if (cacheable && find_cached(enc, word, len, hash))
        return BL_OK;
    const bl__vocab *vocab = enc->tokenizer->vocab;
    size_t before = list->n;
    bl_token whole =
        vocab->ignore_merges ? bl__textmap_find(&enc->tokenizer->words, word, len) : -1;
    if (whole >= 0)
        add_id(enc, whole);
    else
        status = merge_word(enc, word, len, err);
    /* A word that lost an unknown token to the one before it would be remembered wrongly. */
    bool fused = before > enc->fragment && list->ids[before - 1] == vocab->unk;
    if (!status && cacheable && !fused)
        cache_word(enc, word, len, hash, list->ids + before, list->n - before);
    return status;
}

/* Writes text with U+2581 for spaces into enc->text; returns its length. Room must be there. */
static size_t mark_spaces(encoder *enc, const char *text, size_t len) {
    const bl__vocab *vocab = enc->tokenizer->vocab;
    bool squeeze = vocab->remove_extra_whitespaces;
    while (squeeze && len && *text == ' ') {
        text++;
        len--;
    }
    while (squeeze && len && text[len - 1] == ' ')
        len--;
    if (!len)
        return 0;
    char *out = enc->text;
    if (vocab->add_space_prefix && enc->after_special) {
        memcpy(out, BL_UTF8_SPACE_MARK, BL_UTF8_SPACE_MARK_LEN);
        out += BL_UTF8_SPACE_MARK_LEN;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] != ' ') {
            *out++ = text[i];
        } else if (!squeeze || text[i - 1] != ' ') { /* squeezed text begins with no space */
            memcpy(out, BL_UTF8_SPACE_MARK, BL_UTF8_SPACE_MARK_LEN);
            out += BL_UTF8_SPACE_MARK_LEN;
        }
    }
    size_t n = (size_t)(out - enc->text);
    /* SentencePiece trims after marking: marks that stood in the text itself go as well. */
    while (squeeze && n && bl__utf8_ends_with_space_mark(enc->text, n))
        n -= BL_UTF8_SPACE_MARK_LEN;
    return n;
}

/* Where the word at the start of text ends: before a space mark that follows something else. */
static size_t find_word_end(const char *text, size_t len) {
    size_t i = 0;
    while (bl__utf8_is_space_mark(text + i, len - i))
        i += BL_UTF8_SPACE_MARK_LEN;
    for (;;) {
        const char *mark =
            i < len ? memchr(text + i, (unsigned char)BL_UTF8_SPACE_MARK[0], len - i) : NULL;
        if (!mark)
            return len;
        i = (size_t)(mark - text);
        if (bl__utf8_is_space_mark(mark, len - i))
            return i;
        i++;
    }
}

static bl_status encode_sentencepiece(encoder *enc, const char *text, size_t len, bl_error *err) {
    const bl_tokenizer *tokenizer = enc->tokenizer;
    size_t n_spaces = 1;
    for (size_t i = 0; i < len; i++)
        n_spaces += text[i] == ' ';
    bl_status status = reserve_text(enc, len + BL_UTF8_SPACE_MARK_LEN * n_spaces, err);
    if (status)
        return status;
    size_t marked = mark_spaces(enc, text, len);
    if (tokenizer->vocab->kind == BL_VOCAB_UNIGRAM)
        return bl__unigram_encode(tokenizer, enc->text, marked, &enc->list, err);
    for (size_t at = 0; at < marked && !status;) {
        size_t n =
            tokenizer->split_words ? find_word_end(enc->text + at, marked - at) : marked - at;
        status = encode_word(enc, enc->text + at, n, err);
        at += n;
    }
    return status;
}

/* Brings text to NFC. What is not UTF-8 stays as it is. */
static bl_status normalize(encoder *enc, const char **text, size_t *len, bl_error *err) {
    size_t ascii = 0;
    while (ascii < *len && (uint8_t)(*text)[ascii] < 0x80)
        ascii++;
    if (ascii == *len)
        return BL_OK;
    /* One code point a byte at most; decomposed and composed again, a UTF-8 text grows to no more
     * than three times its length (Unicode Standard Annex 15, section 9). */
    enum { GROWTH = 3 };
    utf8proc_ssize_t room = (utf8proc_ssize_t)*len * GROWTH + 1;
    bl_status status = reserve_text(enc, (size_t)room, err);
    int32_t *points = status ? NULL : bl__malloc_array((size_t)room, sizeof *points);
    if (!status && !points)
        status = bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate text to normalize");
    size_t out = 0;
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    for (size_t at = 0; at < *len && !status;) {
        size_t valid = bl__utf8_valid_prefix(*text + at, *len - at);
        utf8proc_ssize_t n =
            valid ? utf8proc_decompose((const utf8proc_uint8_t *)*text + at,
                                       (utf8proc_ssize_t)valid, points, room, options)
                  : 0;
        if (n > 0 && n < room)
            n = utf8proc_normalize_utf32(points, n, options);
        if (n < 0 || n >= room) {
            status = bl__fail(err, BL_ERR_LIMIT, "tokenizer: Unicode normalization failed");
            break;
        }
        for (utf8proc_ssize_t i = 0; i < n; i++)
            out += bl__utf8_encode((uint32_t)points[i], enc->text + out);
        at += valid;
        if (at < *len)
            enc->text[out++] = (*text)[at++];
    }
    bl__free(points);
    if (!status) {
        *text = enc->text;
        *len = out;
    }
    return status;
}

/* Text between special tokens. */
static bl_status encode_fragment(encoder *enc, const char *text, size_t len, bl_error *err) {
    if (!len)
        return BL_OK;
    enc->fragment = enc->list.n;
    bl_status status = BL_OK;
    if (enc->tokenizer->vocab->kind != BL_VOCAB_BPE) {
        status = encode_sentencepiece(enc, text, len, err);
    } else {
        if (enc->tokenizer->vocab->nfc)
            status = normalize(enc, &text, &len, err);
        if (!status)
            status = bl__splitter_run(enc->splitter, text, len, encode_word, enc, err);
    }
    enc->after_special = false;
    return status;
}

/* The longest special token at the start of text, -1 when there is none. Control tokens count only
 * when asked for: text of unknown origin must not be able to write them. */
static bl_token find_special(const bl_tokenizer *tokenizer, const char *text, size_t len,
                             bool control) {
    const bl__prefixes *specials = &tokenizer->specials;
    bl__prefix_walk walk = bl__prefix_start(specials);
    bl_token best = -1;
    for (size_t i = 0; i < len && bl__prefix_step(specials, &walk, (uint8_t)text[i]); i++) {
        const bl__prefix *found = bl__prefix_here(specials, &walk);
        if (found &&
            (control || tokenizer->vocab->tokens[found->value].type == BL_TOKEN_USER_DEFINED))
            best = found->value;
    }
    return best;
}

static bl_status encode_text(encoder *enc, const char *text, size_t len, unsigned flags,
                             bl_error *err) {
    const bl_tokenizer *tokenizer = enc->tokenizer;
    const uint32_t *first = tokenizer->specials.first;
    size_t plain = 0; /* where text not yet encoded begins */
    for (size_t at = 0; at < len;) {
        uint8_t byte = (uint8_t)text[at];
        bl_token id =
            first[byte] == first[byte + 1]
                ? -1
                : find_special(tokenizer, text + at, len - at, (flags & BL_TOKENIZE_SPECIAL) != 0);
        if (id < 0) {
            at++;
            continue;
        }
        const bl__vocab_token *token = &tokenizer->vocab->tokens[id];
        size_t end = at;
        while (token->lstrip && end > plain && isspace((uint8_t)text[end - 1]))
            end--;
        bl_status status = encode_fragment(enc, text + plain, end - plain, err);
        if (!status)
            status = bl__token_list_reserve(&enc->list, 1, err);
        if (status)
            return status;
        enc->list.ids[enc->list.n++] = id;
        enc->after_special = true;
        at += token->text.len;
        while (token->rstrip && at < len && isspace((uint8_t)text[at]))
            at++;
        plain = at;
    }
    return encode_fragment(enc, text + plain, len - plain, err);
}

static bl_status start_encoder(encoder *enc, size_t len, bl_error *err) {
    const bl_tokenizer *tokenizer = enc->tokenizer;
    size_t n_words = MIN_CACHE_WORDS;
    while (n_words < MAX_CACHE_WORDS && n_words * BYTES_PER_CACHED_WORD < len)
        n_words *= 2;
    enc->cache = bl__calloc(n_words, sizeof *enc->cache);
    if (!enc->cache)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate its cache");
    enc->cache_mask = n_words - 1;
    enc->merger.table = &tokenizer->pairs;
    enc->after_special = true;
    bl_status status = BL_OK;
    if (tokenizer->pretokenizer)
        status = bl__splitter_create(tokenizer->pretokenizer, &enc->splitter, err);
    if (!status) /* and room for BOS and EOS */
        status = bl__token_list_reserve(&enc->list, len / 4 + 2, err);
    return status;
}

bl_status bl_tokenizer_encode(const bl_tokenizer *tokenizer, const char *text, size_t len,
                              unsigned flags, bl_token **ids, size_t *n_ids, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    if (len > BL_ENCODE_MAX_BYTES)
        return bl__fail(err, BL_ERR_LIMIT, "tokenizer: a text of %zu bytes, at most %d allowed",
                        len, BL_ENCODE_MAX_BYTES);
    encoder enc = {.tokenizer = tokenizer};
    bl_status status = start_encoder(&enc, len, err);
    if (!status && flags & BL_TOKENIZE_EXTRA && vocab->add_bos)
        enc.list.ids[enc.list.n++] = vocab->bos;
    if (!status)
        status = encode_text(&enc, text, len, flags, err);
    if (!status && flags & BL_TOKENIZE_EXTRA && vocab->add_eos) {
        status = bl__token_list_reserve(&enc.list, 1, err);
        if (!status)
            enc.list.ids[enc.list.n++] = vocab->eos;
    }
    bl__merger_destroy(&enc.merger);
    bl__splitter_free(enc.splitter);
    bl__free(enc.cache);
    bl__free(enc.text);
    if (status) {
        bl__free(enc.list.ids);
        return status;
    }
    *ids = enc.list.ids;
    *n_ids = enc.list.n;
    return BL_OK;
}
