/* Files: a read-only map, a whole small file, and an output that appears only when complete. */
#ifndef BL_BASE_FILE_H
#define BL_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

typedef struct bl__filemap {
    const uint8_t *data; /* NULL for an empty file */
    size_t len;
} bl__filemap;

/* Maps a regular file for reading. Errors name the path. */
bl_status bl__filemap_open(const char *path, bl__filemap *out, bl_error *err);
void bl__filemap_close(bl__filemap *map); /* a zeroed map is accepted */
/* Advice that data[len], inside a map, is not needed soon: its pages leave this process's memory
 * and are read again when touched. */
void bl__filemap_release(const uint8_t *data, size_t len);

/* Reads a file of at most max bytes into memory, NUL-terminated (the NUL is not counted).
 * BL_ERR_LIMIT when it is larger, BL_ERR_NOT_FOUND when it does not exist. Release: bl__free. */
bl_status bl__file_read(const char *path, size_t max, char **data, size_t *len, bl_error *err);
bool bl__file_exists(const char *path);      /* a regular file */
bool bl__directory_exists(const char *path); /* a directory */
/* Bytes that a new file at this path could have. */
bl_status bl__file_room(const char *path, uint64_t *bytes, bl_error *err);
/* directory + "/" + name, allocated; NULL when memory is short. */
char *bl__path_join(const char *directory, const char *name);

/* An output file written as "<path>.part-<pid>" and renamed to its path by commit. */
typedef struct bl__outfile bl__outfile;
bl_status bl__outfile_open(const char *path, bl__outfile **out, bl_error *err);
bl_status bl__outfile_write(bl__outfile *file, const void *data, size_t len, bl_error *err);
uint64_t bl__outfile_offset(const bl__outfile *file); /* bytes written so far */
/* Writes out what is buffered, so that others can read the unfinished file. Returns its path by
 * *part_path, borrowed. */
bl_status bl__outfile_flush(bl__outfile *file, const char **part_path, bl_error *err);
/* Replaces bytes that are already written, such as a header that counts what came after it. */
bl_status bl__outfile_patch(bl__outfile *file, uint64_t offset, const void *data, size_t len,
                            bl_error *err);
/* Flushes to the disk, renames, and frees; the file is freed on failure too, with nothing left
 * behind and whatever was at the path before intact. */
bl_status bl__outfile_commit(bl__outfile *file, bl_error *err);
/* Removes what was written and frees. NULL is accepted. */
void bl__outfile_abort(bl__outfile *file);

#endif
