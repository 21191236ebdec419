/* What the files of a run in memory share: trainer_open.c makes one, trainer.c goes through its
 * steps, trainer_validate.c measures it, trainer_report.c says what it came to. Nobody else
 * includes this. */
#ifndef BL_TRAIN_TRAINER_STATE_H
#define BL_TRAIN_TRAINER_STATE_H

#include "bitloom/tokenizer.h"
#include "train/collector.h"
#include "train/data.h"
#include "train/optimizer.h"
#include "train/processes.h"
#include "train/run_directory.h"
#include "train/sample.h"
#include "train/source.h"
#include "train/trainer.h"

struct bl__trainer {
    const bl_train_params *params;
    bl__processes *processes; /* NULL: this one alone */
    bl__processes *tensor;    /* those that have the parts of one network; NULL: it is whole */
    bl__processes *data;      /* those that have the same part and other rows; NULL: no others */
    bl__collector *collector; /* NULL when the network is whole */
    bl__recipe recipe;
    bl__progress progress;
    bl__run_directory directory;
    bl__source *source; /* to start from; NULL once its weights are taken */
    bl__tokens tokens;
    bl__windows windows;
    bl_tokenizer *tokenizer; /* NULL when the recipe names none */
    bl__writer *writer;      /* NULL when no samples are written */
    bl__pool *pool;
    bl__network *net;
    bl__network *teacher;     /* NULL: none */
    double teacher_loss;      /* on held-out data; NaN without either */
    double hidden, relations; /* losses of the step at hand, of those; NaN without them */
    bl__optimizer *optimizer;
    bl__param *list; /* [n_params] */
    size_t n_params;
    int32_t *inputs, *targets; /* int32[rows][tokens] */
    int32_t *firsts;           /* the same; NULL unless documents are kept apart */
    unsigned n_rollbacks;      /* since the last checkpoint */
    bool quantized;            /* the network has the codes of its weights as they are */
    double pace;               /* smoothed seconds a step; 0 before the first */
};

static inline size_t n_rows(const bl__trainer *t) {
    return (size_t)t->recipe.rows;
}
static inline size_t n_tokens(const bl__trainer *t) {
    return (size_t)t->recipe.tokens;
}
/* Tokens of a step. */
static inline uint64_t step_tokens(const bl__trainer *t) {
    return (uint64_t)t->recipe.rows * (uint64_t)t->recipe.tokens * (uint64_t)t->recipe.accumulate;
}
/* Whether this process writes files and calls back. */
static inline bool speaks(const bl__trainer *t) {
    return bl__processes_rank(t->processes) == 0;
}
/* Part of n items that is this process's: *first ... and how many. */
static inline uint64_t own_share(const bl__trainer *t, uint64_t n, uint64_t *first) {
    uint32_t rank = bl__processes_rank(t->data), size = bl__processes_size(t->data);
    *first = bl__share(n, rank, size);
    return bl__share(n, rank + 1, size) - *first;
}
/* Rows that the network takes at a time at most. */
static inline size_t own_rows(const bl__trainer *t) {
    uint64_t first, n = own_share(t, (uint64_t)t->recipe.accumulate * n_rows(t), &first);
    return (size_t)(n < n_rows(t) ? n : n_rows(t));
}
static inline bool is_due(const bl__trainer *t, int64_t interval) {
    uint64_t step = t->progress.step;
    return (interval && step % (uint64_t)interval == 0) || step == (uint64_t)t->recipe.steps;
}

/* Directory, recipe, data, network; what the last checkpoint holds, which is NULL in *from when
 * there is none. */
bl_status bl__trainer_open_run(bl__trainer *trainer, bl__checkpoint **from, bl_error *err);
/* The last checkpoint that process 0 sees, or NULL in *out. */
bl_status bl__trainer_latest(const bl__trainer *trainer, bl__checkpoint **out, bl_error *err);
/* Takes weights, moments and progress of a checkpoint. */
bl_status bl__trainer_load(bl__trainer *trainer, const bl__checkpoint *from, bl_error *err);

/* How far quantization has come in for the step at hand. */
double bl__trainer_lambda(const bl__trainer *trainer);
/* Gives the network the codes of its weights as they are, for the step at hand. */
void bl__trainer_quantize(bl__trainer *trainer);
/* The teacher's loss over the same windows as bl__trainer_validate(). */
bl_status bl__trainer_measure_teacher(bl__trainer *trainer, double *out, bl_error *err);
/* Held-out windows that are measured. */
size_t bl__trainer_n_measured(const bl__trainer *trainer);
/* Targets that count in rows of the batch. */
size_t bl__trainer_count_targets(const bl__trainer *trainer, size_t first_row, size_t rows);

#endif
