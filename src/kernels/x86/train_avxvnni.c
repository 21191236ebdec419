/* Owns training's int8 products for AVX-VNNI. See the contract in train_kernels.h. */
#include <immintrin.h>

#include "kernels/levels.h"
#include "kernels/train_loops.h"

enum { PANEL = 16, INT8_ROWS = 6 };
PACKERS_INT8(PANEL)

typedef struct b_row {
    __m256i low, high;
} b_row;

static inline b_row load_row(const __m256i *b) {
    return (b_row){_mm256_loadu_si256(b), _mm256_loadu_si256(b + 1)};
}

/* The intrinsic, told to stay where it is: gcc moves sums from register to register around it. */
static inline __attribute__((always_inline)) void add_products(__m256i sum[2], const b_row *b,
                                                               __m256i a) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[0]) : "x"(b->low), "x"(a));
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[1]) : "x"(b->high), "x"(a));
}

#include "kernels/x86/train_int8_256.h"

void bl__train_fill_avxvnni(bl__train_kernels *table) {
    table->int8 = gemm_int8("int8 avxvnni");
    table->int8.multiply = multiply_int8;
}
