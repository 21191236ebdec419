/* Owns pair merging (Sennrich et al. 2016, arXiv 1508.07909). Must not know text or vocabularies.
 *
 * Short words: the ranks of all neighbours in an array, searched again after each merge. Long ones:
 * a heap of candidates over a linked list; candidates whose symbols have changed meanwhile
 * are dropped when they come up. */
#include "tokenizer/merge.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { SHORT_WORD = 32, FIRST_ROOM = 64, HEAP_ARITY = 4 };

typedef struct merge_candidate {
    uint64_t order; /* rank << 32 | index of the left symbol */
    uint32_t left, right, result;
} merge_candidate;

static size_t pair_hash(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u;
    return (size_t)(key ^ key >> 29);
}

bl_status bl__pair_table_create(size_t n_pairs, bl__pair_table *out, bl_error *err) {
    size_t n_slots = 16;
    while (n_slots / 4 * 3 < n_pairs)
        n_slots *= 2;
    bl__pair *slots = bl__malloc_array(n_slots, sizeof *slots);
    if (!slots)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate a table of %zu pairs",
                        n_pairs);
    for (size_t i = 0; i < n_slots; i++)
        slots[i] = (bl__pair){.key = UINT64_MAX, .rank = BL_RANK_NONE};
    *out = (bl__pair_table){slots, n_slots - 1};
    return BL_OK;
}

void bl__pair_table_destroy(bl__pair_table *table) {
    bl__free(table->slots);
    *table = (bl__pair_table){0};
}

/* The slot of the pair, or the free one where it belongs (rank BL_RANK_NONE). */
static bl__pair *find_pair(const bl__pair_table *table, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    size_t i = pair_hash(key) & table->mask;
    while (table->slots[i].key != key && table->slots[i].key != UINT64_MAX)
        i = (i + 1) & table->mask;
    return &table->slots[i];
}

void bl__pair_table_add(bl__pair_table *table, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t result) {
    bl__pair *pair = find_pair(table, left, right);
    if (pair->rank == BL_RANK_NONE)
        *pair = (bl__pair){(uint64_t)left << 32 | right, rank, result};
}

void bl__merger_destroy(bl__merger *merger) {
    bl__free(merger->symbols);
    bl__free(merger->heap);
    bl__free(merger->prev);
    bl__free(merger->next);
    *merger = (bl__merger){0};
}

bl_status bl__merger_reserve(bl__merger *merger, size_t n, bl_error *err) {
    if (n <= merger->room)
        return BL_OK;
    size_t room = merger->room ? merger->room : FIRST_ROOM;
    while (room < n)
        room *= 2;
    bl__symbol *symbols = bl__realloc_array(merger->symbols, room, sizeof *symbols);
    if (!symbols)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate a word of %zu symbols", n);
    merger->symbols = symbols;
    merger->room = room;
    return BL_OK;
}

/* (BL_SYMBOL_NONE, BL_SYMBOL_NONE) would be the key of free slots, whose rank says "none" too. */
static size_t merge_short(const bl__pair_table *table, bl__symbol *symbols, size_t n) {
    uint32_t ranks[SHORT_WORD], results[SHORT_WORD]; /* of symbols i and i + 1 */
    for (size_t i = 0; i + 1 < n; i++) {
        const bl__pair *pair = find_pair(table, symbols[i].id, symbols[i + 1].id);
        ranks[i] = pair->rank;
        results[i] = pair->result;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == BL_RANK_NONE)
            break;
        symbols[best].id = results[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            symbols[i] = symbols[i + 1];
            ranks[i - 1] = ranks[i];
            results[i - 1] = results[i];
        }
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const bl__pair *pair = find_pair(table, symbols[i].id, symbols[i + 1].id);
            ranks[i] = pair->rank;
            results[i] = pair->result;
        }
    }
    return n;
}

