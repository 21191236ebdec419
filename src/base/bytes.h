/* Bounded reading of little-endian bytes. Every read returns false, and moves nothing, when fewer
 * bytes are left than asked for. */
#ifndef BL_BASE_BYTES_H
#define BL_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Bitloom's file formats are little-endian and so must the machine be"
#endif

typedef struct bl__reader {
    const uint8_t *data;
    size_t len;
    size_t off; /* always <= len */
} bl__reader;

static inline size_t bl__reader_left(const bl__reader *r) {
    return r->len - r->off;
}

static inline bool bl__read_bytes(bl__reader *r, size_t n, const uint8_t **out) {
    if (n > bl__reader_left(r))
        return false;
    *out = r->data + r->off;
    r->off += n;
    return true;
}

static inline bool bl__read_into(bl__reader *r, void *out, size_t n) {
    const uint8_t *from;
    if (!bl__read_bytes(r, n, &from))
        return false;
    memcpy(out, from, n);
    return true;
}

static inline bool bl__read_u8(bl__reader *r, uint8_t *out) {
    return bl__read_into(r, out, 1);
}
static inline bool bl__read_u16(bl__reader *r, uint16_t *out) {
    return bl__read_into(r, out, 2);
}
static inline bool bl__read_u32(bl__reader *r, uint32_t *out) {
    return bl__read_into(r, out, 4);
}
static inline bool bl__read_u64(bl__reader *r, uint64_t *out) {
    return bl__read_into(r, out, 8);
}
static inline bool bl__read_f32(bl__reader *r, float *out) {
    return bl__read_into(r, out, 4);
}

/* Unaligned loads from memory known to be long enough. */
static inline uint16_t bl__load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t bl__load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t bl__load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline float bl__load_f32(const void *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
