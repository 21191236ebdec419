/* Owns bl_tokenizer_train(): text into counted words, words into symbols of an alphabet, and what
 * was learnt from them into files. Must not know how merges are found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bitloom/data.h"
#include "formats/corpus.h"
#include "tokenizer/bytelevel.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/train_bpe.h"
#include "tokenizer/train_json.h"
#include "tokenizer/train_words.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocab.h"

#define NO_SYMBOL UINT32_MAX

enum { N_BYTES = 256, N_POINTS = 0x110000 };

static const double DEFAULT_COVERAGE = 0.9995; /* as in SentencePiece */

typedef struct learner {
    const bl_tokenizer_train_params *params;
    const char *field, *bos, *eos; /* bos, eos: NULL = none */
    const char *pre;               /* pre-tokenizer; NULL = SentencePiece style */
    bl__splitter *splitter;
    bl__word_counts counts;
    bl__bpe bpe;
    size_t n_specials;
    uint32_t byte_symbol[N_BYTES]; /* byte-level: the token of a byte */
    uint32_t *point_symbol;        /* SentencePiece: [N_POINTS], NO_SYMBOL = not covered */
    uint32_t *symbols;             /* [n_symbols] */
    bl__bpe_word *words;           /* [n_words] */
    size_t n_symbols, n_words;
    uint64_t text_bytes;
} learner;

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "tokenizer training: cannot allocate for the words");
}

/* ---- counting words ---- */

static bl_status count_word(void *user, const char *word, size_t len, bl_error *err) {
    return bl__word_counts_add(&((learner *)user)->counts, word, len, err);
}

/* Where a SentencePiece word that begins with a space or mark ends: before the next one, or before
 * a control character, which stays a byte. */
static size_t find_marked_end(const char *text, size_t len) {
    size_t i = text[0] == ' ' ? 1 : bl__utf8_is_space_mark(text, len) ? BL_UTF8_SPACE_MARK_LEN : 0;
    while (i < len && (uint8_t)text[i] > ' ' && !bl__utf8_is_space_mark(text + i, len - i))
        i++;
    return i;
}

/* Words as Metaspace cuts them, with U+2581 in place of the space. */
static bl_status count_marked_words(learner *l, const char *text, size_t len, bool begins,
                                    bl_error *err) {
    char word[BL_BPE_MAX_PIECE];
    bl_status status = BL_OK;
    for (size_t at = 0; at < len && !status;) {
        size_t n = find_marked_end(text + at, len - at), skip = text[at] == ' ';
        bool marked = skip || (begins && at == 0);
        size_t mark = marked ? BL_UTF8_SPACE_MARK_LEN : 0;
        memcpy(word, BL_UTF8_SPACE_MARK, mark);
        /* What is longer than any token can only lose pairs that hardly occur. */
        size_t room = sizeof word - mark, take = n - skip < room ? n - skip : room;
        memcpy(word + mark, text + at + skip, take);
        if (mark + take)
            status = bl__word_counts_add(&l->counts, word, mark + take, err);
        at += n ? n : 1;
    }
    return status;
}

static bl_status count_document(void *user, const char *text, size_t len, bool begins, bool ends,
                                bl_error *err) {
    (void)ends;
    learner *l = user;
    l->text_bytes += len;
    return l->pre ? bl__splitter_run(l->splitter, text, len, count_word, l, err)
                  : count_marked_words(l, text, len, begins, err);
}

static bl_status count_corpus(learner *l, bl__corpus *corpus, bl_error *err) {
    const bl_tokenizer_train_params *params = l->params;
    uint64_t done = 0;
    bool more;
    bl__chunk chunk;
    bl_status status;
    while (!(status = bl__corpus_next(corpus, &chunk, &more, err)) && more) {
        status = bl__chunk_documents(&chunk, l->field, count_document, l, err);
        done += chunk.len;
        bl__chunk_release(&chunk);
        if (!status && params->progress && !params->progress(params->user, done, corpus->bytes))
            status = bl__fail(err, BL_ERR_CANCELLED, "tokenizer training: cancelled");
        if (status)
            break;
    }
    if (!status && !l->counts.n)
        status = bl__fail(err, BL_ERR_ARGUMENT, "%s%s: no text in %zu files", params->inputs[0],
                          params->n_inputs > 1 ? " ..." : "", corpus->n_files);
    return status;
}

