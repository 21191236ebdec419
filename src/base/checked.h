/* Arithmetic on sizes that come from files: every function returns false on overflow and then
 * leaves *out alone. */
#ifndef BL_BASE_CHECKED_H
#define BL_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool bl__add_size(size_t a, size_t b, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

static inline bool bl__mul_size(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* Rounds up to a multiple of align, a power of two. */
static inline bool bl__align_size(size_t a, size_t align, size_t *out) {
    size_t sum;
    if (!bl__add_size(a, align - 1, &sum))
        return false;
    *out = sum & ~(align - 1);
    return true;
}

static inline size_t bl__min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif
