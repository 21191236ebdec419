/* Owns the products that leave out rows and columns by ARMv8.2's dot products. Same bits as
 * kernels/ref. */
#include <arm_neon.h>

enum { PLANES_AT_ONCE = 4 };

typedef int32x4_t dots4;

static inline dots4 no_dots(void) {
    return vdupq_n_s32(0);
}
static inline dots4 dot4(dots4 sum, uint8x16_t codes, int8x16_t q) {
    return vdotq_s32(sum, vreinterpretq_s8_u8(codes), q);
}
static inline int32x4_t finish(dots4 sum) {
    return sum;
}

#include "kernels/arm/skip128.h"

void bl__skip_fill_dotprod(bl__kernels *table) {
    table->listed_rows = listed_rows;
    table->listed_columns = listed_columns;
}
