/* Private to generate/: sets of places in a network, with what is open at each, as numbered states.
 *
 * A place is a node and the stacks of calls that may be open there. A frame is a call and the set
 * of frames that may lie below it, so that stacks share what they have in common (a
 * graph-structured stack, Tomita 1985) and ambiguity does not multiply them. Frames, sets and
 * states are made once each: what is equal has one number, and the state that a byte leads to is
 * remembered. So the pushdown automaton runs as a finite one that grows as it is used. */
#ifndef BL_GENERATE_GRAMMAR_STACK_H
#define BL_GENERATE_GRAMMAR_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "generate/grammar_net.h"

#define BL_STATE_DEAD    0u         /* no text goes on like that */
#define BL_STATE_UNKNOWN UINT32_MAX /* not computed yet */

typedef struct bl__frame {
    uint32_t site, count; /* a call of the network, and how often its part has been run */
    uint32_t below;       /* set of frames */
    uint32_t depth;       /* calls open at least, this one too; 0: the bottom */
    uint32_t seen;        /* the frame that stands for it in bl__states_as_seen() */
    uint32_t serial;      /* counts frames and sets as they are made */
} bl__frame;

typedef struct bl__frame_set {
    uint32_t first, n;            /* members, in order */
    uint32_t shallowest, deepest; /* depths of members */
    uint32_t seen, serial;
} bl__frame_set;

typedef struct bl__place {
    uint32_t node, set;
} bl__place;

typedef struct bl__state {
    uint32_t first, n; /* places, by node; only those that a byte can leave */
    uint32_t seen;     /* bl__states_as_seen(), or BL_STATE_UNKNOWN */
    int32_t mask;      /* for whoever keeps masks; -1 at first */
    bool may_end;      /* the text is whole here */
} bl__state;

/* Numbers by hash. */
typedef struct bl__hash_table {
    uint32_t *slots; /* [size][2]: a hash, and a number + 1 or 0 */
    size_t size, n;  /* size: a power of 2 */
} bl__hash_table;

/* A node of the set in the making. */
typedef struct bl__found {
    uint32_t node, set;
    bool is_queued, is_in_ring;
} bl__found;

typedef struct bl__push {
    uint32_t node, frame;
} bl__push;

typedef struct bl__states {
    const bl__net *net;
    uint32_t reach; /* bytes that are looked ahead at most */
    bl__frame *frames;
    size_t n_frames, frame_room;
    bl__frame_set *sets; /* 0: the bottom alone */
    size_t n_sets, set_room;
    uint32_t *members; /* frames, of all sets */
    size_t n_members, member_room;
    bl__place *places; /* of all states */
    size_t n_places, place_room;
    bl__state *list;
    size_t n_states, state_room;
    uint32_t *next; /* [state_room][n_classes]: the state a byte leads to, or BL_STATE_UNKNOWN */
    bl__hash_table frame_table, set_table, state_table;
    uint32_t serial;
    /* The set in the making (grammar_close.c). */
    bl__found *found;
    size_t n_found, found_room;
    uint32_t *found_at; /* [n_nodes]: where a node is in found, if its stamp is this set's */
    uint32_t *stamps;   /* [n_nodes] */
    uint32_t stamp;
    uint32_t *queue; /* a heap of found, first the nodes that call others */
    size_t n_queue, queue_room;
    uint32_t *ring; /* of found: nodes with empty edges both ways */
    size_t ring_room;
    bl__push *pushes; /* repetitions to be run once more */
    size_t n_pushes, push_room;
    uint32_t *scratch; /* a set in the making */
    size_t scratch_room;
    bool finds_end;
    uint64_t work;    /* steps taken; whoever looks ahead sets it to 0 */
    bl_status status; /* of the last call: BL_ERR_MEMORY, BL_ERR_LIMIT */
} bl__states;

/* reach: no more bytes than these are looked ahead before bl__states_as_seen() is asked again. */
bl_status bl__states_init(bl__states *s, const bl__net *net, uint32_t reach);
void bl__states_destroy(bl__states *s);

/* The state at the beginning of a text; BL_STATE_DEAD with s->status when memory is short. */
uint32_t bl__states_start(bl__states *s);

/* Computes what bl__states_step() does not know yet. */
uint32_t bl__states_find_step(bl__states *s, uint32_t state, uint8_t byte);

/* The state after one more byte. BL_STATE_DEAD: the byte may not come, or s->status says what went
 * wrong. */
static inline uint32_t bl__states_step(bl__states *s, uint32_t state, uint8_t byte) {
    uint32_t next = s->next[(size_t)state * s->net->n_classes + s->net->class_of[byte]];
    return next != BL_STATE_UNKNOWN ? next : bl__states_find_step(s, state, byte);
}

/* A state from which the same texts of `reach` bytes may come: counts of repetitions that the bytes
 * cannot exhaust are alike. */
uint32_t bl__states_as_seen(bl__states *s, uint32_t state);

/* Whether it is time to forget. */
bool bl__states_are_many(const bl__states *s);
/* Forgets all states but one; returns its new number. With s->status set nothing is forgotten. */
uint32_t bl__states_forget(bl__states *s, uint32_t state);

/* ---- shared by grammar_stack.c and grammar_close.c ---- */

enum {
    BL_MAX_FOUND = 1 << 15,  /* nodes of a set, and repetitions to be run: more is too ambiguous */
    BL_MAX_FRAMES = 1 << 19, /* frames, and sets of them */
    BL_MAX_MEMBERS = 1 << 21,
    BL_MAX_WORK = 1 << 25 /* some 0.1 s */
};

void bl__states_fail(bl__states *s, bl_status status);
/* Counts steps; too many are a failure. */
static inline void bl__states_work(bl__states *s, size_t n_steps) {
    s->work += n_steps;
    if (s->work > BL_MAX_WORK)
        bl__states_fail(s, BL_ERR_LIMIT);
}
/* Makes room for one more element; false, and s->status, when there is none. */
bool bl__states_grow(bl__states *s, void **array, size_t size, size_t n, size_t *room, size_t most);

/* The frame of this content; 0 after a failure. */
uint32_t bl__find_frame(bl__states *s, uint32_t site, uint32_t count, uint32_t below);
/* The set of scratch[n], in order. All sets: BL_NET_NONE after a failure. */
uint32_t bl__find_set(bl__states *s, size_t n);
uint32_t bl__set_of(bl__states *s, uint32_t frame);
uint32_t bl__set_union(bl__states *s, uint32_t a, uint32_t b);
/* The members from which `need` more calls may be open; BL_NET_NONE also when there are none. */
uint32_t bl__set_within(bl__states *s, uint32_t set, uint32_t need);

/* The set in the making: begun, filled with what a byte leads to, and closed: all that can be
 * reached without a byte is added, and what a byte can leave is left in found, by node. */
void bl__set_begin(bl__states *s);
void bl__set_add(bl__states *s, uint32_t node, uint32_t set);
void bl__set_close(bl__states *s);

#endif
