/* Owns one block and hands out pieces. Must not know what lies in them. */
#include "base/arena.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { ARENA_ALIGN = 64 };

bl__arena bl__arena_measuring(void) {
    return (bl__arena){.base = NULL, .size = SIZE_MAX, .used = 0, .overflowed = false};
}

bl_status bl__arena_create(size_t size, bl__arena *out, bl_error *err) {
    uint8_t *base = bl__pages_alloc(size);
    if (!base)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes", size);
    *out = (bl__arena){.base = base, .size = size, .used = 0, .overflowed = false};
    return BL_OK;
}

void bl__arena_destroy(bl__arena *arena) {
    bl__pages_free(arena->base, arena->size);
    *arena = (bl__arena){0};
}

void *bl__arena_alloc(bl__arena *arena, size_t count, size_t size) {
    size_t bytes, end;
    if (!bl__mul_size(count, size, &bytes) || !bl__align_size(bytes, ARENA_ALIGN, &bytes) ||
        !bl__add_size(arena->used, bytes, &end) || end > arena->size) {
        arena->overflowed = true;
        return NULL;
    }
    void *memory = arena->base ? arena->base + arena->used : NULL;
    arena->used = end;
    return memory;
}
