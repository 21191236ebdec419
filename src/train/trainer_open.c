/* Owns how a run in memory is put together: directory, recipe, data, processes, network, and what a
 * checkpoint or another model gives it to begin with. Must not know steps. */
#include "train/trainer_state.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "bitloom/system.h"
#include "train/teacher.h"

/* Refuses a recipe that wants another model than the one to start from. Sub-norms and groups
 * may be added. */
static bl_status match_source(const bl__trainer *t, const char *base, bl_error *err) {
    bl__recipe found;
    bl_status status = bl__recipe_parse(base, strlen(base), NULL, 0, &found, err);
    if (status)
        return status;
    found.weights = t->recipe.weights;
    if (!found.sub_norms)
        found.sub_norms = t->recipe.sub_norms;
    if (found.groups == 1)
        found.groups = t->recipe.groups;
    if ((status = bl__recipe_match_model(&t->recipe, &found, err)))
        bl__error_prefix(err, t->recipe.from);
    bl__recipe_free(&found);
    return status;
}

/* A recipe over what the model that it starts from decides: the model is asked when the run begins,
 * its checkpoint later. */
static bl_status read_given(bl__trainer *t, const bl__checkpoint *last, bl_error *err) {
    const bl_train_params *p = t->params;
    char *from = NULL, *text = NULL;
    const char *base = NULL;
    bl_status status = bl__recipe_find_from(p->recipe, p->settings, p->n_settings, &from, err);
    if (status)
        return status;
    if (from && last) {
        base = text = bl__recipe_base_text(bl__checkpoint_recipe(last));
        if (!text)
            status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate a recipe");
    } else if (from && !(status = bl__source_open(from, &t->source, err)))
        base = bl__source_recipe(t->source);
    if (!status)
        status = bl__recipe_read_over(base, p->recipe, p->settings, p->n_settings, &t->recipe, err);
    if (!status && t->source)
        status = match_source(t, base, err);
    bl__free(from);
    bl__free(text);
    return status;
}

/* The recipe that was given, else that of the checkpoint. */
static bl_status read_recipe(bl__trainer *t, const bl__checkpoint *from, bl_error *err) {
    const bl_train_params *p = t->params;
    if (p->recipe || !from)
        return read_given(t, from, err);
    char *text = bl__recipe_text(bl__checkpoint_recipe(from));
    if (!text)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a recipe");
    bl_status status =
        bl__recipe_parse(text, strlen(text), p->settings, p->n_settings, &t->recipe, err);
    bl__free(text);
    return status;
}

static bl_status open_tokenizer(bl__trainer *t, bl_error *err) {
    if (!t->recipe.tokenizer)
        return BL_OK;
    bl_status status = bl_tokenizer_open(t->recipe.tokenizer, &t->tokenizer, err);
    if (status)
        return status;
    if ((status = bl__tokens_match(&t->tokens, t->tokenizer, err))) {
        bl__error_prefix(err, t->recipe.data);
        return status;
    }
    return bl__writer_create(&t->recipe, t->tokenizer, &t->writer, err);
}

static bl_status open_data(bl__trainer *t, bl_error *err) {
    bl__recipe *r = &t->recipe;
    bl_status status;
    if (!r->data)
        return bl__fail(err, BL_ERR_ARGUMENT, "data is missing: the file of tokens to train on");
    if ((status = bl__tokens_open(r->data, &t->tokens, err)))
        return status;
    if ((status = bl__tokens_check(&t->tokens, err))) {
        bl__error_prefix(err, r->data);
        return status;
    }
    if (!r->vocab)
        r->vocab = (int64_t)t->tokens.vocab;
    if ((uint64_t)r->vocab < t->tokens.vocab)
        return bl__fail(err, BL_ERR_ARGUMENT, "vocab is %lld, the ids in %s go to %zu",
                        (long long)r->vocab, r->data, t->tokens.vocab - 1);
    if ((status = bl__windows_init(&t->tokens, n_tokens(t), (uint64_t)r->seed,
                                   r->mask_documents != 0, &t->windows, err))) {
        bl__error_prefix(err, r->data);
        return status;
    }
    return open_tokenizer(t, err);
}

/* Processes that follow one another have the parts of a network. */
static bl_status make_groups(bl__trainer *t, bl_error *err) {
    uint32_t size = bl__processes_size(t->processes), rank = bl__processes_rank(t->processes);
    uint32_t n = (uint32_t)t->recipe.tensor_parallel;
    bl_status status;
    if (size % n)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "tensor_parallel is %u, expected a divisor of the number of processes, %u",
                        n, size);
    if ((status = bl__processes_group(t->processes, rank - rank % n, 1, n, &t->tensor, err)))
        return status;
    return bl__processes_group(t->processes, rank % n, n, size / n, &t->data, err);
}

static bl_status open_teacher(bl__trainer *t, bl_error *err) {
    const bl__recipe *r = &t->recipe;
    if (!r->teacher)
        return BL_OK;
    bl_status status = bl__teacher_open(r, &t->tokens, own_rows(t), t->pool, &t->teacher, err);
    bl__distillation distillation = bl__recipe_distillation(r);
    if (!status && (status = bl__network_set_teacher(t->net, t->teacher, &distillation, err)))
        bl__error_prefix(err, r->teacher);
    return status;
}

