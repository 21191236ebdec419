/* AdamW (arXiv 1711.05101) as PyTorch computes it, with clipping of the global gradient norm.
 * Knows parameters as arrays with a name; must not know the network, schedules or files. */
#ifndef BL_TRAIN_OPTIMIZER_H
#define BL_TRAIN_OPTIMIZER_H

#include "train/network.h"
#include "train/processes.h"

typedef struct bl__optimizer_config {
    double beta1, beta2, eps; /* 0.9, 0.95, 1e-8 */
    /* NULL: this one alone. Several share the work: each has the moments of a part of the weights,
     * and bl__optimizer_step() and bl__optimizer_moments() are calls that all of them make. Values
     * and gradients must lie as bl__network_create() lays them out. */
    bl__processes *processes;
    bl__processes *tensor; /* NULL, or those that the parts of the parameters lie in */
} bl__optimizer_config;

typedef struct bl__moments {
    float *first, *second; /* float[rows][cols] of the parameter with the same index */
} bl__moments;

typedef struct bl__optimizer bl__optimizer;

/* params[n_params] and pool are borrowed; moments start at zero. BL_ERR_LIMIT, BL_ERR_MEMORY;
 * BL_ERR_ARGUMENT when several processes are to share parameters that lie apart. */
bl_status bl__optimizer_create(const bl__optimizer_config *config, bl__param *params,
                               size_t n_params, bl__pool *pool, bl__optimizer **out, bl_error *err);
void bl__optimizer_free(bl__optimizer *optimizer);

size_t bl__optimizer_bytes(const bl__optimizer *optimizer);

/* Moments [n_params], which live as long as the optimizer; one that is alone can be changed by
 * them. With several processes they come together in process 0, to be read there until
 * bl__optimizer_return_moments(), which all processes call: part of them lies where gradients do.
 */
bl__moments *bl__optimizer_moments(bl__optimizer *optimizer);
void bl__optimizer_return_moments(bl__optimizer *optimizer);
/* Takes this process's part of the first or second moments of a parameter: the bytes of
 * float[rows][cols]. */
void bl__optimizer_set_moments(bl__optimizer *optimizer, size_t param, bool second,
                               const void *moments);
/* Updates taken so far, which bias correction depends on. */
uint64_t bl__optimizer_steps(const bl__optimizer *optimizer);
void bl__optimizer_set_steps(bl__optimizer *optimizer, uint64_t steps);

/* The Euclidean norm of all gradients together; for one process that is alone. */
double bl__optimizer_gradient_norm(bl__optimizer *optimizer);

/* One update from the gradients (of several processes, from their sum), which are zero afterwards:
 *     g *= min(1, max_norm / (norm + 1e-6))            max_norm 0: no clipping
 *     w *= 1 - rate * decay                            where the parameter decays
 *     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *     w -= rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 * Returns the norm before clipping. When it is not finite, gradients are zeroed and nothing else
 * changes. */
double bl__optimizer_step(bl__optimizer *optimizer, double rate, double decay, double max_norm);

#endif
