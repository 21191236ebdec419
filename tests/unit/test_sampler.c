/* The sampler against a naive reference, the formulae of the penalties, the distribution of draws,
 * and logits that are no numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "bitloom/sampler.h"

enum { MAX_VOCAB = 300, N_DRAWS = 20000 };

static const bl_sampler_params PLAIN = {
    .temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 42};

static bl_sampler *make_sampler(bl_sampler_params params, size_t vocab) {
    bl_sampler *sampler = NULL;
    bl_error err;
    assert_int_equal(bl_sampler_create(&params, vocab, &sampler, &err), BL_OK);
    return sampler;
}

static void test_greedy_takes_lowest_of_ties(void **state) {
    (void)state;
    bl_sampler_params params = PLAIN;
    params.temperature = 0;
    bl_sampler *sampler = make_sampler(params, 6);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){1, 3, 2, 3, 3, -1}), 1);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){NAN, -4, NAN, -5, -4, NAN}), 1);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){0, INFINITY, 2, 3, INFINITY, 1}), 1);
    bl_sampler_free(sampler);
}

static void test_no_numbers(void **state) {
    (void)state;
    for (int top_k = 0; top_k <= 2; top_k++)
        for (int t = 0; t <= 1; t++) {
            bl_sampler_params params = PLAIN;
            params.temperature = (float)t;
            params.top_k = top_k;
            params.top_p = 0.9f;
            params.min_p = 0.1f;
            bl_sampler *sampler = make_sampler(params, 4);
            assert_int_equal(bl_sampler_sample(sampler, (float[]){NAN, NAN, NAN, NAN}), -1);
            assert_int_equal(bl_sampler_sample(sampler, (float[]){-INFINITY, NAN, -INFINITY, NAN}),
                             -1);
            for (int i = 0; i < 100; i++) {
                float logits[] = {NAN, -INFINITY, -3e38f, NAN};
                assert_int_equal(bl_sampler_sample(sampler, logits), 2);
                float infinite[] = {3e38f, INFINITY, NAN, -INFINITY};
                assert_int_equal(bl_sampler_sample(sampler, infinite), 1);
            }
            bl_sampler_free(sampler);
        }
}

/* The reference: sorts everything, filters by the definitions, with libm. p[id] receives the
 * probability of each token. */
