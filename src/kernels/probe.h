/* Loops that show what a machine gives at most: int8 multiply-adds that touch registers alone, one
 * for each instruction set, and a plain read of memory. They are what measured results are shares
 * of, so each does as its kernels do with everything else taken away. */
#ifndef BL_KERNELS_PROBE_H
#define BL_KERNELS_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BL_MAX_PROBES = 16 };

typedef struct bl__probe {
    const char *level; /* the lowest that has these instructions */
    bool allowed;      /* BITLOOM_CPU does not rule the level out */
    /* Runs n_rounds and returns the multiplications and additions of int8 that were done, 0 when
     * the system refuses the instructions. */
    uint64_t (*int8)(size_t n_rounds);
    /* Reads bytes[n], n a multiple of 256; what it returns depends on every byte. NULL: a lower
     * level's does as well. */
    uint64_t (*read)(const uint8_t *bytes, size_t n);
} bl__probe;

/* The probes that this machine and build have, lowest level first; returns how many. */
size_t bl__probes_get(bl__probe out[BL_MAX_PROBES]);

#endif
