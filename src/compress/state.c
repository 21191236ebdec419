/* Owns the files of finished layers. Must not know how layers are compressed. */
#include "compress/state.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"

enum { MAX_PATH = 4096, MAX_NAME = 48, PARTS = 6, N_FIGURES = 6 };

/* ---- the directory ---- */

static bl_status layer_path(const bl__state *state, size_t layer, char out[MAX_PATH],
                            bl_error *err) {
    int n = snprintf(out, MAX_PATH, "%s/layer-%04zu.safetensors", state->path, layer);
    return n > 0 && n < MAX_PATH
               ? BL_OK
               : bl__fail(err, BL_ERR_ARGUMENT, "%.100s...: a path that is too long", state->path);
}

bl_status bl__state_open(bl__state *state, bl_error *err) {
    if (mkdir(state->path, 0777) != 0 && errno != EEXIST)
        return bl__fail(err, BL_ERR_IO, "%s: cannot make the directory: %s", state->path,
                        strerror(errno));
    return BL_OK;
}

static bl_status check_settings(const bl__state *state, const char *path, bl_error *err) {
    bl__filemap map;
    bl__safetensors *file = NULL;
    bl_status status = bl__filemap_open(path, &map, err);
    if (status)
        return status;
    if ((status = bl__safetensors_parse(map.data, map.len, &file, err))) {
        bl__error_prefix(err, path);
    } else {
        const char *text = bl__safetensors_metadata(file, "settings");
        if (!text || strcmp(text, state->settings) != 0)
            status = bl__fail(err, BL_ERR_ARGUMENT,
                              "%.120s has layers of other settings: %.60s; remove it or name "
                              "another state directory",
                              state->path, text ? text : "none");
    }
    bl__safetensors_free(file);
    bl__filemap_close(&map);
    return status;
}

bl_status bl__state_count(const bl__state *state, size_t n_layers, size_t *n, bl_error *err) {
    char path[MAX_PATH];
    for (*n = 0; *n < n_layers; ++*n) {
        bl_status status = layer_path(state, *n, path, err);
        if (status)
            return status;
        if (!bl__file_exists(path))
            return BL_OK;
        if ((status = check_settings(state, path, err)))
            return status;
    }
    return BL_OK;
}

/* What a killed run left half written goes, too. */
void bl__state_remove(const bl__state *state) {
    DIR *directory = opendir(state->path);
    const struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        if (strncmp(entry->d_name, "layer-", 6) == 0) {
            char *path = bl__path_join(state->path, entry->d_name);
            if (path)
                (void)unlink(path);
            bl__free(path);
        }
    if (directory)
        (void)closedir(directory);
    (void)rmdir(state->path);
}

/* ---- writing ---- */

/* One tensor of a file. */
typedef struct part {
    char name[MAX_NAME];
    bl__dtype dtype;
    uint32_t n_dims;
    uint64_t dims[3];
    const void *data;
} part;

static part make_part(bl__matrix_id id, const char *what, bl__dtype dtype, uint64_t rows,
                      uint64_t cols, const void *data) {
    part p = {.dtype = dtype, .n_dims = 2, .dims = {rows, cols}, .data = data};
    snprintf(p.name, sizeof p.name, "%s.%s", bl__matrix_name(id), what);
    return p;
}

static void list_figures(const bl_compress_matrix *m, double out[N_FIGURES]) {
    const double figures[N_FIGURES] = {m->error,   m->nominal_bits, m->true_bits,
                                       m->salient, m->dead,         m->damped};
    memcpy(out, figures, sizeof figures);
}

static size_t list_parts(const bl__finished *f, bl__matrix_id id, const double *figures,
                         part out[PARTS]) {
    const bl__binarized *s = f->signs[id];
    size_t n = 0;
    out[n++] = make_part(id, "figures", BL_DTYPE_F64, 1, N_FIGURES, figures);
    if (!s) {
        out[n++] = make_part(id, "weights", BL_DTYPE_F32, f->figures[id].rows, f->figures[id].cols,
                             f->weights[id]);
        return n;
    }
    out[n++] = make_part(id, "params", BL_DTYPE_F32, s->rows, s->n_blocks * BL_BINARIZED_PARAMS,
                         s->params);
    out[n++] = make_part(id, "units", BL_DTYPE_F32, 1, s->rows, s->units);
    if (s->col_scale)
        out[n++] = make_part(id, "col_scale", BL_DTYPE_F32, 1, s->cols, s->col_scale);
    out[n++] = make_part(id, "codes", BL_DTYPE_U8, s->rows, s->cols, s->codes);
    out[n++] = make_part(id, "salient", BL_DTYPE_U8, 1, s->cols, s->salient);
    return n;
}

