/* Owns detection of features. Must not know which kernels exist. */
#include "cpu/cpu.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "bitloom/system.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t features;
static char feature_text[256];
static char name_text[64];

#if defined(__x86_64__)
static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static uint32_t when(bool condition, uint32_t flag) {
    return condition ? flag : 0;
}

/* Source: Intel SDM volume 1 chapters 13 and 14, volume 2 CPUID. */
static uint32_t detect_features(void) {
    enum { XCR0_YMM = 0x6, XCR0_ZMM = 0xe6, XCR0_TILES = 0x60000 };
    uint32_t a, b, c, d, found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    uint64_t xcr0 = read_xcr0();
    if ((xcr0 & XCR0_YMM) != XCR0_YMM || !(c & bit_AVX))
        return 0;
    found |= when(c & bit_FMA, BL_CPU_FMA) | when(c & bit_F16C, BL_CPU_F16C);
    uint32_t a7, b7, c7, d7, a71 = 0, unused;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return found;
    if (a7 >= 1)
        __get_cpuid_count(7, 1, &a71, &unused, &unused, &unused);
    found |= when(b7 >> 5 & 1, BL_CPU_AVX2) | when(a71 >> 4 & 1, BL_CPU_AVXVNNI) |
             when(c7 >> 8 & 1, BL_CPU_GFNI);
    if ((xcr0 & XCR0_ZMM) == XCR0_ZMM)
        found |= when(b7 >> 16 & 1, BL_CPU_AVX512F) | when(b7 >> 30 & 1, BL_CPU_AVX512BW) |
                 when(b7 >> 17 & 1, BL_CPU_AVX512DQ) | when(b7 >> 31 & 1, BL_CPU_AVX512VL) |
                 when(c7 >> 11 & 1, BL_CPU_AVX512VNNI) | when(c7 >> 1 & 1, BL_CPU_AVX512VBMI) |
                 when(a71 >> 5 & 1, BL_CPU_AVX512BF16);
    if ((xcr0 & XCR0_TILES) == XCR0_TILES && (d7 >> 24 & 1))
        found |= when(d7 >> 25 & 1, BL_CPU_AMX_INT8) | when(d7 >> 22 & 1, BL_CPU_AMX_BF16);
    return found;
}

static void detect_name(void) {
    uint32_t words[12];
    for (uint32_t i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                         &words[4 * i + 3]))
            return;
    memcpy(name_text, words, sizeof words);
    size_t len = strnlen(name_text, sizeof words);
    while (len && name_text[len - 1] == ' ')
        name_text[--len] = '\0';
}
#elif defined(__aarch64__)
static uint32_t detect_features(void) {
    enum { CAP_ASIMD = 1 << 1, CAP_ASIMDDP = 1 << 20, CAP2_I8MM = 1 << 13 };
    unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
    return (caps & CAP_ASIMD ? BL_CPU_NEON : 0) | (caps & CAP_ASIMDDP ? BL_CPU_DOTPROD : 0) |
           (caps2 & CAP2_I8MM ? BL_CPU_I8MM : 0);
}
static void detect_name(void) {
    snprintf(name_text, sizeof name_text, "aarch64");
}
#else
static uint32_t detect_features(void) {
    return 0;
}
static void detect_name(void) {}
#endif

static void detect(void) {
    features = detect_features();
    detect_name();
    size_t at = 0;
#define BL_CPU_FEATURE_TEXT(name, bit, text)                                                       \
    if (features & BL_CPU_##name)                                                                  \
        at += (size_t)snprintf(feature_text + at, sizeof feature_text - at, "%s%s", at ? " " : "", \
                               text);
    BL_CPU_FEATURES(BL_CPU_FEATURE_TEXT)
#undef BL_CPU_FEATURE_TEXT
}

uint32_t bl__cpu_features(void) {
    pthread_once(&once, detect);
    return features;
}

const char *bl_cpu_features(void) {
    pthread_once(&once, detect);
    return feature_text;
}

const char *bl_cpu_name(void) {
    pthread_once(&once, detect);
    return name_text;
}
