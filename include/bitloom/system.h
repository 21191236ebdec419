/* The machine and the build. */
#ifndef BITLOOM_SYSTEM_H
#define BITLOOM_SYSTEM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

const char *bl_version(void); /* "MAJOR.MINOR.PATCH" */

/* CPU model as the machine names it; "" when unknown. Valid for the life of the program. */
const char *bl_cpu_name(void);
/* Space-separated features that both CPU and operating system allow, such as "avx2 fma f16c". */
const char *bl_cpu_features(void);
uint32_t bl_cpu_physical_cores(void); /* that this process may use; at least 1 */

/* The kernel level in use: "ref", "avx2", "avx512vnni", ... Capped by the environment variable
 * BITLOOM_CPU, read once, when the first kernel is asked for. */
const char *bl_kernel_level(void);
/* Levels compiled in that this machine can run, space-separated, lowest first. */
const char *bl_kernel_levels(void);

#ifdef __cplusplus
}
#endif
#endif
