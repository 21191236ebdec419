/* Private to kernels/: what each instruction set adds to the table. */
#ifndef BL_KERNELS_LEVELS_H
#define BL_KERNELS_LEVELS_H

#include "kernels/kernels.h"
#include "kernels/train_kernels.h"

void bl__kernels_fill_ref(bl__kernels *table);
void bl__train_fill_ref(bl__train_kernels *table);
#if defined(__x86_64__)
void bl__kernels_fill_avx2(bl__kernels *table);
void bl__kernels_fill_avx512vnni(bl__kernels *table);
void bl__train_fill_avx2(bl__train_kernels *table);
void bl__train_fill_avx512vnni(bl__train_kernels *table);
void bl__train_fill_avx512bf16(bl__train_kernels *table);
#endif

#endif
