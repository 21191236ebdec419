/* Owns opening a checkpoint's safetensors files and one table over all of their tensors. Must not
 * know the bytes of a file (safetensors.c) nor what tensors mean. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"

enum {
    MAX_INDEX_BYTES = 100000000,
    MAX_INDEX_DEPTH = 8,
    MAX_INDEX_VALUES = 1 << 21,
    MAX_SHARDS = 4096,
    SHOWN = 80 /* bytes of a name that go into a message */
};

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"

typedef struct shard {
    bl__string name; /* owned text, NUL-terminated: the file's name in the directory */
    bl__filemap map;
    bl__safetensors *file;
} shard;

typedef struct storage {
    shard *shards;
    size_t n_shards, cap_shards;
    bl__names shard_names;
    bl__safetensor *tensors;
    bl__names names;
} storage;

static bl_status no_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "cannot allocate the tables of a checkpoint");
}

/* A shard is a plain file of the directory: a path could lead anywhere. */
static bool is_file_name(const char *name) {
    size_t len = strlen(name), suffix = strlen(".safetensors");
    return len > suffix && strcmp(name + len - suffix, ".safetensors") == 0 && !strchr(name, '/') &&
           !strstr(name, "..");
}

/* Adds a shard unless it is known already; *index is its place. */
static bl_status add_shard(storage *s, const char *name, size_t *index, bl_error *err) {
    bl__string key = {.data = name, .len = strlen(name)};
    *index = bl__names_find(&s->shard_names, s->shards, sizeof *s->shards, key);
    if (*index != SIZE_MAX)
        return BL_OK;
    if (s->n_shards == MAX_SHARDS)
        return bl__fail(err, BL_ERR_LIMIT, "more than %d shards", MAX_SHARDS);
    if (s->n_shards == s->cap_shards) {
        size_t cap = s->cap_shards ? 2 * s->cap_shards : 8;
        shard *shards = bl__realloc_array(s->shards, cap, sizeof *shards);
        if (!shards)
            return no_memory(err);
        s->shards = shards;
        s->cap_shards = cap;
    }
    char *text = bl__strndup(name, key.len);
    if (!text)
        return no_memory(err);
    s->shards[s->n_shards] = (shard){.name = {.data = text, .len = key.len}};
    *index = s->n_shards++; /* owned by the storage from here on */
    switch (bl__names_add(&s->shard_names, s->shards, sizeof *s->shards, *index)) {
    case BL_NAMES_ADDED:
        return BL_OK;
    case BL_NAMES_NO_MEMORY:
        return no_memory(err);
    default:
        return bl__fail(err, BL_ERR_LIMIT, "%.*s collides with too many other shards", SHOWN, name);
    }
}

static bl_status open_shard(const char *path, shard *sh, bl_error *err) {
    bl_status status = bl__filemap_open(path, &sh->map, err);
    if (status)
        return status;
    status = bl__safetensors_parse(sh->map.data, sh->map.len, &sh->file, err);
    if (status)
        bl__error_prefix(err, path);
    return status;
}

/* Opens every shard and copies their tensors into one table. */
static bl_status gather(storage *s, const char *directory, bl__tensor_set *set, bl_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_shards; i++) {
        shard *sh = &s->shards[i];
        char *path = directory ? bl__path_join(directory, sh->name.data)
                               : bl__strndup(sh->name.data, sh->name.len);
        if (!path)
            return no_memory(err);
        bl_status status = open_shard(path, sh, err);
        bl__free(path);
        if (status)
            return status;
        n += sh->file->n_tensors;
    }
    s->tensors = bl__malloc_array(n, sizeof *s->tensors);
    if (!s->tensors || !bl__names_reserve(&s->names, n))
        return no_memory(err);
    set->tensors = s->tensors;
    for (size_t i = 0; i < s->n_shards; i++) {
        const bl__safetensors *file = s->shards[i].file;
        for (size_t k = 0; k < file->n_tensors; k++) {
            s->tensors[set->n_tensors] = file->tensors[k];
            bl__names_result added =
                bl__names_add(&s->names, s->tensors, sizeof *s->tensors, set->n_tensors);
            if (added != BL_NAMES_ADDED)
                return bl__fail(err, added == BL_NAMES_DUPLICATE ? BL_ERR_FORMAT : BL_ERR_LIMIT,
                                "%.*s: tensor '%.*s' %s", SHOWN, s->shards[i].name.data, SHOWN,
                                file->tensors[k].name.data,
                                added == BL_NAMES_DUPLICATE ? "is in another shard too"
                                                            : "collides with too many others");
            set->n_tensors++;
        }
    }
    return BL_OK;
}

