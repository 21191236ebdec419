/* Owns the shapes of schedules. */
#include "train/schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

static bool second_stage(const bl__schedule *s, uint64_t step) {
    return step >= s->n_steps - s->n_steps / 2;
}

double bl__schedule_rate(const bl__schedule *s, uint64_t step) {
    if (step < s->n_warmup)
        return s->rate * (double)(step + 1) / (double)(s->n_warmup + 1);
    /* 0 at the first full step, 1 at the last */
    double from = (double)s->n_warmup, span = (double)s->n_steps - 1.0 - from;
    double done = span > 0 ? fmin(1.0, ((double)step - from) / span) : 1.0;
    double line = 1.0 - (1.0 - s->end_factor) * done;
    switch (s->shape) {
    case BL_DECAY_CONSTANT:
        return s->rate;
    case BL_DECAY_LINEAR:
        return s->rate * line;
    case BL_DECAY_COSINE:
        return s->rate * (s->end_factor + (1.0 - s->end_factor) * 0.5 * (1.0 + cos(PI * done)));
    case BL_DECAY_TWO_STAGE:
        return (second_stage(s, step) ? s->rate2 : s->rate) * line;
    }
    return s->rate;
}

double bl__schedule_decay(const bl__schedule *s, uint64_t step) {
    return second_stage(s, step) ? s->decay2 : s->decay;
}

double bl__schedule_lambda(const bl__schedule *s, uint64_t step) {
    return step < s->n_lambda ? (double)step / (double)s->n_lambda : 1.0;
}
