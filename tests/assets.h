/* Where tests find what is not in the project: the folder named by BITLOOM_ASSETS. */
#ifndef BL_TESTS_ASSETS_H
#define BL_TESTS_ASSETS_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { EXIT_SKIPPED = 77 };

/* The path of an asset, in a static buffer; when it is not there, prints which one is missing and
 * ends the test as skipped. */
static inline const char *require_asset(const char *name) {
    static char path[4096];
    struct stat st;
    const char *folder = getenv("BITLOOM_ASSETS");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", name);
    if (!folder || stat(path, &st) != 0) {
        printf("SKIPPED: asset %s not found (set BITLOOM_ASSETS)\n", name);
        exit(EXIT_SKIPPED);
    }
    return path;
}

#endif