/* weight_map of the index: every shard it names, each once. */
static bl_status list_shards(storage *s, json_t *map, bl_error *err) {
    const char *tensor;
    json_t *value;
    size_t index;
    if (!json_is_object(map))
        return bl__fail(err, BL_ERR_FORMAT, INDEX_FILE ": weight_map is %s, expected an object",
                        bl__json_type_name(map));
    json_object_foreach(map, tensor, value) {
        if (!json_is_string(value) || !is_file_name(json_string_value(value)))
            return bl__fail(err, BL_ERR_FORMAT,
                            INDEX_FILE ": '%.*s' is in '%.*s', expected the name of a "
                                       ".safetensors file",
                            SHOWN, tensor, SHOWN,
                            json_is_string(value) ? json_string_value(value)
                                                  : bl__json_type_name(value));
        bl_status status = add_shard(s, json_string_value(value), &index, err);
        if (status)
            return status;
    }
    return BL_OK;
}

/* Every tensor of the index must be in the shard that it gives. */
static bl_status check_index(const storage *s, json_t *map, bl_error *err) {
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        size_t index = bl__names_find(&s->shard_names, s->shards, sizeof *s->shards,
                                      (bl__string){.data = name, .len = strlen(name)});
        if (!bl__safetensors_find(s->shards[index].file, tensor))
            return bl__fail(err, BL_ERR_FORMAT,
                            "%.*s: no tensor '%.*s', which " INDEX_FILE " puts there", SHOWN, name,
                            SHOWN, tensor);
    }
    return BL_OK;
}

static bl_status open_sharded(const char *directory, bl__tensor_set *set, storage *s,
                              bl_error *err) {
    json_t *root = NULL;
    char *path = bl__path_join(directory, INDEX_FILE);
    if (!path)
        return no_memory(err);
    bl_status status = bl__json_read(
        path, MAX_INDEX_BYTES,
        (bl__json_limits){.depth = MAX_INDEX_DEPTH, .values = MAX_INDEX_VALUES}, &root, err);
    bl__free(path);
    if (status)
        return status;
    json_t *map = json_object_get(root, "weight_map");
    if (!(status = list_shards(s, map, err)) && !(status = gather(s, directory, set, err)))
        status = check_index(s, map, err);
    json_decref(root);
    return status;
}

static bl_status has_file(const char *directory, const char *name, bool *exists, bl_error *err) {
    char *path = bl__path_join(directory, name);
    if (!path)
        return no_memory(err);
    *exists = bl__file_exists(path);
    bl__free(path);
    return BL_OK;
}

static bl_status open_directory(const char *path, bl__tensor_set *set, storage *s, bl_error *err) {
    bool single = false, sharded = false, pickle = false;
    size_t index;
    bl_status status;
    if ((status = has_file(path, SINGLE_FILE, &single, err)) ||
        (status = has_file(path, INDEX_FILE, &sharded, err)) ||
        (status = has_file(path, "pytorch_model.bin", &pickle, err)))
        return status;
    if (single) {
        status = add_shard(s, SINGLE_FILE, &index, err);
        return status ? status : gather(s, path, set, err);
    }
    if (sharded)
        return open_sharded(path, set, s, err);
    if (pickle)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "%s: weights are a pickle (pytorch_model.bin), expected safetensors", path);
    return bl__fail(err, BL_ERR_NOT_FOUND, "%s: neither " SINGLE_FILE " nor " INDEX_FILE, path);
}

bl_status bl__tensor_set_open(const char *path, bl__tensor_set **out, bl_error *err) {
    bl__tensor_set *set = bl__calloc(1, sizeof *set);
    storage *s = bl__calloc(1, sizeof *s);
    bl_status status;
    size_t index;
    if (!set || !s) {
        bl__free(s);
        bl__free(set);
        return no_memory(err);
    }
    set->storage = s;
    if (bl__directory_exists(path))
        status = open_directory(path, set, s, err);
    else if (!(status = add_shard(s, path, &index, err)))
        status = gather(s, NULL, set, err);
    if (status) {
        bl__tensor_set_close(set);
        return status;
    }
    *out = set;
    return BL_OK;
}

void bl__tensor_set_close(bl__tensor_set *set) {
    if (!set)
        return;
    storage *s = set->storage;
    for (size_t i = 0; i < s->n_shards; i++) {
        bl__safetensors_free(s->shards[i].file);
        bl__filemap_close(&s->shards[i].map);
        bl__free((void *)(uintptr_t)s->shards[i].name.data);
    }
    bl__free(s->shards);
    bl__free(s->tensors);
    bl__names_free(&s->shard_names);
    bl__names_free(&s->names);
    bl__free(s);
    bl__free(set);
}

const bl__safetensor *bl__tensor_set_find(const bl__tensor_set *set, const char *name) {
    const storage *s = set->storage;
    size_t at = bl__names_find(&s->names, set->tensors, sizeof *set->tensors,
                               (bl__string){.data = name, .len = strlen(name)});
    return at == SIZE_MAX ? NULL : &set->tensors[at];
}

void bl__tensor_set_release(const bl__safetensor *tensor) {
    bl__filemap_release(tensor->data, tensor->bytes);
}
