/* Owns the numbers of frames, sets of frames and states: each is made once, and found by its hash
 * again. Must not know tokens, nor what may be reached without a byte (grammar_close.c). */
#include "generate/grammar_stack.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
    FIRST_ROOM = 64,
    MAX_STATES = 1 << 15,
    MAX_PLACES = 1 << 21, /* of all states */
    MANY = 4              /* a quarter of the limits is taken for many */
};

void bl__states_fail(bl__states *s, bl_status status) {
    if (!s->status)
        s->status = status;
}

bool bl__states_grow(bl__states *s, void **array, size_t size, size_t n, size_t *room,
                     size_t most) {
    if (s->status)
        return false;
    if (n < *room)
        return true;
    if (n >= most) {
        bl__states_fail(s, BL_ERR_LIMIT);
        return false;
    }
    size_t more = *room ? 2 * *room : FIRST_ROOM;
    void *larger = bl__realloc_array(*array, more, size);
    if (!larger) {
        bl__states_fail(s, BL_ERR_MEMORY);
        return false;
    }
    *array = larger;
    *room = more;
    return true;
}

/* ---- hashes ---- */

static uint32_t mix(uint32_t hash, uint32_t value) {
    hash ^= value;
    hash *= 0x9e3779b1u;
    return hash ^ hash >> 15;
}

static uint32_t hash_words(uint32_t hash, const void *words, size_t n) {
    const uint32_t *w = words;
    for (size_t i = 0; i < n; i++)
        hash = mix(hash, w[i]);
    return hash;
}

/* Calls for the slots of a hash in turn, from *at = hash on: the number + 1 in the next one that
 * has this hash, or 0 at a free one. */
static uint32_t next_slot(const bl__hash_table *t, uint32_t hash, size_t *at) {
    for (;; ++*at) {
        const uint32_t *slot = &t->slots[2 * (*at & (t->size - 1))];
        if (slot[1] == 0 || slot[0] == hash)
            return slot[1];
    }
}

static bool reserve_slot(bl__states *s, bl__hash_table *t) {
    if (s->status || 2 * (t->n + 1) <= t->size)
        return !s->status;
    bl__hash_table larger = {.size = t->size ? 2 * t->size : FIRST_ROOM, .n = t->n};
    larger.slots = bl__calloc(larger.size, 2 * sizeof *larger.slots);
    if (!larger.slots) {
        bl__states_fail(s, BL_ERR_MEMORY);
        return false;
    }
    for (size_t i = 0; i < t->size; i++) {
        const uint32_t *from = &t->slots[2 * i];
        size_t at = from[0];
        while (from[1] && larger.slots[2 * (at & (larger.size - 1)) + 1])
            at++;
        if (from[1])
            memcpy(&larger.slots[2 * (at & (larger.size - 1))], from, 2 * sizeof *from);
    }
    bl__free(t->slots);
    *t = larger;
    return true;
}

/* Fills the free slot that next_slot() came to. */
static void fill_slot(bl__hash_table *t, uint32_t hash, size_t at, uint32_t number) {
    uint32_t *slot = &t->slots[2 * (at & (t->size - 1))];
    slot[0] = hash;
    slot[1] = number + 1;
    t->n++;
}

/* ---- sets of frames ---- */

static bool reserve_scratch(bl__states *s, size_t n) {
    while (s->scratch_room < n)
        if (!bl__states_grow(s, (void **)&s->scratch, sizeof *s->scratch, s->scratch_room,
                             &s->scratch_room, BL_MAX_MEMBERS))
            return false;
    return true;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Puts scratch[n] in order, each once; returns how many are left. */
static size_t order_scratch(bl__states *s, size_t n) {
    size_t kept = 0;
    qsort(s->scratch, n, sizeof *s->scratch, by_value);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || s->scratch[i] != s->scratch[i - 1])
            s->scratch[kept++] = s->scratch[i];
    return kept;
}

