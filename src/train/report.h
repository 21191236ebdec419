/* Figures that close a run. Must not know the loop. */
#ifndef BL_TRAIN_REPORT_H
#define BL_TRAIN_REPORT_H

#include "bitloom/train.h"
#include "train/data.h"
#include "train/network.h"

/* Bytes of the weights of an export in each layout that holds them, the native ones first; those
 * beside the linears are bfloat16, norms float32, and float models all float32. */
void bl__report_sizes(const bl__param *params, size_t n_params, bl__weight_mode weights,
                      bl_train_report *report);

/* Mean flips over the first, middle and last tenth of the steps, from lines of run.jsonl; where a
 * tenth has none, those of the nearest line; NaN when there is none at all. The first step, which
 * has nothing to compare with, and lines that do not parse count for nothing. */
void bl__report_flips(const char *metrics, size_t len, uint64_t n_steps, double flips[3]);

/* Bytes of text that the counted targets of the first n held-out windows stand for: those of the
 * tokenizer's pieces; without one (NULL), the mean of the whole file a token, 0 when it does not
 * know. *n_targets: how many counted. inputs, targets: int32[row_tokens], to work in. */
bl_status bl__report_text_bytes(const bl__windows *windows, const bl_tokenizer *tokenizer, size_t n,
                                int32_t *inputs, int32_t *targets, double *bytes, size_t *n_targets,
                                bl_error *err);

#endif
