/* Owns opening and closing a model. Must not know how tokens are evaluated. */
#include "model/model.h"

#include "base/alloc.h"
#include "base/error.h"
#include "cpu/cpu.h"
#include "cpu/memory.h"
#include "model/memory.h"

static bl_status describe(bl_model *model, bl_error *err) {
    const bl__hparams *h = &model->hparams;
    bl__string name = {0};
    bl_status status = bl__gguf_get_string(model->gguf, "general.name", false, &name, err);
    if (status)
        return status;
    model->name = bl__strndup(name.data, name.len);
    if (!model->name)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the model's name");
    model->info = (bl_model_info){
        .name = model->name,
        .architecture = h->architecture,
        .weights = bl__layout_get(model->layers[0].q.layout)->name,
        .activation = h->activation == BL_ACTIVATION_RELU2 ? "relu2" : "silu",
        .int8_activations = h->int8_activations,
        .n_layers = h->n_layers,
        .dim = h->dim,
        .ffn_dim = h->ffn_dim,
        .n_heads = h->n_heads,
        .n_kv_heads = h->n_kv_heads,
        .head_dim = h->head_dim,
        .vocab = h->vocab,
        .context_length = h->context_length,
        .n_groups = h->n_groups,
        .screen_bytes = model->screen ? model->screen->bytes : 0,
    };
    for (size_t i = 0; i < model->gguf->n_tensors; i++)
        model->info.n_params +=
            (uint64_t)model->gguf->tensors[i].rows * model->gguf->tensors[i].cols;
    for (size_t i = 0; i < h->n_layers; i++) {
        const bl__layer *l = &model->layers[i];
        model->info.repacked_bytes += l->q.owned_bytes + l->k.owned_bytes + l->v.owned_bytes +
                                      l->gate.owned_bytes + l->up.owned_bytes;
        for (size_t j = 0; j < h->n_groups; j++)
            model->info.repacked_bytes += l->o[j].owned_bytes + l->down[j].owned_bytes;
    }
    return BL_OK;
}

bl_status bl__model_from_bytes(const uint8_t *data, size_t len, bl_sparsity sparsity,
                               bl__pool *pool, bl_model **out, bl_error *err) {
    bl_model *model = bl__calloc(1, sizeof *model);
    bl_status status;
    if (!model)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a model");
    model->sparsity = sparsity;
    if ((status = bl__gguf_parse(data, len, &model->gguf, err)) ||
        (status = bl__hparams_read(model->gguf, &model->hparams, err)) ||
        (status = bl__weights_load(model, pool, err)) || (status = describe(model, err))) {
        bl_model_close(model);
        return status;
    }
    model->info.file_bytes = len;
    *out = model;
    return BL_OK;
}

bl_status bl_model_open(const char *path, const bl_model_params *params, bl_model **out,
                        bl_error *err) {
    uint32_t n_threads = params && params->n_threads ? params->n_threads : bl__cpu_physical_cores();
    bl_sparsity sparsity = params ? params->sparsity : BL_SPARSITY_AUTO;
    bl__filemap map;
    bl__pool *pool = NULL;
    bl_model *model = NULL;
    bool is_in_memory = bl__memory_holds_file(path);
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status; /* already names the path */
    if ((!is_in_memory && (status = bl__memory_check_file(map.len, err))) ||
        (status = bl__pool_create(n_threads, false, &pool, err)) ||
        (status = bl__model_from_bytes(map.data, map.len, sparsity, pool, &model, err))) {
        bl__error_prefix(err, path);
        bl__filemap_close(&map);
    } else {
        if (model->info.repacked_bytes) /* what they were made from is done with */
            bl__filemap_release(map.data, map.len);
        model->map = map;
        model->is_in_memory = is_in_memory;
        *out = model;
    }
    bl__pool_free(pool);
    return status;
}

void bl_model_close(bl_model *model) {
    if (!model)
        return;
    bl__weights_free(model);
    bl__screen_free(model->screen);
    bl__gguf_free(model->gguf);
    bl__filemap_close(&model->map);
    bl__free(model->name);
    bl__free(model);
}

const bl_model_info *bl_model_get_info(const bl_model *model) {
    return &model->info;
}