/* The set that stands for this one: of the frames that stand for its own. */
static void find_seen_set(bl__states *s, uint32_t set) {
    const bl__frame_set old = s->sets[set];
    bool is_itself = true;
    for (uint32_t i = 0; i < old.n; i++) {
        uint32_t frame = s->members[old.first + i];
        s->scratch[i] = s->frames[frame].seen; /* room: the set was just there */
        is_itself = is_itself && s->frames[frame].seen == frame;
    }
    if (!is_itself) {
        uint32_t seen = bl__find_set(s, order_scratch(s, old.n));
        s->sets[set].seen = seen;
    }
}

uint32_t bl__find_set(bl__states *s, size_t n) {
    if (s->status || !reserve_slot(s, &s->set_table))
        return BL_NET_NONE;
    uint32_t hash = hash_words((uint32_t)n, s->scratch, n), found;
    size_t at = hash, size = n * sizeof *s->scratch;
    for (; (found = next_slot(&s->set_table, hash, &at)); at++) {
        const bl__frame_set *set = &s->sets[found - 1];
        if (set->n == n && memcmp(s->members + set->first, s->scratch, size) == 0)
            return found - 1;
    }
    if (!bl__states_grow(s, (void **)&s->sets, sizeof *s->sets, s->n_sets, &s->set_room,
                         BL_MAX_FRAMES))
        return BL_NET_NONE;
    while (s->member_room - s->n_members < n)
        if (!bl__states_grow(s, (void **)&s->members, sizeof *s->members, s->member_room,
                             &s->member_room, BL_MAX_MEMBERS))
            return BL_NET_NONE;
    uint32_t made = (uint32_t)s->n_sets++;
    bl__frame_set set = {.first = (uint32_t)s->n_members,
                         .n = (uint32_t)n,
                         .shallowest = UINT32_MAX,
                         .seen = made,
                         .serial = s->serial++};
    memcpy(s->members + s->n_members, s->scratch, size);
    s->n_members += n;
    for (size_t i = 0; i < n; i++) {
        uint32_t depth = s->frames[s->scratch[i]].depth;
        set.shallowest = depth < set.shallowest ? depth : set.shallowest;
        set.deepest = depth > set.deepest ? depth : set.deepest;
    }
    s->sets[made] = set;
    fill_slot(&s->set_table, hash, at, made);
    find_seen_set(s, made);
    return made;
}

uint32_t bl__set_of(bl__states *s, uint32_t frame) {
    if (!reserve_scratch(s, 1))
        return BL_NET_NONE;
    s->scratch[0] = frame;
    return bl__find_set(s, 1);
}

uint32_t bl__set_union(bl__states *s, uint32_t a, uint32_t b) {
    if (a == b)
        return a;
    size_t n_a = s->sets[a].n, n_b = s->sets[b].n, n = 0, i = 0, j = 0;
    bl__states_work(s, n_a + n_b);
    if (s->status || !reserve_scratch(s, n_a + n_b))
        return BL_NET_NONE;
    const uint32_t *x = s->members + s->sets[a].first, *y = s->members + s->sets[b].first;
    while (i < n_a || j < n_b) {
        uint32_t next = j == n_b || (i < n_a && x[i] < y[j]) ? x[i] : y[j];
        i += i < n_a && x[i] == next;
        j += j < n_b && y[j] == next;
        s->scratch[n++] = next;
    }
    return n == n_a ? a : bl__find_set(s, n);
}

uint32_t bl__set_within(bl__states *s, uint32_t set, uint32_t need) {
    const bl__frame_set old = s->sets[set];
    if (old.deepest + need <= BL_NET_MAX_STACK)
        return set;
    if (old.shallowest + need > BL_NET_MAX_STACK || !reserve_scratch(s, old.n))
        return BL_NET_NONE;
    size_t n = 0;
    for (uint32_t i = 0; i < old.n; i++) {
        uint32_t frame = s->members[old.first + i];
        if (s->frames[frame].depth + need <= BL_NET_MAX_STACK)
            s->scratch[n++] = frame;
    }
    return bl__find_set(s, n);
}