static bl_status count_inputs(learner *l, bl_error *err) {
    bl__corpus corpus = {0};
    bl__pretokenizer *pretokenizer = NULL;
    bl_status status = bl__corpus_open(l->params->inputs, l->params->n_inputs, &corpus, err);
    if (!status && l->pre)
        status = bl__pretokenizer_create(l->pre, &pretokenizer, err);
    if (!status && l->pre)
        status = bl__splitter_create(pretokenizer, &l->splitter, err);
    if (!status)
        status = count_corpus(l, &corpus, err);
    bl__splitter_free(l->splitter);
    bl__pretokenizer_free(pretokenizer);
    bl__corpus_close(&corpus);
    return status;
}

/* ---- alphabets ---- */

static bl_status add_special(learner *l, const char *text, bl_error *err) {
    size_t len = strlen(text);
    if (!len || len > BL_BPE_MAX_PIECE || bl__utf8_valid_prefix(text, len) != len)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "special token \"%.40s\": expected UTF-8 of 1 to %d bytes", text,
                        BL_BPE_MAX_PIECE);
    for (size_t i = 0; i < l->bpe.n_tokens; i++)
        if (bl__string_is(l->bpe.texts[i], text))
            return BL_OK;
    return bl__bpe_add_token(&l->bpe, text, len, err);
}

static bl_status add_specials(learner *l, bl_error *err) {
    bl_status status = l->bos ? add_special(l, l->bos, err) : BL_OK;
    if (!status && l->eos)
        status = add_special(l, l->eos, err);
    for (size_t i = 0; i < l->params->n_specials && !status; i++)
        status = add_special(l, l->params->specials[i], err);
    l->n_specials = l->bpe.n_tokens;
    return status;
}

/* All bytes, in the order of the letters that stand for them. */
static bl_status add_bytes(learner *l, bl_error *err) {
    bl_status status = BL_OK;
    l->bpe.n_reserved = l->bpe.n_tokens;
    for (uint32_t c = 0; c <= 0x143 && !status; c++) {
        uint8_t byte;
        if (!bl__bytelevel_byte(c, &byte))
            continue;
        l->byte_symbol[byte] = (uint32_t)l->bpe.n_tokens;
        status = bl__bpe_add_token(&l->bpe, (const char *)&byte, 1, err);
    }
    return status;
}

static bl_status add_byte_fallbacks(learner *l, bl_error *err) {
    bl_status status = BL_OK;
    for (unsigned byte = 0; byte < N_BYTES && !status; byte++) {
        char text[8];
        int len = snprintf(text, sizeof text, "<0x%02X>", byte);
        status = bl__bpe_add_token(&l->bpe, text, (size_t)len, err);
    }
    l->bpe.n_reserved = l->bpe.n_tokens;
    return status;
}

typedef struct counted_point {
    uint32_t point;
    uint64_t count;
} counted_point;

static int compare_points(const void *a, const void *b) {
    const counted_point *x = a, *y = b;
    if (x->count != y->count)
        return x->count > y->count ? -1 : 1;
    return (x->point > y->point) - (x->point < y->point);
}

/* Length of the character at the start of text, len > 0, and its code point; a byte that is none
 * gives NO_SYMBOL. */
static size_t next_point(const char *text, size_t len, uint32_t *point) {
    size_t n = bl__utf8_len(text, len);
    *point = n ? bl__utf8_decode(text, n) : NO_SYMBOL;
    return n ? n : 1;
}

