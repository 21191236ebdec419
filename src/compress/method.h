/* Private to compress/: the methods, each a row of one table and a small file. */
#ifndef BL_COMPRESS_METHOD_H
#define BL_COMPRESS_METHOD_H

#include "compress/block.h"

/* What a method made of a matrix. Its weights are in problem->weights. */
typedef struct bl__compressed {
    bl__binarized *signs; /* NULL: the method has none, only weights */
    double salient;       /* share of salient columns, or weights */
    double nominal_bits;  /* a weight, as papers count: signs, and nothing that tells them apart */
    double true_bits;     /* everything that must be stored, in bits of the whole matrix */
} bl__compressed;
void bl__compressed_free(bl__compressed *compressed);

typedef struct bl__method {
    const char *name, *summary;
    bool calibrated; /* needs the Hessian */
    bool packs;      /* a layout holds what it makes: signs, or ternary weights */
    bool haar;       /* works on block-wise Haar coefficients */
    bool released;   /* the authors' code differs from their paper, and both can be had */
    /* Compresses the matrix; out is empty. */
    bl_status (*run)(const bl__problem *problem, bl__compressed *out, bl_error *err);
} bl__method;

extern const bl__method bl__method_rtn, bl__method_gptq1, bl__method_pb_llm, bl__method_billm,
    bl__method_arb, bl__method_arb_rc, bl__method_arb_h, bl__method_sign_h, bl__method_haar,
    bl__method_onebit, bl__method_ternary;

/* In the order that lists show; NULL for an unknown name. */
extern const bl__method *const bl__methods[];
extern const size_t bl__n_methods;
const bl__method *bl__method_find(const char *name);

/* What most methods do: signs by a course, settled and counted. */
bl_status bl__compress_to_signs(const bl__problem *problem, const bl__course *course,
                                bool col_scale, bl__compressed *out, bl_error *err);
/* Fills both counts of bits from the signs. */
bl_status bl__compressed_count(bl__compressed *compressed, bl_error *err);

#endif
