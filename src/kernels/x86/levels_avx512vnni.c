/* Owns products with the layouts L1, L2 and S2 by AVX-512 + VNNI. Same bits as kernels/ref.
 *
 * A table of 16 rows x 4 codes is one register and a byte shuffle looks up 16 rows x 4 columns, the
 * operand of a dot product. Bytes are levels + 64, so that they are unsigned; what that adds is
 * known from the sum of the activations. */
#include <immintrin.h>
#include <string.h>

#include "kernels/levels.h"

enum { MOST_TOKENS = 6, MOST_SUMS = 12, AHEAD = 4096 };

/* sum += 4-way products of levels with four activations broadcast. Intrinsics would load them into
 * a register first. */
static inline __m512i dot4(__m512i sum, __m512i levels, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(levels), "m"(*(const int8_t(*)[4])q));
    return sum;
}

/* Bytes of the columns that four bits say. */
#define NIBBLE(i)                                                                                  \
    ((i)&1 ? 0xffu : 0) | ((i)&2 ? 0xff00u : 0) | ((i)&4 ? 0xff0000u : 0) |                        \
        ((i)&8 ? 0xff000000u : 0)
static const uint32_t nibbles[16] = {
    NIBBLE(0), NIBBLE(1), NIBBLE(2),  NIBBLE(3),  NIBBLE(4),  NIBBLE(5),  NIBBLE(6),  NIBBLE(7),
    NIBBLE(8), NIBBLE(9), NIBBLE(10), NIBBLE(11), NIBBLE(12), NIBBLE(13), NIBBLE(14), NIBBLE(15)};

/* What the lookups of a block of columns need. */
typedef struct lookup {
    __m512i table, salient; /* levels of plain and of salient columns */
    __m512i mask, rows;     /* the bits of a code; 4 (r % 4) in the bytes of row r */
} lookup;

/* One block of codes, n_groups x 4 columns, against n tokens (all but q, `of` and which columns are
 * salient constants after inlining): sums[t * n_sums + group % n_sums]. */
static inline __attribute__((always_inline)) void
add_codes(__m512i v, const lookup *of, unsigned bits, size_t n_groups, unsigned salient,
          const int8_t *q, size_t q_stride, size_t n, size_t n_sums, __m512i *sums) {
    const int8_t *tokens[MOST_TOKENS];
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++) {
        tokens[t] = q + t * q_stride;
        __asm__("" : "+r"(tokens[t])); /* else a pointer for each token and group is kept */
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < n_groups; g++) {
        __m512i at = _mm512_ternarylogic_epi64(v, of->mask, of->rows, 0xea); /* (v & mask) | rows */
        __m512i w = _mm512_shuffle_epi8(of->table, at);
        if (salient) {
            __m512i which = _mm512_set1_epi32((int32_t)nibbles[salient >> 4 * g & 15]);
            __m512i other = _mm512_shuffle_epi8(of->salient, at);
            w = _mm512_ternarylogic_epi32(which, other, w, 0xca); /* which ? other : w */
        }
#pragma GCC unroll 6
        for (size_t t = 0; t < n; t++) {
            __m512i *sum = &sums[t * n_sums + g % n_sums];
            *sum = dot4(*sum, w, tokens[t] + 4 * g);
        }
        v = bits == 1 ? _mm512_srli_epi16(v, 1) : _mm512_srli_epi16(v, 2);
    }
}

static inline __attribute__((always_inline)) lookup load_tables(const uint8_t *from, unsigned bits,
                                                                bool salient) {
    const __m512i levels = _mm512_set1_epi8(BL_LEVELS_MASK);
    lookup of = {.mask = _mm512_set1_epi8(bits == 1 ? 1 : 3), .rows = _mm512_set1_epi32(0)};
    of.rows = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    if (bits == 1)
        of.table = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from));
    else
        of.table = _mm512_loadu_si512(from);
    of.table = _mm512_and_si512(of.table, levels);
    of.salient = of.table;
    if (salient)
        of.salient = _mm512_and_si512(_mm512_loadu_si512(from + 64), levels);
    return of;
}

/* One tile x n tokens: dots[t], not yet less 64 times the sum of the activations. bits, salient, n
 * and n_sums are constants after inlining. */
