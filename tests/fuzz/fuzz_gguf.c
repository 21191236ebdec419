/* GGUF from arbitrary bytes: parse, then touch every value and the ends of every tensor. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "formats/gguf.h"

static volatile uint64_t sink;

static void touch_string(bl__string s) {
    if (s.len)
        sink += (uint64_t)(uint8_t)s.data[0] + (uint8_t)s.data[s.len - 1];
}

static void touch_value(const bl__gguf_value *value) {
    if (value->type == BL_GGUF_STRING)
        touch_string(value->as.s);
    if (value->type != BL_GGUF_ARRAY)
        return;
    for (size_t i = 0; i < value->as.array.count; i++) {
        if (value->as.array.type == BL_GGUF_STRING)
            touch_string(value->as.array.strings[i]);
        else if (value->as.array.type == BL_GGUF_ARRAY)
            touch_value(&value->as.array.items[i]);
        else
            sink += value->as.array.data[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl__gguf *gguf = NULL;
    bl_error err;
    if (bl__gguf_parse(data, size, &gguf, &err) != BL_OK)
        return 0;
    for (size_t i = 0; i < gguf->n_pairs; i++)
        touch_value(&gguf->pairs[i].value);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const bl__gguf_tensor *t = &gguf->tensors[i];
        if (t->data < data || t->bytes > size || t->data - data > (ptrdiff_t)(size - t->bytes))
            abort();
        sink += (uint64_t)t->data[0] + t->data[t->bytes - 1] + (uint8_t)t->type_name[0];
    }
    bl__gguf_free(gguf);
    return 0;
}
