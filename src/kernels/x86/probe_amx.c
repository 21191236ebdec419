/* Owns the probe of AMX: products of 16 x 64 with 64 x 16 bytes in tiles.
 * Linux gives a process the tiles' registers only when it asks for them.
 * Sources: Intel SDM volume 1 chapter 18; Linux, Documentation/arch/x86/xstate.rst. */
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/levels.h"

enum {
    ARCH_REQ_XCOMP_PERM = 0x1023, /* of arch_prctl; not in every libc's headers */
    XFEATURE_XTILEDATA = 18,
    TILE_ROWS = 16,
    TILE_ROW_BYTES = 64,
    N_SUMS = 4, /* tiles 0 ... 3 hold sums, 4 ... 7 operands */
    N_TILES = 8
};

/* Memory operand of LDTILECFG. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "as the instruction reads it");

uint64_t bl__probe_int8_amx(size_t n_rounds) {
    uint8_t bytes[TILE_ROWS * TILE_ROW_BYTES];
    tile_config config = {.palette = 1};
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
        return 0;
    for (size_t t = 0; t < N_TILES; t++) {
        config.row_bytes[t] = TILE_ROW_BYTES;
        config.rows[t] = TILE_ROWS;
    }
    memset(bytes, 0x55, sizeof bytes);
    /* gcc's intrinsics do not say that they read all of what they are given. */
    __asm__ volatile("" : : "r"(&config), "r"(bytes) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, bytes, TILE_ROW_BYTES);
    _tile_loadd(5, bytes, TILE_ROW_BYTES);
    _tile_loadd(6, bytes, TILE_ROW_BYTES);
    _tile_loadd(7, bytes, TILE_ROW_BYTES);
    for (size_t i = 0; i < n_rounds; i++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return (uint64_t)n_rounds * N_SUMS * TILE_ROWS * TILE_ROWS * TILE_ROW_BYTES * 2;
}
