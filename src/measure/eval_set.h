/* Private to measure/: items of multiple choice as they are kept, the cleaning of HellaSwag's
 * texts, and items as tokens. */
#ifndef BL_MEASURE_EVAL_SET_H
#define BL_MEASURE_EVAL_SET_H

#include "base/buffer.h"
#include "bitloom/eval.h"

/* Offsets into the set's texts. */
typedef struct bl__eval_record {
    size_t line;
    uint32_t n_choices, gold;
    size_t contexts[BL_EVAL_MAX_CHOICES], continuations[BL_EVAL_MAX_CHOICES];
    uint32_t n_chars[BL_EVAL_MAX_CHOICES], n_bytes[BL_EVAL_MAX_CHOICES];
} bl__eval_record;

struct bl_eval_set {
    bl_eval_task task;
    bl__eval_record *records; /* [n], room for cap */
    size_t n, cap;
    bl__buffer texts; /* each with a NUL after it */
};

/* Appends text as str.capitalize() has it: the first letter large, all others small. */
bool bl__eval_append_capitalized(bl__buffer *buffer, const char *text, size_t len);

/* Takes what WikiHow and captions leave behind out of text[len], in place, as the harness does;
 * returns the new length. */
size_t bl__eval_clean(char *text, size_t len);

/* A choice as tokens: those of its context, then its own. */
typedef struct bl__eval_choice {
    size_t begin; /* in the list's tokens */
    uint32_t n, n_context;
} bl__eval_choice;

typedef struct bl__eval_tokens {
    bl_token *tokens;
    size_t n_tokens, cap;
    bl__eval_choice *choices; /* of item 0, item 1 ... */
    size_t *first_choice;     /* size_t[n_items + 1] */
    size_t n_items;
    size_t longest; /* tokens of a choice that are evaluated, at most n_ctx */
    uint64_t n_cut;
} bl__eval_tokens;

/* Encodes the first n_items items, contexts cut to n_ctx evaluated tokens a choice. On failure too,
 * what is in *out is released with bl__eval_tokens_free(). */
bl_status bl__eval_encode(const bl_eval_set *set, size_t n_items, const bl_tokenizer *tokenizer,
                          size_t n_vocab, size_t n_ctx, bl__eval_tokens *out, bl_error *err);
void bl__eval_tokens_free(bl__eval_tokens *list);

#endif