static bl_status write_parts(const bl__state *state, bl__outfile *file, const part *parts, size_t n,
                             bool haar, bl_error *err) {
    bl__safetensor_spec specs[BL_N_MATRICES * PARTS];
    const bl__safetensors_note notes[] = {{"settings", state->settings},
                                          {"haar", haar ? "1" : "0"}};
    for (size_t i = 0; i < n; i++) {
        specs[i] = (bl__safetensor_spec){
            .name = parts[i].name, .dtype = parts[i].dtype, .n_dims = parts[i].n_dims};
        memcpy(specs[i].dims, parts[i].dims, sizeof parts[i].dims);
    }
    bl_status status = bl__safetensors_begin(file, specs, n, notes, 2, err);
    for (size_t i = 0; i < n && !status; i++)
        status = bl__outfile_write(
            file, parts[i].data,
            (size_t)(parts[i].dims[0] * parts[i].dims[1]) * bl__dtype_bytes(parts[i].dtype), err);
    return status;
}

bl_status bl__state_save(const bl__state *state, size_t layer, const bl__finished *f,
                         bl_error *err) {
    char path[MAX_PATH];
    part parts[BL_N_MATRICES * PARTS];
    double figures[BL_N_MATRICES][N_FIGURES];
    size_t n = 0;
    bl__outfile *file;
    for (size_t i = 0; i < BL_N_MATRICES; i++) {
        list_figures(&f->figures[i], figures[i]);
        n += list_parts(f, (bl__matrix_id)i, figures[i], parts + n);
    }
    bl_status status = layer_path(state, layer, path, err);
    if (status || (status = bl__outfile_open(path, &file, err)))
        return status;
    status = write_parts(state, file, parts, n, f->signs[0] && f->signs[0]->haar, err);
    if (!status)
        return bl__outfile_commit(file, err);
    bl__outfile_abort(file);
    return status;
}

/* ---- reading ---- */

/* The data of a tensor with exactly n elements of the type; NULL, with an error, otherwise. An
 * absent one is NULL without an error when it need not be there. */
static const void *find_part(const bl__safetensors *file, bl__matrix_id id, const char *what,
                             bl__dtype dtype, size_t n, bool required, bl_status *status,
                             bl_error *err) {
    char name[MAX_NAME];
    snprintf(name, sizeof name, "%s.%s", bl__matrix_name(id), what);
    const bl__safetensor *t = bl__safetensors_find(file, name);
    if (*status || (!t && !required))
        return NULL;
    if (!t || t->dtype != dtype || t->n_elements != n) {
        *status = bl__fail(err, BL_ERR_FORMAT, "%s: %zu elements, expected %zu of %s", name,
                           t ? t->n_elements : 0, n, bl__dtype_name(dtype));
        return NULL;
    }
    return t->data;
}

/* Numbers that a layout could hold: nothing else can have come from bl__state_save(). */
static bool is_sane(const bl__binarized *s) {
    bool sane = true;
    for (size_t i = 0; i < s->rows * s->cols; i++)
        sane &= s->codes[i] < 4;
    for (size_t c = 0; c < s->cols; c++)
        sane &= s->salient[c] < 2 && (!s->col_scale || isfinite(s->col_scale[c]));
    for (size_t i = 0; i < s->rows * s->n_blocks * BL_BINARIZED_PARAMS; i++)
        sane &= isfinite(s->params[i]) != 0;
    for (size_t r = 0; r < s->rows; r++)
        sane &= isfinite(s->units[r]) != 0;
    return sane;
}

