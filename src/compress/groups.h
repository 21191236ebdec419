/* Private to compress/: statistics of some of a row's weights in one block, in lanes: one order of
 * sums everywhere. Rows are BL_BLOCK_COLS floats, those past the block's end not selected. */
#ifndef BL_COMPRESS_GROUPS_H
#define BL_COMPRESS_GROUPS_H

#include "compress/block.h"

/* A selection of columns: 1 or 0 each. */
typedef struct bl__selection {
    float of[BL_BLOCK_COLS];
} bl__selection;

/* w ~ mean + scale * sign(w - mean) over a selection. */
typedef struct bl__group {
    float n, mean,
        scale;   /* mean: of w; scale: mean of |w - mean|; zeros when nothing is selected */
    float error; /* sum of the squares of what is left */
} bl__group;

bl__group bl__group_of(const float *w, const bl__selection *selection);

/* w ~ mean + scale1 * sign1 + scale2 * sign2: a group, and a group of what that leaves (BiLLM,
 * arXiv 2402.04291, eq. 7). Gives the second one's n and error. */
bl__group bl__group_residual(const float *w, const bl__selection *selection, float *mean,
                             float *scale1, float *scale2);

#endif
