/* Owns finding a vocabulary's files from a path. Must not know what is in them. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/vocab_build.h"

static const size_t MAX_JSON_BYTES = (size_t)256 << 20, MAX_MODEL_BYTES = (size_t)64 << 20,
                    MAX_COMPANION_BYTES = (size_t)16 << 20;

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

/* Reads directory/name when it is there. */
static bl_status read_companion(const char *directory, const char *name, bl__string *out,
                                bl_error *err) {
    char *path = bl__path_join(directory, name), *data = NULL;
    if (!path)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a path", directory);
    bl_status status = BL_OK;
    size_t len = 0;
    if (bl__file_exists(path))
        status = bl__file_read(path, MAX_COMPANION_BYTES, &data, &len, err);
    if (!status)
        *out = (bl__string){data, len};
    bl__free(path);
    return status;
}

typedef struct companion_slot {
    const char *name;
    bl__string *text;
} companion_slot;
enum { N_COMPANIONS = 6 };

static void list_companions(bl__vocab_companions *files, companion_slot slots[N_COMPANIONS]) {
    slots[0] = (companion_slot){"tokenizer_config.json", &files->tokenizer_config};
    slots[1] = (companion_slot){"generation_config.json", &files->generation_config};
    slots[2] = (companion_slot){"special_tokens_map.json", &files->special_tokens_map};
    slots[3] = (companion_slot){"added_tokens.json", &files->added_tokens};
    slots[4] = (companion_slot){"config.json", &files->model_config};
    slots[5] = (companion_slot){"chat_template.jinja", &files->chat_template};
}

/* The vocabulary in `file`, with the companions of `directory`. */
static bl_status open_hf(const char *directory, const char *file, bool is_json, bl__vocab **out,
                         bl_error *err) {
    bl__vocab_companions files = {.added_tokens = {NULL, 0}};
    companion_slot slots[N_COMPANIONS];
    list_companions(&files, slots);
    char *data = NULL;
    size_t len = 0;
    bl_status status =
        bl__file_read(file, is_json ? MAX_JSON_BYTES : MAX_MODEL_BYTES, &data, &len, err);
    for (size_t i = 0; i < N_COMPANIONS && !status; i++)
        status = read_companion(directory, slots[i].name, slots[i].text, err);
    if (!status) {
        bl__string bytes = {data, len};
        status = is_json ? bl__vocab_from_json(bytes, &files, out, err)
                         : bl__vocab_from_sentencepiece(bytes, &files, out, err);
        if (status)
            bl__error_prefix(err, directory);
    }
    bl__free(data);
    for (size_t i = 0; i < N_COMPANIONS; i++)
        bl__free((void *)(uintptr_t)slots[i].text->data);
    return status;
}

static bl_status open_directory(const char *path, bl__vocab **out, bl_error *err) {
    char *json = bl__path_join(path, "tokenizer.json");
    char *model = bl__path_join(path, "tokenizer.model");
    char *gguf = bl__path_join(path, "tokenizer.gguf");
    bl_status status;
    if (!json || !model || !gguf)
        status = bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a path", path);
    else if (bl__file_exists(json))
        status = open_hf(path, json, true, out, err);
    else if (bl__file_exists(model))
        status = open_hf(path, model, false, out, err);
    else if (bl__file_exists(gguf))
        status = open_gguf(gguf, out, err);
    else
        status =
            bl__fail(err, BL_ERR_NOT_FOUND, "%s: neither tokenizer.json nor tokenizer.model", path);
    bl__free(json);
    bl__free(model);
    bl__free(gguf);
    return status;
}

static bool ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

bl_status bl__vocab_open(const char *path, bl__vocab **out, bl_error *err) {
    if (bl__directory_exists(path))
        return open_directory(path, out, err);
    bool is_json = ends_with(path, ".json");
    if (!is_json && !ends_with(path, ".model"))
        return open_gguf(path, out, err);
    const char *slash = strrchr(path, '/');
    char *directory = slash ? bl__strndup(path, (size_t)(slash - path) + 1) : bl__strndup(".", 1);
    if (!directory)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a path", path);
    bl_status status = open_hf(directory, path, is_json, out, err);
    bl__free(directory);
    return status;
}
