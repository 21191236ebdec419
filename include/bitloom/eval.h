/* Zero-shot multiple choice: which of several continuations of a text a model finds likeliest, and
 * how often that is the right one.
 *
 * Prompts, the cut between context and continuation, scores and standard errors are those of
 * lm-evaluation-harness (EleutherAI, tasks arc_easy, arc_challenge, boolq, hellaswag, openbookqa,
 * piqa and winogrande, without examples in the prompt), so that figures can be put side by side. */
#ifndef BITLOOM_EVAL_H
#define BITLOOM_EVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bl_eval_task {
    BL_EVAL_AUTO, /* told by the fields of the first item */
    BL_EVAL_ARC,
    BL_EVAL_BOOLQ,
    BL_EVAL_HELLASWAG,
    BL_EVAL_OPENBOOKQA,
    BL_EVAL_PIQA,
    BL_EVAL_WINOGRANDE,
} bl_eval_task;

enum { BL_EVAL_N_TASKS = 7, BL_EVAL_MAX_CHOICES = 16 };

const char *bl_eval_task_name(bl_eval_task task); /* "arc"; "auto"; "" beyond the last */

/* An item as it is put to a model: choice c is contexts[c] and then continuations[c]. Texts are
 * UTF-8 and borrowed from the set. With WinoGrande contexts differ and the continuation is one;
 * with all others it is the other way round. */
typedef struct bl_eval_item {
    size_t line; /* of the file, from 1 */
    uint32_t n_choices, gold;
    const char *contexts[BL_EVAL_MAX_CHOICES];
    const char *continuations[BL_EVAL_MAX_CHOICES];
    uint32_t n_chars[BL_EVAL_MAX_CHOICES]; /* of what differs, without the space before it */
    uint32_t n_bytes[BL_EVAL_MAX_CHOICES];
} bl_eval_item;

typedef struct bl_eval_set bl_eval_set; /* constant once read */

/* Reads items from JSON lines with the field names of the data sets as they are published: on the
 * Hugging Face hub, or by their authors where that differs (ARC, OpenBookQA, BoolQ); empty lines
 * are skipped. Errors name line and field: BL_ERR_FORMAT, BL_ERR_ARGUMENT (no items, or fields of
 * no task), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_eval_set_read(const char *text, size_t len, bl_eval_task task, bl_eval_set **out,
                           bl_error *err);
void bl_eval_set_free(bl_eval_set *set); /* NULL is accepted */

bl_eval_task bl_eval_set_task(const bl_eval_set *set);
size_t bl_eval_set_size(const bl_eval_set *set);
void bl_eval_set_get(const bl_eval_set *set, size_t i, bl_eval_item *out);
/* Whether scores by length mean something: not with WinoGrande and BoolQ. */
bool bl_eval_set_has_lengths(const bl_eval_set *set);

typedef struct bl_eval_params {
    uint32_t max_items; /* 0 = all */
    /* n_ctx: tokens of a choice at most, its context is cut from the left; 0 = as the model was
     * trained. n_sequences: choices held at a time; 0 = as many as pay. n_batch: 0 = 512. */
    bl_session_params session;
} bl_eval_params;

/* What a model makes of an item: sums of ln p over each continuation's tokens, and the choices
 * where they are highest: as they are, and divided by characters or bytes. */
typedef struct bl_eval_answer {
    size_t item; /* of the set, from 0 */
    uint32_t chosen, chosen_by_chars, chosen_by_bytes;
    double log_likelihoods[BL_EVAL_MAX_CHOICES];
} bl_eval_answer;

/* A share of items answered rightly, and its standard error, 0 for a single item. */
typedef struct bl_eval_share {
    double mean, error;
} bl_eval_share;

typedef struct bl_eval_result {
    uint64_t n_items;
    uint64_t n_cut;       /* choices whose context was too long */
    bl_eval_share acc;    /* the likeliest choice is right */
    bl_eval_share norm;   /* the likeliest for each character: the harness's acc_norm */
    bl_eval_share bytes;  /* and for each byte: its acc_bytes */
    uint64_t n_evaluated; /* tokens; what choices share counts once */
    double seconds, tokens_per_second;
} bl_eval_result;

/* Told after each item, in order; the result so far. Returns false to cancel. */
typedef bool (*bl_eval_progress)(void *user, const bl_eval_answer *answer,
                                 const bl_eval_result *so_far, uint64_t n_items);

/* Puts the items to a model. params and progress may be NULL.
 * Errors: BL_ERR_ARGUMENT (a continuation without tokens or longer than the context; no token to
 * begin with), BL_ERR_FORMAT (logits that are not finite), BL_ERR_CANCELLED, BL_ERR_MEMORY, those
 * of bl_session_create(). Items are named by their line. */
bl_status bl_eval_run(const bl_model *model, const bl_tokenizer *tokenizer, const bl_eval_set *set,
                      const bl_eval_params *params, bl_eval_progress progress, void *user,
                      bl_eval_result *out, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
