/* Owns the content of checkpoint files. */
#include "train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"

static const char FORMAT[] = "bitloom checkpoint 1";
static const char *const PREFIXES[] = {"", "first.", "second."};
enum { N_KINDS = 3, MAX_NAME = 80, MAX_STATE = 4096 };

struct bl__checkpoint {
    char *path;
    bl__filemap map;
    bl__safetensors *file;
    bl__recipe recipe;
    bl__progress progress;
};

static bl_status no_memory(const char *path, bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a checkpoint's tables", path);
}

/* Without sub-norms their parameters have no rows, and no tensor. */
static size_t count_of(const bl__param *p) {
    return p->rows * p->cols;
}

static void tensor_name(const bl__param *p, size_t kind, char out[MAX_NAME]) {
    snprintf(out, MAX_NAME, "%s%s", PREFIXES[kind], p->name);
}

/* ---- state as JSON ---- */

static const struct {
    const char *key;
    bool is_real;
    size_t offset;
} STATE[] = {{"step", false, offsetof(bl__progress, step)},
             {"updates", false, offsetof(bl__progress, updates)},
             {"skipped", false, offsetof(bl__progress, skipped)},
             {"rollbacks", false, offsetof(bl__progress, rollbacks)},
             {"smoothed", true, offsetof(bl__progress, smoothed)},
             {"validation", true, offsetof(bl__progress, validation)},
             {"best", true, offsetof(bl__progress, best)},
             {"seconds", true, offsetof(bl__progress, seconds)}};
enum { N_STATE = sizeof STATE / sizeof *STATE };

/* Numbers that are not finite have no JSON, and are left out. */
static void state_text(const bl__progress *progress, char out[MAX_STATE]) {
    size_t at = (size_t)snprintf(out, MAX_STATE, "{");
    for (size_t i = 0; i < N_STATE; i++) {
        const char *from = (const char *)progress + STATE[i].offset;
        double real;
        uint64_t whole;
        memcpy(&real, from, sizeof real);
        memcpy(&whole, from, sizeof whole);
        if (STATE[i].is_real && !isfinite(real))
            continue;
        at += (size_t)snprintf(out + at, MAX_STATE - at, "%s\"%s\": ", at > 1 ? ", " : "",
                               STATE[i].key);
        at += STATE[i].is_real
                  ? (size_t)snprintf(out + at, MAX_STATE - at, "%.17g", real)
                  : (size_t)snprintf(out + at, MAX_STATE - at, "%llu", (unsigned long long)whole);
    }
    snprintf(out + at, MAX_STATE - at, "}");
}

static bl_status read_state(const char *text, bl__progress *out, bl_error *err) {
    json_t *root = NULL;
    bl_status status = bl__json_parse(
        text, strlen(text), (bl__json_limits){.depth = 2, .values = 4 * N_STATE}, &root, err);
    if (status)
        return status;
    for (size_t i = 0; i < N_STATE && !status; i++) {
        const json_t *value = json_object_get(root, STATE[i].key);
        char *to = (char *)out + STATE[i].offset;
        uint64_t whole = (uint64_t)json_integer_value(value);
        double real = value ? json_number_value(value) : NAN;
        if (STATE[i].is_real ? value && !json_is_number(value)
                             : !json_is_integer(value) || json_integer_value(value) < 0)
            status = bl__fail(err, BL_ERR_FORMAT, "state: '%s' is %s, expected a number",
                              STATE[i].key, bl__json_type_name(value));
        else
            memcpy(to, STATE[i].is_real ? (void *)&real : (void *)&whole, sizeof real);
    }
    json_decref(root);
    return status;
}

/* ---- writing ---- */

static bl_status write_header(bl__outfile *file, const char *path, const bl__param *params,
                              size_t n_params, size_t n_kinds, const bl__safetensors_note *notes,
                              size_t n_notes, bl_error *err) {
    size_t n = 0;
    bl_status status;
    bl__safetensor_spec *specs = bl__calloc(n_params * n_kinds, sizeof *specs);
    char(*names)[MAX_NAME] = bl__calloc(n_params * n_kinds, sizeof *names);
    if (!specs || !names) {
        status = no_memory(path, err);
        goto done;
    }
    for (size_t kind = 0; kind < n_kinds; kind++)
        for (size_t i = 0; i < n_params; i++) {
            const bl__param *p = &params[i];
            if (!count_of(p))
                continue;
            tensor_name(p, kind, names[n]);
            specs[n] = (bl__safetensor_spec){.name = names[n], .dtype = BL_DTYPE_F32};
            if (p->whole_rows > 1)
                specs[n].dims[specs[n].n_dims++] = p->whole_rows;
            specs[n].dims[specs[n].n_dims++] = p->whole_cols;
            n++;
        }
    status = bl__safetensors_begin(file, specs, n, notes, n_notes, err);
done:
    bl__free(specs);
    bl__free(names);
    return status;
}

