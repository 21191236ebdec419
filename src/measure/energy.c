/* Owns counters of energy by powercap, their running over, and which counters a meter has. Must
 * not know what is measured. */
#include "measure/energy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "measure/energy_files.h"

enum { MAX_COUNTERS = 64, MAX_PATH = 512, MAX_ZONE = 480, SOURCE_BYTES = 160 };

typedef struct counter {
    int fd;
    bool is_perf;   /* 8 bytes of a count that does not run over, else digits */
    double joules;  /* of one count */
    uint64_t range; /* of powercap: the count goes back to 0 after it */
    uint64_t last, total;
} counter;

struct bl_energy_meter {
    counter counters[MAX_COUNTERS];
    size_t n;
    char source[SOURCE_BYTES];
};

const char *bl_energy_kind_name(bl_energy_kind kind) {
    return kind == BL_ENERGY_MEASURED    ? "measured"
           : kind == BL_ENERGY_ESTIMATED ? "estimated"
                                         : "unknown";
}

static bool read_fd(int fd, char *out, size_t size) {
    ssize_t n = pread(fd, out, size - 1, 0);
    if (n < 0)
        return false;
    out[n] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return true;
}

bool bl__energy_read_text(const char *folder, const char *file, char out[BL_ENERGY_TEXT]) {
    char path[MAX_PATH];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = read_fd(fd, out, BL_ENERGY_TEXT);
    close(fd);
    return ok;
}

/* The count as it is now. */
static bool read_count(const counter *c, uint64_t *out) {
    char text[32], *end;
    if (c->is_perf)
        return read(c->fd, out, sizeof *out) == (ssize_t)sizeof *out;
    if (!read_fd(c->fd, text, sizeof text))
        return false;
    *out = strtoull(text, &end, 10);
    return end != text;
}

bool bl_energy_meter_read(bl_energy_meter *meter, double *joules) {
    double sum = 0;
    for (size_t i = 0; i < meter->n; i++) {
        counter *c = &meter->counters[i];
        uint64_t now;
        if (!read_count(c, &now))
            return false;
        c->total += now >= c->last ? now - c->last : c->range - c->last + now;
        c->last = now;
        sum += (double)c->total * c->joules;
    }
    *joules = sum;
    return true;
}

static void name_counter(bl_energy_meter *m, const char *name) {
    size_t len = strlen(m->source);
    snprintf(m->source + len, sizeof m->source - len, " %s", name);
}

/* Adds a counter that can be read. */
static bool add_counter(bl_energy_meter *m, counter c) {
    if (m->n == MAX_COUNTERS || !read_count(&c, &c.last)) {
        int why = errno;
        close(c.fd);
        errno = why;
        return false;
    }
    m->counters[m->n++] = c;
    return true;
}

/* ---- powercap ---- */

/* Packages, and the memory beside them; cores are parts of packages. */
static bool is_counted(const char *name) {
    return strncmp(name, "package", 7) == 0 || strcmp(name, "dram") == 0;
}

/* A folder such as class/powercap/intel-rapl:0. *denied: its counter may not be read. */
static void add_zone(bl_energy_meter *m, const char zone[MAX_ZONE], bool *denied) {
    char name[BL_ENERGY_TEXT], range[BL_ENERGY_TEXT], path[MAX_PATH];
    if (!bl__energy_read_text(zone, "name", name) || !is_counted(name) ||
        !bl__energy_read_text(zone, "max_energy_range_uj", range))
        return;
    snprintf(path, sizeof path, "%s/energy_uj", zone);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 &&
        add_counter(m, (counter){.fd = fd, .joules = 1e-6, .range = strtoull(range, NULL, 10)}))
        name_counter(m, name);
    else
        *denied |= errno == EACCES || errno == EPERM;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* In the order of their names; one that cannot be read leaves the meter without any. */
static bl_status find_zones(bl_energy_meter *m, const char *sys, bool *denied, bl_error *err) {
    char folder[128], zone[MAX_ZONE];
    char *names[MAX_COUNTERS * 4];
    size_t n = 0;
    bl_status status = BL_OK;
    snprintf(folder, sizeof folder, "%s/class/powercap", sys);
    DIR *dir = opendir(folder);
    if (!dir)
        return BL_OK;
    for (struct dirent *entry; (entry = readdir(dir)) && n < MAX_COUNTERS * 4 && !status;)
        if (strncmp(entry->d_name, "intel-rapl:", 11) == 0 &&
            !(names[n++] = bl__strndup(entry->d_name, strlen(entry->d_name)))) {
            n--;
            status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate the name of a counter");
        }
    closedir(dir);
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        int len = snprintf(zone, sizeof zone, "%s/%s", folder, names[i]);
        if (!status && len > 0 && len < MAX_ZONE)
            add_zone(m, zone, denied);
        bl__free(names[i]);
    }
    return status;
}

/* ---- perf ---- */

static void find_events(bl_energy_meter *m, const char *sys, bool *denied) {
    static const char *const names[] = {"energy-pkg", "energy-ram"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int fds[MAX_COUNTERS];
        size_t n;
        double joules;
        bool permitted;
        if (bl__perf_open(sys, names[i], fds, MAX_COUNTERS, &n, &joules, &permitted))
            name_counter(m, names[i]);
        *denied |= !permitted;
        for (size_t k = 0; k < n; k++)
            add_counter(m, (counter){.fd = fds[k], .is_perf = true, .joules = joules});
    }
}

/* ---- meters ---- */

static void drop_counters(bl_energy_meter *m, const char *source) {
    for (size_t i = 0; i < m->n; i++)
        close(m->counters[i].fd);
    m->n = 0;
    snprintf(m->source, sizeof m->source, "%s", source);
}

bl_status bl__energy_meter_open_at(const char *sys, bl_energy_meter **out, bl_error *err) {
    bool denied = false, denied_perf = false;
    bl_energy_meter *m = bl__calloc(1, sizeof *m);
    if (!m)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a meter of energy");
    drop_counters(m, "RAPL by powercap:");
    bl_status status = find_zones(m, sys, &denied, err);
    if (!status && (denied || !m->n)) {
        drop_counters(m, "RAPL by perf:");
        find_events(m, sys, &denied_perf);
    }
    if (!status && (denied || denied_perf) && !m->n)
        status = bl__fail(err, BL_ERR_IO,
                          "the energy counters (RAPL) may not be read: by powercap root may, by "
                          "perf whoever has CAP_PERFMON");
    if (!status && !m->n)
        status = bl__fail(err, BL_ERR_NOT_FOUND,
                          "no energy counters (RAPL) in %.100s, by powercap or perf", sys);
    if (status)
        bl_energy_meter_close(m);
    else
        *out = m;
    return status;
}

bl_status bl_energy_meter_open(bl_energy_meter **out, bl_error *err) {
    return bl__energy_meter_open_at("/sys", out, err);
}

void bl_energy_meter_close(bl_energy_meter *m) {
    if (!m)
        return;
    drop_counters(m, "");
    bl__free(m);
}

const char *bl_energy_meter_source(const bl_energy_meter *m) {
    return m->source;
}
