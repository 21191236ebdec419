/* Owns the states of a running network: stacks, sets of places, steps by bytes. Must not know
 * tokens. */
#include "generate/grammar_stack.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
    FIRST_ROOM = 64,
    MAX_FRAMES = 1 << 20,
    MAX_STATES = 1 << 16,
    MAX_PLACES = 1 << 22, /* of all states */
    MAX_FOUND = 1 << 14,  /* of one: more is too ambiguous to be followed */
    MANY = 4              /* a quarter of these limits is taken for many */
};

static void fail(bl__states *s, bl_status status) {
    if (!s->status)
        s->status = status;
}

/* Makes room for one more element; false, and s->status, when there is none. */
static bool grow(bl__states *s, void **array, size_t size, size_t n, size_t *room, size_t most) {
    if (s->status)
        return false;
    if (n < *room)
        return true;
    if (n >= most) {
        fail(s, BL_ERR_LIMIT);
        return false;
    }
    size_t more = *room ? 2 * *room : FIRST_ROOM;
    void *larger = bl__realloc_array(*array, more, size);
    if (!larger) {
        fail(s, BL_ERR_MEMORY);
        return false;
    }
    *array = larger;
    *room = more;
    return true;
}

static uint32_t mix(uint32_t hash, uint32_t value) {
    hash ^= value;
    hash *= 0x9e3779b1u;
    return hash ^ hash >> 15;
}

/* ---- frames ---- */

static uint32_t hash_frame(const bl__frame *f) {
    return mix(mix(mix(0x7feb352d, f->site), f->count), f->below);
}

static bool grow_frame_table(bl__states *s) {
    if (2 * (s->n_frames + 1) <= s->frame_table_size)
        return true;
    size_t size = s->frame_table_size ? 2 * s->frame_table_size : FIRST_ROOM;
    uint32_t *table = bl__calloc(size, sizeof *table);
    if (!table) {
        fail(s, BL_ERR_MEMORY);
        return false;
    }
    for (uint32_t i = 1; i < s->n_frames; i++) {
        size_t at = hash_frame(&s->frames[i]) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i;
    }
    bl__free(s->frame_table);
    s->frame_table = table;
    s->frame_table_size = size;
    return true;
}

/* The count that stands for all those that `reach` bytes cannot tell apart: of runs that must still
 * come, and of those that may, only so many can be met, since each takes a byte. */
static uint32_t count_as_seen(const bl__states *s, const bl__net_site *site, uint32_t count) {
    if (count < site->min)
        return site->min - count > s->reach ? site->min - s->reach : count;
    if (site->max == BL_NET_ANY_COUNT)
        return site->min;
    return site->max - count > s->reach ? site->max - s->reach : count;
}

/* The frame with this content, made when there is none. 0 after a failure. */
static uint32_t find_frame(bl__states *s, uint32_t site, uint32_t count, uint32_t below) {
    bl__frame f = {.site = site, .count = count, .below = below};
    if (s->status || !grow_frame_table(s))
        return 0;
    size_t at = hash_frame(&f) & (s->frame_table_size - 1);
    for (uint32_t i; (i = s->frame_table[at]); at = (at + 1) & (s->frame_table_size - 1))
        if (s->frames[i].site == site && s->frames[i].count == count && s->frames[i].below == below)
            return i;
    if (!grow(s, (void **)&s->frames, sizeof f, s->n_frames, &s->frame_room, MAX_FRAMES))
        return 0;
    uint32_t made = (uint32_t)s->n_frames++;
    f.depth = s->frames[below].depth + 1;
    f.seen = made;
    s->frames[made] = f;
    s->frame_table[at] = made;
    uint32_t seen_count = count_as_seen(s, &s->net->sites[site], count);
    uint32_t seen_below = s->frames[below].seen;
    if (seen_count != count || seen_below != below) {
        uint32_t seen = find_frame(s, site, seen_count, seen_below); /* stands for itself */
        s->frames[made].seen = seen;
    }
    return made;
}