bl_status bl__checkpoint_write(const char *path, const bl__recipe *recipe,
                               const bl__progress *progress, const bl__param *params,
                               size_t n_params, const bl__moments *moments,
                               const bl__tensor_source *source, bl_error *err) {
    char state[MAX_STATE];
    char *recipe_text = bl__recipe_text(recipe);
    size_t n_kinds = moments ? N_KINDS : 1;
    bl__outfile *file = NULL;
    bl_status status;
    if (!recipe_text) {
        status = no_memory(path, err);
        goto fail;
    }
    state_text(progress, state);
    const bl__safetensors_note notes[] = {
        {"format", FORMAT}, {"recipe", recipe_text}, {"state", state}};
    if ((status = bl__outfile_open(path, &file, err)) ||
        (status = write_header(file, path, params, n_params, n_kinds, notes,
                               sizeof notes / sizeof *notes, err)))
        goto fail;
    for (size_t kind = 0; kind < n_kinds; kind++)
        for (size_t i = 0; i < n_params; i++) {
            size_t bytes = params[i].whole_rows * params[i].whole_cols * sizeof(float);
            if (!bytes)
                continue;
            const float *data = source      ? source->get(source->context, kind, i)
                                : kind == 0 ? params[i].value
                                : kind == 1 ? moments[i].first
                                            : moments[i].second;
            if ((status = bl__outfile_write(file, data, bytes, err)))
                goto fail;
        }
    bl__free(recipe_text);
    return bl__outfile_commit(file, err);
fail:
    bl__outfile_abort(file);
    bl__free(recipe_text);
    return status;
}

/* ---- reading ---- */

static bl_status parse(bl__checkpoint *c, bl_error *err) {
    bl_status status = bl__safetensors_parse(c->map.data, c->map.len, &c->file, err);
    if (status)
        return status;
    const char *format = bl__safetensors_metadata(c->file, "format");
    const char *recipe = bl__safetensors_metadata(c->file, "recipe");
    const char *state = bl__safetensors_metadata(c->file, "state");
    if (!format || strcmp(format, FORMAT) != 0 || !recipe || !state)
        return bl__fail(err, BL_ERR_FORMAT, "__metadata__ has no \"format\": \"%s\"", FORMAT);
    if ((status = bl__recipe_parse(recipe, strlen(recipe), NULL, 0, &c->recipe, err)))
        return status;
    return read_state(state, &c->progress, err);
}

bl_status bl__checkpoint_open(const char *path, bl__checkpoint **out, bl_error *err) {
    bl_status status = BL_ERR_MEMORY;
    bl__checkpoint *c = bl__calloc(1, sizeof *c);
    if (!c || !(c->path = bl__strndup(path, strlen(path)))) {
        no_memory(path, err);
        goto fail;
    }
    if ((status = bl__filemap_open(path, &c->map, err)))
        goto fail;
    if ((status = parse(c, err))) {
        bl__error_prefix(err, path);
        goto fail;
    }
    *out = c;
    return BL_OK;
fail:
    bl__checkpoint_close(c);
    return status;
}

void bl__checkpoint_close(bl__checkpoint *c) {
    if (!c)
        return;
    bl__safetensors_free(c->file);
    bl__filemap_close(&c->map);
    bl__recipe_free(&c->recipe);
    bl__free(c->path);
    bl__free(c);
}

const bl__recipe *bl__checkpoint_recipe(const bl__checkpoint *c) {
    return &c->recipe;
}
const bl__progress *bl__checkpoint_progress(const bl__checkpoint *c) {
    return &c->progress;
}

static bl_status check_tensor(const bl__checkpoint *c, const bl__param *p, size_t kind,
                              bl_error *err) {
    char name[MAX_NAME];
    tensor_name(p, kind, name);
    const bl__safetensor *t = bl__safetensors_find(c->file, name);
    if (!t)
        return bl__fail(err, BL_ERR_FORMAT, "%s: %s: not in the checkpoint", c->path, name);
    uint64_t rows = t->n_dims == 2 ? t->dims[0] : 1, cols = t->n_dims ? t->dims[t->n_dims - 1] : 0;
    if (t->dtype != BL_DTYPE_F32 || t->n_dims > 2 || rows != p->whole_rows || cols != p->whole_cols)
        return bl__fail(err, BL_ERR_FORMAT, "%s: %s: %s [%llu,%llu], expected F32 [%zu,%zu]",
                        c->path, name, bl__dtype_name(t->dtype), (unsigned long long)rows,
                        (unsigned long long)cols, p->whole_rows, p->whole_cols);
    return BL_OK;
}

/* By way of the parameter's values, which come last. */
static void take_tensor(const bl__checkpoint *c, bl__param *p, size_t kind, size_t index,
                        bl__optimizer *optimizer) {
    char name[MAX_NAME];
    tensor_name(p, kind, name);
    const uint8_t *from = bl__safetensors_find(c->file, name)->data;
    for (size_t row = 0; row < p->rows; row++)
        memcpy(p->value + row * p->cols,
               from + ((p->first_row + row) * p->whole_cols + p->first_col) * sizeof(float),
               p->cols * sizeof(float));
    if (kind)
        bl__optimizer_set_moments(optimizer, index, kind == 2, p->value);
}

bl_status bl__checkpoint_read(const bl__checkpoint *c, bl__param *params, size_t n_params,
                              bl__optimizer *optimizer, bl_error *err) {
    size_t n_kinds = optimizer ? N_KINDS : 1, n = 0;
    bl_status status;
    for (size_t kind = 0; kind < n_kinds; kind++)
        for (size_t i = 0; i < n_params; i++) {
            if (!count_of(&params[i]))
                continue;
            if ((status = check_tensor(c, &params[i], kind, err)))
                return status;
            n++;
        }
    if (optimizer && n != c->file->n_tensors)
        return bl__fail(err, BL_ERR_FORMAT, "%s: %zu tensors, expected %zu", c->path,
                        c->file->n_tensors, n);
    for (size_t i = 0; i < n_params; i++)
        for (size_t kind = n_kinds; kind-- > 0 && count_of(&params[i]);)
            take_tensor(c, &params[i], kind, i, optimizer);
    return BL_OK;
}
