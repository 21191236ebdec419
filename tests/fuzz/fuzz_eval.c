/* Items of multiple choice from any bytes: what is accepted has choices within the caps, texts that
 * end, and a right answer among them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitloom/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const bl_eval_set *set) {
    bl_eval_item item;
    for (size_t i = 0; i < bl_eval_set_size(set); i++) {
        bl_eval_set_get(set, i, &item);
        if (item.n_choices < 2 || item.n_choices > BL_EVAL_MAX_CHOICES ||
            item.gold >= item.n_choices)
            abort();
        for (uint32_t c = 0; c < item.n_choices; c++)
            if (!strchr(item.contexts[c], '\0') || item.continuations[c][0] != ' ' ||
                (bl_eval_set_has_lengths(set) &&
                 strlen(item.continuations[c]) != item.n_bytes[c] + (size_t)1) ||
                item.n_chars[c] > item.n_bytes[c])
                abort();
    }
}

/* The first byte names the task. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl_eval_set *set;
    if (!size || bl_eval_set_read((const char *)data + 1, size - 1,
                                  (bl_eval_task)(data[0] % BL_EVAL_N_TASKS), &set, NULL) != BL_OK)
        return 0;
    check(set);
    bl_eval_set_free(set);
    return 0;
}
