/* Owns the products that leave out rows and columns by plain NEON. Same bits as kernels/ref. */
#include <arm_neon.h>

enum { PLANES_AT_ONCE = 2 };

/* A dot4 adds one product to each int16, 3 x 128 = 384 at most: 80 x 384 < 32,768. */
typedef struct dots4 {
    int16x8_t low, high; /* of the first and the last eight bytes */
} dots4;

static inline dots4 no_dots(void) {
    return (dots4){vdupq_n_s16(0), vdupq_n_s16(0)};
}
static inline dots4 dot4(dots4 sum, uint8x16_t codes, int8x16_t q) {
    int8x16_t w = vreinterpretq_s8_u8(codes);
    sum.low = vmlal_s8(sum.low, vget_low_s8(w), vget_low_s8(q));
    sum.high = vmlal_high_s8(sum.high, w, q);
    return sum;
}
static inline int32x4_t finish(dots4 sum) {
    return vpaddq_s32(vpaddlq_s16(sum.low), vpaddlq_s16(sum.high));
}

#include "kernels/arm/skip128.h"

void bl__skip_fill_neon(bl__kernels *table) {
    table->listed_rows = listed_rows;
    table->listed_columns = listed_columns;
}
