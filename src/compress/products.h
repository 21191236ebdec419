/* Private to compress/: dense float products on all threads, on the trainer's kernels, and the time
 * that they take. */
#ifndef BL_COMPRESS_PRODUCTS_H
#define BL_COMPRESS_PRODUCTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"
#include "bitloom/status.h"
#include "kernels/train_kernels.h"

enum { BL_GRAM_RUN = 512 }; /* rows that bl__gram_add() sums in float32 */

typedef struct bl__products {
    const bl__gemm *gemm;
    bl__pool *pool;
    float *panels;  /* the packed operand in hand; grows to the largest one */
    size_t room;    /* floats of it */
    double seconds; /* spent in all products so far */
    double n_flops; /* and what was computed in them */
} bl__products;

bl__products bl__products_make(bl__pool *pool);
void bl__products_free(bl__products *products);
/* Makes room for operands of up to k x n, so that products of these cannot fail. */
bl_status bl__products_reserve(bl__products *products, size_t k, size_t n, bl_error *err);

/* A matrix in memory: rows `stride` floats apart. */
typedef struct bl__matrix {
    const float *data;
    size_t stride;
} bl__matrix;

/* c[m][n] = a[m][k] b[n][k]^T; with `add`, c += it. Room for (k, n) must be there. */
void bl__multiply_t(bl__products *products, bl__matrix a, bl__matrix b, size_t m, size_t k,
                    size_t n, float *c, size_t c_stride, bool add);
/* c[m][n] (+)= a[m][k] b[k][n]. */
void bl__multiply(bl__products *products, bl__matrix a, bl__matrix b, size_t m, size_t k, size_t n,
                  float *c, size_t c_stride, bool add);
/* The upper triangle of h[n][n] += x[k][n]^T x: float32 in runs of rows, sums of runs in double.
 * Room for (BL_GRAM_RUN, n) must be there. */
void bl__gram_add(bl__products *products, const float *x, size_t k, size_t n, double *h);

/* All of c[n][n] += a[k][n]^T b[k][n], in the same way. Room for (2 * BL_GRAM_RUN, n) must be
 * there. */
void bl__cross_add(bl__products *products, const float *a, const float *b, size_t k, size_t n,
                   double *c);

#endif
