/* The only way to memory: counts allocations and can be told to fail, so that tests can show that
 * every failure is handled and that the token loop allocates nothing. */
#ifndef BL_BASE_ALLOC_H
#define BL_BASE_ALLOC_H

#include <stddef.h>

/* All return NULL on failure; sizes of 0 give a valid pointer. Freeing NULL is allowed. */
void *bl__malloc(size_t size);
void *bl__calloc(size_t count, size_t size);       /* zeroed; overflow gives NULL */
void *bl__malloc_array(size_t count, size_t size); /* not zeroed; overflow gives NULL */
void *bl__realloc(void *memory, size_t size);      /* the old block stays on failure */
void *bl__realloc_array(void *memory, size_t count, size_t size);
char *bl__strndup(const char *text, size_t len); /* adds a NUL */
void bl__free(void *memory);

/* Zeroed memory aligned to 64 bytes. Release with bl__aligned_free() only. */
void *bl__aligned_alloc(size_t size);
void bl__aligned_free(void *memory);

/* Zeroed pages straight from the system, taken up only as they are touched; huge ones where the
 * system gives them. Release with bl__pages_free() and the same size. */
void *bl__pages_alloc(size_t size);
/* Asks for small pages in a part of such memory, for what is used here and there. Only a hint. */
void bl__pages_scatter(void *memory, size_t size);
void bl__pages_free(void *memory, size_t size);

/* Test hooks. The n-th allocation from now on fails (1 = the next one), once; 0 = never. */
void bl__alloc_fail_at(long nth);
/* Allocations asked for since the program started. */
long bl__alloc_count(void);

#endif
