/* Checks train/optimizer.h against PyTorch 2.15: torch.optim.AdamW (single-tensor) after
 * torch.nn.utils.clip_grad_norm_, three updates of a matrix that decays and a norm that does not.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "train/optimizer.h"

enum { N_MATRIX = 6, N_NORM = 2, N = N_MATRIX + N_NORM, STEPS = 3 };

static const float start[N] = {0.5f, -1.25f, 3e-3f, 0.0f, 2.0f, -0.75f, 1.0f, 0.5f};
static const float gradients[STEPS][N] = {
    {0.1f, -0.2f, 1e-9f, 0.0f, 3.0f, -0.05f, 0.7f, -0.1f},
    {-0.3f, 0.2f, 1e-4f, 1e-6f, -2.0f, 0.4f, 0.0f, 0.2f},
    {0.02f, 0.01f, 0.0f, 0.5f, 0.25f, -0.125f, -0.05f, 0.01f}};
static const double rates[STEPS] = {1e-2, 2e-2, 5e-3};

static const double norms[STEPS] = {3.09071207, 2.08086538, 0.575521529};
static const float expected[STEPS][N] = {{0.489500016f, -1.23874998f, 0.0026835904f, 0.0f,
                                          1.98800004f, -0.739250004f, 0.99000001f, 0.50999999f},
                                         {0.49998036f, -1.24111521f, -0.0120167974f, -0.0142841348f,
                                          1.98497832f, -0.751311898f, 0.976427078f, 0.500264823f},
                                         {0.501523018f, -1.24171579f, -0.014887129f, -0.0173931103f,
                                          1.98358703f, -0.751417935f, 0.974544466f, 0.498054445f}};
static const float first_moments[N] = {-0.00835461169f, 0.00440873532f, 4.32514798e-06f,
                                       0.0500000417f,   0.0171202011f,  0.00349010946f,
                                       0.0133452797f,   0.00702948915f};
static const float second_moments[N] = {0.00105453597f, 0.000632754236f, 1.09699652e-10f,
                                        0.0125000002f,  0.0895198733f,   0.00254825433f,
                                        0.00243970612f, 0.000491037499f};

static void assert_near(const float *found, const float *want, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(found[i] - want[i]) <= 3e-7f * fabsf(want[i]) + 1e-12f))
            fail_msg("%s %zu: %.9g, PyTorch has %.9g", what, i, (double)found[i], (double)want[i]);
}

typedef struct fixture {
    float value[N], grad[N];
    bl__param params[2];
    bl__optimizer *optimizer;
} fixture;

static void setup(fixture *f) {
    static const bl__optimizer_config config = {0.9, 0.95, 1e-8, NULL, NULL};
    memset(f, 0, sizeof *f);
    memcpy(f->value, start, sizeof start);
    f->params[0] = (bl__param){
        .rows = 2, .cols = 3, .linear = true, .decays = true, .value = f->value, .grad = f->grad};
    f->params[1] =
        (bl__param){.rows = 1, .cols = 2, .value = f->value + N_MATRIX, .grad = f->grad + N_MATRIX};
    assert_int_equal(bl__optimizer_create(&config, f->params, 2, NULL, &f->optimizer, NULL), BL_OK);
}

static void updates_are_those_of_pytorch(void **state) {
    (void)state;
    fixture f;
    setup(&f);
    for (size_t step = 0; step < STEPS; step++) {
        memcpy(f.grad, gradients[step], sizeof f.grad);
        double norm = bl__optimizer_step(f.optimizer, rates[step], 0.1, 1.0);
        assert_true(fabs(norm - norms[step]) < 1e-6 * norms[step]);
        assert_near(f.value, expected[step], N, "weight");
        for (size_t i = 0; i < N; i++)
            assert_true(f.grad[i] == 0.0f);
    }
    const bl__moments *m = bl__optimizer_moments(f.optimizer);
    assert_near(m[0].first, first_moments, N_MATRIX, "first moment");
    assert_near(m[1].first, first_moments + N_MATRIX, N_NORM, "first moment");
    assert_near(m[0].second, second_moments, N_MATRIX, "second moment");
    assert_near(m[1].second, second_moments + N_MATRIX, N_NORM, "second moment");
    assert_int_equal(bl__optimizer_steps(f.optimizer), STEPS);
    bl__optimizer_free(f.optimizer);
}

/* As after a checkpoint: weights, moments and step count carried over give the same next update. */
static void an_optimizer_goes_on_where_another_stopped(void **state) {
    (void)state;
    fixture f, g;
    setup(&f);
    setup(&g);
    for (size_t step = 0; step < 2; step++) {
        memcpy(f.grad, gradients[step], sizeof f.grad);
        bl__optimizer_step(f.optimizer, rates[step], 0.1, 1.0);
    }
    memcpy(g.value, f.value, sizeof f.value);
    for (size_t i = 0; i < 2; i++) {
        size_t bytes = g.params[i].rows * g.params[i].cols * sizeof(float);
        const bl__moments *from = &bl__optimizer_moments(f.optimizer)[i];
        memcpy(bl__optimizer_moments(g.optimizer)[i].first, from->first, bytes);
        memcpy(bl__optimizer_moments(g.optimizer)[i].second, from->second, bytes);
    }
    bl__optimizer_set_steps(g.optimizer, bl__optimizer_steps(f.optimizer));
    memcpy(f.grad, gradients[2], sizeof f.grad);
    memcpy(g.grad, gradients[2], sizeof g.grad);
    bl__optimizer_step(f.optimizer, rates[2], 0.1, 1.0);
    bl__optimizer_step(g.optimizer, rates[2], 0.1, 1.0);
    assert_memory_equal(f.value, g.value, sizeof f.value);
    bl__optimizer_free(f.optimizer);
    bl__optimizer_free(g.optimizer);
}

