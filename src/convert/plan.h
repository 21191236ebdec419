/* Private to convert/: the list of tensors to be written, where each comes from, and what happens
 * to its weights on the way. A reader of some checkpoint makes it; write.c carries it out. */
#ifndef BL_CONVERT_PLAN_H
#define BL_CONVERT_PLAN_H

#include "base/pool.h"
#include "bitloom/convert.h"
#include "formats/gguf.h"
#include "quant/quant.h"

enum { BL_PLAN_MAX_NAME = 64 }; /* with the NUL: what GGUF readers take */

typedef struct bl__plan_tensor bl__plan_tensor;
struct bl__plan_tensor {
    char name[BL_PLAN_MAX_NAME];
    uint32_t n_dims;
    uint64_t dims[4]; /* ggml order; rows and cols follow from it */
    size_t rows, cols;

    /* The source, borrowed. */
    bl__layout source;
    const uint8_t *data;
    size_t bytes;
    const void *origin; /* for the plan's release() and for make() */
    /* Not NULL: there is no source, and this makes row `row`: out[cols]. Any thread may call it. */
    void (*make)(const bl__plan_tensor *tensor, size_t row, float *out);

    /* What happens to the weights, in this order. */
    size_t head_dim; /* not 0: rows of each head go from RoPE halves to adjacent pairs */
    float scale;     /* multiplies every weight; 1 = as they are */
    float inverse;   /* not 0: master weights, ternarized by bl__ternarize() */

    bl__layout target;
    float tensor_scale; /* the magnitude in the whole tensor, for i2_s */
    bool linear;        /* a matrix that the options' type is for */
    bool ternary;       /* every weight is known to be one of -s, 0, +s */
    bool binary;        /* and none to be 0 */
    bool native;        /* the target is Bitloom's choice: bl__plan_choose_native() */
    bool exact;         /* refuse what the target would round */
};

typedef struct bl__plan {
    bl__plan_tensor *tensors;
    size_t n_tensors, cap;
    void (*release)(const bl__plan_tensor *tensor); /* its source is not needed any more; or NULL */
    bool may_skip; /* the graph lets rows of ffn_up and columns of ffn_down be left out */
} bl__plan;

/* What the caller of bl_convert() asked for. */
typedef struct bl__plan_options {
    bool native;     /* linears: a native layout where possible */
    bl__layout type; /* linears, unless native */
    bool embed_as_stored;
    bl__layout embed_type; /* unless as stored */
    bool new_answer;       /* leave the source's known answer out */
    bool i2_s_arm;         /* the source's i2_s is in the order of ARM builds */
} bl__plan_options;

void bl__plan_free(bl__plan *plan);

/* Appends a tensor that is copied as it is: target = source, scale 1. *out may be changed until the
 * next call. BL_ERR_LIMIT when the name is too long. */
bl_status bl__plan_add(bl__plan *plan, bl__string name, uint32_t n_dims, const uint64_t *dims,
                       bl__layout source, const void *data, size_t bytes, bl__plan_tensor **out,
                       bl_error *err);

/* Chooses the target of a linear's weights, reading them where they must be known ternary.
 * exact: weights that are not ternary must not be rounded.
 * Errors: BL_ERR_UNSUPPORTED, naming the tensor and what would do instead. */
bl_status bl__plan_linear(bl__plan_tensor *tensor, const bl__plan_options *options, bool exact,
                          bl__pool *pool, bl_error *err);
/* Settles the targets of linears that were planned with options->native, of which the size of the
 * whole model and the speed of this machine are a part. */
void bl__plan_choose_native(bl__plan *plan, bl__pool *pool);
/* The layout of ternary weights in a model with so many: bl__layout_choose_native()'s, but in
 * models that second-level caches do not hold the other one where it is measured to be faster with
 * the threads of the pool, which takes a tenth of a second; not where memory is too short for that.
 */
bl__layout bl__native_fastest(bl__pool *pool, uint64_t n_weights);
/* Whether every row is ternary. */
bl_status bl__plan_is_ternary(const bl__plan_tensor *tensor, bl__pool *pool, bool *out,
                              bl_error *err);
/* The same as bl__plan_linear() for an embedding or output head. */
bl_status bl__plan_embedding(bl__plan_tensor *tensor, const bl__plan_options *options,
                             bl_error *err);

/* Once all tensors are there: ffn_up becomes R2 and ffn_down C2 (quant/skip.h) where both were to
 * be native and the graph and the width let them. */
void bl__plan_let_skip(bl__plan *plan, const bl__plan_options *options);

/* The row of the source that becomes row `row`. */
size_t bl__plan_source_row(const bl__plan_tensor *tensor, size_t row);
/* Row `row` as it will be written: out[cols]. BL_ERR_FORMAT when its codes are impossible. */
bl_status bl__plan_read_row(const bl__plan_tensor *tensor, size_t row, float *out, bl_error *err);

/* Writes the tensors' data in order: the writer has begun, with every tensor declared. */
bl_status bl__plan_write(const bl__plan *plan, bl__gguf_writer *writer, bl__pool *pool,
                         const bl_convert_params *params, bl_error *err);

#endif
