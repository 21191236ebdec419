/* Owns the course of a benchmark: a session, random tokens, a clock. Must not know what the
 * figures mean. */
#include "bitloom/bench.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "measure/energy.h"
#include "measure/figures.h"

enum { DEFAULT_BATCH = 512, MAX_TOKENS = 1 << 28, SEED = 1 };

static bl_status check_test(const bl_bench_test *t, bl_error *err) {
    if (!t->n_prompt == !t->n_generate)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%u prompt tokens and %u generated, expected one of them to be 0",
                        t->n_prompt, t->n_generate);
    if (t->n_repeats < 1 || t->n_repeats > BL_BENCH_MAX_REPEATS)
        return bl__fail(err, BL_ERR_ARGUMENT, "%u repeats, expected 1 to %d", t->n_repeats,
                        BL_BENCH_MAX_REPEATS);
    if (t->n_streams > BL_MAX_SEQUENCES || (t->n_prompt && t->n_streams > 1))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%u streams, expected 1 to %d, and 1 where a prompt is evaluated",
                        t->n_streams, BL_MAX_SEQUENCES);
    if (t->depth > MAX_TOKENS || t->n_prompt > MAX_TOKENS || t->n_generate > MAX_TOKENS)
        return bl__fail(err, BL_ERR_ARGUMENT, "more than %d tokens", MAX_TOKENS);
    return BL_OK;
}

/* What a test works on. */
typedef struct course {
    const bl_bench_test *test;
    bl_session *session;
    bl_token *tokens;       /* of the prompt, or of each stream in another order */
    size_t n_tokens;        /* of the longest */
    bl_batch_item *items;   /* bl_batch_item[n_streams] */
    bl_reach *reaches;      /* bl_reach[n_streams] */
    float *logits;          /* float[n_streams][vocab] */
    bl__head_counts before; /* when the clock started */
} course;

static const bl_reach usual_reach = {.n_best = 40}; /* of samplers */

/* The next token of every stream, and the logits that samplers want to see. */
static bl_status step_streams(course *c, uint32_t step, bl_error *err) {
    for (uint32_t s = 0; s < c->test->n_streams; s++)
        c->items[s] = (bl_batch_item){s, c->tokens[((size_t)step + s) % c->n_tokens], true};
    for (uint32_t s = 0; s < c->test->n_streams; s++)
        c->reaches[s] = usual_reach;
    return bl_session_eval_best(c->session, c->items, c->test->n_streams, c->reaches, c->logits,
                                err);
}

/* The same of the only text. */
static bl_status step_text(course *c, uint32_t step, bl_error *err) {
    bl_status status = bl_session_eval(c->session, &c->tokens[step], 1, NULL, err);
    if (!status)
        bl_session_best_logits(c->session, &usual_reach);
    return status;
}

/* Evaluates n tokens as the test says: together, or one after the other. */
static bl_status evaluate(course *c, uint32_t n, bl_error *err) {
    bl_status status = BL_OK;
    if (c->test->n_prompt) {
        status = bl_session_eval(c->session, c->tokens, n, NULL, err);
        bl_session_logits(c->session);
    }
    for (uint32_t i = 0; !c->test->n_prompt && i < n && !status; i++)
        status = c->test->n_streams > 1 ? step_streams(c, i, err) : step_text(c, i, err);
    return status;
}

static void rewind_streams(course *c) {
    for (uint32_t s = 0; s < c->test->n_streams; s++)
        bl_sequence_truncate(c->session, s, c->test->depth);
}

/* Gives every stream the tokens that it holds before. */
static bl_status fill_depth(course *c, bl_error *err) {
    if (!c->test->depth)
        return BL_OK;
    bl_status status = bl_session_eval(c->session, c->tokens, c->test->depth, NULL, err);
    for (uint32_t s = 1; s < c->test->n_streams && !status; s++)
        status = bl_sequence_copy(c->session, 0, s, c->test->depth, err);
    return status;
}

/* Fills the samples. Each stream holds test->depth tokens, before and after. */
static bl_status repeat(course *c, bl_bench_progress progress, void *user, bl_bench_result *result,
                        bl_error *err) {
    const bl_bench_test *test = c->test;
    uint32_t n = test->n_prompt ? test->n_prompt : test->n_generate;
    uint32_t n_warm = !test->n_prompt ? 1 : n < test->n_batch ? n : test->n_batch;
    uint32_t n_rounds = test->n_prompt ? 0 : bl__session_copy_steps(c->session);
    bl_status status = BL_OK;
    for (uint32_t i = 0; i <= n_rounds && !status; i++) {
        status = evaluate(c, n_warm, err);
        rewind_streams(c);
    }
    c->before = bl__session_head_counts(c->session);
    bl_skipped before = bl_session_skipped(c->session);
    double joules = 0, joules_before = 0;
    bool is_metered = test->meter && bl_energy_meter_read(test->meter, &joules_before);
    for (uint32_t i = 0; i < test->n_repeats && !status; i++) {
        if (progress && !progress(user, i))
            return bl__fail(err, BL_ERR_CANCELLED, "benchmark cancelled");
        double start = bl__seconds_now();
        status = evaluate(c, n, err);
        double spent = bl__seconds_now() - start;
        result->samples[i] = (double)n * test->n_streams / (spent > 0 ? spent : 1e-9);
        rewind_streams(c);
    }
    is_metered = is_metered && bl_energy_meter_read(test->meter, &joules);
    if (is_metered)
        result->energy_per_token =
            (bl_energy){BL_ENERGY_MEASURED,
                        (joules - joules_before) / ((double)n * test->n_streams * test->n_repeats)};
    bl_skipped after = bl_session_skipped(c->session);
    result->skipped = (bl_skipped){
        after.rows - before.rows, after.rows_skipped - before.rows_skipped,
        after.columns - before.columns, after.columns_skipped - before.columns_skipped};
    return status;
}

