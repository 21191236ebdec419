/* Owns what a session's memory is made of, and the refusal of more than the machine has. Must not
 * know how it is allocated.
 *
 * Weights that are read where they lie in the file are pages that the system can drop and read
 * again, but a token reads all of them: if they do not stay, each token waits for the disk. So
 * they must fit beside everything else. */
#include "model/memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cpu/memory.h"
#include "model/work.h"

static uint64_t pretended;

void bl__memory_pretend(uint64_t available) {
    pretended = available;
}

static double gib(uint64_t bytes) {
    return (double)bytes * 0x1p-30;
}

/* False where nothing is known or BITLOOM_MEMORY says not to ask. */
static bool find_available(uint64_t *bytes) {
    const char *wish = getenv("BITLOOM_MEMORY");
    if (wish && strcmp(wish, "unchecked") == 0)
        return false;
    *bytes = pretended;
    return pretended || bl__memory_available("", bytes);
}

bl_status bl__memory_check_file(uint64_t file_bytes, bl_error *err) {
    uint64_t available;
    if (!find_available(&available) || file_bytes <= available)
        return BL_OK;
    return bl__fail(err, BL_ERR_MEMORY,
                    "weights of %.2f GiB, %.2f GiB of memory are available: free some, or take a "
                    "smaller model (BITLOOM_MEMORY=unchecked runs it as fast as the disk reads)",
                    gib(file_bytes), gib(available));
}

bl_memory bl_session_memory(const bl_session *s) {
    const bl__work work = bl__model_work(s->model);
    uint64_t weights = work.layer_bytes + work.head_bytes, repacked = s->model->info.repacked_bytes;
    return (bl_memory){.mapped = weights > repacked ? weights - repacked : 0,
                       .repacked = repacked,
                       .head_copy = s->head.screen ? s->head.screen->bytes : 0,
                       .cache = s->cache_bytes,
                       .scratch = s->memory_bytes - s->cache_bytes};
}

/* Bytes of the copy of the head that no session has made yet. */
static uint64_t copy_to_make(const bl__screen *screen) {
    if (!screen)
        return 0;
    size_t ready = atomic_load_explicit(&screen->n_ready, memory_order_relaxed);
    return screen->bytes / screen->n_tiles * (screen->n_tiles - ready);
}

/* Repacked weights are taken already and no longer among what is available. */
bl_status bl__memory_check_session(const bl_session *s, bl_error *err) {
    const bl_memory m = bl_session_memory(s);
    uint64_t mapped = s->model->is_in_memory ? 0 : m.mapped, available;
    uint64_t own = m.cache + m.scratch + copy_to_make(s->head.screen);
    if (!find_available(&available) || (own <= available && mapped <= available - own))
        return BL_OK;
    return bl__fail(err, BL_ERR_MEMORY,
                    "%.2f GiB for %zu x %zu tokens (%.2f of it keys and values) beside %.2f GiB "
                    "of weights, %.2f GiB are available: try a shorter context (-c), --cache-type "
                    "i8 or i4 (or BITLOOM_MEMORY=unchecked)",
                    gib(own), s->n_sequences, s->n_ctx, gib(m.cache), gib(mapped), gib(available));
}
