/* Private to measure/: a short self-test of the kernels on this machine. */
#ifndef BL_MEASURE_VERIFY_KERNELS_H
#define BL_MEASURE_VERIFY_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

/* Runs every slot of every level that this machine has on small random problems and compares the
 * bits with kernels/ref. *failed: what differs first, "LEVEL: SLOT", or "" when nothing does;
 * *n_failed: how many slots do. */
bl_status bl__verify_kernels(char *failed, size_t len, size_t *n_failed, bl_error *err);

#endif
