/* Private to compress/: which columns of a block are salient, and where its other weights part into
 * an inner and an outer group. BiLLM, arXiv 2402.04291, sections 3.2 and 3.3, and its released
 * code, which looks at salience where the paper looks at weights. */
#ifndef BL_COMPRESS_PARTITION_H
#define BL_COMPRESS_PARTITION_H

#include "compress/groups.h"

enum { BL_MAX_SALIENT = 50 }; /* columns of a block, less one */

/* What a column is ranked by: the sum of its weights' salience w^2 / factor^2 over rows, or the
 * root of the sum of their squares (HBLLM, arXiv 2512.00862). */
typedef enum bl__ranking { BL_RANK_SUM, BL_RANK_NORM } bl__ranking;

/* Sets block->salient. Uses block->scratch. */
void bl__find_salient(bl__block *block, bl__ranking ranking);
/* Sets the outer group's bit in the codes of columns that are not salient: one break point for the
 * whole block. Uses block->scratch. */
void bl__split_block(bl__block *block);

/* Selections of a row as its codes say. */
typedef struct bl__row_groups {
    bl__selection inner, outer, salient;
} bl__row_groups;
void bl__select_groups(const bl__block *block, size_t row, bl__row_groups *out);

#endif
