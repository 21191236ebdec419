/* The machine and the build. */
#ifndef BITLOOM_SYSTEM_H
#define BITLOOM_SYSTEM_H

#include <stdint.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

const char *bl_version(void); /* "MAJOR.MINOR.PATCH" */

/* CPU model as the machine names it; "" when unknown. Valid for the life of the program. */
const char *bl_cpu_name(void);
/* Space-separated features that both CPU and operating system allow, such as "avx2 fma f16c". */
const char *bl_cpu_features(void);
/* Physical cores that this process may use, by its affinity and its container's limit; at least 1.
 */
uint32_t bl_cpu_physical_cores(void);

/* Spreads what this thread and those that it starts take from memory, and read from files, evenly
 * over all memory nodes of the machine (set_mempolicy(2), MPOL_INTERLEAVE): call it before opening
 * a model that all of the machine's cores are to run. Pages of a file that are in memory already
 * stay where they are. n_nodes may be NULL; with one node nothing is done.
 * Errors: BL_ERR_UNSUPPORTED. */
bl_status bl_numa_interleave(uint32_t *n_nodes, bl_error *err);

/* The kernel level in use: "ref", "avx2", "avx512vnni", ... Capped by the environment variable
 * BITLOOM_CPU, read once, when the first kernel is asked for. */
const char *bl_kernel_level(void);
/* Levels compiled in that this machine can run, space-separated, lowest first. */
const char *bl_kernel_levels(void);
/* Which level that the CPU has is not used, and why: "amx: ..."; "" when there is none. */
const char *bl_kernel_notice(void);

#ifdef __cplusplus
}
#endif
#endif
