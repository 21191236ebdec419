/* Owns the split of one row. Must not know blocks. */
#include "compress/split.h"

#include <math.h>
#include <stdlib.h>

#include "compress/block.h"

typedef struct entry {
    float magnitude, weight;
} entry;

static int by_magnitude(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return (x->magnitude > y->magnitude) - (x->magnitude < y->magnitude);
}

void bl__split_row(const float *w, const float *weight, size_t n, float *inner, float *outer) {
    entry entries[BL_BLOCK_COLS] = {{0, 0}};
    double all = 0, all_along = 0, below = 0, below_along = 0, best = -1;
    for (size_t c = 0; c < n; c++) {
        entries[c] = (entry){fabsf(w[c]), weight ? weight[c] : 1.0f};
        all += (double)entries[c].weight;
        all_along += (double)entries[c].weight * (double)entries[c].magnitude;
    }
    qsort(entries, n, sizeof *entries, by_magnitude);
    *inner = *outer = all > 0 ? (float)(all_along / all) : 0;
    /* the error of a part is its sum of squares less along^2 / weight: the most is taken off */
    for (size_t c = 0; c + 1 < n; c++) {
        below += (double)entries[c].weight;
        below_along += (double)entries[c].weight * (double)entries[c].magnitude;
        double above = all - below, above_along = all_along - below_along;
        if (!(below > 0 && above > 0))
            continue;
        double gain = below_along * below_along / below + above_along * above_along / above;
        if (gain > best) {
            best = gain;
            *inner = (float)(below_along / below);
            *outer = (float)(above_along / above);
        }
    }
}
