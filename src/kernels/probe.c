/* Owns the list of probes and those in plain C. What a level needs is known to dispatch.c. */
#include "kernels/probe.h"

#include <string.h>

#include "kernels/levels.h"

static const bl__probe probes[] = {
    {.level = "ref", .int8 = bl__probe_int8_ref, .read = bl__probe_read_ref},
#if defined(__x86_64__)
    {.level = "avx2", .int8 = bl__probe_int8_avx2, .read = bl__probe_read_avx2},
    {.level = "avxvnni", .int8 = bl__probe_int8_avxvnni},
    {.level = "avx512", .int8 = bl__probe_int8_avx512, .read = bl__probe_read_avx512},
    {.level = "avx512vnni", .int8 = bl__probe_int8_avx512vnni},
    {.level = "amx", .int8 = bl__probe_int8_amx},
#elif defined(__aarch64__)
    {.level = "neon", .int8 = bl__probe_int8_neon},
    {.level = "dotprod", .int8 = bl__probe_int8_dotprod},
    {.level = "i8mm", .int8 = bl__probe_int8_i8mm},
#endif
};
enum { N_PROBES = sizeof probes / sizeof probes[0] };
_Static_assert(sizeof probes <= BL_MAX_PROBES * sizeof probes[0], "callers have room for so many");

size_t bl__probes_get(bl__probe out[BL_MAX_PROBES]) {
    size_t n = 0;
    for (size_t i = 0; i < N_PROBES; i++) {
        bl__probe probe = probes[i];
        if (bl__level_runs(probe.level, &probe.allowed))
            out[n++] = probe;
    }
    return n;
}

uint64_t bl__probe_int8_ref(size_t n_rounds) {
    enum { SUMS = 8 };
    uint32_t sums[SUMS] = {0}, a = 3, b = 5;
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : "+r"(sums[s])); /* sums that the compiler must take for different */
    for (size_t i = 0; i < n_rounds; i++)
        for (size_t s = 0; s < SUMS; s++) {
            /* New values each time, as far as the compiler can tell. */
            __asm__("" : "+r"(a), "+r"(b));
            sums[s] += a * b;
        }
    for (size_t s = 0; s < SUMS; s++)
        __asm__ volatile("" : : "r"(sums[s]));
    return (uint64_t)n_rounds * SUMS * 2;
}

uint64_t bl__probe_read_ref(const uint8_t *bytes, size_t n) {
    uint64_t words[8], any[8] = {0};
    for (size_t i = 0; i < n; i += sizeof words) {
        memcpy(words, bytes + i, sizeof words);
        for (size_t w = 0; w < 8; w++)
            any[w] |= words[w];
    }
    for (size_t w = 1; w < 8; w++)
        any[0] |= any[w];
    return any[0];
}