/* ---- the set in the making ---- */

static bool grow_found_table(bl__states *s) {
    if (2 * (s->n_found + 1) <= s->found_table_size)
        return true;
    size_t size = s->found_table_size ? 2 * s->found_table_size : FIRST_ROOM;
    uint32_t *memory = bl__calloc(size, 2 * sizeof *memory);
    if (!memory) {
        fail(s, BL_ERR_MEMORY);
        return false;
    }
    bl__free(s->found_table);
    s->found_table = memory;
    s->found_stamp = memory + size;
    s->found_table_size = size;
    s->stamp = 1;
    for (uint32_t i = 0; i < s->n_found; i++) {
        size_t at = mix(mix(1, s->found[i].node), s->found[i].frame) & (size - 1);
        while (s->found_stamp[at])
            at = (at + 1) & (size - 1);
        s->found_stamp[at] = s->stamp;
        s->found_table[at] = i;
    }
    return true;
}

/* Begins a new set. */
static void begin_set(bl__states *s) {
    s->n_found = 0;
    s->finds_end = false;
    if (++s->stamp == 0 && s->found_table_size > 0) { /* stamps of long ago would seem new */
        memset(s->found_stamp, 0, s->found_table_size * sizeof *s->found_stamp);
        s->stamp = 1;
    }
}

/* Adds a place, once, if a whole text can come of it within the depth allowed. */
static void add_place(bl__states *s, uint32_t node, uint32_t frame) {
    if (s->status || s->frames[frame].depth + s->net->need[node] > BL_NET_MAX_STACK ||
        !grow_found_table(s))
        return;
    size_t mask = s->found_table_size - 1, at = mix(mix(1, node), frame) & mask;
    for (; s->found_stamp[at] == s->stamp; at = (at + 1) & mask) {
        const bl__place *p = &s->found[s->found_table[at]];
        if (p->node == node && p->frame == frame)
            return;
    }
    if (!grow(s, (void **)&s->found, sizeof *s->found, s->n_found, &s->found_room, MAX_FOUND))
        return;
    s->found_stamp[at] = s->stamp;
    s->found_table[at] = (uint32_t)s->n_found;
    s->found[s->n_found++] = (bl__place){node, frame};
}

/* Enters a call whose part has been run `count` times. */
static void enter(bl__states *s, uint32_t site, uint32_t count, uint32_t below) {
    uint32_t start = s->net->sites[site].start;
    if (s->frames[below].depth + 1 + s->net->need[start] > BL_NET_MAX_STACK)
        return;
    uint32_t frame = find_frame(s, site, count, below);
    if (frame)
        add_place(s, start, frame);
}

static void call(bl__states *s, uint32_t site_index, uint32_t frame) {
    const bl__net_site *site = &s->net->sites[site_index];
    if (site->min == 0)
        add_place(s, site->to, frame);
    if (site->max == 0)
        return;
    if (bl__net_is_tail(s->net, site))
        add_place(s, site->start, frame);
    else if (s->frames[frame].depth + s->net->need[site->to] <= BL_NET_MAX_STACK)
        enter(s, site_index, 0, frame);
}

/* What was called has been run once more. */
static void come_back(bl__states *s, uint32_t frame_index) {
    if (frame_index == 0) {
        s->finds_end = true;
        return;
    }
    const bl__frame frame = s->frames[frame_index];
    const bl__net_site *site = &s->net->sites[frame.site];
    uint32_t count = frame.count + 1;
    if (count >= site->min)
        add_place(s, site->to, frame.below);
    if (site->max == BL_NET_ANY_COUNT && count > site->min)
        count = site->min;
    if (count < site->max)
        enter(s, frame.site, count, frame.below);
}