typedef struct ranked {
    float logit;
    int id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void reference(const bl_sampler_params *params, const float *logits, size_t vocab,
                      double *p) {
    ranked order[MAX_VOCAB];
    for (size_t i = 0; i < vocab; i++) {
        order[i] = (ranked){logits[i], (int)i};
        p[i] = 0;
    }
    qsort(order, vocab, sizeof *order, by_rank);
    size_t n = vocab;
    if (params->top_k > 0 && (size_t)params->top_k < n)
        n = (size_t)params->top_k;
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += exp((double)order[i].logit - (double)order[0].logit);
    if (params->top_p < 1)
        for (size_t i = 0; i < n; i++) {
            sum += exp((double)order[i].logit - (double)order[0].logit) / total;
            if (sum >= (double)params->top_p) {
                n = i + 1;
                break;
            }
        }
    size_t kept = 0;
    while (kept < n &&
           exp((double)order[kept].logit - (double)order[0].logit) >= (double)params->min_p)
        kept++;
    total = 0;
    for (size_t i = 0; i < kept; i++)
        total +=
            exp(((double)order[i].logit - (double)order[0].logit) / (double)params->temperature);
    for (size_t i = 0; i < kept; i++)
        p[order[i].id] =
            exp(((double)order[i].logit - (double)order[0].logit) / (double)params->temperature) /
            total;
}

/* Draws many times and compares with the expected probabilities: nothing of probability 0, and
 * chi-square below a bound that a right sampler passes with certainty for this fixed seed and a
 * sampler that is off by a few per cent does not. */
static void check_distribution(bl_sampler_params params, const float *logits, size_t vocab) {
    double p[MAX_VOCAB];
    int counts[MAX_VOCAB] = {0};
    reference(&params, logits, vocab, p);
    bl_sampler *sampler = make_sampler(params, vocab);
    for (int i = 0; i < N_DRAWS; i++) {
        bl_token token = bl_sampler_sample(sampler, logits);
        assert_in_range(token, 0, vocab - 1);
        counts[token]++;
    }
    bl_sampler_free(sampler);
    double chi2 = 0, rare_expected = 0, rare_seen = 0;
    int cells = 0;
    for (size_t i = 0; i < vocab; i++) {
        double expected = p[i] * (double)N_DRAWS;
        if (p[i] == 0)
            assert_int_equal(counts[i], 0);
        if (expected < 5) { /* the usual rule: put rare cells together */
            rare_expected += expected;
            rare_seen += counts[i];
            continue;
        }
        chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
        cells++;
    }
    if (rare_expected > 5) {
        chi2 += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
        cells++;
    }
    double freedom = cells - 1;
    assert_true(chi2 <= freedom + 4 * sqrt(2 * freedom) + 1e-9);
}

static void test_distribution_matches_reference(void **state) {
    (void)state;
    bl__random random;
    bl__random_seed(&random, 7);
    static const size_t vocabs[] = {1, 2, 37, MAX_VOCAB};
    static const int top_ks[] = {0, 1, 5, 40, 1000};
    static const float top_ps[] = {1, 0.9f, 0.3f, 1e-6f};
    static const float min_ps[] = {0, 0.05f, 0.5f, 1};
    static const float temperatures[] = {1, 0.7f, 3};
    for (int round = 0; round < 60; round++) {
        float logits[MAX_VOCAB];
        size_t vocab = vocabs[bl__random_below(&random, 4)];
        for (size_t i = 0; i < vocab; i++) /* rounded, so that there are ties */
            logits[i] = (float)floor(bl__random_f64(&random) * 24) / 4;
        bl_sampler_params params = PLAIN;
        params.top_k = top_ks[bl__random_below(&random, 5)];
        params.top_p = top_ps[bl__random_below(&random, 4)];
        params.min_p = min_ps[bl__random_below(&random, 4)];
        params.temperature = temperatures[bl__random_below(&random, 3)];
        params.seed = (uint64_t)round;
        check_distribution(params, logits, vocab);
    }
}

static void test_extreme_temperatures(void **state) {
    (void)state;
    bl_sampler_params params = PLAIN;
    params.temperature = 1e-30f;
    float logits[] = {1, 2.0001f, 2, -1e30f};
    bl_sampler *sampler = make_sampler(params, 4);
    for (int i = 0; i < 100; i++)
        assert_int_equal(bl_sampler_sample(sampler, logits), 1);
    bl_sampler_free(sampler);
    params.temperature = 1e6f;
    check_distribution(params, (float[]){1, 2, 3, 4}, 4);
}

/* Drawn from one seed on one machine, pinned for all others. */
static void test_seed_pins_tokens(void **state) {
    (void)state;
    float logits[64];
    for (int i = 0; i < 64; i++)
        logits[i] = (float)((i * 37) % 64) / 8;
    bl_sampler_params params = bl_sampler_default_params();
    params.seed = 2024;
    bl_sampler *sampler = make_sampler(params, 64);
    bl_token first[16], again[16];
    for (int i = 0; i < 16; i++)
        first[i] = bl_sampler_sample(sampler, logits);
    bl_sampler_reset(sampler);
    for (int i = 0; i < 16; i++)
        again[i] = bl_sampler_sample(sampler, logits);
    assert_memory_equal(first, again, sizeof first);
    static const bl_token pinned[16] = {3,  38, 48, 17, 38, 43, 50, 43,
                                        12, 3,  57, 19, 19, 5,  38, 17};
    assert_memory_equal(first, pinned, sizeof first);
    bl_sampler_free(sampler);
}

static void test_penalties(void **state) {
    (void)state;
    bl_sampler_params params = PLAIN;
    params.temperature = 0;
    params.penalty_last_n = 3;
    params.repeat_penalty = 2;
    bl_sampler *sampler = make_sampler(params, 4);
    bl_sampler_accept(sampler, 0); /* 4 becomes 2 */
    assert_int_equal(bl_sampler_sample(sampler, (float[]){4, 2.1f, 0, 0}), 1);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){4, 1.9f, 0, 0}), 0);
    /* -1 becomes -2 */
    assert_int_equal(bl_sampler_sample(sampler, (float[]){-1, -1.9f, -9, -9}), 1);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){-1, -2.1f, -9, -9}), 0);
    /* The window holds 3 tokens: then 0 is forgotten. */
    for (int i = 0; i < 3; i++)
        bl_sampler_accept(sampler, 3);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){4, 2.1f, 0, 0}), 0);
    bl_sampler_accept(sampler, -1); /* neither of these is a token */
    bl_sampler_accept(sampler, 4);
    bl_sampler_free(sampler);

    params.repeat_penalty = 1;
    params.frequency_penalty = 0.5f;
    params.presence_penalty = 0.25f;
    sampler = make_sampler(params, 4);
    bl_sampler_accept(sampler, 2);
    bl_sampler_accept(sampler, 2); /* 3 becomes 3 - 2 * 0.5 - 0.25 = 1.75 */
    assert_int_equal(bl_sampler_sample(sampler, (float[]){1.7f, 0, 3, 0}), 2);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){1.8f, 0, 3, 0}), 0);
    bl_sampler_reset(sampler);
    assert_int_equal(bl_sampler_sample(sampler, (float[]){1.8f, 0, 3, 0}), 2);
    bl_sampler_free(sampler);
}

