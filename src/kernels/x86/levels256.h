/* Owns products with the layouts L1, L2 and S2 in 256-bit registers, for the levels whose files
 * include it and bring their dot product:
 *
 *     static inline __m256i dot4(__m256i sum, __m256i levels, __m256i q);
 *
 * sum += the products of each four bytes, levels below 128 unsigned, activations signed. See
 * levels_avx512vnni.c for how it is done; here a tile is two halves of 8 rows. */
#ifndef BL_KERNELS_X86_LEVELS256_H
#define BL_KERNELS_X86_LEVELS256_H

#include <immintrin.h>
#include <string.h>

#include "kernels/levels.h"

static inline __m256i load32(const uint8_t *from) {
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

static inline __m256i broadcast4(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* The tables of a block of columns: [half][plain, salient]. */
typedef __m256i tables[2][2];

static inline __attribute__((always_inline)) void load_tables(const uint8_t *from, unsigned bits,
                                                              bool salient, tables out) {
    const __m256i levels = _mm256_set1_epi8(BL_LEVELS_MASK);
    for (size_t half = 0; half < 2; half++) {
        if (bits == 1) {
            __m128i pairs = _mm_loadu_si128((const __m128i *)(const void *)(from + 16 * half));
            out[half][0] = _mm256_cvtepu16_epi32(pairs);
        } else {
            out[half][0] = load32(from + 32 * half);
        }
        out[half][0] = _mm256_and_si256(out[half][0], levels);
        out[half][1] = out[half][0];
        if (salient)
            out[half][1] = _mm256_and_si256(load32(from + 64 + 32 * half), levels);
    }
}

/* One block of codes, n_groups x 4 columns, against n tokens: sums[t][half]. */
static inline __attribute__((always_inline)) void
add_codes(const uint8_t *codes, tables of, unsigned bits, size_t n_groups, uint32_t salient,
          const int8_t *q, size_t q_stride, size_t n, __m256i sums[][2]) {
    const __m256i mask = _mm256_set1_epi8(bits == 1 ? 1 : 3);
    const __m256i rows =
        _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    const __m256i lane_bits = _mm256_set1_epi32(0x08040201);
    __m256i v[2] = {load32(codes), load32(codes + 32)};
    for (size_t g = 0; g < n_groups; g++) {
        __m256i w[2];
        for (size_t half = 0; half < 2; half++) {
            __m256i at = _mm256_or_si256(_mm256_and_si256(v[half], mask), rows);
            w[half] = _mm256_shuffle_epi8(of[half][0], at);
            if (salient) {
                __m256i which = _mm256_set1_epi8((char)(salient >> 4 * g & 15));
                which = _mm256_cmpeq_epi8(_mm256_and_si256(which, lane_bits), lane_bits);
                w[half] = _mm256_blendv_epi8(w[half], _mm256_shuffle_epi8(of[half][1], at), which);
            }
            v[half] = bits == 1 ? _mm256_srli_epi16(v[half], 1) : _mm256_srli_epi16(v[half], 2);
        }
        for (size_t t = 0; t < n; t++) {
            __m256i x = broadcast4(q + t * q_stride + 4 * g);
            sums[t][0] = dot4(sums[t][0], w[0], x);
            sums[t][1] = dot4(sums[t][1], w[1], x);
        }
    }
}

/* One tile x n tokens: dots[t][half], not yet less 64 times the sum of the activations. */
static inline __attribute__((always_inline)) void tile_dots(const bl__levels *w, size_t tile,
                                                            unsigned bits, bool salient,
                                                            const int8_t *q, size_t q_stride,
                                                            size_t n, __m256i dots[][2]) {
    const uint8_t *table = bl__levels_table(w, tile);
    const uint8_t *codes = bl__levels_tile(w, tile) + bl__levels_codes_at(w);
    const uint8_t *bitmap = w->tensor + bl__levels_bitmap_at(w);
    size_t code_cols = bits == 1 ? BL_B1_COLS : BL_T2_COLS, left = w->cols;
    for (size_t t = 0; t < n; t++)
        dots[t][0] = dots[t][1] = _mm256_setzero_si256();
    for (size_t step = bl__levels_table_step(w); left > 0; table += step) {
        size_t n_cols = left < BL_BINARIZED_BLOCK ? left : BL_BINARIZED_BLOCK;
        tables of;
        load_tables(table, bits, salient, of);
        left -= n_cols;
        while (n_cols > 0) {
            size_t here = n_cols < code_cols ? n_cols : code_cols;
            uint16_t which = 0;
            if (salient) {
                memcpy(&which, bitmap, sizeof which);
                bitmap += sizeof which;
            }
            if (bits == 1 && here <= BL_T2_COLS) /* activations: multiples of 16 columns */
                add_codes(codes, of, bits, 4, 0, q, q_stride, n, dots);
            else if (salient && which)
                add_codes(codes, of, bits, code_cols / 4, which, q, q_stride, n, dots);
            else
                add_codes(codes, of, bits, code_cols / 4, 0, q, q_stride, n, dots);
            codes += BL_T2_BLOCK_BYTES;
            q += code_cols;
            n_cols -= here;
        }
    }
}

/* The units of 8 rows. */
static inline __m256 load_units(const uint8_t *units, bool b1, size_t half) {
    if (b1)
        return _mm256_loadu_ps((const float *)(const void *)(units + 32 * half));
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(units + 16 * half)));
}

