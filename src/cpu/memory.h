/* How much memory this process may still take. */
#ifndef BL_CPU_MEMORY_H
#define BL_CPU_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes that can be had without swapping: what the system calls available, or what the memory
 * limits of the process's control groups (version 1 or 2) leave, if that is less. Pages of files
 * count as free, since they can be given back. root stands before /proc and /sys: "" for the
 * machine's own. False when the system does not say. */
bool bl__memory_available(const char *root, uint64_t *bytes);

/* Whether a file lies in memory already, in a file system that has no disk. */
bool bl__memory_holds_file(const char *path);

#endif
