/* Owns products with the layouts L1, L2 and S2 by AVX2. Same bits as kernels/ref. */
#include <immintrin.h>

/* A pair of products is at most 2 x 127 x 128 = 32,512 and does not saturate. */
static inline __m256i dot4(__m256i sum, __m256i levels, __m256i q) {
    __m256i pairs = _mm256_maddubs_epi16(levels, q);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "kernels/x86/levels256.h"

void bl__levels_fill_avx2(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
