/* Owns the choice of the checksum. The only file that includes xxhash, all of it inline, so that
 * programs on the library link nothing more. */
#include "formats/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/alloc.h"

struct bl__checksum {
    XXH3_state_t state;
};

bl__checksum *bl__checksum_create(void) {
    bl__checksum *checksum = bl__aligned_alloc(sizeof *checksum);
    if (checksum)
        (void)XXH3_64bits_reset(&checksum->state);
    return checksum;
}

void bl__checksum_free(bl__checksum *checksum) {
    bl__aligned_free(checksum);
}

void bl__checksum_add(bl__checksum *checksum, const void *data, size_t len) {
    if (len)
        (void)XXH3_64bits_update(&checksum->state, data, len);
}

uint64_t bl__checksum_take(bl__checksum *checksum) {
    uint64_t value = XXH3_64bits_digest(&checksum->state);
    (void)XXH3_64bits_reset(&checksum->state);
    return value;
}

uint64_t bl__checksum_of(const void *data, size_t len) {
    return XXH3_64bits(data, len);
}
