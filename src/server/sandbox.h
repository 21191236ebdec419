/* What the process gives up once it listens: other users' rights, files, programs, new sockets. */
#ifndef BL_SERVER_SANDBOX_H
#define BL_SERVER_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "bitloom/status.h"

typedef struct bl__sandbox_path {
    const char *path; /* a file or a folder; NULL and what does not exist are skipped */
    bool writes;      /* files may be made, changed and removed in it, not only read */
} bl__sandbox_path;

typedef struct bl__sandbox_user {
    uid_t uid;
    gid_t gid;
} bl__sandbox_user;

/* Errors: BL_ERR_ARGUMENT (no such user). */
bl_status bl__sandbox_find_user(const char *name, bl__sandbox_user *out, bl_error *err);
/* The whole process becomes this user, for good. Errors: BL_ERR_IO (it is not root). */
bl_status bl__sandbox_become(const bl__sandbox_user *user, bl_error *err);

/* From now on the calling thread, and all that it starts, can reach only these files (Landlock,
 * where the kernel has it). *held tells whether it has. Errors: BL_ERR_IO. */
bl_status bl__sandbox_files(const bl__sandbox_path *paths, size_t n, bool *held, bl_error *err);
/* From now on all threads of the process are refused what a server never needs: starting programs,
 * opening sockets, mounting, tracing, loading modules (seccomp, on x86-64 and 64-bit ARM). */
bl_status bl__sandbox_calls(bool *held, bl_error *err);

#endif
