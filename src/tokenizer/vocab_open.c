/* Owns finding the vocabulary's files from a path. Must not know what is in them. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/vocab_build.h"

static bl_status open_gguf(const char *path, bl__vocab **out, bl_error *err) {
    bl__filemap map;
    bl__gguf *gguf = NULL;
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status;
    status = bl__gguf_parse(map.data, map.len, &gguf, err);
    if (!status)
        status = bl__vocab_from_gguf(gguf, out, err);
    if (status)
        bl__error_prefix(err, path);
    bl__gguf_free(gguf);
    bl__filemap_close(&map);
    return status;
}

bl_status bl__vocab_open(const char *path, bl__vocab **out, bl_error *err) {
    return open_gguf(path, out, err);
}
