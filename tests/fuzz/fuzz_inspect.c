/* A model file of arbitrary bytes, described: every layout's check and unpack on hostile tensors.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bitloom/inspect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    char path[64], *json = NULL;
    size_t len;
    bl_error err;
    if (fd < 0 && (fd = memfd_create("model.gguf", 0)) < 0)
        abort();
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (bl_inspect(path, &json, &len, &err) == BL_OK && strlen(json) != len)
        abort();
    bl_free(json);
    return 0;
}
