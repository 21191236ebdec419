/* Owns the native layout T5 by VBMI's lookups among 64 bytes. Same bits as kernels/ref. */
#include "kernels/levels.h"
#include "kernels/x86/gemm512.h"
#include "quant/t5.h"

/* Sums of the planes at bits 6 and 7 are 64 times too large and hold this many blocks and more: a
 * block adds at most 64 x 4 columns x 2 x 128 = 65,536. */
enum { SAFE_GROUPS = 4096, AHEAD = 8192 };

/* What the six low bits of a byte say: digits 0 to 3 where the top two are digit 4, and where they
 * are 3; and digit 4 then, at bits 6 and 7. */
#define EIGHT(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#define P        BL_T5_PAIR
#define NORMAL(high)                                                                               \
    P(0) | P(high) << 4, P(1) | P(high) << 4, P(2) | P(high) << 4, P(3) | P(high) << 4,            \
        P(4) | P(high) << 4, P(5) | P(high) << 4, P(6) | P(high) << 4, P(7) | P(high) << 4
#define FIRST(low)   P(low) | 0xa0
#define SECOND(low)  0x0a | P(low) << 4
#define ALWAYS(byte) byte, byte, byte, byte, byte, byte, byte, byte
#define MODULO(low)  (low) % 3 << 6
static const uint8_t normal[64] = {NORMAL(0), NORMAL(1), NORMAL(2), NORMAL(3),
                                   NORMAL(4), NORMAL(5), NORMAL(6), NORMAL(7)};
static const uint8_t special[64] = {EIGHT(FIRST),  EIGHT(FIRST),  EIGHT(FIRST),  ALWAYS(0xaa),
                                    EIGHT(SECOND), EIGHT(SECOND), EIGHT(SECOND), ALWAYS(0x55)};
static const uint8_t digit4[64] = {ALWAYS(0x00), ALWAYS(0x40), ALWAYS(0x80), EIGHT(MODULO),
                                   ALWAYS(0x00), ALWAYS(0x40), ALWAYS(0x80), ALWAYS(0x40)};

typedef struct tables {
    __m512i normal, special, digit4, top;
} tables;

static inline tables load_tables(void) {
    return (tables){_mm512_loadu_si512(normal), _mm512_loadu_si512(special),
                    _mm512_loadu_si512(digit4), _mm512_set1_epi8((char)0xc0)};
}

/* Digits 0 to 3 of 64 bytes as a block of T2, and digit 4 in the top two bits. */
static inline __attribute__((always_inline)) __m512i split(__m512i v, tables t, __m512i *last) {
    __mmask64 is_3 = _mm512_cmpge_epu8_mask(v, t.top);
    __m512i low = _mm512_permutexvar_epi8(v, t.normal);
    *last = _mm512_mask_permutexvar_epi8(_mm512_and_si512(v, t.top), is_3, v, t.digit4);
    return _mm512_mask_permutexvar_epi8(low, is_3, v, t.special);
}

static void unpack(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                   uint8_t *t2) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    tables t = load_tables();
    __m512i top;
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__t5_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t g = 0; g < n_groups; g++) {
            __m512i last = _mm512_setzero_si512();
#pragma GCC unroll 4
            for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++, from += 64, t2 += 64) {
                _mm512_storeu_si512(t2, split(_mm512_loadu_si512(from), t, &top));
                last = _mm512_or_si512(_mm512_srli_epi16(last, 2), top);
            }
            _mm512_storeu_si512(t2, last);
            t2 += 64;
        }
        for (size_t b = n_groups * BL_T5_GROUP_T2_BLOCKS; b < n; b++, from += 64, t2 += 64)
            _mm512_storeu_si512(t2, split(_mm512_loadu_si512(from), t, &top));
    }
}

/* sum += 4-way products of codes with four activations broadcast. Intrinsics would load them into a
 * register first. */
