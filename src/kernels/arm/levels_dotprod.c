/* Owns products with the layouts L1, L2 and S2 by ARMv8.2's dot products. Same bits as kernels/ref.
 */
#include <arm_neon.h>

typedef int32x4_t dots4;

static inline dots4 no_dots(void) {
    return vdupq_n_s32(0);
}
static inline dots4 dot4(dots4 sum, int8x16_t levels, int8x16_t q) {
    return vdotq_s32(sum, levels, q);
}
static inline int32x4_t finish(dots4 sum) {
    return sum;
}

#include "kernels/arm/levels128.h"

void bl__levels_fill_dotprod(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
