/* The files of a run: their names, which checkpoints there are, how many are kept, and the metrics
 * that grow by lines. Must not know what is in a checkpoint. */
#ifndef BL_TRAIN_RUN_DIRECTORY_H
#define BL_TRAIN_RUN_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

enum { BL_RUN_MAX_PATH = 4096 };

typedef struct bl__run_directory {
    char path[BL_RUN_MAX_PATH - 64];
    int metrics; /* file descriptor, or -1 */
    int lock;    /* the same */
} bl__run_directory;

/* Makes the directory when it is not there, locks it for this process, and removes what a crash
 * left half written. The kernel holds the lock (of the file ".lock", which stays), so it ends with
 * the process however that ends; a file system that has no locks goes without. BL_ERR_ARGUMENT (a
 * path that is too long), BL_ERR_IO (another process has the lock, too). */
bl_status bl__run_directory_open(const char *path, bl__run_directory *out, bl_error *err);
/* The name alone, for a process that only reads what another one writes. */
bl_status bl__run_directory_name(const char *path, bl__run_directory *out, bl_error *err);
void bl__run_directory_close(bl__run_directory *run);

/* "PATH/step-00000250.safetensors", "PATH/best.safetensors". */
void bl__run_checkpoint_path(const char *directory, uint64_t step, char out[BL_RUN_MAX_PATH]);
void bl__run_best_path(const bl__run_directory *run, char out[BL_RUN_MAX_PATH]);

/* The last checkpoint's step; *found is false when there is none. */
bl_status bl__run_latest(const char *directory, bool *found, uint64_t *step, bl_error *err);
/* The checkpoint that `run` means: a file itself, a directory's last one. BL_ERR_NOT_FOUND. */
bl_status bl__run_find_checkpoint(const char *run, char out[BL_RUN_MAX_PATH], bl_error *err);
/* Removes all but the last `keep` checkpoints. */
bl_status bl__run_prune(const bl__run_directory *run, size_t keep, bl_error *err);

/* Opens run.jsonl to add lines; those of steps after `step`, which will come again, and one that a
 * crash cut short are dropped. */
bl_status bl__run_open_metrics(bl__run_directory *run, uint64_t step, bl_error *err);
/* The lines that are there so far. Release with bl__free(). BL_ERR_IO, BL_ERR_MEMORY. */
bl_status bl__run_read_metrics(const bl__run_directory *run, char **text, size_t *len,
                               bl_error *err);
/* Adds line[len], which ends in a newline, in one write. */
bl_status bl__run_add_metrics(const bl__run_directory *run, const char *line, size_t len,
                              bl_error *err);

#endif
