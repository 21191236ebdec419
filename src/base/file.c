/* Owns the file system calls. Must not know any file format. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

enum { OUT_BUFFER = 1024 * 1024 };

struct bl__outfile {
    int fd;
    uint64_t offset; /* bytes accepted, buffered ones included */
    size_t n_buffered;
    char *path, *part_path;
    char buffer[OUT_BUFFER];
};

static bl_status fail_errno(bl_error *err, const char *what, const char *path) {
    int code = errno;
    return bl__fail(err, code == ENOENT ? BL_ERR_NOT_FOUND : BL_ERR_IO, "%s: cannot %s: %s", path,
                    what, strerror(code));
}

/* Opens a regular file for reading and tells its size. */
static bl_status open_regular(const char *path, int *fd, size_t *size, bl_error *err) {
    struct stat st;
    /* O_NONBLOCK: a named pipe would be waited for; regular files do not mind. */
    int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (handle < 0)
        return fail_errno(err, "open", path);
    if (fstat(handle, &st) != 0) {
        bl_status status = fail_errno(err, "stat", path);
        close(handle);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(handle);
        return bl__fail(err, BL_ERR_IO, "%s: not a regular file", path);
    }
    *fd = handle;
    *size = (size_t)st.st_size;
    return BL_OK;
}

bl_status bl__filemap_open(const char *path, bl__filemap *out, bl_error *err) {
    int fd;
    size_t size;
    bl_status status = open_regular(path, &fd, &size, err);
    if (status)
        return status;
    bl__filemap map = {.data = NULL, .len = size};
    if (size) {
        void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            status = fail_errno(err, "map", path);
        else
            map.data = data;
    }
    close(fd);
    if (!status)
        *out = map;
    return status;
}

void bl__filemap_close(bl__filemap *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->len);
    *map = (bl__filemap){0};
}

void bl__filemap_release(const uint8_t *data, size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (uintptr_t)data % page; /* maps begin at a page, so this stays inside */
    if (len)
        (void)madvise((void *)((uintptr_t)data - before), len + before, MADV_DONTNEED);
}

/* Reads until len bytes or the end of the file; returns the bytes read or -1. */
static ssize_t read_fully(int fd, char *data, size_t len) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(fd, data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

bl_status bl__file_read(const char *path, size_t max, char **data, size_t *len, bl_error *err) {
    int fd;
    size_t size;
    bl_status status = open_regular(path, &fd, &size, err);
    if (status)
        return status;
    char *bytes = NULL;
    if (size > max) {
        status = bl__fail(err, BL_ERR_LIMIT, "%s: %zu bytes, at most %zu allowed", path, size, max);
    } else if (!(bytes = bl__malloc(size + 1))) {
        status = bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate %zu bytes", path, size + 1);
    } else {
        ssize_t n = read_fully(fd, bytes, size);
        if (n < 0) {
            status = fail_errno(err, "read", path);
        } else if ((size_t)n != size) {
            status = bl__fail(err, BL_ERR_IO, "%s: ended after %zd of %zu bytes", path, n, size);
        } else {
            bytes[size] = '\0';
            *data = bytes;
            *len = size;
        }
    }
    close(fd);
    if (status)
        bl__free(bytes);
    return status;
}

bool bl__file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool bl__directory_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bl_status bl__file_room(const char *path, uint64_t *bytes, bl_error *err) {
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) + 1 : 1; /* with its slash: "/" is one too */
    char *directory = bl__strndup(slash ? path : ".", len);
    struct statvfs fs;
    if (!directory)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a path", path);
    bl_status status = BL_OK;
    if (statvfs(directory, &fs) != 0)
        status = fail_errno(err, "look at the file system of", path);
    else
        *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    bl__free(directory);
    return status;
}

char *bl__path_join(const char *directory, const char *name) {
    size_t a = strlen(directory), b = strlen(name);
    bool slash = a > 0 && directory[a - 1] != '/';
    char *path = bl__malloc(a + slash + b + 1);
    if (!path)
        return NULL;
    memcpy(path, directory, a);
    if (slash)
        path[a] = '/';
    memcpy(path + a + slash, name, b + 1);
    return path;
}

