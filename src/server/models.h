/* The models that are served: which there are, which are loaded, who uses them. */
#ifndef BL_SERVER_MODELS_H
#define BL_SERVER_MODELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/chat.h"
#include "bitloom/energy.h"
#include "bitloom/model.h"
#include "bitloom/server.h"
#include "bitloom/tokenizer.h"
#include "generate/scheduler.h"
#include "server/router.h"

enum { BL_MAX_MODELS = 256 };

typedef enum bl__model_state {
    BL_MODEL_ABSENT, /* not in memory */
    BL_MODEL_LOADING,
    BL_MODEL_READY,
    BL_MODEL_FAILED
} bl__model_state;

/* A model; what is behind `path` may be used between acquire and release. */
typedef struct bl__served {
    char *id;   /* name of the file without .gguf: what requests call it */
    char *path; /* never shown to clients */
    int64_t created;
    bl__model_state state;
    bl_error error; /* why it failed */
    size_t n_users;
    uint64_t last_use, bytes;
    bl_model *model;
    bl_tokenizer *tokenizer;
    bl__scheduler *scheduler;
    bl_chat_template *chat_template; /* the model's, else a plain one */
    bool has_template, knows_tools;  /* of the model's own */
    bool marks_calls;                /* with <tool_call> */
    char *bos, *eos;                 /* texts of these tokens, for the template */
    bl_token_trie *trie;             /* NULL until bl__models_trie() */
    bl_energy_meter *meter;          /* the scheduler's; NULL: the machine has none */
} bl__served;

typedef struct bl__models bl__models;

/* Lists models; begins to load params->model. log gets lines, from any thread; its user is given.
 */
bl_status bl__models_create(const bl_server_params *params,
                            void (*log)(void *user, const char *line), void *user, bl__models **out,
                            bl_error *err);
void bl__models_free(bl__models *models); /* NULL is accepted; nobody uses one any more */
bl_status bl__models_wait(bl__models *models, bl_error *err);

/* Finds a model and loads it when it is not there, which takes time. name may be NULL or "": the
 * default. Where only one is served every name means it. On failure fills the response and returns
 * NULL. */
bl__served *bl__models_acquire(bl__models *models, const char *name, bl__response *response);
void bl__models_release(bl__models *models, bl__served *served); /* NULL is accepted */

/* The tokens of a model that is acquired, for constraints; made when first asked for. */
bl_status bl__models_trie(bl__models *models, bl__served *served, const bl_token_trie **out,
                          bl_error *err);

bl__model_state bl__models_state(bl__models *models); /* of the default model */
size_t bl__models_count(const bl__models *models);
/* The i-th; id, path and created do not change. */
const bl__served *bl__models_get(const bl__models *models, size_t i);
/* Facts about the i-th, for its card; NULL when it is not loaded. Does not wait for loading. */
json_t *bl__models_facts(bl__models *models, size_t i);
/* What the i-th one's scheduler counted; false when it is not loaded. Does not wait for loading. */
bool bl__models_figures(bl__models *models, size_t i, bl__scheduler_figures *out);

#endif