/* Four children to a parent: half the levels of a binary heap, and fewer cache misses. */
static void heap_down(merge_candidate *heap, size_t n, size_t i) {
    merge_candidate item = heap[i];
    for (size_t first; (first = HEAP_ARITY * i + 1) < n;) {
        size_t end = bl__min_size(first + HEAP_ARITY, n), least = first;
        for (size_t child = first + 1; child < end; child++)
            if (heap[child].order < heap[least].order)
                least = child;
        if (item.order <= heap[least].order)
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = item;
}

static void heap_up(merge_candidate *heap, size_t i) {
    merge_candidate item = heap[i];
    for (size_t parent; i && item.order < heap[parent = (i - 1) / HEAP_ARITY].order; i = parent)
        heap[i] = heap[parent];
    heap[i] = item;
}

/* Fills *out when symbols left and right can merge. */
static bool make_candidate(const bl__merger *merger, uint32_t left, uint32_t right,
                           merge_candidate *out) {
    uint32_t a = merger->symbols[left].id, b = merger->symbols[right].id;
    const bl__pair *pair = find_pair(merger->table, a, b);
    if (pair->rank == BL_RANK_NONE)
        return false;
    *out = (merge_candidate){(uint64_t)pair->rank << 32 | left, a, b, pair->result};
    return true;
}

static bl_status reserve_links(bl__merger *merger, size_t n, bl_error *err) {
    if (n <= merger->link_room)
        return BL_OK;
    size_t room = merger->room; /* >= n */
    bl__free(merger->heap);
    bl__free(merger->prev);
    bl__free(merger->next);
    merger->link_room = 0;
    /* n - 1 candidates at first; each merge takes one out and adds at most two. */
    merger->heap = bl__malloc_array(room, 2 * sizeof *merger->heap);
    merger->prev = bl__malloc_array(room, sizeof *merger->prev);
    merger->next = bl__malloc_array(room, sizeof *merger->next);
    if (!merger->heap || !merger->prev || !merger->next)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate a word of %zu symbols", n);
    merger->link_room = room;
    return BL_OK;
}

static size_t merge_long(bl__merger *merger, size_t n) {
    bl__symbol *symbols = merger->symbols;
    uint32_t *prev = merger->prev, *next = merger->next;
    const uint32_t none = UINT32_MAX;
    merge_candidate *heap = merger->heap;
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        prev[i] = i ? (uint32_t)i - 1 : none;
        next[i] = i + 1 < n ? (uint32_t)i + 1 : none;
        if (i + 1 < n && make_candidate(merger, (uint32_t)i, (uint32_t)i + 1, &heap[n_heap]))
            n_heap++;
    }
    for (size_t i = n_heap; i-- > 0;)
        heap_down(heap, n_heap, i);
    while (n_heap) {
        merge_candidate top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap)
            heap_down(heap, n_heap, 0);
        uint32_t left = (uint32_t)top.order, right = next[left];
        /* A symbol that was merged away has next == itself. */
        if (right == none || right == left || symbols[left].id != top.left ||
            symbols[right].id != top.right)
            continue;
        symbols[left].id = top.result;
        next[left] = next[right];
        next[right] = right;
        if (next[left] != none)
            prev[next[left]] = left;
        if (prev[left] != none && make_candidate(merger, prev[left], left, &heap[n_heap]))
            heap_up(heap, n_heap++);
        if (next[left] != none && make_candidate(merger, left, next[left], &heap[n_heap]))
            heap_up(heap, n_heap++);
    }
    size_t n_out = 0;
    for (uint32_t i = 0, after; i != none; i = after) {
        after = next[i];
        symbols[n_out++] = symbols[i];
    }
    return n_out;
}

bl_status bl__merger_run(bl__merger *merger, size_t *n, bl_error *err) {
    if (*n <= SHORT_WORD) {
        *n = merge_short(merger->table, merger->symbols, *n);
        return BL_OK;
    }
    bl_status status = reserve_links(merger, *n, err);
    if (!status)
        *n = merge_long(merger, *n);
    return status;
}
