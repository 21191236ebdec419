/* Owns the choice of kernels. The only file that names instruction sets. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitloom/system.h"
#include "cpu/cpu.h"
#include "kernels/kernels.h"
#include "kernels/levels.h"

typedef struct level {
    const char *name;
    uint32_t needs;
    void (*fill)(
        bl__kernels *table); /* overrides what it improves; NULL = nothing of its own yet */
} level;

/* Lowest first. A level without kernels of its own still works as a cap. */
static const level levels[] = {
    {"ref", 0, bl__kernels_fill_ref},
#if defined(__x86_64__)
    {"avx2", BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C, bl__kernels_fill_avx2},
    {"avxvnni", BL_CPU_AVXVNNI | BL_CPU_AVX2, NULL},
    {"avx512", BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ | BL_CPU_AVX512VL, NULL},
    {"avx512vnni",
     BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C | BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ |
         BL_CPU_AVX512VL | BL_CPU_AVX512VNNI,
     bl__kernels_fill_avx512vnni},
    {"amx", BL_CPU_AMX_INT8, NULL},
#elif defined(__aarch64__)
    {"neon", BL_CPU_NEON, NULL},
    {"dotprod", BL_CPU_DOTPROD, NULL},
    {"i8mm", BL_CPU_I8MM, NULL},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bl__kernels chosen;
static char level_names[128];

static bool can_run(const level *l) {
    return bl__cpu_has(l->needs);
}

/* Fills the table with everything up to and including level `last`. */
static void build(size_t last, bl__kernels *table) {
    for (size_t i = 0; i <= last; i++)
        if (levels[i].fill && can_run(&levels[i])) {
            levels[i].fill(table);
            table->level = levels[i].name;
        }
}

/* The index of the cap that BITLOOM_CPU names; the top when it is unset or unknown. */
static size_t user_cap(void) {
    const char *name = getenv("BITLOOM_CPU");
    for (size_t i = 0; name && i < N_LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0)
            return i;
    return N_LEVELS - 1;
}

static void choose(void) {
    build(user_cap(), &chosen);
    size_t at = 0;
    for (size_t i = 0; i < N_LEVELS; i++)
        if (levels[i].fill && can_run(&levels[i]))
            at += (size_t)snprintf(level_names + at, sizeof level_names - at, "%s%s", at ? " " : "",
                                   levels[i].name);
}

const bl__kernels *bl__kernels_get(void) {
    pthread_once(&once, choose);
    return &chosen;
}

bool bl__kernels_for(const char *name, bl__kernels *out) {
    for (size_t i = 0; i < N_LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0 && levels[i].fill && can_run(&levels[i])) {
            build(i, out);
            return true;
        }
    return false;
}

const char *bl_kernel_level(void) {
    return bl__kernels_get()->level;
}

const char *bl_kernel_levels(void) {
    pthread_once(&once, choose);
    return level_names;
}

const char *bl_version(void) {
    return BITLOOM_VERSION;
}