static void test_refuses_bad_parameters(void **state) {
    (void)state;
    struct {
        size_t offset;
        float value;
        const char *name;
    } cases[] = {
        {offsetof(bl_sampler_params, temperature), -1, "temperature"},
        {offsetof(bl_sampler_params, temperature), NAN, "temperature"},
        {offsetof(bl_sampler_params, temperature), INFINITY, "temperature"},
        {offsetof(bl_sampler_params, top_p), 0, "top_p"},
        {offsetof(bl_sampler_params, top_p), 1.1f, "top_p"},
        {offsetof(bl_sampler_params, min_p), NAN, "min_p"},
        {offsetof(bl_sampler_params, repeat_penalty), 0, "repeat_penalty"},
        {offsetof(bl_sampler_params, frequency_penalty), INFINITY, "frequency_penalty"},
        {offsetof(bl_sampler_params, presence_penalty), NAN, "presence_penalty"},
    };
    bl_sampler *sampler = NULL;
    bl_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_sampler_params params = bl_sampler_default_params();
        memcpy((char *)&params + cases[i].offset, &cases[i].value, sizeof(float));
        assert_int_equal(bl_sampler_create(&params, 10, &sampler, &err), BL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, cases[i].name));
    }
    bl_sampler_params params = bl_sampler_default_params();
    assert_int_equal(bl_sampler_create(&params, 0, &sampler, &err), BL_ERR_ARGUMENT);
    params.penalty_last_n = 65537;
    assert_int_equal(bl_sampler_create(&params, 10, &sampler, &err), BL_ERR_ARGUMENT);
    params.penalty_last_n = -1;
    assert_int_equal(bl_sampler_create(&params, 10, &sampler, NULL), BL_ERR_ARGUMENT);
    assert_null(sampler);
}

static void test_memory(void **state) {
    (void)state;
    bl_sampler_params params = bl_sampler_default_params();
    params.repeat_penalty = 1.1f;
    bl_sampler *sampler = NULL;
    long n = 1;
    for (;; n++) {
        bl__alloc_fail_at(n);
        bl_status status = bl_sampler_create(&params, 100, &sampler, NULL);
        bl__alloc_fail_at(0);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_null(sampler);
    }
    assert_int_equal(n, 5); /* the sampler, candidates, window, counts; then none fails */
    float logits[100] = {0};
    long before = bl__alloc_count();
    for (int i = 0; i < 100; i++)
        bl_sampler_accept(sampler, bl_sampler_sample(sampler, logits));
    assert_int_equal(bl__alloc_count(), before);
    bl_sampler_free(sampler);
    bl_sampler_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_lowest_of_ties),
        cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_distribution_matches_reference),
        cmocka_unit_test(test_extreme_temperatures),
        cmocka_unit_test(test_seed_pins_tokens),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_refuses_bad_parameters),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
