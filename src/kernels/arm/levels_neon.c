/* Owns products with the layouts L1, L2 and S2 by plain NEON. Same bits as kernels/ref. */
#include <arm_neon.h>

/* Two sums for each row; a product is at most 64 x 128 in magnitude. */
typedef struct dots4 {
    int32x4_t low, high; /* rows 0 and 1, rows 2 and 3 */
} dots4;

static inline dots4 no_dots(void) {
    return (dots4){vdupq_n_s32(0), vdupq_n_s32(0)};
}
static inline dots4 dot4(dots4 sum, int8x16_t levels, int8x16_t q) {
    sum.low = vpadalq_s16(sum.low, vmull_s8(vget_low_s8(levels), vget_low_s8(q)));
    sum.high = vpadalq_s16(sum.high, vmull_high_s8(levels, q));
    return sum;
}
static inline int32x4_t finish(dots4 sum) {
    return vpaddq_s32(sum.low, sum.high);
}

#include "kernels/arm/levels128.h"

void bl__levels_fill_neon(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
