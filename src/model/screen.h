/* Private to model/: a low-bit copy of the output head that says of every row what its logit can be
 * at most, so that most rows need not be read. Derivation of the bound: docs/model.md.
 *
 * One copy serves all sessions of a model. It is made a part at a time while text is written, by
 * whichever session comes by, so that neither opening a model nor a first token waits for it. */
#ifndef BL_MODEL_SCREEN_H
#define BL_MODEL_SCREEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct bl__compute;
struct bl__linear;

enum { BL_SCREEN_MAX_COLS = 65536 }; /* more are never screened; see bl__kernels.screen_rows */

typedef struct bl__screen {
    size_t rows, cols, n_tiles, bytes;
    _Atomic(uint8_t *) tiles; /* NULL until a session asks for it; pages taken up as it is made */
    atomic_size_t n_ready;    /* tiles that are made; it only grows */
    atomic_flag is_building;  /* taken by the session that makes tiles */
} bl__screen;

/* The description of a copy, not made yet; NULL when memory is short. rows > 0. */
bl__screen *bl__screen_create(size_t rows, size_t cols);
void bl__screen_free(bl__screen *screen);

/* Finds memory for the tiles, once; false when there is none. */
bool bl__screen_reserve(bl__screen *screen);

/* Makes up to n_tiles more tiles from the rows of `head`, on all threads of compute's pool; returns
 * at once when another session does. scratch: bl__screen_scratch_floats() for each part. */
void bl__screen_extend(bl__screen *screen, struct bl__compute *compute,
                       const struct bl__linear *head, size_t n_tiles, float *scratch);
size_t bl__screen_scratch_floats(size_t cols);

/* What a token's bound needs of x[cols]. min_digits: 2, or 1 for as many as pay when products, not
 * bytes, take the time. digits: int8[2 * cols rounded up to 4]. False when x has no bound worth
 * having: it is not finite, or all zeros, or far from the range of a norm's output. */
bool bl__screen_prepare(const float *x, size_t cols, uint32_t min_digits, int8_t *digits,
                        bl__screen_x *out);

#endif
