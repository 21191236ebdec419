/* Private to measure/: counters of energy found under a folder, and the estimate of a test. */
#ifndef BL_MEASURE_ENERGY_H
#define BL_MEASURE_ENERGY_H

#include "bitloom/bench.h"
#include "bitloom/energy.h"

/* bl_energy_meter_open() with another folder in place of /sys. */
bl_status bl__energy_meter_open_at(const char *sys, bl_energy_meter **out, bl_error *err);

/* A counter of perf events: what one unit of it is worth. */
typedef struct bl__perf_event {
    uint32_t type;
    uint64_t config;
    double joules; /* of one count */
} bl__perf_event;

/* Opens an event, such as "energy-pkg", for each package. fds: int[max]; *n receives how many are
 * open. false, and *n 0, when there is none or it may not be read; *permitted tells which. */
bool bl__perf_open(const char *sys, const char *name, int *fds, size_t max, size_t *n,
                   double *joules, bool *permitted);

/* Joules of a token of a test that reads so many bytes for each. */
bl_energy_estimate bl__energy_of_token(const bl_model_info *info, const bl_bench_test *test,
                                       double bytes_per_token);

#endif
