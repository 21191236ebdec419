/* Owns the native layouts T5 and B1 by AVX2: unpacked, and times one token. Same bits as
 * kernels/ref. */
#include "kernels/x86/gemm256.h"
#include "kernels/x86/native.h"
#include "kernels/x86/t5_256.h"
#include "quant/b1.h"

/* Half a block (rows 0 to 7 or 8 to 15) of each of up to four; whole: their digits 4 make a fifth.
 */
static inline __attribute__((always_inline)) void unpack_half(const uint8_t *from, size_t n_blocks,
                                                              bool whole, uint8_t *to) {
    __m256i low, top, last = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i v =
            _mm256_loadu_si256((const __m256i *)(const void *)(from + b * BL_T2_BLOCK_BYTES));
        bl__t5_split256(v, &low, &top);
        _mm256_storeu_si256((__m256i *)(void *)(to + b * BL_T2_BLOCK_BYTES), low);
        last = _mm256_or_si256(_mm256_srli_epi16(last, 2), top);
    }
    if (whole)
        _mm256_storeu_si256((__m256i *)(void *)(to + n_blocks * BL_T2_BLOCK_BYTES), last);
}

void bl__t5_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__t5_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t g = 0; g < n_groups; g++) {
            unpack_half(from, BL_T5_GROUP_BLOCKS, true, t2);
            unpack_half(from + 32, BL_T5_GROUP_BLOCKS, true, t2 + 32);
            from += BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES;
            t2 += BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
        }
        unpack_half(from, n % BL_T5_GROUP_T2_BLOCKS, false, t2);
        unpack_half(from + 32, n % BL_T5_GROUP_T2_BLOCKS, false, t2 + 32);
        t2 += n % BL_T5_GROUP_T2_BLOCKS * BL_T2_BLOCK_BYTES;
    }
}

/* Bit p of a nibble at bit 2 p + 1. */
static const uint8_t spread[16] = {0x00, 0x02, 0x08, 0x0a, 0x20, 0x22, 0x28, 0x2a,
                                   0x80, 0x82, 0x88, 0x8a, 0xa0, 0xa2, 0xa8, 0xaa};

void bl__b1_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2) {
    const __m256i table = bl__load16(spread), nibble = _mm256_set1_epi8(15);
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *from = tiles + (first_tile + i) * bl__b1_stride(cols);
        memcpy(t2, from, BL_T2_SCALE_BYTES);
        from += BL_T2_SCALE_BYTES;
        t2 += BL_T2_SCALE_BYTES;
        for (size_t b = 0, n = bl__t2_blocks(cols); b < n; b += 2, from += BL_T2_BLOCK_BYTES)
            for (size_t half = 0; half < 2; half++) {
                __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(from + 32 * half));
                uint8_t *to = t2 + b * BL_T2_BLOCK_BYTES + 32 * half;
                __m256i low = _mm256_and_si256(v, nibble);
                __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
                _mm256_storeu_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(table, low));
                if (b + 1 < n)
                    _mm256_storeu_si256((__m256i *)(void *)(to + BL_T2_BLOCK_BYTES),
                                        _mm256_shuffle_epi8(table, high));
            }
        t2 += bl__t2_blocks(cols) * BL_T2_BLOCK_BYTES;
    }
}

/* ---- one token ---- */

/* How far ahead of a block lines are asked for, and how many blocks int16 sums hold. At 8 times
 * their size in B1 and 4 times in T5 (2 x the digit 2), a block adds 2 planes x 2 columns x 8 x
 * activation to them; eight add -32,768 ... 32,512. */
enum { AHEAD = 4096, SAFE_BLOCKS = 8, SAFE_GROUPS = SAFE_BLOCKS / BL_T5_GROUP_BLOCKS };

/* sum += codes x activations, two products an int16. */
static inline __m256i dot2(__m256i sum, __m256i codes, __m256i x) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x));
}

/* total += int16 sums of pairs of columns, 2^shift times too large. */
static inline __m256i widen(__m256i total, __m256i sums, int shift) {
    __m256i wide = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    return _mm256_add_epi32(total, _mm256_srai_epi32(wide, shift));
}

/* Digits 0 to 3 of half a block times 16 activations; digits 1 and 3 to sums[1], four times too
 * large. */
static inline __attribute__((always_inline)) void add_digits(__m256i codes, const int8_t *q,
                                                             __m256i sums[2]) {
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++, q += 8, codes = _mm256_srli_epi16(codes, 4)) {
        __m256i low = _mm256_and_si256(codes, _mm256_set1_epi8(3));
        __m256i high = _mm256_and_si256(codes, _mm256_set1_epi8(12));
        sums[0] = dot2(sums[0], low, bl__broadcast4(q));
        sums[1] = dot2(sums[1], high, bl__broadcast4(q + 4));
    }
}

/* Half of each of n <= SAFE_BLOCKS blocks of a tile; whole: of whole groups. One half at a time,
 * because tables and masks take ten registers. */
