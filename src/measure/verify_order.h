/* Private to measure/: in which of the two orders of I2_S a file's codes were written. */
#ifndef BL_MEASURE_VERIFY_ORDER_H
#define BL_MEASURE_VERIFY_ORDER_H

#include "formats/gguf.h"
#include "measure/tensor_stats.h"

/* How far the file's own structure stands out, in standard deviations of what chance gives. */
typedef struct bl__order_evidence {
    size_t n_relations; /* pairs of vectors that were compared; 0: there was nothing to go by */
    double x86, arm;    /* with the codes taken to be in this order */
} bl__order_evidence;

/* stats: of gguf->tensors[i], with row and column counts where they are ternary. */
bl__order_evidence bl__order_weigh(const bl__gguf *gguf, const bl__tensor_stats *stats,
                                   bool *no_memory);

#endif
