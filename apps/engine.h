/* What `run` and `chat` share: the options of models and sampling, the default model, and a model,
 * tokenizer, session and sampler opened from them. */
#ifndef BL_APPS_ENGINE_H
#define BL_APPS_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/bitloom.h"
#include "options.h"

typedef struct model_settings {
    const char *model, *numa, *cache_type, *head, *sparsity;
    int64_t threads, ctx, batch;
} model_settings;

typedef struct sampling_settings {
    int64_t n_predict, seed, top_k, repeat_last_n, keep;
    double temp, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty;
    option_list stops;
    bool ignore_eos, context_shift, special;
} sampling_settings;

enum { N_MODEL_OPTIONS = 8, N_SAMPLING_OPTIONS = 15 };
extern const option MODEL_OPTIONS[N_MODEL_OPTIONS];
extern const option SAMPLING_OPTIONS[N_SAMPLING_OPTIONS];

model_settings default_model_settings(void);
sampling_settings default_sampling_settings(int64_t n_predict);

typedef struct speculation_settings {
    const char *how, *draft_model;
    int64_t draft_max;
} speculation_settings;

enum { N_SPECULATION_OPTIONS = 3 };
extern const option SPECULATION_OPTIONS[N_SPECULATION_OPTIONS];

typedef struct engine {
    char *path; /* of the model */
    bl_model *model;
    bl_tokenizer *tokenizer;
    bl_session *session;
    bl_sampler *sampler;
    bl_model *draft_model;     /* NULL without one */
    bl_speculator *speculator; /* NULL without one; in params too */
    bl_grammar *grammar;       /* NULL without one, with the next two */
    bl_token_trie *trie;
    bl_matcher *matcher;       /* in params too */
    bl_generate_params params; /* no callbacks; stops borrowed from the settings */
    size_t n_keep;             /* as asked for; params.n_keep counts BOS too */
    uint32_t n_threads;
    uint64_t seed;
} engine;

/* Opens everything; complains to stderr and returns an exit status other than 0 on failure. */
int engine_open(engine *e, const command *cmd, const model_settings *model,
                const sampling_settings *sampling, bool quiet);
void engine_close(engine *e);

/* Makes the opened engine guess tokens, where that is asked for; as engine_open(). */
int engine_speculate(engine *e, const command *cmd, const speculation_settings *settings);

typedef struct constraint_settings {
    const char *grammar, *json_schema;
    bool json_object;
} constraint_settings;

enum { N_CONSTRAINT_OPTIONS = 3 };
extern const option CONSTRAINT_OPTIONS[N_CONSTRAINT_OPTIONS];

/* Makes the opened engine keep its text within a grammar, where that is asked for; as
 * engine_open(). */
int engine_constrain(engine *e, const command *cmd, const constraint_settings *settings);

/* Tells on stderr when the text is only the beginning of what the grammar asks for. */
void report_constraint(const engine *e);

/* The model file to use: the option, else the default model; allocated (bl__free). NULL after a
 * complaint. */
char *find_model(const command *cmd, const char *option_value);

/* Encodes a prompt. A BOS that the text already begins with is not doubled, and an EOS that the
 * model would append is left out, since the text is to be continued. */
bl_status encode_prompt(const bl_tokenizer *tokenizer, const char *text, size_t len, bool add_bos,
                        bl_token **ids, size_t *n_ids, bl_error *err);

/* The value of --head. */
bl_head head_of(const char *choice);
#define HEAD_CHOICES "auto full screened"
#define HEAD_HELP                                                                                  \
    "rows of the output head that are read: all (full), or those that an 8-bit copy does not "     \
    "rule out (screened), for the same text; auto screens large heads (default)"

/* Does what --numa asks for, before anything is opened; complains and returns false on failure. */
bool place_memory(const command *cmd, const char *numa);
#define NUMA_CHOICES "none interleave"
#define NUMA_HELP                                                                                  \
    "interleave: spread memory over all nodes of a machine that has several (default none)"

/* The value of --cache-type. */
bl_cache_type cache_type_of(const char *name);
const char *cache_type_name(bl_cache_type type);
#define CACHE_CHOICES "f16 f32 i8 i4"
#define CACHE_HELP                                                                                 \
    "how keys and values are kept: f16 (default), f32, or i8 or i4, smaller and coarser"

/* What --sparsity says; automatic without it. */
bl_sparsity parse_sparsity(const char *text);
#define SPARSITY_CHOICES "auto on off"
#define SPARSITY_HELP                                                                              \
    "leave weights unread that meet zeros: where the file is made for it (auto, the default), "    \
    "always, at the cost of memory (on), or never (off); the text is the same"

/* What perplexity and compare measure by, from the words of their options. */
bl_perplexity_params windows_params(int64_t n_ctx, int64_t max_windows, const char *protocol,
                                    const char *bos, int64_t n_threads);

/* Tells a context shift what to keep of this prompt: what was asked for and the BOS token. */
void keep_start(engine *e, const bl_token *ids, size_t n_ids);

/* What the session and its model take, part by part, to stderr. */
void note_memory(const engine *e);

/* "12 prompt tokens at 90.1 tok/s, ..." to stderr. */
void print_speed(const engine *e, const bl_generate_result *result);
const char *stop_reason_text(bl_stop_reason reason);

#endif
