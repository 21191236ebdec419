/* What a confined process can no longer do. Every check runs in a child, which cannot be freed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/sandbox.h"

/* The exit status of a check in a child. */
static int in_child(int (*check)(void)) {
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(check());
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

enum { FINE = 0, NOT_HELD = 77 };

static char folder[64];

static bool can_open(const char *name, const char *mode) {
    char path[128];
    snprintf(path, sizeof path, "%s%s%s", *name == '/' ? "" : folder, *name == '/' ? "" : "/",
             name);
    FILE *file = fopen(path, mode);
    if (file)
        fclose(file);
    return file != NULL;
}

static int check_files(void) {
    char kept[80], readable[80];
    snprintf(kept, sizeof kept, "%s/kept", folder);
    snprintf(readable, sizeof readable, "%s/readable", folder);
    const bl__sandbox_path paths[] = {
        {kept, true}, {readable, false}, {NULL, true}, {"/nowhere/at/all", true}};
    bool held;
    if (bl__sandbox_files(paths, 4, &held, NULL) != BL_OK)
        return 1;
    if (!held)
        return NOT_HELD;
    if (!can_open("readable", "r") || !can_open("kept/new", "w") || !can_open("kept/new", "r"))
        return 2;
    if (can_open("readable", "r+") || can_open("other", "r") || can_open("new", "w") ||
        can_open("/etc/passwd", "r"))
        return 3;
    return FINE;
}

static int check_calls(void) {
    bool held;
    if (bl__sandbox_calls(&held, NULL) != BL_OK)
        return 1;
    if (!held)
        return NOT_HELD;
    if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || setuid(getuid()) == 0)
        return 2;
    char *const arguments[] = {(char *)(uintptr_t) "true", NULL};
    execv("/bin/true", arguments);
    return can_open("readable", "r") ? FINE : 3;
}

static int check_users(void) {
    bl__sandbox_user user;
    if (bl__sandbox_find_user("no such user here", &user, NULL) != BL_ERR_ARGUMENT)
        return 1;
    if (geteuid() != 0 || bl__sandbox_find_user("nobody", &user, NULL) != BL_OK)
        return FINE;
    if (bl__sandbox_become(&user, NULL) != BL_OK || geteuid() != user.uid || setuid(0) == 0)
        return 2;
    return bl__sandbox_become(&(bl__sandbox_user){0, 0}, NULL) == BL_ERR_IO ? FINE : 3;
}

static void test_files(void **state) {
    (void)state;
    int status = in_child(check_files);
    if (status == NOT_HELD)
        skip();
    assert_int_equal(status, FINE);
}

static void test_calls(void **state) {
    (void)state;
    int status = in_child(check_calls);
    if (status == NOT_HELD)
        skip();
    assert_int_equal(status, FINE);
}

static void test_users(void **state) {
    (void)state;
    assert_int_equal(in_child(check_users), FINE);
}

static int set_up(void **state) {
    (void)state;
    char kept[128];
    snprintf(folder, sizeof folder, "/tmp/sandbox-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(kept, sizeof kept, "%s/kept", folder);
    FILE *file;
    const char *const names[] = {"readable", "other"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (!(file = fopen(path, "w")))
            return 1;
        fclose(file);
    }
    return mkdir(kept, 0700);
}

static int tear_down(void **state) {
    (void)state;
    const char *const names[] = {"/kept/new", "/kept", "/readable", "/other", ""};
    for (int i = 0; i < 5; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", folder, names[i]);
        remove(path);
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_users),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
