/* Owns the course of a benchmark: a session, random tokens, a clock. Must not know what the
 * figures mean. */
#include "bitloom/bench.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/random.h"
#include "bitloom/system.h"
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
    if (t->depth > MAX_TOKENS || t->n_prompt > MAX_TOKENS || t->n_generate > MAX_TOKENS)
        return bl__fail(err, BL_ERR_ARGUMENT, "more than %d tokens", MAX_TOKENS);
    return BL_OK;
}

/* Evaluates n tokens as the test says: together, or one after the other. */
static bl_status evaluate(bl_session *session, const bl_bench_test *test, const bl_token *tokens,
                          uint32_t n, bl_error *err) {
    if (test->n_prompt)
        return bl_session_eval(session, tokens, n, NULL, err);
    bl_status status = BL_OK;
    for (uint32_t i = 0; i < n && !status; i++)
        status = bl_session_eval(session, &tokens[i], 1, NULL, err);
    return status;
}

/* Fills the samples. The session holds test->depth tokens, before and after. */
static bl_status repeat(bl_session *session, const bl_token *tokens, bl_bench_progress progress,
                        void *user, bl_bench_result *result, bl_error *err) {
    const bl_bench_test *test = &result->test;
    uint32_t n = test->n_prompt ? test->n_prompt : test->n_generate;
    uint32_t n_warm = !test->n_prompt ? 1 : n < test->n_batch ? n : test->n_batch;
    bl_status status = evaluate(session, test, tokens, n_warm, err);
    bl_session_truncate(session, test->depth);
    for (uint32_t i = 0; i < test->n_repeats && !status; i++) {
        if (progress && !progress(user, i))
            return bl__fail(err, BL_ERR_CANCELLED, "benchmark cancelled");
        double start = bl__seconds_now();
        status = evaluate(session, test, tokens, n, err);
        double spent = bl__seconds_now() - start;
        result->samples[i] = (double)n / (spent > 0 ? spent : 1e-9);
        bl_session_truncate(session, test->depth);
    }
    return status;
}

bl_status bl_bench_run(const bl_model *model, const bl_bench_test *test,
                       const bl_bench_limits *limits, bl_bench_progress progress, void *user,
                       bl_bench_result *out, bl_error *err) {
    bl_bench_result result = {.test = *test};
    bl_session *session = NULL;
    bl_status status = check_test(test, err);
    if (status)
        return status;
    if (!test->n_threads)
        result.test.n_threads = bl_cpu_physical_cores();
    if (!test->n_batch)
        result.test.n_batch = DEFAULT_BATCH;
    uint32_t n = test->n_prompt + test->n_generate, n_most = n > test->depth ? n : test->depth;
    bl_token *tokens = bl__malloc_array(n_most, sizeof *tokens);
    if (!tokens)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %u tokens", n_most);
    bl__random random;
    bl__random_seed(&random, SEED);
    for (uint32_t i = 0; i < n_most; i++)
        tokens[i] = (bl_token)bl__random_below(&random, bl_model_get_info(model)->vocab);
    const bl_session_params params = {.n_ctx = test->depth + n,
                                      .n_batch = result.test.n_batch,
                                      .n_threads = result.test.n_threads};
    status = bl_session_create(model, &params, &session, err);
    if (!status && test->depth)
        status = bl_session_eval(session, tokens, test->depth, NULL, err);
    if (!status)
        status = repeat(session, tokens, progress, user, &result, err);
    if (!status) {
        bl__work work = bl__session_work(session);
        result.session_bytes = bl_session_bytes(session);
        bl__bench_spread(&result);
        bl__bench_shares(&result, &work, limits);
        *out = result;
    }
    bl_session_free(session);
    bl__free(tokens);
    return status;
}