/* Adds all that can be reached without a byte, and keeps what a byte can leave. */
static void close_set(bl__states *s) {
    size_t n_kept = 0;
    for (size_t i = 0; i < s->n_found && !s->status; i++) {
        bl__place p = s->found[i];
        if (s->net->flags[p.node] & BL_NODE_FINAL)
            come_back(s, p.frame);
        for (uint32_t e = s->net->first[p.node]; e < s->net->first[p.node + 1]; e++) {
            const bl__net_edge *edge = &s->net->edges[e];
            if (edge->kind == BL_EDGE_EMPTY)
                add_place(s, edge->to, p.frame);
            else if (edge->kind == BL_EDGE_CALL)
                call(s, edge->site, p.frame);
        }
    }
    /* The hash is of no use from here on. */
    for (size_t i = 0; i < s->n_found && !s->status; i++)
        if (s->net->flags[s->found[i].node] & BL_NODE_HAS_BYTES)
            s->found[n_kept++] = s->found[i];
    s->n_found = n_kept;
}

/* ---- states ---- */

static int by_place(const void *a, const void *b) {
    const bl__place *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return (x->frame > y->frame) - (x->frame < y->frame);
}

static uint32_t hash_places(const bl__place *list, size_t n, bool may_end) {
    uint32_t hash = may_end ? 0x85ebca6b : 0xc2b2ae35;
    for (size_t i = 0; i < n; i++)
        hash = mix(mix(hash, list[i].node), list[i].frame);
    return hash;
}

static bool grow_state_table(bl__states *s) {
    if (2 * (s->n_states + 1) <= s->state_table_size)
        return true;
    size_t size = s->state_table_size ? 2 * s->state_table_size : FIRST_ROOM;
    uint32_t *table = bl__calloc(size, sizeof *table);
    if (!table) {
        fail(s, BL_ERR_MEMORY);
        return false;
    }
    for (uint32_t i = 1; i < s->n_states; i++) {
        const bl__state *state = &s->list[i];
        size_t at = hash_places(s->places + state->first, state->n, state->may_end) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i;
    }
    bl__free(s->state_table);
    s->state_table = table;
    s->state_table_size = size;
    return true;
}

/* Room for one more state and the places found. */
static bool grow_states(bl__states *s) {
    size_t room = s->state_room, n_classes = s->net->n_classes;
    if (!grow_state_table(s) ||
        !grow(s, (void **)&s->list, sizeof *s->list, s->n_states, &room, MAX_STATES))
        return false;
    if (room != s->state_room) {
        uint32_t *next = bl__realloc_array(s->next, room, n_classes * sizeof *next);
        if (!next) {
            fail(s, BL_ERR_MEMORY);
            return false;
        }
        s->next = next;
        s->state_room = room;
    }
    while (s->place_room - s->n_places < s->n_found)
        if (!grow(s, (void **)&s->places, sizeof *s->places, s->place_room, &s->place_room,
                  MAX_PLACES))
            return false;
    return true;
}

/* The state of the places found, made when there is none. */
static uint32_t find_state(bl__states *s) {
    if (s->status || (s->n_found == 0 && !s->finds_end))
        return BL_STATE_DEAD;
    qsort(s->found, s->n_found, sizeof *s->found, by_place);
    if (!grow_states(s))
        return BL_STATE_DEAD;
    size_t mask = s->state_table_size - 1;
    size_t at = hash_places(s->found, s->n_found, s->finds_end) & mask;
    for (uint32_t i; (i = s->state_table[at]); at = (at + 1) & mask) {
        const bl__state *state = &s->list[i];
        if (state->n == s->n_found && state->may_end == s->finds_end &&
            memcmp(s->places + state->first, s->found, s->n_found * sizeof *s->found) == 0)
            return i;
    }
    uint32_t made = (uint32_t)s->n_states++;
    memcpy(s->places + s->n_places, s->found, s->n_found * sizeof *s->found);
    s->list[made] = (bl__state){.first = (uint32_t)s->n_places,
                                .n = (uint32_t)s->n_found,
                                .seen = BL_STATE_UNKNOWN,
                                .mask = -1,
                                .may_end = s->finds_end};
    s->n_places += s->n_found;
    memset(s->next + (size_t)made * s->net->n_classes, 0xff,
           s->net->n_classes * sizeof *s->next); /* BL_STATE_UNKNOWN */
    s->state_table[at] = made;
    return made;
}

