/* The recipe of a training run: a flat JSON object whose keys are listed in recipe.c. Keys that are
 * left out come from the model preset ("preset") and from the published recipe ("recipe"). Owns
 * names, ranges and defaults; must not know how any of it is used. */
#ifndef BL_TRAIN_RECIPE_H
#define BL_TRAIN_RECIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "train/network.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* Whole numbers are int64_t and choices too (their place in the list of names), so that one table
 * describes all of them. Resolved: every field has a value, but data, tokenizer, from, teacher and
 * prompt may be NULL. */
typedef struct bl__recipe {
    /* the model */
    char *preset;
    int64_t layers, dim, ffn_dim, heads, kv_heads, head_dim, vocab,
        context; /* vocab 0: the data's */
    int64_t weights, activation, norm, sub_norms, groups, precision, memory;
    double rope_base, norm_eps, init_std;
    /* the data */
    char *data, *tokenizer, *from; /* from: the model to start from, or NULL */
    char *teacher;                 /* the model to learn from, or NULL */
    double distill_hidden, distill_hard, distill_temperature, distill_relations;
    double relation_temperature;
    int64_t relation_layer, relation_heads;
    int64_t mask_documents, rows, tokens, accumulate, steps, tensor_parallel;
    /* the schedule */
    int64_t recipe, shape, warmup, lambda_steps;
    double rate, rate2, end, decay, decay2, beta1, beta2, eps, clip;
    /* the run */
    int64_t seed, eval_interval, eval_rows, save_interval, keep, log_interval;
    double spike;
    char *prompt;
    int64_t sample_tokens, sample_interval;
    double temperature;
} bl__recipe;

/* Parses text[len] (a JSON object; len 0: nothing), then takes settings[n] of the form "key=value"
 * in place of what it says, and resolves. Release with bl__recipe_free(). Errors name the key:
 * BL_ERR_FORMAT (not JSON, a wrong type), BL_ERR_ARGUMENT (an unknown key, a value out of range or
 * that does not fit the others), BL_ERR_MEMORY. */
bl_status bl__recipe_parse(const char *text, size_t len, const char *const *settings, size_t n,
                           bl__recipe *out, bl_error *err);
/* The same from a file; path NULL: from settings alone. */
bl_status bl__recipe_read(const char *path, const char *const *settings, size_t n, bl__recipe *out,
                          bl_error *err);
/* The same where recipe and settings go before `base`, a JSON object: what the model to start from
 * says of itself. NULL: nothing. */
bl_status bl__recipe_read_over(const char *base, const char *path, const char *const *settings,
                               size_t n, bl__recipe *out, bl_error *err);
/* The recipe of a model alone, from what it says of itself: without a word of quantization its
 * weights are floats. */
bl_status bl__recipe_parse_model(const char *base, bl__recipe *out, bl_error *err);
/* What recipe and settings give as "from": *out is NULL or released with bl__free(). */
bl_status bl__recipe_find_from(const char *path, const char *const *settings, size_t n, char **out,
                               bl_error *err);
void bl__recipe_free(bl__recipe *recipe); /* a zeroed one is accepted */

/* All keys as JSON, which parses to the same recipe. Release with bl__free(). NULL: no memory. */
char *bl__recipe_text(const bl__recipe *recipe);

/* Those keys alone that a model to start from decides, as a base for bl__recipe_read_over(). */
char *bl__recipe_base_text(const bl__recipe *recipe);

/* BL_ERR_ARGUMENT, naming the key, unless both make networks of the same parameters. */
bl_status bl__recipe_match_model(const bl__recipe *wanted, const bl__recipe *found, bl_error *err);

bl__network_config bl__recipe_network(const bl__recipe *recipe);
bl__schedule bl__recipe_schedule(const bl__recipe *recipe);
bl__optimizer_config bl__recipe_optimizer(const bl__recipe *recipe);
bl__distillation bl__recipe_distillation(const bl__recipe *recipe);

#endif
