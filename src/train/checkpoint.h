/* Checkpoints: one safetensors file with everything that a run needs to go on as if it had never
 * stopped. Tensors are float32: every parameter under its own name, its moments under "first." and
 * "second." and that name. __metadata__ has "format", "recipe" (its JSON) and "state" (JSON).
 * Must not know the loop, nor where checkpoints lie. */
#ifndef BL_TRAIN_CHECKPOINT_H
#define BL_TRAIN_CHECKPOINT_H

#include "train/network.h"
#include "train/optimizer.h"
#include "train/recipe.h"

/* Where a run stands. */
typedef struct bl__progress {
    uint64_t step;           /* steps done */
    uint64_t updates;        /* of the optimizer; fewer when it was set back */
    uint64_t skipped;        /* batches of the data passed over after rollbacks */
    uint64_t rollbacks;      /* in all */
    double smoothed;         /* running mean of losses; NaN before the first */
    double validation, best; /* last and lowest; NaN before the first */
    double seconds;          /* spent training */
} bl__progress;

/* Where whole tensors come from when parameters are parts of them: tensor `param` of the values
 * (kind 0), the first or the second moments, float[whole_rows][whole_cols], to be used before the
 * next call. Asked for in the order of the file, kinds one after the other. */
typedef struct bl__tensor_source {
    void *context;
    const float *(*get)(void *context, size_t kind, size_t param);
} bl__tensor_source;

typedef struct bl__checkpoint bl__checkpoint;

/* Writes beside the path and renames, so that whatever was there stays until the new one is whole.
 * moments: NULL leaves them out. source: NULL when parameters are whole.
 * BL_ERR_IO (a full disk), BL_ERR_MEMORY. */
bl_status bl__checkpoint_write(const char *path, const bl__recipe *recipe,
                               const bl__progress *progress, const bl__param *params,
                               size_t n_params, const bl__moments *moments,
                               const bl__tensor_source *source, bl_error *err);

/* Opens and checks a file, and hands out its recipe and state. Errors name the path:
 * BL_ERR_NOT_FOUND, BL_ERR_IO, BL_ERR_FORMAT (cut short, no checkpoint), BL_ERR_MEMORY. */
bl_status bl__checkpoint_open(const char *path, bl__checkpoint **out, bl_error *err);
void bl__checkpoint_close(bl__checkpoint *checkpoint); /* NULL is accepted */
const bl__recipe *bl__checkpoint_recipe(const bl__checkpoint *checkpoint);
const bl__progress *bl__checkpoint_progress(const bl__checkpoint *checkpoint);

/* Copies parameters, or the parts that they are, and, unless optimizer is NULL, its moments.
 * BL_ERR_FORMAT names a tensor that is missing, one too many, or of another shape; nothing is
 * copied then. */
bl_status bl__checkpoint_read(const bl__checkpoint *checkpoint, bl__param *params, size_t n_params,
                              bl__optimizer *optimizer, bl_error *err);

#endif