static inline __m512i dot4(__m512i sum, __m512i codes, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const int8_t(*)[4])q));
    return sum;
}

/* Digits 0 to 3 of a block times 16 activations. Digits are masked where they lie: sums[p] is 4^p
 * times too large. */
static inline __attribute__((always_inline)) void add_planes(__m512i codes, const __m512i masks[4],
                                                             const int8_t *q, __m512i sums[5]) {
#pragma GCC unroll 4
    for (size_t p = 0; p < 4; p++)
        sums[p] = dot4(sums[p], _mm512_and_si512(codes, masks[p]), q + 4 * p);
}

/* One tile times one token; two sets of sums hide the latency of the dot products. */
static inline __attribute__((always_inline)) __m512i tile_dots(const uint8_t *blocks, size_t n,
                                                               const int8_t *q, tables t) {
    const __m512i masks[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48),
                              t.top};
    size_t left = n / BL_T5_GROUP_T2_BLOCKS, n_rest = n % BL_T5_GROUP_T2_BLOCKS;
    __m512i total = _mm512_setzero_si512(), last;
    do {
        __m512i sums[2][5];
#pragma GCC unroll 10
        for (size_t i = 0; i < 10; i++)
            sums[i / 5][i % 5] = _mm512_setzero_si512();
        size_t here = left < SAFE_GROUPS ? left : SAFE_GROUPS;
        left -= here;
        for (; here > 0; here--, q += BL_T5_GROUP_COLS)
#pragma GCC unroll 4
            for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++, blocks += BL_T2_BLOCK_BYTES) {
                _mm_prefetch((const char *)blocks + AHEAD, _MM_HINT_T0);
                __m512i codes = split(_mm512_loadu_si512(blocks), t, &last);
                add_planes(codes, masks, q + 16 * b, sums[b % 2]);
                sums[b % 2][4] = dot4(sums[b % 2][4], last, q + 64 + 4 * b);
            }
        for (; left == 0 && n_rest > 0; n_rest--, blocks += 64, q += BL_T2_COLS)
            add_planes(split(_mm512_loadu_si512(blocks), t, &last), masks, q, sums[0]);
#pragma GCC unroll 5
        for (size_t p = 0; p < 5; p++) {
            __m512i sum = _mm512_add_epi32(sums[0][p], sums[1][p]);
            total = _mm512_add_epi32(total, _mm512_srai_epi32(sum, p < 4 ? 2 * (unsigned)p : 6));
        }
    } while (left > 0);
    return total;
}

static void gemv(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile, size_t n_tiles,
                 const bl__q8 *x, float *out) {
    __m512i sum = _mm512_set1_epi32(x->sum[0]);
    __m512 step = _mm512_set1_ps(x->step[0]);
    tables t = load_tables();
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t5_stride(cols);
        size_t left = rows - tile * BL_T2_ROWS;
        __mmask16 exists = left < BL_T2_ROWS ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
        __m512i dot = tile_dots(scales + BL_T2_SCALE_BYTES, bl__t2_blocks(cols), x->q, t);
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(dot, sum)), step);
        _mm512_mask_storeu_ps(out + tile * BL_T2_ROWS, exists,
                              _mm512_mul_ps(y, _mm512_loadu_ps(scales)));
    }
}

/* ---- several tokens ---- */

enum {
    PIECE_BLOCKS = 60, /* of T2, whole groups */
    PIECE_BYTES = PIECE_BLOCKS / BL_T5_GROUP_T2_BLOCKS * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES
};

/* A piece as T2, made while its first tokens meet it. */
typedef uint8_t unpacked[BL_GEMM_TILES][PIECE_BLOCKS * BL_T2_BLOCK_BYTES];

static inline __attribute__((always_inline)) void keep(__m512i codes[BL_GEMM_TILES], size_t n_tiles,
                                                       size_t block, unpacked t2) {
#pragma GCC unroll 2
    for (size_t i = 0; i < n_tiles; i++)
        _mm512_storeu_si512(t2[i] + block * BL_T2_BLOCK_BYTES, codes[i]);
}