/* ---- frames ---- */

/* The count that stands for all those that `reach` bytes cannot tell apart: of runs that must still
 * come, and of those that may, only so many can be met, since each takes a byte. */
static uint32_t count_as_seen(const bl__states *s, const bl__net_site *site, uint32_t count) {
    if (count < site->min)
        return site->min - count > s->reach ? site->min - s->reach : count;
    if (site->max == BL_NET_ANY_COUNT)
        return site->min;
    return site->max - count > s->reach ? site->max - s->reach : count;
}

uint32_t bl__find_frame(bl__states *s, uint32_t site, uint32_t count, uint32_t below) {
    const uint32_t words[] = {site, count, below};
    if (s->status || !reserve_slot(s, &s->frame_table))
        return 0;
    uint32_t hash = hash_words(1, words, 3), found;
    size_t at = hash;
    for (; (found = next_slot(&s->frame_table, hash, &at)); at++) {
        const bl__frame *f = &s->frames[found - 1];
        if (f->site == site && f->count == count && f->below == below)
            return found - 1;
    }
    if (!bl__states_grow(s, (void **)&s->frames, sizeof *s->frames, s->n_frames, &s->frame_room,
                         BL_MAX_FRAMES))
        return 0;
    uint32_t made = (uint32_t)s->n_frames++;
    s->frames[made] = (bl__frame){.site = site,
                                  .count = count,
                                  .below = below,
                                  .depth = s->sets[below].shallowest + 1,
                                  .seen = made,
                                  .serial = s->serial++};
    fill_slot(&s->frame_table, hash, at, made);
    uint32_t seen_count = count_as_seen(s, &s->net->sites[site], count);
    uint32_t seen_below = s->sets[below].seen;
    if (seen_count != count || seen_below != below) {
        uint32_t seen = bl__find_frame(s, site, seen_count, seen_below); /* stands for itself */
        s->frames[made].seen = seen;
    }
    return made;
}

/* ---- states ---- */

/* Room for one more state and the places found. */
static bool grow_states(bl__states *s) {
    size_t room = s->state_room, n_classes = s->net->n_classes;
    if (!reserve_slot(s, &s->state_table) ||
        !bl__states_grow(s, (void **)&s->list, sizeof *s->list, s->n_states, &room, MAX_STATES))
        return false;
    if (room != s->state_room) {
        uint32_t *next = bl__realloc_array(s->next, room, n_classes * sizeof *next);
        if (!next) {
            bl__states_fail(s, BL_ERR_MEMORY);
            return false;
        }
        s->next = next;
        s->state_room = room;
    }
    while (s->place_room - s->n_places < s->n_found)
        if (!bl__states_grow(s, (void **)&s->places, sizeof *s->places, s->place_room,
                             &s->place_room, MAX_PLACES))
            return false;
    return true;
}

static bool is_found(const bl__states *s, const bl__state *state) {
    if (state->n != s->n_found || state->may_end != s->finds_end)
        return false;
    for (size_t i = 0; i < state->n; i++) {
        const bl__place *p = &s->places[state->first + i];
        if (p->node != s->found[i].node || p->set != s->found[i].set)
            return false;
    }
    return true;
}

/* The state of what was found, which is in order, made when there is none. */
static uint32_t find_state(bl__states *s) {
    if (s->status || (s->n_found == 0 && !s->finds_end) || !grow_states(s))
        return BL_STATE_DEAD;
    uint32_t hash = s->finds_end, found;
    for (size_t i = 0; i < s->n_found; i++)
        hash = mix(mix(hash, s->found[i].node), s->found[i].set);
    size_t at = hash;
    for (; (found = next_slot(&s->state_table, hash, &at)); at++)
        if (is_found(s, &s->list[found - 1]))
            return found - 1;
    uint32_t made = (uint32_t)s->n_states++;
    s->list[made] = (bl__state){.first = (uint32_t)s->n_places,
                                .n = (uint32_t)s->n_found,
                                .seen = BL_STATE_UNKNOWN,
                                .mask = -1,
                                .may_end = s->finds_end};
    for (size_t i = 0; i < s->n_found; i++)
        s->places[s->n_places++] = (bl__place){s->found[i].node, s->found[i].set};
    memset(s->next + (size_t)made * s->net->n_classes, 0xff,
           s->net->n_classes * sizeof *s->next); /* BL_STATE_UNKNOWN */
    fill_slot(&s->state_table, hash, at, made);
    return made;
}