static bl_status load_signs(const bl__safetensors *file, bl__matrix_id id, size_t rows, size_t cols,
                            bl__binarized **out, bl_error *err) {
    bl_status status = BL_OK;
    size_t n_blocks = (cols + BL_BINARIZED_BLOCK - 1) / BL_BINARIZED_BLOCK;
    size_t n_params = rows * n_blocks * BL_BINARIZED_PARAMS;
    const void *params = find_part(file, id, "params", BL_DTYPE_F32, n_params, true, &status, err);
    const void *units = find_part(file, id, "units", BL_DTYPE_F32, rows, true, &status, err);
    const void *scale = find_part(file, id, "col_scale", BL_DTYPE_F32, cols, false, &status, err);
    const void *codes = find_part(file, id, "codes", BL_DTYPE_U8, rows * cols, true, &status, err);
    const void *salient = find_part(file, id, "salient", BL_DTYPE_U8, cols, true, &status, err);
    bl__binarized *s = NULL;
    if (status || (status = bl__binarized_create(rows, cols, scale != NULL, &s, err)))
        return status;
    if (!(s->units = bl__malloc_array(rows, sizeof *s->units))) {
        bl__binarized_free(s);
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu units", rows);
    }
    memcpy(s->params, params, n_params * sizeof *s->params);
    memcpy(s->units, units, rows * sizeof *s->units);
    memcpy(s->codes, codes, rows * cols);
    memcpy(s->salient, salient, cols);
    if (scale)
        memcpy(s->col_scale, scale, cols * sizeof *s->col_scale);
    if (!is_sane(s)) {
        bl__binarized_free(s);
        return bl__fail(err, BL_ERR_FORMAT, "%s: numbers that no layout holds",
                        bl__matrix_name(id));
    }
    const char *haar = bl__safetensors_metadata(file, "haar");
    s->haar = haar && strcmp(haar, "1") == 0;
    *out = s;
    return BL_OK;
}

static bl_status load_matrix(const bl__safetensors *file, const bl_model *model, size_t layer,
                             bl__matrix_id id, bl__finished *out, bl_error *err) {
    const bl__linear *l = bl__layer_matrix(&model->layers[layer], id);
    bl_compress_matrix *m = &out->figures[id];
    double f[N_FIGURES];
    bl_status status = BL_OK;
    const void *figures =
        find_part(file, id, "figures", BL_DTYPE_F64, N_FIGURES, true, &status, err);
    const void *weights =
        find_part(file, id, "weights", BL_DTYPE_F32, l->rows * l->cols, false, &status, err);
    if (status)
        return status;
    memcpy(f, figures, sizeof f);
    snprintf(m->name, sizeof m->name, "blk.%zu.%s.weight", layer, bl__matrix_name(id));
    m->rows = l->rows;
    m->cols = l->cols;
    m->error = f[0];
    m->nominal_bits = f[1];
    m->true_bits = f[2];
    m->salient = f[3];
    m->dead = f[4] >= 0 && f[4] < UINT32_MAX ? (uint32_t)f[4] : 0;
    m->damped = f[5] >= 0 && f[5] < UINT32_MAX ? (uint32_t)f[5] : 0;
    if (!weights)
        return load_signs(file, id, l->rows, l->cols, &out->signs[id], err);
    if ((uintptr_t)weights % sizeof(float))
        return bl__fail(err, BL_ERR_FORMAT, "%s.weights: not aligned", bl__matrix_name(id));
    out->weights[id] = weights;
    return BL_OK;
}

bl_status bl__state_load(const bl__state *state, const bl_model *model, size_t layer,
                         bl__finished *out, bl_error *err) {
    char path[MAX_PATH];
    bl__finished f = {.map = {0}};
    bl__safetensors *file = NULL;
    bl_status status = layer_path(state, layer, path, err);
    if (status || (status = bl__filemap_open(path, &f.map, err)))
        return status;
    status = bl__safetensors_parse(f.map.data, f.map.len, &file, err);
    for (size_t i = 0; i < BL_N_MATRICES && !status; i++)
        status = load_matrix(file, model, layer, (bl__matrix_id)i, &f, err);
    bl__safetensors_free(file);
    if (status) {
        bl__error_prefix(err, path);
        bl__finished_free(&f);
        return status;
    }
    *out = f;
    return BL_OK;
}

void bl__finished_free(bl__finished *f) {
    for (size_t i = 0; i < BL_N_MATRICES; i++)
        bl__binarized_free(f->signs[i]);
    bl__filemap_close(&f->map);
    *f = (bl__finished){.map = {0}};
}
