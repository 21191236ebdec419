/* Private to convert/: linears of OneBit's checkpoints (arXiv 2402.11295), signs between vectors.
 */
#ifndef BL_CONVERT_ONEBIT_H
#define BL_CONVERT_ONEBIT_H

#include "convert/plan.h"
#include "formats/safetensors.h"

/* A linear's signs and the scales of its rows; origin of its tensor in a plan. */
typedef struct bl__onebit {
    const bl__safetensor *weight; /* int8[rows][cols / 8], bit 1 = -1; or floats, latent weights */
    const bl__safetensor *scale;  /* float[rows] */
    bl__layout weight_layout, scale_layout;
} bl__onebit;

/* Row `row` of the plan's tensor: scale x sign, in the plan's order of rows. */
void bl__onebit_make(const bl__plan_tensor *tensor, size_t row, float *out);

#endif
