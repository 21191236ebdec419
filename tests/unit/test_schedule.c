/* Checks train/schedule.h: ends, middles and the drop at half of every shape. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "train/schedule.h"

static void assert_close(double found, double expected) {
    if (!(found - expected < 1e-12 && expected - found < 1e-12))
        fail_msg("%.15g, expected %.15g", found, expected);
}

static const bl__schedule base = {
    .n_steps = 101, .rate = 1e-2, .rate2 = 6e-3, .end_factor = 0.1, .decay = 0.1, .decay2 = 0.0};

static void rates_rise_during_warm_up(void **state) {
    (void)state;
    bl__schedule s = base;
    s.n_warmup = 9;
    for (int shape = BL_DECAY_CONSTANT; shape <= BL_DECAY_TWO_STAGE; shape++) {
        s.shape = (bl__decay_shape)shape;
        assert_close(bl__schedule_rate(&s, 0), 1e-3);
        assert_close(bl__schedule_rate(&s, 4), 5e-3);
        assert_close(bl__schedule_rate(&s, 9), 1e-2);
    }
}

static void shapes_have_their_ends_and_middles(void **state) {
    (void)state;
    bl__schedule s = base;
    s.shape = BL_DECAY_CONSTANT;
    assert_close(bl__schedule_rate(&s, 100), 1e-2);
    s.shape = BL_DECAY_LINEAR;
    assert_close(bl__schedule_rate(&s, 0), 1e-2);
    assert_close(bl__schedule_rate(&s, 50), 5.5e-3);
    assert_close(bl__schedule_rate(&s, 100), 1e-3);
    assert_close(bl__schedule_rate(&s, 1000000), 1e-3);
    s.shape = BL_DECAY_COSINE;
    assert_close(bl__schedule_rate(&s, 0), 1e-2);
    assert_close(bl__schedule_rate(&s, 50), 5.5e-3);
    assert_close(bl__schedule_rate(&s, 25), 1e-2 * (0.1 + 0.9 * 0.85355339059327373));
    assert_close(bl__schedule_rate(&s, 100), 1e-3);
}

static void two_stages_drop_at_half(void **state) {
    (void)state;
    bl__schedule s = base;
    s.shape = BL_DECAY_TWO_STAGE;
    assert_close(bl__schedule_rate(&s, 50), 1e-2 * 0.55);
    assert_close(bl__schedule_rate(&s, 51), 6e-3 * 0.541);
    assert_close(bl__schedule_rate(&s, 100), 6e-4);
    assert_close(bl__schedule_decay(&s, 50), 0.1);
    assert_close(bl__schedule_decay(&s, 51), 0.0);
}

static void quantization_comes_in_linearly(void **state) {
    (void)state;
    bl__schedule s = base;
    assert_close(bl__schedule_lambda(&s, 0), 1);
    s.n_lambda = 8;
    assert_close(bl__schedule_lambda(&s, 0), 0);
    assert_close(bl__schedule_lambda(&s, 2), 0.25);
    assert_close(bl__schedule_lambda(&s, 7), 0.875);
    assert_close(bl__schedule_lambda(&s, 8), 1);
    assert_close(bl__schedule_lambda(&s, 1000000), 1);
}

static void runs_of_a_step_or_none_are_finite(void **state) {
    (void)state;
    bl__schedule s = base;
    for (s.n_steps = 0; s.n_steps < 3; s.n_steps++)
        for (s.n_warmup = 0; s.n_warmup < 5; s.n_warmup++)
            for (int shape = BL_DECAY_CONSTANT; shape <= BL_DECAY_TWO_STAGE; shape++)
                for (uint64_t step = 0; step < 8; step++) {
                    s.shape = (bl__decay_shape)shape;
                    double rate = bl__schedule_rate(&s, step);
                    assert_true(rate > 0 && rate <= 1e-2);
                }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_rise_during_warm_up),
        cmocka_unit_test(shapes_have_their_ends_and_middles),
        cmocka_unit_test(two_stages_drop_at_half),
        cmocka_unit_test(quantization_comes_in_linearly),
        cmocka_unit_test(runs_of_a_step_or_none_are_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
