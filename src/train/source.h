/* A model to start training from: a GGUF file, a Hugging Face directory, a run or a checkpoint of
 * ours. Owns what such a model says of itself, in the words of recipes, and its weights as float32
 * masters. Must not know runs nor how anything is trained. */
#ifndef BL_TRAIN_SOURCE_H
#define BL_TRAIN_SOURCE_H

#include "train/network.h"

typedef struct bl__source bl__source;

/* Opens a model and checks that the network can take it: every tensor is one of its own. Errors
 * name path and tensor or key: BL_ERR_UNSUPPORTED (biases, experts, a head of its own, scaled RoPE,
 * weights that are ternary already, a layout that cannot be read) and those of reading. */
bl_status bl__source_open(const char *path, bl__source **out, bl_error *err);
void bl__source_close(bl__source *source); /* NULL is accepted */

/* The keys of recipes that the model decides, as a JSON object: its sizes, activation, norms, the
 * tokenizer where it has one and, where it was trained with quantization, the kind of weights. */
const char *bl__source_recipe(const bl__source *source);

/* Whether its linears have vectors (BL_WEIGHTS_ONEBIT). */
bool bl__source_is_onebit(const bl__source *source);

/* Every parameter's values in the order of the network, but for sub-norms and vectors that the
 * model lacks, which stay as they are. BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (as above),
 * BL_ERR_NOT_FOUND. */
bl_status bl__source_read(const bl__source *source, bl__param *params, size_t n_params,
                          bl_error *err);

#endif
