/* Owns what can be reached without a byte: calls are entered and come back from. Must not know what
 * states are kept for.
 *
 * Two passes. First, what was open before this byte comes back, as far up as it goes: only frames
 * made before take part, since what is called and ends without a byte is skipped instead (every
 * call that may be empty counts as an edge of nothing, too). Then calls are entered, callers before
 * what they call, so that a frame is made when all that lies below it is known; no rule begins with
 * itself, so there is such an order. */
#include <stdlib.h>

#include "generate/grammar_stack.h"

void bl__set_begin(bl__states *s) {
    s->n_found = s->n_queue = s->n_pushes = 0;
    s->finds_end = false;
    s->stamp++;
    if (s->stamp == 0) { /* stamps of long ago would seem new */
        for (size_t i = 0; i < s->net->n_nodes; i++)
            s->stamps[i] = 0;
        s->stamp = 1;
    }
}

/* ---- the queue: callers first ---- */

static uint32_t order_of(const bl__states *s, uint32_t found) {
    return s->net->order[s->found[found].node];
}

static void enqueue(bl__states *s, uint32_t found) {
    if (s->found[found].is_queued || !bl__states_grow(s, (void **)&s->queue, sizeof *s->queue,
                                                      s->n_queue, &s->queue_room, BL_MAX_FOUND))
        return;
    s->found[found].is_queued = true;
    size_t at = s->n_queue++;
    uint32_t order = order_of(s, found);
    for (size_t up; at > 0 && order_of(s, s->queue[up = (at - 1) / 2]) < order; at = up)
        s->queue[at] = s->queue[up];
    s->queue[at] = found;
}

static uint32_t dequeue(bl__states *s) {
    uint32_t first = s->queue[0], last = s->queue[--s->n_queue];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < s->n_queue; at = child) {
        if (child + 1 < s->n_queue &&
            order_of(s, s->queue[child + 1]) > order_of(s, s->queue[child]))
            child++;
        if (order_of(s, s->queue[child]) <= order_of(s, last))
            break;
        s->queue[at] = s->queue[child];
    }
    s->queue[at] = last;
    s->found[first].is_queued = false;
    return first;
}

void bl__set_add(bl__states *s, uint32_t node, uint32_t set) {
    bl__states_work(s, 1);
    if (s->status || (set = bl__set_within(s, set, s->net->need[node])) == BL_NET_NONE)
        return;
    if (s->stamps[node] == s->stamp) {
        bl__found *old = &s->found[s->found_at[node]];
        uint32_t both = bl__set_union(s, old->set, set);
        if (both != old->set && both != BL_NET_NONE) {
            old->set = both;
            enqueue(s, s->found_at[node]);
        }
        return;
    }
    if (!bl__states_grow(s, (void **)&s->found, sizeof *s->found, s->n_found, &s->found_room,
                         BL_MAX_FOUND))
        return;
    s->stamps[node] = s->stamp;
    s->found_at[node] = (uint32_t)s->n_found;
    s->found[s->n_found] = (bl__found){.node = node, .set = set};
    enqueue(s, (uint32_t)s->n_found++);
}

/* Goes on over edges of nothing, and over calls that may be empty. */
static void add_empties(bl__states *s, uint32_t node, uint32_t set) {
    for (uint32_t e = s->net->first[node]; e < s->net->first[node + 1]; e++) {
        const bl__net_edge *edge = &s->net->edges[e];
        if (edge->kind == BL_EDGE_EMPTY ||
            (edge->kind == BL_EDGE_CALL && s->net->sites[edge->site].may_skip))
            bl__set_add(s, edge->to, set);
    }
}

