/* Private to kernels/arm: what a lower level lends to the higher ones for ternary tiles. No inline
 * functions: each is compiled once, with the flags of the level that owns it. */
#ifndef BL_KERNELS_ARM_TILES_H
#define BL_KERNELS_ARM_TILES_H

#include "kernels/kernels.h"
#include "quant/t2.h"

/* A loop over registers, unrolled whole: otherwise a compiler may keep them in memory. */
#if defined(__clang__)
#define EACH(i, n) _Pragma("clang loop unroll(full)") for (size_t i = 0; i < (n); i++)
#else
#define EACH(i, n) _Pragma("GCC unroll 8") for (size_t i = 0; i < (n); i++)
#endif

/* out[t * out_stride + r] = (dots[t][r] - sum[t]) * step[t] * scale[r] for r < n_rows;
 * dots: int32[n_tokens][16]. */
void bl__t2_scale_dots_neon(const int32_t *dots, size_t n_tokens, const uint8_t *scales,
                            size_t n_rows, const int32_t *sum, const float *step, float *out,
                            size_t out_stride);

/* The slots t5_unpack and b1_unpack of level neon. */
void bl__t5_unpack_neon(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2);
void bl__b1_unpack_neon(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2);

/* The slot ternary_gemm of level dotprod. */
void bl__ternary_gemm_dotprod(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                              size_t n_tiles, const bl__q8 *x, size_t n_tokens, float *out,
                              size_t out_stride);

#endif