static bl_status make_network(bl__trainer *t, bl_error *err) {
    bl__network_config config = bl__recipe_network(&t->recipe);
    bl__optimizer_config optimizer = bl__recipe_optimizer(&t->recipe);
    uint32_t threads = t->params->n_threads
                           ? t->params->n_threads
                           : bl__processes_threads(t->processes, bl_cpu_physical_cores());
    size_t n;
    bl_status status = make_groups(t, err);
    if (status)
        return status;
    config.tensor = optimizer.tensor = t->tensor;
    optimizer.processes = t->data;
    if (own_rows(t) == 0)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%u processes for the %llu rows of a step, expected at most one for each",
                        bl__processes_size(t->data),
                        (unsigned long long)t->recipe.accumulate * n_rows(t));
    if (!bl__mul_size(n_rows(t), n_tokens(t), &n))
        return bl__fail(err, BL_ERR_LIMIT, "rows x tokens overflow");
    if ((status = bl__pool_create(threads, false, &t->pool, err)) ||
        (status = bl__network_create(&config, own_rows(t), n_tokens(t), t->pool, &t->net, err)))
        return status;
    if ((status = open_teacher(t, err)))
        return status;
    t->list = bl__network_params(t->net, &t->n_params);
    if ((status =
             bl__optimizer_create(&optimizer, t->list, t->n_params, t->pool, &t->optimizer, err)) ||
        (status = bl__collector_create(t->tensor, t->list, t->n_params, &t->collector, err)))
        return status;
    t->inputs = bl__calloc(n, sizeof *t->inputs);
    t->targets = bl__calloc(n, sizeof *t->targets);
    if (t->recipe.mask_documents)
        t->firsts = bl__calloc(n, sizeof *t->firsts);
    if (!t->inputs || !t->targets || (t->recipe.mask_documents && !t->firsts))
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a batch of %zu tokens", n);
    bl__network_set_firsts(t->net, t->firsts);
    bl__network_initialize(t->net, (float)t->recipe.init_std, (uint64_t)t->recipe.seed);
    return BL_OK;
}

bl_status bl__trainer_load(bl__trainer *t, const bl__checkpoint *from, bl_error *err) {
    bl_status status = bl__checkpoint_read(from, t->list, t->n_params, t->optimizer, err);
    if (status)
        return status;
    t->progress = *bl__checkpoint_progress(from);
    bl__optimizer_set_steps(t->optimizer, t->progress.updates);
    return BL_OK;
}

bl_status bl__trainer_latest(const bl__trainer *t, bl__checkpoint **out, bl_error *err) {
    char path[BL_RUN_MAX_PATH];
    bool found = false;
    uint64_t step = 0;
    bl_status status = speaks(t) ? bl__run_latest(t->directory.path, &found, &step, err) : BL_OK;
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__processes_broadcast(t->processes, &found, sizeof found);
    bl__processes_broadcast(t->processes, &step, sizeof step);
    if (!found)
        return BL_OK;
    bl__run_checkpoint_path(t->directory.path, step, path);
    return bl__checkpoint_open(path, out, err);
}

/* Recipe and data. */
static bl_status open_inputs(bl__trainer *t, bl__checkpoint **from, bl_error *err) {
    bl_status status = bl__trainer_latest(t, from, err);
    if (status)
        return status;
    if (*from && !t->params->resume)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%s: has the checkpoints of a run already; resume it, or choose another "
                        "directory",
                        t->directory.path);
    if ((status = read_recipe(t, *from, err)) || (status = open_data(t, err)))
        return status;
    if (*from && (status = bl__recipe_match_model(&t->recipe, bl__checkpoint_recipe(*from), err)))
        bl__error_prefix(err, t->directory.path);
    return status;
}

/* FNV-1a. */
static uint64_t add_hash(uint64_t hash, const void *data, size_t len) {
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static bl_status hash_inputs(const bl__trainer *t, uint64_t *out, bl_error *err) {
    const bl__tokens *tokens = &t->tokens;
    const uint64_t sizes[] = {tokens->n_tokens, tokens->n_train, tokens->n_docs, tokens->vocab};
    char *text = bl__recipe_text(&t->recipe);
    if (!text)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a recipe");
    *out = add_hash(add_hash(0xcbf29ce484222325u, text, strlen(text)), sizes, sizeof sizes);
    bl__free(text);
    return BL_OK;
}

/* Network and state, the same in all processes, whatever made their first weights. */
static bl_status make_state(bl__trainer *t, const bl__checkpoint *from, uint64_t hash,
                            bl_error *err) {
    uint64_t others = hash;
    bl_status status;
    bl__processes_broadcast(t->processes, &others, sizeof others);
    if (others != hash)
        status =
            bl__fail(err, BL_ERR_ARGUMENT, "finds another recipe or other data than process 0");
    else if (!(status = make_network(t, err)) && from)
        status = bl__trainer_load(t, from, err);
    else if (!status && t->source) {
        status = bl__source_read(t->source, t->list, t->n_params, err);
        if (!status && !bl__source_is_onebit(t->source))
            bl__network_factorize(t->net);
    }
    bl__source_close(t->source);
    t->source = NULL;
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    for (size_t i = 0; i < t->n_params && !from; i++)
        bl__processes_broadcast(bl__param_is_part(&t->list[i]) ? t->data : t->processes,
                                t->list[i].value,
                                t->list[i].rows * t->list[i].cols * sizeof(float));
    return BL_OK;
}

bl_status bl__trainer_open_run(bl__trainer *t, bl__checkpoint **from, bl_error *err) {
    const char *path = t->params->output;
    uint64_t hash = 0;
    bl_status status = speaks(t) ? bl__run_directory_open(path, &t->directory, err)
                                 : bl__run_directory_name(path, &t->directory, err);
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    if (!(status = open_inputs(t, from, err)))
        status = hash_inputs(t, &hash, err);
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    return make_state(t, *from, hash, err);
}
