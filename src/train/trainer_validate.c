/* Owns what held-out data say of a run: of the network as trained, and of what is exported. */
#include "train/trainer_state.h"

#include <math.h>

#include "base/checked.h"
#include "base/half.h"

enum { DEPLOYED_ROWS = 4 /* of the network that measures what is exported */ };

size_t bl__trainer_n_measured(const bl__trainer *t) {
    size_t n = t->windows.n_valid_windows, most = (size_t)t->recipe.eval_rows;
    return most ? bl__min_size(n, most) : n;
}

size_t bl__trainer_count_targets(const bl__trainer *t, size_t first_row, size_t rows) {
    size_t n = 0;
    for (size_t i = first_row * n_tokens(t); i < (first_row + rows) * n_tokens(t); i++)
        n += t->targets[i] >= 0;
    return n;
}

/* Weighs each batch by the targets that count in it. */
static bl_status measure(bl__trainer *t, bl__network *net, size_t batch, double *out,
                         bl_error *err) {
    uint64_t begin, n = own_share(t, bl__trainer_n_measured(t), &begin);
    bl_status status = BL_OK;
    double sums[2] = {0}; /* of losses, of targets */
    for (uint64_t done = 0; done < n && !status; done += batch) {
        size_t rows = n - done < batch ? (size_t)(n - done) : batch;
        status = bl__windows_valid(&t->windows, (size_t)(begin + done), rows, t->inputs, t->targets,
                                   t->firsts, err);
        if (status)
            break;
        double counted = (double)bl__trainer_count_targets(t, 0, rows);
        sums[0] += counted * bl__network_step(net, t->inputs, t->targets, rows, n_tokens(t), false,
                                              1.0f, NULL);
        sums[1] += counted;
    }
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__processes_sum(t->data, sums, 2);
    *out = sums[1] > 0 ? sums[0] / sums[1] : NAN;
    return BL_OK;
}

bl_status bl__trainer_validate(bl__trainer *t, double *out, bl_error *err) {
    bl__trainer_quantize(t);
    bl__network_set_firsts(t->net, t->firsts);
    return measure(t, t->net, own_rows(t), out, err);
}

bl_status bl__trainer_measure_teacher(bl__trainer *t, double *out, bl_error *err) {
    *out = NAN;
    if (!t->teacher)
        return BL_OK;
    bl__network_set_firsts(t->teacher, t->firsts);
    return measure(t, t->teacher, own_rows(t), out, err);
}

/* Values as exports have them. */
static void take_exported(const bl__param *from, bl__param *to, bl__weight_mode weights) {
    bool rounds = weights != BL_WEIGHTS_FLOAT && !from->linear && from->vector != BL_VECTOR_OUT;
    for (size_t i = 0; i < from->rows * from->cols; i++) {
        float value = from->value[i];
        to->value[i] = !rounds        ? value
                       : from->vector ? bl__f16_to_f32(bl__f32_to_f16(value))
                                      : bl__bf16_to_f32(bl__f32_to_bf16(value));
    }
}

bl_status bl__trainer_deployed(bl__trainer *t, double *out, bl_error *err) {
    bl__network_config config = *bl__network_get_config(t->net);
    size_t batch = bl__min_size(own_rows(t), DEPLOYED_ROWS), n;
    bl__network *net = NULL;
    config.precision = BL_PRECISION_FLOAT32;
    config.blends = false;
    config.recompute = true; /* nothing waits for a backward pass */
    bl_status status = bl__network_create(&config, batch, n_tokens(t), t->pool, &net, err);
    if ((status = bl__processes_agree(t->processes, status, err))) {
        bl__network_free(net);
        return status;
    }
    bl__param *list = bl__network_params(net, &n);
    for (size_t i = 0; i < n; i++)
        take_exported(&t->list[i], &list[i], config.weights);
    bl__network_set_firsts(net, t->firsts);
    bl__network_quantize(net);
    status = measure(t, net, batch, out, err);
    bl__network_free(net);
    return status;
}
