/* Learning rate and weight decay as pure functions of the step. */
#ifndef BL_TRAIN_SCHEDULE_H
#define BL_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum bl__decay_shape {
    BL_DECAY_CONSTANT,
    BL_DECAY_LINEAR,
    BL_DECAY_COSINE,
    BL_DECAY_TWO_STAGE /* linear from rate, at half of the run on the line from rate2: "Training
                        * Tips, Code and FAQ" of BitNet b1.58 */
} bl__decay_shape;

typedef struct bl__schedule {
    bl__decay_shape shape;
    uint64_t n_steps;     /* of the whole run */
    uint64_t n_warmup;    /* steps of linear rise from 0; step n_warmup has the full rate */
    double rate;          /* peak */
    double rate2;         /* peak of the second stage's line, two-stage only */
    double end_factor;    /* the last rate, as a share of the peak in force */
    double decay, decay2; /* weight decay before and after half of the run */
    uint64_t n_lambda; /* steps in which quantization comes in; 0: it is whole from the first on */
} bl__schedule;

/* For step 0 ... n_steps - 1; later steps have what the last one has. */
double bl__schedule_rate(const bl__schedule *schedule, uint64_t step);
double bl__schedule_decay(const bl__schedule *schedule, uint64_t step);
/* How far quantization has come in: min(step / n_lambda, 1), as models that were trained in full
 * precision are fine-tuned to 1.58 bits (Hugging Face, "Fine-tuning LLMs to 1.58bit"). */
double bl__schedule_lambda(const bl__schedule *schedule, uint64_t step);

#endif