/* What was read of the head for a batch, in place of all of it, where that was counted. */
static void count_head(const course *c, const bl_model *model, bl__work *work,
                       bl_bench_result *result) {
    bl__head_counts now = bl__session_head_counts(c->session);
    double n_batches = (double)(now.n_tokens - c->before.n_tokens) / c->test->n_streams;
    result->head_share_read = 1;
    if (n_batches > 0) {
        double rows = (double)(now.rows - c->before.rows) / n_batches;
        double copy = (double)(now.copy_bytes - c->before.copy_bytes) / n_batches;
        uint32_t vocab = bl_model_get_info(model)->vocab;
        double row_bytes = bl__session_head_row_bytes(c->session);
        result->head_share_read = rows / vocab;
        work->head_bytes -= (uint64_t)(row_bytes * vocab);
        work->head_bytes += (uint64_t)(copy + rows * row_bytes);
    }
    result->head_bytes_per_token =
        (double)work->head_bytes / (c->test->n_prompt ? c->test->n_prompt : c->test->n_streams);
}

/* Makes up the tokens and opens the session; what is there is left for close_course(). */
static bl_status open_course(course *c, const bl_model *model, bl_error *err) {
    const bl_bench_test *test = c->test;
    uint32_t n = test->n_prompt + test->n_generate, vocab = bl_model_get_info(model)->vocab;
    c->n_tokens = n > test->depth ? n : test->depth;
    c->tokens = bl__malloc_array(c->n_tokens, sizeof *c->tokens);
    c->items = bl__malloc_array(test->n_streams, sizeof *c->items);
    c->logits = bl__calloc(test->n_streams, vocab * sizeof *c->logits);
    c->reaches = bl__malloc_array(test->n_streams, sizeof *c->reaches);
    if (!c->tokens || !c->items || !c->reaches || !c->logits)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu tokens, or logits of %u streams",
                        c->n_tokens, test->n_streams);
    bl__random random;
    bl__random_seed(&random, SEED);
    for (size_t i = 0; i < c->n_tokens; i++)
        c->tokens[i] = test->n_tokens ? test->tokens[i % test->n_tokens]
                                      : (bl_token)bl__random_below(&random, vocab);
    const bl_session_params params = {.n_ctx = test->depth + n,
                                      .n_batch = test->n_batch > test->n_streams ? test->n_batch
                                                                                 : test->n_streams,
                                      .n_threads = test->n_threads,
                                      .cache_type = test->cache_type,
                                      .n_sequences = test->n_streams,
                                      .head = test->head};
    return bl_session_create(model, &params, &c->session, err);
}

/* Where no meter told it. */
static void estimate_energy(const bl_model *model, bl_bench_result *result) {
    if (result->energy_per_token.kind == BL_ENERGY_MEASURED)
        return;
    bl_energy_estimate e =
        bl__energy_of_token(bl_model_get_info(model), &result->test, result->bytes_per_token);
    result->energy_per_token = (bl_energy){BL_ENERGY_ESTIMATED, e.arithmetic + e.memory};
}

static void close_course(course *c) {
    bl_session_free(c->session);
    bl__free(c->tokens);
    bl__free(c->items);
    bl__free(c->reaches);
    bl__free(c->logits);
}

bl_status bl_bench_run(const bl_model *model, const bl_bench_test *test,
                       const bl_bench_limits *limits, bl_bench_progress progress, void *user,
                       bl_bench_result *out, bl_error *err) {
    bl_bench_result result = {.test = *test};
    bl_status status = check_test(test, err);
    if (status)
        return status;
    if (!test->n_threads)
        result.test.n_threads = bl_cpu_physical_cores();
    if (!test->n_batch)
        result.test.n_batch = DEFAULT_BATCH;
    if (!test->n_streams)
        result.test.n_streams = 1;
    course c = {.test = &result.test};
    status = open_course(&c, model, err);
    if (!status)
        status = fill_depth(&c, err);
    if (!status)
        status = repeat(&c, progress, user, &result, err);
    if (!status) {
        bl__work work = bl__session_work(c.session);
        result.session_bytes = bl_session_bytes(c.session);
        count_head(&c, model, &work, &result);
        bl__bench_spread(&result);
        bl__bench_shares(&result, &work, limits);
        estimate_energy(model, &result);
        *out = result;
    }
    close_course(&c);
    return status;
}
