/* Rewrites a float GGUF model with linears made of signs, and the same model with the weights that
 * these stand for as floats: for tests that compare the two. Signs are chosen plainly, by the sign
 * around the mean; compress/ does it well. */
#ifndef BL_TESTS_PACKED_MODEL_H
#define BL_TESTS_PACKED_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/half.h"
#include "formats/gguf.h"
#include "quant/binarized.h"
#include "quant/levels.h"

typedef struct packed_options {
    bl__layout layout;        /* L1, L2, S2, or B1: OneBit's signs and two vectors */
    bool col_scale, haar;     /* not of B1, which always has scales of columns */
    bool dense;               /* floats in place of what is packed */
    const char *quantization; /* bitloom.activation_quantization */
} packed_options;

static inline void packed_check(bl_status status, const bl_error *err) {
    if (status) {
        fprintf(stderr, "packed model: %s\n", err->message);
        exit(1);
    }
}

static inline bool packed_is_linear(const bl__gguf_tensor *t) {
    static const char *const names[] = {"attn_q.",   "attn_k.", "attn_v.",  "attn_output.",
                                        "ffn_gate.", "ffn_up.", "ffn_down."};
    bool linear = false;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        linear |= strstr(name, names[i]) != NULL;
    return linear;
}

/* Mean and mean distance from it of the weights of one group of a row's block. */
static inline void packed_group(const float *w, const uint8_t *salient, const uint8_t *codes,
                                size_t n, unsigned group, float *mean, float *scale) {
    double sum = 0, distance = 0, count = 0;
    for (size_t c = 0; c < n; c++)
        if (!salient[c] && (unsigned)(codes[c] >> 1) == group)
            sum += (double)w[c], count++;
    *mean = count > 0 ? (float)(sum / count) : 0.0f;
    for (size_t c = 0; c < n; c++)
        if (!salient[c] && (unsigned)(codes[c] >> 1) == group)
            distance += fabs((double)w[c] - (double)*mean);
    *scale = count > 0 ? (float)(distance / count) : 0.0f;
}

static inline void packed_block(const float *w, const uint8_t *salient, size_t n, bool groups,
                                uint8_t *codes, float *p) {
    double sum = 0, sum1 = 0, sum2 = 0, count = 0;
    for (size_t c = 0; c < n; c++)
        sum += fabs((double)w[c]);
    float border = 1.5f * (float)(sum / (double)n);
    for (size_t c = 0; c < n; c++) {
        codes[c] = groups && !salient[c] && fabsf(w[c]) > border ? 2 : 0;
        sum1 += salient[c] ? fabs((double)w[c]) : 0;
        count += salient[c];
    }
    packed_group(w, salient, codes, n, 0, &p[BL_INNER_MEAN], &p[BL_INNER_SCALE]);
    packed_group(w, salient, codes, n, 1, &p[BL_OUTER_MEAN], &p[BL_OUTER_SCALE]);
    float first = p[BL_SALIENT_SCALE1] = count > 0 ? (float)(sum1 / count) : 0.0f;
    for (size_t c = 0; c < n; c++)
        sum2 += salient[c] ? fabs((double)w[c] - (double)copysignf(first, w[c])) : 0;
    p[BL_SALIENT_SCALE2] = count > 0 ? (float)(sum2 / count) : 0.0f;
    for (size_t c = 0; c < n; c++) {
        float mean = codes[c] & 2 ? p[BL_OUTER_MEAN] : p[BL_INNER_MEAN];
        if (salient[c])
            codes[c] = (uint8_t)((w[c] > 0) | (w[c] - copysignf(first, w[c]) > 0) << 1);
        else
            codes[c] = (uint8_t)(codes[c] | (w[c] > mean));
    }
}

/* w: float[rows][cols], which is changed. */
static inline bl__binarized *packed_binarize(float *w, size_t rows, size_t cols,
                                             const packed_options *o) {
    bl_error err;
    bl__binarized *b;
    float scratch[2 * BL_BINARIZED_BLOCK];
    packed_check(bl__binarized_create(rows, cols, o->col_scale, &b, &err), &err);
    b->haar = o->haar;
    for (size_t r = 0; r < rows && o->haar; r++)
        bl__haar(w + r * cols, cols, scratch);
    for (size_t c = 0; c < cols; c++) {
        double sum = 0;
        for (size_t r = 0; r < rows; r++)
            sum += fabs((double)w[r * cols + c]);
        float scale = bl__f16_to_f32(bl__f32_to_f16((float)(sum / (double)rows * 30) + 0.01f));
        b->salient[c] = o->layout == BL_LAYOUT_S2 && (c % 17 == 3 || c % 64 == 9);
        for (size_t r = 0; r < rows && o->col_scale; r++)
            w[r * cols + c] /= scale;
        if (o->col_scale)
            b->col_scale[c] = scale;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0, n; k < b->n_blocks; k++) {
            size_t at = k * BL_BINARIZED_BLOCK;
            n = cols - at < BL_BINARIZED_BLOCK ? cols - at : BL_BINARIZED_BLOCK;
            packed_block(w + r * cols + at, b->salient + at, n, o->layout != BL_LAYOUT_L1,
                         b->codes + r * cols + at, bl__binarized_params(b, r, k));
        }
    packed_check(bl__binarized_round(b, &err), &err);
    return b;
}

/* One linear as it is written: its weights' bytes, its scales of columns or NULL, and the floats
 * that both stand for. */
typedef struct packed_linear {
    uint8_t *bytes;
    size_t n_bytes;
    float *in_scale, *dense;
} packed_linear;

