/* Owns the counting of words. Must not know where they come from. */
#include "tokenizer/train_words.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/textmap.h"

enum { MIN_SLOTS = 1 << 12 };

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "tokenizer training: cannot allocate for the words");
}

/* Doubles the table of slots. */
static bool grow_slots(bl__word_counts *counts) {
    size_t n_slots = counts->slots ? 2 * (counts->mask + 1) : MIN_SLOTS;
    uint32_t *slots = bl__calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < counts->n; i++) {
        size_t at = counts->words[i].hash & (n_slots - 1);
        while (slots[at])
            at = (at + 1) & (n_slots - 1);
        slots[at] = (uint32_t)i + 1;
    }
    bl__free(counts->slots);
    counts->slots = slots;
    counts->mask = n_slots - 1;
    return true;
}

static bool reserve(bl__word_counts *counts, size_t len) {
    if (counts->n == counts->room) {
        size_t room = counts->room ? 2 * counts->room : MIN_SLOTS / 2;
        bl__counted_word *words = bl__realloc_array(counts->words, room, sizeof *words);
        if (!words)
            return false;
        counts->words = words;
        counts->room = room;
    }
    if (len > counts->text_room - counts->text_len) {
        size_t room = 2 * counts->text_room + len + MIN_SLOTS;
        char *text = bl__realloc(counts->text, room);
        if (!text)
            return false;
        counts->text = text;
        counts->text_room = room;
    }
    return counts->n < (counts->slots ? (counts->mask + 1) / 2 : 0) || grow_slots(counts);
}

bl_status bl__word_counts_add(bl__word_counts *counts, const char *word, size_t len,
                              bl_error *err) {
    uint32_t hash = (uint32_t)(bl__text_hash(word, len) >> 32);
    size_t at = hash & counts->mask;
    for (; counts->slots && counts->slots[at]; at = (at + 1) & counts->mask) {
        bl__counted_word *old = &counts->words[counts->slots[at] - 1];
        if (old->hash == hash && old->len == len &&
            memcmp(counts->text + old->start, word, len) == 0) {
            old->count++;
            counts->n_total++;
            return BL_OK;
        }
    }
    if (counts->n == UINT32_MAX - 1 || len > UINT32_MAX)
        return bl__fail(err, BL_ERR_LIMIT, "tokenizer training: too many words, or one too long");
    uint32_t *slots = counts->slots;
    if (!reserve(counts, len))
        return fail_memory(err);
    if (slots != counts->slots) /* another table has other places */
        for (at = hash & counts->mask; counts->slots[at];)
            at = (at + 1) & counts->mask;
    memcpy(counts->text + counts->text_len, word, len);
    counts->words[counts->n] = (bl__counted_word){counts->text_len, (uint32_t)len, hash, 1};
    counts->text_len += len;
    counts->slots[at] = (uint32_t)++counts->n;
    counts->n_total++;
    return BL_OK;
}

void bl__word_counts_destroy(bl__word_counts *counts) {
    bl__free(counts->words);
    bl__free(counts->text);
    bl__free(counts->slots);
    *counts = (bl__word_counts){0};
}
