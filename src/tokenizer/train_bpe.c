/* Owns the learning of merges. Must not know text, files or what the symbols stand for.
 *
 * For every pair there is its count and a list of words that may hold it. A merge walks its words,
 * and only pairs beside it change. The heap is lazy: an entry whose count has fallen since goes
 * back with the count of now; pairs whose count rises get a new entry. */
#include "tokenizer/train_bpe.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/textmap.h"

#define NONE UINT32_MAX

enum { NODE_WORDS = 6, MIN_COUNT = 2 };

typedef struct pair {
    uint64_t key; /* left << 32 | right */
    uint64_t count;
    uint32_t first; /* node of the list of words */
    uint32_t stamp; /* the step that raised it last */
    bool merged;    /* is among the merges already */
} pair;

/* Some words of a pair's list; the newest node comes first. */
typedef struct node {
    uint32_t next, n;
    uint32_t words[NODE_WORDS];
} node;

typedef struct candidate {
    uint64_t count;
    uint32_t pair;
} candidate;

typedef struct trainer {
    uint32_t *symbols;
    bl__bpe_word *words;
    pair *pairs; /* [n_pairs] */
    size_t n_pairs, pairs_room;
    uint32_t *slots; /* [mask + 1] index of a pair + 1; 0 = free */
    size_t mask;
    node *nodes; /* [n_nodes] */
    size_t n_nodes, nodes_room;
    uint32_t free_node;
    candidate *heap; /* [n_heap] */
    size_t n_heap, heap_room;
    uint32_t *raised; /* [n_raised] pairs of this step */
    size_t n_raised, raised_room;
    uint32_t step;
    bool failed; /* memory was short: what follows does nothing */
} trainer;

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "tokenizer training: cannot allocate for the pairs");
}

/* Makes room for one more element. */
static bool grow(void **array, size_t n, size_t *room, size_t size) {
    if (n < *room)
        return true;
    size_t more = *room ? *room * 2 : 1024;
    void *larger = more < NONE ? bl__realloc_array(*array, more, size) : NULL;
    if (!larger)
        return false;
    *array = larger;
    *room = more;
    return true;
}
#define GROW(t, array, n, room)                                                                    \
    grow_field(t, (void **)(void *)&(t)->array, (t)->n, &(t)->room, sizeof *(t)->array)

static bool grow_field(trainer *t, void **array, size_t n, size_t *room, size_t size) {
    t->failed = t->failed || !grow(array, n, room, size);
    return !t->failed;
}

/* ---- pairs ---- */

