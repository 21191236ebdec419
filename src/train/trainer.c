/* Owns the order of things in a run. The data of step s are windows (s + skipped) x batch on, so
 * that state is a handful of numbers; nothing else decides what comes next but weights and moments.
 *
 * Several processes go through the same steps: each takes its share of a step's rows, process 0
 * alone writes files and speaks to the caller. What only one of them may have failed at is agreed
 * upon before the next exchange, so that all stop or none. */
#include "train/trainer.h"
#include "train/trainer_state.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "formats/json.h"

enum {
    MAX_ROLLBACKS = 3,  /* in a row: to the same checkpoint */
    SETTLED_STEPS = 50, /* before these a loss is not called a spike */
    MAX_LINE = 1 << 26  /* of metrics, with a sample */
};
static const double SMOOTHING = 0.95;

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

double bl__trainer_lambda(const bl__trainer *t) {
    bl__schedule schedule = bl__recipe_schedule(&t->recipe);
    return bl__schedule_lambda(&schedule, t->progress.step);
}

void bl__trainer_quantize(bl__trainer *t) {
    bl__network_set_lambda(t->net, (float)bl__trainer_lambda(t));
    bl__network_quantize(t->net);
    t->quantized = true; /* again would show no flips */
}

/* ---- checkpoints ---- */

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

/* ---- beginning and end ---- */

/* Measures what is there before the first step: a model to start from, or the random one beside a
 * teacher. */
static bl_status measure_start(bl__trainer *t, bl_error *err) {
    char line[160], teacher[40] = "";
    bl_train_step s = {.n_steps = (uint64_t)t->recipe.steps,
                       .loss = NAN,
                       .smoothed = NAN,
                       .hidden = NAN,
                       .relations = NAN,
                       .validated = true,
                       .best = NAN};
    if (!(t->recipe.from || t->teacher) || !t->windows.n_valid_windows)
        return BL_OK;
    s.lambda = bl__trainer_lambda(t);
    bl_status status = bl__trainer_validate(t, &s.validation, err);
    if (status || !isfinite(s.validation))
        return status;
    if (isfinite(t->teacher_loss))
        snprintf(teacher, sizeof teacher, ",\"teacher\":%.6f", t->teacher_loss);
    int n = snprintf(line, sizeof line,
                     "{\"step\":0,\"tokens\":0,\"lambda\":%.6g,\"validation\":%.6f%s}\n", s.lambda,
                     s.validation, teacher);
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
    if (!(status = bl__trainer_open_run(t, &from, err)))
        status = open_metrics(t, err);
    if (!status)
        status = bl__trainer_measure_teacher(t, &t->teacher_loss, err);
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
    bl__network_free(t->teacher);
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

/* ---- steps ---- */

/* The rows from begin to end of batch number `batch`: adds their gradients, and their part of the
 * mean losses of the step to losses[3]: the loss, those between hidden states and relations. */
static bl_status add_batch(bl__trainer *t, uint64_t batch, size_t begin, size_t end,
                           double losses[3], bl_error *err) {
    size_t rows = n_rows(t), at = begin * n_tokens(t);
    double n = (double)t->recipe.accumulate;
    bl_status status =
        bl__windows_train(&t->windows, batch * rows, rows, t->inputs, t->targets, t->firsts, err);
    size_t counted = status ? 0 : bl__trainer_count_targets(t, begin, end - begin);
    if (!counted)
        return status;
    double share = (double)counted / (double)bl__trainer_count_targets(t, 0, rows);
    bl__network_set_firsts(t->net, t->firsts ? t->firsts + at : NULL);
    losses[0] += share / n *
                 bl__network_step(t->net, t->inputs + at, t->targets + at, end - begin, n_tokens(t),
                                  true, (float)share / (float)n, NULL);
    losses[1] += share / n * bl__network_hidden_loss(t->net);
    losses[2] += share / n * bl__network_relation_loss(t->net);
    return BL_OK;
}

/* Gradients of this process's rows of a step into the network; *loss: the mean of all. */
static bl_status accumulate(bl__trainer *t, double *loss, bl_error *err) {
    uint64_t n = (uint64_t)t->recipe.accumulate, rows = n_rows(t), first;
    uint64_t end = own_share(t, n * rows, &first) + first;
    uint64_t batch = t->progress.step + t->progress.skipped;
    double losses[3] = {0};
    bl_status status = BL_OK;
    if (!t->quantized)
        bl__trainer_quantize(t);
    t->quantized = false;
    for (uint64_t i = first / rows; i * rows < end && !status; i++) {
        uint64_t from = first > i * rows ? first - i * rows : 0;
        uint64_t to = end - i * rows < rows ? end - i * rows : rows;
        status = add_batch(t, batch * n + i, (size_t)from, (size_t)to, losses, err);
    }
    bl__network_finish_gradients(t->net);
    if ((status = bl__processes_agree(t->processes, status, err)))
        return status;
    bl__processes_sum(t->data, losses, 3);
    *loss = losses[0];
    t->hidden = t->teacher && t->recipe.distill_hidden > 0 ? losses[1] : NAN;
    t->relations = t->teacher && t->recipe.distill_relations > 0 ? losses[2] : NAN;
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
    bl_status status = bl__trainer_latest(t, &from, err);
    if (!status && !from)
        status =
            bl__fail(err, BL_ERR_NOT_FOUND, "%s: no checkpoint to go back to", t->directory.path);
    if (!status)
        status = bl__trainer_load(t, from, err);
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
    if (isfinite(s->hidden))
        bl__buffer_printf(&line, ",\"hidden\":%.6f", s->hidden);
    if (isfinite(s->relations))
        bl__buffer_printf(&line, ",\"relations\":%.6g", s->relations);
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
        bl__trainer_quantize(t);
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
        if (!(p->validation >= p->best) && bl__trainer_lambda(t) >= 1) {
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
    double lambda = bl__trainer_lambda(t);
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
                       .hidden = t->hidden,
                       .relations = t->relations,
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
