/* Owns the hash table of names. Must not know what the names belong to. */
#include "formats/names.h"

#include <string.h>

#include "base/alloc.h"

/* At most half of the slots are taken, so honest names never come near this many probes; names
 * chosen to collide are refused instead of costing quadratic time. */
enum { MAX_PROBES = 1024, MIN_SLOTS = 16 };
static const size_t MAX_NAMES = (size_t)1 << 30;

bool bl__string_is(bl__string string, const char *text) {
    size_t len = strlen(text);
    return string.len == len && memcmp(string.data, text, len) == 0;
}

/* FNV-1a over 64 bits, folded. */
static uint32_t hash_name(bl__string name) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < name.len; i++)
        hash = (hash ^ (uint8_t)name.data[i]) * 0x100000001b3u;
    return (uint32_t)(hash ^ (hash >> 32));
}

static bl__string name_at(const void *elements, size_t stride, size_t index) {
    bl__string name;
    memcpy(&name, (const char *)elements + index * stride, sizeof name);
    return name;
}

bool bl__names_reserve(bl__names *names, size_t n) {
    size_t n_slots = names->n_slots ? names->n_slots : MIN_SLOTS;
    if (n > MAX_NAMES)
        return false;
    while (n_slots / 2 < n)
        n_slots *= 2;
    if (n_slots == names->n_slots)
        return true;
    bl__name_slot *slots = bl__calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < names->n_slots; i++) {
        if (!names->slots[i].place)
            continue;
        size_t at = names->slots[i].hash & (n_slots - 1);
        while (slots[at].place)
            at = (at + 1) & (n_slots - 1);
        slots[at] = names->slots[i];
    }
    bl__free(names->slots);
    names->slots = slots;
    names->n_slots = n_slots;
    return true;
}

bl__names_result bl__names_add(bl__names *names, const void *elements, size_t stride,
                               size_t index) {
    if (index >= MAX_NAMES || names->n_names >= MAX_NAMES)
        return BL_NAMES_CROWDED;
    if (!bl__names_reserve(names, names->n_names + 1))
        return BL_NAMES_NO_MEMORY;
    bl__string name = name_at(elements, stride, index);
    uint32_t hash = hash_name(name);
    size_t at = hash & (names->n_slots - 1);
    for (int probes = 0; names->slots[at].place; probes++) {
        const bl__name_slot *slot = &names->slots[at];
        if (slot->hash == hash) {
            bl__string other = name_at(elements, stride, slot->place - 1);
            if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0)
                return BL_NAMES_DUPLICATE;
        }
        if (probes == MAX_PROBES)
            return BL_NAMES_CROWDED;
        at = (at + 1) & (names->n_slots - 1);
    }
    names->slots[at] = (bl__name_slot){.hash = hash, .place = (uint32_t)index + 1};
    names->n_names++;
    return BL_NAMES_ADDED;
}

size_t bl__names_find(const bl__names *names, const void *elements, size_t stride,
                      bl__string name) {
    if (!names->n_slots)
        return SIZE_MAX;
    uint32_t hash = hash_name(name);
    for (size_t at = hash & (names->n_slots - 1); names->slots[at].place;
         at = (at + 1) & (names->n_slots - 1)) {
        const bl__name_slot *slot = &names->slots[at];
        if (slot->hash != hash)
            continue;
        bl__string other = name_at(elements, stride, slot->place - 1);
        if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0)
            return slot->place - 1;
    }
    return SIZE_MAX;
}

void bl__names_free(bl__names *names) {
    bl__free(names->slots);
    *names = (bl__names){0};
}
