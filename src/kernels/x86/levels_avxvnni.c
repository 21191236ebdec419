/* Owns products with the layouts L1, L2 and S2 by AVX-VNNI. Same bits as kernels/ref. */
#include <immintrin.h>

static inline __m256i dot4(__m256i sum, __m256i levels, __m256i q) {
    return _mm256_dpbusd_avx_epi32(sum, levels, q);
}

#include "kernels/x86/levels256.h"

void bl__levels_fill_avxvnni(bl__kernels *table) {
    table->levels_gemm = levels_gemm;
}
