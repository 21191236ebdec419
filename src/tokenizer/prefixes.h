/* A set of byte strings that is asked which of them begin a text: sorted, so that each byte read
 * narrows a range. */
#ifndef BL_TOKENIZER_PREFIXES_H
#define BL_TOKENIZER_PREFIXES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "formats/gguf.h"

typedef struct bl__prefix {
    bl__string text; /* borrowed, not empty */
    int32_t value;
} bl__prefix;

typedef struct bl__prefixes {
    bl__prefix *items; /* sorted by text */
    size_t n_items;
    uint32_t first[257]; /* items that begin with byte b: first[b] ... first[b + 1] - 1 */
} bl__prefixes;

/* Takes items over (freed by destroy, and on failure) and sorts them. */
void bl__prefixes_init(bl__prefixes *out, bl__prefix *items, size_t n_items);
void bl__prefixes_destroy(bl__prefixes *prefixes);

/* A walk along a text. */
typedef struct bl__prefix_walk {
    size_t low, high, depth;
} bl__prefix_walk;

static inline bl__prefix_walk bl__prefix_start(const bl__prefixes *prefixes) {
    return (bl__prefix_walk){0, prefixes->n_items, 0};
}
/* Goes one byte on; false when no string of the set goes on like that. */
bool bl__prefix_step(const bl__prefixes *prefixes, bl__prefix_walk *walk, uint8_t byte);
/* The string that ends exactly here, or NULL. */
static inline const bl__prefix *bl__prefix_here(const bl__prefixes *prefixes,
                                                const bl__prefix_walk *walk) {
    const bl__prefix *item = &prefixes->items[walk->low]; /* the shortest comes first */
    return walk->low < walk->high && item->text.len == walk->depth ? item : NULL;
}

#endif
