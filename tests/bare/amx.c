/* The AMX kernels as instructions on a machine without an operating system, for an emulator of one
 * (tools/test_amx.sh): every product bit for bit against a scalar one that is written here. What it
 * finds goes to the first serial port, last "passed" or "failed". */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/levels.h"
#include "quant/t2.h"

/* ---- what a C library would give ---- */

void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}
void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = (uint8_t)byte;
    return to;
}
int memcmp(const void *a, const void *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i])
            return ((const uint8_t *)a)[i] - ((const uint8_t *)b)[i];
    return 0;
}
/* No system: what is asked of it is granted, as start.S did. */
long syscall(long number, ...);
long syscall(long number, ...) {
    (void)number;
    return 0;
}
/* Parts of ref's table that are not used here. */
void bl__floats_fill_ref(bl__kernels *table) {
    (void)table;
}
void bl__levels_fill_ref(bl__kernels *table) {
    (void)table;
}
void bl__skip_fill_ref(bl__kernels *table) {
    (void)table;
}

enum { COM1 = 0x3f8 };

static void out_byte(unsigned port, unsigned byte) {
    __asm__ volatile("outb %0, %1" : : "a"((uint8_t)byte), "Nd"((uint16_t)(COM1 + port)));
}

/* 115,200 bits a second, 8 bits, no parity, no interrupts. */
static void open_port(void) {
    out_byte(1, 0);
    out_byte(3, 0x80); /* the divisor is next */
    out_byte(0, 1);
    out_byte(1, 0);
    out_byte(3, 3);
}

static void say(const char *text) {
    for (; *text; text++) {
        uint8_t status;
        do
            __asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((uint16_t)(COM1 + 5)));
        while (!(status & 0x20)); /* nothing waits to be sent */
        out_byte(0, (uint8_t)*text);
    }
}

static void say_number(size_t n) {
    char digits[24], *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    say(at);
}

/* ---- products ---- */

enum { MAX_BYTES = 1 << 20, MAX_TOKENS = 256, MAX_OUT = 1 << 18 };
enum { ANY, MOST, LEAST, N_MODES }; /* bytes; code 2 times 127; 3, which is no code, times -128 */

static uint32_t state = 1;
static uint8_t tiles[MAX_BYTES];
static int8_t q[MAX_BYTES];
static float step[MAX_TOKENS], got[MAX_OUT], want[MAX_OUT];
static int32_t sum[MAX_TOKENS];

static uint32_t random_bits(void) {
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

/* Element r of a token's product, as kernels.h says. */
static float product(size_t cols, size_t stride, size_t r, size_t t) {
    const uint8_t *tile = tiles + r / 16 * bl__t2_stride(cols);
    int32_t dot = 0;
    float scale;
    memcpy(&scale, tile + 4 * (r % 16), sizeof scale);
    for (size_t c = 0; c < cols; c++) {
        uint8_t byte = tile[BL_T2_SCALE_BYTES + c / 16 * BL_T2_BLOCK_BYTES + 4 * (r % 16) + c % 4];
        dot += (byte >> c % 16 / 4 * 2 & 3) * q[t * stride + c];
    }
    return (float)(dot - sum[t]) * step[t] * scale;
}

static bool agrees(const bl__kernels *k, size_t rows, size_t cols, size_t n_tokens, int mode) {
    size_t n_tiles = bl__t2_tiles(rows), stride = bl__t2_blocks(cols) * BL_T2_COLS;
    size_t out_stride = rows + 3, n = n_tokens * out_stride;
    for (size_t i = 0; i < n_tiles * bl__t2_stride(cols); i++)
        tiles[i] = mode == ANY ? (uint8_t)random_bits() : mode == MOST ? 0xaa : 0xff;
    for (size_t r = 0; r < n_tiles * 16; r++) {
        float scale = 0.25f + (float)(random_bits() % 100);
        memcpy(tiles + r / 16 * bl__t2_stride(cols) + r % 16 * 4, &scale, sizeof scale);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        step[t] = 0.01f * (float)(1 + random_bits() % 77);
        sum[t] = 0;
        for (size_t c = 0; c < stride; c++) {
            int32_t v = mode == ANY    ? (int32_t)(random_bits() % 256) - 128
                        : mode == MOST ? 127
                                       : -128;
            q[t * stride + c] = (int8_t)(c < cols ? v : 0);
            sum[t] += q[t * stride + c];
        }
    }
    for (size_t i = 0; i < n; i++)
        got[i] = want[i] = -7;
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < rows; r++)
            want[t * out_stride + r] = product(cols, stride, r, t);
    const bl__q8 x = {.q = q, .stride = stride, .step = step, .sum = sum};
    k->ternary_gemm(tiles, rows, cols, 0, n_tiles, &x, n_tokens, got, out_stride);
    return memcmp(got, want, n * sizeof *got) == 0;
}

void bare_main(void);
void bare_main(void) {
    bl__kernels k = {.level = "amx"};
    size_t n = 0, n_agree = 0;
    open_port();
    bl__kernels_fill_amx(&k);
    const char *failure = bl__amx_fails();
    say(failure ? failure : "the self-test of the level passes");
    say("\n");
    for (size_t rows = 1; rows <= 50; rows += rows < 34 ? 3 : 16)
        for (size_t cols = 1; cols <= 150; cols += cols < 70 ? 7 : 40)
            for (size_t t = 16; t <= 67; t += t < 36 ? 3 : 15, n++)
                n_agree += agrees(&k, rows, cols, t, ANY);
    for (int mode = 0; mode < N_MODES; mode++, n += 3) {
        n_agree += agrees(&k, 32, 4096, 33, mode);
        n_agree += agrees(&k, 50, 1180, 211, mode); /* several blocks of tokens and columns */
        n_agree += agrees(&k, 20, 333, 97, mode);
    }
    n_agree += agrees(&k, 48, 8640, 32, ANY);
    n++;
    say_number(n_agree);
    say(" of ");
    say_number(n);
    say(" products have the bits they should\n");
    say(bl__probe_int8_amx(10) ? "the probe runs\n" : "the probe does not run\n");
    say(!failure && n_agree == n ? "passed\n" : "failed\n");
}
