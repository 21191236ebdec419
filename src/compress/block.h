/* Private to compress/: one matrix on its way to signs, a block of columns at a time.
 *
 * A method looks at a block and chooses salient columns, groups and parameters; what is the same
 * for all of them is here: rounding a row column by column, and making its errors good in the
 * columns that follow (GPTQ, arXiv 2210.17323, with signs for integers as in BiLLM, arXiv
 * 2402.04291, algorithm 1). */
#ifndef BL_COMPRESS_BLOCK_H
#define BL_COMPRESS_BLOCK_H

#include "compress/products.h"
#include "quant/binarized.h"

enum { BL_BLOCK_COLS = BL_BINARIZED_BLOCK };

/* A matrix to be compressed, and what calibration says about it. */
typedef struct bl__problem {
    size_t rows, cols;
    float *weights;       /* float[rows][cols]; becomes what is stored */
    const float *hessian; /* float[cols][cols], damped; NULL without calibration */
    const float *factor;  /* float[cols][cols]: bl__factor_inverse(); NULL without */
    bl__products *products;
    bool released; /* as the authors' code does it, where that differs from their paper */
} bl__problem;

/* The columns first ... first + n - 1. Rows of weights and codes are BL_BLOCK_COLS apart. */
typedef struct bl__block {
    const bl__problem *problem;
    size_t first, n;
    float *weights;   /* float[rows][128]: as earlier errors left them; 0 past n */
    uint8_t *salient; /* [n]; zeros at first, as codes are */
    uint8_t *codes;   /* [rows][128] */
    float *params;    /* float[rows][7]; zeros at first */
    float *col_scale; /* float[n]; ones at first */
    float *scratch;   /* float[rows][128]: the method's */
} bl__block;

/* How the codes of a row are chosen while its errors are made good. */
typedef enum bl__rounding {
    BL_ROUND_KEEP,   /* as the method set them; errors only reach later blocks */
    BL_ROUND_GROUP,  /* signs anew, groups as the method set them */
    BL_ROUND_NEAREST /* all anew: the nearest of a row's values */
} bl__rounding;

typedef struct bl__course {
    /* Chooses everything in the block; in parallel where it can, by bl__block_rows(). */
    void (*fit)(bl__block *block);
    bl__rounding rounding;
    bool compensate; /* errors are made good in later columns; needs the factor */
    /* What is stored for a weight, for methods whose weights are no signs; NULL for signs. */
    float (*value)(const bl__block *block, size_t row, size_t c, float w);
} bl__course;

/* Runs fn for rows first ... end - 1, on all threads. */
typedef void (*bl__rows_fn)(bl__block *block, size_t first, size_t end);
void bl__block_rows(bl__block *block, bl__rows_fn fn);

/* 1 / salience's scale: column c's entry on the diagonal of the factor; 1 without calibration. */
static inline float bl__block_diagonal(const bl__block *b, size_t c) {
    size_t i = b->first + c;
    return b->problem->factor ? b->problem->factor[i * b->problem->cols + i] : 1.0f;
}

/* The stored weight. */
static inline float bl__binarized_value(const float *params, bool salient, unsigned code,
                                        float col_scale) {
    const float *p = params;
    float value;
    if (salient)
        value = (p[BL_SALIENT_MEAN] + (code & 1 ? p[BL_SALIENT_SCALE1] : -p[BL_SALIENT_SCALE1])) +
                (code & 2 ? p[BL_SALIENT_SCALE2] : -p[BL_SALIENT_SCALE2]);
    else if (code & 2)
        value = p[BL_OUTER_MEAN] + (code & 1 ? p[BL_OUTER_SCALE] : -p[BL_OUTER_SCALE]);
    else
        value = p[BL_INNER_MEAN] + (code & 1 ? p[BL_INNER_SCALE] : -p[BL_INNER_SCALE]);
    return value * col_scale;
}

/* Compresses problem->weights by blocks: fit, round, make good. out: zeros, of the problem's shape;
 * its parameters are not rounded yet. */
bl_status bl__compress_blocks(const bl__problem *problem, const bl__course *course,
                              bl__binarized *out, bl_error *err);

/* Rounds the parameters to what layouts hold, and makes weights what is stored then; in the
 * transformed basis when signs->haar. */
bl_status bl__settle(const bl__problem *problem, bl__binarized *signs, bl_error *err);

#endif
