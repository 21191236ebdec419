/* Owns the kernels of AMX-INT8: the instructions, whether the system lets us use them, and whether
 * they do what they should. Same bits as kernels/ref; see the contract in kernels.h.
 *
 * No machine with AMX was at hand when this was written. tests/kernels/test_amx.c holds
 * gemm_amx.h to ref with tiles in C, tools/test_amx.sh the instructions in an emulator; here they
 * are held to ref when the table is built. */
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/levels.h"

/* gcc 12's own functions for tiles do not say which memory they read and write, so it may drop
 * stores to a configuration or to an operand: each of these says so. */
#define TILE_TEXT(text) #text
#define TILE_CONFIGURE(config)                                                                     \
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const bl__tile_config *)(config)))
#define TILE_LOAD(t, p, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" TILE_TEXT(t)                                     \
                     :                                                                             \
                     : "r"(p), "r"((size_t)(stride))                                               \
                     : "memory")
#define TILE_STORE(t, p, stride)                                                                   \
    __asm__ volatile("tilestored %%tmm" TILE_TEXT(t) ", (%0,%1,1)"                                 \
                     :                                                                             \
                     : "r"(p), "r"((size_t)(stride))                                               \
                     : "memory")
#define TILE_MULTIPLY(c, a, b)                                                                     \
    __asm__ volatile("tdpbsud %%tmm" TILE_TEXT(b) ", %%tmm" TILE_TEXT(a) ", %%tmm" TILE_TEXT(c) : :)
#define TILE_RELEASE() __asm__ volatile("tilerelease" : :)

#include "kernels/x86/gemm_amx.h"

static void ternary_gemm(BL_GEMM_ARGUMENTS) {
    if (n_tokens < AMX_FEWEST_TOKENS)
        bl__ternary_gemm_avx512vnni(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out,
                                    out_stride);
    else
        amx_gemm(tiles, rows, cols, first_tile, n_tiles, x, n_tokens, out, out_stride);
}

/* Linux gives a process the registers of tiles only when it asks for them.
 * Sources: Intel SDM volume 1 chapter 18; Linux, Documentation/arch/x86/xstate.rst. */
static bool ask_for_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* A small product with tails everywhere, by the instructions and by ref. */
static bool agrees_with_ref(void) {
    enum { ROWS = 44, COLS = 1180, STRIDE = 1184, TOKENS = 55, TILES = 3 };
    static uint8_t tiles[TILES * (BL_T2_SCALE_BYTES + STRIDE / BL_T2_COLS * BL_T2_BLOCK_BYTES)];
    static int8_t q[TOKENS * STRIDE];
    static float got[TOKENS * ROWS], want[TOKENS * ROWS];
    float step[TOKENS];
    int32_t sum[TOKENS];
    uint32_t random = 1;
    bl__kernels ref;
    bl__kernels_fill_ref(&ref);
    for (size_t i = 0; i < sizeof tiles; i++)
        tiles[i] = (uint8_t)((random = random * 1664525 + 1013904223) >> 24);
    for (size_t tile = 0; tile < TILES; tile++)
        for (size_t r = 0; r < BL_T2_ROWS; r++) {
            const float scale = 0.25f + (float)r;
            memcpy(tiles + tile * bl__t2_stride(COLS) + r * sizeof scale, &scale, sizeof scale);
        }
    for (size_t t = 0; t < TOKENS; t++) {
        step[t] = 0.5f / (float)(t + 1);
        sum[t] = 0;
        for (size_t c = 0; c < COLS; c++) {
            q[t * STRIDE + c] = (int8_t)((random = random * 1664525 + 1013904223) >> 24);
            sum[t] += q[t * STRIDE + c];
        }
    }
    const bl__q8 x = {.q = q, .stride = STRIDE, .step = step, .sum = sum};
    ref.ternary_gemm(tiles, ROWS, COLS, 0, TILES, &x, TOKENS, want, ROWS);
    amx_gemm(tiles, ROWS, COLS, 0, TILES, &x, TOKENS, got, ROWS);
    return memcmp(got, want, sizeof got) == 0;
}

const char *bl__amx_fails(void) {
    if (!ask_for_tiles())
        return "amx: the system refuses the registers of tiles";
    if (!agrees_with_ref())
        return "amx: its products are not those of ref";
    return NULL;
}

void bl__kernels_fill_amx(bl__kernels *table) {
    table->ternary_gemm = ternary_gemm;
    table->t5_gemm = NULL; /* tiles of T2 in these registers are faster */
}
