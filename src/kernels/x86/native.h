/* Private to kernels/x86: the native layouts T5 and B1. No inline functions: each is compiled once,
 * with the flags of the level that owns it. */
#ifndef BL_KERNELS_X86_NATIVE_H
#define BL_KERNELS_X86_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Slots of level avx2. */
void bl__t5_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2);
void bl__b1_unpack_avx2(const uint8_t *tiles, size_t cols, size_t first_tile, size_t n_tiles,
                        uint8_t *t2);
void bl__t5_gemv_avx2(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                      size_t n_tiles, const bl__q8 *x, float *out);
void bl__b1_gemv_avx2(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                      size_t n_tiles, const bl__q8 *x, float *out);

/* Slots of level avxvnni. */
void bl__t5_gemv_avxvnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, float *out);
void bl__b1_gemv_avxvnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                         size_t n_tiles, const bl__q8 *x, float *out);

/* Slots of level avx512vnni. */
void bl__t5_gemv_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                            size_t n_tiles, const bl__q8 *x, float *out);
void bl__b1_gemv_avx512vnni(const uint8_t *tiles, size_t rows, size_t cols, size_t first_tile,
                            size_t n_tiles, const bl__q8 *x, float *out);

#endif
