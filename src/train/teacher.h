/* The teacher of a run: a model that --from could start from, as a network that only runs forward.
 * Must not know steps nor losses. */
#ifndef BL_TRAIN_TEACHER_H
#define BL_TRAIN_TEACHER_H

#include "train/data.h"
#include "train/network.h"
#include "train/recipe.h"

/* Opens the recipe's teacher for batches of up to n_rows rows; weights are of the kind that it was
 * trained with, multiplied as the recipe says. Its tokenizer, where it has one that is still there,
 * must be that of the tokens. Errors name the path: those of bl__source_open() and
 * bl__network_create(), BL_ERR_ARGUMENT (another tokenizer). */
bl_status bl__teacher_open(const bl__recipe *recipe, const bl__tokens *tokens, size_t n_rows,
                           bl__pool *pool, bl__network **out, bl_error *err);

#endif
