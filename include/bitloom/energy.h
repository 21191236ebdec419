/* Energy of evaluating tokens: measured by the machine's own counters, where it has them and lets
 * this process read them, or else estimated by arithmetic. A figure is one or the other, and says
 * which. */
#ifndef BITLOOM_ENERGY_H
#define BITLOOM_ENERGY_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/model.h"
#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bl_energy_kind {
    BL_ENERGY_UNKNOWN,
    BL_ENERGY_MEASURED,
    BL_ENERGY_ESTIMATED
} bl_energy_kind;

const char *bl_energy_kind_name(bl_energy_kind kind); /* "unknown", "measured", "estimated" */

typedef struct bl_energy {
    bl_energy_kind kind;
    double joules;
} bl_energy;

/* ---- measured ---- */

/* The counters of all processor packages, and of their memory where that has some (RAPL), by
 * powercap in sysfs or else by perf events. They count what is on the machine, this process and
 * all others. Belongs to one thread at a time. */
typedef struct bl_energy_meter bl_energy_meter;

/* Errors, which say what was tried: BL_ERR_NOT_FOUND (the machine has no counters), BL_ERR_IO
 * (they may not be read; by powercap only root may, by perf whoever has CAP_PERFMON),
 * BL_ERR_MEMORY. */
bl_status bl_energy_meter_open(bl_energy_meter **out, bl_error *err);
void bl_energy_meter_close(bl_energy_meter *meter); /* NULL is accepted */

/* What is counted and how, such as "RAPL by powercap: package-0 dram"; borrowed. */
const char *bl_energy_meter_source(const bl_energy_meter *meter);

/* Joules since it was opened. Counters run over, after minutes at full power on some machines, and
 * that is noticed once between two readings: read in between where more time may pass. False, and
 * *joules as it was, when a counter cannot be read any more. */
bool bl_energy_meter_read(bl_energy_meter *meter, double *joules);

/* ---- estimated ---- */

/* The sum of two parts, each by published energies of single operations: products of layers,
 * attention and head by bl_cost_estimate() in 7 nm, and reading weights, keys and values by
 * bl_cost_read(). What else a machine consumes is not in it. */
typedef struct bl_energy_estimate {
    double arithmetic, memory; /* joules */
} bl_energy_estimate;

/* Of a text that a session evaluated from its beginning: n_prompt tokens, n_batch (0 = 256) at a
 * time, and then n_generated one by one. */
void bl_energy_estimate_text(const bl_session *session, size_t n_batch, size_t n_prompt,
                             size_t n_generated, bl_energy_estimate *prompt,
                             bl_energy_estimate *generated);

#ifdef __cplusplus
}
#endif
#endif
