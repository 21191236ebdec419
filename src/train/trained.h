/* A trained model read back from a checkpoint, for whatever is made of it. */
#ifndef BL_TRAIN_TRAINED_H
#define BL_TRAIN_TRAINED_H

#include "train/graph.h"
#include "train/recipe.h"

/* Its recipe, and a network of one token that holds its weights, quantized. */
typedef struct bl__trained {
    bl__recipe recipe;
    bl__network *net;
} bl__trained;

/* run: a run's directory (its last checkpoint) or a checkpoint file. What *out has is to be
 * released whatever comes back. Errors: those of reading checkpoints and of making a network;
 * BL_ERR_UNSUPPORTED while quantization is still coming in. */
bl_status bl__trained_load(const char *run, bl__trained *out, bl_error *err);
void bl__trained_free(bl__trained *trained);

/* The linear of a parameter, NULL when it is none. */
const linear *bl__trained_linear(const bl__network *net, const bl__param *param);

#endif
