/* Names of things in a file: a string view, and a hash table from names to places in an array.
 *
 * The table holds places only. The array's elements begin with their bl__string name, so the same
 * table serves metadata keys, GGUF tensors and safetensors. */
#ifndef BL_FORMATS_NAMES_H
#define BL_FORMATS_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bl__string {
    const char *data; /* not NUL-terminated */
    size_t len;
} bl__string;

bool bl__string_is(bl__string string, const char *text);

typedef struct bl__name_slot {
    uint32_t hash;
    uint32_t place; /* index + 1; 0 = free */
} bl__name_slot;

typedef struct bl__names {
    bl__name_slot *slots;
    size_t n_slots; /* 0 or a power of two, at least twice n_names */
    size_t n_names;
} bl__names;

typedef enum bl__names_result {
    BL_NAMES_ADDED,
    BL_NAMES_DUPLICATE,
    BL_NAMES_CROWDED, /* names made to collide, or more of them than 2^31 */
    BL_NAMES_NO_MEMORY
} bl__names_result;

/* Makes room for n names, so that adding them allocates nothing. False: no memory. */
bool bl__names_reserve(bl__names *names, size_t n);
/* Adds the name of elements[index], elements being an array of `stride` bytes an element. Takes
 * constant time whatever the names are. */
bl__names_result bl__names_add(bl__names *names, const void *elements, size_t stride, size_t index);
/* The index of the element so named, or SIZE_MAX. */
size_t bl__names_find(const bl__names *names, const void *elements, size_t stride, bl__string name);
void bl__names_free(bl__names *names);

#endif