static size_t pair_slot(const trainer *t, uint64_t key) {
    size_t at = (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & t->mask;
    while (t->slots[at] && t->pairs[t->slots[at] - 1].key != key)
        at = (at + 1) & t->mask;
    return at;
}

static bool grow_slots(trainer *t) {
    size_t n_slots = t->slots ? 2 * (t->mask + 1) : 1 << 12;
    uint32_t *slots = bl__calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    bl__free(t->slots);
    t->slots = slots;
    t->mask = n_slots - 1;
    for (size_t i = 0; i < t->n_pairs; i++)
        t->slots[pair_slot(t, t->pairs[i].key)] = (uint32_t)i + 1;
    return true;
}

/* The index of a pair, which is entered when it is new; NONE after a failure. */
static uint32_t find_pair(trainer *t, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    if (t->failed)
        return NONE;
    size_t at = t->slots ? pair_slot(t, key) : 0;
    if (t->slots && t->slots[at])
        return t->slots[at] - 1;
    if (!t->slots || t->n_pairs >= (t->mask + 1) / 2) {
        if (!grow_slots(t)) {
            t->failed = true;
            return NONE;
        }
        at = pair_slot(t, key);
    }
    if (!GROW(t, pairs, n_pairs, pairs_room))
        return NONE;
    t->pairs[t->n_pairs] = (pair){.key = key, .first = NONE, .stamp = NONE};
    t->slots[at] = (uint32_t)++t->n_pairs;
    return t->slots[at] - 1;
}

static void list_word(trainer *t, uint32_t index, uint32_t word) {
    uint32_t first = t->pairs[index].first;
    node *n = first == NONE ? NULL : &t->nodes[first];
    if (n && n->words[n->n - 1] == word)
        return;
    if (!n || n->n == NODE_WORDS) {
        uint32_t fresh = t->free_node;
        if (fresh != NONE) {
            t->free_node = t->nodes[fresh].next;
        } else {
            if (!GROW(t, nodes, n_nodes, nodes_room))
                return;
            fresh = (uint32_t)t->n_nodes++;
        }
        n = &t->nodes[fresh];
        n->next = first;
        n->n = 0;
        t->pairs[index].first = fresh;
    }
    n->words[n->n++] = word;
}

static void raise_pair(trainer *t, uint32_t left, uint32_t right, uint32_t word) {
    uint32_t index = find_pair(t, left, right);
    if (index == NONE)
        return;
    t->pairs[index].count += t->words[word].count;
    list_word(t, index, word);
    if (t->pairs[index].stamp != t->step && GROW(t, raised, n_raised, raised_room)) {
        t->pairs[index].stamp = t->step;
        t->raised[t->n_raised++] = index;
    }
}

static void lower_pair(trainer *t, uint32_t left, uint32_t right, uint32_t word) {
    uint32_t index = find_pair(t, left, right);
    if (index != NONE)
        t->pairs[index].count -= t->words[word].count;
}

/* ---- heap ---- */

static bool comes_before(const trainer *t, candidate a, candidate b) {
    return a.count != b.count ? a.count > b.count : t->pairs[a.pair].key < t->pairs[b.pair].key;
}

static void push(trainer *t, uint32_t index) {
    candidate c = {t->pairs[index].count, index};
    if (c.count < MIN_COUNT || !GROW(t, heap, n_heap, heap_room))
        return;
    size_t at = t->n_heap++;
    for (; at && comes_before(t, c, t->heap[(at - 1) / 2]); at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = c;
}

static candidate pop(trainer *t) {
    candidate top = t->heap[0], last = t->heap[--t->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->n_heap; at = child) {
        if (child + 1 < t->n_heap && comes_before(t, t->heap[child + 1], t->heap[child]))
            child++;
        if (!comes_before(t, t->heap[child], last))
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return top;
}

static void push_raised(trainer *t) {
    for (size_t i = 0; i < t->n_raised; i++)
        push(t, t->raised[i]);
    t->n_raised = 0;
}

/* ---- merging ---- */

static void merge_in_word(trainer *t, uint32_t word, bl__bpe_merge m) {
    uint32_t *s = t->symbols + t->words[word].start;
    uint32_t n = t->words[word].len, out = 0;
    for (uint32_t i = 0; i < n;) {
        if (s[i] != m.left || i + 1 == n || s[i + 1] != m.right) {
            s[out++] = s[i++];
            continue;
        }
        if (out) {
            lower_pair(t, s[out - 1], m.left, word);
            raise_pair(t, s[out - 1], m.result, word);
        }
        if (i + 2 < n) {
            lower_pair(t, m.right, s[i + 2], word);
            raise_pair(t, m.result, s[i + 2], word);
        }
        s[out++] = m.result;
        i += 2;
    }
    t->words[word].len = out;
}

/* Merges a pair in all its words, and forgets its list. */
static void merge_everywhere(trainer *t, uint32_t index, bl__bpe_merge m) {
    uint32_t first = t->pairs[index].first, last = NONE;
    for (uint32_t at = first; at != NONE; last = at, at = t->nodes[at].next)
        for (uint32_t i = 0; i < t->nodes[at].n; i++)
            merge_in_word(t, t->nodes[at].words[i], m);
    if (last != NONE) {
        t->nodes[last].next = t->free_node;
        t->free_node = first;
    }
    t->pairs[index].first = NONE;
    t->pairs[index].count = 0;
}

bl_status bl__bpe_add_token(bl__bpe *bpe, const char *text, size_t len, bl_error *err) {
    char *copy = bl__strndup(text, len);
    if (!copy ||
        !grow((void **)(void *)&bpe->texts, bpe->n_tokens, &bpe->room, sizeof *bpe->texts)) {
        bl__free(copy);
        return fail_memory(err);
    }
    bpe->texts[bpe->n_tokens++] = (bl__string){copy, len};
    return BL_OK;
}

void bl__bpe_destroy(bl__bpe *bpe) {
    for (size_t i = 0; i < bpe->n_tokens; i++)
        bl__free((char *)(uintptr_t)bpe->texts[i].data);
    bl__free(bpe->texts);
    bl__free(bpe->merges);
    *bpe = (bl__bpe){0};
}

/* The token that a pair makes, added when there is none of its text; NONE when there may be none.
 */
static bl_status make_token(bl__bpe *bpe, bl__textmap *map, uint32_t left, uint32_t right,
                            uint32_t *out, bl_error *err) {
    char text[BL_BPE_MAX_PIECE];
    bl__string a = bpe->texts[left], b = bpe->texts[right];
    *out = NONE;
    if (a.len + b.len > sizeof text)
        return BL_OK;
    memcpy(text, a.data, a.len);
    memcpy(text + a.len, b.data, b.len);
    int32_t old = bl__textmap_find(map, text, a.len + b.len);
    if (old >= 0) {
        *out = (size_t)old < bpe->n_reserved ? NONE : (uint32_t)old;
        return BL_OK;
    }
    bl_status status = bl__bpe_add_token(bpe, text, a.len + b.len, err);
    if (status)
        return status;
    *out = (uint32_t)bpe->n_tokens - 1;
    bl__string kept = bpe->texts[*out];
    bl__textmap_add(map, kept.data, kept.len, (int32_t)*out);
    return BL_OK;
}

static bl_status merge_pair(trainer *t, bl__bpe *bpe, bl__textmap *map, uint32_t index,
                            bl_error *err) {
    uint32_t left = (uint32_t)(t->pairs[index].key >> 32), right = (uint32_t)t->pairs[index].key;
    bl__bpe_merge m = {left, right, NONE};
    bl_status status = make_token(bpe, map, left, right, &m.result, err);
    if (status || m.result == NONE) {
        t->pairs[index].count = 0;
        return status;
    }
    /* A pair can come up again when another merge makes one of its sides once more. */
    if (!t->pairs[index].merged) {
        if (!grow((void **)(void *)&bpe->merges, bpe->n_merges, &bpe->merges_room,
                  sizeof *bpe->merges))
            return fail_memory(err);
        bpe->merges[bpe->n_merges++] = m;
        t->pairs[index].merged = true;
    }
    t->step++;
    merge_everywhere(t, index, m);
    push_raised(t);
    return t->failed ? fail_memory(err) : BL_OK;
}

bl_status bl__bpe_learn(bl__bpe *bpe, size_t vocab, uint32_t *symbols, bl__bpe_word *words,
                        size_t n_words, bl_error *err) {
    trainer t = {.symbols = symbols, .words = words, .free_node = NONE};
    bl__textmap map = {0};
    bl_status status = bl__textmap_create(vocab > bpe->n_tokens ? vocab : bpe->n_tokens, &map, err);
    for (size_t i = 0; i < bpe->n_tokens && !status; i++)
        bl__textmap_add(&map, bpe->texts[i].data, bpe->texts[i].len, (int32_t)i);
    for (size_t w = 0; w < n_words && !status; w++)
        for (uint32_t i = 0; i + 1 < words[w].len; i++)
            raise_pair(&t, symbols[words[w].start + i], symbols[words[w].start + i + 1],
                       (uint32_t)w);
    push_raised(&t);
    if (t.failed && !status)
        status = fail_memory(err);
    while (!status && t.n_heap && bpe->n_tokens < vocab) {
        candidate top = pop(&t);
        if (top.count == t.pairs[top.pair].count)
            status = merge_pair(&t, bpe, &map, top.pair, err);
        else if (top.count > t.pairs[top.pair].count)
            push(&t, top.pair);
        if (t.failed && !status)
            status = fail_memory(err);
    }
    bl__free(t.pairs);
    bl__free(t.slots);
    bl__free(t.nodes);
    bl__free(t.heap);
    bl__free(t.raised);
    bl__textmap_destroy(&map);
    return status;
}
