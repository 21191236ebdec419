/* What the processor and the operating system allow, and how many cores there are. */
#ifndef BL_CPU_CPU_H
#define BL_CPU_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, bit, text). A feature counts only when the operating system saves its registers too. */
#define BL_CPU_FEATURES(X)                                                                         \
    X(AVX2, 0, "avx2")                                                                             \
    X(FMA, 1, "fma")                                                                               \
    X(F16C, 2, "f16c")                                                                             \
    X(AVXVNNI, 3, "avxvnni")                                                                       \
    X(AVX512F, 4, "avx512f")                                                                       \
    X(AVX512BW, 5, "avx512bw")                                                                     \
    X(AVX512DQ, 6, "avx512dq")                                                                     \
    X(AVX512VL, 7, "avx512vl")                                                                     \
    X(AVX512VNNI, 8, "avx512vnni")                                                                 \
    X(AVX512VBMI, 9, "avx512vbmi")                                                                 \
    X(AVX512BF16, 10, "avx512bf16")                                                                \
    X(GFNI, 11, "gfni")                                                                            \
    X(AMX_INT8, 12, "amx-int8")                                                                    \
    X(AMX_BF16, 13, "amx-bf16")                                                                    \
    X(NEON, 16, "neon")                                                                            \
    X(DOTPROD, 17, "dotprod")                                                                      \
    X(I8MM, 18, "i8mm")

enum {
#define BL_CPU_FEATURE_ENUM(name, bit, text) BL_CPU_##name = 1 << (bit),
    BL_CPU_FEATURES(BL_CPU_FEATURE_ENUM)
#undef BL_CPU_FEATURE_ENUM
};

/* The features of this machine, found once; safe from any thread. */
uint32_t bl__cpu_features(void);

static inline bool bl__cpu_has(uint32_t wanted) {
    return (bl__cpu_features() & wanted) == wanted;
}

/* Physical cores among the processors that this process may use, and no more than its control group
 * grants; at least 1. */
uint32_t bl__cpu_physical_cores(void);

/* Cores that a control group's cpu.max grants ("150000 100000": two), 0 when it sets no limit. */
uint32_t bl__cpu_quota(const char *cpu_max);

/* Reads sysfs's "0-1,3\n" into nodes[max]; returns how many, 0 when it is anything else. */
size_t bl__cpu_node_list(const char *list, uint32_t *nodes, size_t max);

#endif
