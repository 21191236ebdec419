/* Owns the sums over groups. Must not know how groups are chosen. */
#include "compress/groups.h"

#include <math.h>

enum { LANES = 8, N_VECTORS = BL_BLOCK_COLS / LANES };

typedef float lanes __attribute__((vector_size(32)));
typedef float loose __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(32)));
#define AT(p, i) (*(const loose *)(const void *)((p) + (i)*LANES))

static inline float fold(const lanes *sum) {
    float a[LANES];
    for (int i = 0; i < LANES; i++)
        a[i] = (*sum)[i];
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

bl__group bl__group_of(const float *w, const bl__selection *selection) {
    lanes count = {0}, sum = {0}, magnitude = {0}, squares = {0};
    for (int i = 0; i < N_VECTORS; i++) {
        lanes one = AT(selection->of, i);
        count += one;
        sum += one * AT(w, i);
    }
    bl__group g = {.n = fold(&count)};
    if (g.n == 0)
        return g;
    g.mean = fold(&sum) / g.n;
    for (int i = 0; i < N_VECTORS; i++) {
        lanes rest = (AT(w, i) - g.mean) * AT(selection->of, i);
        magnitude += (lanes)((bits)rest & 0x7fffffff);
        squares += rest * rest;
    }
    float total = fold(&magnitude);
    g.scale = total / g.n;
    g.error = fmaxf(fold(&squares) - total * g.scale, 0);
    return g;
}

bl__group bl__group_residual(const float *w, const bl__selection *selection, float *mean,
                             float *scale1, float *scale2) {
    bl__group first = bl__group_of(w, selection);
    float rest[BL_BLOCK_COLS];
    for (int i = 0; i < BL_BLOCK_COLS; i++) {
        float centred = w[i] - first.mean;
        rest[i] = centred - copysignf(first.scale, centred);
    }
    bl__group second = bl__group_of(rest, selection);
    *mean = first.mean + second.mean;
    *scale1 = first.scale;
    *scale2 = second.scale;
    return second;
}