bl_status bl__outfile_open(const char *path, bl__outfile **out, bl_error *err) {
    bl__outfile *file = bl__malloc(sizeof *file);
    size_t part_size = strlen(path) + 32;
    char *path_copy = bl__strndup(path, strlen(path));
    char *part_path = bl__malloc(part_size);
    bl_status status;
    if (!file || !path_copy || !part_path) {
        status = bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate the output buffer", path);
        goto fail;
    }
    /* Renaming over a device or a pipe would remove it. */
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        status = bl__fail(err, BL_ERR_IO, "%s: exists and is not a regular file", path);
        goto fail;
    }
    /* A file left by a crash may go; a link that someone else put there is never followed. */
    snprintf(part_path, part_size, "%s.part-%ld", path, (long)getpid());
    (void)unlink(part_path);
    int fd = open(part_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = fail_errno(err, "create", part_path);
        goto fail;
    }
    file->fd = fd;
    file->offset = 0;
    file->n_buffered = 0;
    file->path = path_copy;
    file->part_path = part_path;
    *out = file;
    return BL_OK;
fail:
    bl__free(file);
    bl__free(path_copy);
    bl__free(part_path);
    return status;
}

static bl_status write_fully(bl__outfile *file, const char *data, size_t len, bl_error *err) {
    while (len) {
        ssize_t n = write(file->fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(err, "write", file->part_path);
        data += n;
        len -= (size_t)n;
    }
    return BL_OK;
}

static bl_status flush_buffer(bl__outfile *file, bl_error *err) {
    size_t n = file->n_buffered;
    file->n_buffered = 0;
    return write_fully(file, file->buffer, n, err);
}

bl_status bl__outfile_write(bl__outfile *file, const void *data, size_t len, bl_error *err) {
    if (len > OUT_BUFFER - file->n_buffered) {
        bl_status status = flush_buffer(file, err);
        if (status)
            return status;
    }
    file->offset += len;
    if (len > OUT_BUFFER)
        return write_fully(file, data, len, err);
    memcpy(file->buffer + file->n_buffered, data, len);
    file->n_buffered += len;
    return BL_OK;
}

uint64_t bl__outfile_offset(const bl__outfile *file) {
    return file->offset;
}

bl_status bl__outfile_flush(bl__outfile *file, const char **part_path, bl_error *err) {
    *part_path = file->part_path;
    return flush_buffer(file, err);
}

bl_status bl__outfile_patch(bl__outfile *file, uint64_t offset, const void *data, size_t len,
                            bl_error *err) {
    if (offset > file->offset || len > file->offset - offset)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s: patch beyond what is written", file->path);
    bl_status status = flush_buffer(file, err);
    for (const char *from = data; len && !status;) {
        ssize_t n = pwrite(file->fd, from, len, (off_t)offset);
        if (n < 0 && errno != EINTR)
            status = fail_errno(err, "write", file->part_path);
        if (n > 0) {
            from += n;
            len -= (size_t)n;
            offset += (uint64_t)n;
        }
    }
    return status;
}

bl_status bl__outfile_commit(bl__outfile *file, bl_error *err) {
    bl_status status = flush_buffer(file, err);
    if (!status && fsync(file->fd) != 0)
        status = fail_errno(err, "write", file->part_path);
    if (close(file->fd) != 0 && !status)
        status = fail_errno(err, "close", file->part_path);
    file->fd = -1;
    if (!status && rename(file->part_path, file->path) != 0)
        status = fail_errno(err, "rename to", file->path);
    if (status) {
        bl__outfile_abort(file);
        return status;
    }
    bl__free(file->path);
    bl__free(file->part_path);
    bl__free(file);
    return BL_OK;
}

void bl__outfile_abort(bl__outfile *file) {
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    unlink(file->part_path);
    bl__free(file->path);
    bl__free(file->part_path);
    bl__free(file);
}
