/* Owns memory from the system. Must not know what it is for. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "bitloom/status.h"

enum { ALIGNMENT = 64, HUGE_PAGE = 2 * 1024 * 1024 };

static atomic_long n_allocations;
static atomic_long fail_countdown; /* 0 = off */

/* Counts one request; true when this one must fail. */
static bool must_fail(void) {
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == 0)
        return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

void bl__alloc_fail_at(long nth) {
    atomic_store(&fail_countdown, nth);
}
long bl__alloc_count(void) {
    return atomic_load(&n_allocations);
}

void *bl__malloc(size_t size) {
    return must_fail() ? NULL : malloc(size ? size : 1);
}

void *bl__calloc(size_t count, size_t size) {
    if (must_fail())
        return NULL;
    return count && size ? calloc(count, size) : calloc(1, 1);
}

void *bl__malloc_array(size_t count, size_t size) {
    size_t total;
    return bl__mul_size(count, size, &total) ? bl__malloc(total) : NULL;
}

void *bl__realloc(void *memory, size_t size) {
    return must_fail() ? NULL : realloc(memory, size ? size : 1);
}

void *bl__realloc_array(void *memory, size_t count, size_t size) {
    size_t total;
    return bl__mul_size(count, size, &total) ? bl__realloc(memory, total) : NULL;
}

char *bl__strndup(const char *text, size_t len) {
    size_t total;
    char *copy = bl__add_size(len, 1, &total) ? bl__malloc(total) : NULL;
    if (!copy)
        return NULL;
    if (len)
        memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

void bl__free(void *memory) {
    free(memory);
}
void bl_free(void *memory) {
    free(memory);
}

void *bl__aligned_alloc(size_t size) {
    size_t rounded;
    if (must_fail() || !bl__align_size(size ? size : 1, ALIGNMENT, &rounded))
        return NULL;
    bool large = rounded >= (size_t)4 * HUGE_PAGE;
    if (large && !bl__align_size(rounded, HUGE_PAGE, &rounded))
        return NULL;
    void *memory = aligned_alloc(large ? HUGE_PAGE : ALIGNMENT, rounded);
    if (!memory)
        return NULL;
    /* Advice only: a kernel without huge pages refuses it and nothing is lost. */
    if (large)
        (void)madvise(memory, rounded, MADV_HUGEPAGE);
    return memset(memory, 0, rounded);
}

void bl__aligned_free(void *memory) {
    free(memory);
}
