/* Models and sessions.
 *
 * A bl_model is immutable after opening: any number of threads and sessions share it. A bl_session
 * (KV cache, scratch memory, worker threads) belongs to one thread at a time. Session memory is
 * sized and allocated when the session is created; evaluating tokens allocates nothing.
 * Results do not depend on the kernel chosen, the thread count or how tokens are split in batches:
 * every float is computed in one fixed order (docs/kernels.md). */
#ifndef BITLOOM_MODEL_H
#define BITLOOM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_model bl_model;
typedef struct bl_session bl_session;

typedef struct bl_model_params {
    uint32_t n_threads; /* for repacking weights while loading; 0 = all physical cores */
} bl_model_params;

/* Opens a GGUF model. params may be NULL. Errors name the tensor or key, what was found and what
 * was expected: BL_ERR_IO, BL_ERR_FORMAT, BL_ERR_UNSUPPORTED, BL_ERR_NOT_FOUND, BL_ERR_MEMORY. */
bl_status bl_model_open(const char *path, const bl_model_params *params, bl_model **out,
                        bl_error *err);
void bl_model_close(bl_model *model); /* NULL is accepted; close sessions first */

typedef struct bl_model_info {
    const char *name;         /* general.name, or "" */
    const char *architecture; /* general.architecture */
    const char *weights;      /* layout of the linear weights as they run, such as "bl_t2" */
    const char *activation;   /* "silu" or "relu2" */
    bool int8_activations;    /* linears take int8 activations per token, as trained */
    uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab;
    uint32_t context_length; /* as trained */
    uint32_t n_groups;       /* of each linear, with scales and sub-norms of their own; mostly 1 */
    uint64_t n_params;       /* weights in the file's tensors */
    uint64_t file_bytes;     /* size of the file */
    uint64_t
        repacked_bytes; /* memory taken by weights repacked at load; 0 when mapped as they are */
} bl_model_info;

const bl_model_info *bl_model_get_info(const bl_model *model); /* borrowed */

/* How a session keeps keys and values. Text depends on it, and on nothing else about the cache;
 * docs/model.md says what each costs. */
typedef enum bl_cache_type {
    BL_CACHE_F16, /* float16, the default */
    BL_CACHE_F32, /* as computed */
    BL_CACHE_I8,  /* int8 with a float16 step for each head and position */
    BL_CACHE_I4   /* 4 bits with a float16 step for each 32 elements of a head */
} bl_cache_type;

typedef struct bl_session_params {
    uint32_t n_ctx;       /* KV cache size in tokens, of each sequence; 0 = the model's
                             context_length, at most 4096 */
    uint32_t n_batch;     /* tokens evaluated together; 0 = 256 */
    uint32_t n_threads;   /* 0 = all physical cores */
    uint32_t n_sequences; /* texts held side by side, at most BL_MAX_SEQUENCES; 0 = 1 */
    const char *kernels;  /* a level of bl_kernel_levels(); NULL = the one in use */
    bl_cache_type cache_type;
} bl_session_params;

enum { BL_MAX_SEQUENCES = 4096 };

bl_status bl_session_create(const bl_model *model, const bl_session_params *params,
                            bl_session **out, bl_error *err);
void bl_session_free(bl_session *session);

/* Appends tokens[n_tokens] to the session and computes the logits after the last of them.
 * all_logits: NULL, or float[n_tokens][vocab] that receives the logits after every token.
 * Errors: BL_ERR_ARGUMENT (a token out of range), BL_ERR_CONTEXT_FULL; the session is unchanged
 * then. Source of the forward pass: arXiv 2402.17764 and 2504.12285. */
bl_status bl_session_eval(bl_session *session, const bl_token *tokens, size_t n_tokens,
                          float *all_logits, bl_error *err);

/* Logits after the last evaluated token: float[vocab], borrowed, valid until the next call. */
const float *bl_session_logits(const bl_session *session);

size_t bl_session_n_past(const bl_session *session); /* tokens held */
size_t bl_session_n_ctx(const bl_session *session);  /* tokens that fit */

/* Forgets all tokens from position n_past on; n_past must not exceed bl_session_n_past(). */
void bl_session_truncate(bl_session *session, size_t n_past);

/* Makes room: keeps the first n_keep tokens, drops the n_drop that follow and evaluates the rest
 * anew at their new positions, exactly as a fresh session would. */
bl_status bl_session_shift(bl_session *session, size_t n_keep, size_t n_drop, bl_error *err);

/* Bytes of memory that the session holds. */
size_t bl_session_bytes(const bl_session *session);

/* Several texts at once. A session holds n_sequences texts, each with its own positions. The calls
 * above mean sequence 0; those below take any, and weights are read once for a whole batch. What is
 * computed for a sequence is, to the bit, what a session of its own would compute, whatever else is
 * in the batch. Memory of the cache is taken up as positions are first used. */

size_t bl_session_n_sequences(const bl_session *session);

/* One token for one sequence. */
typedef struct bl_batch_item {
    uint32_t sequence;
    bl_token token;
    bool wants_logits; /* after this token */
} bl_batch_item;

/* Appends the token of each of items[n_items] to its sequence, in order; prompts and single tokens
 * of any sequences may mix. logits: float[number of items that want them][vocab], in the order of
 * the items; NULL when none does. bl_session_logits() is left as it is. Best is n_items <= n_batch.
 * Errors: BL_ERR_ARGUMENT (a token or sequence out of range, logits missing, no items),
 * BL_ERR_CONTEXT_FULL; the session is unchanged then. */
bl_status bl_session_eval_batch(bl_session *session, const bl_batch_item *items, size_t n_items,
                                float *logits, bl_error *err);

/* Tokens that a sequence holds; 0 when there is no such sequence. */
size_t bl_sequence_n_past(const bl_session *session, uint32_t sequence);

/* Those tokens, borrowed, valid until the next call; NULL when there is no such sequence. */
const bl_token *bl_sequence_tokens(const bl_session *session, uint32_t sequence);

/* Forgets the tokens of a sequence from position n_past on; 0 frees it for another text. */
void bl_sequence_truncate(bl_session *session, uint32_t sequence, size_t n_past);

/* Makes `to` hold the first n_tokens tokens of `from` instead of its own, without evaluating them:
 * a prompt that several texts begin with. Error: BL_ERR_ARGUMENT (out of range). */
bl_status bl_sequence_copy(bl_session *session, uint32_t from, uint32_t to, size_t n_tokens,
                           bl_error *err);

/* bl_session_shift() of any sequence. logits: NULL, or float[vocab] after the last token; left
 * alone when nothing had to be evaluated. */
bl_status bl_sequence_shift(bl_session *session, uint32_t sequence, size_t n_keep, size_t n_drop,
                            float *logits, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