static inline __attribute__((always_inline)) __m256i
add_t5_half(const uint8_t *blocks, size_t n, bool whole, const int8_t *q, __m256i total) {
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, low, top;
    for (size_t b = 0; b < n; b += BL_T5_GROUP_BLOCKS, q += BL_T5_GROUP_COLS)
        for (size_t i = 0; i < BL_T5_GROUP_BLOCKS && b + i < n; i++, blocks += BL_T2_BLOCK_BYTES) {
            bl__t5_split256(bl__load256(blocks), &low, &top);
            add_digits(low, q + 16 * i, sums);
            if (whole)
                sums[0] = dot2(sums[0], _mm256_srli_epi16(top, 6), bl__broadcast4(q + 64 + 4 * i));
        }
    return widen(widen(total, sums[0], 0), sums[1], 2);
}

/* Both halves; lines further on are asked for. */
static inline __attribute__((always_inline)) void
add_t5_blocks(const uint8_t *blocks, size_t n, bool whole, const int8_t *q, __m256i total[2]) {
    for (size_t b = 0; b < n; b++)
        _mm_prefetch((const char *)blocks + b * BL_T2_BLOCK_BYTES + AHEAD, _MM_HINT_T0);
    total[0] = add_t5_half(blocks, n, whole, q, total[0]);
    total[1] = add_t5_half(blocks + 32, n, whole, q, total[1]);
}

/* Bits p and p + 4 of half a block, p < 4, to sums[p], 2^p times too large. */
static inline __attribute__((always_inline)) void add_bits(__m256i v, size_t n_planes,
                                                           const int8_t *q, __m256i sums[4]) {
#pragma GCC unroll 8
    for (size_t p = 0; p < n_planes; p++) {
        __m256i bits = p < 4 ? v : _mm256_srli_epi16(v, 4);
        bits = _mm256_and_si256(bits, _mm256_set1_epi8((char)(1 << p % 4)));
        sums[p % 4] = dot2(sums[p % 4], bits, bl__broadcast4(q + 4 * p));
    }
}

/* n <= SAFE_BLOCKS blocks of a tile of B1; half_block: the last has but 16 columns. */
static inline __attribute__((always_inline)) void
add_b1_blocks(const uint8_t *blocks, size_t n, bool half_block, const int8_t *q, __m256i total[2]) {
    __m256i sums[2][4];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        sums[i / 4][i % 4] = _mm256_setzero_si256();
    for (size_t b = 0; b < n - half_block; b++, blocks += BL_T2_BLOCK_BYTES, q += BL_B1_COLS) {
        _mm_prefetch((const char *)blocks + AHEAD, _MM_HINT_T0);
        add_bits(bl__load256(blocks), 8, q, sums[0]);
        add_bits(bl__load256(blocks + 32), 8, q, sums[1]);
    }
    if (half_block) {
        add_bits(bl__load256(blocks), 4, q, sums[0]);
        add_bits(bl__load256(blocks + 32), 4, q, sums[1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        total[i / 4] = widen(total[i / 4], sums[i / 4][i % 4], i % 4);
}

void bl__t5_gemv_avx2(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                      size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__t2_blocks(cols), n_groups = n / BL_T5_GROUP_T2_BLOCKS;
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__t5_stride(cols);
        const uint8_t *blocks = scales + BL_T2_SCALE_BYTES;
        const int8_t *q = x->q;
        __m256i total[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t g = 0, here; g < n_groups; g += here) {
            here = n_groups - g < SAFE_GROUPS ? n_groups - g : SAFE_GROUPS;
            add_t5_blocks(blocks, here * BL_T5_GROUP_BLOCKS, true, q, total);
            blocks += here * BL_T5_GROUP_BLOCKS * BL_T2_BLOCK_BYTES;
            q += here * BL_T5_GROUP_COLS;
        }
        add_t5_blocks(blocks, n % BL_T5_GROUP_T2_BLOCKS, false, q, total);
        bl__write_tile256(total, scales, rows - tile * BL_T2_ROWS, x, out + tile * BL_T2_ROWS);
    }
}

void bl__b1_gemv_avx2(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                      size_t n_tiles, const bl__q8 *x, float *out) {
    size_t n = bl__b1_blocks(cols);
    bool odd = bl__t2_blocks(cols) % 2 != 0;
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint8_t *scales = tiles + tile * bl__b1_stride(cols);
        __m256i total[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t b = 0, here; b < n; b += here) {
            here = n - b < SAFE_BLOCKS ? n - b : SAFE_BLOCKS;
            add_b1_blocks(scales + BL_T2_SCALE_BYTES + b * BL_T2_BLOCK_BYTES, here,
                          odd && b + here == n, x->q + b * BL_B1_COLS, total);
        }
        for (size_t half = 0; half < 2; half++) /* codes are 0 and 2 */
            total[half] = _mm256_add_epi32(total[half], total[half]);
        bl__write_tile256(total, scales, rows - tile * BL_T2_ROWS, x, out + tile * BL_T2_ROWS);
    }
}
