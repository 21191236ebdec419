/* Owns memory from the system. Must not know what it is for. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    void *memory = aligned_alloc(ALIGNMENT, rounded);
    return memory ? memset(memory, 0, rounded) : NULL;
}

void bl__aligned_free(void *memory) {
    free(memory);
}

void *bl__pages_alloc(size_t size) {
    if (must_fail())
        return NULL;
    void *memory =
        mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* Advice only: a kernel without huge pages refuses it and nothing is lost. */
    if (size >= HUGE_PAGE)
        (void)madvise(memory, size, MADV_HUGEPAGE);
    return memory;
}

void bl__pages_scatter(void *memory, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), skip = (size_t)(-(uintptr_t)memory & (page - 1));
    if (skip < size)
        (void)madvise((char *)memory + skip, (size - skip) / page * page, MADV_NOHUGEPAGE);
}

void bl__pages_free(void *memory, size_t size) {
    if (memory)
        munmap(memory, size ? size : 1);
}