/* What was called ends here: it has been run once more. */
static void come_back(bl__states *s, uint32_t frame_index) {
    if (frame_index == 0) {
        s->finds_end = true;
        return;
    }
    const bl__frame frame = s->frames[frame_index];
    const bl__net_site *site = &s->net->sites[frame.site];
    uint32_t count = frame.count + 1;
    if (count >= site->min)
        bl__set_add(s, site->to, frame.below);
    if (site->max == BL_NET_ANY_COUNT && count > site->min)
        count = site->min;
    if (count >= site->max)
        return;
    uint32_t again = bl__find_frame(s, frame.site, count, frame.below);
    if (again && bl__states_grow(s, (void **)&s->pushes, sizeof *s->pushes, s->n_pushes,
                                 &s->push_room, BL_MAX_FOUND))
        s->pushes[s->n_pushes++] = (bl__push){site->start, again};
}

/* Enters the calls that leave a node. */
static void add_calls(bl__states *s, uint32_t node, uint32_t set) {
    for (uint32_t e = s->net->first[node]; e < s->net->first[node + 1] && !s->status; e++) {
        const bl__net_edge *edge = &s->net->edges[e];
        if (edge->kind != BL_EDGE_CALL || s->net->sites[edge->site].max == 0)
            continue;
        const bl__net_site *site = &s->net->sites[edge->site];
        if (bl__net_is_tail(s->net, site)) {
            bl__set_add(s, site->start, set);
            continue;
        }
        uint32_t below = bl__set_within(s, set, s->net->need[site->to]);
        uint32_t frame = below == BL_NET_NONE ? 0 : bl__find_frame(s, edge->site, 0, below);
        if (frame)
            bl__set_add(s, site->start, bl__set_of(s, frame));
    }
}

static int by_node(const void *a, const void *b) {
    const bl__found *x = a, *y = b;
    return (x->node > y->node) - (x->node < y->node);
}

/* What was open before comes back, as far up as it goes. */
static void come_back_all(bl__states *s) {
    while (s->n_queue > 0 && !s->status) {
        const bl__found f = s->found[dequeue(s)];
        add_empties(s, f.node, f.set);
        if (s->net->flags[f.node] & BL_NODE_FINAL)
            for (uint32_t i = 0; i < s->sets[f.set].n && !s->status; i++)
                come_back(s, s->members[s->sets[f.set].first + i]);
    }
}

/* Enters all calls, callers first. Nodes of one order form a ring of empty edges, mostly of one
 * node; its calls wait until all of it is known. */
static void enter_all(bl__states *s) {
    for (uint32_t i = 0; i < s->n_found; i++)
        enqueue(s, i);
    for (size_t i = 0; i < s->n_pushes && !s->status; i++)
        bl__set_add(s, s->pushes[i].node, bl__set_of(s, s->pushes[i].frame));
    while (s->n_queue > 0 && !s->status) {
        uint32_t order = order_of(s, s->queue[0]);
        size_t n_ring = 0;
        while (s->n_queue > 0 && order_of(s, s->queue[0]) == order && !s->status) {
            uint32_t i = dequeue(s);
            if (!s->found[i].is_in_ring && bl__states_grow(s, (void **)&s->ring, sizeof *s->ring,
                                                           n_ring, &s->ring_room, BL_MAX_FOUND)) {
                s->found[i].is_in_ring = true;
                s->ring[n_ring++] = i;
            }
            add_empties(s, s->found[i].node, s->found[i].set);
        }
        for (size_t i = 0; i < n_ring && !s->status; i++)
            add_calls(s, s->found[s->ring[i]].node, s->found[s->ring[i]].set);
    }
}

void bl__set_close(bl__states *s) {
    size_t n_kept = 0;
    come_back_all(s);
    enter_all(s);
    for (size_t i = 0; i < s->n_found && !s->status; i++)
        if (s->net->flags[s->found[i].node] & BL_NODE_HAS_BYTES)
            s->found[n_kept++] = s->found[i];
    s->n_found = n_kept;
    if (s->n_found > 1)
        qsort(s->found, s->n_found, sizeof *s->found, by_node);
}