/* The next block of each tile, split; what comes after these tiles is asked for meanwhile. */
static inline __attribute__((always_inline)) void split_tiles(const bl__gemm_piece *p,
                                                              size_t n_tiles, size_t at, tables t,
                                                              __m512i codes[BL_GEMM_TILES],
                                                              __m512i last[BL_GEMM_TILES]) {
#pragma GCC unroll 2
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = p->blocks + i * p->tile_stride + at;
        __m512i top;
        _mm_prefetch((const char *)from + BL_GEMM_TILES * p->tile_stride, _MM_HINT_T0);
        codes[i] = split(_mm512_loadu_si512(from), t, &top);
        last[i] = _mm512_or_si512(_mm512_srli_epi16(last[i], 2), top);
    }
}

/* The first n tokens (n and n_tiles constants after inlining). */
static inline __attribute__((always_inline)) void add_first(const bl__gemm512_piece *whole,
                                                            size_t n_tiles, size_t n, unpacked t2) {
    const bl__gemm_piece *p = &whole->piece;
    size_t stride = p->q_stride, block = 0, at = 0;
    const int8_t *q = p->q;
    tables t = load_tables();
    bl__gemm512_sums sums;
    __m512i codes[BL_GEMM_TILES], last[BL_GEMM_TILES];
    bl__gemm512_begin(whole, n_tiles, 0, n, sums);
    for (; block + BL_T5_GROUP_T2_BLOCKS <= p->n_blocks; block++, q += BL_T2_COLS) {
        last[0] = last[1] = _mm512_setzero_si512();
        for (size_t b = 0; b < BL_T5_GROUP_BLOCKS; b++, block++, q += BL_T2_COLS, at += 64) {
            split_tiles(p, n_tiles, at, t, codes, last);
            keep(codes, n_tiles, block, t2);
            bl__gemm512_meet(codes, n_tiles, q, stride, n, sums);
        }
        keep(last, n_tiles, block, t2);
        bl__gemm512_meet(last, n_tiles, q, stride, n, sums);
    }
    for (; block < p->n_blocks; block++, q += BL_T2_COLS, at += 64) {
        split_tiles(p, n_tiles, at, t, codes, last);
        keep(codes, n_tiles, block, t2);
        bl__gemm512_meet(codes, n_tiles, q, stride, n, sums);
    }
    bl__gemm512_end(whole, n_tiles, 0, n, sums);
}

static inline __attribute__((always_inline)) void add_tiles(const bl__gemm512_piece *p,
                                                            size_t n_tiles) {
    unpacked t2;
    bl__gemm512_piece rest = *p;
    size_t left = p->piece.n_tokens, n = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    rest.piece.blocks = t2[0];
    rest.piece.tile_stride = sizeof t2[0];
    if (n == 8)
        add_first(p, n_tiles, 8, t2);
    else if (n == 4)
        add_first(p, n_tiles, 4, t2);
    else if (n == 2)
        add_first(p, n_tiles, 2, t2);
    else
        add_first(p, n_tiles, 1, t2);
    bl__gemm512_add_from(&rest, n);
}

static void add_piece(const bl__gemm512_piece *p) {
    if (p->piece.n_tiles == 2)
        add_tiles(p, 2);
    else
        add_tiles(p, 1);
}

static void gemm(BL_GEMM_ARGUMENTS) {
    bl__gemm512_run(add_piece, bl__t5_stride(cols), PIECE_BLOCKS, PIECE_BYTES, tiles, rows, cols,
                    first_tile, n_tiles, x, n_tokens, out, out_stride);
}

void bl__kernels_fill_avx512vbmi(bl__kernels *table) {
    table->t5_unpack = unpack;
    table->t5_gemv = gemv;
    table->t5_gemm = gemm;
}