static inline __attribute__((always_inline)) void
tile_dots(const bl__levels *w, size_t tile, unsigned bits, bool salient, const int8_t *q,
          size_t q_stride, size_t n, size_t n_sums, __m512i *dots) {
    const uint8_t *table = bl__levels_table(w, tile);
    const uint8_t *codes = bl__levels_tile(w, tile) + bl__levels_codes_at(w);
    const uint8_t *bitmap = w->tensor + bl__levels_bitmap_at(w);
    size_t code_cols = bits == 1 ? BL_B1_COLS : BL_T2_COLS, left = w->cols;
    __m512i sums[MOST_SUMS];
#pragma GCC unroll 12
    for (size_t i = 0; i < n * n_sums; i++)
        sums[i] = _mm512_setzero_si512();
    for (size_t step = bl__levels_table_step(w); left > 0; table += step) {
        size_t n_cols = left < BL_BINARIZED_BLOCK ? left : BL_BINARIZED_BLOCK;
        const lookup of = load_tables(table, bits, salient);
        left -= n_cols;
        for (; n_cols >= code_cols; n_cols -= code_cols, q += code_cols) {
            __m512i v = _mm512_loadu_si512(codes);
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            codes += BL_T2_BLOCK_BYTES;
            uint16_t which = 0;
            if (salient) {
                memcpy(&which, bitmap, sizeof which);
                bitmap += sizeof which;
            }
            if (salient && which)
                add_codes(v, &of, bits, code_cols / 4, which, q, q_stride, n, n_sums, sums);
            else
                add_codes(v, &of, bits, code_cols / 4, 0, q, q_stride, n, n_sums, sums);
        }
        if (n_cols > 0) { /* activations are there, zeros, for multiples of 16 columns */
            __m512i v = _mm512_loadu_si512(codes);
            uint16_t which = 0;
            if (salient)
                memcpy(&which, bitmap, sizeof which);
            add_codes(v, &of, bits, 4, which, q, q_stride, n, n_sums, sums);
            v = _mm512_srli_epi16(v, 4);
            if (n_cols > BL_T2_COLS)
                add_codes(v, &of, bits, 4, 0, q + BL_T2_COLS, q_stride, n, n_sums, sums);
        }
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++) {
        dots[t] = sums[t * n_sums];
#pragma GCC unroll 4
        for (size_t s = 1; s < n_sums; s++)
            dots[t] = _mm512_add_epi32(dots[t], sums[t * n_sums + s]);
    }
}

/* Tokens first ... first + n - 1 with one tile. */
static inline __attribute__((always_inline)) void
some_tokens(const bl__levels *w, size_t tile, unsigned bits, bool salient, const bl__q8 *x,
            size_t first, size_t n, size_t n_sums, float *out, size_t out_stride) {
    const uint8_t *units = bl__levels_units(w, tile);
    size_t left = w->rows - tile * BL_T2_ROWS;
    __mmask16 exists = left < BL_T2_ROWS ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
    __m512 unit = w->b1 ? _mm512_loadu_ps(units)
                        : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)units));
    __m512i dots[MOST_TOKENS];
    tile_dots(w, tile, bits, salient, x->q + first * x->stride, x->stride, n, n_sums, dots);
#pragma GCC unroll 6
    for (size_t t = 0; t < n; t++) {
        uint32_t added = (uint32_t)x->sum[first + t] * BL_LEVELS_ZERO;
        __m512i dot = _mm512_sub_epi32(dots[t], _mm512_set1_epi32((int32_t)added));
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(x->step[first + t]));
        _mm512_mask_storeu_ps(out + (first + t) * out_stride, exists, _mm512_mul_ps(y, unit));
    }
}

/* Tokens come by threes, the digits of one. Independent sums hide the latency of the products. */
static inline __attribute__((always_inline)) void one_tile(const bl__levels *w, size_t tile,
                                                           unsigned bits, bool salient,
                                                           const bl__q8 *x, size_t n_tokens,
                                                           float *out, size_t out_stride) {
    size_t t = 0;
    for (; t + 6 <= n_tokens; t += 6)
        some_tokens(w, tile, bits, salient, x, t, 6, 2, out, out_stride);
    for (; t + 3 <= n_tokens; t += 3)
        some_tokens(w, tile, bits, salient, x, t, 3, 4, out, out_stride);
    for (; t < n_tokens; t++)
        some_tokens(w, tile, bits, salient, x, t, 1, 4, out, out_stride);
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

void bl__levels_fill_avx512vnni(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
