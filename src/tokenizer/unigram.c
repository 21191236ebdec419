/* Owns segmentation by a unigram language model: the cut of highest total log probability, found
 * with Viterbi's algorithm (Kudo 2018, arXiv 1804.10959). Must not know files.
 *
 * Sums are double, as in the Hugging Face library and llama.cpp. SentencePiece itself adds floats,
 * so that cuts of equal score can fall the other way there. */
#include <float.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

/* What an unknown character costs more than the least likely token; SentencePiece's figure. */
static const double UNKNOWN_PENALTY = 10.0;

/* The best way to reach a position in the text. */
typedef struct best_path {
    double score;
    size_t from; /* where its last token begins */
    bl_token token;
} best_path;

static bool is_unigram(const bl__vocab_token *token) {
    return token->text.len && (token->type == BL_TOKEN_NORMAL || token->type == BL_TOKEN_UNUSED ||
                               token->type == BL_TOKEN_USER_DEFINED);
}

bl_status bl__unigram_init(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    if (vocab->unk < 0 && !tokenizer->byte_fallback)
        return bl__fail(err, BL_ERR_FORMAT,
                        "tokenizer: a unigram vocabulary needs an unknown token or byte tokens");
    size_t n = 0;
    double lowest = DBL_MAX;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        n += is_unigram(&vocab->tokens[i]);
        if (vocab->tokens[i].type == BL_TOKEN_NORMAL && (double)vocab->tokens[i].score < lowest)
            lowest = (double)vocab->tokens[i].score;
    }
    tokenizer->unknown_score = (lowest == DBL_MAX ? 0 : lowest) - UNKNOWN_PENALTY;
    bl__prefix *items = bl__malloc_array(n, sizeof *items);
    if (!items)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate %zu tokens", n);
    n = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        if (is_unigram(&vocab->tokens[i]))
            items[n++] = (bl__prefix){vocab->tokens[i].text, (int32_t)i};
    bl__prefixes_init(&tokenizer->unigrams, items, n);
    return BL_OK;
}

/* Tries every token that begins at `at`, and the unknown one for the single character there when
 * no token covers exactly that. */
static void extend_paths(const bl_tokenizer *tokenizer, const char *text, size_t len, size_t at,
                         size_t char_len, best_path *best) {
    const bl__vocab *vocab = tokenizer->vocab;
    bool covered = false;
    bl__prefix_walk walk = bl__prefix_start(&tokenizer->unigrams);
    for (size_t end = at; end < len;) {
        if (!bl__prefix_step(&tokenizer->unigrams, &walk, (uint8_t)text[end++]))
            break;
        const bl__prefix *found = bl__prefix_here(&tokenizer->unigrams, &walk);
        if (!found)
            continue;
        covered = covered || end - at == char_len;
        const bl__vocab_token *token = &vocab->tokens[found->value];
        double score =
            best[at].score + (token->type == BL_TOKEN_USER_DEFINED ? 0.0 : (double)token->score);
        if (score > best[end].score)
            best[end] = (best_path){score, at, found->value};
    }
    double score = best[at].score + tokenizer->unknown_score;
    if (!covered && score > best[at + char_len].score)
        best[at + char_len] = (best_path){score, at, -1};
}

/* An unknown stretch as byte tokens, or as one unknown token however long it is. */
static bl_status add_unknown(const bl_tokenizer *tokenizer, const char *text, size_t len,
                             bool after_unknown, bl__token_list *list, bl_error *err) {
    bl_status status = bl__token_list_reserve(list, len, err);
    if (status)
        return status;
    if (tokenizer->byte_fallback)
        for (size_t i = len; i-- > 0;) /* the list is turned round at the end */
            list->ids[list->n++] = tokenizer->byte_token[(uint8_t)text[i]];
    else if (!after_unknown)
        list->ids[list->n++] = tokenizer->vocab->unk;
    return BL_OK;
}

bl_status bl__unigram_encode(const bl_tokenizer *tokenizer, const char *text, size_t len,
                             bl__token_list *list, bl_error *err) {
    best_path *best = bl__malloc_array(len + 1, sizeof *best);
    if (!best)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate %zu positions", len + 1);
    for (size_t i = 0; i <= len; i++)
        best[i] = (best_path){-DBL_MAX, 0, -1};
    best[0].score = 0;
    for (size_t at = 0, n; at < len; at += n) {
        n = bl__utf8_len(text + at, len - at);
        n = n ? n : 1; /* a byte that is no UTF-8 stands alone */
        extend_paths(tokenizer, text, len, at, n, best);
    }
    size_t first = list->n;
    bool unknown = false;
    bl_status status = BL_OK;
    for (size_t end = len; end && !status; end = best[end].from) {
        const best_path *step = &best[end];
        if (step->token < 0) {
            status =
                add_unknown(tokenizer, text + step->from, end - step->from, unknown, list, err);
        } else {
            status = bl__token_list_reserve(list, 1, err);
            if (!status)
                list->ids[list->n++] = step->token;
        }
        unknown = step->token < 0;
    }
    for (size_t i = first, j = list->n; i + 1 < j; i++, j--) {
        bl_token swapped = list->ids[i];
        list->ids[i] = list->ids[j - 1];
        list->ids[j - 1] = swapped;
    }
    bl__free(best);
    return status;
}