static void gradients_that_are_not_finite_change_nothing(void **state) {
    (void)state;
    fixture f;
    setup(&f);
    const float bad[] = {NAN, INFINITY};
    for (size_t i = 0; i < 2; i++) {
        memcpy(f.grad, gradients[0], sizeof f.grad);
        f.grad[7] = bad[i];
        assert_true(!isfinite(bl__optimizer_step(f.optimizer, 1e-2, 0.1, 1.0)));
        assert_memory_equal(f.value, start, sizeof start);
        for (size_t j = 0; j < N; j++)
            assert_true(f.grad[j] == 0.0f);
        assert_int_equal(bl__optimizer_steps(f.optimizer), 0);
    }
    bl__optimizer_free(f.optimizer);
}

static void clipping_can_be_off(void **state) {
    (void)state;
    fixture f, g;
    setup(&f);
    setup(&g);
    memcpy(f.grad, gradients[0], sizeof f.grad);
    memcpy(g.grad, gradients[0], sizeof g.grad);
    bl__optimizer_step(f.optimizer, 1e-2, 0.1, 0.0);
    bl__optimizer_step(g.optimizer, 1e-2, 0.1, 1e6);
    assert_memory_equal(f.value, g.value, sizeof f.value);
    /* g = 3, unclipped: m = 0.3 */
    assert_true(fabsf(bl__optimizer_moments(f.optimizer)[0].first[4] - 0.3f) < 1e-6f);
    bl__optimizer_free(f.optimizer);
    bl__optimizer_free(g.optimizer);
}

/* Large tensors, cut into parts. */
static void threads_change_no_bit(void **state) {
    (void)state;
    enum { BIG = 100003 };
    float *values[2];
    double norm[2];
    for (uint32_t run = 0; run < 2; run++) {
        static const bl__optimizer_config config = {0.9, 0.95, 1e-8, NULL, NULL};
        bl__pool *pool = NULL;
        bl__optimizer *optimizer = NULL;
        float *grad = bl__malloc_array(BIG, sizeof *grad);
        values[run] = bl__malloc_array(BIG, sizeof *values[run]);
        bl__random random;
        bl__random_seed(&random, 1);
        for (size_t i = 0; i < BIG; i++) {
            values[run][i] = (float)bl__random_f64(&random);
            grad[i] = (float)bl__random_f64(&random) - 0.5f;
        }
        bl__param param = {.rows = 1, .cols = BIG, .value = values[run], .grad = grad};
        assert_int_equal(bl__pool_create(run ? 3 : 1, false, &pool, NULL), BL_OK);
        assert_int_equal(bl__optimizer_create(&config, &param, 1, pool, &optimizer, NULL), BL_OK);
        norm[run] = bl__optimizer_step(optimizer, 1e-3, 0.1, 1.0);
        bl__optimizer_free(optimizer);
        bl__pool_free(pool);
        bl__free(grad);
    }
    assert_memory_equal(&norm[0], &norm[1], sizeof norm[0]);
    assert_memory_equal(values[0], values[1], BIG * sizeof *values[0]);
    bl__free(values[0]);
    bl__free(values[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_are_those_of_pytorch),
        cmocka_unit_test(an_optimizer_goes_on_where_another_stopped),
        cmocka_unit_test(gradients_that_are_not_finite_change_nothing),
        cmocka_unit_test(clipping_can_be_off),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