/* Frame 0, the bottom, and state 0, the dead one. */
static void make_first(bl__states *s) {
    if (!grow(s, (void **)&s->frames, sizeof *s->frames, 0, &s->frame_room, MAX_FRAMES))
        return;
    s->frames[0] = (bl__frame){.depth = 0};
    s->n_frames = 1;
    begin_set(s);
    if (!grow_states(s) || !grow_found_table(s))
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
    bl__free(s->frame_table);
    bl__free(s->places);
    bl__free(s->list);
    bl__free(s->next);
    bl__free(s->state_table);
    bl__free(s->found);
    bl__free(s->found_table);
    *s = (bl__states){.status = BL_OK};
}

uint32_t bl__states_start(bl__states *s) {
    s->status = BL_OK;
    begin_set(s);
    add_place(s, s->net->start, 0);
    close_set(s);
    return find_state(s);
}

uint32_t bl__states_find_step(bl__states *s, uint32_t state, uint8_t byte) {
    uint32_t first = s->list[state].first, n = s->list[state].n;
    s->status = BL_OK;
    begin_set(s);
    for (uint32_t i = first; i < first + n && !s->status; i++) {
        bl__place p = s->places[i];
        for (uint32_t e = s->net->first[p.node]; e < s->net->first[p.node + 1]; e++) {
            const bl__net_edge *edge = &s->net->edges[e];
            if (edge->kind != BL_EDGE_BYTES)
                break;
            if (edge->low <= byte && byte <= edge->high)
                add_place(s, edge->to, p.frame);
        }
    }
    close_set(s);
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
    begin_set(s);
    for (uint32_t i = exact.first; i < exact.first + exact.n; i++)
        add_place(s, s->places[i].node, s->frames[s->places[i].frame].seen);
    s->finds_end = exact.may_end;
    uint32_t seen = find_state(s);
    if (s->status)
        return BL_STATE_DEAD;
    s->list[state].seen = seen;
    s->list[seen].seen = seen;
    return seen;
}

bool bl__states_are_many(const bl__states *s) {
    return s->n_frames > MAX_FRAMES / MANY || s->n_states > MAX_STATES / MANY ||
           s->n_places > MAX_PLACES / MANY;
}

/* Copies the frames that a state's places stand on, from the lowest up; map: old -> new. */
static void copy_frames(const bl__states *from, const bl__state *state, bl__states *to,
                        uint32_t *map) {
    for (uint32_t i = state->first; i < state->first + state->n; i++)
        map[from->places[i].frame] = 1;
    for (size_t i = from->n_frames; i-- > 1;) /* a frame comes after the one below it */
        if (map[i])
            map[from->frames[i].below] = 1;
    map[0] = 0;
    for (size_t i = 1; i < from->n_frames; i++)
        if (map[i])
            map[i] = find_frame(to, from->frames[i].site, from->frames[i].count,
                                map[from->frames[i].below]);
}

uint32_t bl__states_forget(bl__states *s, uint32_t state) {
    const bl__state old = s->list[state];
    uint32_t *map = bl__calloc(s->n_frames, sizeof *map), new_state = BL_STATE_DEAD;
    bl__states fresh;
    bl__states_init(&fresh, s->net, s->reach);
    if (!map)
        fail(&fresh, BL_ERR_MEMORY);
    if (!fresh.status) {
        copy_frames(s, &old, &fresh, map);
        begin_set(&fresh);
        for (uint32_t i = old.first; i < old.first + old.n; i++)
            add_place(&fresh, s->places[i].node, map[s->places[i].frame]);
        fresh.finds_end = old.may_end;
        new_state = find_state(&fresh);
    }
    bl__free(map);
    s->status = fresh.status;
    if (fresh.status) {
        bl__states_destroy(&fresh);
        return state;
    }
    bl__states_destroy(s);
    *s = fresh;
    return new_state;
}
