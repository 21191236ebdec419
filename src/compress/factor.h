/* Private to compress/: the factor by which the error of one column is made good in later ones. */
#ifndef BL_COMPRESS_FACTOR_H
#define BL_COMPRESS_FACTOR_H

#include <stddef.h>

#include "base/pool.h"
#include "bitloom/status.h"

/* What damping a Hessian took. */
typedef struct bl__damping {
    double added; /* to the diagonal */
    size_t tries; /* 1 = the one asked for sufficed */
    size_t dead;  /* columns that calibration never touched: diagonal 0 */
} bl__damping;

/* Fills h[n][n] from its upper triangle, sets the diagonal of dead columns to 1 and adds `share` of
 * the mean of the diagonal to it; then factor[n][n], upper triangular (zeros below), with
 *     h^-1 = factor^T factor.
 * Where h is not positive definite to the precision at hand, ten times the damping is tried, up to
 * the mean itself. `name` is for errors: BL_ERR_FORMAT (no damping helps, numbers that are not
 * finite, nothing but zeros), BL_ERR_MEMORY, BL_ERR_LIMIT.
 * Source: GPTQ, arXiv 2210.17323, step 3; see factor.c for the order of operations. */
bl_status bl__factor_inverse(double *h, size_t n, double share, bl__pool *pool, const char *name,
                             float *factor, bl__damping *damping, bl_error *err);

#endif
