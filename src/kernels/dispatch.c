/* Owns the choice of kernels. The only file that knows what an instruction set needs. */
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
    /* Override what it improves; NULL: nothing of its own yet. */
    void (*fill)(bl__kernels *table);
    void (*fill_train)(bl__train_kernels *table);
} level;

/* Lowest first. A level without kernels of its own still works as a cap. */
static const level levels[] = {
    {"ref", 0, bl__kernels_fill_ref, bl__train_fill_ref},
#if defined(__x86_64__)
    {"avx2", BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C, bl__kernels_fill_avx2, bl__train_fill_avx2},
    {"avxvnni", BL_CPU_AVXVNNI | BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C, bl__kernels_fill_avxvnni,
     bl__train_fill_avxvnni},
    {"avx512", BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ | BL_CPU_AVX512VL, NULL, NULL},
    {"avx512vnni",
     BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C | BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ |
         BL_CPU_AVX512VL | BL_CPU_AVX512VNNI,
     bl__kernels_fill_avx512vnni, bl__train_fill_avx512vnni},
    {"avx512vbmi",
     BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C | BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ |
         BL_CPU_AVX512VL | BL_CPU_AVX512VNNI | BL_CPU_AVX512VBMI,
     bl__kernels_fill_avx512vbmi, NULL},
    {"avx512bf16",
     BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C | BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ |
         BL_CPU_AVX512VL | BL_CPU_AVX512VNNI | BL_CPU_AVX512BF16,
     NULL, bl__train_fill_avx512bf16},
    {"amx",
     BL_CPU_AVX2 | BL_CPU_FMA | BL_CPU_F16C | BL_CPU_AVX512F | BL_CPU_AVX512BW | BL_CPU_AVX512DQ |
         BL_CPU_AVX512VL | BL_CPU_AVX512VNNI | BL_CPU_AMX_INT8,
     bl__kernels_fill_amx, NULL},
#elif defined(__aarch64__)
    {"neon", BL_CPU_NEON, bl__kernels_fill_neon, bl__train_fill_neon},
    {"dotprod", BL_CPU_NEON | BL_CPU_DOTPROD, bl__kernels_fill_dotprod, bl__train_fill_dotprod},
    {"i8mm", BL_CPU_NEON | BL_CPU_DOTPROD | BL_CPU_I8MM, bl__kernels_fill_i8mm, NULL},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static pthread_once_t once = PTHREAD_ONCE_INIT, tried = PTHREAD_ONCE_INIT;
static const char *failure; /* why a level that the processor has cannot be used; NULL: none */
static bl__kernels chosen;
static bl__train_kernels chosen_train;
static size_t cap; /* index of the highest level that the user allows */
static char level_names[128];

/* AMX wants the system's leave, and its kernels have been run by an emulator only. */
static void try_amx(void) {
#if defined(__x86_64__)
    failure = bl__amx_fails();
#endif
}

static bool can_run(const level *l) {
    if (!bl__cpu_has(l->needs))
        return false;
    if (l->needs & BL_CPU_AMX_INT8) {
        pthread_once(&tried, try_amx);
        return !failure;
    }
    return true;
}

/* Fills the table with everything up to and including level `last`. */
static void build(size_t last, bl__kernels *table) {
    for (size_t i = 0; i <= last; i++)
        if (levels[i].fill && can_run(&levels[i])) {
            levels[i].fill(table);
            table->level = levels[i].name;
        }
}

static void build_train(size_t last, bl__train_kernels *table) {
    for (size_t i = 0; i <= last; i++)
        if (levels[i].fill_train && can_run(&levels[i])) {
            levels[i].fill_train(table);
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
    cap = user_cap();
    build(cap, &chosen);
    build_train(cap, &chosen_train);
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

bool bl__level_runs(const char *name, bool *allowed) {
    pthread_once(&once, choose);
    for (size_t i = 0; i < N_LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0 && can_run(&levels[i])) {
            *allowed = i <= cap;
            return true;
        }
    return false;
}

const bl__train_kernels *bl__train_kernels_get(void) {
    pthread_once(&once, choose);
    return &chosen_train;
}

bool bl__train_kernels_for(const char *name, bl__train_kernels *out) {
    for (size_t i = 0; i < N_LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0 && levels[i].fill_train && can_run(&levels[i])) {
            build_train(i, out);
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

const char *bl_kernel_notice(void) {
    pthread_once(&once, choose);
    return failure ? failure : "";
}

const char *bl_version(void) {
    return BITLOOM_VERSION;
}
