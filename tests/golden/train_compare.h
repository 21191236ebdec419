/* What the tests of the trainer against PyTorch share. */
#ifndef BL_TESTS_TRAIN_COMPARE_H
#define BL_TESTS_TRAIN_COMPARE_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "formats/safetensors.h"

static bool verbose;

static const float *floats_of(const bl__tensor_set *set, const char *name, size_t n) {
    const bl__safetensor *t = bl__tensor_set_find(set, name);
    if (!t || t->dtype != BL_DTYPE_F32 || t->n_elements != n)
        fail_msg("%s: not there, or not %zu floats", name, n);
    return (const float *)(const void *)t->data;
}

/* Splits ids[n_rows][n_tokens + 1] into what the network reads and what it is to predict. */
static void split_batch(const int32_t *ids, size_t n_rows, size_t n_tokens, int32_t *inputs,
                        int32_t *targets) {
    for (size_t row = 0; row < n_rows; row++)
        for (size_t i = 0; i < n_tokens; i++) {
            inputs[row * n_tokens + i] = ids[row * (n_tokens + 1) + i];
            targets[row * n_tokens + i] = ids[row * (n_tokens + 1) + i + 1];
        }
}

/* Both the norm of the difference and its largest element, relative to the expected ones. */
static void compare(const char *name, const float *found, const float *expected, size_t n,
                    double bound) {
    double difference = 0, size = 0, most = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)found[i] - (double)expected[i]), e = fabs((double)expected[i]);
        if (!isfinite(d))
            fail_msg("%s: element %zu is not finite", name, i);
        difference += d * d;
        size += e * e;
        most = d > most ? d : most;
        largest = e > largest ? e : largest;
    }
    double norm_wise = sqrt(difference / size), max_wise = most / largest;
    if (verbose)
        printf("  %-50s %.2e of the norm, %.2e of the largest\n", name, norm_wise, max_wise);
    if (!(norm_wise <= bound && max_wise <= bound))
        fail_msg("%s: differs by %.3g of its norm and %.3g of its largest element, bound %g", name,
                 norm_wise, max_wise, bound);
}

#endif
