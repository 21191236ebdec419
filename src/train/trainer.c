/* Owns the order of things in a run. The data of step s are windows (s + skipped) x batch on, so
 * that state is a handful of numbers; nothing else decides what comes next but weights and moments.
 *
 * Several processes go through the same steps: each takes its share of a step's rows, process 0
 * alone writes files and speaks to the caller. What only one of them may have failed at is agreed
 * upon before the next exchange, so that all stop or none. */
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "bitloom/system.h"
#include "formats/json.h"
#include "train/collector.h"
#include "train/data.h"
#include "train/processes.h"
#include "train/report.h"
#include "train/run_directory.h"
#include "train/sample.h"
#include "train/source.h"

enum {
    MAX_ROLLBACKS = 3,  /* in a row: to the same checkpoint */
    SETTLED_STEPS = 50, /* before these a loss is not called a spike */
    MAX_LINE = 1 << 26, /* of metrics, with a sample */
    DEPLOYED_ROWS = 4   /* of the network that measures what is exported */
};
static const double SMOOTHING = 0.95;

struct bl__trainer {
    const bl_train_params *params;
    bl__processes *processes; /* NULL: this one alone */
    bl__processes *tensor;    /* those that have the parts of one network; NULL: it is whole */
    bl__processes *data;      /* those that have the same part and other rows; NULL: no others */
    bl__collector *collector; /* NULL when the network is whole */
    bl__recipe recipe;
    bl__progress progress;
    bl__run_directory directory;
    bl__source *source; /* to start from; NULL once its weights are taken */
    bl__tokens tokens;
    bl__windows windows;
    bl_tokenizer *tokenizer; /* NULL when the recipe names none */
    bl__writer *writer;      /* NULL when no samples are written */
    bl__pool *pool;
    bl__network *net;
    bl__optimizer *optimizer;
    bl__param *list; /* [n_params] */
    size_t n_params;
    int32_t *inputs, *targets; /* int32[rows][tokens] */
    int32_t *firsts;           /* the same; NULL unless documents are kept apart */
    unsigned n_rollbacks;      /* since the last checkpoint */
    bool quantized;            /* the network has the codes of its weights as they are */
    double pace;               /* smoothed seconds a step; 0 before the first */
};

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

bl__network *bl__trainer_network(bl__trainer *t) {
    return t->net;
}
const bl__recipe *bl__trainer_recipe(const bl__trainer *t) {
    return &t->recipe;
}

static size_t n_rows(const bl__trainer *t) {
    return (size_t)t->recipe.rows;
}
static size_t n_tokens(const bl__trainer *t) {
    return (size_t)t->recipe.tokens;
}
/* Tokens of a step. */
static uint64_t step_tokens(const bl__trainer *t) {
    return (uint64_t)t->recipe.rows * (uint64_t)t->recipe.tokens * (uint64_t)t->recipe.accumulate;
}
/* Whether this process writes files and calls back. */
static bool speaks(const bl__trainer *t) {
    return bl__processes_rank(t->processes) == 0;
}
/* Part of n items that is this process's: *first ... and how many. */
static uint64_t own_share(const bl__trainer *t, uint64_t n, uint64_t *first) {
    uint32_t rank = bl__processes_rank(t->data), size = bl__processes_size(t->data);
    *first = bl__share(n, rank, size);
    return bl__share(n, rank + 1, size) - *first;
}
/* Rows that the network takes at a time at most. */
static size_t own_rows(const bl__trainer *t) {
    uint64_t first, n = own_share(t, (uint64_t)t->recipe.accumulate * n_rows(t), &first);
    return (size_t)(n < n_rows(t) ? n : n_rows(t));
}
static bool is_due(const bl__trainer *t, int64_t interval) {
    uint64_t step = t->progress.step;
    return (interval && step % (uint64_t)interval == 0) || step == (uint64_t)t->recipe.steps;
}

/* ---- opening ---- */

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

/* Takes weights, moments and progress of a checkpoint. */
static bl_status load(bl__trainer *t, const bl__checkpoint *from, bl_error *err) {
    bl_status status = bl__checkpoint_read(from, t->list, t->n_params, t->optimizer, err);
    if (status)
        return status;
    t->progress = *bl__checkpoint_progress(from);
    bl__optimizer_set_steps(t->optimizer, t->progress.updates);
    return BL_OK;
}