/* Occurrences of every code point, as many as there are; *total of all. */
static bl_status count_points(const learner *l, counted_point **out, size_t *n_out, uint64_t *total,
                              bl_error *err) {
    uint64_t *counts = bl__calloc(N_POINTS, sizeof *counts);
    if (!counts)
        return fail_memory(err);
    size_t n = 0;
    *total = 0;
    for (size_t w = 0; w < l->counts.n; w++) {
        bl__counted_word word = l->counts.words[w];
        uint32_t point;
        for (size_t i = 0; i < word.len;) {
            i += next_point(l->counts.text + word.start + i, word.len - i, &point);
            if (point == NO_SYMBOL || point < ' ')
                continue;
            n += counts[point] == 0;
            counts[point] += word.count;
            *total += word.count;
        }
    }
    counted_point *points = bl__malloc_array(n, sizeof *points);
    if (points) {
        *out = points;
        *n_out = n;
        for (uint32_t c = 0; c < N_POINTS; c++)
            if (counts[c])
                *points++ = (counted_point){c, counts[c]};
    }
    bl__free(counts);
    return points || !n ? BL_OK : fail_memory(err);
}

/* The most frequent characters that together make the share wanted, in the order of their points.
 */
static bl_status add_characters(learner *l, bl_error *err) {
    double coverage = l->params->coverage > 0 ? l->params->coverage : DEFAULT_COVERAGE;
    counted_point *points = NULL;
    size_t n = 0, n_covered = 0;
    uint64_t total = 0, covered = 0;
    l->point_symbol = bl__malloc_array(N_POINTS, sizeof *l->point_symbol);
    if (!l->point_symbol)
        return fail_memory(err);
    memset(l->point_symbol, 0xff, N_POINTS * sizeof *l->point_symbol);
    bl_status status = count_points(l, &points, &n, &total, err);
    if (status || !n)
        goto done;
    qsort(points, n, sizeof *points, compare_points);
    while (n_covered < n && (double)covered < coverage * (double)total) {
        covered += points[n_covered].count;
        l->point_symbol[points[n_covered++].point] = 0;
    }
    l->point_symbol[0x2581] = 0;
    for (uint32_t c = 0; c < N_POINTS && !status; c++) {
        char text[BL_UTF8_MAX];
        if (l->point_symbol[c] == NO_SYMBOL)
            continue;
        l->point_symbol[c] = (uint32_t)l->bpe.n_tokens;
        status = bl__bpe_add_token(&l->bpe, text, bl__utf8_encode(c, text), err);
    }
done:
    bl__free(points);
    return status;
}

/* ---- words of symbols ---- */

static void end_word(learner *l, size_t start, uint64_t count) {
    if (l->n_symbols > start)
        l->words[l->n_words++] = (bl__bpe_word){start, (uint32_t)(l->n_symbols - start), count};
}

/* A character that is not covered ends one word and begins another. */
static void spell_word(learner *l, bl__counted_word word) {
    const char *text = l->counts.text + word.start;
    size_t start = l->n_symbols;
    for (size_t i = 0; i < word.len;) {
        uint32_t symbol = l->byte_symbol[(uint8_t)text[i]], point;
        if (l->pre) {
            i++;
        } else {
            i += next_point(text + i, word.len - i, &point);
            symbol = point == NO_SYMBOL ? NO_SYMBOL : l->point_symbol[point];
        }
        if (symbol != NO_SYMBOL) {
            l->symbols[l->n_symbols++] = symbol;
        } else {
            end_word(l, start, word.count);
            start = l->n_symbols;
        }
    }
    end_word(l, start, word.count);
}

