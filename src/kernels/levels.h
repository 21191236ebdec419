/* Private to kernels/: what each instruction set adds to the tables. */
#ifndef BL_KERNELS_LEVELS_H
#define BL_KERNELS_LEVELS_H

#include "kernels/kernels.h"
#include "kernels/probe.h"
#include "kernels/train_kernels.h"

/* Whether the machine and the build have a level; *allowed: and BITLOOM_CPU does not rule it out.
 */
bool bl__level_runs(const char *name, bool *allowed);

void bl__kernels_fill_ref(bl__kernels *table);
void bl__floats_fill_ref(bl__kernels *table);
void bl__levels_fill_ref(bl__kernels *table);
void bl__skip_fill_ref(bl__kernels *table); /* called by bl__kernels_fill_ref; and so on */
void bl__train_fill_ref(bl__train_kernels *table);
#if defined(__x86_64__)
void bl__kernels_fill_avx2(bl__kernels *table);
void bl__kernels_fill_avxvnni(bl__kernels *table);
void bl__kernels_fill_avx512vnni(bl__kernels *table);
void bl__head_fill_avx2(bl__kernels *table); /* called by bl__kernels_fill_avx2; and so on */
void bl__head_fill_avx512vnni(bl__kernels *table);
void bl__floats_fill_avx2(bl__kernels *table);
void bl__floats_fill_avx512vnni(bl__kernels *table);
void bl__skip_fill_avx2(bl__kernels *table);
void bl__levels_fill_avx2(bl__kernels *table);
void bl__levels_fill_avxvnni(bl__kernels *table);
void bl__levels_fill_avx512vnni(bl__kernels *table);
void bl__skip_fill_avx512vnni(bl__kernels *table);
void bl__kernels_fill_amx(bl__kernels *table);
/* Why the level cannot be used where the processor has it; NULL when it can. */
const char *bl__amx_fails(void);
void bl__kernels_fill_avx512vbmi(bl__kernels *table);
void bl__train_fill_avx2(bl__train_kernels *table);
void bl__train_fill_avxvnni(bl__train_kernels *table);
void bl__train_fill_avx512vnni(bl__train_kernels *table);
void bl__train_fill_avx512bf16(bl__train_kernels *table);
#elif defined(__aarch64__)
void bl__kernels_fill_neon(bl__kernels *table);
void bl__head_fill_neon(bl__kernels *table); /* called by bl__kernels_fill_neon */
void bl__floats_fill_neon(bl__kernels *table);
void bl__levels_fill_neon(bl__kernels *table);
void bl__levels_fill_dotprod(bl__kernels *table);
void bl__skip_fill_neon(bl__kernels *table);
void bl__skip_fill_dotprod(bl__kernels *table);
void bl__kernels_fill_dotprod(bl__kernels *table);
void bl__kernels_fill_i8mm(bl__kernels *table);
void bl__train_fill_neon(bl__train_kernels *table);
void bl__train_fill_dotprod(bl__train_kernels *table);
#endif

/* Probes: see probe.h. */
uint64_t bl__probe_int8_ref(size_t n_rounds);
uint64_t bl__probe_read_ref(const uint8_t *bytes, size_t n);
#if defined(__x86_64__)
uint64_t bl__probe_int8_avx2(size_t n_rounds);
uint64_t bl__probe_read_avx2(const uint8_t *bytes, size_t n);
uint64_t bl__probe_int8_avxvnni(size_t n_rounds);
uint64_t bl__probe_int8_avx512(size_t n_rounds);
uint64_t bl__probe_read_avx512(const uint8_t *bytes, size_t n);
uint64_t bl__probe_int8_avx512vnni(size_t n_rounds);
uint64_t bl__probe_int8_amx(size_t n_rounds);
#elif defined(__aarch64__)
uint64_t bl__probe_int8_neon(size_t n_rounds);
uint64_t bl__probe_int8_dotprod(size_t n_rounds);
uint64_t bl__probe_int8_i8mm(size_t n_rounds);
#endif

#endif
