/* A hash table from byte strings to numbers. Keys are borrowed. */
#ifndef BL_TOKENIZER_TEXTMAP_H
#define BL_TOKENIZER_TEXTMAP_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "formats/gguf.h"

typedef struct bl__textmap_slot {
    const char *text; /* NULL = free */
    uint32_t len;
    uint32_t hash;
    int32_t value;
} bl__textmap_slot;

typedef struct bl__textmap {
    bl__textmap_slot *slots; /* [mask + 1] */
    size_t mask, n_used;
} bl__textmap;

uint64_t bl__text_hash(const char *text, size_t len);

/* Sized for at most n_keys keys. */
bl_status bl__textmap_create(size_t n_keys, bl__textmap *out, bl_error *err);
void bl__textmap_destroy(bl__textmap *map);
/* The value now stored under the key: `value`, or the older one when the key was there already.
 * The caller adds no more keys than announced. */
int32_t bl__textmap_add(bl__textmap *map, const char *text, size_t len, int32_t value);
int32_t bl__textmap_find(const bl__textmap *map, const char *text, size_t len); /* -1 = absent */

#endif
