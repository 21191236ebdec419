/* Owns bl_train(): a run from its beginning to its end, and what it came to. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "train/report.h"
#include "train/trainer_state.h"

/* What is known before the first step. */
static void fill_sizes(const bl__trainer *t, bl_train_report *r) {
    for (size_t i = 0; i < t->n_params; i++) {
        uint64_t n = (uint64_t)t->list[i].whole_rows * t->list[i].whole_cols;
        r->n_params += n;
        if (t->list[i].linear && t->recipe.weights != BL_WEIGHTS_FLOAT)
            r->n_quantized += n;
    }
    r->memory_bytes = bl__network_bytes(t->net) + bl__optimizer_bytes(t->optimizer);
    r->memory_bytes += t->teacher ? bl__network_bytes(t->teacher) : 0;
    r->teacher = t->teacher_loss;
    r->activation_bytes = bl__network_activation_bytes(t->net);
    r->n_processes = bl__processes_size(t->processes);
    r->process = bl__processes_rank(t->processes);
    snprintf(r->compute, sizeof r->compute, "%s", bl__network_compute(t->net));
}

/* Sizes of exports, which are of the whole network. */
static bl_status fill_layouts(const bl__trainer *t, bl_train_report *r, bl_error *err) {
    bl__param *whole = bl__malloc_array(t->n_params, sizeof *whole);
    if (!whole)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a list of parameters");
    for (size_t i = 0; i < t->n_params; i++) {
        whole[i] = t->list[i];
        whole[i].col_groups *= whole[i].whole_cols / whole[i].cols;
        whole[i].rows = whole[i].whole_rows;
        whole[i].cols = whole[i].whole_cols;
    }
    bl__report_sizes(whole, t->n_params, (bl__weight_mode)t->recipe.weights, r);
    bl__free(whole);
    return BL_OK;
}

/* What deployed and the metrics say beyond themselves. */
static bl_status fill_figures(bl__trainer *t, bl_train_report *r, bl_error *err) {
    double bytes = 0;
    size_t n_targets, len;
    char *metrics = NULL;
    bl_status status = bl__report_text_bytes(&t->windows, t->tokenizer, bl__trainer_n_measured(t),
                                             t->inputs, t->targets, &bytes, &n_targets, err);
    if (!status)
        status = bl__run_read_metrics(&t->directory, &metrics, &len, err);
    if (status)
        return status;
    r->bits_per_byte = bytes > 0 ? r->deployed / log(2.0) * (double)n_targets / bytes : NAN;
    bl__report_flips(metrics, len, r->n_steps, r->flips);
    bl__free(metrics);
    return fill_layouts(t, r, err);
}

static bl_status fill_report(bl__trainer *t, bl_train_report *out, bl_error *err) {
    const bl__progress *p = &t->progress;
    bl_train_report r = {.n_steps = p->step,
                         .tokens = p->step * step_tokens(t),
                         .rollbacks = p->rollbacks,
                         .smoothed = p->smoothed,
                         .validation = p->validation,
                         .best = p->best,
                         .seconds = p->seconds};
    fill_sizes(t, &r);
    bl_status status = bl__trainer_deployed(t, &r.deployed, err);
    if (!status && speaks(t))
        status = fill_figures(t, &r, err);
    if (!status)
        *out = r;
    return status;
}

bl_status bl_train(const bl_train_params *params, bl_train_report *report, bl_error *err) {
    bl__trainer *t = NULL;
    bl__processes *processes = NULL;
    if (!params->output)
        return bl__fail(err, BL_ERR_ARGUMENT, "training: no directory for the run");
    bl_status status = bl__processes_open(&processes, err);
    if (status)
        return status;
    status = bl__trainer_open(params, processes, &t, err);
    if (!status && params->begin && speaks(t)) {
        bl_train_report sizes = {0};
        fill_sizes(t, &sizes);
        params->begin(params->user, &sizes);
    }
    if (!status)
        status = bl__trainer_run(t, err);
    if (!status && report)
        status = fill_report(t, report, err);
    if (status && err && bl__processes_rank(processes) > 0)
        err->message[0] = '\0'; /* process 0 says it */
    bl__trainer_close(t);
    bl__processes_close(processes);
    return status;
}

const char *bl_train_mpi(bl_error *reason) {
    return bl__mpi_library(reason);
}
