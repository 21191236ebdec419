/* Weight layouts: the one definition of how every supported tensor type stores numbers.
 *
 * A tensor is weights[rows][cols], rows = outputs, cols = inputs. Rows are what a layout packs; a
 * row's values are contiguous in the sense of its layout. Plain C, no SIMD, no I/O: kernels and
 * converters share these functions, and tests hold them to published bytes.
 * Sources: ggml block formats, microsoft/BitNet I2_S, ik_llama.cpp IQ*_BN, transformers packed U8.
 */
#ifndef BL_QUANT_QUANT_H
#define BL_QUANT_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

typedef enum bl__layout {
    BL_LAYOUT_F32,
    BL_LAYOUT_F16,
    BL_LAYOUT_BF16,
    BL_LAYOUT_Q8_0,
    BL_LAYOUT_Q4_0,
    BL_LAYOUT_Q4_1,
    BL_LAYOUT_Q6_K,
    BL_LAYOUT_I2_S,     /* as x86 builds of bitnet.cpp write it; what a file's type 36 means */
    BL_LAYOUT_I2_S_ARM, /* as ARM builds write it; same type id, so only ever chosen by hand */
    BL_LAYOUT_TQ1_0,
    BL_LAYOUT_TQ2_0,
    BL_LAYOUT_Q1_0,
    BL_LAYOUT_Q2_0,
    BL_LAYOUT_IQ1_BN,
    BL_LAYOUT_IQ2_BN,
    BL_LAYOUT_HF_U8, /* transformers' packed ternary; safetensors only, scale kept elsewhere */
    BL_LAYOUT_T2,    /* Bitloom's native ternary layout at 2 bits, see t2.h */
    BL_LAYOUT_T5,    /* the same at 1.6 bits, see t5.h */
    BL_LAYOUT_B1,    /* and for -1 and +1 at 1 bit, see b1.h */
    BL_LAYOUT_R2,    /* at 2 bits too: rows that can be left out, see skip.h */
    BL_LAYOUT_C2,    /* and columns */
    BL_LAYOUT_L1,    /* two levels a row and block of columns, see levels.h */
    BL_LAYOUT_L2,    /* four levels */
    BL_LAYOUT_S2,    /* and four others for salient columns */
    BL_LAYOUT_COUNT
} bl__layout;

enum { BL_TYPE_ID_NONE = -1 };

typedef struct bl__layout_info {
    const char *name;       /* "tq2_0": for people, options and messages */
    int32_t type_id;        /* GGUF tensor type, BL_TYPE_ID_NONE when it has none */
    int32_t file_type;      /* general.file_type of a file mostly of this layout, or -1 */
    uint32_t block_cols;    /* cols must be a multiple of this */
    bool ternary;           /* holds only scale x {-1, 0, +1}, or a part of these */
    const char *scale_rule; /* "tensor", "row", "block of 256", "none": for docs and messages */
} bl__layout_info;

const bl__layout_info *bl__layout_get(bl__layout layout);
/* Whether kernels read it as it lies in a file: tiles of 16 rows. */
bool bl__layout_is_native(bl__layout layout);
/* Which of the native layouts suits linears of so many weights in the whole model: B1 for -1 and +1
 * alone; T2 where 2 bits a weight stay in a last-level cache (BL_NATIVE_CACHE_BYTES), T5 beyond,
 * where bytes are what takes the time. A rule and no measurement: the same everywhere. */
enum { BL_NATIVE_CACHE_BYTES = 32 * 1024 * 1024 };
bl__layout bl__layout_choose_native(bool binary, uint64_t n_weights);
bool bl__layout_from_type_id(uint32_t type_id, bl__layout *out);
bool bl__layout_from_name(const char *name, bl__layout *out);

/* Size in bytes of a whole tensor, trailing scale and padding included. BL_ERR_ARGUMENT when cols
 * is not a multiple of block_cols (or rows of 4, for hf_u8), BL_ERR_LIMIT on overflow. */
