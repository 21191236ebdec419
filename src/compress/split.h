/* Private to compress/: the best two magnitudes for a row's weights in one block. */
#ifndef BL_COMPRESS_SPLIT_H
#define BL_COMPRESS_SPLIT_H

#include <stddef.h>

/* w[n] ~ +-inner or +-outer, n <= 128, so that the sum of weight[c] * (the error of c)^2 is least
 * (weight NULL: ones). Of all ways to part magnitudes at a break the best is taken, which is the
 * best of all ways. inner <= outer; they are equal where one value is enough. */
void bl__split_row(const float *w, const float *weight, size_t n, float *inner, float *outer);

#endif