static bl_status spell_words(learner *l, bl_error *err) {
    /* Never more symbols than bytes, nor more words than symbols. */
    l->symbols = bl__malloc_array(l->counts.text_len, sizeof *l->symbols);
    if (!l->symbols)
        return fail_memory(err);
    size_t room = l->pre ? l->counts.n : l->counts.text_len;
    l->words = bl__malloc_array(room, sizeof *l->words);
    if (!l->words)
        return fail_memory(err);
    for (size_t i = 0; i < l->counts.n; i++)
        spell_word(l, l->counts.words[i]);
    return BL_OK;
}

/* ---- the whole ---- */

static bl_status set_kind(learner *l, bl_error *err) {
    const char *kind = l->params->kind ? l->params->kind : "llama3";
    if (strcmp(kind, "llama3") == 0)
        l->pre = "llama-bpe";
    else if (strcmp(kind, "gpt2") == 0)
        l->pre = "gpt-2";
    else if (strcmp(kind, "sentencepiece") != 0)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "kind of tokenizer: found \"%.40s\", expected llama3, gpt2 or "
                        "sentencepiece",
                        kind);
    if (!l->params->n_inputs)
        return bl__fail(err, BL_ERR_ARGUMENT, "tokenizer training: no input files");
    if (!(l->params->coverage >= 0 && l->params->coverage <= 1))
        return bl__fail(err, BL_ERR_ARGUMENT, "character coverage: found %g, expected 0 to 1",
                        l->params->coverage);
    return BL_OK;
}

static bl_status add_alphabet(learner *l, bl_error *err) {
    bl_status status = l->pre ? add_bytes(l, err) : add_byte_fallbacks(l, err);
    if (!status && !l->pre)
        status = add_characters(l, err);
    size_t vocab = l->params->vocab;
    if (!status && (vocab < l->bpe.n_tokens || vocab > BL_VOCAB_MAX_TOKENS))
        status = bl__fail(err, BL_ERR_ARGUMENT,
                          "vocabulary: found %zu, expected %zu (special tokens and alphabet) to %d",
                          vocab, l->bpe.n_tokens, BL_VOCAB_MAX_TOKENS);
    return status;
}

static bl_status learn(learner *l, const char *output, bl_error *err) {
    bl_status status = add_specials(l, err);
    if (!status)
        status = count_inputs(l, err);
    if (!status)
        status = add_alphabet(l, err);
    if (!status)
        status = spell_words(l, err);
    if (!status)
        status = bl__bpe_learn(&l->bpe, l->params->vocab, l->symbols, l->words, l->n_words, err);
    if (status)
        return status;
    bl__learnt learnt = {.bpe = &l->bpe,
                         .n_specials = l->n_specials,
                         .bos = l->bos,
                         .eos = l->eos,
                         .regex = l->pre ? bl__pretokenizer_regex(l->pre) : NULL,
                         .ignore_merges = l->pre && strcmp(l->pre, "llama-bpe") == 0};
    return bl__learnt_write(&learnt, output, err);
}

/* NULL when there is to be no such token. */
static const char *choose(const char *text, const char *otherwise) {
    if (!text)
        return otherwise;
    return *text ? text : NULL;
}

bl_status bl_tokenizer_train(const bl_tokenizer_train_params *params, const char *output,
                             bl_tokenizer_train_report *report, bl_error *err) {
    learner l = {.params = params,
                 .field = params->field ? params->field : "text",
                 .bos = choose(params->bos, "<s>"),
                 .eos = choose(params->eos, "</s>")};
    bl_status status = set_kind(&l, err);
    if (!status)
        status = learn(&l, output, err);
    if (!status && report)
        *report = (bl_tokenizer_train_report){.n_tokens = l.bpe.n_tokens,
                                              .n_merges = l.bpe.n_merges,
                                              .text_bytes = l.text_bytes,
                                              .n_words = l.counts.n_total,
                                              .n_distinct_words = l.counts.n};
    bl__word_counts_destroy(&l.counts);
    bl__bpe_destroy(&l.bpe);
    bl__free(l.point_symbol);
    bl__free(l.symbols);
    bl__free(l.words);
    return status;
}
