/* Private to model/: products of a batch of activations with weights, on all threads. */
#ifndef BL_MODEL_COMPUTE_H
#define BL_MODEL_COMPUTE_H

#include "base/arena.h"
#include "model/model.h"

/* What every product needs: kernels, threads and scratch memory, part of a session. */
typedef struct bl__compute {
    const bl__kernels *kernels;
    bl__pool *pool;
    size_t max_tokens;
    size_t max_parts; /* that scratch memory is there for */
    /* Activations of the products in hand: one input for all, or, where a model has linears that
     * change theirs, BL_MAX_PRODUCTS of them, each of max_tokens * max_digits rows of q8. */
    bl__q8 q8;
    size_t max_digits;
    float *
        dequantized; /* float[max_tokens][max_cols]: q8 as floats; NULL unless the model needs it */
    float *changed; /* float[BL_MAX_PRODUCTS][max_tokens][max_cols]: inputs as linears changed them;
                       NULL unless the model needs it */
    size_t max_cols;
    size_t n_groups;    /* of columns, at most */
    float *partial;     /* float[max_tokens][dim]: output of a group; NULL without groups */
    float *rows;        /* float[max_parts][BLOCK_ROWS][max_cols]: unpacked weights */
    size_t rows_stride; /* floats a part has there */
    float *digits;      /* float[max_parts][DIGIT_FLOATS]: products with digits; NULL: none */
} bl__compute;

/* Takes scratch for batches of max_tokens from the arena (which may be measuring). kernels and
 * pool are set by the caller. */
void bl__compute_layout(bl__compute *compute, const bl_model *model, size_t max_tokens,
                        bl__arena *arena);

/* Products in a group are at most so many. */
enum { BL_MAX_PRODUCTS = 3 };

/* One product in a group that shares its input. */
typedef struct bl__product {
    const bl__linear *linear;
    float *out; /* float[n_tokens][linear->rows] */
} bl__product;

/* out = x W^T for every product of the group; x: float[n_tokens][cols], quantized once for all
 * but linears that change it first: by a norm of their own, with norm_eps, by scales of its
 * columns, by the Haar transform. */
void bl__compute_products(bl__compute *compute, const bl__product *products, size_t n_products,
                          float norm_eps, const float *x, size_t n_tokens);

/* What bl__compute_products() is made of, for who puts products together in other ways. Quantizes
 * x: float[n_tokens][linear's cols] into compute->q8. */
void bl__compute_quantize(bl__compute *compute, const bl__linear *linear, const float *x,
                          size_t n_tokens);
/* Multiplies what is in compute->q8 by n tiles of 16 rows from `first` on, on this thread with the
 * scratch memory of `part`: out[n_tokens][linear's rows], of which only these rows are written. The
 * linear is ternary and takes int8. */
void bl__compute_tiles(bl__compute *compute, const bl__linear *linear, size_t first, size_t n,
                       size_t n_tokens, size_t part, float *out);

/* out[n_tokens][rows] = the sum of x_g W_g^T over parts[n_groups], in their order; x_g: the g-th of
 * equal parts of x's columns, quantized alone. */
void bl__compute_sum(bl__compute *compute, const bl__linear *parts, size_t n_groups, float norm_eps,
                     const float *x, size_t n_tokens, float *out);

/* out[t * linear's rows + r] = row first + r < first + n of a linear with float activations,
 * times x: float[n_tokens][cols]: the bits of bl__compute_products(). One thread's work: `part` <
 * max_parts says whose scratch is free. */
void bl__compute_dots(const bl__compute *compute, const bl__linear *linear, size_t first, size_t n,
                      const float *x, size_t n_tokens, size_t part, float *out);

/* Asks memory for a row of 16-bit or 32-bit floats: rows here and there are no prefetcher's stream.
 */
void bl__compute_expect_row(const bl__linear *linear, size_t row);

/* out[dim] = row `row` of a table. */
void bl__compute_row(const bl__compute *compute, const bl__linear *table, size_t row, float *out);

#endif