/* Frame 0, the bottom, set 0 of it alone, and state 0, the dead one. */
static void make_first(bl__states *s) {
    s->found_at = bl__calloc(s->net->n_nodes, sizeof *s->found_at);
    s->stamps = bl__calloc(s->net->n_nodes, sizeof *s->stamps);
    if (!s->found_at || !s->stamps)
        bl__states_fail(s, BL_ERR_MEMORY);
    if (!bl__states_grow(s, (void **)&s->frames, sizeof *s->frames, 0, &s->frame_room,
                         BL_MAX_FRAMES))
        return;
    s->frames[0] = (bl__frame){.serial = s->serial++};
    s->n_frames = 1;
    bl__set_of(s, 0);
    if (!grow_states(s))
        return;
    s->list[0] = (bl__state){.seen = BL_STATE_DEAD, .mask = -1};
    memset(s->next, 0, s->net->n_classes * sizeof *s->next); /* dead it stays */
    s->n_states = 1;
}

bl_status bl__states_init(bl__states *s, const bl__net *net, uint32_t reach) {
    *s = (bl__states){.net = net, .reach = reach ? reach : 1};
    make_first(s);
    return s->status;
}

void bl__states_destroy(bl__states *s) {
    bl__free(s->frames);
    bl__free(s->sets);
    bl__free(s->members);
    bl__free(s->places);
    bl__free(s->list);
    bl__free(s->next);
    bl__free(s->frame_table.slots);
    bl__free(s->set_table.slots);
    bl__free(s->state_table.slots);
    bl__free(s->found);
    bl__free(s->found_at);
    bl__free(s->stamps);
    bl__free(s->queue);
    bl__free(s->ring);
    bl__free(s->pushes);
    bl__free(s->scratch);
    *s = (bl__states){.status = BL_OK};
}

uint32_t bl__states_start(bl__states *s) {
    s->status = BL_OK;
    bl__set_begin(s);
    bl__set_add(s, s->net->start, 0);
    bl__set_close(s);
    return find_state(s);
}

uint32_t bl__states_find_step(bl__states *s, uint32_t state, uint8_t byte) {
    uint32_t first = s->list[state].first, n = s->list[state].n;
    s->status = BL_OK;
    bl__set_begin(s);
    for (uint32_t i = first; i < first + n && !s->status; i++) {
        bl__place p = s->places[i];
        bl__states_work(s, s->net->first[p.node + 1] - s->net->first[p.node]);
        for (uint32_t e = s->net->first[p.node]; e < s->net->first[p.node + 1]; e++) {
            const bl__net_edge *edge = &s->net->edges[e];
            if (edge->kind != BL_EDGE_BYTES)
                break;
            if (edge->low <= byte && byte <= edge->high)
                bl__set_add(s, edge->to, p.set);
        }
    }
    bl__set_close(s);
    uint32_t next = find_state(s);
    if (!s->status)
        s->next[(size_t)state * s->net->n_classes + s->net->class_of[byte]] = next;
    return next;
}

uint32_t bl__states_as_seen(bl__states *s, uint32_t state) {
    const bl__state exact = s->list[state];
    if (exact.seen != BL_STATE_UNKNOWN)
        return exact.seen;
    s->status = BL_OK;
    bl__set_begin(s);
    for (uint32_t i = exact.first; i < exact.first + exact.n; i++)
        bl__set_add(s, s->places[i].node, s->sets[s->places[i].set].seen);
    s->finds_end = exact.may_end; /* nodes are in order as they were */
    uint32_t seen = find_state(s);
    if (s->status)
        return BL_STATE_DEAD;
    s->list[state].seen = seen;
    s->list[seen].seen = seen;
    return seen;
}

