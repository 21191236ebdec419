/* Owns the count of cores and the spread of memory over its nodes. Must not know what threads are
 * for. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "bitloom/system.h"
#include "cpu/cpu.h"

enum { MAX_NODES = 1024, NODE_BITS = 8 * sizeof(unsigned long), INTERLEAVE = 3 };

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

uint32_t bl__cpu_quota(const char *cpu_max) {
    unsigned long long quota, period;
    if (sscanf(cpu_max, "%llu %llu", &quota, &period) != 2 || quota == 0 || period == 0)
        return 0; /* "max 100000": no limit */
    unsigned long long cores = quota / period + (quota % period != 0);
    return cores > UINT32_MAX ? 0 : (uint32_t)cores;
}

/* What a container may use of the machine, in whole cores; 0 = all of it. Inside a container its
 * own group is the root of what it sees. */
static uint32_t container_cores(void) {
    char text[64];
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file)
        return 0;
    uint32_t cores = fgets(text, sizeof text, file) ? bl__cpu_quota(text) : 0;
    fclose(file);
    return cores;
}

uint32_t bl__cpu_physical_cores(void) {
    cpu_set_t allowed, cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 1;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            CPU_SET(first_sibling(cpu), &cores);
    uint32_t count = (uint32_t)CPU_COUNT(&cores), quota = container_cores();
    count = quota && quota < count ? quota : count;
    return count > 0 ? count : 1;
}

uint32_t bl_cpu_physical_cores(void) {
    return bl__cpu_physical_cores();
}

size_t bl__cpu_node_list(const char *list, uint32_t *nodes, size_t max) {
    size_t n = 0;
    for (const char *at = list; *at && *at != '\n';) {
        unsigned first, last;
        int len = 0;
        if (sscanf(at, "%u%n", &first, &len) != 1)
            return 0;
        at += len;
        last = first;
        if (*at == '-') {
            if (sscanf(at, "-%u%n", &last, &len) != 1)
                return 0;
            at += len;
        }
        if (last < first || last >= MAX_NODES || last - first >= max - n)
            return 0;
        for (unsigned node = first; node <= last; node++)
            nodes[n++] = node;
        if (*at == ',')
            at++;
        else if (*at && *at != '\n')
            return 0;
    }
    return n;
}

bl_status bl_numa_interleave(uint32_t *n_nodes, bl_error *err) {
    uint32_t nodes[MAX_NODES];
    unsigned long mask[MAX_NODES / NODE_BITS] = {0};
    char text[1024];
    FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
    size_t n =
        file && fgets(text, sizeof text, file) ? bl__cpu_node_list(text, nodes, MAX_NODES) : 0;
    if (file)
        fclose(file);
    if (!n)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "the system does not name its memory nodes");
    for (size_t i = 0; i < n; i++)
        mask[nodes[i] / NODE_BITS] |= 1ul << nodes[i] % NODE_BITS;
    if (n > 1 && syscall(SYS_set_mempolicy, INTERLEAVE, mask, (unsigned long)MAX_NODES) != 0)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "memory cannot be spread over %zu nodes: %s", n,
                        strerror(errno));
    if (n_nodes)
        *n_nodes = (uint32_t)n;
    return BL_OK;
}
