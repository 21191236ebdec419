/* A model file of arbitrary bytes, verified: counts, checksums, the order of I2_S and the known
 * answer of whatever it claims to be. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bitloom/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    const bl_verify_params params = {.n_threads = 1};
    bl_verify_report report;
    char path[64];
    bl_error err;
    if (fd < 0 && (fd = memfd_create("model.gguf", 0)) < 0)
        abort();
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (bl_verify(path, &params, &report, &err) != BL_OK)
        return 0;
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++)
        if (!memchr(report.checks[i].detail, '\0', sizeof report.checks[i].detail) ||
            (report.passed && report.checks[i].result == BL_VERIFY_FAIL))
            abort();
    return 0;
}
