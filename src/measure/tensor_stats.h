/* Private to measure/: what a tensor of a file holds, counted weight by weight on all threads. */
#ifndef BL_MEASURE_TENSOR_STATS_H
#define BL_MEASURE_TENSOR_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "bitloom/status.h"
#include "formats/gguf.h"

enum { BL_NO_ROW = -1 };

typedef struct bl__tensor_stats {
    uint64_t checksum;             /* of the tensor's bytes; 0 unless asked for */
    uint64_t weights, minus, plus; /* in rows that are neither of the next two */
    uint64_t bad_codes;            /* rows with a code that the layout does not define */
    uint64_t bad_numbers;          /* rows with a NaN or an infinity: weights or scales */
    uint64_t zero_rows;            /* rows of zeros */
    uint64_t one_sided;            /* rows that are one value, and not zero */
    uint64_t odd_rows;             /* rows more than 2^10 times as large as the median row */
    uint64_t faint_rows;           /* rows, not of zeros, below 2^-20 of the median row */
    int64_t first_bad_code, first_bad_number, first_odd, first_faint; /* rows, or BL_NO_ROW */
    float largest;                                                    /* |w| */
    bool constant; /* all weights are one value */
    /* Weights that are not 0, uint32_t[rows] and uint32_t[cols]; NULL unless asked for. */
    uint32_t *row_counts, *col_counts;
} bl__tensor_stats;

enum { BL_STATS_CHECKSUM = 1, BL_STATS_ROWS = 2, BL_STATS_COLS = 4 };

/* Counts everything, and what `wanted` says. The tensor's layout must be one that can be unpacked,
 * but for its checksum. Release what *out owns with bl__tensor_stats_free(). */
bl_status bl__tensor_stats_count(const bl__gguf_tensor *tensor, unsigned wanted, bl__pool *pool,
                                 bl__tensor_stats *out, bl_error *err);
void bl__tensor_stats_free(bl__tensor_stats *stats);

static inline uint64_t bl__tensor_stats_zeros(const bl__tensor_stats *stats) {
    return stats->weights - stats->minus - stats->plus;
}

#endif
