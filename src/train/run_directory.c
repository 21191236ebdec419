/* Owns the names and the housekeeping of a run's directory. */
#include "train/run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

enum { MAX_METRICS = 1 << 30 };
static const char PREFIX[] = "step-", SUFFIX[] = ".safetensors", METRICS[] = "run.jsonl",
                  LOCK[] = ".lock";

static bl_status fail_io(bl_error *err, const char *what, const char *path) {
    return bl__fail(err, BL_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static void join(const char *directory, const char *name, char out[BL_RUN_MAX_PATH]) {
    snprintf(out, BL_RUN_MAX_PATH, "%s/%.*s", directory, 60, name);
}

void bl__run_checkpoint_path(const char *directory, uint64_t step, char out[BL_RUN_MAX_PATH]) {
    snprintf(out, BL_RUN_MAX_PATH, "%s/%s%08llu%s", directory, PREFIX, (unsigned long long)step,
             SUFFIX);
}

void bl__run_best_path(const bl__run_directory *run, char out[BL_RUN_MAX_PATH]) {
    join(run->path, "best.safetensors", out);
}

/* Calls fn for every name; stops at its first error. */
static bl_status for_names(const char *directory,
                           bl_status (*fn)(void *context, const char *name, bl_error *err),
                           void *context, bl_error *err) {
    bl_status status = BL_OK;
    DIR *handle = opendir(directory);
    if (!handle)
        return fail_io(err, "list", directory);
    for (const struct dirent *entry; !status && (entry = readdir(handle));)
        status = fn(context, entry->d_name, err);
    closedir(handle);
    return status;
}

/* The step of a checkpoint's name. */
static bool parse_name(const char *name, uint64_t *step) {
    char *end;
    size_t n = sizeof PREFIX - 1;
    if (strncmp(name, PREFIX, n) != 0 || name[n] < '0' || name[n] > '9')
        return false;
    errno = 0;
    *step = strtoull(name + n, &end, 10);
    return errno == 0 && strcmp(end, SUFFIX) == 0;
}

/* bl__outfile's "NAME.part-PID" of a process that was killed; names of ours only. */
static bl_status remove_part(void *context, const char *name, bl_error *err) {
    const bl__run_directory *run = context;
    char path[BL_RUN_MAX_PATH];
    bool ours = strncmp(name, PREFIX, sizeof PREFIX - 1) == 0 || strncmp(name, "best.", 5) == 0 ||
                strncmp(name, METRICS, sizeof METRICS - 1) == 0;
    if (!ours || !strstr(name, ".part-"))
        return BL_OK;
    join(run->path, name, path);
    return unlink(path) == 0 ? BL_OK : fail_io(err, "remove", path);
}

/* Keeps the file open and locked; in it is who has it, for people. */
static bl_status lock_directory(bl__run_directory *run, bl_error *err) {
    char path[BL_RUN_MAX_PATH], owner[24] = "";
    join(run->path, LOCK, path);
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0)
        return fail_io(err, "open", path);
    if (flock(run->lock, LOCK_EX | LOCK_NB) == 0) {
        int n = snprintf(owner, sizeof owner, "%ld\n", (long)getpid());
        if (ftruncate(run->lock, 0) == 0 && pwrite(run->lock, owner, (size_t)n, 0) < 0)
            owner[0] = '\0'; /* a full disk: the lock holds without a name */
        return BL_OK;
    }
    if (errno != EWOULDBLOCK)
        return BL_OK;
    ssize_t n = pread(run->lock, owner, sizeof owner - 1, 0);
    owner[n > 0 ? n : 0] = '\0';
    close(run->lock);
    run->lock = -1;
    owner[strcspn(owner, "\n")] = '\0';
    bool known = owner[0] && owner[strspn(owner, "0123456789")] == '\0';
    return bl__fail(err, BL_ERR_IO, "%s: %sprocess %s%strains in it", run->path,
                    known ? "" : "another ", known ? owner : "", known ? " " : "");
}

bl_status bl__run_directory_name(const char *path, bl__run_directory *out, bl_error *err) {
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof out->path)
        return bl__fail(err, BL_ERR_ARGUMENT, "a directory's name of %zu bytes, expected 1 to %zu",
                        len, sizeof out->path - 1);
    memcpy(out->path, path, len + 1);
    out->metrics = out->lock = -1;
    return BL_OK;
}

bl_status bl__run_directory_open(const char *path, bl__run_directory *out, bl_error *err) {
    bl__run_directory run;
    bl_status status = bl__run_directory_name(path, &run, err);
    if (status)
        return status;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return fail_io(err, "make the directory", path);
    if (!bl__directory_exists(path))
        return bl__fail(err, BL_ERR_IO, "%s: not a directory", path);
    status = lock_directory(&run, err);
    if (!status)
        status = for_names(path, remove_part, &run, err);
    if (status)
        bl__run_directory_close(&run);
    else
        *out = run;
    return status;
}

