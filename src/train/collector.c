/* Owns the memory that one tensor comes together in, and the place in the round: whoever writes may
 * stop half-way, at a full disk, and the other processes must not wait for it. */
#include "train/collector.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

struct bl__collector {
    bl__processes *tensor;
    const bl__param *params;
    size_t n_params;
    const bl__moments *moments;
    size_t next, end; /* kind * n_params + param: the first not collected yet, and one past all */
    float *parts;     /* float[n_processes][rows][cols] of the largest tensor */
    float *whole;     /* the same, for those that are parts by columns */
    size_t *bounds;   /* [n_processes + 1] */
};

bl_status bl__collector_create(bl__processes *tensor, const bl__param *params, size_t n_params,
                               bl__collector **out, bl_error *err) {
    size_t largest = 0;
    *out = NULL;
    if (!tensor)
        return BL_OK;
    for (size_t i = 0; i < n_params; i++)
        if (bl__param_is_part(&params[i]) && params[i].whole_rows * params[i].whole_cols > largest)
            largest = params[i].whole_rows * params[i].whole_cols;
    bl__collector *c = bl__calloc(1, sizeof *c);
    if (c) {
        *c = (bl__collector){.tensor = tensor, .params = params, .n_params = n_params};
        c->parts = bl__malloc_array(largest, sizeof *c->parts);
        c->whole = bl__malloc_array(largest, sizeof *c->whole);
        c->bounds = bl__calloc((size_t)bl__processes_size(tensor) + 1, sizeof *c->bounds);
    }
    if (!c || !c->parts || !c->whole || !c->bounds) {
        bl__collector_free(c);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a tensor of %zu weights", largest);
    }
    *out = c;
    return BL_OK;
}

void bl__collector_free(bl__collector *c) {
    if (!c)
        return;
    bl__free(c->parts);
    bl__free(c->whole);
    bl__free(c->bounds);
    bl__free(c);
}

/* Parts side by side. */
static const float *join_columns(bl__collector *c, const bl__param *p) {
    size_t n = p->rows * p->cols, n_processes = bl__processes_size(c->tensor);
    for (size_t i = 0; i < n_processes; i++)
        for (size_t row = 0; row < p->rows; row++)
            memcpy(c->whole + row * p->whole_cols + i * p->cols, c->parts + i * n + row * p->cols,
                   p->cols * sizeof *c->whole);
    return c->whole;
}

static const float *get(void *context, size_t kind, size_t param) {
    bl__collector *c = context;
    const bl__param *p = &c->params[param];
    const float *own = kind == 0   ? p->value
                       : kind == 1 ? c->moments[param].first
                                   : c->moments[param].second;
    uint32_t rank = bl__processes_rank(c->tensor), size = bl__processes_size(c->tensor);
    size_t n = p->rows * p->cols;
    c->next = kind * c->n_params + param + 1;
    if (!bl__param_is_part(p))
        return own;
    for (size_t i = 0; i <= size; i++)
        c->bounds[i] = i * n;
    memcpy(c->parts + rank * n, own, n * sizeof *own);
    bl__processes_collect(c->tensor, c->parts, c->bounds, sizeof *own);
    return p->cols < p->whole_cols ? join_columns(c, p) : c->parts;
}

bl__tensor_source bl__collector_begin(bl__collector *c, const bl__moments *moments) {
    c->moments = moments;
    c->next = 0;
    c->end = (moments ? 3 : 1) * c->n_params;
    return (bl__tensor_source){c, get};
}

void bl__collector_finish(bl__collector *c) {
    while (c->next < c->end)
        get(c, c->next / c->n_params, c->next % c->n_params);
}
