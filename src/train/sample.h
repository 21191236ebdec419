/* Texts that a run writes to show where it stands. Must not know the loop or where texts go. */
#ifndef BL_TRAIN_SAMPLE_H
#define BL_TRAIN_SAMPLE_H

#include "bitloom/tokenizer.h"
#include "train/network.h"
#include "train/recipe.h"

typedef struct bl__writer bl__writer;

/* For networks of the recipe. *out is NULL when the recipe asks for no samples, or there is nothing
 * that a text could begin with: no prompt, no BOS, no EOS. The tokenizer is borrowed.
 * BL_ERR_ARGUMENT (a prompt that does not leave room in a row), BL_ERR_MEMORY. */
bl_status bl__writer_create(const bl__recipe *recipe, const bl_tokenizer *tokenizer,
                            bl__writer **out, bl_error *err);
void bl__writer_free(bl__writer *writer); /* NULL is accepted */

/* The prompt and what follows it, up to an end token: UTF-8 that stays until the next call. Drawn
 * with the recipe's seed and this step's number alone, by steps without a backward pass, whose
 * logits are those of the exported masters; nothing that training reads changes. The network takes
 * rows as one document (see bl__network_set_firsts()) and has its weights quantized. */
bl_status bl__writer_run(bl__writer *writer, bl__network *network, uint64_t step, const char **text,
                         bl_error *err);

#endif
