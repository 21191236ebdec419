/* Private to compress/: codes and levels improved in turns against the whole Hessian. */
#ifndef BL_COMPRESS_POLISH_H
#define BL_COMPRESS_POLISH_H

#include "compress/block.h"

/* Lowers the error (target - W) H (target - W)^T of each row; W is what settled signs say and what
 * problem->weights hold, before and after. n_sweeps times, each code becomes the best for all the
 * others, and then each level of each block. n_codes: 4, or 2 for matrices of one group without
 * salient columns, which stay such. target: float[rows][cols]. */
bl_status bl__polish(const bl__problem *problem, const float *target, unsigned n_codes,
                     size_t n_sweeps, bl__binarized *signs, bl_error *err);

#endif