static void close_metrics(bl__run_directory *run) {
    if (run->metrics >= 0)
        close(run->metrics);
    run->metrics = -1;
}

void bl__run_directory_close(bl__run_directory *run) {
    close_metrics(run);
    if (run->lock >= 0)
        close(run->lock);
    run->lock = -1;
}

/* ---- checkpoints ---- */

/* The highest step below a bound. */
typedef struct search {
    uint64_t below, step;
    bool found;
} search;

static bl_status take_highest(void *context, const char *name, bl_error *err) {
    search *s = context;
    uint64_t step;
    (void)err;
    if (parse_name(name, &step) && step < s->below && (!s->found || step > s->step)) {
        s->step = step;
        s->found = true;
    }
    return BL_OK;
}

bl_status bl__run_latest(const char *directory, bool *found, uint64_t *step, bl_error *err) {
    search s = {.below = UINT64_MAX};
    bl_status status = for_names(directory, take_highest, &s, err);
    if (status)
        return status;
    *found = s.found;
    *step = s.step;
    return BL_OK;
}

bl_status bl__run_find_checkpoint(const char *run, char out[BL_RUN_MAX_PATH], bl_error *err) {
    uint64_t step;
    bool found;
    if (strlen(run) >= BL_RUN_MAX_PATH - 64)
        return bl__fail(err, BL_ERR_ARGUMENT, "a run's name of %zu bytes", strlen(run));
    if (!bl__directory_exists(run)) {
        snprintf(out, BL_RUN_MAX_PATH, "%s", run);
        return BL_OK;
    }
    bl_status status = bl__run_latest(run, &found, &step, err);
    if (!status && !found)
        status = bl__fail(err, BL_ERR_NOT_FOUND, "%s: no checkpoint in it", run);
    if (!status)
        bl__run_checkpoint_path(run, step, out);
    return status;
}

bl_status bl__run_prune(const bl__run_directory *run, size_t keep, bl_error *err) {
    char path[BL_RUN_MAX_PATH];
    search s = {.below = UINT64_MAX, .found = true};
    for (size_t n = 0;; n++) {
        s.found = false;
        bl_status status = for_names(run->path, take_highest, &s, err);
        if (status || !s.found)
            return status;
        s.below = s.step;
        bl__run_checkpoint_path(run->path, s.step, path);
        if (n >= keep && unlink(path) != 0)
            return fail_io(err, "remove", path);
    }
}

/* ---- metrics ---- */

/* Every line of ours begins with {"step":N. */
static bool line_is_kept(const char *line, uint64_t step) {
    static const char start[] = "{\"step\":";
    if (strncmp(line, start, sizeof start - 1) != 0)
        return false;
    return strtoull(line + sizeof start - 1, NULL, 10) <= step;
}

static bl_status trim(const char *path, uint64_t step, bl_error *err) {
    char *text = NULL;
    size_t len;
    bl__outfile *file = NULL;
    if (!bl__file_exists(path))
        return BL_OK;
    bl_status status = bl__file_read(path, MAX_METRICS, &text, &len, err);
    if (status || (status = bl__outfile_open(path, &file, err)))
        goto fail;
    for (const char *line = text, *end; (end = memchr(line, '\n', len - (size_t)(line - text)));
         line = end + 1)
        if (line_is_kept(line, step) &&
            (status = bl__outfile_write(file, line, (size_t)(end + 1 - line), err)))
            goto fail;
    bl__free(text);
    return bl__outfile_commit(file, err);
fail:
    bl__outfile_abort(file);
    bl__free(text);
    return status;
}

bl_status bl__run_open_metrics(bl__run_directory *run, uint64_t step, bl_error *err) {
    char path[BL_RUN_MAX_PATH];
    join(run->path, METRICS, path);
    bl_status status = trim(path, step, err);
    if (status)
        return status;
    close_metrics(run);
    run->metrics = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return run->metrics >= 0 ? BL_OK : fail_io(err, "open", path);
}

bl_status bl__run_read_metrics(const bl__run_directory *run, char **text, size_t *len,
                               bl_error *err) {
    char path[BL_RUN_MAX_PATH];
    join(run->path, METRICS, path);
    return bl__file_read(path, MAX_METRICS, text, len, err);
}

bl_status bl__run_add_metrics(const bl__run_directory *run, const char *line, size_t len,
                              bl_error *err) {
    while (len) {
        ssize_t n = write(run->metrics, line, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bl__fail(err, BL_ERR_IO, "%s/%s: cannot write: %s", run->path, METRICS,
                            strerror(errno));
        line += n;
        len -= (size_t)n;
    }
    return BL_OK;
}
