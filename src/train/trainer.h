/* A run in memory, for bl_train() and the tests: the loop over steps, validation, rollback,
 * checkpoints and metrics. Owns their order; must not know how any of them is done. */
#ifndef BL_TRAIN_TRAINER_H
#define BL_TRAIN_TRAINER_H

#include "bitloom/train.h"
#include "train/checkpoint.h"
#include "train/network.h"
#include "train/processes.h"
#include "train/recipe.h"

typedef struct bl__trainer bl__trainer;

/* Reads the recipe, opens the data, makes or loads the network. params, and what it points to,
 * must outlive the trainer. processes: those that share the run, NULL for one alone; all of them
 * make the same calls, and fail together. Errors as of bl_train(). */
bl_status bl__trainer_open(const bl_train_params *params, bl__processes *processes,
                           bl__trainer **out, bl_error *err);
void bl__trainer_close(bl__trainer *trainer); /* NULL is accepted */
/* To the last step. */
bl_status bl__trainer_run(bl__trainer *trainer, bl_error *err);

bl__network *bl__trainer_network(bl__trainer *trainer);
const bl__recipe *bl__trainer_recipe(const bl__trainer *trainer);

/* Mean loss over the recipe's validation windows as the network is trained, and as what is exported
 * has it. BL_ERR_FORMAT (an id out of range), BL_ERR_MEMORY; *out is NaN without held-out data. */
bl_status bl__trainer_validate(bl__trainer *trainer, double *out, bl_error *err);
bl_status bl__trainer_deployed(bl__trainer *trainer, double *out, bl_error *err);

#endif
