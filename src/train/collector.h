/* Whole tensors from the parts that processes have of them, one at a time, for process 0 to write.
 * Must not know what is written. */
#ifndef BL_TRAIN_COLLECTOR_H
#define BL_TRAIN_COLLECTOR_H

#include "train/checkpoint.h"

typedef struct bl__collector bl__collector;

/* For parameters whose parts lie in `tensor`; *out is NULL when that is. BL_ERR_MEMORY. */
bl_status bl__collector_create(bl__processes *tensor, const bl__param *params, size_t n_params,
                               bl__collector **out, bl_error *err);
void bl__collector_free(bl__collector *collector); /* NULL is accepted */

/* Begins a round over all values and, unless moments is NULL, moments: the source of process 0.
 * bl__collector_finish(), which all processes call, goes through what has not been asked for: all
 * of it, where nobody asks. */
bl__tensor_source bl__collector_begin(bl__collector *collector, const bl__moments *moments);
void bl__collector_finish(bl__collector *collector);

#endif
