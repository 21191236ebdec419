/* Seeded random numbers: xoshiro256** (Blackman and Vigna, arXiv 1805.01407), seeded by
 * SplitMix64. The same seed gives the same sequence everywhere. */
#ifndef BL_BASE_RANDOM_H
#define BL_BASE_RANDOM_H

#include <stdint.h>

typedef struct bl__random {
    uint64_t state[4];
} bl__random;

static inline void bl__random_seed(bl__random *random, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        random->state[i] = z ^ (z >> 31);
    }
}

static inline uint64_t bl__random_rotate(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

static inline uint64_t bl__random_u64(bl__random *random) {
    uint64_t *s = random->state;
    uint64_t result = bl__random_rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = bl__random_rotate(s[3], 45);
    return result;
}

/* Uniform in [0, 1), 53 bits. */
static inline double bl__random_f64(bl__random *random) {
    return (double)(bl__random_u64(random) >> 11) * 0x1p-53;
}

/* Uniform in 0 ... n - 1, 0 < n < 2^32; the bias, below 2^-21 of a count, does not matter here. */
static inline uint64_t bl__random_below(bl__random *random, uint64_t n) {
    return (uint64_t)(bl__random_f64(random) * (double)n);
}

#endif