/* ---- forgetting ---- */

bool bl__states_are_many(const bl__states *s) {
    return s->n_frames > BL_MAX_FRAMES / MANY || s->n_states > MAX_STATES / MANY ||
           s->n_places > MAX_PLACES / MANY || s->n_members > BL_MAX_MEMBERS / MANY ||
           s->n_sets > BL_MAX_FRAMES / MANY;
}

/* New numbers; BL_NET_NONE: not needed. */
typedef struct renumbering {
    uint32_t *frames, *sets;
} renumbering;

/* Marks with 0 what a state stands on. What was made later stands on what was made earlier. */
static void mark(const bl__states *s, const bl__state *state, renumbering *map) {
    memset(map->frames, 0xff, s->n_frames * sizeof *map->frames);
    memset(map->sets, 0xff, s->n_sets * sizeof *map->sets);
    for (uint32_t i = state->first; i < state->first + state->n; i++)
        map->sets[s->places[i].set] = 0;
    for (size_t f = s->n_frames, t = s->n_sets; t > 0;) {
        if (f > 0 && s->frames[f - 1].serial > s->sets[t - 1].serial) {
            if (map->frames[--f] == 0 && f > 0)
                map->sets[s->frames[f].below] = 0;
        } else if (map->sets[--t] == 0) {
            for (uint32_t i = 0; i < s->sets[t].n; i++)
                map->frames[s->members[s->sets[t].first + i]] = 0;
        }
    }
}

/* Makes what is marked anew, in the order in which it was made. */
static void copy_marked(const bl__states *from, bl__states *to, renumbering *map) {
    map->frames[0] = map->sets[0] = 0;
    for (size_t f = 1, t = 1; (f < from->n_frames || t < from->n_sets) && !to->status;) {
        if (t == from->n_sets ||
            (f < from->n_frames && from->frames[f].serial < from->sets[t].serial)) {
            const bl__frame *frame = &from->frames[f];
            if (map->frames[f] == 0)
                map->frames[f] =
                    bl__find_frame(to, frame->site, frame->count, map->sets[frame->below]);
            f++;
        } else {
            const bl__frame_set *set = &from->sets[t];
            if (map->sets[t] == 0 && reserve_scratch(to, set->n)) {
                for (uint32_t i = 0; i < set->n; i++)
                    to->scratch[i] = map->frames[from->members[set->first + i]];
                map->sets[t] = bl__find_set(to, order_scratch(to, set->n));
            }
            t++;
        }
    }
}

uint32_t bl__states_forget(bl__states *s, uint32_t state) {
    const bl__state old = s->list[state];
    renumbering map = {bl__malloc_array(s->n_frames, sizeof *map.frames),
                       bl__malloc_array(s->n_sets, sizeof *map.sets)};
    uint32_t new_state = BL_STATE_DEAD;
    bl__states fresh;
    bl__states_init(&fresh, s->net, s->reach);
    if (!map.frames || !map.sets)
        bl__states_fail(&fresh, BL_ERR_MEMORY);
    if (!fresh.status) {
        mark(s, &old, &map);
        copy_marked(s, &fresh, &map);
        bl__set_begin(&fresh);
        for (uint32_t i = old.first; i < old.first + old.n && !fresh.status; i++)
            bl__set_add(&fresh, s->places[i].node, map.sets[s->places[i].set]);
        fresh.finds_end = old.may_end;
        new_state = find_state(&fresh);
    }
    bl__free(map.frames);
    bl__free(map.sets);
    s->status = fresh.status;
    if (fresh.status) {
        bl__states_destroy(&fresh);
        return state;
    }
    bl__states_destroy(s);
    *s = fresh;
    return new_state;
}
