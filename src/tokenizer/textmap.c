/* Owns the hash table from strings to numbers. Must not know what they mean. */
#include "tokenizer/textmap.h"

#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/error.h"

__extension__ typedef unsigned __int128 wide;

/* Folds eight bytes at a time with a 64 x 64 -> 128 bit product, whose halves are xored. */
static uint64_t mix(uint64_t a, uint64_t b) {
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t bl__text_hash(const char *text, size_t len) {
    uint64_t h = 0x9e3779b97f4a7c15u ^ len;
    while (len >= 8) {
        h = mix(h ^ bl__load_u64(text), 0xd6e8feb86659fd93u);
        text += 8;
        len -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, text, len);
    return mix(h ^ tail, 0xa0761d6478bd642fu);
}

bl_status bl__textmap_create(size_t n_keys, bl__textmap *out, bl_error *err) {
    size_t n_slots = 16;
    while (n_slots / 2 < n_keys)
        n_slots *= 2;
    bl__textmap_slot *slots = bl__calloc(n_slots, sizeof *slots);
    if (!slots)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate a table of %zu texts",
                        n_keys);
    *out = (bl__textmap){.slots = slots, .mask = n_slots - 1};
    return BL_OK;
}

void bl__textmap_destroy(bl__textmap *map) {
    bl__free(map->slots);
    *map = (bl__textmap){0};
}

/* The slot that holds the key, or the free one where it belongs. */
static bl__textmap_slot *find_slot(const bl__textmap *map, const char *text, size_t len,
                                   uint64_t hash) {
    size_t i = hash & map->mask;
    for (;; i = (i + 1) & map->mask) {
        bl__textmap_slot *slot = &map->slots[i];
        if (!slot->text || (slot->hash == (uint32_t)(hash >> 32) && slot->len == len &&
                            memcmp(slot->text, text, len) == 0))
            return slot;
    }
}

int32_t bl__textmap_add(bl__textmap *map, const char *text, size_t len, int32_t value) {
    uint64_t hash = bl__text_hash(text, len);
    bl__textmap_slot *slot = find_slot(map, text, len, hash);
    if (!slot->text) {
        *slot = (bl__textmap_slot){text, (uint32_t)len, (uint32_t)(hash >> 32), value};
        map->n_used++;
    }
    return slot->value;
}

int32_t bl__textmap_find(const bl__textmap *map, const char *text, size_t len) {
    if (!map->slots)
        return -1;
    const bl__textmap_slot *slot = find_slot(map, text, len, bl__text_hash(text, len));
    return slot->text ? slot->value : -1;
}