bl_status bl__layout_bytes(bl__layout layout, size_t rows, size_t cols, size_t *bytes,
                           bl_error *err);

/* Writes row `row` as floats: out[cols]. tensor holds bl__layout_bytes() bytes. hf_u8 gives
 * -1, 0, +1. Never fails: impossible codes give what their arithmetic gives; see
 * bl__layout_check_row. */
void bl__layout_unpack_row(bl__layout layout, const void *tensor, size_t rows, size_t cols,
                           size_t row, float *out);

/* False when the row holds a code that the layout does not define (code 3 of a 2-bit ternary
 * layout, a base-3 byte that no digits give, padding of a native layout that is not zero), or a
 * scale, or a weight of a float layout, that is NaN or infinite. */
bool bl__layout_check_row(bl__layout layout, const void *tensor, size_t rows, size_t cols,
                          size_t row);

enum { BL_PACK_ROWS = 256 };

/* Whether rows packed as a tensor of their own, from a multiple of BL_PACK_ROWS on, are the bytes
 * that they have in the whole tensor. */
bool bl__layout_is_divisible(bl__layout layout);

/* Packs rows first_row ... first_row + n_rows - 1 from weights[n_rows][cols] into the tensor.
 * Ternary layouts demand values that are ternary to the bit within each scale's reach (magnitude 1
 * for hf_u8), and store the scale as the layout does: float16 rounds it to half to even.
 * tensor_scale: the one magnitude of all non-zero weights, used by i2_s and i2_s_arm only, whose
 * trailer is written with row 0. Ranges that start and end at multiples of BL_PACK_ROWS rows may be
 * packed by different threads (except hf_u8).
 * The quantizing layouts (q8_0, q4_0, q4_1, q1_0) round as ggml does, f16 and bf16 half to even;
 * q6_k cannot be packed.
 * Errors: BL_ERR_UNSUPPORTED, naming layout and row, for several magnitudes within a scale's reach,
 * values that are not finite, a scale that float16 cannot hold, or no packer. */
bl_status bl__layout_pack_rows(bl__layout layout, const float *weights, size_t rows, size_t cols,
                               size_t first_row, size_t n_rows, float tensor_scale, void *tensor,
                               bl_error *err);

/* True when no weight of a ternary row[cols] is 0, unless all of them are. */
bool bl__row_is_binary(const float *row, size_t cols);

/* True when row[cols] is scale x {-1, 0, +1} to the bit; then codes[i] = value / scale + 1 and
 * *scale is the magnitude (0 for a row of zeros). codes may be NULL. */
bool bl__row_is_ternary(const float *row, size_t cols, uint8_t *codes, float *scale);

/* The b1.58 rule (arXiv 2402.17764 eq. 1-3) in the float32 arithmetic that models are trained with
 * ("Training Tips, Code and FAQ", transformers): s = 1 / max(mean |w|, 1e-5) over the whole tensor,
 * w -> clamp(round_half_even(w * s), -1, 1) / s. weights[n] is replaced in place by
 * gamma x {-1, 0, +1}; returns gamma = 1 / s, or NaN, with the weights untouched, when the mean is
 * not finite. The mean is summed in double. */
float bl__absmean_ternarize(float *weights, size_t n);

/* The same rule for a tensor that comes in pieces, however it is cut: start from zeros, add all of
 * it once, then ternarize piece by piece. */
typedef struct bl__absmean {
    double lanes[8]; /* weight i counts in lane i % 8: an order that no machine changes */
    uint64_t n;
} bl__absmean;
void bl__absmean_add(bl__absmean *mean, const float *weights, size_t n);
/* s of the rule, or NaN when the mean is not finite. */
float bl__absmean_inverse(const bl__absmean *mean);
/* w -> clamp(round_half_even(w * s), -1, 1) / s for weights[n], in place. */
void bl__ternarize(float *weights, size_t n, float inverse);

#endif
