/* Owns what the system says of free memory. Must not know what it is for. */
#include "cpu/memory.h"

#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

enum { MAX_PATH = 1024, MAX_LINE = 512, MAX_LEVELS = 64 };

/* The number after `key` at the beginning of a line of a file. */
static bool read_value(const char *path, const char *key, uint64_t *out) {
    char line[MAX_LINE];
    bool found = false;
    size_t len = strlen(key);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (!found && fgets(line, sizeof line, file)) {
        char *end;
        if (strncmp(line, key, len) != 0)
            continue;
        *out = strtoull(line + len, &end, 10);
        found = end != line + len; /* "max" is no number */
    }
    fclose(file);
    return found;
}

/* The files of a control group, by version. */
typedef struct group_files {
    const char *folder; /* where groups are mounted */
    const char *limit, *used;
    const char *inactive, *active; /* in memory.stat: pages of files, of the group and below */
} group_files;

static const group_files VERSIONS[] = {
    {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ", "active_file "},
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file ", "total_active_file "},
};

/* Lowers *bytes to what the limit of one group leaves. */
static void apply_group(const char *root, const group_files *v, const char *group,
                        uint64_t *bytes) {
    char path[MAX_PATH];
    uint64_t limit, used, inactive = 0, active = 0;
    snprintf(path, sizeof path, "%s%s%s/%s", root, v->folder, group, v->limit);
    if (!read_value(path, "", &limit))
        return;
    snprintf(path, sizeof path, "%s%s%s/%s", root, v->folder, group, v->used);
    if (!read_value(path, "", &used))
        return;
    snprintf(path, sizeof path, "%s%s%s/memory.stat", root, v->folder, group);
    (void)read_value(path, v->inactive, &inactive);
    (void)read_value(path, v->active, &active);
    used = used > inactive + active ? used - inactive - active : 0;
    uint64_t left = limit > used ? limit - used : 0;
    *bytes = left < *bytes ? left : *bytes;
}

/* A group and all above it. Inside a container its own group is the root of what it sees, so
 * levels that are not there are passed over. */
static void apply_groups(const char *root, const group_files *v, char *group, uint64_t *bytes) {
    for (size_t level = 0; level < MAX_LEVELS; level++) {
        apply_group(root, v, group, bytes);
        char *slash = strrchr(group, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

/* /proc/self/cgroup: "0::/a/b" by version 2, "4:memory:/a/b" by version 1. */
static void apply_limits(const char *root, uint64_t *bytes) {
    char path[MAX_PATH], line[MAX_LINE];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (strcmp(group, "/") == 0)
            *group = '\0';
        if (controllers[1] == '\0')
            apply_groups(root, &VERSIONS[0], group, bytes);
        else if (strcmp(controllers + 1, "memory") == 0)
            apply_groups(root, &VERSIONS[1], group, bytes);
    }
    fclose(file);
}

bool bl__memory_available(const char *root, uint64_t *bytes) {
    char path[MAX_PATH];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!read_value(path, "MemAvailable:", &kib))
        return false;
    *bytes = kib * 1024;
    apply_limits(root, bytes);
    return true;
}

bool bl__memory_holds_file(const char *path) {
    struct statfs fs;
    return statfs(path, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC);
}
