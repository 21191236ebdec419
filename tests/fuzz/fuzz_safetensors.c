/* safetensors from arbitrary bytes: parse, then touch the ends of every tensor. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "formats/safetensors.h"

static volatile uint64_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl__safetensors *file = NULL;
    bl_error err;
    if (bl__safetensors_parse(data, size, &file, &err) != BL_OK)
        return 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const bl__safetensor *t = &file->tensors[i];
        if (t->data < data || t->bytes > size || t->data - data > (ptrdiff_t)(size - t->bytes))
            abort();
        if (t->bytes)
            sink += (uint64_t)t->data[0] + t->data[t->bytes - 1];
        if (bl__safetensors_find(file, t->name.data) != t)
            abort();
    }
    bl__safetensors_free(file);
    return 0;
}