/* Tokens first ... first + n - 1 with one tile. */
static inline __attribute__((always_inline)) void
some_tokens(const bl__levels *w, size_t tile, unsigned bits, bool salient, const bl__q8 *x,
            size_t first, size_t n, float *out, size_t out_stride) {
    const uint8_t *units = bl__levels_units(w, tile);
    size_t left = w->rows - tile * BL_T2_ROWS;
    __m256i dots[3][2];
    tile_dots(w, tile, bits, salient, x->q + first * x->stride, x->stride, n, dots);
    for (size_t t = 0; t < n; t++) {
        float rows[BL_T2_ROWS];
        uint32_t added = (uint32_t)x->sum[first + t] * BL_LEVELS_ZERO;
        for (size_t half = 0; half < 2; half++) {
            __m256i dot = _mm256_sub_epi32(dots[t][half], _mm256_set1_epi32((int32_t)added));
            __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(x->step[first + t]));
            _mm256_storeu_ps(rows + 8 * half, _mm256_mul_ps(y, load_units(units, w->b1, half)));
        }
        memcpy(out + (first + t) * out_stride, rows,
               (left < BL_T2_ROWS ? left : BL_T2_ROWS) * sizeof *out);
    }
}

/* Tokens come by threes, the digits of one. */
static inline __attribute__((always_inline)) void one_tile(const bl__levels *w, size_t tile,
                                                           unsigned bits, bool salient,
                                                           const bl__q8 *x, size_t n_tokens,
                                                           float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3)
        some_tokens(w, tile, bits, salient, x, t, 3, out, out_stride);
    for (; t < n_tokens; t++)
        some_tokens(w, tile, bits, salient, x, t, 1, out, out_stride);
}

static void levels_gemm(const bl__levels *w, size_t first_tile, size_t n_tiles, const bl__q8 *x,
                        size_t n_tokens, float *out, size_t out_stride) {
    for (size_t i = 0; i < n_tiles; i++, out += BL_T2_ROWS) {
        if (w->bits == 1)
            one_tile(w, first_tile + i, 1, false, x, n_tokens, out, out_stride);
        else if (w->salient)
            one_tile(w, first_tile + i, 2, true, x, n_tokens, out, out_stride);
        else
            one_tile(w, first_tile + i, 2, false, x, n_tokens, out, out_stride);
    }
}

#endif
