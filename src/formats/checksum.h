/* Checksums of what is in files: XXH3 with 64 bits, seed 0 (xxhash 0.8, whose results are fixed for
 * good). They find accidents, not forgeries: whoever changes a file on purpose can change them too.
 */
#ifndef BL_FORMATS_CHECKSUM_H
#define BL_FORMATS_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The metadata keys of a file's checksums: the kind, "xxh3_64", and u64[1 + n_tensors]. The first
 * of these is that of all bytes before the data section, the eight that it fills itself taken as
 * zeros; the others are those of the tensors' bytes, in the order of the file's tensor list.
 * One of the keys alone is an error, so that no damaged byte can make the checksums disappear. */
#define BL_CHECKSUM_KIND_KEY "bitloom.checksum.kind"
#define BL_CHECKSUM_KIND     "xxh3_64"
#define BL_CHECKSUM_KEY      "bitloom.checksum.values"

typedef struct bl__checksum bl__checksum;
bl__checksum *bl__checksum_create(void); /* started; NULL when memory is short */
void bl__checksum_free(bl__checksum *checksum);
void bl__checksum_add(bl__checksum *checksum, const void *data, size_t len);
/* That of all bytes added so far; starts anew. */
uint64_t bl__checksum_take(bl__checksum *checksum);

uint64_t bl__checksum_of(const void *data, size_t len);

#endif
