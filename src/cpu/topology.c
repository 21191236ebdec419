/* Owns the count of cores. Must not know what threads are for. */
#include <sched.h>
#include <stdio.h>

#include "bitloom/system.h"
#include "cpu/cpu.h"

/* The lowest-numbered processor that shares this one's core, from Linux's sysfs; the processor
 * itself where that cannot be read. */
static size_t first_sibling(size_t cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list",
             cpu);
    FILE *file = fopen(path, "re");
    size_t first = cpu;
    if (!file)
        return cpu;
    if (fscanf(file, "%zu", &first) != 1)
        first = cpu;
    fclose(file);
    return first;
}

uint32_t bl__cpu_physical_cores(void) {
    cpu_set_t allowed, cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 1;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            CPU_SET(first_sibling(cpu), &cores);
    int count = CPU_COUNT(&cores);
    return count > 0 ? (uint32_t)count : 1;
}

uint32_t bl_cpu_physical_cores(void) {
    return bl__cpu_physical_cores();
}