/* The last checkpoint that process 0 sees, or NULL in *out. */
static bl_status open_latest(const bl__trainer *t, bl__checkpoint **out, bl_error *err) {
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
    bl_status status = open_latest(t, from, err);
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
        status = load(t, from, err);
    else if (!status && t->source)
        status = bl__source_read(t->source, t->list, t->n_params, err);
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

static bl_status open_run(bl__trainer *t, bl__checkpoint **from, bl_error *err) {
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

static bl_status write_checkpoint(bl__trainer *t, const bl__moments *moments,
                                  const bl__tensor_source *source, bl_error *err) {
    char path[BL_RUN_MAX_PATH];
    if (moments)
        bl__run_checkpoint_path(t->directory.path, t->progress.step, path);
    else
        bl__run_best_path(&t->directory, path);
    bl_status status = bl__checkpoint_write(path, &t->recipe, &t->progress, t->list, t->n_params,
                                            moments, source, err);
    if (status || !moments)
        return status;
    return bl__run_prune(&t->directory, (size_t)t->recipe.keep, err);
}

static bl_status save(bl__trainer *t, bool best, bl_error *err) {
    const bl__moments *moments = best ? NULL : bl__optimizer_moments(t->optimizer);
    bl__collector *collector = bl__processes_rank(t->data) == 0 ? t->collector : NULL;
    bl__tensor_source source = {0};
    bl_status status = BL_OK;
    if (collector)
        source = bl__collector_begin(collector, moments);
    if (speaks(t))
        status = write_checkpoint(t, moments, collector ? &source : NULL, err);
    if (collector)
        bl__collector_finish(collector);
    if (!best)
        bl__optimizer_return_moments(t->optimizer);
    status = bl__processes_agree(t->processes, status, err);
    if (!status && !best)
        t->n_rollbacks = 0;
    return status;
}

static bl_status open_metrics(bl__trainer *t, bl_error *err) {
    bl_status status =
        speaks(t) ? bl__run_open_metrics(&t->directory, t->progress.step, err) : BL_OK;
    return bl__processes_agree(t->processes, status, err);
}

/* How far quantization has come in for the step at hand. */
static double lambda_now(const bl__trainer *t) {
    bl__schedule schedule = bl__recipe_schedule(&t->recipe);
    return bl__schedule_lambda(&schedule, t->progress.step);
}

static void quantize(bl__trainer *t) {
    bl__network_set_lambda(t->net, (float)lambda_now(t));
    bl__network_quantize(t->net);
    t->quantized = true; /* again would show no flips */
}

/* Measures a model that training starts from, before the first step. */
static bl_status measure_start(bl__trainer *t, bl_error *err) {
    char line[128];
    bl_train_step s = {.n_steps = (uint64_t)t->recipe.steps,
                       .loss = NAN,
                       .smoothed = NAN,
                       .validated = true,
                       .best = NAN};
    if (!t->recipe.from || !t->windows.n_valid_windows)
        return BL_OK;
    s.lambda = lambda_now(t);
    bl_status status = bl__trainer_validate(t, &s.validation, err);
    if (status || !isfinite(s.validation))
        return status;
    int n = snprintf(line, sizeof line,
                     "{\"step\":0,\"tokens\":0,\"lambda\":%.6g,\"validation\":%.6f}\n", s.lambda,
                     s.validation);
    if (speaks(t) && !(status = bl__run_add_metrics(&t->directory, line, (size_t)n, err)) &&
        t->params->progress)
        (void)t->params->progress(t->params->user, &s); /* asks again after the first step */
    return bl__processes_agree(t->processes, status, err);
}

bl_status bl__trainer_open(const bl_train_params *params, bl__processes *processes,
                           bl__trainer **out, bl_error *err) {
    bl__checkpoint *from = NULL;
    bl__trainer *t = bl__calloc(1, sizeof *t);
    bl_status status = t ? BL_OK : bl__fail(err, BL_ERR_MEMORY, "cannot allocate a trainer");
    if ((status = bl__processes_agree(processes, status, err))) {
        bl__free(t);
        return status;
    }
    t->params = params;
    t->processes = processes;
    t->progress = (bl__progress){.smoothed = NAN, .validation = NAN, .best = NAN};
    t->directory = (bl__run_directory){.metrics = -1, .lock = -1};
    if (!(status = open_run(t, &from, err)))
        status = open_metrics(t, err);
    if (!status && !from) /* what a rollback in the first steps goes back to */
        status = save(t, false, err);
    if (!status && !from)
        status = measure_start(t, err);
    bl__checkpoint_close(from);
    if (status)
        bl__trainer_close(t);
    else
        *out = t;
    return status;
}

void bl__trainer_close(bl__trainer *t) {
    if (!t)
        return;
    bl__run_directory_close(&t->directory);
    bl__source_close(t->source);
    bl__optimizer_free(t->optimizer);
    bl__collector_free(t->collector);
    bl__network_free(t->net);
    bl__pool_free(t->pool);
    bl__writer_free(t->writer);
    bl_tokenizer_close(t->tokenizer);
    bl__tokens_close(&t->tokens);
    bl__recipe_free(&t->recipe);
    bl__free(t->inputs);
    bl__free(t->targets);
    bl__free(t->firsts);
    bl__processes_close(t->tensor);
    bl__processes_close(t->data);
    bl__free(t);
}

/* ---- validation ---- */

/* Held-out windows that are measured. */
static size_t n_measured(const bl__trainer *t) {
    size_t n = t->windows.n_valid_windows, most = (size_t)t->recipe.eval_rows;
    return most ? bl__min_size(n, most) : n;
}

static size_t count_targets(const bl__trainer *t, size_t first_row, size_t rows) {
    size_t n = 0;
    for (size_t i = first_row * n_tokens(t); i < (first_row + rows) * n_tokens(t); i++)
        n += t->targets[i] >= 0;
    return n;
}

/* Weighs each batch by the targets that count in it. */
static bl_status measure(bl__trainer *t, bl__network *net, size_t batch, double *out,
                         bl_error *err) {
    uint64_t begin, n = own_share(t, n_measured(t), &begin);
    bl_status status = BL_OK;
    double sums[2] = {0}; /* of losses, of targets */
    for (uint64_t done = 0; done < n && !status; done += batch) {
        size_t rows = n - done < batch ? (size_t)(n - done) : batch;
        status = bl__windows_valid(&t->windows, (size_t)(begin + done), rows, t->inputs, t->targets,
                                   t->firsts, err);
        if (status)
            break;
        double counted = (double)count_targets(t, 0, rows);
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
    quantize(t);
    bl__network_set_firsts(t->net, t->firsts);
    return measure(t, t->net, own_rows(t), out, err);
}

/* Values as export.c writes them. */
static void take_exported(const bl__param *from, bl__param *to, bool rounds) {
    for (size_t i = 0; i < from->rows * from->cols; i++)
        to->value[i] = rounds ? bl__bf16_to_f32(bl__f32_to_bf16(from->value[i])) : from->value[i];
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
        take_exported(&t->list[i], &list[i], config.weights != BL_WEIGHTS_FLOAT && !list[i].linear);
    bl__network_set_firsts(net, t->firsts);
    bl__network_quantize(net);
    status = measure(t, net, batch, out, err);
    bl__network_free(net);
    return status;
}

/* ---- steps ---- */

/* The rows from begin to end of batch number `batch`: adds their gradients, and their part of the
 * mean loss of the step to *loss. */
static bl_status add_batch(bl__trainer *t, uint64_t batch, size_t begin, size_t end, double *loss,
                           bl_error *err) {
    size_t rows = n_rows(t), at = begin * n_tokens(t);
    double n = (double)t->recipe.accumulate;
    bl_status status =
        bl__windows_train(&t->windows, batch * rows, rows, t->inputs, t->targets, t->firsts, err);
    size_t counted = status ? 0 : count_targets(t, begin, end - begin);
    if (!counted)
        return status;
    double share = (double)counted / (double)count_targets(t, 0, rows);
    bl__network_set_firsts(t->net, t->firsts ? t->firsts + at : NULL);
    *loss += share / n *
             bl__network_step(t->net, t->inputs + at, t->targets + at, end - begin, n_tokens(t),
                              true, (float)share / (float)n, NULL);
    return BL_OK;
}

/* Gradients of this process's rows of a step into the network; *loss: the mean of all. */
static bl_status accumulate(bl__trainer *t, double *loss, bl_error *err) {
    uint64_t n = (uint64_t)t->recipe.accumulate, rows = n_rows(t), first;
    uint64_t end = own_share(t, n * rows, &first) + first;
    uint64_t batch = t->progress.step + t->progress.skipped;
    bl_status status = BL_OK;
    *loss = 0;
    if (!t->quantized)
        quantize(t);
    t->quantized = false;
    for (uint64_t i = first / rows; i * rows < end && !status; i++) {
        uint64_t from = first > i * rows ? first - i * rows : 0;
        uint64_t to = end - i * rows < rows ? end - i * rows : rows;
        status = add_batch(t, batch * n + i, (size_t)from, (size_t)to, loss, err);
    }
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__processes_sum(t->data, loss, 1);
    return BL_OK;
}

static bool is_good(const bl__trainer *t, double loss) {
    const bl__progress *p = &t->progress;
    if (!isfinite(loss))
        return false;
    uint64_t settled = SETTLED_STEPS + (uint64_t)t->recipe.lambda_steps;
    return t->recipe.spike <= 0 || p->step < settled || !(loss > p->smoothed + t->recipe.spike);
}

/* Back to the last checkpoint, and past the data that were seen since. */
static bl_status roll_back(bl__trainer *t, const char *what, double value, bl_error *err) {
    uint64_t bad = t->progress.step, skipped = t->progress.skipped;
    bl__checkpoint *from = NULL;
    char message[160];
    if (++t->n_rollbacks >= MAX_ROLLBACKS)
        return bl__fail(err, BL_ERR_LIMIT,
                        "step %llu: %s is %g, as often as %u times since the last checkpoint: "
                        "the run diverges; try a lower rate",
                        (unsigned long long)bad + 1, what, value, t->n_rollbacks);
    bl_status status = open_latest(t, &from, err);
    if (!status && !from)
        status =
            bl__fail(err, BL_ERR_NOT_FOUND, "%s: no checkpoint to go back to", t->directory.path);
    if (!status)
        status = load(t, from, err);
    bl__checkpoint_close(from);
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__network_zero_gradients(t->net);
    t->quantized = false;
    t->progress.skipped = skipped + (bad - t->progress.step) + 1;
    t->progress.rollbacks++;
    snprintf(message, sizeof message,
             "step %llu: %s is %g; back to step %llu, passing over the data since",
             (unsigned long long)bad + 1, what, value, (unsigned long long)t->progress.step);
    if (t->params->warn && speaks(t))
        t->params->warn(t->params->user, message);
    return open_metrics(t, err);
}

static bool weights_are_finite(const bl__trainer *t) {
    double n_bad = 0;
    for (size_t i = 0; i < t->n_params; i++) {
        const bl__param *p = &t->list[i];
        float sum = 0; /* of zeros, unless something is infinite or NaN */
        for (size_t k = 0; k < p->rows * p->cols; k++)
            sum += p->value[k] * 0.0f;
        n_bad += sum != 0;
    }
    bl__processes_sum(t->processes, &n_bad, 1);
    return n_bad == 0;
}

/* Parts of a network have the same number of weights. */
static double mean_flips(const bl__trainer *t) {
    double flips = bl__network_flips(t->net);
    bl__processes_sum(t->tensor, &flips, 1);
    return flips / bl__processes_size(t->tensor);
}

/* The text as a JSON string. */
static void add_sample(bl__buffer *line, const char *text) {
    json_t *string = json_string(text);
    char *quoted = string ? bl__json_write(string, JSON_ENCODE_ANY, NULL) : NULL;
    line->failed = line->failed || !quoted;
    bl__buffer_printf(line, ",\"sample\":%s", quoted ? quoted : "");
    bl__free(quoted);
    json_decref(string);
}

static bl_status log_step(const bl__trainer *t, const bl_train_step *s, bl_error *err) {
    bl__buffer line = bl__buffer_make(MAX_LINE);
    bl__buffer_printf(
        &line,
        "{\"step\":%llu,\"tokens\":%llu,\"loss\":%.6f,\"smoothed\":%.6f,\"rate\":%.6g,"
        "\"decay\":%.6g,\"norm\":%.6g,\"flips\":%.6g,\"tokens_per_second\":%.1f,"
        "\"seconds\":%.3f",
        (unsigned long long)s->step, (unsigned long long)s->tokens, s->loss, s->smoothed, s->rate,
        s->decay, s->gradient_norm, s->flips, s->tokens_per_second, t->progress.seconds);
    if (s->lambda < 1)
        bl__buffer_printf(&line, ",\"lambda\":%.6g", s->lambda);
    if (s->validated && isfinite(s->validation))
        bl__buffer_printf(&line, ",\"validation\":%.6f", s->validation);
    if (s->sample)
        add_sample(&line, s->sample);
    bl__buffer_puts(&line, "}\n");
    bl_status status = line.failed
                           ? bl__fail(err, BL_ERR_MEMORY, "cannot allocate a line of metrics")
                           : bl__run_add_metrics(&t->directory, line.data, line.len, err);
    bl__buffer_free(&line);
    return status;
}

/* Writes a text when it is time; no state of the run depends on it. */
static bl_status write_sample(bl__trainer *t, bl_train_step *s, bl_error *err) {
    if (!t->writer || !is_due(t, t->recipe.sample_interval))
        return BL_OK;
    if (!t->quantized)
        quantize(t);
    bl__network_set_firsts(t->net, NULL);
    bl_status status = bl__writer_run(t->writer, t->net, s->step, &s->sample, err);
    bl__network_set_firsts(t->net, t->firsts);
    return status;
}

/* Measures held-out data when it is time, and keeps the best. */
static bl_status validate(bl__trainer *t, bl_train_step *s, bl_error *err) {
    bl__progress *p = &t->progress;
    bl_status status = BL_OK;
    if (t->windows.n_valid_windows && is_due(t, t->recipe.eval_interval)) {
        if ((status = bl__trainer_validate(t, &p->validation, err)))
            return status;
        s->validated = true;
        /* or no best yet; while quantization comes in, nothing is comparable */
        if (!(p->validation >= p->best) && lambda_now(t) >= 1) {
            p->best = p->validation;
            status = save(t, true, err);
        }
    }
    s->validation = p->validation;
    s->best = p->best;
    return status;
}

/* What follows an update: pace, metrics, validation, checkpoint, the caller. */
static bl_status finish_step(bl__trainer *t, bl_train_step *s, double seconds, bl_error *err) {
    bl__progress *p = &t->progress;
    bl_status status;
    p->seconds += seconds;
    t->pace = t->pace > 0 ? 0.95 * t->pace + 0.05 * seconds : seconds;
    s->tokens_per_second = t->pace > 0 ? (double)step_tokens(t) / t->pace : 0;
    s->seconds_left = (double)(s->n_steps - s->step) * t->pace;
    if ((status = validate(t, s, err)))
        return status;
    status = write_sample(t, s, err);
    bool due = is_due(t, t->recipe.save_interval), go_on = true;
    if (speaks(t) && !status) {
        if (s->validated || s->sample || is_due(t, t->recipe.log_interval) || p->step == 1)
            status = log_step(t, s, err);
        go_on = status || !t->params->progress || t->params->progress(t->params->user, s);
    }
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__processes_broadcast(t->processes, &go_on, sizeof go_on);
    if (!due && go_on)
        return BL_OK;
    if (!weights_are_finite(t))
        return roll_back(t, "a weight", NAN, err);
    if ((status = save(t, false, err)))
        return status;
    return go_on ? BL_OK
                 : bl__fail(err, BL_ERR_CANCELLED, "stopped after step %llu of %llu",
                            (unsigned long long)s->step, (unsigned long long)s->n_steps);
}

static bl_status run_step(bl__trainer *t, bl_error *err) {
    bl__progress *p = &t->progress;
    bl__schedule schedule = bl__recipe_schedule(&t->recipe);
    double start = seconds_now(), loss;
    bl_status status = accumulate(t, &loss, err);
    if (status)
        return status;
    if (!is_good(t, loss))
        return roll_back(t, "the loss", loss, err);
    double rate = bl__schedule_rate(&schedule, p->step);
    double decay = bl__schedule_decay(&schedule, p->step);
    double lambda = lambda_now(t);
    double norm = bl__optimizer_step(t->optimizer, rate, decay, t->recipe.clip);
    if (!isfinite(norm))
        return roll_back(t, "the gradients' norm", norm, err);
    p->step++;
    p->updates = bl__optimizer_steps(t->optimizer);
    p->smoothed = isnan(p->smoothed) ? loss : SMOOTHING * p->smoothed + (1 - SMOOTHING) * loss;
    bl_train_step s = {.step = p->step,
                       .n_steps = (uint64_t)t->recipe.steps,
                       .tokens = p->step * step_tokens(t),
                       .loss = loss,
                       .smoothed = p->smoothed,
                       .rate = rate,
                       .decay = decay,
                       .gradient_norm = norm,
                       .flips = mean_flips(t),
                       .lambda = lambda};
    return finish_step(t, &s, seconds_now() - start, err);
}

bl_status bl__trainer_run(bl__trainer *t, bl_error *err) {
    bl_status status = BL_OK;
    while (!status && t->progress.step < (uint64_t)t->recipe.steps)
        status = run_step(t, err);
    return status;
}

/* ---- the whole ---- */

/* What is known before the first step. */
static void fill_sizes(const bl__trainer *t, bl_train_report *r) {
    for (size_t i = 0; i < t->n_params; i++) {
        uint64_t n = (uint64_t)t->list[i].whole_rows * t->list[i].whole_cols;
        r->n_params += n;
        if (t->list[i].linear && t->recipe.weights != BL_WEIGHTS_FLOAT)
            r->n_quantized += n;
    }
    r->memory_bytes = bl__network_bytes(t->net) + bl__optimizer_bytes(t->optimizer);
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
    bl_status status = bl__report_text_bytes(&t->windows, t->tokenizer, n_measured(t), t->inputs,
                                             t->targets, &bytes, &n_targets, err);
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
