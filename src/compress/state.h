/* Private to compress/: finished layers on disk, one safetensors file each, so that a run can go
 * on where another one stopped. */
#ifndef BL_COMPRESS_STATE_H
#define BL_COMPRESS_STATE_H

#include "bitloom/compress.h"
#include "compress/method.h"
#include "compress/stream.h"

/* A directory of finished layers. Only files with the same settings are taken. */
typedef struct bl__state {
    const char *path;
    char settings[512]; /* everything that the layers depend on, as text */
} bl__state;

/* Makes the directory when it is not there. */
bl_status bl__state_open(bl__state *state, bl_error *err);
/* Counts the layers 0, 1 ... that are there. BL_ERR_ARGUMENT when they are of other settings. */
bl_status bl__state_count(const bl__state *state, size_t n_layers, size_t *n, bl_error *err);
/* Removes the layers, and the directory if nothing else is in it. */
void bl__state_remove(const bl__state *state);

/* What became of one layer's matrices. */
typedef struct bl__finished {
    bl__binarized *signs[BL_N_MATRICES]; /* NULL where there are none: */
    const float *weights[BL_N_MATRICES]; /* float[rows][cols] instead; borrowed */
    bl_compress_matrix figures[BL_N_MATRICES];
    /* private: the file that weights are in */
    bl__filemap map;
} bl__finished;

bl_status bl__state_save(const bl__state *state, size_t layer, const bl__finished *finished,
                         bl_error *err);
/* Reads a layer back. Release with bl__finished_free(), which leaves zeros. */
bl_status bl__state_load(const bl__state *state, const bl_model *model, size_t layer,
                         bl__finished *out, bl_error *err);
void bl__finished_free(bl__finished *finished);

#endif
