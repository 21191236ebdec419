/* Owns the way from a run's directory to a network with its weights. Must not know what for. */
#include "train/trained.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "train/checkpoint.h"
#include "train/run_directory.h"

/* Between two kinds of network there is none that a file could hold. */
static bl_status check_lambda(const bl__recipe *recipe, const char *run, const bl__checkpoint *c,
                              bl_error *err) {
    bl__schedule schedule = bl__recipe_schedule(recipe);
    uint64_t step = bl__checkpoint_progress(c)->step;
    double lambda = bl__schedule_lambda(&schedule, step);
    if (lambda >= 1.0)
        return BL_OK;
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%s: quantization has come in by %.3g of 1 at step %llu of %llu "
                    "(lambda_steps); train on before exporting",
                    run, lambda, (unsigned long long)step, (unsigned long long)schedule.n_lambda);
}

bl_status bl__trained_load(const char *run, bl__trained *out, bl_error *err) {
    bl__checkpoint *c = NULL;
    char *text = NULL, path[BL_RUN_MAX_PATH];
    size_t n;
    *out = (bl__trained){0};
    bl_status status = bl__run_find_checkpoint(run, path, err);
    if (status || (status = bl__checkpoint_open(path, &c, err)))
        return status;
    if (!(text = bl__recipe_text(bl__checkpoint_recipe(c))))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate a recipe");
    else
        status = bl__recipe_parse(text, strlen(text), NULL, 0, &out->recipe, err);
    if (!status)
        status = check_lambda(&out->recipe, run, c, err);
    bl__network_config config = bl__recipe_network(&out->recipe);
    config.blends = false;
    if (!status && !(status = bl__network_create(&config, 1, 1, NULL, &out->net, err))) {
        bl__param *params = bl__network_params(out->net, &n);
        status = bl__checkpoint_read(c, params, n, NULL, err);
    }
    if (!status)
        bl__network_quantize(out->net);
    bl__free(text);
    bl__checkpoint_close(c);
    return status;
}

void bl__trained_free(bl__trained *trained) {
    bl__network_free(trained->net);
    bl__recipe_free(&trained->recipe);
    *trained = (bl__trained){0};
}

const linear *bl__trained_linear(const bl__network *net, const bl__param *param) {
    for (size_t i = 0; i < net->config.n_layers; i++)
        for (size_t k = 0; k < N_LINEARS; k++)
            if (net->layers[i].linears[k].param == param)
                return &net->layers[i].linears[k];
    return NULL;
}
