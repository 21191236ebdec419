/* Owns what is asked of the kernel for confinement. Must not know what the server does. */
#include "server/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

#if defined(__linux__) && __has_include(<linux/landlock.h>)
#include <linux/landlock.h>
#endif
#if defined(__linux__) && __has_include(<linux/seccomp.h>)
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

/* ---- rights ---- */

bl_status bl__sandbox_find_user(const char *name, bl__sandbox_user *out, bl_error *err) {
    char buffer[16384];
    struct passwd entry, *found = NULL;
    if (getpwnam_r(name, &entry, buffer, sizeof buffer, &found) != 0 || !found)
        return bl__fail(err, BL_ERR_ARGUMENT, "there is no user \"%.64s\"", name);
    *out = (bl__sandbox_user){entry.pw_uid, entry.pw_gid};
    return BL_OK;
}

bl_status bl__sandbox_become(const bl__sandbox_user *user, bl_error *err) {
    if (setgroups(0, NULL) || setgid(user->gid) || setuid(user->uid))
        return bl__fail(err, BL_ERR_IO, "cannot become user %u: %s", (unsigned)user->uid,
                        strerror(errno));
    if (user->uid != 0 && setuid(0) == 0)
        return bl__fail(err, BL_ERR_IO, "the rights of root cannot be given up");
    return BL_OK;
}

/* ---- files ---- */

#ifdef LANDLOCK_CREATE_RULESET_VERSION

#define READ_ACCESS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_ACCESS                                                                               \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE)
/* All that the first version of Landlock can refuse. */
#define EVERY_ACCESS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static bl_status allow(int rules, const bl__sandbox_path *allowed, bl_error *err) {
    struct stat st;
    int fd = allowed->path ? open(allowed->path, O_PATH | O_CLOEXEC) : -1;
    if (fd < 0)
        return BL_OK;
    struct landlock_path_beneath_attr rule = {
        .parent_fd = fd, .allowed_access = READ_ACCESS | (allowed->writes ? WRITE_ACCESS : 0)};
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rule.allowed_access &= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    long status = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int why = errno;
    close(fd);
    return status ? bl__fail(err, BL_ERR_IO, "%s: Landlock: %s", allowed->path, strerror(why))
                  : BL_OK;
}

bl_status bl__sandbox_files(const bl__sandbox_path *paths, size_t n, bool *held, bl_error *err) {
    struct landlock_ruleset_attr attr = {.handled_access_fs = EVERY_ACCESS};
    bl_status status = BL_OK;
    *held = false;
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (rules < 0)
        return BL_OK; /* an older kernel, or it is switched off */
    for (size_t i = 0; i < n && status == BL_OK; i++)
        status = allow(rules, &paths[i], err);
    if (status == BL_OK &&
        (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, rules, 0)))
        status = bl__fail(err, BL_ERR_IO, "Landlock: %s", strerror(errno));
    close(rules);
    *held = status == BL_OK;
    return status;
}

#else

bl_status bl__sandbox_files(const bl__sandbox_path *paths, size_t n, bool *held, bl_error *err) {
    (void)paths, (void)n, (void)err;
    *held = false;
    return BL_OK;
}

#endif

/* ---- system calls ---- */

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#endif

#if defined(SECCOMP_SET_MODE_FILTER) && defined(OUR_ARCH) && defined(SECCOMP_FILTER_FLAG_TSYNC)

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define BL_IN_SANITIZER
#endif
#endif

/* What is refused. Listening and accepting go on; sockets of any other kind do not begin. */
static const unsigned REFUSED[] = {
    SYS_execve,
    SYS_execveat,
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_bpf,
    SYS_add_key,
    SYS_keyctl,
    SYS_request_key,
    SYS_userfaultfd,
    SYS_open_by_handle_at,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
#if !defined(__SANITIZE_ADDRESS__) && !defined(BL_IN_SANITIZER) /* LeakSanitizer traces */
    SYS_ptrace,
#endif
    SYS_setuid,
    SYS_setgid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_acct,
};
enum { N_REFUSED = sizeof REFUSED / sizeof *REFUSED };
#define OTHER_ABI 0x40000000u /* numbers from here on are those of x32 */

bl_status bl__sandbox_calls(bool *held, bl_error *err) {
    struct sock_filter program[N_REFUSED + 7];
    unsigned n = 0;
    *held = false;
    /* Another architecture's numbers mean other calls: all of them are refused. */
    program[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    program[n++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 0, N_REFUSED + 3);
    program[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    program[n++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, OTHER_ABI, N_REFUSED + 1, 0);
    for (unsigned i = 0; i < N_REFUSED; i++)
        program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REFUSED[i],
                                                    (uint8_t)(N_REFUSED - i), 0);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    const struct sock_fprog filter = {.len = (unsigned short)n, .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return bl__fail(err, BL_ERR_IO, "no_new_privs: %s", strerror(errno));
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter))
        return errno == ENOSYS || errno == EINVAL
                   ? BL_OK
                   : bl__fail(err, BL_ERR_IO, "seccomp: %s", strerror(errno));
    *held = true;
    return BL_OK;
}

#else

bl_status bl__sandbox_calls(bool *held, bl_error *err) {
    (void)err;
    *held = false;
    return BL_OK;
}

#endif