static inline packed_linear packed_make(const bl__gguf_tensor *t, const packed_options *o) {
    bl_error err;
    packed_linear l = {.dense = malloc(t->rows * t->cols * sizeof *l.dense)};
    size_t rows = t->rows, cols = t->cols;
    for (size_t r = 0; r < rows; r++)
        bl__layout_unpack_row(t->layout, t->data, rows, cols, r, l.dense + r * cols);
    packed_check(bl__layout_bytes(o->layout, rows, cols, &l.n_bytes, &err), &err);
    l.bytes = malloc(l.n_bytes);
    l.in_scale = o->col_scale || o->layout == BL_LAYOUT_B1 ? malloc(cols * sizeof(float)) : NULL;
    if (o->layout == BL_LAYOUT_B1) {
        float *signs = malloc(cols * sizeof *signs);
        for (size_t c = 0; c < cols; c++)
            l.in_scale[c] = 0.5f + (float)(c % 8) / 8.0f; /* any numbers that float16 has */
        for (size_t r = 0; r < rows; r++) {
            float *w = l.dense + r * cols, scale = 0.03125f * (float)(1 + r % 5);
            for (size_t c = 0; c < cols; c++) {
                signs[c] = w[c] > 0 ? scale : -scale;
                w[c] = signs[c] * l.in_scale[c];
            }
            packed_check(bl__layout_pack_rows(o->layout, signs, rows, cols, r, 1, 0, l.bytes, &err),
                         &err);
        }
        free(signs);
        return l;
    }
    bl__binarized *b = packed_binarize(l.dense, rows, cols, o);
    bl__levels_pack(b, o->layout, l.bytes);
    for (size_t r = 0; r < rows; r++)
        bl__binarized_dequantize_row(b, r, l.dense + r * cols);
    if (l.in_scale)
        memcpy(l.in_scale, b->col_scale, cols * sizeof(float));
    bl__binarized_free(b);
    return l;
}

static inline void packed_write_tensor(const bl__gguf_tensor *t, const packed_options *o,
                                       bl__gguf_writer *writer) {
    bl_error err;
    if (!packed_is_linear(t)) {
        packed_check(bl__gguf_write_data(writer, t->data, t->bytes, &err), &err);
        return;
    }
    packed_linear l = packed_make(t, o);
    if (o->dense) {
        packed_check(bl__gguf_write_data(writer, l.dense, t->rows * t->cols * 4, &err), &err);
    } else {
        packed_check(bl__gguf_write_data(writer, l.bytes, l.n_bytes, &err), &err);
        for (size_t c = 0; l.in_scale && c < t->cols; c++) {
            uint16_t half = bl__f32_to_f16(l.in_scale[c]);
            packed_check(bl__gguf_write_data(writer, &half, sizeof half, &err), &err);
        }
    }
    free(l.bytes);
    free(l.in_scale);
    free(l.dense);
}

static inline void packed_declare(const bl__gguf_tensor *t, const packed_options *o,
                                  bl__gguf_writer *writer) {
    bl_error err;
    char name[64];
    bool linear = packed_is_linear(t);
    snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
    packed_check(bl__gguf_add_tensor(writer, name, t->n_dims, t->dims,
                                     !linear    ? t->layout
                                     : o->dense ? BL_LAYOUT_F32
                                                : o->layout,
                                     &err),
                 &err);
    if (!linear || o->dense || !(o->col_scale || o->layout == BL_LAYOUT_B1))
        return;
    char *end = strstr(name, ".weight");
    snprintf(end, sizeof name - (size_t)(end - name), ".in_scale");
    packed_check(bl__gguf_add_tensor(writer, name, 1, t->dims, BL_LAYOUT_F16, &err), &err);
}

static inline void packed_model_write(const char *from, const packed_options *o, const char *to) {
    bl_error err;
    bl__filemap map;
    bl__gguf *gguf;
    bl__gguf_writer *writer;
    bl__outfile *file;
    packed_check(bl__filemap_open(from, &map, &err), &err);
    packed_check(bl__gguf_parse(map.data, map.len, &gguf, &err), &err);
    packed_check(bl__gguf_writer_create(&writer, &err), &err);
    for (size_t i = 0; i < gguf->n_pairs; i++) {
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)gguf->pairs[i].key.len, gguf->pairs[i].key.data);
        if (strncmp(key, "bitloom.", 8) != 0)
            packed_check(bl__gguf_set_value(writer, key, &gguf->pairs[i].value, &err), &err);
    }
    const char *quantization = o->quantization ? o->quantization : "none";
    packed_check(bl__gguf_set_string(writer, "bitloom.activation_quantization", quantization,
                                     strlen(quantization), &err),
                 &err);
    if (o->haar && !o->dense)
        packed_check(bl__gguf_set_string(writer, "bitloom.input_transform", "haar", 4, &err), &err);
    for (size_t i = 0; i < gguf->n_tensors; i++)
        packed_declare(&gguf->tensors[i], o, writer);
    packed_check(bl__outfile_open(to, &file, &err), &err);
    packed_check(bl__gguf_writer_begin(writer, file, &err), &err);
    for (size_t i = 0; i < gguf->n_tensors; i++)
        packed_write_tensor(&gguf->tensors[i], o, writer);
    packed_check(bl__gguf_writer_finish(writer, &err), &err);
    packed_check(bl__outfile_commit(file, &err), &err);
    bl__gguf_writer_free(writer);
    bl__gguf_free(gguf);
    bl__filemap_close(&map);
}

#endif
