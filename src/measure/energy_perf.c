/* Owns counters of energy by perf_event_open(2). Must not know powercap. */
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure/energy.h"
#include "measure/energy_files.h"

/* Reads "event=0x02", what sysfs says of an event. */
static bool parse_event(const char *text, uint64_t *config) {
    char *end;
    if (strncmp(text, "event=", 6) != 0)
        return false;
    *config = strtoull(text + 6, &end, 0);
    return end != text + 6;
}

static bool read_event(const char *sys, const char *name, bl__perf_event *out) {
    static const char folder[] = "bus/event_source/devices/power";
    char file[96], text[BL_ENERGY_TEXT];
    *out = (bl__perf_event){0};
    snprintf(file, sizeof file, "%s/type", folder);
    if (!bl__energy_read_text(sys, file, text))
        return false;
    out->type = (uint32_t)strtoul(text, NULL, 10);
    snprintf(file, sizeof file, "%s/events/%s", folder, name);
    if (!bl__energy_read_text(sys, file, text) || !parse_event(text, &out->config))
        return false;
    snprintf(file, sizeof file, "%s/events/%s.unit", folder, name);
    if (bl__energy_read_text(sys, file, text) && strcmp(text, "Joules") != 0)
        return false;
    snprintf(file, sizeof file, "%s/events/%s.scale", folder, name);
    if (!bl__energy_read_text(sys, file, text))
        return false;
    out->joules = strtod(text, NULL);
    return out->joules > 0;
}

static int open_event(const bl__perf_event *event, int cpu) {
    struct perf_event_attr attr = {
        .type = event->type, .size = sizeof attr, .config = event->config};
    return (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

/* One CPU of each package stands in the device's list, such as "0,18" or "0-1". */
bool bl__perf_open(const char *sys, const char *name, int *fds, size_t max, size_t *n,
                   double *joules, bool *permitted) {
    bl__perf_event event;
    char cpus[BL_ENERGY_TEXT];
    *n = 0;
    *permitted = true;
    if (!read_event(sys, name, &event) ||
        !bl__energy_read_text(sys, "bus/event_source/devices/power/cpumask", cpus))
        return false;
    for (const char *at = cpus; *at >= '0' && *at <= '9';) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < 1 << 20 && *n < max; cpu++) {
            int fd = open_event(&event, (int)cpu);
            if (fd < 0) {
                *permitted = errno != EACCES && errno != EPERM;
                while (*n)
                    close(fds[--*n]);
                return false;
            }
            fds[(*n)++] = fd;
        }
        at = *end == ',' ? end + 1 : end;
    }
    *joules = event.joules;
    return *n > 0;
}
